"""Links on connections of their own: when there is one, who may open it, and what nonsense, silence and loss do to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio
from tests.collective.fleet import fleet, serve, until
from tests.collective.peers.test_link import connected

from dodici.collective import Collector, Limits, link, trunk, trunk_port
from dodici.collective.batch import BatchCaller, Outbox
from dodici.collective.errors import CollectiveError, PeerUnavailableError
from dodici.collective.link import Follower
from dodici.collective.protos import link_pb2 as pb
from dodici.collective.trunk import Trunk
from dodici.core.errors import InvalidArgumentError, SocketError
from dodici.core.grpc_status import GrpcStatus


def trunks(collector: Collector) -> int:
    """How many have come in at a collector."""
    return len(collector._trunks._listener._connections)


class Line:
    """The other end of a trunk, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, frame: pb.LinkFrame) -> None:
        data = frame.SerializeToString()
        self.writer.write(len(data).to_bytes(4, "big") + data)

    async def read(self) -> pb.LinkFrame:
        async with asyncio.timeout(5):
            size = int.from_bytes(await self.reader.readexactly(4), "big")
            return pb.LinkFrame.FromString(await self.reader.readexactly(size))

    async def read_until(self, what: str) -> pb.LinkFrame:
        while True:
            frame = await self.read()
            if frame.WhichOneof("frame") == what or (what == "answers" and frame.answers):
                return frame

    async def ended(self) -> bytes:
        """What comes until the other end closes."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def line(collector: Collector) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", collector._service.link_port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def introduced(collector: Collector, name: str = "x") -> AsyncIterator[Line]:
    """As another collector would: Connect, then hello."""
    async with aio.insecure_channel(collector.address) as channel, line(collector) as made:
        token = await connected(channel, name)
        made.send(pb.LinkFrame(hello=pb.Hello(version=1, collector_id=name, connection_id=token)))
        assert (await made.read()).hello.collector_id == collector.id
        yield made


# -- which way a link goes ---------------------------------------------------------------------------------------


async def test_collectors_have_a_connection_of_its_own_for_each_link() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a, "A")
        serve(b, "B")
        await a.connect_to(b.address)
        assert (trunks(a), trunks(b)) == (1, 1)
        assert (await a.dispatch("shop", "B", "Who")).output == "b"
        assert (await b.dispatch("shop", "A", "Who")).output == "a"
        await a.disconnect("b")
        await until(lambda: (trunks(a), trunks(b)) == (0, 0))


@pytest.mark.parametrize("options", [{"link_port": None}, {"address": "unix"}], ids=["none", "unix"])
async def test_without_a_port_it_is_a_stream_of_the_channel(options: dict[str, Any], tmp_path: Any) -> None:
    if "address" in options:
        options = {"address": f"unix:{tmp_path}/b.sock"}
    async with fleet(a={}, b=options) as (a, b):
        serve(b)
        assert b._service.link_port == 0
        await a.connect_to(b.address)
        assert trunks(b) == 0
        assert a.connections[0].linked
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


@pytest.mark.parametrize("port", [-1, 65536, True, "1", 1.0])
def test_what_is_no_port(port: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="link_port must be a port"):
        Collector("a", "127.0.0.1:0", link_port=port)


async def test_a_port_in_use_is_an_error_and_leaves_nothing() -> None:
    async with fleet(a={}) as (a,):
        b = Collector("b", "127.0.0.1:0", link_port=a._service.link_port)
        with pytest.raises(SocketError, match=r"cannot listen on 127\.0\.0\.1, port"):
            await b.start()
        assert not b.started


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


async def _rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await _silent(reader, writer)


async def _polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    Line(reader, writer).send(pb.LinkFrame(acknowledgement=pb.Acknowledgement(version=1)))
    await _silent(reader, writer)


async def _short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("who", [_silent, _rude, _polite, _short], ids=lambda who: who.__name__)
async def test_a_port_that_something_else_answers_is_gone_around(
    who: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_TRUNK_GREETING", 0.2)
    async with fleet(a={}, b={}) as (a, b), await asyncio.start_server(who, "127.0.0.1", 0) as other:
        serve(b)
        b._service.link_port = other.sockets[0].getsockname()[1]
        await a.connect_to(b.address)
        assert trunks(b) == 0
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


async def test_a_port_that_nobody_answers_is_gone_around() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(b)
        b._service.link_port = c._service.link_port
        await c.stop()
        await a.connect_to(b.address)
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


async def test_the_port_of_another_collector_is_gone_around() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(b)
        b._service.link_port = c._service.link_port
        await a.connect_to(b.address)
        assert (trunks(b), trunks(c)) == (0, 0)
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


# -- who comes in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (pb.LinkFrame(hello=pb.Hello(connection_id="guessed")), GrpcStatus.UNAUTHENTICATED),
        (pb.LinkFrame(hello=pb.Hello()), GrpcStatus.UNAUTHENTICATED),
        (pb.LinkFrame(calls=[pb.LinkCall(id=1, path="/Work/Who")]), GrpcStatus.INVALID_ARGUMENT),
    ],
    ids=["guessed", "nothing", "call"],
)
async def test_strangers_are_told_why_and_closed(said: pb.LinkFrame, code: GrpcStatus) -> None:
    async with fleet(a={}) as (a,), line(a) as stranger:
        work = serve(a)
        stranger.send(said)
        assert (await stranger.read()).goodbye.code == int(code)
        assert await stranger.ended() == b""
        assert work.counts == {}


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x00\x01\x00\x01", b"\x00\x00\x00\x03\xff\xff\xff"],
    ids=["http", "large", "nonsense"],
)
async def test_what_is_no_first_frame_is_refused(said: bytes) -> None:
    async with fleet(a={}) as (a,), line(a) as stranger:
        stranger.writer.write(said)
        assert (await stranger.read()).goodbye.code == int(GrpcStatus.INVALID_ARGUMENT)
        assert await stranger.ended() == b""
        await until(lambda: trunks(a) == 0)


async def test_who_says_nothing_is_closed_and_so_is_who_only_half_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trunk_port, "_FIRST", 0.1)
    async with fleet(a={}) as (a,), line(a) as silent, line(a) as half:
        half.writer.write(b"\x00\x00")
        half.writer.write_eof()
        assert await half.ended() == b""
        assert await silent.ended() == b""
        await until(lambda: trunks(a) == 0)


async def test_strangers_have_so_many_places_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_port, "_STRANGERS", 2)
    async with fleet(a={}) as (a,), line(a), line(a):
        await until(lambda: trunks(a) == 2)
        async with line(a) as third:
            assert await third.ended() == b""
        await until(lambda: trunks(a) == 2)


# -- frames ------------------------------------------------------------------------------------------------------


def called(number: int, method: str = "Who") -> pb.LinkFrame:
    frame = pb.LinkFrame()
    call = frame.calls.add(id=number, path=f"/Work/{method}")
    call.metadata.add(key="x-dodici-namespace", value=b"shop")
    return frame


async def test_frames_come_in_any_pieces() -> None:
    async with fleet(a={}) as (a,):
        serve(a)
        async with introduced(a) as peer:
            await peer.read_until("announcement")
            data = b""
            for number in (1, 2, 3):
                body = called(number).SerializeToString()
                data += len(body).to_bytes(4, "big") + body
            for at in range(len(data)):
                peer.writer.write(data[at : at + 1])
                await asyncio.sleep(0)
            peer.writer.write(data.replace(b"\x08\x01", b"\x08\x04").replace(b"\x08\x02", b"\x08\x05"))
            seen: list[int] = []
            while len(seen) < 5:
                seen += [answer.id for answer in (await peer.read_until("answers")).answers]
            assert set(seen) >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "said", [b"\x00\x00\x00\x02\xff\xff", b"\xff\xff\xff\xff"], ids=["nonsense", "large"]
)
async def test_nonsense_ends_the_link_and_nothing_else(said: bytes) -> None:
    async with fleet(a={}) as (a,):
        work = serve(a)
        async with introduced(a) as peer:
            peer.send(called(1, "Hold"))
            await until(lambda: work.running == 1)
            peer.writer.write(said)
            goodbye = (await peer.read_until("goodbye")).goodbye
            assert (goodbye.code, work.counts) == (int(GrpcStatus.INVALID_ARGUMENT), {})
            assert await peer.ended() == b""
            await until(lambda: (work.running, work.cancelled) == (0, 1))
        async with introduced(a) as again:
            again.send(called(1))
            assert (await again.read_until("answers")).answers[0].id == 1


async def test_unknown_frames_are_ignored_and_pings_answered() -> None:
    async with fleet(a={}) as (a,):
        serve(a)
        async with introduced(a) as peer:
            peer.writer.write(b"\x00\x00\x00\x00" + b"\x00\x00\x00\x04\xfa\x01\x01x")
            peer.send(pb.LinkFrame(ping=pb.Ping()))
            assert (await peer.read_until("ping")).ping.answer
            peer.send(called(1))
            assert len((await peer.read_until("answers")).answers) == 1


async def test_who_does_not_read_is_read_no_more_and_nothing_piles_up() -> None:
    async with fleet(a={}) as (a,):
        begun = 0

        async def large(context: Any, given: Any) -> bytes:
            nonlocal begun
            begun += 1
            return bytes(1 << 20)

        a.register_service("shop", "Large", "Get", large)
        async with introduced(a) as peer:
            await peer.read_until("announcement")
            outbox = a._peers.get("x").session._outbox  # type: ignore[union-attr]
            frame = called(0)
            frame.calls[0].path = "/Large/Get"
            sent = 0

            def ask() -> None:
                nonlocal sent
                sent += 1
                frame.calls[0].id = sent
                peer.send(frame)

            async with asyncio.timeout(10):
                while not outbox.full:
                    ask()
                    await until(lambda: begun == sent)
            stuck = begun
            for _ in range(20):
                ask()
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (begun, outbox.waiting >> 20 < 6) == (stuck, True)
            answers: set[int] = set()
            while len(answers) < sent:
                answers |= {answer.id for answer in (await peer.read_until("answers")).answers}
            assert (begun, outbox.waiting) == (sent, 0)


async def test_an_answer_may_be_as_large_as_a_message_and_no_larger() -> None:
    limits = Limits(message=100_000)
    async with fleet(a={"limits": limits}, b={"limits": limits}) as (a, b):

        async def large(context: Any, given: Any) -> bytes:
            return bytes(given)

        b.register_service("shop", "Large", "Get", large)
        await a.connect_to(b.address)
        # An envelope has some bytes besides.
        assert len((await a.dispatch("shop", "Large", "Get", 99_900)).output) == 99_900
        assert (await a.dispatch("shop", "Large", "Get", 100_001)).status == 429
        assert (await a.dispatch("shop", "Large", "Get", 1)).output == b"\0"


@contextlib.asynccontextmanager
async def unread() -> AsyncIterator[tuple[Collector, Any]]:
    """A collector, and its session with a peer that does not read the answers that it has asked for."""
    async with fleet(a={}) as (a,):

        async def large(context: Any, given: Any) -> bytes:
            return bytes(8 << 20)

        a.register_service("shop", "Large", "Get", large)
        async with introduced(a) as peer:
            await peer.read_until("announcement")
            session: Any = a._peers.get("x").session  # type: ignore[union-attr]
            for number in (1, 2, 3):
                frame = called(number)
                frame.calls[0].path = "/Large/Get"
                peer.send(frame)
            await until(lambda: session._outbox.full)
            yield a, session


async def test_stopping_does_not_wait_for_who_does_not_read() -> None:
    async with unread() as (a, _):
        async with asyncio.timeout(3):
            await a.stop(grace=0.1)
        assert trunks(a) == 0


# -- its end -----------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_reset_fails_what_was_sent_and_is_made_again() -> None:
    async with fleet(a={}, b={}) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        calls = [asyncio.create_task(a.dispatch("shop", "Work", "Hold")) for _ in range(5)]
        await until(lambda: work.running == 5)
        outbox = b._peers.get("a").session._outbox  # type: ignore[union-attr]
        cut: Trunk = outbox.on_news.__self__  # type: ignore[union-attr]
        cut.abort()
        assert [int((await call).status) for call in calls] == [503] * 5
        await until(lambda: (work.running, work.cancelled) == (0, 5))
        # Its end may not have been seen yet. The breaker, which has seen five failures, would be open for 10 s.
        async with asyncio.timeout(5):
            while (await a.dispatch("shop", "Work", "Who")).output != "b":
                await asyncio.sleep(0.01)
        assert trunks(b) == 1


async def test_a_goodbye_tells_which_calls_were_never_begun() -> None:
    outbox = Outbox()
    opened: list[Any] = []
    end = Follower("b", lambda _, caller: opened.append(caller), lambda _: None)
    end.outbox = outbox
    end.received(pb.LinkFrame(hello=pb.Hello(max_calls=10)))
    caller: BatchCaller = opened[0]
    calls = [
        asyncio.ensure_future(caller.unary("/S/M", b"", timeout=5, metadata=(), on_metadata=lambda *_: None))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    assert outbox.next_frame() is not None
    end.received(pb.LinkFrame(goodbye=pb.Goodbye(last_call=2)))
    unsent = []
    for call in calls:
        with pytest.raises(PeerUnavailableError) as caught:
            await call
        unsent.append(caught.value.request_not_processed)
    assert unsent == [False, False, True]
    await end.close("done")


async def test_an_acknowledgement_comes_after_every_call_before_it() -> None:
    outbox, arrived = Outbox(), asyncio.Event()
    opened: list[Any] = []
    end = Follower("b", lambda _, caller: opened.append(caller), lambda _: None, arrived.wait)  # type: ignore[arg-type]
    end.outbox = outbox
    end.received(pb.LinkFrame(hello=pb.Hello(max_calls=100)))
    caller: BatchCaller = opened[0]
    calls = [
        asyncio.ensure_future(
            caller.unary("/S/M", bytes(64 * 1024), timeout=5, metadata=(), on_metadata=lambda *_: None)
        )
        for _ in range(10)
    ]
    end.received(pb.LinkFrame(announcement=pb.Announcement(epoch=1, version=7)))
    await asyncio.sleep(0)
    # Calls beside the link have not arrived yet.
    assert not outbox.next_frame().HasField("acknowledgement")  # type: ignore[union-attr]
    arrived.set()
    await until(lambda: outbox._control)
    rest = [outbox.next_frame() for _ in range(3)]
    assert [len(frame.calls) for frame in rest if frame is not None] == [4, 2]
    assert [frame.acknowledgement.version for frame in rest if frame is not None] == [0, 7]
    caller.fail("done")
    await asyncio.gather(*calls, return_exceptions=True)
    await end.close("done")


# -- silence -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def beside(**options: Any) -> AsyncIterator[tuple[Trunk, Line]]:
    """A trunk that carries an empty link, and its other end."""
    came: asyncio.Future[Line] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set_result(Line(reader, writer))

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        where = server.sockets[0].getsockname()
        _, made = await asyncio.get_running_loop().create_connection(lambda: Trunk(1 << 20), *where)
        other = await came
        made.carry(Outbox(), lambda _: None, **options)
        try:
            yield made, other
        finally:
            made.abort()
            await made.gone()
            other.writer.close()
            with contextlib.suppress(ConnectionError):
                await other.writer.wait_closed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("_QUIET", 0.05),
        ("_ANSWER", 0.05),
        ("_LOOK", 0.05),
        ("_LATE", 0.05),
        ("_DEAD", 4.0),
    ):
        monkeypatch.setattr(trunk, name, seconds)


@pytest.mark.usefixtures("impatient")
async def test_who_answers_pings_is_kept_and_who_is_lost_is_cut() -> None:
    lost = False
    async with beside(on_silence=lambda _: lost) as (made, other):
        for _ in range(3):
            assert not (await other.read()).ping.answer
            other.send(pb.LinkFrame(ping=pb.Ping(answer=True)))
        await other.read()
        lost = True
        with pytest.raises(CollectiveError, match="nothing has come for") as caught:
            await asyncio.wait_for(made.ended(), 5)
        assert caught.value.grpc_status is GrpcStatus.UNAVAILABLE


@pytest.mark.usefixtures("impatient")
async def test_who_is_busy_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "_DEAD", 0.6)
    asked = 0

    def busy(silent: float) -> bool:
        nonlocal asked
        asked += 1
        return False

    async with beside(on_silence=busy) as (made, _):
        with pytest.raises(CollectiveError, match="nothing has come for"):
            await asyncio.wait_for(made.ended(), 5)
        assert asked


async def test_a_goodbye_outlives_a_write_that_fails() -> None:
    """It says that no connection is wanted: a peer that has not heard it would come back at once."""
    near, far = socket.socketpair()
    made = Trunk(1 << 20)
    await asyncio.get_running_loop().create_connection(lambda: made, sock=near)
    outbox = Outbox()
    made.carry(outbox, lambda frame: None)
    data = pb.LinkFrame(goodbye=pb.Goodbye(code=10, message="no more")).SerializeToString()
    # In one turn of the loop: what is written next fails before anything is read.
    far.send(len(data).to_bytes(4, "big") + data)
    far.close()
    made.send(pb.LinkFrame(ping=pb.Ping()))
    with pytest.raises(CollectiveError, match="no more") as said:
        await asyncio.wait_for(made.ended(), 5)
    assert said.value.grpc_status is GrpcStatus.ABORTED


async def test_who_says_goodbye_reads_on_until_the_other_end_has_closed() -> None:
    async with beside() as (made, other):
        made.close(pb.Goodbye(code=10, message="no more"))
        for _ in range(100):
            other.send(pb.LinkFrame(ping=pb.Ping()))
        await other.writer.drain()
        assert (await other.read_until("goodbye")).goodbye.message == "no more"
        other.writer.close()
        await asyncio.wait_for(made.gone(), 5)
