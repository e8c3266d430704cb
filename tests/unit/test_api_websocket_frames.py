"""Frames both ways, as the rules of RFC 6455 have it: what is taken, and what fails with which code."""

from __future__ import annotations

import asyncio
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
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

from dodici import InvalidArgumentError, WebSocketClosedError

GREEK = "κόσμε𐍈"
ENCODED = GREEK.encode()

GOOD: dict[str, tuple[bytes, list[str | bytes]]] = {
    "text": (text("hello"), ["hello"]),
    "empty text": (text(""), [""]),
    "binary": (frame(BINARY, b"\x00\xff"), [b"\x00\xff"]),
    "empty binary": (frame(BINARY), [b""]),
    "all lengths": (
        b"".join(frame(BINARY, bytes(size)) for size in (1, 125, 126, 127, 65535, 65536)),
        [bytes(size) for size in (1, 125, 126, 127, 65535, 65536)],
    ),
    "fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c"),
        ["abc"],
    ),
    "empty fragments": (
        frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT, b"x", fin=False) + frame(CONT),
        ["x"],
    ),
    "binary fragments": (frame(BINARY, b"a", fin=False) + frame(CONT, b"b") + text("c"), [b"ab", "c"]),
    "fragments within characters": (
        b"".join(
            frame(CONT if at else TEXT, ENCODED[at : at + 1], fin=at == len(ENCODED) - 1)
            for at in range(len(ENCODED))
        ),
        [GREEK],
    ),
    "control frames within a message": (
        frame(TEXT, b"a", fin=False)
        + frame(PONG, b"unasked")
        + frame(CONT, b"b", fin=False)
        + frame(CONT, b"c"),
        ["abc"],
    ),
    "line ends": (text("a\r\nb\rc\n"), ["a\r\nb\rc\n"]),
    "line ends in fragments": (frame(TEXT, b"a\r", fin=False) + frame(CONT, b"\nb\r"), ["a\r\nb\r"]),
    "all planes": (text("\u0000\ud7ff\ue000\uffff\U0010ffff"), ["\u0000\ud7ff\ue000\uffff\U0010ffff"]),
}

BAD: dict[str, tuple[bytes, int]] = {
    **{f"reserved bits {rsv}": (frame(TEXT, b"x", rsv=rsv), 1002) for rsv in range(1, 8)},
    **{f"opcode {code}": (frame(code, b"x"), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "masked": (frame(TEXT, b"x", mask=b"abcd"), 1002),
    "long ping": (frame(PING, bytes(126)), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "long close": (frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124), 1002),
    "continuation of nothing": (frame(CONT, b"x"), 1002),
    "continuation of an empty message": (frame(TEXT, b"") + frame(CONT, b"c"), 1002),
    "text within a message": (frame(TEXT, b"a", fin=False) + text("b"), 1002),
    "binary within a message": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False), 1002),
    "close within a message": (frame(TEXT, b"a", fin=False) + close(), 1002),
    "bad UTF-8": (frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), 1007),
    "overlong UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "cut UTF-8": (frame(TEXT, b"\xce"), 1007),
    "bad UTF-8 in the middle of fragments": (
        frame(TEXT, b"ok", fin=False) + frame(CONT, b"\xff", fin=False),
        1007,
    ),
    "bad UTF-8 across fragments": (frame(TEXT, b"\xf4", fin=False) + frame(CONT, b"\x90", fin=False), 1007),
    "cut UTF-8 at the last fragment": (frame(TEXT, b"a", fin=False) + frame(CONT, b"\xce"), 1007),
    "bad UTF-8 before a close": (frame(TEXT, b"\xff") + close(), 1007),
    **{
        f"close code {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)
    },
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close reason of bad UTF-8": (close(1000, b"\xff"), 1007),
    "too long": (frame(BINARY, bytes(1001)), 1009),
    "too long in fragments": (frame(BINARY, bytes(900), fin=False) + frame(CONT, bytes(101)), 1009),
    "too long by its head": (frame(BINARY, bytes(65536))[:10], 1009),
}


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


SPLITS = pytest.mark.parametrize("split", [whole, bytewise])


@SPLITS
@pytest.mark.parametrize("name", GOOD)
async def test_what_is_taken(name: str, split: Any) -> None:
    data, messages = GOOD[name]
    if split is bytewise and len(data) > 1000:
        data, messages = data[:2], []
    async with channel() as (ws, transport):
        transport.feed(*split(data))
        assert [await ws.receive() for _ in messages] == messages
        assert transport.frames() == []
        assert ws.close_code is None


