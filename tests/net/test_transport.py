"""What makes a transport: the same promises, whoever encrypts."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tests.peers.kit import answering, fetch

from dodici import Client, ConnectError, InvalidArgumentError, SocketError, TLSError
from dodici.net import tls as tls_contexts
from dodici.net.connector import Connector, ConnectTarget
from dodici.net.tls import negotiated
from dodici.net.tls_transport import TLSTransport
from dodici.net.transport import TLS, VARIABLE, check_kind, open_transport, start_tls
from dodici.testing import PeerConnection, ScriptedPeer
from dodici.testing.peers import make_tls

KINDS = ["auto", "loop"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv(VARIABLE, raising=False)
    return str(request.param)


def options(kind: str, context: ssl.SSLContext | None = None) -> dict[str, Any]:
    return {"ssl_context": context or make_tls().client_context, "transport": kind}


class App(asyncio.Protocol):
    """Notes what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eof = False
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def eof_received(self) -> None:
        self.eof = True

    def pause_writing(self) -> None:
        self.paused.set()

    def resume_writing(self) -> None:
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self.changed.set()

    async def until(self, size: int) -> None:
        while len(self.data) < size:
            assert not self.lost.done()
            self.changed.clear()
            await self.changed.wait()


async def connect(peer: ScriptedPeer, kind: str, **changes: Any) -> tuple[Any, App]:
    target = ConnectTarget(peer.origin, "https", "127.0.0.1", peer.port, "localhost")
    return await Connector(**{**options(kind), **changes})(target, App)


async def test_each_kind_is_what_it_says(kind: str) -> None:
    async with ScriptedPeer(answering, tls=True) as peer:
        transport, app = await connect(peer, kind)
        assert isinstance(transport, TLSTransport) == (kind == "auto")
        assert transport.get_protocol() is app
        assert transport.get_extra_info("peername")[1] == peer.port
        assert transport.get_extra_info("socket").fileno() > 0
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert transport.get_extra_info("sslcontext") is make_tls().client_context
        transport.close()
        await app.lost


async def test_plain_connections_are_the_loops() -> None:
    async with ScriptedPeer(answering) as peer:
        sock = socket.create_connection(("127.0.0.1", peer.port))
        sock.setblocking(False)
        transport, app = await open_transport(asyncio.get_running_loop(), App, sock, None)
        assert not isinstance(transport, TLSTransport)
        assert negotiated(transport) is None
        transport.abort()
        await app.lost


async def test_bodies_both_ways(kind: str) -> None:
    body = os.urandom(3_000_000)

    async def echo(connection: PeerConnection) -> None:
        while (request := await connection.next_request()) is not None:
            await connection.respond(request.body)

    async with ScriptedPeer(echo, tls=True) as peer, Client(peer.origin, connect=options(kind)) as client:
        response = await client.request("/", method="POST", body=body)
        assert await response.bytes() == body


async def test_pausing_holds_everything_and_resuming_brings_everything(kind: str) -> None:
    # The last record is short and comes with the last full ones: it must not be forgotten behind a pause.
    body = os.urandom(1_048_576) + b"the end"

    async def pour(connection: PeerConnection) -> None:
        await connection.send(body)
        await connection.closed()

    async with ScriptedPeer(pour, tls=True) as peer:
        transport, app = await connect(peer, kind)
        while len(app.data) < len(body):
            app.changed.clear()
            transport.resume_reading()
            await app.changed.wait()
            transport.pause_reading()
            held = len(app.data)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(app.data) == held
        assert bytes(app.data) == body
        transport.close()
        await app.lost


async def test_water_marks_and_an_abort_in_the_middle(kind: str) -> None:
    async def deaf(connection: PeerConnection) -> None:
        await connection.read_exactly(1)
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.resume_reading()
        await connection.closed()

    release = asyncio.Event()
    async with ScriptedPeer(deaf, tls=True) as peer:
        transport, app = await connect(peer, kind)
        while not app.paused.is_set():
            transport.write(bytes(65_536))
            await asyncio.sleep(0)
        assert not app.resumed.is_set()
        release.set()
        await app.resumed.wait()
        app.paused.clear()
        while not app.paused.is_set():
            transport.write(bytes(1_000_000))
        transport.abort()
        assert await app.lost is None
        await peer.all_closed()


