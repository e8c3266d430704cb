"""The stream between collectors, from its answering end: who may open it, and what nonsense does to it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.fleet import fleet, serve, until

from dodici.collective.protos import collector_pb2, link_pb2 as pb

LINK = "/collector.CollectiveDispatcher/Link"
CONNECT = "/collector.CollectiveDispatcher/Connect"


class Dialler:
    """Speaks with a collector as another would, frame by frame."""

    def __init__(self, channel: Any, connection: str) -> None:
        self.call = channel.stream_stream(LINK, pb.LinkFrame.SerializeToString, pb.LinkFrame.FromString)(
            metadata=(("x-dodici-connection", connection),), timeout=10
        )

    async def announcement(self) -> pb.Announcement:
        """The next one; acknowledges nothing."""
        while True:
            frame = await self.call.read()
            assert frame is not aio.EOF
            if frame.HasField("announcement"):
                return frame.announcement

    async def answers(self) -> list[pb.LinkAnswer]:
        while True:
            frame = await self.call.read()
            assert frame is not aio.EOF
            if frame.answers:
                return list(frame.answers)


async def connected(channel: Any, name: str = "x", **more: Any) -> str:
    """The connection's id, as another collector gets it."""
    connect = channel.unary_unary(
        CONNECT,
        collector_pb2.ConnectRequest.SerializeToString,
        collector_pb2.ConnectResponse.FromString,
    )
    fields = {"collector_id": name, "address": "127.0.0.1:9", "namespaces": ["shop"], "epoch": 1, **more}
    answer = await connect(collector_pb2.ConnectRequest(**fields))
    assert answer.status.code == 200
    return str(answer.connection_id)


@pytest.mark.parametrize("connection", ["", "guessed"])
async def test_who_has_not_connected_gets_no_link(connection: str) -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        dialler = Dialler(channel, connection)
        assert await dialler.call.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_the_first_frames_are_hello_and_the_whole_state() -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        serve(a)
        dialler = Dialler(channel, await connected(channel))
        first = await dialler.call.read()
        assert (first.hello.version, first.hello.collector_id, first.hello.address) == (1, "a", a.address)
        told = await dialler.announcement()
        assert (told.collector_id, list(told.namespaces), told.draining) == ("a", ["shop"], False)
        assert {(r.service, r.hops, tuple(r.path), r.weight) for r in told.routes} == {("Work", 0, (), 1.0)}
        assert {r.method: (r.kind, r.idempotent) for r in told.routes}["Numbers"] == (pb.UNARY_STREAM, True)
        leaving = asyncio.create_task(a.leave("shop"))
        later = await dialler.announcement()
        assert later.version > told.version
        assert (list(later.namespaces), list(later.routes)) == ([], [])
        assert not leaving.done()
        dialler.call.cancel()
        await leaving


async def test_a_second_link_takes_the_place_of_the_first() -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        connection = await connected(channel)
        first = Dialler(channel, connection)
        await first.announcement()
        second = Dialler(channel, connection)
        await second.announcement()
        assert await first.call.read() is aio.EOF
        assert await first.call.code() == grpc.StatusCode.OK
        second.call.cancel()


async def test_what_is_no_frame_ends_the_link_and_nothing_else() -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        connection = await connected(channel)
        raw = channel.stream_stream(LINK)(metadata=(("x-dodici-connection", connection),))
        await raw.write(b"\xff\xff\xff")
        with pytest.raises(aio.AioRpcError) as caught:
            async with asyncio.timeout(5):
                while await raw.read() is not aio.EOF:
                    pass
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        again = Dialler(channel, connection)
        await again.announcement()
        again.call.cancel()


async def test_calls_on_it_are_of_that_collector_and_say_so() -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        seen: list[Any] = []

        async def look(context: Any, given: Any) -> bytes:
            seen.append((context.path, context.time_remaining() <= 2.0, context.metadata.get("x-mine")))
            return b"seen"

        a.register_service("shop", "Look", "Do", look)
        dialler = Dialler(channel, await connected(channel))
        frame = pb.LinkFrame()
        call = frame.calls.add(id=1, path="/Look/Do", timeout_us=2_000_000)
        for key, value in (
            ("x-dodici-namespace", b"shop"),
            ("x-dodici-path", b"far,x"),
            ("x-mine", b"1"),
        ):
            call.metadata.add(key=key, value=value)
        await dialler.call.write(frame)
        (answer,) = await dialler.answers()
        assert (answer.id, answer.code, answer.payload) == (1, 0, b"seen")
        assert {entry.key: entry.value for entry in answer.trailing} == {"x-dodici-handled-by": b"a"}
        assert seen == [(("far", "x"), True, "1")]
        dialler.call.cancel()


@pytest.mark.parametrize(
    ("path", "metadata", "code"),
    [
        ("/Look/Do", {}, grpc.StatusCode.INVALID_ARGUMENT),
        ("nonsense", {"x-dodici-namespace": b"shop"}, grpc.StatusCode.INVALID_ARGUMENT),
        ("", {"x-dodici-namespace": b"shop"}, grpc.StatusCode.INVALID_ARGUMENT),
        ("/No/Do", {"x-dodici-namespace": b"shop"}, grpc.StatusCode.NOT_FOUND),
        (
            "/Look/Do",
            {"x-dodici-namespace": b"shop", "x-dodici-path": b"a,x"},
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (
            "/Look/Do",
            {"x-dodici-namespace": b"shop", "x-dodici-path": b"1,2,3,4,5"},
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (
            "/Look/Do",
            {"x-dodici-namespace": b"shop", "x-dodici-path": b"b,,c"},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            "/Look/Do",
            {"x-dodici-namespace": b"shop", "x-dodici-attempt": b"-1"},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
    ids=["namespace", "path", "nothing", "unknown", "loop", "far", "hole", "attempt"],
)
async def test_calls_that_are_none(path: str, metadata: dict[str, bytes], code: grpc.StatusCode) -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:

        async def never(context: Any, given: Any) -> None:
            raise AssertionError

        a.register_service("shop", "Look", "Do", never)
        dialler = Dialler(channel, await connected(channel))
        frame = pb.LinkFrame()
        call = frame.calls.add(id=7, path=path)
        for key, value in metadata.items():
            call.metadata.add(key=key, value=value)
        await dialler.call.write(frame)
        (answer,) = await dialler.answers()
        assert (answer.id, answer.code) == (7, code.value[0])
        dialler.call.cancel()


async def test_a_policy_and_a_validator_are_asked_about_calls_on_a_link() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        asked: list[Any] = []

        def refuse(*key: str) -> bool:
            asked.append(key)
            return False

        b.set_registry_validator(refuse)
        assert (await a.dispatch("shop", "Work", "Who")).status == 404
        assert asked == [("shop", "Work", "Who")]


async def test_acknowledging_what_was_never_told_releases_nobody() -> None:
    async with fleet(a={}) as (a,), aio.insecure_channel(a.address) as channel:
        dialler = Dialler(channel, await connected(channel))
        told = await dialler.announcement()
        await dialler.call.write(
            pb.LinkFrame(acknowledgement=pb.Acknowledgement(epoch=told.epoch, version=2**62))
        )
        session: Any = a._peers.get("x").session  # type: ignore[union-attr]
        await until(lambda: session._acknowledged == told.version)
        joining = asyncio.create_task(a.join("more"))
        later = await dialler.announcement()
        assert not joining.done()
        await dialler.call.write(
            pb.LinkFrame(acknowledgement=pb.Acknowledgement(epoch=later.epoch, version=later.version))
        )
        await asyncio.wait_for(joining, 2)
        dialler.call.cancel()
