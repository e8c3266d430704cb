"""A request of the peer's, on its way through an app: its scope, `receive()` and `send()`.

    arrived    in the table of the engine, and queued by the host
    begun      `run()` has made a task of the app
    finished   the app has given all of its response, which may still wait for credit
    given up   the client has cancelled it, the link is lost, or the host has aborted it

The app's task is never cancelled: a client that goes shows as `http.disconnect` and as OSError from the next `send()`
(ASGI 3.0, HTTP spec 2.4). Whatever the app does wrong is an error inside the app, and of this request alone.

A head waits until the end of the loop's turn for its body: what an app gives at once travels in one frame.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from ..core.errors import InvalidArgumentError, SocketError, WebSocketClosedError
from ..core.trace import TRACEPARENT, Trace, current, of_fields
from ..wire.mesh import frames
from ..wire.mesh.heads import RequestHead, encode_response, encode_trailers
from ..wire.mesh.streams import Stream
from .tracing import WorkerSpan, add_fields, worker_span

if TYPE_CHECKING:
    from .contracts import ASGIApp, Scope, StreamOwner
    from .link import Link

_HIGH_WATER = 128 * 1024
"""Bytes of an app's body that may wait for credit or for the transport before `send()` does."""
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ERROR_BODY = b"Internal Server Error"
_ERROR_HEAD = encode_response(
    500, ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_ERROR_BODY)))
)
AWAITING, STARTED, TRAILERS, FINISHED = range(4)


class _Pieces:
    """What requests with the same head have in common in their scopes."""

    __slots__ = ("authority", "names_trace", "scope", "trace")

    def __init__(self, head: RequestHead) -> None:
        self.names_trace = TRACEPARENT in dict(head.fields)
        self.trace: Trace | None = of_fields(head.fields) if self.names_trace else None
        path, _, query = head.target.partition(b"?")
        host, port = _host_and_port(head.authority, head.scheme)
        self.authority = host.rstrip(".") or host
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": head.method,
            "scheme": head.scheme,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "server": (host, port),
            "client": ("mesh", 0),
        }


def _host_and_port(authority: str, scheme: str) -> tuple[str, int]:
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority.strip("[]").lower(), _PORTS[scheme]
    return host.strip("[]").lower(), int(port) if port.isdigit() else _PORTS[scheme]