async def test_a_reset_while_writing(kind: str) -> None:
    async def slam(connection: PeerConnection) -> None:
        await connection.read_exactly(1)
        connection.reset()

    async with ScriptedPeer(slam, tls=True) as peer:
        transport, app = await connect(peer, kind)
        while not app.lost.done():
            transport.write(bytes(65_536))
            await asyncio.sleep(0)
        assert isinstance(app.lost.result(), OSError | None)


@pytest.mark.parametrize("ending", ["close", "truncate"])
async def test_only_close_notify_completes_a_body(kind: str, ending: str) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf")
        getattr(connection, ending)()

    async with ScriptedPeer(script, tls=True) as peer, Client(peer.origin, connect=options(kind)) as client:
        record = await fetch(client)
        assert record.body == b"half"
        if ending == "close":
            assert record.error is None
        else:
            assert isinstance(record.error, SocketError)
            assert "close_notify" in str(record.error)


async def test_a_polite_end_is_polite(kind: str) -> None:
    async with ScriptedPeer(answering, tls=True) as peer:
        async with Client(peer.origin, connect=options(kind)) as client:
            await fetch(client)
        await peer.all_closed()
        assert peer.connections[0].error is None


async def test_an_upgraded_socket(kind: str) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello ")
        await connection.expect(b"ping" * 50_000)
        await connection.send(b"pong")
        await connection.read_eof()

    async with ScriptedPeer(script, tls=True) as peer, Client(peer.origin, connect=options(kind)) as client:
        upgraded = await client.upgrade("/", protocol="echo")
        async with upgraded.socket as sock:
            assert await sock.read_exactly(6) == b"hello "
            await sock.write(b"ping" * 50_000)
            assert await sock.read_exactly(4) == b"pong"


# -- handshakes that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["untrusted", "name", "plain", "closed", "reset"])
async def test_what_a_failed_handshake_is(kind: str, fault: str) -> None:
    async def nothing(connection: PeerConnection) -> None:
        await connection.read_some()
        await connection.send(b"HTTP/1.1 400 Plain HTTP\r\n\r\n")
        await connection.closed()

    async def leave(connection: PeerConnection) -> None:
        await connection.read_some()
        getattr(connection, "close" if fault == "closed" else "reset")()

    context = make_tls().client_context
    name = None
    if fault == "untrusted":
        context = ssl.create_default_context()
    elif fault == "name":
        name = "other.example"
    server: Any = True
    script = answering
    if fault == "plain":
        server, script = False, nothing
    elif fault in {"closed", "reset"}:
        server, script = False, leave
    async with ScriptedPeer(script, tls=server) as peer:
        origin = peer.origin.replace("http:", "https:")
        async with Client(origin, connect={**options(kind, context), "server_name": name}) as client:
            record = await fetch(client)
        peer.errors.clear()
    error = record.error
    assert isinstance(error, ConnectError)
    assert isinstance(error, TLSError) == (fault not in {"closed", "reset"}), error
    if fault in {"untrusted", "name"}:
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
        assert ("other.example" in str(error)) == (fault == "name")
    if fault in {"closed", "reset"}:
        assert isinstance(error.__cause__, OSError)


async def test_a_handshake_that_is_cancelled(kind: str) -> None:
    begun = asyncio.Event()

    async def silent(connection: PeerConnection) -> None:
        await connection.read_some()
        begun.set()
        await connection.closed()

    async with ScriptedPeer(silent) as peer:
        task = asyncio.ensure_future(connect(peer, kind))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.all_closed()
        del task
        gc.collect()  # what was not closed would say so here


def serve_one(listener: socket.socket) -> None:
    """Shake hands as far as the client goes, and return when it has closed."""
    listener.settimeout(10)  # a thread that waits for ever would keep a failed test from ending
    connection, _ = listener.accept()
    connection.settimeout(10)
    with connection, suppress(ssl.SSLError, ConnectionError):
        with make_tls().server_context.wrap_socket(connection, server_side=True) as secure:
            while secure.recv(1000):
                pass


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_handshake_that_is_cancelled_at_any_turn(kind: str, turns: int) -> None:
    # A server in a thread: asyncio's own leaks when a client leaves as early as this.
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = loop.run_in_executor(None, serve_one, listener)
        sock = socket.create_connection(listener.getsockname())
        sock.setblocking(False)
        tls = TLS(make_tls().client_context, "localhost")
        task = asyncio.ensure_future(open_transport(loop, App, sock, tls, kind=kind))
        del sock
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            transport, app = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.abort()  # it was done before
            await app.lost
        del task
        gc.collect()  # what was not closed would say so here
        await served


