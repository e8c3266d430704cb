"""The same client at our server and at one of grpc's: what it sees is the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import pytest
from tests.collective.grpc_server.server_kit import LIMIT, Methods, channel, outcome, serving, theirs


class At(NamedTuple):
    """A server."""

    address: str
    methods: Methods
    ours: bool


@pytest.fixture(params=["ours", "theirs"])
async def at(request: pytest.FixtureRequest) -> AsyncIterator[At]:
    if request.param == "ours":
        async with serving() as running:
            yield At(running.address, running.methods, ours=True)
    else:
        async with theirs() as (address, methods):
            yield At(address, methods, ours=False)


async def requests(*messages: bytes) -> AsyncIterator[bytes]:
    for each in messages:
        yield each


# -- kinds -------------------------------------------------------------------------------------------------------


async def test_all_four_kinds(at: At) -> None:
    async with channel(at.address) as called:
        assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
        assert await called.unary_unary("/t/echo")(b"", timeout=10) == b""
        assert [each async for each in called.unary_stream("/t/repeat")(b"3 2", timeout=10)] == [bytes(2)] * 3
        assert [each async for each in called.unary_stream("/t/repeat")(b"0 0", timeout=10)] == []
        assert await called.stream_unary("/t/total")(requests(b"ab", b"", b"c"), timeout=10) == b"3"
        assert await called.stream_unary("/t/total")(requests(), timeout=10) == b"0"
        said = [each async for each in called.stream_stream("/t/chat")(requests(b"a", b"b"), timeout=10)]
        assert said == [b"a", b"b"]
        large = bytes(LIMIT)
        assert await called.unary_unary("/t/echo")(large, timeout=10) == large


async def test_a_handler_that_ends_before_its_input_does(at: At) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)
            if done.is_set():
                return

    async with channel(at.address) as called:
        done = asyncio.Event()
        call = called.stream_stream("/t/early")(timeout=10)
        assert await call.read() == b"early"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        done.set()


# -- statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "plain", "100 % ü — 漢字 \n\r\t\x7f", "%41%zz%", "x" * 5000])
async def test_status_texts(at: At, text: str) -> None:
    async with channel(at.address) as called:
        asked = json.dumps({"status": 9, "text": text}).encode()
        assert await outcome(called.unary_unary("/t/fail")(asked, timeout=10)) == (
            "FAILED_PRECONDITION",
            text,
        )


@pytest.mark.parametrize("status", list(range(1, 17)))
async def test_every_status(at: At, status: int) -> None:
    async with channel(at.address) as called:
        asked = json.dumps({"status": status, "text": "t"}).encode()
        with pytest.raises(grpc.RpcError) as caught:
            await called.unary_unary("/t/fail")(asked, timeout=10)
        assert caught.value.code().value[0] == status  # type: ignore[attr-defined]


async def test_details_in_binary_and_trailing_metadata(at: At) -> None:
    details = bytes(range(256)) * 4
    asked = {
        "status": 3,
        "text": "t",
        "details": details.hex(),
        "trailing": [["x-a", "1"], ["x-a", "2 "], ["x-b", ""]],
    }
    async with channel(at.address) as called:
        with pytest.raises(grpc.RpcError) as caught:
            await called.unary_unary("/t/fail")(json.dumps(asked).encode(), timeout=10)
        trailing = [tuple(pair) for pair in caught.value.trailing_metadata()]  # type: ignore[attr-defined]
        assert ("grpc-status-details-bin", details) in trailing
        assert [value.strip() for name, value in trailing if name == "x-a"] == ["1", "2"]
        assert ("x-b", "") in trailing


async def test_what_is_not_there(at: At) -> None:
    async with channel(at.address) as called:
        for path in ("/t/nothing", "/", "/x", "//", "/t/echo/"):
            code, _ = await outcome(called.unary_unary(path)(b"", timeout=10))
            assert code == "UNIMPLEMENTED"
            call = called.stream_stream(path)(timeout=10)
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_handler_that_raises(at: At) -> None:
    async with channel(at.address) as called:
        code, text = await outcome(called.unary_unary("/t/raises")(b"why", timeout=10))
        assert code == "UNKNOWN"
        assert "why" in text


# -- metadata ----------------------------------------------------------------------------------------------------


async def test_metadata_there_and_back(at: At) -> None:
    given: Any = (
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-a", "1, 3"),
        ("x-empty", ""),
        ("x-inner", "a  b"),
        ("x-bin", b""),
        ("x-b-bin", bytes(range(256))),
        ("x-b-bin", b"\0"),
        ("x-long", "v" * 3000),
    )
    async with channel(at.address) as called:
        call = called.unary_unary("/t/tell")(b"", metadata=given, timeout=10)
        came = json.loads(await call)
        expected = [[name, value.hex() if isinstance(value, bytes) else value] for name, value in given]
        assert sorted(came) == sorted(expected)
        for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
            assert sorted(map(repr, (pair for pair in metadata if pair[0].startswith("x-")))) == sorted(
                map(repr, given)
            )


async def test_metadata_beyond_the_limit_cost_their_call_alone(at: At) -> None:
    async with channel(at.address) as called:
        held = called.unary_unary("/t/hold")(b"h", timeout=10)
        await at.methods.note("h started").wait()
        for size in (20_000, 60_000, 100_000):
            code, _ = await outcome(
                called.unary_unary("/t/echo")(b"", metadata=(("x-a", "v" * size),), timeout=10)
            )
            assert code in {"RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE"}
        at.methods.note("go").set()
        assert await held == b"h"


# -- messages ----------------------------------------------------------------------------------------------------


async def test_messages_beyond_the_limit(at: At) -> None:
    async with channel(at.address) as called:
        for size in (LIMIT + 1, 4 * LIMIT, 20 * LIMIT):
            code, text = await outcome(called.unary_unary("/t/echo")(bytes(size), timeout=10))
            assert (code, "larger than max" in text) == ("RESOURCE_EXHAUSTED", True), text
        code, text = await outcome(
            called.stream_unary("/t/total")(requests(b"", bytes(LIMIT + 1)), timeout=10)
        )
        assert (code, "larger than max" in text) == ("RESOURCE_EXHAUSTED", True), text
        call = called.unary_stream("/t/repeat")(f"1 {LIMIT + 1}".encode(), timeout=10)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("compression", ["Gzip", "Deflate"])
async def test_compressed_requests(at: At, compression: str) -> None:
    async with channel(at.address, compression=getattr(grpc.Compression, compression)) as called:
        large = b"dodici" * 20_000
        assert await called.unary_unary("/t/echo")(large, timeout=10) == large
        assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
        assert await called.stream_unary("/t/total")(requests(large, b"x"), timeout=10) == b"120001"
        code, _ = await outcome(called.unary_unary("/t/echo")(bytes(2 * LIMIT), timeout=10))
        assert code == "RESOURCE_EXHAUSTED"


# -- ends --------------------------------------------------------------------------------------------------------


async def test_a_deadline_reaches_the_handler_and_ends_it(at: At) -> None:
    async with channel(at.address) as called:
        left = float(await called.unary_unary("/t/remaining")(b"", timeout=7))
        assert 5 < left < 7.5
        assert await called.unary_unary("/t/remaining")(b"") == b"None"
        code, _ = await outcome(called.unary_unary("/t/hold")(b"h", timeout=0.1))
        assert code == "DEADLINE_EXCEEDED"
        await at.methods.note("h cancelled").wait()
        call = called.stream_stream("/t/chat")(timeout=0.1)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await at.methods.note("chat over").wait()


async def test_cancellation_in_every_phase(at: At) -> None:
    async with channel(at.address) as called:
        methods = at.methods
        held = called.unary_unary("/t/hold")(b"h", timeout=10)
        await methods.note("h started").wait()
        held.cancel()
        await methods.note("h cancelled").wait()

        writing = called.stream_unary("/t/total")(timeout=10)
        await writing.write(b"x")
        await methods.note("total reads").wait()
        writing.cancel()
        await methods.note("total over").wait()
        if at.ours:  # to a handler of grpc's, input that is cut off is input that ends
            assert not methods.note("total ends").is_set()

        reading = called.unary_stream("/t/repeat")(b"1000000 1000", timeout=10)
        assert await reading.read() == bytes(1000)
        reading.cancel()
        await methods.note("repeat cancelled").wait()

        talking = called.stream_stream("/t/chat")(timeout=10)
        await talking.write(b"x")
        assert await talking.read() == b"x"
        talking.cancel()
        await methods.note("chat over").wait()
        assert methods.running == 0


async def test_half_close_by_the_client_leaves_the_answers(at: At) -> None:
    async with channel(at.address) as called:
        call = called.stream_stream("/t/slow")(timeout=10)
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        await at.methods.note("slow reads").wait()
        at.methods.note("go").set()
        assert await call.read() == b"2"
        assert await call.read() is grpc.aio.EOF
