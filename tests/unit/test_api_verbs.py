"""request() and its kin: arguments, 1xx, errors, cancellation at every await, stream()."""

from __future__ import annotations

import asyncio
import gc
import inspect
from typing import Any

import pytest
from tests.unit.api_kit import HOLD, START, FakeDispatcher, Play, data, end, fail, head, info, reply, turns

import dodici
from dodici.api import verbs
from dodici.core.errors import InvalidArgumentError, RequestAbortedError, SocketError
from dodici.core.headers import Headers

URL = "http://h/p"


async def test_request() -> None:
    fake = FakeDispatcher()
    response = await fake.request(URL)
    assert (response.status_code, await response.text()) == (200, "hello")
    assert (fake.options.method, fake.options.origin, fake.options.path) == ("GET", "http://h", "/p")


@pytest.mark.parametrize("method", ["get", "head", "options", "delete", "post", "put", "patch"])
async def test_a_verb_per_method(method: str) -> None:
    fake = FakeDispatcher()
    response = await getattr(dodici, method)(URL, dispatcher=fake, headers={"a": "b"})
    assert fake.options.method == method.upper()
    assert await response.bytes() == b"hello"


async def test_methods_of_a_dispatcher_are_the_same() -> None:
    fake = FakeDispatcher(origin="http://h")
    for url in ("/p?q", "http://h/p?q"):
        for arguments in ({}, {"timeout": 3}, {"headers": {"a": "b"}}):
            await (await fake.request(url, **arguments)).dump()
            assert (fake.options.origin, fake.options.path) == ("http://h", "/p?q")
    with pytest.raises(InvalidArgumentError, match="serves http://h alone"):
        await fake.request("http://other/p")
    with pytest.raises(InvalidArgumentError, match="path alone"):
        await FakeDispatcher().request("/p")


async def test_what_is_remembered_does_not_cross_dispatchers() -> None:
    one, other = FakeDispatcher(origin="http://one"), FakeDispatcher(origin="http://two")
    for _ in range(2):
        for fake in (one, other):
            await (await fake.request("/p")).dump()
            assert fake.options.origin == fake.origin
    await (await FakeDispatcher().request("http://one/p")).dump()
    with pytest.raises(InvalidArgumentError):
        await other.request("http://one/p")


async def test_options_are_remembered_and_not_mixed_up() -> None:
    fake = FakeDispatcher()
    for arguments in (
        {},
        {},
        {"timeout": 1},
        {"timeout": 1},
        {"method": "HEAD"},
        {},
        {"timeout": 2, "reset": True},
    ):
        await (await fake.request(URL, **arguments)).dump()
    options = [play.options for play in fake.plays]
    assert options[0] is options[1] is options[5]
    assert options[2] is options[3]
    assert len({id(each) for each in options}) == 4
    assert (options[6].timeout, options[6].reset, options[0].timeout) == (2, True, None)


async def test_the_global_dispatcher() -> None:
    fake = FakeDispatcher()
    dodici.set_global_dispatcher(fake)
    try:
        assert await (await dodici.get(URL)).bytes() == b"hello"
        assert await (await dodici.request(URL, json=1)).bytes() == b"hello"
        async with dodici.stream("GET", URL) as response:
            assert await response.bytes() == b"hello"
    finally:
        dodici.set_global_dispatcher(None)
    assert len(fake.plays) == 3


def test_a_call_alone_does_nothing() -> None:
    for arguments in ({}, {"json": object()}):
        coroutine = verbs.request("not a url", **arguments)  # type: ignore[arg-type]
        assert inspect.iscoroutine(coroutine)
        coroutine.close()


async def test_unknown_arguments_are_type_errors() -> None:
    fake = FakeDispatcher()
    for call in (dodici.request, dodici.get, dodici.upgrade):
        with pytest.raises(TypeError, match="colour"):
            call(URL, dispatcher=fake, colour="red")
    with pytest.raises(TypeError, match="colour"):
        fake.request(URL, colour="red")
    with pytest.raises(TypeError, match="colour"):
        fake.stream("GET", URL, colour="red")
    assert not fake.plays


