"""gRPC against grpcio and grpc-js: the same service, the same tests."""

from __future__ import annotations

import asyncio
import functools
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.peers.grpc_kit import GrpcServer
from tests.peers.kit import Events

import dodici
from dodici import GrpcChannel, GrpcDeadlineError, GrpcError, GrpcMetadata, GrpcStatus, H2CClient
from dodici.api.grpc_handler import HIGH_WATER
from dodici.testing import pattern

pytestmark = pytest.mark.interop

MiB = 1 << 20


@pytest.fixture(scope="module", params=["grpcio", "grpc-js"])
def server(request: pytest.FixtureRequest) -> Iterator[GrpcServer]:
    with GrpcServer(request.param) as running:
        yield running


@pytest.fixture
async def client(server: GrpcServer) -> AsyncIterator[H2CClient]:
    async with H2CClient(server.origin) as client:
        yield client


@pytest.fixture
def calls(client: H2CClient) -> GrpcChannel:
    return GrpcChannel(client, timeout=30)


async def failure(calling: Any) -> GrpcError:
    with pytest.raises(GrpcError) as caught:
        await calling
    return caught.value


# -- one message each way ------------------------------------------------------------------------------


async def test_unary(calls: GrpcChannel) -> None:
    assert (await calls.unary_unary("/test.Echo/Unary", b"hello")).message == b"hello"
    assert (await calls.unary_unary("/test.Echo/Unary", b"")).message == b""


async def test_metadata_both_ways(calls: GrpcChannel) -> None:
    sent = [("x-echo", "a b"), ("x-echo-bin", b"\0\xff"), ("x-echo-two-bin", b"1"), ("x-echo-two-bin", b"")]
    response = await calls.unary_unary("/test.Echo/Unary", b"", metadata=sent)
    for metadata, prefix in (
        (response.initial_metadata, "x-echo"),
        (response.trailing_metadata, "x-trailing"),
    ):
        assert metadata[prefix] == "a b"
        assert metadata[f"{prefix}-bin"] == b"\0\xff"
        assert metadata.get_list(f"{prefix}-two-bin") == [b"1", b""]


async def test_several_values_of_one_name(calls: GrpcChannel, server: GrpcServer) -> None:
    response = await calls.unary_unary("/test.Echo/Unary", b"", metadata={"x-echo": ["1", "2"]})
    # Node's HTTP/2 joins them before grpc-js sees them, which the specification allows.
    values = ["1", "2"] if server.kind == "grpcio" else ["1, 2"]
    assert response.initial_metadata.get_list("x-echo") == values
    assert response.trailing_metadata.get_list("x-trailing") == values


async def test_what_the_server_sees(calls: GrpcChannel) -> None:
    response = await calls.unary_unary(
        "/test.Echo/Seen", b"", metadata={"x-a": "1", "x-bin": b"\1\2"}, timeout=20
    )
    seen = dict(line.split("=", 1) for line in response.message.decode().splitlines())
    assert seen["x-a"] == "1"
    assert seen["x-bin"] == "0102"
    assert seen["user-agent"].startswith("grpc-python-dodici/")
    assert 10 < float(seen["left"]) <= 20
    again = await calls.unary_unary("/test.Echo/Seen", b"", timeout=float("inf"))
    assert again.message.decode().splitlines()[-1] == "left="


@pytest.mark.parametrize("size", [16_384, 65_535, 65_536, MiB])
async def test_sizes_around_windows(calls: GrpcChannel, size: int) -> None:
    message = pattern(size)
    assert (await calls.unary_unary("/test.Echo/Unary", message)).message == message


async def test_the_largest_message_and_one_byte_more(calls: GrpcChannel) -> None:
    message = pattern(4 * MiB)
    assert (await calls.unary_unary("/test.Echo/Unary", message)).message == message
    error = await failure(calls.unary_unary("/test.Echo/Unary", message + b"x"))
    assert error.status is GrpcStatus.RESOURCE_EXHAUSTED
    assert "4194305 vs. 4194304" in error.message
    # The connection has survived.
    assert (await calls.unary_unary("/test.Echo/Unary", b"x")).message == b"x"