class ServerStream(Stream):
    """A request of the peer's, of the type ``http``. See the module's text, and `contracts.ServerStream`."""

    __slots__ = (
        "_block",
        "_bodiless",
        "_chunks",
        "_continued",
        "_end_told",
        "_error",
        "_host",
        "_link",
        "_progress",
        "_readers",
        "_scope",
        "_senders",
        "_span",
        "_trailers",
        "authority",
        "given_up",
        "head",
        "task",
    )

    websocket = False

    def __init__(self, link: Link, number: int, head: RequestHead) -> None:
        super().__init__(number, ours=False)
        self._link = link
        self.head = head
        if head.remembered is None:
            head.remembered = _Pieces(head)
        self.authority: str = head.remembered.authority
        self.given_up = False
        self.task: asyncio.Task[None] | None = None
        self._host: StreamOwner | None = None
        self._scope: Scope = {}
        self._chunks: deque[bytes] | None = None
        self._end_told = False
        self._continued = not head.expects
        self._readers: list[asyncio.Future[None]] | None = None
        self._senders: list[asyncio.Future[None]] | None = None
        self._progress = AWAITING
        self._block: bytes | None = None
        self._bodiless = False
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._error: SocketError | WebSocketClosedError | None = None
        self._span: WorkerSpan | None = None

    # -- the host's side -------------------------------------------------------------------------------

    def run(self, app: ASGIApp, state: Mapping[str, Any] | None, host: StreamOwner) -> None:
        self._host = host
        pieces = self.head.remembered
        self._scope = scope = pieces.scope.copy()
        scope["headers"] = list(self.head.fields)
        if state is not None:
            scope["state"] = dict(state)
        self._complete(scope)
        if self.trace is not None or pieces.names_trace:
            if host.trace:
                self._span = worker_span(self.trace, pieces.trace, pieces.names_trace, scope, self.authority)
            elif self.trace is not None:
                add_fields(scope, self.trace)
        self.task = self._link.loop.create_task(self._serve(app, scope, host))

    def _complete(self, scope: Scope) -> None:
        """Add what is of this type of scope."""
        scope["extensions"] = {
            "http.response.trailers": {},
            "http.response.early_hint": {},
            "dodici.mesh": {"worker": self._link.peer.id, "arrived": self._arrived()},
        }

    def _arrived(self) -> int | None:
        """Bytes of the request's body, if all of it is here."""
        return sum(map(len, self._chunks or ())) if self.heard else None

    def refuse(self, reason: str) -> None:
        self._give_up(frames.REFUSED, reason)

    def abort(self, reason: str) -> None:
        if self._progress == STARTED and self._block is not None:
            self.send_head()
        self._give_up(frames.EXITED, reason)

    def _give_up(self, kind: int, reason: str) -> None:
        if self.given_up:
            return
        link = self._link
        if not self.gone:
            link.engine.reset(self, kind, reason)
            link.stage()
        self.on_lost()

    # -- the engine's side -----------------------------------------------------------------------------

    def on_request(self, body: bytes | None) -> None:
        if body:
            self._chunks = deque((body,))
        self._link.accept(self)

    def on_data(self, data: bytes) -> None:
        if self._progress == FINISHED:
            return  # the client stops when it hears of the end
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        self._wake_readers()

    def on_request_end(self) -> None:
        self._wake_readers()

    def on_cancelled(self) -> None:
        self.on_lost()

    def on_lost(self) -> None:
        """The client is not there any more."""
        if self.given_up:
            return
        self.given_up = True
        self._chunks = None
        self._wake_readers()
        self._wake_senders()
        if self.task is None:
            self._link.served_one(self)

    def on_credit(self) -> None:
        if self.queued:
            self._link.stage()

    def on_written(self, count: int) -> None:
        if self._senders is not None and self.queued < _HIGH_WATER:
            self._wake_senders()

    def _wake_readers(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            _wake(readers)

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, None
        if senders is not None:
            _wake(senders)

    # -- the app's side --------------------------------------------------------------------------------

    async def _serve(self, app: ASGIApp, scope: Scope, host: StreamOwner) -> None:
        span = self._span
        if current.get() is not span:
            # A task has the context of whoever made it: where all is in one process, that of another request.
            current.set(span)
        try:
            host.on_request(scope)
            await app(scope, self.receive, self.send)
            if not self.given_up:
                self._returned()
        except (KeyboardInterrupt, SystemExit):
            raise  # the worker ends, and its clients learn of that
        except BaseException as error:
            self._failed(error, scope, host)
        if span is not None:
            span.end()
        try:
            # The request is running to its last byte: a link that is closed behind it must not cut it.
            if self.queued or self.websocket:
                await self._drained()
        finally:
            self._link.served_one(self)
            host.ended(self)

    async def _drained(self) -> None:
        """Wait until all that the app has sent was written, or its client has gone."""
        while self.queued and not self.given_up:
            await self._sender()

    def _returned(self) -> None:
        """The app has returned, and its client is there."""
        if self._progress == AWAITING:
            raise InvalidArgumentError("the app returned without a response")
        if self._progress != FINISHED:
            raise InvalidArgumentError("the app returned in the middle of its response")

    def _failed(self, error: BaseException, scope: Scope, host: StreamOwner) -> None:
        """The app raised, or broke the rules of ASGI."""
        if _stems_from(error, self._error):
            return  # it was told that its client has gone
        if self.given_up and isinstance(error, asyncio.CancelledError):
            return  # the worker ends, and this was left over
        if self._span is not None:
            self._span.status = type(error).__name__
        host.on_error(scope, error)
        if not self.given_up and self._progress != FINISHED:
            self._answer_failure(error, host)

    def _answer_failure(self, error: BaseException, host: StreamOwner) -> None:
        link = self._link
        if self._progress != AWAITING:
            self.send_head()
            link.engine.reset(self, frames.ABORTED, f"the app raised {_one_line(error)}")
        elif host.app_errors == "raise":
            link.engine.reset(self, frames.APP_ERROR, *describe(error))
        else:
            link.engine.respond(self, _ERROR_HEAD, b"" if self.head.method == "HEAD" else _ERROR_BODY)
        self._progress = FINISHED
        link.stage()

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`. After the body it waits until the client has gone or the response is complete."""
        while not self.given_up:
            chunks = self._chunks
            if chunks:
                chunk = chunks.popleft()
                if self._link.engine.consumed(self, len(chunk)):
                    self._link.stage()
                self._end_told = last = bool(self.heard) and not chunks
                return {"type": "http.request", "body": chunk, "more_body": not last}
            if self._progress == FINISHED:
                break
            if self.heard and not self._end_told:
                self._end_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if not self._continued and not self.heard:
                self._continued = True
                if self._progress == AWAITING:
                    self._inform(100, ())
            await self._reader()
        return {"type": "http.disconnect"}

    async def _reader(self) -> None:
        """Wait until there may be something to receive."""
        waiting: asyncio.Future[None] = self._link.loop.create_future()
        if self._readers is None:
            self._readers = []
        self._readers.append(waiting)
        await waiting

    async def send(self, message: Mapping[str, Any]) -> None:
        """ASGI's `send`.

        Raises:
            SocketError: an OSError: the client has gone. InvalidArgumentError: the message is wrong, or is not to
            be sent now.
        """
        if self.given_up:
            raise self._gone()
        kind = message["type"]
        if kind == "http.response.body":
            await self._send_body(message)
        elif kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.early_hint":
            self._inform(103, [(b"link", link) for link in message.get("links", ())])
        else:
            raise InvalidArgumentError(f"unknown ASGI message {kind!r}")

    def _gone(self) -> SocketError | WebSocketClosedError:
        if self._error is None:
            self._error = SocketError("the client has gone")
        return self._error

    def _start(self, message: Mapping[str, Any]) -> None:
        if self._progress != AWAITING:
            raise InvalidArgumentError(f"{message['type']} for a second time")
        status, headers = message["status"], message.get("headers", ())
        if not isinstance(headers, list | tuple):
            headers = list(headers)  # an iterator would be used up by the first to look
        block = encode_response(status, headers)
        if status < 200:
            raise InvalidArgumentError(f"{message['type']} with the interim status {status}")
        host = self._host
        assert host is not None
        host.on_response(self._scope, status, headers)
        self._block = block
        self._progress = STARTED
        if self._span is not None:
            self._span.status = status
        if message.get("trailers", False):
            self._trailers = []
        self._bodiless = status in (204, 304) or self.head.method == "HEAD"
        self._link.hold_head(self)

    def send_head(self) -> None:
        """Send the head if it is still held."""
        block, self._block = self._block, None
        if block is not None and not self.gone:
            self._link.engine.head(self, block)

    async def _send_body(self, message: Mapping[str, Any]) -> None:
        if self._progress != STARTED:
            raise InvalidArgumentError(
                f"{message['type']} before the response's start"
                if not self._progress
                else "body after its end"
            )
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = as_bytes(body)
        if self._bodiless:
            body = b""
        engine = self._link.engine
        if message.get("more_body", False):
            if body:
                self.send_head()
                engine.outbox.send(self, body)
                self._link.stage()
                await self._room()
            return
        if self._trailers is not None:
            self.send_head()
            engine.outbox.send(self, body)
            self._progress = TRAILERS
        elif self._block is not None and len(body) <= frames.INLINE:
            block, self._block = self._block, None
            self._progress = FINISHED
            engine.respond(self, block, body)
        else:
            self.send_head()
            self._progress = FINISHED
            engine.outbox.send(self, body)
            engine.end(self)
        self._wake_readers()
        self._link.stage()
        await self._room()

    async def _room(self) -> None:
        """Wait until what waits is little."""
        while self.queued >= _HIGH_WATER:
            await self._sender()
            if self.given_up:
                raise self._gone()

    async def _sender(self) -> None:
        """Wait until something was written, or the client has gone."""
        waiting: asyncio.Future[None] = self._link.loop.create_future()
        if self._senders is None:
            self._senders = []
        self._senders.append(waiting)
        await waiting

    def _send_trailers(self, message: Mapping[str, Any]) -> None:
        if self._progress != TRAILERS or self._trailers is None:
            raise InvalidArgumentError("trailers that were not announced, or not behind the body")
        self._trailers += message.get("headers", ())
        if not message.get("more_trailers", False):
            block = encode_trailers(self._trailers)
            self._progress = FINISHED
            self._link.engine.end(self, b"" if self.head.method == "HEAD" else block)
            self._wake_readers()
            self._link.stage()

    def _inform(self, status: int, headers: Iterable[Iterable[bytes]]) -> None:
        """Send an interim response."""
        if self._progress != AWAITING:
            raise InvalidArgumentError("an interim response behind the final one")
        self._link.engine.outbox.write(frames.INFO, self.id, encode_response(status, headers))
        self._link.stage()


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def as_bytes(body: object) -> bytes:
    """What an app gave for bytes.

    Raises:
        InvalidArgumentError: it is something else.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise InvalidArgumentError(f"the body must be bytes, not {type(body).__name__}")


def _stems_from(error: BaseException | None, origin: BaseException | None) -> bool:
    """Whether the error is `origin`, or what became of it on its way through the app."""
    for _ in range(32):  # chains may be circular
        if error is None or origin is None:
            return False
        if error is origin:
            return True
        error = error.__cause__ or error.__context__
    return False


def _text(make: Callable[[], str]) -> str:
    """What an exception says of itself may raise, too."""
    try:
        return make()
    except Exception as error:
        return f"<unprintable: {type(error).__name__}>"


def _one_line(error: BaseException) -> str:
    return _text(lambda: f"{type(error).__name__}: {error}")


def describe(error: BaseException) -> tuple[str, str, str]:
    """An exception as text: the name of its type, what it says, and its traceback."""
    return (
        type(error).__name__,
        _text(lambda: str(error)),
        _text(lambda: "".join(traceback.format_exception(error))),
    )
