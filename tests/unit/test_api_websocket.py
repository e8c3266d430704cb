"""An open WebSocket: back pressure, cancellation, several tasks, pings, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
import zlib
from typing import Any

import pytest
from tests.peers.kit import now, virtual
from tests.unit.websocket_kit import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    channel,
    close,
    frame,
    make,
    peer,
    text,
)

from dodici import InvalidArgumentError, WebSocketClosedError, WebSocketError
from dodici.api._websocket_frames import HIGH_WATER


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- reading -----------------------------------------------------------------------------------------------


async def test_reading_stops_while_messages_wait() -> None:
    async with channel() as (ws, transport):
        message = frame(BINARY, bytes(16 * 1024))
        for _ in range(3):
            transport.feed(message)
        assert not transport.paused
        transport.feed(message)
        assert transport.paused
        await ws.receive()
        assert transport.paused
        await ws.receive()
        await ws.receive()
        assert not transport.paused


async def test_small_messages_count_too() -> None:
    async with channel() as (ws, transport):
        transport.feed(text("") * 255)
        assert not transport.paused
        transport.feed(text(""))
        assert transport.paused
        # What is read by then is not parsed before there is room.
        transport.feed(text("x") * 255, frame(PING, b"later"))
        assert transport.frames() == []
        assert [await ws.receive() for _ in range(256)] == [""] * 256
        assert transport.frames() == [Frame(PONG, b"later")]
        assert [await ws.receive() for _ in range(255)] == ["x"] * 255
        assert not transport.paused


async def test_a_message_larger_than_the_mark() -> None:
    async with channel() as (ws, transport):
        transport.feed(frame(BINARY, bytes(1 << 20)))
        assert transport.paused
        assert len(await ws.receive()) == 1 << 20
        assert not transport.paused


async def test_what_inflates_is_bounded() -> None:
    compressor = zlib.compressobj(wbits=-15)
    bomb = (compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with channel(deflate="permessage-deflate; server_no_context_takeover") as (ws, transport):
        count = 100
        transport.feed(frame(BINARY, bomb, rsv=4) * count)
        assert transport.paused
        waiting = ws._channel._messages  # type: ignore[attr-defined]
        assert 1 <= len(waiting) <= 5
        for _ in range(count):
            assert len(await ws.receive()) == 1 << 20
            assert len(waiting) <= 5
        assert not transport.paused


async def test_pings_from_a_peer_that_does_not_read() -> None:
    async with channel() as (ws, transport):
        transport.protocol.pause_writing()
        ping = frame(PING, bytes(125))
        for _ in range(1000):
            transport.feed(ping)
        assert transport.paused
        assert len(transport.written) < 70_000
        answered = len(transport.frames())
        transport.protocol.resume_writing()
        assert answered + len(transport.frames()) == 1000
        assert not transport.paused
        transport.feed(text("go on"))
        assert await ws.receive() == "go on"


async def test_pings_from_a_peer_that_goes_away() -> None:
    async with channel() as (ws, transport):
        transport.protocol.pause_writing()
        for _ in range(1000):
            transport.feed(frame(PING, bytes(125)))
        assert transport.paused
        transport.lose(ConnectionResetError("reset"))
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert caught.value.close_code == 1006


async def test_a_cancelled_receive_loses_nothing() -> None:
    got = []
    async with channel() as (ws, transport):
        for number in range(12):
            task = asyncio.create_task(ws.receive())
            await turns(number % 4)
            transport.feed(text(str(number)))
            await turns(number % 3)
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                pass
        transport.feed(close())
        got.extend([message async for message in ws])
    assert got == [str(number) for number in range(12)]


async def test_two_that_receive() -> None:
    async with channel() as (ws, transport):
        first = asyncio.create_task(ws.receive())
        await turns()
        with pytest.raises(WebSocketError, match="another task is receiving"):
            await ws.receive()
        with pytest.raises(WebSocketError, match="another task is receiving"):
            await anext(aiter(ws))
        transport.feed(text("x"))
        assert await first == "x"


# -- sending -----------------------------------------------------------------------------------------------


async def test_sending_waits_for_room() -> None:
    async with channel() as (ws, transport):
        transport.protocol.pause_writing()
        tasks = [asyncio.create_task(ws.send(str(number))) for number in range(5)]
        await turns()
        assert transport.frames() == []
        tasks[2].cancel()
        await turns()
        transport.protocol.resume_writing()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [each.data for each in transport.frames()] == [b"0", b"1", b"3", b"4"]
        assert tasks[2].cancelled()


async def test_messages_do_not_interleave() -> None:
    async with channel() as (ws, transport):
        go_on = asyncio.Event()

        async def slow() -> Any:
            yield "a"
            await go_on.wait()
            yield "b"

        first = asyncio.create_task(ws.send(slow()))
        await turns()
        others = [asyncio.create_task(ws.send(f"other {number}")) for number in range(3)]
        transport.feed(frame(PING, b"p"))
        await turns()
        go_on.set()
        await asyncio.gather(first, *others)
        assert transport.frames() == [
            Frame(TEXT, b"a", fin=False),
            Frame(PONG, b"p"),
            Frame(CONT, b"b", fin=False),
            Frame(CONT, b""),
            *(Frame(TEXT, f"other {number}".encode()) for number in range(3)),
        ]


async def test_a_message_that_is_not_finished() -> None:
    for first in (True, False):
        async with channel() as (ws, transport):

            async def stuck(first: bool = first) -> Any:
                if first:
                    yield "a"
                await asyncio.Event().wait()

            task = asyncio.create_task(ws.send(stuck()))
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if first:
                assert transport.frames()[-1].data[:2] == struct.pack("!H", 1011)
                assert ws.close_code == 1011
            else:
                await ws.send("nothing happened")
                assert transport.frames() == [Frame(TEXT, b"nothing happened")]


async def test_a_source_that_raises() -> None:
    async def source() -> Any:
        yield b"a"
        raise OSError("no more")

    async with channel() as (ws, transport):
        with pytest.raises(OSError, match="no more"):
            await ws.send(source())
        assert [each.opcode for each in transport.frames()] == [BINARY, CLOSE]
        with pytest.raises(WebSocketClosedError):
            await ws.send("x")


async def test_senders_learn_of_the_end() -> None:
    for end in (lambda transport: transport.feed(close(1008)), lambda transport: transport.lose(None)):
        async with channel() as (ws, transport):
            transport.protocol.pause_writing()
            tasks = [asyncio.create_task(ws.send("x")) for _ in range(3)]
            await turns()
            end(transport)
            for task in tasks:
                with pytest.raises(WebSocketClosedError):
                    await task


# -- the end -----------------------------------------------------------------------------------------------


async def test_closing() -> None:
    async with channel() as (ws, transport):
        transport.feed(text("before"))
        closing = asyncio.create_task(ws.close(4000, "enough"))
        await turns()
        assert transport.frames() == [Frame(CLOSE, struct.pack("!H", 4000) + b"enough")]
        assert (ws.close_code, ws.close_reason) == (None, "")
        with pytest.raises(WebSocketClosedError, match="being closed: 4000 enough"):
            await ws.send("x")
        transport.feed(text("too late"), frame(PING, b"p"), close(4000, b"well"))
        assert (ws.close_code, ws.close_reason) == (4000, "well")
        assert transport.frames() == [Frame(PONG, b"p")]
        await turns()
        assert not closing.done()
        transport.eof()
        await closing
        assert transport.closing
        assert not transport.aborted
        await ws.close()
        assert await ws.receive() == "before"
        with pytest.raises(WebSocketClosedError, match="closed: 4000 well"):
            await ws.receive()


async def test_a_receiver_while_another_task_closes() -> None:
    async with channel() as (ws, transport):

        async def read() -> list[Any]:
            return [message async for message in ws]

        reading = asyncio.create_task(read())
        await turns()
        closing = asyncio.create_task(ws.close())
        await turns()
        transport.feed(close())
        assert await reading == []
        transport.eof()
        await closing


@virtual
async def test_a_peer_that_does_not_answer() -> None:
    ws, transport = make(close_timeout=7)
    began = now()
    await asyncio.gather(ws.close(), ws.close(1001), ws.close())
    assert now() - began == pytest.approx(7, abs=0.1)
    assert transport.aborted
    assert ws.close_code == 1006
    assert [each.opcode for each in transport.frames()] == [CLOSE]
    with pytest.raises(WebSocketClosedError, match="connection was lost"):
        await ws.receive()


@virtual
async def test_a_peer_that_does_not_close_the_connection() -> None:
    ws, transport = make(close_timeout=7)
    transport.feed(close())
    began = now()
    await ws.close()
    assert now() - began == pytest.approx(7, abs=0.1)
    assert (transport.aborted, ws.close_code) == (True, 1000)


@virtual
async def test_a_peer_that_does_not_close_is_cut_off_without_close() -> None:
    ws, transport = make(close_timeout=7)
    transport.feed(close())
    await asyncio.sleep(6.5)
    assert not transport.closing
    await asyncio.sleep(1)
    assert transport.aborted
    assert ws.close_code == 1000


@virtual
async def test_a_cancelled_close_goes_on() -> None:
    ws, transport = make(close_timeout=7)
    task = asyncio.create_task(ws.close())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert [each.opcode for each in transport.frames()] == [CLOSE]
    assert not transport.closing
    await asyncio.sleep(8)
    assert transport.aborted
    assert ws.close_code == 1006


@virtual
async def test_a_stream_is_reset_sooner() -> None:
    for ours, patience in ((True, 0.1), (False, 1.0)):
        ws, transport = make(close_timeout=7, tunnel=True)
        began = now()
        if ours:
            task = asyncio.create_task(ws.close())
            await turns()
            transport.feed(close())
        else:
            transport.feed(close())
            task = asyncio.create_task(ws.close())
        await task
        assert now() - began == pytest.approx(patience, abs=0.05)
        assert (transport.aborted, ws.close_code) == (True, 1000)


async def test_closing_waits_for_a_message() -> None:
    async with channel() as (ws, transport):
        go_on = asyncio.Event()

        async def slow() -> Any:
            yield "a"
            await go_on.wait()

        sending = asyncio.create_task(ws.send(slow()))
        await turns()
        closing = asyncio.create_task(ws.close())
        await turns()
        assert [each.opcode for each in transport.frames()] == [TEXT]
        go_on.set()
        await turns()
        assert [each.opcode for each in transport.frames()] == [CONT, CLOSE]
        await sending
        transport.feed(close())
        transport.eof()
        await closing


@virtual
async def test_closing_does_not_wait_for_ever_for_a_message() -> None:
    ws, transport = make(close_timeout=7)

    async def stuck() -> Any:
        yield "a"
        await asyncio.Event().wait()

    sending = asyncio.create_task(ws.send(stuck()))
    await turns()
    await ws.close()
    assert transport.aborted
    sending.cancel()
    await asyncio.wait([sending])


async def test_closing_with_unread_messages() -> None:
    async with channel() as (ws, transport):
        transport.feed(frame(BINARY, bytes(HIGH_WATER)))
        assert transport.paused
        transport.feed(text("unparsed"))
        closing = asyncio.create_task(ws.close())
        await turns()
        assert not transport.paused
        transport.feed(frame(BINARY, bytes(HIGH_WATER)), close())
        transport.eof()
        await closing
        assert ws.close_code == 1000
        assert len(await ws.receive()) == HIGH_WATER
        with pytest.raises(WebSocketClosedError):
            await ws.receive()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, "1000", None, True])
async def test_codes_that_cannot_be_said(code: Any) -> None:
    async with channel() as (ws, transport):
        with pytest.raises(InvalidArgumentError, match="close code"):
            await ws.close(code)
        assert transport.frames() == []


async def test_reasons() -> None:
    async with channel() as (ws, transport):
        for reason in ("ä" * 62, None, b"x"):
            with pytest.raises(InvalidArgumentError, match="123 bytes"):
                await ws.close(1000, reason)  # type: ignore[arg-type]
        closing = asyncio.create_task(ws.close(1000, "ä" * 61))
        await turns()
        assert transport.frames() == [Frame(CLOSE, struct.pack("!H", 1000) + "ä".encode() * 61)]
        transport.eof()
        await closing


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "reset")])
async def test_a_lost_connection(error: Any) -> None:
    async with channel() as (ws, transport):
        transport.feed(text("before"), frame(TEXT, b"cut", fin=False))
        if error is None:
            transport.eof()
        transport.lose(error)
        assert await ws.receive() == "before"
        for _ in range(2):
            with pytest.raises(WebSocketClosedError, match="connection was lost: 1006") as caught:
                await ws.receive()
        if error is not None:
            assert caught.value.__cause__.errno == 104  # type: ignore[union-attr]
        with pytest.raises(WebSocketClosedError):
            await ws.send("x")
        await ws.close()
        assert ws.close_code == 1006


async def test_a_connection_lost_behind_unread_messages() -> None:
    async with channel() as (ws, transport):
        transport.feed(frame(BINARY, bytes(HIGH_WATER)))
        transport.feed(text("a"), close(4001))
        transport.lose(None)
        await turns()
        assert ws.close_code is None
        with pytest.raises(WebSocketClosedError):
            await ws.send("x")
        assert len(await ws.receive()) == HIGH_WATER
        assert await ws.receive() == "a"
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert caught.value.close_code == 4001


async def test_abort() -> None:
    ws, transport = make()
    receiving = asyncio.create_task(ws.receive())
    await turns()
    ws.abort()
    with pytest.raises(WebSocketClosedError) as caught:
        await receiving
    assert caught.value.close_code == 1006
    assert transport.aborted
    await ws.close()


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (ValueError("mine"), 1011), (asyncio.CancelledError(), 1001)]
)
async def test_leaving_the_block(error: BaseException | None, code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect_close(code)
        await peer.send(close(code))
        peer.connection.close()

    async with peer(script) as ws:
        with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
            async with ws:
                if error is not None:
                    raise error
        assert ws.close_code == code


async def test_dropped() -> None:
    made = [make()]
    transport = made[0][1]
    assert repr(made[0][0]) == "<WebSocket open>"
    with pytest.warns(ResourceWarning, match="unclosed <WebSocket open>"):
        made.clear()
    await turns()
    assert transport.aborted


async def test_dropped_when_closed() -> None:
    ws, transport = make()
    transport.feed(close())
    transport.eof()
    await turns()
    assert repr(ws) == "<WebSocket closed: 1000>"
    del ws
    gc.collect()


async def test_a_reset_after_the_end_changes_nothing() -> None:
    async with channel() as (ws, transport):
        transport.feed(close(4000))
        transport.lose(ConnectionResetError(104, "reset"))
        await turns()
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert (caught.value.close_code, caught.value.__cause__) == (4000, None)


@virtual
async def test_a_channel_that_gives_up_says_how_it_ended() -> None:
    ws, transport = make(close_timeout=7)
    await ws._channel.close()
    assert (transport.aborted, ws.close_code) == (True, 1006)