@pytest.mark.parametrize("name", [".", "", "a" * 300])
async def test_a_name_that_cannot_be_one(name: str) -> None:
    sock = socket.socket()
    with pytest.raises(InvalidArgumentError, match="server name"):
        await open_transport(asyncio.get_running_loop(), App, sock, TLS(make_tls().client_context, name))
    assert sock.fileno() == -1


# -- contexts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "chosen"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), (("other",), None)]
)
async def test_the_target_says_what_is_offered(
    kind: str, tmp_path: Path, offer: tuple[str, ...], chosen: str | None
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(make_tls().ca_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(server)
    authority.cert_pem.write_to_path(str(ca))
    server.set_alpn_protocols(["h2", "http/1.1"])
    async with ScriptedPeer(answering, tls=server) as peer:
        connector = Connector(ca=ca, transport=kind)
        target = ConnectTarget(peer.origin, "https", "127.0.0.1", peer.port, "localhost", offer)
        transport, app = await connector(target, App)
        assert negotiated(transport) == chosen
        transport.close()
        await app.lost
        assert connector.context_for(offer) is transport.get_extra_info("sslcontext")
        assert connector.context_for(("h2",)) is not connector.context_for(("http/1.1",))


async def test_a_context_with_a_key_log(kind: str, tmp_path: Path) -> None:
    context = ssl.create_default_context(cadata=make_tls().ca_pem.decode())
    context.keylog_filename = str(tmp_path / "keys")
    async with ScriptedPeer(answering, tls=True) as peer:
        async with Client(peer.origin, connect=options(kind, context)) as client:
            assert (await fetch(client)).status_code == 200
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


async def test_a_context_that_verifies_by_itself(kind: str) -> None:
    class Refusal(ssl.SSLError):
        pass

    class Picky(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise Refusal(1, "not to my taste")

    context = ssl.create_default_context(cadata=make_tls().ca_pem.decode())
    context.sslobject_class = Picky
    async with ScriptedPeer(answering, tls=True) as peer:
        async with Client(peer.origin, connect=options(kind, context)) as client:
            record = await fetch(client)
        peer.errors.clear()
    assert isinstance(record.error, ConnectError)
    assert isinstance(record.error.__cause__, Refusal)


# -- whom to believe -------------------------------------------------------------------------------------


class Identities:
    """A server whose certificate names one host, and every way of being told whom to trust."""

    def __init__(self, folder: Path, name: str = "right.example") -> None:
        self.authority, self.other = trustme.CA(), trustme.CA()
        self.folder = folder
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(name).configure_cert(self.server)
        self.reused: list[bool] = []

    async def script(self, connection: PeerConnection) -> None:
        self.reused.append(connection.transport.get_extra_info("ssl_object").session_reused)
        await answering(connection)

    def trust(self, source: str, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """The connector's options for trusting this authority alone."""
        pem = self.folder / "authority.pem"
        authority.cert_pem.write_to_path(str(pem))
        monkeypatch.setattr(tls_contexts, "_entries", type(tls_contexts._entries)())
        if source == "file":
            return {"ca": pem}
        if source == "context":
            return {"ssl_context": ssl.create_default_context(cafile=pem)}
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        monkeypatch.setenv("SSL_CERT_DIR", str(self.folder / "none"))
        return {}


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path)


@pytest.mark.parametrize("source", ["file", "system", "context"])
async def test_who_is_refused(
    kind: str, source: str, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "system" and sys.platform in {"darwin", "win32"}:
        pytest.skip("its authorities are not ours to add to")
    async with ScriptedPeer(identities.script, tls=identities.server) as peer:

        async def meet(authority: trustme.CA, name: str | None) -> Any:
            connect = identities.trust(source, authority, monkeypatch)
            async with Client(peer.origin, connect={**connect, "transport": kind}) as client:
                return await fetch(client, **({} if name is None else {"server_name": name}))

        assert (await meet(identities.authority, "right.example")).body == b"ok"
        for authority, name, why in (
            (identities.other, "right.example", "local issuer"),
            (identities.authority, "wrong.example", "wrong.example"),
            (identities.authority, "sub.right.example", "sub.right.example"),
            (identities.authority, None, "127.0.0.1"),
        ):
            record = await meet(authority, name)
            assert isinstance(record.error, TLSError), name
            assert isinstance(record.error.__cause__, ssl.SSLCertVerificationError)
            assert why in str(record.error)
            assert record.body == b""
        peer.errors.clear()
    assert len(peer.requests) == 1, "nothing is sent to a server that is not believed"


async def test_a_session_is_not_taken_for_another_name(
    kind: str, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A resumed handshake shows no certificate, so whoever offers a session must have checked this very name.
    connect = identities.trust("file", identities.authority, monkeypatch)
    connector = Connector(**connect, transport=kind)

    async def elsewhere(target: ConnectTarget, factory: Any) -> Any:
        return await connector(dataclasses.replace(target, server_name="right.example"), factory)

    async with ScriptedPeer(identities.script, tls=identities.server) as peer:
        for through, name, ends_well in (
            (connector, "right.example", True),
            (connector, "right.example", True),
            (connector, "wrong.example", False),
            (elsewhere, "wrong.example", True),
            (connector, "wrong.example", False),
            (elsewhere, "right.example", True),
        ):
            async with Client(peer.origin, connect=through) as client:
                record = await fetch(client, server_name=name)
            assert (record.error is None) == ends_well, (through, name, record.error)
            assert ends_well or isinstance(record.error, TLSError)
        peer.errors.clear()
    assert identities.reused[:2] == [False, True]


async def test_a_renewed_context_checks_as_the_first_one_did(
    kind: str, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = identities.trust("file", identities.authority, monkeypatch)
    monkeypatch.setattr(tls_contexts, "_CHECK_SECONDS", 0)
    connector = Connector(**connect, transport=kind)
    async with ScriptedPeer(identities.script, tls=identities.server) as peer:

        async def meet(name: str) -> Any:
            async with Client(peer.origin, connect=connector) as client:
                return (await fetch(client, server_name=name)).error

        first = connector.ssl_context
        assert await meet("right.example") is None
        other = identities.folder / "other.pem"
        other.write_bytes(identities.authority.cert_pem.bytes() + identities.other.cert_pem.bytes())
        other.replace(connect["ca"])
        assert isinstance(await meet("wrong.example"), TLSError)
        assert await meet("right.example") is None
        assert connector.ssl_context is not first
        identities.other.cert_pem.write_to_path(str(other))
        other.replace(connect["ca"])
        assert isinstance(await meet("right.example"), TLSError)
        peer.errors.clear()
    assert identities.reused == [False, False]


@pytest.mark.parametrize("password", ["right", "wrong", None])
async def test_a_client_certificate_whose_key_has_a_password(
    kind: str, password: str | None, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = identities.other.issue_cert("client.example", common_name="the client")
    cert, key = identities.folder / "client.pem", identities.folder / "client.key"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    private = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"right"),
        )
    )
    identities.other.configure_trust(identities.server)
    identities.server.verify_mode = ssl.CERT_REQUIRED
    seen: list[str] = []

    async def noting(connection: PeerConnection) -> None:
        seen.append(connection.transport.get_extra_info("peercert")["subject"][-1][0][1])
        await answering(connection)

    trust = identities.trust("file", identities.authority, monkeypatch)
    certificate = (str(cert), str(key), password or "")
    connect = {**trust, "transport": kind, "cert": certificate if password else None}
    async with (
        ScriptedPeer(noting, tls=identities.server) as peer,
        Client(peer.origin, connect=connect) as client,
    ):
        record = await fetch(client, server_name="right.example")
        peer.errors.clear()
    if password == "right":
        assert record.body == b"ok"
        assert seen == ["the client"]
    elif password == "wrong":
        assert isinstance(record.error, InvalidArgumentError)
        assert "wrong" not in str(record.error).replace("wrong password", ""), (
            "a password is nobody's business"
        )
    else:
        # TLS 1.3 refuses after the client's side of the handshake (RFC 8446 4.4.2.4).
        assert isinstance(record.error, SocketError)
        assert seen == []


async def test_an_alert_in_the_middle_of_a_response_is_named(kind: str) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    loop = asyncio.get_running_loop()

    def serve() -> None:
        listener.settimeout(10)
        connection, _ = listener.accept()
        connection.settimeout(10)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        engine = server.wrap_bio(incoming, outgoing, server_side=True)

        def until(step: Any) -> Any:
            while True:
                try:
                    found = step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65_536))
                else:
                    return found

        with connection:
            until(engine.do_handshake)
            assert until(lambda: engine.read(1000)).startswith(b"GET")
            engine.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
            incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # no key has made this: a fatal alert for it
            with pytest.raises(ssl.SSLError):
                engine.read(1)
            connection.sendall(outgoing.read())
            with suppress(OSError):
                while connection.recv(1000):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = loop.run_in_executor(None, serve)
        origin = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with Client(origin, connect=options(kind, client)) as dispatcher:
            record = await fetch(dispatcher)
        await served
    if kind == "auto":
        assert record.body == b"half"  # the loops' own TLS drops what they read together with an alert
    assert isinstance(record.error, SocketError)
    assert "BAD_RECORD_MAC" in str(record.error).upper().replace(" ", "_")


# -- TLS on a connection that exists ---------------------------------------------------------------------


class Relay(asyncio.Protocol):
    """What a proxy does: bytes both ways."""

    def __init__(self, other: asyncio.Transport | None = None) -> None:
        self.other = other
        self.early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


@pytest.mark.parametrize("outer", [False, True])
async def test_tls_in_a_tunnel(outer: bool) -> None:
    loop = asyncio.get_running_loop()
    tls = make_tls()

    async def proxy(connection: PeerConnection) -> None:
        await connection.expect(b"tunnel")
        there, relay = await loop.create_connection(
            lambda: Relay(connection.transport), "127.0.0.1", peer.port
        )
        assert relay.transport is there
        back = Relay(there)
        connection.transport.set_protocol(back)
        await connection.send(b"open")
        ends.append(relay)

    ends: list[Relay] = []
    async with ScriptedPeer(answering, tls=True) as peer, ScriptedPeer(proxy, tls=outer) as between:
        sock = socket.create_connection(("127.0.0.1", between.port))
        sock.setblocking(False)
        context = TLS(tls.client_context, "localhost")
        raw, app = await open_transport(loop, App, sock, context if outer else None)
        raw.write(b"tunnel")
        await app.until(4)
        inner, within = await start_tls(loop, raw, App, context)
        assert negotiated(inner) is None
        inner.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await within.until(20)
        assert within.data.startswith(b"HTTP/1.1 200")
        assert inner.get_extra_info("peername")[1] == between.port
        inner.close()
        await within.lost
        between.connections[0].lost = True  # its protocol was another one in the end
        between.connections[0]._changed.set()
        await peer.all_closed()


@pytest.mark.parametrize("fault", ["name", "trust"])
async def test_tls_in_a_tunnel_that_fails(fault: str) -> None:
    loop = asyncio.get_running_loop()
    async with ScriptedPeer(answering, tls=fault == "trust") as peer:
        sock = socket.create_connection(("127.0.0.1", peer.port))
        sock.setblocking(False)
        raw, before = await open_transport(loop, App, sock, None)
        if fault == "name":
            raw.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await before.until(20)
        tls = TLS(ssl.create_default_context(), "." if fault == "name" else "localhost")
        with pytest.raises(InvalidArgumentError if fault == "name" else ssl.SSLCertVerificationError):
            await start_tls(loop, raw, App, tls)
        assert raw.is_closing()
        peer.errors.clear()
        await peer.all_closed()


# -- the choice ------------------------------------------------------------------------------------------


def test_the_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert check_kind("auto") == "auto"
    monkeypatch.setenv(VARIABLE, "loop")
    assert check_kind("auto") == "loop"
    assert Connector().transport == "loop"
    monkeypatch.setenv(VARIABLE, "quick")
    with pytest.raises(InvalidArgumentError, match=f"{VARIABLE} must be one of auto, loop, not 'quick'"):
        check_kind("auto")
    assert check_kind("loop") == "loop"
    with pytest.raises(InvalidArgumentError, match="transport must be one of auto, loop, not 'aiofastnet'"):
        Connector(transport="aiofastnet")