@SPLITS
@pytest.mark.parametrize("name", BAD)
async def test_what_fails(name: str, split: Any) -> None:
    data, code = BAD[name]
    async with channel(max_message_size=1000) as (ws, transport):
        transport.feed(text("before"), *split(data), text("after"))
        assert await ws.receive() == "before"
        if name == "continuation of an empty message":
            assert await ws.receive() == ""
        with pytest.raises(WebSocketClosedError, match=f"the WebSocket has failed: {code}") as caught:
            await ws.receive()
        assert (caught.value.close_code, ws.close_code) == (code, code)
        (sent,) = transport.frames()
        assert (sent.opcode, sent.data[:2]) == (CLOSE, struct.pack("!H", code))
        with pytest.raises(WebSocketClosedError):
            await ws.send("x")
        assert transport.frames() == []
        transport.eof()
        await ws.close()
        assert ws.close_code == code


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999])
async def test_close_codes(code: int) -> None:
    async with channel() as (ws, transport):
        transport.feed(text("last"), close(code, "grüß".encode()), text("too late"))
        assert transport.frames() == [Frame(CLOSE, struct.pack("!H", code) + "grüß".encode())]
        assert (ws.close_code, ws.close_reason) == (code, "grüß")
        messages = []
        if code in (1000, 1001):
            messages = [message async for message in ws]
        else:
            with pytest.raises(WebSocketClosedError, match=f"closed: {code} grüß") as caught:
                async for message in ws:
                    messages.append(message)
            assert (caught.value.close_code, caught.value.close_reason) == (code, "grüß")
        assert messages == ["last"]
        transport.eof()
        await ws.close()


async def test_close_without_a_code() -> None:
    async with channel() as (ws, transport):
        transport.feed(frame(CLOSE))
        assert transport.frames() == [Frame(CLOSE, b"")]
        assert [message async for message in ws] == []
        assert ws.close_code == 1005


async def test_pings_are_answered_within_messages() -> None:
    async with channel() as (ws, transport):
        transport.feed(frame(TEXT, b"a", fin=False), frame(PING), frame(PING, bytes(125)), frame(CONT, b"b"))
        assert transport.frames() == [Frame(PONG, b""), Frame(PONG, bytes(125))]
        assert await ws.receive() == "ab"


async def test_early_frames() -> None:
    async with channel(early=text("first") + frame(TEXT, b"sec", fin=False)) as (ws, transport):
        assert await ws.receive() == "first"
        transport.feed(frame(CONT, b"tion"))
        assert await ws.receive() == "section"


async def test_early_frames_over_a_socket() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(text("second"), close())
        await peer.expect_close(1000)
        peer.connection.close()

    async with peer(script, early=text("first")) as ws:
        assert [message async for message in ws] == ["first", "second"]
        await ws.close()


