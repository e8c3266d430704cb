r"""A server that does exactly what its script says: `ScriptedPeer`.

A script is a coroutine function of one `PeerConnection`. It runs once per connection, on the event loop of
the test, and may await whatever the test awaits: where other servers sleep, a script waits for an event.

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await release.wait()                    # an asyncio.Event of the test
        await connection.send_slowly(b"ok")     # each byte for itself
        await connection.read_eof()             # the client closes and has sent nothing more

Nothing is read from the socket beyond what scripts ask for (and 64 KiB), so a script that does not read
puts backpressure on the client. A script that fails (an `expect` that got something else, any exception)
resets its connection and makes leaving `async with ScriptedPeer(...)` raise a `PeerError` that says what
happened on which connection. When a script ends, its connection stays until the client closes it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..core.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

Script: TypeAlias = "Callable[[PeerConnection], Awaitable[Any]]"

_READ_AHEAD = 65536
_RECORDED = 1 << 20


class PeerError(AssertionError):
    """What came over the connection is not what the script expected."""


class PeerRequest(NamedTuple):
    """A request as it arrived."""

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes
    head: bytes
    """The head's very bytes, blank line included."""


class PeerTLS(NamedTuple):
    """A certificate for 127.0.0.1 and localhost, and contexts for both sides that know its CA."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    ca_pem: bytes


_tls: PeerTLS | None = None


def make_tls() -> PeerTLS:
    """The TLS of this process's tests, made once: a key takes time to make (needs `trustme`)."""
    global _tls
    if _tls is None:
        import trustme

        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost", "::1").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        _tls = PeerTLS(server, client, authority.cert_pem.bytes())
    return _tls