async def test_a_larger_limit(client: H2CClient) -> None:
    message = pattern(9 * MiB)
    calls = GrpcChannel(client, max_message_size=9 * MiB)
    assert (await calls.unary_unary("/test.Echo/Unary", message)).message == message


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
async def test_compressed_requests(client: H2CClient, compression: str) -> None:
    calls = GrpcChannel(client, compression=compression)
    assert (await calls.unary_unary("/test.Echo/Unary", bytes(100_000))).message == bytes(100_000)
    assert (await calls.stream_unary("/test.Echo/Collect", [bytes(9999), b"", b"x"])).message == b"3 10000"


@pytest.mark.parametrize("compression", ["Gzip", "Deflate"])
async def test_compressed_responses(calls: GrpcChannel, server: GrpcServer, compression: str) -> None:
    if server.kind == "grpc-js":
        pytest.skip("grpc-js does not compress responses")
    response = await calls.unary_unary(
        "/test.Echo/Unary", bytes(100_000), metadata={"x-compress": compression}
    )
    assert response.message == bytes(100_000)


async def test_many_at_once_on_one_connection(client: H2CClient, calls: GrpcChannel) -> None:
    events = Events(client)
    payloads = [pattern(100 + number * 37, number) for number in range(150)]
    responses = await asyncio.gather(*(calls.unary_unary("/test.Echo/Unary", one) for one in payloads))
    assert [response.message for response in responses] == payloads
    assert events.count("connect") == 1


async def test_through_interceptors(client: H2CClient) -> None:
    retry, decompress = dodici.interceptors.retry(), dodici.interceptors.decompress()
    calls = GrpcChannel(client.compose(retry, decompress), compression="gzip", timeout=30)
    assert (await calls.unary_unary("/test.Echo/Unary", b"hello")).message == b"hello"
    call = calls.stream_stream("/test.Echo/Chat", [b"1", b"2"])
    assert [message async for message in call] == [b"1", b"2"]
    error = await failure(calls.unary_unary("/test.Echo/Unary", b"", metadata={"x-status": "14"}))
    assert error.status is GrpcStatus.UNAVAILABLE


# -- streams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_a_stream_of_responses(calls: GrpcChannel, count: int) -> None:
    call = calls.unary_stream("/test.Echo/Repeat", b"again", metadata={"x-count": str(count)})
    assert [message async for message in call] == [b"again"] * count
    assert call.status is GrpcStatus.OK


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_a_stream_of_requests(calls: GrpcChannel, count: int) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(count):
            yield b"%06d" % number

    assert (await calls.stream_unary("/test.Echo/Collect", source())).message == b"%d %d" % (count, 6 * count)


async def test_a_conversation(calls: GrpcChannel) -> None:
    said: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def source() -> AsyncIterator[bytes]:
        while (message := await said.get()) is not None:
            yield message

    call = calls.stream_stream("/test.Echo/Chat", source())
    # The server answers before it was told anything.
    assert (await call.initial_metadata())["x-ready"] == "yes"
    for number in range(50):
        said.put_nowait(b"%d" % number)
        assert await anext(call) == b"%d" % number
    said.put_nowait(None)
    assert [message async for message in call] == []


async def test_streams_both_ways_at_full_speed(calls: GrpcChannel) -> None:
    payload = pattern(50_000)
    got = 0
    async for message in calls.stream_stream("/test.Echo/Chat", (payload for _ in range(200))):
        assert message == payload
        got += 1
    assert got == 200


