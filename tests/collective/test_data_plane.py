"""Channels, and addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.kit import NAMESPACE, SERVICE, make, order, order_class

from dodici.collective import CallContext, CollectiveError, PeerUnavailableError
from dodici.collective.addresses import is_loopback, split_address
from dodici.collective.data_plane import Channel
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

PLAIN = (("x-dodici-namespace", "plain"),)


async def payloads(*values: bytes) -> AsyncIterator[bytes]:
    for value in values:
        yield value


async def test_a_channel_carries_raw_bytes_of_all_kinds() -> None:
    collector, _ = make()
    async with collector:
        channel = Channel(collector.address)
        try:
            taken: dict[str, Any] = {}
            answer = await channel.unary(
                f"/{SERVICE}/Create",
                order("a", 1).SerializeToString(),
                metadata=(*NAMESPACE, ("x-sent", "s")),
                timeout=10,
                on_metadata=taken.__setitem__,
            )
            assert order_class().FromString(answer) == order("A", 2)
            assert taken["initial"] == ()
            assert dict(taken["trailing"]) == {
                "x-seen": "s",
                "x-bin": b"\x00\xff",
                "x-dodici-handled-by": "kit-1",
            }
            for name, given, counts in (
                ("Create", [order("a", 1)], [2]),
                ("List", [order("a", 2)], [0, 1]),
                ("Sum", [order("a", 1), order("b", 2)], [3]),
                ("Chat", [order("a", 1), order("b", 2)], [-1, -2]),
            ):
                sent = payloads(*(each.SerializeToString() for each in given))
                got = [
                    order_class().FromString(each).count
                    async for each in channel.stream(
                        f"/{SERVICE}/{name}", sent, metadata=NAMESPACE, timeout=10
                    )
                ]
                assert got == counts
        finally:
            await channel.close()


async def test_failures_keep_status_text_details_and_trailing_metadata() -> None:
    collector, _ = make()
    async with collector:
        channel = Channel(collector.address)
        try:
            given = order("abort", 404).SerializeToString()
            taken: dict[str, Any] = {}
            with pytest.raises(CollectiveError) as caught:
                await channel.unary(
                    f"/{SERVICE}/Fail", given, metadata=NAMESPACE, timeout=10, on_metadata=taken.__setitem__
                )
            for error in (caught.value,):
                assert (error.grpc_status, str(error)) == (GrpcStatus.NOT_FOUND, "no such thing: ü")
                assert error.details == {"sku": "a-1"}
                assert error.binary_details
                assert not error.request_not_processed
            assert dict(taken["trailing"])["x-why"] == "sold out"
            with pytest.raises(CollectiveError) as caught:
                await anext(
                    channel.stream(f"/{SERVICE}/Fail", payloads(given), metadata=NAMESPACE, timeout=10)
                )
            assert caught.value.details == {"sku": "a-1"}
        finally:
            await channel.close()


async def test_giving_a_call_up_cancels_it() -> None:
    collector, servicer = make()

    @collector.method("plain", "Echo", "Flood", kind="unary_stream")
    async def flood(context: CallContext, given: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
        except asyncio.CancelledError:
            servicer.note("flood cancelled").set()
            raise

    async with collector:
        channel = Channel(collector.address)
        try:
            held = asyncio.create_task(
                channel.unary(
                    f"/{SERVICE}/Hold", order("x").SerializeToString(), metadata=NAMESPACE, timeout=10
                )
            )
            await servicer.note("x started").wait()
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            await servicer.note("x cancelled").wait()
            answers = channel.stream("/Echo/Flood", payloads(b""), metadata=PLAIN, timeout=10)
            await anext(answers)
            await answers.aclose()  # type: ignore[attr-defined]
            await servicer.note("flood cancelled").wait()
        finally:
            await channel.close()


async def test_a_call_that_was_never_sent_says_so() -> None:
    collector, _ = make()
    async with collector:
        address = collector.address
    channel = Channel(address)
    try:
        with pytest.raises(PeerUnavailableError) as caught:
            await channel.unary("/Echo/Say", b"", metadata=PLAIN, timeout=5)
        assert caught.value.request_not_processed
        assert caught.value.peer == address
        with pytest.raises(PeerUnavailableError, match="does not answer"):
            await channel.ready(0.05)
    finally:
        await channel.close()


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:65535", "[::1]", 65535),
        ("collector.example:50051", "collector.example", 50051),
        ("unix:/run/x.sock", None, 0),
        ("unix:///run/x.sock", None, 0),
    ],
)
def test_addresses(address: str, host: str | None, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":1",
        "a",
        "a:",
        "a:b",
        "a:-1",
        "a:65536",
        "::1:1",
        "[a]:1",
        "a b:1",
        "http://a:1",
        "unix:",
        "a:\u0661",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_who_can_reach_an_address(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


async def test_a_handshake_may_take_its_time() -> None:
    """Of a server across an ocean: an attempt is not given up before it can have come to an end."""
    attempts = 0
    handled: set[asyncio.Task[Any]] = set()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        task = asyncio.current_task()
        assert task is not None
        handled.add(task)
        task.add_done_callback(handled.discard)
        there, other = await asyncio.open_connection(host, int(port))
        try:

            async def back() -> None:
                await asyncio.sleep(0.4)
                while data := await there.read(65536):
                    writer.write(data)

            async def forth() -> None:
                while data := await reader.read(65536):
                    other.write(data)
                other.close()

            await asyncio.gather(back(), forth())
        except OSError:
            pass
        finally:
            for each in (writer, other):
                each.transport.abort()

    collector, _ = make()
    async with collector:
        host, _, port = collector.address.rpartition(":")
        proxy = await asyncio.start_server(slowly, "127.0.0.1", 0)
        channel = Channel(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        try:
            await channel.ready(5.0)
            assert attempts == 1
        finally:
            await channel.close()
            proxy.close()
            while handled:
                await asyncio.wait(handled)


class Failing:
    """A call of grpc's that fails in the moment in which its task is cancelled: it tells of the failure alone."""

    async def read(self) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            nothing = aio.Metadata()
            raise aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "refused") from None
        return b""

    def __await__(self) -> Any:
        return self.read().__await__()

    def done(self) -> bool:
        return True


@pytest.mark.parametrize("kind", ["unary", "streams"])
async def test_a_cancellation_counts_when_the_call_fails_with_it(kind: str) -> None:
    channel = Channel("127.0.0.1:9")
    getattr(channel._lines.current(), kind)["/S/M"] = lambda *_, **__: Failing()

    async def call() -> None:
        try:
            if kind == "unary":
                await channel.unary("/S/M", b"")
            else:
                async for _ in channel.stream("/S/M", payloads()):
                    pass
        except CollectiveError:
            pytest.fail("it goes on")

    try:
        calling = asyncio.create_task(call())
        await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await call()
    finally:
        await channel.close()