@pytest.mark.parametrize(
    "arguments", [{"timeout": -1}, {"method": "A B"}, {"body": b"", "json": 1}, {"method": "CONNECT"}]
)
async def test_argument_errors_are_raised_before_anything_is_sent(arguments: Any) -> None:
    fake = FakeDispatcher()
    with pytest.raises(InvalidArgumentError):
        await fake.request(URL, **arguments)
    assert not fake.plays


async def test_informational_heads() -> None:
    seen: list[Any] = []
    script = [START, info(103, {"link": "a"}), info(102), *reply(b"x")[1:]]
    fake = FakeDispatcher(script)
    response = await fake.request(URL, on_info=lambda status, headers: seen.append((status, headers)))
    assert seen == [(103, Headers({"link": "a"})), (102, Headers())]
    assert (response.status_code, await response.bytes()) == (200, b"x")
    assert (await fake.request(URL)).status_code == 200


async def test_on_info_that_raises() -> None:
    def on_info(status: int, headers: Headers) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await FakeDispatcher([START, info(103), *reply()[1:]]).request(URL, on_info=on_info)


async def test_errors_before_the_head() -> None:
    error = SocketError("refused")
    with pytest.raises(SocketError) as caught:
        await FakeDispatcher([fail(error)]).request(URL)
    assert caught.value is error
    assert caught.value.__context__ is None


async def test_an_error_right_behind_the_head_belongs_to_the_body() -> None:
    fake = FakeDispatcher()

    def dispatch(options: Any, handler: Any) -> bool:
        FakeDispatcher.dispatch(fake, options, handler)
        exchange = fake.plays[-1].exchange
        handler.on_response_start(exchange, 200, Headers(), "OK")
        exchange.fail(SocketError("gone"))
        return True

    fake.dispatch = dispatch  # type: ignore[method-assign]
    response = await fake.request(URL)
    with pytest.raises(SocketError):
        await response.bytes()


async def test_a_refusal_inside_dispatch() -> None:
    from dodici.core.controller import refuse

    fake = FakeDispatcher()
    fake.dispatch = lambda options, handler: refuse(handler, SocketError("closed"))  # type: ignore[method-assign]
    with pytest.raises(SocketError, match="closed"):
        await fake.request(URL)


async def test_what_dispatch_raises_is_raised() -> None:
    fake = FakeDispatcher()

    def dispatch(options: Any, handler: Any) -> bool:
        raise InvalidArgumentError("no")

    fake.dispatch = dispatch  # type: ignore[method-assign]
    with pytest.raises(InvalidArgumentError):
        await fake.request(URL)


async def test_a_handler_passes_for_one() -> None:
    from dodici.api.receiver import Receiver
    from dodici.api.upgrades import UpgradeHandler
    from dodici.core.handler import Handler, check_handler
    from dodici.core.options import DispatchOptions

    loop = asyncio.get_running_loop()
    receiver = Receiver(loop, DispatchOptions(), None)
    check_handler(receiver, False)
    assert isinstance(receiver, Handler)
    check_handler(UpgradeHandler(loop, lambda status, reason: "", None), True)


# -- cancellation


async def whole(fake: FakeDispatcher) -> None:
    response = await fake.request(URL)
    await response.bytes()


async def iterated(fake: FakeDispatcher) -> None:
    response = await fake.request(URL, json=1)
    async for _ in response:
        pass


async def streamed(fake: FakeDispatcher) -> None:
    async with fake.stream("GET", URL) as response:
        async for _ in response:
            await asyncio.sleep(0)


async def dumped(fake: FakeDispatcher) -> None:
    await (await fake.request(URL)).dump()


async def refused(fake: FakeDispatcher) -> None:
    await fake.request(URL, raise_for_status=True)


SCRIPT = [START, info(103), head(500), data(b"1"), data(b"2" * 100_000), data(b"3"), end()]


@pytest.mark.parametrize("scenario", [whole, iterated, streamed, dumped, refused])
@pytest.mark.parametrize("early", [True, False])
async def test_cancelled_after_any_number_of_turns(scenario: Any, early: bool) -> None:
    problems: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    cut = 0
    for count in range(40):
        fake = FakeDispatcher(SCRIPT, early=early)
        task = asyncio.ensure_future(scenario(fake))
        await turns(count)
        finished = task.done()
        task.cancel()
        await asyncio.wait([task])
        if not finished and not task.cancelled():
            # It ended in the very turn of its cancellation.
            task.exception()
        if task.cancelled() and fake.plays:
            cut += 1
            play = fake.plays[0]
            await turns(2)
            assert play.exchange.done, count
            assert play.exchange.aborted or not play.steps
        elif task.done() and not task.cancelled():
            task.exception()
        del task
        gc.collect()
    assert cut > 3
    assert not problems