async def test_a_slow_reader_holds_the_server_back(calls: GrpcChannel) -> None:
    payload = pattern(MiB // 4)
    call = calls.unary_stream("/test.Echo/Repeat", payload, metadata={"x-count": "64"})
    most = count = 0
    async for message in call:
        assert message == payload
        count += 1
        # Sockets and windows get the time to fill up.
        await asyncio.sleep(0.002)
        most = max(most, call._call.decoder.waiting)
    assert count == 64
    assert most <= HIGH_WATER + 2 * len(payload)


# -- how calls end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(GrpcStatus)[1:])
async def test_every_status(calls: GrpcChannel, status: GrpcStatus) -> None:
    error = await failure(calls.unary_unary("/test.Echo/Unary", b"", metadata={"x-status": str(int(status))}))
    assert error.status is status
    assert isinstance(error, TimeoutError) == (status is GrpcStatus.DEADLINE_EXCEEDED)


TEXT = "no such thing: 100 % of “ünïcode”\n\ttwo lines 🙂"


@pytest.mark.parametrize("initial", [False, True], ids=["trailers only", "after initial metadata"])
async def test_a_status_with_text_details_and_metadata(calls: GrpcChannel, initial: bool) -> None:
    metadata = {"x-status": "5", "x-text-bin": TEXT.encode(), "x-details-bin": b"\x08\x05"}
    if initial:
        metadata["x-echo"] = "1"
        metadata["x-echo-bin"] = b"\0\xff"
    error = await failure(calls.unary_unary("/test.Echo/Unary", b"", metadata=metadata))
    assert (error.status, error.message, error.details) == (GrpcStatus.NOT_FOUND, TEXT, b"\x08\x05")
    assert error.initial_metadata is not None
    assert error.trailing_metadata is not None
    assert error.initial_metadata.get("x-echo") == ("1" if initial else None)
    assert error.trailing_metadata.get("x-trailing-bin") == (b"\0\xff" if initial else None)


async def test_an_unknown_method(calls: GrpcChannel) -> None:
    error = await failure(calls.unary_unary("/test.Echo/Nothing", b""))
    assert error.status is GrpcStatus.UNIMPLEMENTED
    assert error.initial_metadata == GrpcMetadata()


async def test_an_answer_before_the_requests_have_ended(calls: GrpcChannel) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)
        finally:
            closed.set()

    error = await failure(calls.stream_unary("/test.Echo/Nothing", endless()))
    assert error.status is GrpcStatus.UNIMPLEMENTED
    await asyncio.wait_for(closed.wait(), 10)
    assert (await calls.unary_unary("/test.Echo/Unary", b"x")).message == b"x"


async def test_two_messages_where_one_is_due(calls: GrpcChannel) -> None:
    error = await failure(calls.unary_unary("/test.Echo/Repeat", b"x", metadata={"x-count": "2"}))
    assert error.status is GrpcStatus.UNIMPLEMENTED


async def noted(calls: GrpcChannel, key: bytes) -> bool:
    """Whether the server has seen the end of the call to Wait."""
    return (await calls.unary_unary("/test.Echo/Noted", key)).message == b"yes"


async def test_a_deadline(calls: GrpcChannel) -> None:
    key = uuid.uuid4().hex.encode()
    loop = asyncio.get_running_loop()
    began = loop.time()
    call = calls.unary_stream("/test.Echo/Wait", key, timeout=0.15)
    assert await anext(call) == b"waiting"
    with pytest.raises(TimeoutError) as caught:
        await anext(call)
    assert isinstance(caught.value, GrpcDeadlineError)
    assert 0.14 < loop.time() - began < 5
    assert await noted(calls, key)


async def test_a_cancelled_stream_is_cancelled_at_the_server(client: H2CClient, calls: GrpcChannel) -> None:
    events = Events(client)
    key = uuid.uuid4().hex.encode()
    async with calls.unary_stream("/test.Echo/Wait", key) as call:
        assert await anext(call) == b"waiting"
    assert await noted(calls, key)
    assert events.count("disconnect") == 0


async def test_a_cancelled_task_cancels_at_the_server(calls: GrpcChannel) -> None:
    key = uuid.uuid4().hex.encode()
    call = calls.unary_stream("/test.Echo/Wait", key)
    await anext(call)
    task = asyncio.ensure_future(anext(call))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await noted(calls, key)


async def test_a_source_that_raises_cancels_at_the_server(calls: GrpcChannel) -> None:
    key = uuid.uuid4().hex
    heard = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"1"
        await heard.wait()
        raise KeyError("of the source")

    call = calls.stream_stream("/test.Echo/Chat", source(), metadata={"x-note": key})
    assert await anext(call) == b"1"
    heard.set()
    with pytest.raises(KeyError, match="of the source"):
        await anext(call)
    assert await noted(calls, key.encode())


