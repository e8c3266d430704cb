"""TLS over a transport, from the records up: the server is an SSL object in memory, every byte is ours to move."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from dodici.net.tls_transport import TLSTransport
from dodici.testing.peers import make_tls

RECORD = 16 * 1024


class Raw(asyncio.Transport):
    """What the transport under test writes to."""

    def __init__(self) -> None:
        super().__init__({"peername": ("198.51.100.7", 443)})
        self.sent = bytearray()
        self.calls: list[str] = []
        self.aborted = asyncio.Event()
        self.unsent = [0]
        """What each look at the size of the buffer sees; the last one for ever."""

    def write(self, data: Any) -> None:
        assert data, "an empty write costs a system call"
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unsent.pop(0) if len(self.unsent) > 1 else self.unsent[0]

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")
        self.aborted.set()

    def is_closing(self) -> bool:
        return bool({"close", "abort"}.intersection(self.calls))

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")


class App(asyncio.Protocol):
    """Notes what it is told; `on_data` may act upon it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.on_data: Any = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.told.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(("lost", exc))

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    @property
    def data(self) -> bytes:
        return b"".join(each for each in self.told if isinstance(each, bytes))

    @property
    def events(self) -> list[Any]:
        return [each for each in self.told if not isinstance(each, bytes)]


class Pair:
    """The transport under test, and the server that it talks to."""

    def __init__(self, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None) -> None:
        tls = make_tls()
        self.to_server, self.from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = (server or tls.server_context).wrap_bio(
            self.to_server, self.from_server, server_side=True
        )
        self.app = App()
        self.raw = Raw()
        loop = asyncio.get_running_loop()
        self.transport = TLSTransport(loop, client or tls.client_context, "localhost", 0.01)
        self.transport.set_protocol(self.app)
        self.transport.connection_made(self.raw)

    def pump(self) -> None:
        """To the server all that was written."""
        self.to_server.write(bytes(self.raw.sent))
        self.raw.sent.clear()

    def records(self) -> bytes:
        """What the server has to send."""
        return self.from_server.read()

    def shake(self, step: int = 1 << 20, early: bytes = b"") -> None:
        """The handshake, `step` bytes at a time; the server says `early` behind its last word."""
        done = False
        while not done:
            self.pump()
            with suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
                done = True
            flight = self.records()
            if done and early:
                self.server.write(early)
                flight += self.records()
            for at in range(0, len(flight), step):
                self.transport.data_received(flight[at : at + step])

    def receive(self, *plain: bytes) -> bytes:
        """The records of these pieces."""
        for piece in plain:
            self.server.write(piece)
        return self.records()

    def read(self) -> bytes:
        """What the server reads."""
        self.pump()
        parts = []
        with suppress(ssl.SSLWantReadError):
            while part := self.server.read(1 << 20):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    made.shake()
    yield made
    made.transport.connection_lost(None)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_handshake_however_it_arrives(step: int, version: ssl.TLSVersion) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.maximum_version = version
    configure(server, client)
    pair = Pair(server, client)
    assert pair.app.told == []
    pair.shake(step)
    await pair.transport.handshake
    assert pair.app.told == ["made"]
    pair.transport.write(b"ping")
    assert pair.read() == b"ping"
    for byte in pair.receive(b"pong"):
        pair.transport.data_received(bytes([byte]))
    assert pair.app.told == ["made", b"pong"]