class PeerConnection(asyncio.Protocol):
    """One connection, from the server's side. Scripts get it; tests find it in `ScriptedPeer.connections`."""

    def __init__(self, peer: ScriptedPeer, index: int, tls: bool) -> None:
        self.index = index
        """0 for the first connection."""
        self.received = bytearray()
        """What the client has sent, the first MiB of it."""
        self.received_size = 0
        """How many bytes the client has sent that were read from the socket."""
        self.requests: list[PeerRequest] = []
        """What `read_request()` and `read_head()` returned."""
        self.eof = False
        """Whether the client has closed its sending side."""
        self.lost = False
        """Whether the connection is gone."""
        self.script_ended = False
        """Whether the script has ended. The connection then lasts until the client closes it."""
        self.error: Exception | None = None
        """What ended the connection, if the kernel gave a reason (a reset by the client)."""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # from connection_made on
        self._peer = peer
        self._tls = tls
        self._buffer = bytearray()
        self._changed = asyncio.Event()
        self._reading = True
        self._may_write = asyncio.Event()
        self._may_write.set()

    # --------------------------------------------------------------------- asyncio's side of things

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self._peer._connected(self)

    def data_received(self, data: bytes) -> None:
        self.received_size += len(data)
        if len(self.received) < _RECORDED:
            self.received += data
        self._buffer += data
        if len(self._buffer) >= _READ_AHEAD and self._reading:
            self._reading = False
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        self.eof = True
        self._changed.set()
        # Plain TCP stays open for our half, for as long as there is a script that may want it.
        return not self._tls and not self.script_ended

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.eof = True
        self.error = error
        self._may_write.set()
        self._changed.set()
        self._peer._disconnected()

    # ------------------------------------------------------------------------------------- reading

    async def _more(self) -> bool:
        """Wait for more bytes; False at the end of them."""
        if self.eof:
            return False
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        self._changed.clear()
        await self._changed.wait()
        return True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def expect(self, data: bytes) -> None:
        """Read exactly these bytes.

        Raises:
            PeerError: something else came. Found at the first byte that differs.
        """
        while True:
            got = bytes(self._buffer[: len(data)])
            if not data.startswith(got):
                raise PeerError(f"expected {data!r}, got {bytes(self._buffer[: len(data) + 80])!r}")
            if len(got) == len(data):
                self._take(len(data))
                return
            if not await self._more():
                raise PeerError(f"expected {data!r}, got {got!r} and the end")

    async def read_exactly(self, size: int) -> bytes:
        """Read that many bytes."""
        while len(self._buffer) < size:
            if not await self._more():
                raise PeerError(
                    f"expected {size} bytes, got {len(self._buffer)} and the end: {bytes(self._buffer[:80])!r}"
                )
        return self._take(size)

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to and including `mark`."""
        while (at := self._buffer.find(mark)) < 0:
            if not await self._more():
                raise PeerError(
                    f"expected something up to {mark!r}, got {bytes(self._buffer[:200])!r} and the end"
                )
        return self._take(at + len(mark))

    async def read_some(self) -> bytes:
        """Read what there is, at least one byte; `b""` at the end."""
        while not self._buffer:
            if not await self._more():
                return b""
        return self._take(len(self._buffer))

    async def read_head(self) -> PeerRequest:
        """Read a request head; the body stays unread."""
        head = await self.read_until(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        words = lines[0].decode("latin-1").split(" ")
        if len(words) != 3:
            raise PeerError(f"not a request line: {lines[0]!r}")
        fields = []
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                raise PeerError(f"not a header line: {line!r}")
            fields.append((name, value.strip(b" \t")))
        request = PeerRequest(words[0], words[1], words[2], Headers.from_raw(tuple(fields)), b"", head)
        self.requests.append(request)
        return request

    async def read_request(self) -> PeerRequest:
        """Read a request with its body."""
        request = await self.read_head()
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join([chunk async for chunk in self._chunks()])
        else:
            body = await self.read_exactly(int(request.headers.get("content-length", "0")))
        request = self.requests[-1] = request._replace(body=body)
        return request

    async def next_request(self) -> PeerRequest | None:
        """Read a request with its body; None if the client closes instead of sending one."""
        while not self._buffer:
            if not await self._more():
                return None
        return await self.read_request()

    async def _chunks(self) -> Any:
        while size := int(await self.read_until(b"\r\n"), 16):
            yield await self.read_exactly(size)
            await self.expect(b"\r\n")
        while await self.read_until(b"\r\n") != b"\r\n":
            pass  # trailers

    async def read_eof(self) -> None:
        """Wait until the client closes, having sent nothing that was not read.

        Raises:
            PeerError: it has sent something.
        """
        while await self._more():
            pass
        if self._buffer:
            raise PeerError(f"expected the end, got {bytes(self._buffer[:200])!r}")

    async def closed(self) -> None:
        """Wait until the client has closed or the connection is gone, whatever it sends before."""
        while await self._more():
            self._buffer.clear()

    stall = closed
    """Do nothing until the client gives up: a script's last step where a silent server is wanted."""

    @property
    def buffered(self) -> bytes:
        """What has arrived and no script has read."""
        return bytes(self._buffer)

    # ------------------------------------------------------------------------------------- writing

    async def send(self, *data: bytes | str) -> None:
        """Send bytes (or latin-1 text), in one write. Waits while the client does not take them."""
        if not self.lost:
            self.transport.write(
                b"".join(part.encode("latin-1") if isinstance(part, str) else part for part in data)
            )
            await self._may_write.wait()

    async def send_slowly(self, data: bytes, turns: int = 2) -> None:
        """Send each byte in a segment of its own, some loop turns apart."""
        for at in range(len(data)):
            await self.send(data[at : at + 1])
            for _ in range(turns):
                await asyncio.sleep(0)

    async def respond(
        self, body: bytes = b"", status: int = 200, headers: str = "", *, length: int | None = None
    ) -> None:
        """Send a whole response with a content-length; `headers` are lines that end in CRLF."""
        size = len(body) if length is None else length
        await self.send(f"HTTP/1.1 {status} Scripted\r\ncontent-length: {size}\r\n{headers}\r\n", body)

    # -------------------------------------------------------------------------------------- ending

    def _socket(self) -> socket.socket:
        # A duplicate, because transports do not let their socket be touched.
        return socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))

    def half_close(self) -> None:
        """Close our sending side; the client can still send."""
        if not self.lost:
            self.transport.write_eof()

    def truncate(self) -> None:
        """Close our sending side below TLS: the client sees the end without a close_notify."""
        if not self.lost:
            with self._socket() as duplicate:
                duplicate.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send a reset (RST): what was not read yet is lost to the client."""
        if not self.lost:
            with self._socket() as duplicate:
                if duplicate.family != socket.AF_UNIX:
                    duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def close(self) -> None:
        """Close after what was sent."""
        if not self.lost:
            self.transport.close()

    def __repr__(self) -> str:
        state = "lost" if self.lost else "open"
        return f"<PeerConnection {self.index} {state}, {self.received_size} bytes received>"


def serve(*responses: bytes, then: str = "close") -> Script:
    """A script that answers the n-th request of a connection with the n-th response, byte for byte.

    Args:
        responses: whole responses.
        then: after the last: ``"close"``, ``"reset"``, ``"half_close"``, or ``"stall"`` until the client closes.
    """

    async def script(connection: PeerConnection) -> None:
        for response in responses:
            await connection.read_request()
            await connection.send(response)
        if then == "stall":
            await connection.stall()
        else:
            getattr(connection, then)()

    return script


class ScriptedPeer:
    """A server on a free port of 127.0.0.1, or on a unix socket, whose connections follow a script.

    Args:
        script: run for every connection, or a sequence: the n-th for the n-th connection. A connection
            beyond the sequence is a `PeerError`.
        tls: serve TLS with the certificate of `make_tls()`, or with a context of your own.
        unix: listen on a unix socket in a temporary folder; see `socket_path`.

    Leaving the context closes everything. It raises `PeerError` if a script failed; scripts that are still
    waiting then are cancelled without complaint (`finished()` waits for them).
    """

    def __init__(
        self, script: Script | Sequence[Script], *, tls: bool | ssl.SSLContext = False, unix: bool = False
    ) -> None:
        self.connections: list[PeerConnection] = []
        """All connections in the order of their coming."""
        self.port = 0
        self.socket_path: str | None = None
        """Where the unix socket is."""
        self.errors: list[str] = []
        """What went wrong in scripts."""
        self._script = script
        self._tls = make_tls().server_context if tls is True else tls or None
        self._unix = unix
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._cause: BaseException | None = None

    @property
    def origin(self) -> str:
        """Such as ``"http://127.0.0.1:54321"``."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://localhost" if self._unix else f"{scheme}://127.0.0.1:{self.port}"

    @property
    def client_context(self) -> ssl.SSLContext:
        """A client's context that trusts this server."""
        return make_tls().client_context

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return sum(not connection.lost for connection in self.connections)

    @property
    def requests(self) -> list[PeerRequest]:
        """What all connections have read, connection by connection."""
        return [request for connection in self.connections for request in connection.requests]

    async def start(self) -> Self:
        """Begin to listen. `async with` does it."""
        loop = asyncio.get_running_loop()
        if self._unix:
            self._folder = tempfile.TemporaryDirectory(prefix="peer-")
            self.socket_path = str(Path(self._folder.name) / "socket")
            self._server = await loop.create_unix_server(self._accept, self.socket_path, ssl=self._tls)
        else:
            self._server = await loop.create_server(self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    def stop_listening(self) -> None:
        """Refuse connections from now on; those that are there stay."""
        if self._server is not None:
            self._server.close()

    async def wait_for(self, condition: Callable[[ScriptedPeer], Any], timeout: float = 10.0) -> None:
        """Wait until `condition(peer)` holds after a connection came, went or failed. `timeout` in seconds.

        Raises:
            TimeoutError: it never held.
        """
        try:
            async with asyncio.timeout(timeout):
                while not condition(self):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"the peer waited {timeout:g} s: {self.connections}, {self.errors}") from None

    async def accepted(self, count: int, timeout: float = 10.0) -> None:
        """Wait until `count` connections have come."""
        await self.wait_for(lambda peer: len(peer.connections) >= count, timeout)

    async def all_closed(self, timeout: float = 10.0) -> None:
        """Wait until no connection is open."""
        await self.wait_for(lambda peer: not peer.open, timeout)

    async def finished(self, timeout: float = 10.0) -> None:
        """Wait until the scripts of all connections so far have ended, and raise if one failed.

        Raises:
            PeerError: a script failed. TimeoutError: one did not end.
        """
        await self.wait_for(lambda _: all(task.done() for task in self._tasks), timeout)
        self.check()

    def check(self) -> None:
        """Raise if a script has failed.

        Raises:
            PeerError: says where and why.
        """
        if self.errors:
            raise PeerError("; ".join(self.errors)) from self._cause

    async def stop(self) -> None:
        """Close everything, complaining of nothing."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            if not connection.lost:
                connection.transport.abort()
        await self.wait_for(lambda peer: not peer.open)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        # When the test has failed as well, this one shows it as its context: the script knows more.
        self.check()

    def _accept(self) -> PeerConnection:
        return PeerConnection(self, len(self.connections), self._tls is not None)

    def _connected(self, connection: PeerConnection) -> None:
        # TLS handshakes may end in another order than they began.
        connection.index = len(self.connections)
        self.connections.append(connection)
        task = asyncio.get_running_loop().create_task(self._run(connection))
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        self._changed.set()

    def _ended(self, _: object) -> None:
        self._changed.set()

    def _disconnected(self) -> None:
        self._changed.set()

    async def _run(self, connection: PeerConnection) -> None:
        number = connection.index + 1
        try:
            if callable(self._script):
                script: Script = self._script
            elif connection.index < len(self._script):
                script = self._script[connection.index]
            else:
                raise PeerError(f"there is a script for {len(self._script)} connections only")
            await script(connection)
        except Exception as error:
            if not isinstance(error, PeerError):
                self._cause = self._cause or error
            said = str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"
            self.errors.append(f"connection {number}: {said}")
            connection.reset()
        finally:
            connection.script_ended = True
            if connection.eof:
                connection.close()