async def test_calls_of_all_kinds_that_end_in_all_ways(client: H2CClient, calls: GrpcChannel) -> None:
    events = Events(client)
    chance = random.Random(7)
    payload = pattern(30_000)

    async def one(number: int) -> None:
        kind = number % 5
        if kind == 0:
            assert (await calls.unary_unary("/test.Echo/Unary", payload)).message == payload
        elif kind == 1:
            async with calls.unary_stream("/test.Echo/Repeat", payload, metadata={"x-count": "20"}) as call:
                for _ in range(chance.randrange(20)):
                    assert await anext(call) == payload
        elif kind == 2:
            call = calls.stream_stream("/test.Echo/Chat", [payload] * chance.randrange(9))
            assert all([message == payload async for message in call])
        elif kind == 3:
            task = asyncio.ensure_future(calls.stream_unary("/test.Echo/Collect", [payload] * 5))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        else:
            key = uuid.uuid4().hex.encode()
            with pytest.raises(GrpcDeadlineError):
                async for _ in calls.unary_stream("/test.Echo/Wait", key, timeout=chance.random() / 20):
                    pass

    await asyncio.gather(*map(one, range(200)))
    assert (await calls.unary_unary("/test.Echo/Unary", payload)).message == payload
    assert (events.count("connect"), events.count("disconnect")) == (1, 0)


@pytest.mark.parametrize("kind", ["grpcio", "grpc-js"])
async def test_a_server_that_dies(kind: str) -> None:
    with GrpcServer(kind) as server:
        async with H2CClient(server.origin) as client:
            calls = GrpcChannel(client, timeout=30)
            waiting = calls.unary_stream("/test.Echo/Wait", b"key")
            assert await anext(waiting) == b"waiting"
            unanswered = asyncio.ensure_future(calls.unary_unary("/test.Echo/Noted", b"other"))
            await asyncio.sleep(0)
            server.kill()
            for calling in (anext(waiting), unanswered):
                error = await failure(calling)
                assert error.status is GrpcStatus.UNAVAILABLE
                assert isinstance(error.__cause__, ConnectionError)
            error = await failure(calls.unary_unary("/test.Echo/Unary", b""))
            assert error.status is GrpcStatus.UNAVAILABLE
            assert error.request_not_processed
            assert isinstance(error.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize("kind", ["grpcio", "grpc-js"])
@pytest.mark.parametrize("dispatcher", [dodici.Agent, dodici.Pool])
async def test_over_tls(
    kind: str, dispatcher: Any, certificate: tuple[str, str], authority: Any, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with GrpcServer(kind, certificate=certificate) as server:
        options = {"connect": {"ca": str(tmp_path / "ca.pem")}, "allow_h2": True}
        own = () if dispatcher is dodici.Agent else (server.origin,)
        async with dispatcher(*own, **options) as carrier:
            calls = GrpcChannel(carrier, server.origin, timeout=30)
            message = pattern(MiB)
            responses = await asyncio.gather(
                *(calls.unary_unary("/test.Echo/Unary", message) for _ in range(8))
            )
            assert all(response.message == message for response in responses)
            error = await failure(calls.unary_unary("/test.Echo/Nothing", b""))
            assert error.status is GrpcStatus.UNIMPLEMENTED
            call = calls.stream_stream("/test.Echo/Chat", [message] * 4)
            assert [len(one) async for one in call] == [MiB] * 4


@pytest.mark.parametrize("kind", ["grpcio", "grpc-js"])
async def test_the_servers_limit_of_concurrent_streams(kind: str) -> None:
    with GrpcServer(kind, max_concurrent_streams=3) as server:
        async with H2CClient(server.origin) as client:
            calls = GrpcChannel(client, timeout=30)
            await calls.unary_unary("/test.Echo/Unary", b"")  # the limit is known from here on
            peak = functools.partial(calls.unary_unary, "/test.Echo/Peak", metadata={"x-count": "3"})
            responses = await asyncio.gather(*(peak(b"") for _ in range(12)))
            peaks = [int(response.message) for response in responses]
            assert max(peaks) == 3