def configure(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    authority.configure_trust(client)


async def test_what_a_server_says_behind_its_handshake_is_delivered_at_once() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    configure(server, client)
    pair = Pair(server, client)
    pair.shake(early=b"settings")
    assert pair.app.told == ["made", b"settings"]


async def test_a_protocol_that_pauses_at_once_gets_it_when_it_resumes() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    configure(server, client)
    pair = Pair(server, client)
    made = pair.app.connection_made

    def pausing(transport: Any) -> None:
        made(transport)
        transport.pause_reading()

    pair.app.connection_made = pausing  # type: ignore[method-assign]
    pair.shake(early=b"settings")
    assert pair.app.told == ["made"]
    pair.transport.resume_reading()
    await asyncio.sleep(0)
    assert pair.app.told == ["made", b"settings"]
    assert pair.raw.calls == ["pause_reading", "resume_reading"]


async def test_one_read_is_one_delivery(pair: Pair) -> None:
    pair.app.told.clear()
    pieces = [b"a" * 10, b"b" * RECORD, b"c", b"d" * (5 * RECORD), b"e"]
    pair.transport.data_received(pair.receive(*pieces))
    assert pair.app.told == [b"".join(pieces)]


@pytest.mark.parametrize("step", [1000, 65_535, 65_536, 65_537, 200_000])
async def test_records_split_anywhere(pair: Pair, step: int) -> None:
    sent = b"".join(bytes([n % 251]) * 997 for n in range(300))
    records = pair.receive(sent)
    for at in range(0, len(records), step):
        pair.transport.data_received(records[at : at + step])
    assert pair.app.data == sent


async def test_a_pause_leaves_nothing_behind(pair: Pair) -> None:
    # All records of a read are delivered with it: after a pause, nothing but the socket can bring more.
    pair.app.on_data = lambda _: pair.transport.pause_reading()
    pair.transport.data_received(pair.receive(*(b"x" * RECORD for _ in range(17)), b"end"))
    assert len(pair.app.data) == 17 * RECORD + 3
    assert pair.raw.calls == ["pause_reading"]
    assert not pair.transport.is_reading()
    pair.transport.pause_reading()
    pair.transport.resume_reading()
    pair.transport.resume_reading()
    assert pair.raw.calls == ["pause_reading", "resume_reading"]


@pytest.mark.parametrize("size", [1, RECORD, 65_536, 65_537, 1_000_000])
async def test_writes_of_any_size_and_type(pair: Pair, size: int) -> None:
    data = bytes(size)
    for each in (data, bytearray(data), memoryview(data), memoryview(data).cast("c")):
        pair.transport.write(each)
        assert len(pair.read()) == size
    pair.transport.writelines([data, b"", b"tail"])
    assert pair.read() == data + b"tail"
    pair.transport.write(b"")
    assert not pair.raw.sent


async def test_a_goodbye_is_an_eof_and_is_answered(pair: Pair) -> None:
    records = pair.receive(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    pair.transport.data_received(records + pair.records())
    assert pair.app.told == ["made", b"last", "eof"]
    assert pair.raw.calls == ["close"]
    pair.pump()
    pair.server.unwrap()  # does not raise: our close_notify has come
    assert pair.transport.is_closing()
    pair.transport.connection_lost(None)
    assert pair.app.told[-1] == ("lost", None)


async def test_an_end_without_goodbye_can_be_told_from_one_with_it(pair: Pair) -> None:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(pair.transport.ssl_object.read(1))
        except ssl.SSLError as error:
            found.append(type(error))

    pair.app.eof_received = look  # type: ignore[method-assign]
    pair.transport.data_received(pair.receive(b"cut"))
    assert not pair.transport.eof_received()
    assert found == [ssl.SSLEOFError]
    other = Pair()
    other.shake()
    other.app.eof_received = lambda: found.append(other.transport.ssl_object.read(1))  # type: ignore[method-assign]
    with pytest.raises(ssl.SSLWantReadError):
        other.server.unwrap()
    other.transport.data_received(other.records())
    assert found == [ssl.SSLEOFError, b""]
    other.transport.connection_lost(None)


async def test_close_says_goodbye_after_what_was_written(pair: Pair) -> None:
    pair.transport.write(b"last words")
    pair.transport.close()
    pair.transport.close()
    pair.transport.write(b"too late")
    assert pair.raw.calls == ["close"]
    pair.pump()
    assert pair.server.read(100) == b"last words"
    assert pair.server.read(100) == b"", "close_notify"
    pair.transport.data_received(b"whatever comes now")
    assert pair.app.told == ["made"]


async def test_abort_says_nothing(pair: Pair) -> None:
    pair.transport.abort()
    pair.transport.abort()
    assert pair.transport.is_closing()
    assert set(pair.raw.calls) == {"abort"}
    assert not pair.raw.sent
    pair.transport.connection_lost(None)
    assert pair.app.told == ["made", ("lost", None)]
    pair.transport.connection_lost(None)
    assert pair.app.told.count(("lost", None)) == 1


async def test_a_bad_record_ends_it_after_what_was_good(pair: Pair) -> None:
    good, bad = pair.receive(b"good"), bytearray(pair.receive(b"bad"))
    bad[-1] ^= 1
    pair.transport.data_received(good + bytes(bad))
    assert pair.app.told == ["made", b"good"]
    assert pair.raw.calls == ["close"]
    pair.pump()
    with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
        pair.server.read(1)  # the alert has come
    pair.transport.connection_lost(None)
    (_, error) = pair.app.told[-1]
    assert isinstance(error, ssl.SSLError)
    assert "MAC" in str(error).upper()


async def test_a_bad_record_does_not_wait_for_a_peer_that_does_not_read(pair: Pair) -> None:
    bad = bytearray(pair.receive(b"bad"))
    bad[-1] ^= 1
    pair.raw.unsent = [1]
    pair.transport.data_received(bytes(bad))
    assert pair.raw.calls == ["abort"]


async def test_a_record_out_of_place(pair: Pair) -> None:
    pair.transport.data_received(b"\x14\x03\x03\x00\x01\x01")  # ChangeCipherSpec (RFC 8446 5)
    assert pair.raw.calls == ["close"]
    pair.pump()
    with pytest.raises(ssl.SSLError, match=r"(?i)unexpected.message"):
        pair.server.read(1)


async def test_the_water_marks_are_the_raw_transports(pair: Pair) -> None:
    pair.transport.pause_writing()
    pair.transport.resume_writing()
    assert pair.app.told == ["made", "pause", "resume"]


async def test_a_raw_transport_that_is_full_when_the_handshake_ends() -> None:
    pair = Pair()
    pair.transport.pause_writing()
    assert pair.app.told == []
    pair.shake()
    assert pair.app.told == ["made", "pause"]
    pair.transport.resume_writing()
    assert pair.app.told == ["made", "pause", "resume"]


async def test_a_protocol_that_hands_over_when_it_is_told_of_the_connection() -> None:
    heir = App()
    pair = Pair()

    class Herald(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.set_protocol(heir)
            heir.connection_made(transport)

    pair.transport.set_protocol(Herald())
    pair.transport.pause_writing()
    pair.shake()
    pair.transport.data_received(pair.receive(b"x"))
    assert heir.told == ["made", "pause", b"x"]


async def test_closing_waits_for_unsent_data_while_there_is_progress(pair: Pair) -> None:
    pair.raw.unsent = [3, 2, 1, 1]
    pair.transport.close()
    assert pair.raw.calls == ["close"]
    await pair.raw.aborted.wait()
    assert pair.raw.unsent == [1]
    assert pair.raw.calls == ["close", "abort"]


async def test_a_loss_stops_the_wait(pair: Pair) -> None:
    pair.raw.unsent = [3]
    pair.transport.close()
    timer = pair.transport._timer
    assert timer is not None
    pair.transport.connection_lost(None)
    assert timer.cancelled()
    assert pair.raw.calls == ["close"]


async def test_a_refused_certificate_is_told_to_the_server() -> None:
    pair = Pair(client=ssl.create_default_context())
    with suppress(ssl.SSLWantReadError):
        pair.pump()
        pair.server.do_handshake()
    pair.transport.data_received(pair.records())
    with pytest.raises(ssl.SSLCertVerificationError):
        await pair.transport.handshake
    assert pair.raw.calls == ["close"]
    pair.pump()
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        pair.server.do_handshake()
    pair.transport.connection_lost(None)
    assert pair.app.told == [], "there was no connection to lose"


async def test_a_server_that_refuses() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    configure(server, client)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    pair = Pair(server, client)
    pair.pump()
    with pytest.raises(ssl.SSLError):
        pair.server.do_handshake()
    pair.transport.data_received(pair.records())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        await pair.transport.handshake
    assert pair.app.told == []


async def test_a_loss_during_the_handshake() -> None:
    pair = Pair()
    assert not pair.transport.eof_received()
    pair.transport.connection_lost(None)
    with pytest.raises(ConnectionResetError, match="handshake"):
        await pair.transport.handshake
    pair = Pair()
    pair.transport.connection_lost(OSError(5, "why"))
    with pytest.raises(OSError, match="why"):
        await pair.transport.handshake
    assert pair.app.told == []


@pytest.mark.parametrize("ending", ["abort", "close"])
async def test_giving_up_during_the_handshake(ending: str) -> None:
    pair = Pair()
    getattr(pair.transport, ending)()
    assert pair.raw.calls == ["abort"]
    assert pair.transport.handshake.cancelled()
    pair.pump()
    with suppress(ssl.SSLWantReadError):
        pair.server.do_handshake()
    pair.transport.data_received(pair.records())
    pair.transport.connection_lost(None)
    assert pair.app.told == []
    late = TLSTransport(asyncio.get_running_loop(), make_tls().client_context, "localhost", 1)
    late.abort()
    raw = Raw()
    late.connection_made(raw)
    assert raw.calls == ["abort"]
    assert not raw.sent


async def test_what_it_knows(pair: Pair) -> None:
    know = pair.transport.get_extra_info
    assert know("peername") == ("198.51.100.7", 443)
    assert know("ssl_object") is pair.transport.ssl_object
    assert isinstance(know("sslcontext"), ssl.SSLContext)
    assert know("cipher") == pair.transport.ssl_object.cipher()
    assert know("peercert")["subjectAltName"]
    assert know("compression") is None
    assert know("nothing", 7) == 7
    assert pair.transport.get_protocol() is pair.app
    assert not pair.transport.can_write_eof()
    with pytest.raises(NotImplementedError):
        pair.transport.write_eof()


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.data = b""

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += bytes(self.buffer[:nbytes])


async def test_a_protocol_with_a_buffer_of_its_own(pair: Pair) -> None:
    buffered = Buffered(1000)
    pair.transport.set_protocol(buffered)
    pair.transport.data_received(pair.receive(b"ab" * 1700))
    assert buffered.data == b"ab" * 1700
    pair.transport.set_protocol(Buffered(0))
    with pytest.raises(RuntimeError, match="empty buffer"):
        pair.transport.data_received(pair.receive(b"x"))


async def test_a_buffered_protocol_that_hands_over_in_the_middle(pair: Pair) -> None:
    heir = App()

    class Leaving(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            pair.transport.set_protocol(heir)

    leaving = Leaving(3)
    pair.transport.set_protocol(leaving)
    pair.transport.data_received(pair.receive(b"abcdef"))
    assert (leaving.data, heir.data) == (b"abc", b"def")


async def test_a_callback_that_raises_is_the_raw_transports_business(pair: Pair) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    pair.app.on_data = fail
    with pytest.raises(ZeroDivisionError):
        pair.transport.data_received(pair.receive(b"x"))


class Scripted:
    """In place of an SSL object that renegotiates, which no server here can be made to do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.blocked = True

    def write(self, data: Any) -> int:
        if self.blocked:
            raise ssl.SSLWantReadError
        return int(self.inner.write(data))


@pytest.fixture
def blocked(pair: Pair) -> Scripted:
    scripted = Scripted(pair.transport.ssl_object)
    pair.transport._encrypt = scripted.write
    return scripted


async def test_writes_wait_for_a_renegotiation(pair: Pair, blocked: Scripted) -> None:
    pair.transport.write(b"one ")
    pair.transport.write(b"two " * 30_000)
    pair.transport.write(b"three")
    assert not pair.raw.sent
    pair.transport.data_received(pair.receive(b"still"))
    assert not pair.raw.sent
    blocked.blocked = False
    pair.transport.data_received(pair.receive(b"done"))
    assert pair.read() == b"one " + b"two " * 30_000 + b"three"
    assert pair.app.data == b"stilldone"


async def test_a_renegotiation_that_does_not_end_holds_no_more_than_was_written(
    pair: Pair, blocked: Scripted
) -> None:
    pair.transport.write(b"x" * 10)
    pair.transport.write(b"y" * 100_000)
    assert pair.app.told == ["made", "pause"]
    assert pair.transport.get_write_buffer_size() == 100_010
    pair.transport.pause_writing()
    blocked.blocked = False
    pair.transport.data_received(pair.receive(b"done"))
    assert pair.app.told == ["made", "pause", b"done"], "the raw transport is full by now"
    assert pair.transport.get_write_buffer_size() == 0
    pair.transport.resume_writing()
    assert pair.app.told == ["made", "pause", b"done", "resume"]


async def test_a_write_from_inside_pause_writing_comes_after_the_one_that_filled_it(pair: Pair) -> None:
    write = pair.raw.write

    def filling(data: Any) -> None:
        write(data)
        if not pair.transport._full:
            pair.transport.pause_writing()

    pair.raw.write = filling  # type: ignore[method-assign]
    pair.app.pause_writing = lambda: pair.transport.write(b"after")  # type: ignore[method-assign]
    pair.transport.write(b"x" * 200_000)
    assert pair.read() == b"x" * 200_000 + b"after"


@pytest.mark.parametrize("ending", ["abort", "close"])
async def test_an_end_from_inside_pause_writing_is_the_end(pair: Pair, ending: str) -> None:
    sent: list[int] = []

    def filling(data: Any) -> None:
        assert not {"abort", "close"}.intersection(pair.raw.calls)
        sent.append(len(data))
        if not pair.transport._full:
            pair.transport.pause_writing()

    pair.raw.write = filling  # type: ignore[method-assign]
    pair.app.pause_writing = getattr(pair.transport, ending)  # type: ignore[method-assign]
    pair.transport.write(b"x" * 1_000_000)
    assert sum(sent) < 100_000
    pair.transport.connection_lost(None)
    assert pair.app.told == ["made", ("lost", None)]


@pytest.mark.parametrize("ending", ["abort", "close"])
@pytest.mark.parametrize("moment", ["connection_made", "data_received"])
async def test_an_end_from_inside_a_callback(ending: str, moment: str) -> None:
    pair = Pair()
    if moment == "connection_made":
        made = pair.app.connection_made

        def leaving(transport: Any) -> None:
            made(transport)
            getattr(transport, ending)()

        pair.app.connection_made = leaving  # type: ignore[method-assign]
    pair.app.on_data = lambda _: getattr(pair.transport, ending)()
    pair.shake(early=b"early")
    pair.transport.data_received(pair.receive(b"late"))
    pair.transport.write(b"unsent")
    assert pair.app.data == (b"" if moment == "connection_made" else b"early")
    assert pair.raw.calls == [ending]
    pair.transport.connection_lost(None)
    assert pair.app.told[-1] == ("lost", None)


async def early_pair() -> Pair:
    """The server has said something behind its handshake, and the client has paused before."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    configure(server, client)
    pair = Pair(server, client)
    made = pair.app.connection_made

    def pausing(transport: Any) -> None:
        made(transport)
        transport.pause_reading()

    pair.app.connection_made = pausing  # type: ignore[method-assign]
    pair.shake(early=b"settings")
    assert pair.app.told == ["made"]
    return pair


async def test_an_end_right_behind_what_was_held_loses_nothing() -> None:
    pair = await early_pair()
    pair.transport.resume_reading()
    pair.transport.eof_received()
    await asyncio.sleep(0)
    assert pair.app.told == ["made", b"settings", "eof"]


async def test_a_pause_before_what_was_held_could_come() -> None:
    pair = await early_pair()
    pair.transport.resume_reading()
    pair.transport.pause_reading()
    await asyncio.sleep(0)
    assert pair.app.told == ["made"]
    pair.transport.resume_reading()
    pair.transport.data_received(pair.receive(b" and more"))
    await asyncio.sleep(0)
    assert pair.app.told == ["made", b"settings and more"]


async def test_a_callback_that_raises_out_of_turn_ends_the_connection() -> None:
    pair = await early_pair()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    pair.app.on_data = fail
    pair.transport.resume_reading()
    await asyncio.sleep(0)
    assert [type(error) for error in told] == [ZeroDivisionError]
    assert pair.raw.calls[-1] == "abort"
    pair.transport.connection_lost(None)
    assert pair.app.told[-1] == ("lost", told[0])


async def test_a_raw_transport_that_has_failed_is_closing(pair: Pair) -> None:
    assert not pair.transport.is_closing()
    pair.raw.calls.append("abort")
    assert pair.transport.is_closing()


@pytest.mark.parametrize("offered", [True, False])
async def test_a_server_that_asks_for_a_certificate_after_the_handshake(offered: bool) -> None:
    import trustme

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    configure(server, client)
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.configure_trust(server)
    server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_OPTIONAL
    client.post_handshake_auth = True
    if offered:
        authority.issue_cert("me", key_type=trustme.KeyType.ECDSA).configure_cert(client)
    pair = Pair(server, client)
    pair.shake()
    assert pair.server.getpeercert() is None
    pair.server.verify_client_post_handshake()  # type: ignore[attr-defined]
    pair.transport.data_received(pair.receive(b"who are you?"))
    assert pair.app.data == b"who are you?"
    assert pair.raw.sent, "answered without waiting for a write"
    assert pair.read() == b""
    assert bool(pair.server.getpeercert()) == offered
    pair.transport.write(b"me")
    assert pair.read() == b"me"
