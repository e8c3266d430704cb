"""Start-up and shutdown of an app: who has a lifespan, what fails, and that each happens once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.mesh.apps import raw_asgi

from dodici.core.errors import InvalidArgumentError, WorkerStartError
from dodici.mesh.lifespan import Lifespan


def names_of_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def test_startup_gives_the_state_and_shutdown_ends_the_app(caplog: pytest.LogCaptureFixture) -> None:
    app = raw_asgi.Service("hi")
    lifespan = Lifespan(app)
    assert await lifespan.startup() == {"greeting": "hi"}
    assert lifespan.supported
    assert app.events == ["startup"]
    await lifespan.shutdown()
    assert app.events == ["startup", "shutdown"]
    assert names_of_tasks() == set()
    assert caplog.records == []


async def test_an_app_may_end_by_being_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise asyncio.CancelledError

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    assert caplog.records == []


async def test_shutdown_runs_once_however_often_it_is_called() -> None:
    app = raw_asgi.Service()
    lifespan = Lifespan(app)
    await lifespan.startup()
    await asyncio.gather(lifespan.shutdown(), lifespan.shutdown(), lifespan.shutdown())
    await lifespan.shutdown()
    assert app.events == ["startup", "shutdown"]


async def test_a_cancelled_shutdown_goes_on() -> None:
    release = asyncio.Event()
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await release.wait()
        ended.set()
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app)
    await lifespan.startup()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lifespan.shutdown()
    release.set()
    await lifespan.shutdown()
    assert ended.is_set()


async def test_auto_takes_an_app_that_raises_for_one_without_lifespan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lifespan = Lifespan(raw_asgi.app)
    assert await lifespan.startup() == {}
    assert not lifespan.supported
    await lifespan.shutdown()
    assert caplog.records == []


async def test_auto_warns_of_an_app_that_raises_after_it_was_asked_to_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        message["body"]

    lifespan = Lifespan(app, name="shop.api:app")
    assert await lifespan.startup() == {}
    assert "shop.api:app raised in its lifespan's start-up" in caplog.text
    assert "KeyError: 'body'" in caplog.text


async def test_auto_takes_an_app_that_returns_or_answers_otherwise_for_one_without_lifespan() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    async def http_only(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for app in (silent, http_only):
        lifespan = Lifespan(app)
        assert await lifespan.startup() == {}
        assert not lifespan.supported
        await lifespan.shutdown()


async def test_on_asks_for_a_lifespan() -> None:
    with pytest.raises(WorkerStartError, match=r'raised NotImplementedError .* lifespan="on"') as caught:
        await Lifespan(raw_asgi.app, "on").startup()
    assert "NotImplementedError: lifespan" in caught.value.remote_traceback
    assert isinstance(caught.value.__cause__, NotImplementedError)

    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(WorkerStartError, match="returned without an answer"):
        await Lifespan(silent, "on").startup()


async def test_off_does_not_ask() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("asked")

    lifespan = Lifespan(app, "off")
    assert await lifespan.startup() == {}
    await lifespan.shutdown()


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_startup_failed_is_an_error_with_its_message(mode: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("frameworks raise after it, too")

    lifespan = Lifespan(app, mode, name="shop.api:app")
    with pytest.raises(WorkerStartError, match=r"start-up of shop.api:app failed: no database"):
        await lifespan.startup()
    await lifespan.shutdown()
    assert names_of_tasks() == set()


async def test_a_framework_sends_its_traceback_as_the_message() -> None:
    from starlette.applications import Starlette

    async def broken(app: Any) -> Any:
        raise ConnectionError("no database at 10.0.0.9")
        yield

    import contextlib

    app = Starlette(lifespan=contextlib.asynccontextmanager(broken))
    with pytest.raises(WorkerStartError, match="failed: ConnectionError: no database at") as caught:
        await Lifespan(app).startup()
    assert 'raise ConnectionError("no database at 10.0.0.9")' in caught.value.remote_traceback


async def test_a_cancelled_startup_cancels_the_app() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Lifespan(app).startup()
    assert cancelled.is_set()
    assert names_of_tasks() == set()


async def test_a_shutdown_that_takes_too_long_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    lifespan = Lifespan(app, shutdown_timeout=0.01, name="shop.api:app")
    await lifespan.startup()
    await lifespan.shutdown()
    assert cancelled.is_set()
    assert "shutdown of shop.api:app took more than 0.01 s and was cancelled" in caplog.text


async def test_a_failed_shutdown_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the cache was not written"})
        raise RuntimeError("frameworks raise after it, too")

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "shutdown of the app failed: the cache was not written"
    ]


async def test_an_app_that_dies_later_is_logged_and_shut_down_without_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    die = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await die.wait()
        raise OSError("the connection pool is lost")

    lifespan = Lifespan(app)
    await lifespan.startup()
    die.set()
    async with asyncio.timeout(1):
        while not caplog.records:
            await asyncio.sleep(0)
        await lifespan.shutdown()
    assert "lifespan of the app ended with an error" in caplog.text
    assert "OSError: the connection pool is lost" in caplog.text


async def test_messages_out_of_place_are_errors_in_the_app(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for kind in ("lifespan.shutdown.complete", "lifespan.startup.complete", "lifespan.startup.complete"):
            try:
                await send({"type": kind})
            except RuntimeError as error:
                raised.append(str(error))
        await receive()

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    assert raised == [
        "ASGI: 'lifespan.shutdown.complete' cannot be sent here in a lifespan",
        "ASGI: 'lifespan.startup.complete' cannot be sent twice in a lifespan",
    ]


async def test_what_is_opened_in_startup_is_closed_in_the_same_task() -> None:
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        tasks.append(asyncio.current_task())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tasks.append(asyncio.current_task())
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app)
    await asyncio.create_task(lifespan.startup())
    await asyncio.create_task(lifespan.shutdown())
    assert tasks[0] is tasks[1] is not None


def test_refuses_other_modes() -> None:
    with pytest.raises(InvalidArgumentError, match='lifespan must be "auto", "on" or "off", not True'):
        Lifespan(raw_asgi.app, True)  # type: ignore[arg-type]