@pytest.mark.parametrize("script", [[HOLD], [START, HOLD], [START, info(103), HOLD]])
async def test_cancelled_before_the_head_aborts_at_once(script: Any) -> None:
    fake = FakeDispatcher(script)
    task = asyncio.ensure_future(fake.request(URL))
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert isinstance(fake.plays[0].aborted_with, RequestAbortedError)


async def test_cancelled_before_there_is_a_controller() -> None:
    fake = FakeDispatcher([HOLD, START, HOLD], early=False)
    task = asyncio.ensure_future(fake.request(URL))
    await turns()
    task.cancel()
    await asyncio.wait([task])
    play = fake.plays[0]
    assert play.aborted_with is None
    play.go()
    await turns()
    assert play.aborted_with is not None


async def test_cancelled_between_the_head_and_the_wake_up() -> None:
    fake = FakeDispatcher([START, HOLD])
    task = asyncio.ensure_future(fake.request(URL))
    await turns()
    exchange = fake.plays[0].exchange
    exchange.handler.on_response_start(exchange, 200, Headers(), "OK")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert exchange.aborted


async def test_cancelled_between_an_error_and_the_wake_up() -> None:
    fake = FakeDispatcher([START, HOLD])
    task = asyncio.ensure_future(fake.request(URL))
    await turns()
    fake.plays[0].exchange.fail(SocketError("gone"))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("script", [[START, HOLD], [START, head(), data(b"1"), HOLD]])
async def test_timeout_of_asyncio(script: Any) -> None:
    fake = FakeDispatcher(script)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            response = await fake.request(URL)
            await response.bytes()
    assert fake.plays[0].aborted_with is not None


async def test_a_closed_coroutine_aborts() -> None:
    fake = FakeDispatcher([START, HOLD])
    coroutine = fake.request(URL)
    coroutine.send(None)
    coroutine.close()
    assert fake.plays[0].aborted_with is not None


# -- stream


async def test_stream() -> None:
    fake = FakeDispatcher([START, head(), data(b"a"), data(b"b"), end()])
    async with fake.stream("POST", URL, body=b"x") as response:
        assert [chunk async for chunk in response] == [b"a", b"b"]
    assert fake.options.method == "POST"
    assert fake.plays[0].aborted_with is None


async def left(fake: FakeDispatcher, *, read: bool = False, error: bool = False) -> Play:
    async with fake.stream("GET", URL) as response:
        if read:
            await anext(response.body)
        if error:
            raise ZeroDivisionError
    return fake.plays[0]


async def test_leaving_a_stream_early_aborts() -> None:
    script = [START, head(), data(b"a"), HOLD]
    assert (await left(FakeDispatcher(script))).aborted_with is not None
    assert (await left(FakeDispatcher(script), read=True)).aborted_with is not None
    fake = FakeDispatcher(script)
    with pytest.raises(ZeroDivisionError):
        await left(fake, error=True)
    assert fake.plays[0].aborted_with is not None


async def test_leaving_a_stream_whose_body_has_arrived_does_not() -> None:
    fake = FakeDispatcher(reply(b"x"))
    async with fake.stream("GET", URL):
        await turns()
    assert fake.plays[0].aborted_with is None


async def test_stream_refuses_arguments_when_called() -> None:
    for arguments in ({"timeout": -1}, {"body": b"", "json": 1}):
        with pytest.raises(InvalidArgumentError):
            FakeDispatcher().stream("GET", URL, **arguments)
    for method in ("CONNECT", 3, "A B"):
        with pytest.raises(InvalidArgumentError):
            FakeDispatcher().stream(method, URL)  # type: ignore[arg-type]


async def test_stream_options() -> None:
    seen: list[int] = []
    fake = FakeDispatcher([START, info(103), *reply(b"no", 500)[1:]])
    with pytest.raises(dodici.ResponseError, match="500"):
        async with fake.stream(
            "GET", URL, raise_for_status=True, on_info=lambda status, _: seen.append(status)
        ):
            pass
    assert seen == [103]
