"""What a client sends as a call, right and wrong, in bare frames."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from tests.collective.grpc_server.server_kit import LIMIT, Raw, head, message, raw, serving
from tests.wire.h2.frames_kit import (
    data,
    headers,
)

from dodici.core.grpc_status import GrpcStatus


async def status(client: Raw, stream: int) -> tuple[int | None, str]:
    answer = await client.answer(stream)
    return answer.status, answer.fields.get(b"grpc-message", b"").decode()


async def refused_by(
    client: Raw, name: str, *more: tuple[bytes, bytes], body: bytes | None
) -> tuple[int | None, str]:
    client.send(headers(1, head(name, *more), end=body is None))
    if body is not None:
        client.send(data(1, body, end=True))
    return await status(client, 1)


# -- messages ----------------------------------------------------------------------------------------------------


async def test_a_call_in_frames_of_a_byte() -> None:
    async with serving() as running, raw(running.address) as client:
        client.send(headers(1, head("echo")))
        for each in message(b"dodici"):
            client.send(data(1, bytes((each,))))
        client.send(data(1, end=True))
        answer = await client.answer(1)
        assert (answer.status, answer.body, answer.code) == (0, message(b"dodici"), None)
        assert answer.fields[b":status"] == b"200"
        assert answer.fields[b"content-type"] == b"application/grpc"


async def test_trailers_of_a_request_are_its_end() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "echo", b"x", end=False)
        client.send(headers(1, [(b"x-checksum", b"1")], end=True))
        assert (await client.answer(1)).body == message(b"x")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, GrpcStatus.UNIMPLEMENTED),
        (b"", GrpcStatus.UNIMPLEMENTED),
        (message(b"a") + message(b"b"), GrpcStatus.UNIMPLEMENTED),
        (message(b"abc")[:-1], GrpcStatus.INTERNAL),
        (b"\0\0", GrpcStatus.INTERNAL),
        (message(b"a", flag=2), GrpcStatus.INTERNAL),
        (message(b"a", flag=1), GrpcStatus.INTERNAL),
        (b"\0\xff\xff\xff\xff", GrpcStatus.RESOURCE_EXHAUSTED),
    ],
    ids=["head alone", "none", "two", "cut", "half a prefix", "flag", "compressed with nothing", "4 GiB"],
)
async def test_bodies_that_are_not_one_message(body: bytes | None, expected: GrpcStatus) -> None:
    async with serving() as running, raw(running.address) as client:
        assert (await refused_by(client, "echo", body=body))[0] == expected
        client.call(3, "echo", b"still")
        assert (await client.answer(3)).body == message(b"still")


async def test_messages_for_a_unary_method_that_do_not_end() -> None:
    async with serving() as running, raw(running.address) as client:
        client.send(headers(1, head("echo")), *[data(1, message(bytes(16_000))) for _ in range(10)])
        assert (await status(client, 1))[0] == GrpcStatus.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("encoding", "squeeze"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)], ids=["gzip", "deflate"]
)
async def test_compressed_messages(encoding: bytes, squeeze: Any) -> None:
    async with serving() as running, raw(running.address) as client:
        more = (b"grpc-encoding", encoding)
        bodies = [
            message(squeeze(b"x" * 1000), flag=1),
            message(b"plain"),
            message(squeeze(bytes(LIMIT + 1)), flag=1),
            message(squeeze(bytes(100))[:-3], flag=1),
            message(squeeze(b"") + b"more", flag=1),
        ]
        for number, body in enumerate(bodies):
            client.send(headers(2 * number + 1, head("echo", more)), data(2 * number + 1, body, end=True))
        said = [(await client.answer(2 * number + 1)) for number in range(len(bodies))]
        assert [each.status for each in said] == [
            0,
            0,
            GrpcStatus.RESOURCE_EXHAUSTED,
            GrpcStatus.INTERNAL,
            GrpcStatus.INTERNAL,
        ]
        assert said[0].body == message(b"x" * 1000)


async def test_an_encoding_that_nobody_knows() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "echo", b"x", (b"grpc-encoding", b"br"))
        answer = await client.answer(1)
        assert answer.status == GrpcStatus.UNIMPLEMENTED
        assert b"'br'" in answer.fields[b"grpc-message"]
        assert answer.fields[b"grpc-accept-encoding"] == b"identity, deflate, gzip"


# -- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"1", b"S", b"-1S", b"123456789S", b"1.5S", b"1 S", b"1x"])
async def test_timeouts_that_are_none(value: bytes) -> None:
    async with serving() as running, raw(running.address) as client:
        assert (await refused_by(client, "echo", (b"grpc-timeout", value), body=message()))[
            0
        ] == GrpcStatus.INTERNAL


@pytest.mark.parametrize("value", [b"0S", b"0n", b"00000000m"])
async def test_a_call_that_comes_too_late_is_not_run(value: bytes) -> None:
    async with serving() as running, raw(running.address) as client:
        said = await refused_by(client, "hold", (b"grpc-timeout", value), body=message(b"h"))
        assert said[0] == GrpcStatus.DEADLINE_EXCEEDED
        assert not running.methods.notes


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/t/echo")], b"405"),
        ([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t/echo")], b"415"),
        (
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/t/echo"),
                (b"content-type", b"text/html"),
            ],
            b"415",
        ),
        (
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/t/echo"),
                (b"content-type", b"application/grpcx"),
            ],
            b"415",
        ),
    ],
    ids=["GET", "no type", "html", "almost"],
)
async def test_what_is_no_grpc(fields: list[tuple[bytes, bytes]], expected: bytes) -> None:
    async with serving() as running, raw(running.address) as client:
        client.send(headers(1, fields, end=True))
        answer = await client.answer(1)
        assert (answer.fields[b":status"], answer.fields[b"content-type"]) == (expected, b"text/plain")
        assert len(answer.body) == int(answer.fields[b"content-length"])
        assert running.face.asked == 0


@pytest.mark.parametrize(
    "kind", [b"application/grpc+proto", b"application/grpc;x=y", b"application/grpc+json"]
)
async def test_content_types_that_are_grpc(kind: bytes) -> None:
    async with serving() as running, raw(running.address) as client:
        fields = [(name, kind if name == b"content-type" else value) for name, value in head("echo")]
        client.send(headers(1, fields), data(1, message(b"x"), end=True))
        assert (await client.answer(1)).body == message(b"x")


async def test_a_face_that_fails_costs_one_call() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "bug")
        assert (await status(client, 1)) == (GrpcStatus.INTERNAL, "the server has failed")
        client.call(3, "echo", b"x")
        assert (await client.answer(3)).status == 0


async def test_binary_metadata_that_is_broken_or_joined() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "tell", b"", (b"x-a-bin", b"AAE=,AAI"), (b"x-b-bin", b"!!"), (b"x-c", b"d"))
        answer = await client.answer(1)
        assert answer.body[5:] == b'[["x-a-bin", "0001"], ["x-a-bin", "0002"], ["x-c", "d"]]'
