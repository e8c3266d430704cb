"""What a client says that is bare frames: right ones, wrong ones, and ones that come in the middle of other calls."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from tests.collective.grpc_server.server_kit import Raw, Serving, head, message, raw, serving
from tests.wire.h2.frames_kit import (
    Frame,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    push_promise,
    rst_stream,
    settings,
    window_update,
)

from dodici.collective.errors import CollectiveError
from dodici.collective.grpc_server import ServerCall, stream_stream
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus
from dodici.wire.h2.frames import GOAWAY, PING, SETTINGS, ErrorCode


async def status(client: Raw, stream: int) -> tuple[int | None, str]:
    answer = await client.answer(stream)
    return answer.status, answer.fields.get(b"grpc-message", b"").decode()


# -- cancellation ------------------------------------------------------------------------------------------------


async def begun(running: Serving, client: Raw, phase: str) -> None:
    """Bring a call on stream 1 so far."""
    methods = running.methods
    if phase == "head":
        client.send(headers(1, head("echo")))
    elif phase == "half a message":
        client.send(headers(1, head("echo")), data(1, message(b"abc")[:-1]))
    elif phase == "running":
        client.call(1, "hold", b"h")
        await methods.note("h started").wait()
    elif phase == "sending":
        client.call(1, "total", b"h", end=False)
        await methods.note("total reads").wait()
    elif phase == "answering":
        client.call(1, "repeat", b"100 100000")
        while not (1 in client.answers and client.answers[1].body):
            await client.frame()
    elif phase == "held back":
        client.send(headers(1, head("slow")), *[data(1, message(bytes(16_000))) for _ in range(40)])
        await methods.note("slow reads").wait()
    client.send(ping())
    await client.until(PING)


async def test_input_that_ends_just_before_it_is_reset_is_not_whole() -> None:
    """As Node cancels a stream."""
    async with serving() as running, raw(running.address) as client:
        await begun(running, client, "sending")
        [connection] = running.connections
        client.send(data(1, b"", end=True))
        while not connection.engine.streams[1]._input_over:
            await asyncio.sleep(0)
        client.send(rst_stream(1, ErrorCode.CANCEL))
        await running.methods.note("total over").wait()
        assert not running.methods.note("total ends").is_set()
        await running.idle()


PHASES = ["head", "half a message", "running", "sending", "answering", "held back"]


@pytest.mark.parametrize("phase", PHASES)
async def test_a_reset_ends_the_call(phase: str) -> None:
    async with serving() as running, raw(running.address) as client:
        await begun(running, client, phase)
        client.send(rst_stream(1))
        await running.idle()
        assert not running.methods.note("total ends").is_set()
        client.call(3, "echo", b"x")
        assert (await client.answer(3)).body == message(b"x")


@pytest.mark.parametrize("end", ["closed", "reset", "broken"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_connection_that_ends_takes_its_calls_with_it(phase: str, end: str) -> None:
    async with serving() as running, raw(running.address) as client:
        await begun(running, client, phase)
        if end == "closed":
            client.writer.close()
        elif end == "reset":
            client.writer.transport.abort()
        else:
            client.send(frame(9, 0, 1, b"x"))
            await client.goodbye()
        async with asyncio.timeout(10):
            await running.empty()
            await running.idle()
        assert not running.methods.note("total ends").is_set()
        assert running.methods.running == 0


async def test_a_client_that_never_cancels_is_told_of_its_deadline() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "hold", b"h", (b"grpc-timeout", b"100m"))
        client.call(3, "total", b"h", (b"grpc-timeout", b"100m"), end=False)
        client.call(5, "stubborn", b"h", (b"grpc-timeout", b"100m"))
        client.send(headers(7, head("echo", (b"grpc-timeout", b"100m"))))
        for stream in (1, 3, 5, 7):
            assert (await status(client, stream))[0] == GrpcStatus.DEADLINE_EXCEEDED
        assert running.methods.note("h cancelled").is_set()
        await running.methods.note("stubborn cancelled").wait()
        running.methods.note("go").set()
        await running.idle()


async def test_what_a_client_does_not_read_is_dropped_after_its_deadline() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "repeat", b"100 100000", (b"grpc-timeout", b"100m"))
        answer = await client.answer(1)
        assert answer.code == ErrorCode.CANCEL
        await running.idle()
        assert running.methods.written <= 300_000


async def test_a_handler_is_cancelled_once() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "stubborn", b"h", (b"grpc-timeout", b"10m"))
        await running.methods.note("stubborn cancelled").wait()
        client.send(rst_stream(1))
        client.send(ping())
        await client.until(PING)
        client.writer.close()
        await running.empty()
        assert running.methods.running == 1
        running.methods.note("go").set()
        await running.idle()


async def test_calls_leave_nothing_for_the_garbage_collector() -> None:
    def alive() -> int:
        return sum(type(each) is ServerCall for each in gc.get_objects())

    async with serving() as running, raw(running.address) as client:
        gc.collect()
        gc.disable()
        try:
            stream = 1
            for name in ("echo", "fail", "total", "chat", "early", "nothing"):
                client.call(stream, name, b"{}")
                await client.answer(stream)
                stream += 2
            for name, end in (("hold", True), ("total", False), ("chat", False), ("echo", False)):
                client.call(stream, name, b"h", end=end)
                client.send(rst_stream(stream), ping())
                await client.until(PING)
                stream += 2
            client.call(stream, "hold", b"h", (b"grpc-timeout", b"1m"))
            await client.answer(stream)
            await running.idle()
            assert alive() == 0
        finally:
            gc.enable()


async def test_a_call_has_one_writer_and_none_after_its_end() -> None:
    async with serving() as running, raw(running.address) as client:
        told: list[BaseException] = []
        over = asyncio.Event()

        async def write(requests: Any, call: ServerCall) -> None:
            first = asyncio.create_task(call.write(bytes(200_000)))
            await asyncio.sleep(0)
            try:
                await call.write(b"")
            except InvalidArgumentError as error:
                told.append(error)
            running.methods.note("told").set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await first
                try:
                    await call.write(b"")
                except CollectiveError as error:
                    told.append(error)
                over.set()
                raise

        running.face._handlers["/t/write"] = stream_stream(write)
        client.call(1, "write")
        await running.methods.note("told").wait()
        client.send(rst_stream(1))
        await over.wait()
        assert "one writer" in str(told[0])
        assert getattr(told[1], "grpc_status", None) == GrpcStatus.CANCELLED


# -- the connection ----------------------------------------------------------------------------------------------

WRONG = {
    "GOAWAY on a stream": goaway(0)[:5] + b"\0\0\0\1" + goaway(0)[9:],
    "DATA on an idle stream": data(9, b"x"),
    "DATA on stream 0": data(0, b"x"),
    "an even stream": headers(2, head("echo")),
    "PUSH_PROMISE": push_promise(1, 2),
    "CONTINUATION alone": continuation(1, b""),
    "a block that is interrupted": headers(3, head("echo"), whole=False) + ping(),
    "HPACK that is none": headers(3, b"\xff\xff\xff\xff\xff\xff\xff"),
    "a frame that is too long": frame(0, 0, 1, bytes(16_385)),
    "a window beyond its limit": window_update(0, 2**31 - 1),
    "WINDOW_UPDATE of 0": window_update(0, 0),
    "PING of 7": frame(PING, 0, 0, bytes(7)),
    "SETTINGS of 5": frame(SETTINGS, 0, 0, bytes(5)),
    "SETTINGS with a wrong value": settings((4, 2**31)),
    "RST_STREAM on an idle stream": rst_stream(9),
    "PRIORITY on stream 0": priority(0),
    "an HTTP/1 request": b"GET / HTTP/1.1\r\nhost: t\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG)
async def test_frames_that_are_wrong_end_the_connection_and_its_calls(name: str) -> None:
    async with serving() as running, raw(running.address) as client, raw(running.address) as other:
        other.call(1, "hold", b"other")
        await running.methods.note("other started").wait()
        await begun(running, client, "running")
        client.send(WRONG[name])
        last, code = await client.goodbye()
        assert (last, code != ErrorCode.NO_ERROR) == (1 if "interrupted" not in name else last, True)
        await running.methods.note("h cancelled").wait()
        running.methods.note("go").set()
        assert (await other.answer(1)).body == message(b"other")


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\nhost: t\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nXX",
        b"\n",
    ],
    ids=["HTTP/1", "TLS", "zeros", "almost", "newline"],
)
async def test_what_is_no_http2(wire: bytes) -> None:
    async with serving() as running, raw(running.address, greet=False) as client:
        client.send(wire)
        assert (await client.goodbye())[1] == ErrorCode.PROTOCOL_ERROR
        await running.empty()


async def test_a_flood_ends_the_connection() -> None:
    async with serving() as running, raw(running.address) as client:
        client.send(ping() * 5000)
        assert (await client.goodbye())[1] == ErrorCode.ENHANCE_YOUR_CALM
        await running.empty()


async def test_a_client_that_says_goodbye_still_has_its_answers() -> None:
    async with serving() as running, raw(running.address) as client:
        await begun(running, client, "running")
        client.send(goaway(0))
        running.methods.note("go").set()
        assert (await client.answer(1)).body == message(b"h")


async def test_frames_of_the_connection_are_answered_in_the_middle_of_calls() -> None:
    async with serving() as running, raw(running.address) as client:
        await begun(running, client, "running")
        client.send(priority(1), frame(0xAB, 0, 1, b"?"), settings((4, 1)), ping(b"87654321"))
        assert (await client.until(PING)).payload == b"87654321"
        running.methods.note("go").set()
        while 1 not in client.answers or not client.answers[1].ended:
            got: Frame | None = await client.frame()
            assert got is not None
            assert got.kind != GOAWAY
            if got.kind == 0:
                assert len(got.payload) == 1
                client.send(window_update(1, 1))
        assert client.answers[1].body == message(b"h")