# -- sending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
async def test_what_is_sent(size: int) -> None:
    async with channel() as (ws, transport):
        data = bytes(range(256)) * (size // 256 + 1)
        for kind in (bytes, bytearray, memoryview):
            await ws.send(kind(data[:size]))
            assert transport.frames() == [Frame(BINARY, data[:size])]
        await ws.send("ä" * (size // 2))
        assert transport.frames() == [Frame(TEXT, "ä".encode() * (size // 2))]


async def test_a_view_of_items() -> None:
    async with channel() as (ws, transport):
        await ws.send(memoryview(b"abcdefgh").cast("I"))
        await ws.send(memoryview(b"abcdefgh")[::2])
        assert [each.data for each in transport.frames()] == [b"abcdefgh", b"aceg"]


async def test_masks_differ() -> None:
    async with channel() as (ws, transport):
        masks = set()
        for _ in range(20):
            await ws.send(b"x")
            masks.add(transport.written[2:6])
            transport.frames()
        assert len(masks) > 15


async def numbers() -> Any:
    for number in range(3):
        yield str(number)


async def test_fragments() -> None:
    async with channel() as (ws, transport):
        expected = [Frame(TEXT, b"0", fin=False), Frame(CONT, b"1", fin=False), Frame(CONT, b"2", fin=False)]
        for message in (numbers(), ["0", "1", "2"], iter("012")):
            await ws.send(message)
            assert transport.frames() == [*expected, Frame(CONT, b"")]
        await ws.send([b"0", bytearray(b"1"), memoryview(b"2")])
        assert transport.frames() == [expected[0]._replace(opcode=BINARY), *expected[1:], Frame(CONT, b"")]
        await ws.send([])
        assert transport.frames() == []
        await ws.send("whole")
        assert transport.frames() == [Frame(TEXT, b"whole")]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (5, "not int"),
        (None, "not NoneType"),
        ({"a": "b"}, "not dict"),
        ([5], "a piece of a message must be str or bytes-like, not int"),
        ("\ud800", "cannot be encoded"),
        (["\ud800"], "cannot be encoded"),
    ],
)
async def test_what_cannot_be_sent(message: Any, says: str) -> None:
    async with channel() as (ws, transport):
        with pytest.raises(InvalidArgumentError, match=says):
            await ws.send(message)
        assert transport.frames() == []
        await ws.send("fine")
        assert transport.frames() == [Frame(TEXT, b"fine")]


@pytest.mark.parametrize("pieces", [["a", b"b"], [b"a", "b"], ["a", 5], ["a", "\ud800"]])
async def test_fragments_that_cannot_go_on(pieces: Any) -> None:
    async with channel() as (ws, transport):
        with pytest.raises(InvalidArgumentError):
            await ws.send(pieces)
        _, last = transport.frames()
        assert (last.opcode, last.data[:2]) == (CLOSE, struct.pack("!H", 1011))
        assert ws.close_code == 1011


# -- compression -------------------------------------------------------------------------------------------


def deflated(data: bytes, compressor: Any = None) -> bytes:
    compressor = compressor or zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def test_compressed() -> None:
    compressor = zlib.compressobj(wbits=-15)
    async with channel(deflate="permessage-deflate") as (ws, transport):
        one, two = deflated(b"hello" * 99, compressor), deflated(b"hello" * 99, compressor)
        assert len(two) < len(one)
        transport.feed(frame(TEXT, one, rsv=4), frame(TEXT, two[:3], rsv=4, fin=False), frame(CONT, two[3:]))
        transport.feed(text("not compressed"))
        assert [await ws.receive() for _ in range(3)] == ["hello" * 99, "hello" * 99, "not compressed"]
        await ws.send("hello" * 99)
        (sent,) = transport.frames()
        assert (sent.rsv, sent.opcode) == (4, TEXT)
        assert zlib.decompressobj(wbits=-15).decompress(sent.data + b"\0\0\xff\xff") == b"hello" * 99
        await ws.send(["hello" * 9, "hello" * 9])
        assert [each.rsv for each in transport.frames()] == [4, 0, 0]


async def test_compressed_without_context() -> None:
    answer = (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=9"
    )
    async with channel(deflate=answer) as (ws, transport):
        for _ in range(2):
            transport.feed(frame(BINARY, deflated(b"abc" * 50), rsv=4))
            assert await ws.receive() == b"abc" * 50
            await ws.send(b"abc" * 50)
        one, two = transport.frames()
        assert one.data == two.data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xff\xff", rsv=4), 1002),
        (frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
        (frame(BINARY, deflated(bytes(1001)), rsv=4), 1009),
        (frame(BINARY, deflated(bytes(1 << 20)), rsv=4), 1009),
        (frame(PING, b"x", rsv=4), 1002),
        (frame(TEXT, deflated(b"x"), rsv=4, fin=False) + frame(CONT, b"", rsv=4), 1002),
    ],
    ids=["garbage", "text", "long", "bomb", "ping", "continuation"],
)
async def test_compressed_and_bad(data: bytes, code: int) -> None:
    async with channel(deflate="permessage-deflate", max_message_size=1000) as (ws, transport):
        transport.feed(data)
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert caught.value.close_code == code


# -- properties --------------------------------------------------------------------------------------------

pieces = st.lists(st.binary(max_size=300), min_size=1, max_size=4)
messages = st.lists(st.one_of(st.text(max_size=200), pieces), max_size=8)


def fragments(message: Any) -> bytes:
    if isinstance(message, str):
        data = message.encode()
        return frame(TEXT, data[:3], fin=False) + frame(PING, b"p") + frame(CONT, data[3:])
    return b"".join(
        frame(CONT if at else BINARY, piece, fin=at == len(message) - 1) for at, piece in enumerate(message)
    )


@settings(deadline=None, max_examples=60)
@given(messages, st.lists(st.integers(1, 400), min_size=1, max_size=50))
def test_every_split_gives_the_same(said: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(fragments, said)) + close(4000)

    async def run() -> None:
        ws, transport = make()
        at = index = 0
        while at < len(data):
            size = cuts[index % len(cuts)]
            transport.feed(data[at : at + size])
            at, index = at + size, index + 1
        got = []
        with pytest.raises(WebSocketClosedError) as caught:
            async for message in ws:
                got.append(message)
        assert got == [each if isinstance(each, str) else b"".join(each) for each in said]
        assert caught.value.close_code == 4000
        pongs = [each for each in transport.frames() if each.opcode == PONG]
        assert len(pongs) == sum(isinstance(each, str) for each in said)
        ws.abort()
        await asyncio.sleep(0)

    asyncio.run(run())


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_in_order(data: bytes, compressed: bool) -> None:
    async def run() -> None:
        ws, transport = make(deflate="permessage-deflate" if compressed else None, max_message_size=1000)
        transport.feed(data)
        transport.eof()
        with pytest.raises(WebSocketClosedError):
            while True:
                await ws.receive()
        await ws.close()
        assert ws.close_code is not None
        assert transport.closing

    asyncio.run(run())
