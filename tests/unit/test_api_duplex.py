"""pipeline(): writing and reading at the same time."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from tests.unit.api_kit import HOLD, START, FakeDispatcher, Play, data, end, fail, head, turns

import dodici
from dodici.api.duplex import Feed
from dodici.core.errors import (
    BodyUnusableError,
    InvalidArgumentError,
    RequestAbortedError,
    ResponseError,
    SocketError,
)

URL = "http://h/echo"


class Server:
    """Reads the request body of a held exchange, and answers each piece in capitals."""

    def __init__(self, fake: FakeDispatcher) -> None:
        self.fake = fake
        self.got: list[bytes] = []

    @property
    def play(self) -> Play:
        return self.fake.plays[-1]

    async def read(self, count: int | None = None) -> None:
        body = aiter(self.play.options.body)
        while count is None or count > 0:
            try:
                piece = await anext(body)
            except StopAsyncIteration:
                return
            self.got.append(piece)
            count = None if count is None else count - 1

    async def echo(self) -> None:
        self.play.go(head(200, {"x": "y"}), HOLD)
        async for piece in self.play.options.body:
            self.got.append(piece)
            await turns(3)
            self.play.go(data(piece.upper()), HOLD)
        await turns(3)
        self.play.go(end())


def held() -> tuple[FakeDispatcher, Server]:
    fake = FakeDispatcher([START, HOLD])
    return fake, Server(fake)


async def test_echo() -> None:
    fake, server = held()
    async with fake.pipeline(URL, headers={"a": "b"}) as duplex:
        await turns()
        serving = asyncio.ensure_future(server.echo())
        await duplex.write(b"one")
        await duplex.write("zwei")
        await duplex.write(bytearray(b"3"))
        await duplex.write(b"")
        await duplex.end()
        await duplex.end()
        response = await duplex.response
        assert response.status_code == 200
        assert await duplex.response is response
        assert [chunk async for chunk in duplex] == [b"ONE", b"ZWEI", b"3"]
        await serving
    assert server.got == [b"one", b"zwei", b"3"]
    assert (fake.options.method, fake.options.fields["a"]) == ("POST", "b")
    assert server.play.aborted_with is None


async def test_ping_pong_in_one_task() -> None:
    fake, server = held()
    async with dodici.pipeline(URL, method="PUT", dispatcher=fake) as duplex:
        await turns()
        serving = asyncio.ensure_future(server.echo())
        body = aiter(duplex)
        for word in (b"a", b"b", b"c"):
            await duplex.write(word)
            assert await anext(body) == word.upper()
        await duplex.end()
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        await serving
    assert fake.options.method == "PUT"


async def test_write_waits_for_the_transport() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:
        await asyncio.wait_for(duplex.write(b"1"), 1)
        second = asyncio.ensure_future(duplex.write(b"2"))
        await turns()
        assert not second.done()
        await server.read(1)
        await asyncio.wait_for(second, 1)
        third = asyncio.ensure_future(duplex.write(b"3"))
        fourth = asyncio.ensure_future(duplex.write(b"4"))
        await turns()
        assert not third.done()
        await server.read(3)
        await asyncio.wait([third, fourth])
        assert server.got == [b"1", b"2", b"3", b"4"]


async def test_leaving_early_aborts() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:
        await duplex.write(b"1")
    assert isinstance(server.play.aborted_with, RequestAbortedError)
    await server.read()
    assert server.got == []
    with pytest.raises(RequestAbortedError):
        await duplex.response
    with pytest.raises((RequestAbortedError, BodyUnusableError)):
        await duplex.write(b"2")


async def test_an_exception_passes() -> None:
    fake, server = held()
    with pytest.raises(ZeroDivisionError):
        async with fake.pipeline(URL):
            raise ZeroDivisionError
    assert server.play.aborted_with is not None


async def test_a_failure_reaches_writer_and_reader() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:
        await duplex.write(b"1")
        writing = asyncio.ensure_future(duplex.write(b"2"))
        reading = asyncio.ensure_future(anext(aiter(duplex)))
        await turns()
        server.play.go(fail(SocketError("gone")))
        for task in (writing, reading):
            with pytest.raises(SocketError, match="gone"):
                await task
        with pytest.raises(SocketError):
            await duplex.response


async def test_a_response_that_ends_first() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:
        await duplex.write(b"1")
        writing = asyncio.ensure_future(duplex.write(b"2"))
        await turns()
        server.play.go(head(413), end())
        with pytest.raises(BodyUnusableError, match="response has ended"):
            await writing
        assert (await duplex.response).status_code == 413


async def test_raise_for_status() -> None:
    fake = FakeDispatcher([START, head(500), data(b"broken"), end()])
    async with fake.pipeline(URL, raise_for_status=True) as duplex:
        with pytest.raises(ResponseError, match="500") as caught:
            await duplex.response
        assert caught.value.body == "broken"


async def test_refused_arguments() -> None:
    fake = FakeDispatcher()
    for name in ("body", "data", "json", "form", "files"):
        with pytest.raises(InvalidArgumentError, match=f"{name}= has no place"):
            fake.pipeline(URL, **{name: None})
    with pytest.raises(InvalidArgumentError):
        fake.pipeline(URL, method="CONNECT")
    with pytest.raises(TypeError):
        fake.pipeline(URL, colour="red")
    async with fake.pipeline(URL) as duplex:
        for piece in (3, None, [b"x"]):
            with pytest.raises(InvalidArgumentError, match="bytes or str"):
                await duplex.write(piece)
        await duplex.end()
        with pytest.raises(InvalidArgumentError, match=r"after end\(\)"):
            await duplex.write(b"x")


async def test_entered_once() -> None:
    context = FakeDispatcher().pipeline(URL)
    async with context:
        with pytest.raises(BodyUnusableError):
            await context.__aenter__()


async def test_a_response_that_nobody_awaits_is_silent() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:
        assert duplex.response is not None
        await turns()
        server.play.go(fail(SocketError("gone")))
        await turns()
    gc.collect()


async def test_one_of_two_waiters_for_the_head_is_cancelled() -> None:
    fake, server = held()
    async with fake.pipeline(URL) as duplex:

        async def wait() -> Any:
            return await duplex.response

        one, other = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await turns()
        one.cancel()
        await asyncio.wait([one, other])
        assert one.cancelled()
        with pytest.raises(RequestAbortedError):
            other.result()
    assert server.play.aborted_with is not None


async def scenario(fake: FakeDispatcher, server: Server) -> None:
    async with fake.pipeline(URL) as duplex:
        serving = asyncio.ensure_future(server.echo())
        try:
            await duplex.write(b"1")
            await duplex.write(b"2")
            await duplex.write(b"3")
            await duplex.end()
            async for _ in duplex:
                pass
            await serving
        finally:
            serving.cancel()


async def test_cancelled_after_any_number_of_turns() -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    outcomes = set()
    for count in range(60):
        fake, server = held()
        task = asyncio.ensure_future(scenario(fake, server))
        await turns(count)
        task.cancel()
        await asyncio.wait([task])
        await turns(3)
        outcomes.add(task.cancelled())
        if not task.cancelled():
            assert task.exception() is None
        if fake.plays:
            assert fake.plays[0].exchange.done
        gc.collect()
    assert outcomes == {True, False}
    assert not problems


async def test_feed_close_wakes_its_reader() -> None:
    feed = Feed()
    reading = asyncio.ensure_future(anext(feed))
    await turns()
    await feed.aclose()
    with pytest.raises(StopAsyncIteration):
        await reading
    assert await feed.put(b"x") is False
