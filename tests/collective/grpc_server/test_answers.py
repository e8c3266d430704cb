"""Heads of answers: what a handler may say in them, and what a client takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.collective.grpc_server.server_kit import head, message, raw, serving
from tests.wire.h2.frames_kit import data, headers

from dodici import H2CClient
from dodici.api.grpc import GrpcChannel
from dodici.collective.grpc_server.head import _ends
from dodici.core.errors import GrpcError
from dodici.core.grpc_status import GrpcStatus

MAX_HEADER_LIST_SIZE = 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a\nb", "x"),
        (":status", "200"),
        ("grpc-status", "0"),
        ("grpc-message", "x"),
        ("content-type", "x"),
        ("te", "trailers"),
        ("ümlaut", "x"),
        ("x-a", "ü"),
        ("x-a", "a\r\nb: c"),
        ("x-a-bin", "text"),
    ],
)
async def test_metadata_that_cannot_be_sent_fails_its_call_alone(name: str, value: str) -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "trailing", json.dumps([[name, value]]).encode())
        answer = await client.answer(1)
        assert answer.status in {GrpcStatus.INTERNAL, GrpcStatus.UNKNOWN}
        assert b"metadata" in answer.fields[b"grpc-message"]
        asked = {"status": 9, "text": "t", "trailing": [[name, value]]}
        client.call(3, "fail", json.dumps(asked).encode())
        assert (await client.answer(3)).status == GrpcStatus.INTERNAL
        client.call(5, "echo", b"x")
        assert (await client.answer(5)).body == message(b"x")


async def test_metadata_is_sent_as_http2_wants_it() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "trailing", json.dumps([["X-Upper", " in the middle  "], ["x-e", "  "]]).encode())
        answer = await client.answer(1)
        assert (answer.fields[b"x-upper"], answer.fields[b"x-e"]) == (b"in the middle", b"")


async def test_a_status_reaches_a_client_that_takes_no_more() -> None:
    async with serving() as running, raw(running.address, (MAX_HEADER_LIST_SIZE, 2000)) as client:
        for number, asked in enumerate(
            (
                {"text": "é" * 2000},
                {"text": "t", "trailing": [["x-a", "v" * 2000]]},
                {"text": "t", "details": "00" * 2000},
                {"text": "t", "trailing": [["x", ""]] * 100},
            )
        ):
            client.call(2 * number + 1, "fail", json.dumps(asked).encode())
            answer = await client.answer(2 * number + 1)
            assert answer.status == GrpcStatus.FAILED_PRECONDITION
            assert sum(len(name) + len(value) + 32 for name, value in answer.fields.items()) < 2000
        client.call(21, "trailing", json.dumps([["x-a", "v" * 2000]]).encode())
        assert (await client.answer(21)).status == GrpcStatus.RESOURCE_EXHAUSTED
        client.call(23, "tell", b"", *[(b"x-%d" % number, b"v" * 90) for number in range(20)])
        assert (await client.answer(23)).status == GrpcStatus.RESOURCE_EXHAUSTED


async def test_large_heads_are_not_kept() -> None:
    async with serving() as running, raw(running.address) as client:
        _ends.clear()
        for number in range(300):
            client.call(2 * number + 1, "fail", json.dumps({"text": f"{number}"}).encode())
        for number in range(300):
            await client.answer(2 * number + 1)
        assert 0 < len(_ends) <= 256
        client.call(2001, "fail", json.dumps({"text": "x" * 1100}).encode())
        await client.answer(2001)
        assert max(map(len, _ends.values())) <= 1024


async def test_calls_of_our_own_client() -> None:
    async with serving() as running:
        client = H2CClient(f"http://{running.address}")
        try:
            calls = GrpcChannel(client, timeout=10, compression="gzip")
            assert (await calls.unary_unary("/t/echo", b"x" * 100_000)).message == b"x" * 100_000
            assert [each async for each in calls.unary_stream("/t/repeat", b"3 4")] == [bytes(4)] * 3

            async def pieces() -> Any:
                for _ in range(20):
                    yield bytes(100_000)

            assert (await calls.stream_unary("/t/total", pieces())).message == b"2000000"
            assert sum([len(each) async for each in calls.stream_stream("/t/chat", pieces())]) == 2_000_000
            for text in ({"text": "ü%"}, {"text": "x" * 20_000}, {"text": "", "details": "00" * 60_000}):
                with pytest.raises(GrpcError) as caught:
                    await calls.unary_unary("/t/fail", json.dumps(text).encode())
                assert caught.value.status == GrpcStatus.FAILED_PRECONDITION
            with pytest.raises(GrpcError) as caught:
                await calls.unary_unary("/t/hold", b"h", timeout=0.1)
            assert caught.value.status == GrpcStatus.DEADLINE_EXCEEDED
            await running.methods.note("h cancelled").wait()
            assert len(running.connections) == 1
        finally:
            await client.destroy()


async def test_answers_before_the_end_of_a_request() -> None:
    """To a client that goes on, too: it is told to stop without an error (RFC 9113 section 8.1)."""
    async with serving() as running, raw(running.address) as client:
        client.send(headers(1, head("nothing")))
        answer = await client.answer(1)
        assert answer.status == GrpcStatus.UNIMPLEMENTED
        client.send(data(1, message(b"late")))
        client.call(3, "early", b"x", end=False)
        assert (await client.answer(3)).status == 0
        client.send(data(3, message(b"late"), end=True))
        client.call(5, "echo", b"x")
        assert (await client.answer(5)).body == message(b"x")
