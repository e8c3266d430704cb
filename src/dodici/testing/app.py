"""The application that the conformance suite talks to: a plain ASGI 3 callable, `conformance_app`.

It needs no server in particular, and nothing but a `Board` joins it to the tests: events and numbers by
name, set on one side and awaited on the other. In one process both sides share `conformance_app.board`,
whatever their threads and loops; across processes the tests reach it through `/board/...` and a
`DispatcherControl` on a second dispatcher.

Every path takes `token` in its query: a name that the test made up, under which the app reports.

    /echo                    reads the body, then answers with JSON: method, path, query, headers (pairs),
                             size and sha256 of the body
    /status/{code}           that status; `length=N` is its content-length without a body (HEAD, 304)
    /bytes/{n}               `pattern(n)` with a content-length
    /stream/{n}              `pattern(n)` without one; `chunk=N` (default 65536) is the size of a piece
    /empty                   200 and content-length 0
    /repeated                set-cookie and x-many, twice each
    /gated                   waits for `{token}:head`, sends a head, and `part-{i};` after each `{token}:{i}`,
                             for `parts=N` parts; sets `{token}:sent:{i}` after it
    /early                   answers 413 without having read the body
    /late-read               reads nothing before `{token}:read-now`, then answers as /echo
    /hints                   103 with a link, then 200 (`http.response.early_hint`)
    /trailers                200, `body` and trailers (`http.response.trailers`)
    /hang                    sends nothing until the client is gone
    /hang-body               sends a head and `begun`, then nothing until the client is gone
    /raise                   raises before the head
    /raise-late              raises after a head and some body
    /board/set/{name}, /board/wait/{name}, /board/get/{name}

Set for each request: `{token}:started`; `{token}:disconnected` when the client went before the end;
`{token}:ended` when the app has returned. Numbers: `{token}:sent` bytes of body that the server took,
`{token}:read` bytes of body that were read, `{token}:count` requests begun.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import parse_qsl, quote

from ..core.handler import DispatchHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from ..core.dispatcher import Dispatcher

Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"

_PATTERN = bytes(range(256)) * 257  # 65,792 bytes: no power of two, so that a slip of a chunk shows


def pattern(size: int, start: int = 0) -> bytes:
    """`size` bytes of the pattern that `/bytes` and `/stream` send, from `start` on."""
    offset = start % len(_PATTERN)
    return (_PATTERN[offset:] + _PATTERN * (size // len(_PATTERN) + 1))[:size]


class Board:
    """Named events and numbers that any thread and any event loop may set and await."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}

    def set(self, name: str) -> None:
        """Make the event happen. It stays."""
        self.add(name, 1)

    def add(self, name: str, number: int) -> None:
        """Count `number` more under the name."""
        with self._lock:
            self._numbers[name] = self._numbers.get(name, 0) + number
            waiting = self._waiting.pop(name, [])
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:
                pass  # that loop has ended, and so has who waited on it

    def get(self, name: str) -> int:
        """The number under the name; 0 if nothing was set."""
        with self._lock:
            return self._numbers.get(name, 0)

    async def wait(self, name: str) -> None:
        """Wait until the event has happened."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if name in self._numbers:
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.setdefault(name, []).append((loop, future))
        await future

    def clear(self) -> None:
        """Forget everything that was set."""
        with self._lock:
            self._numbers.clear()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Control(Protocol):
    """How a test reaches the board of the app."""

    async def set(self, name: str) -> None:
        """Make an event happen."""

    async def wait(self, name: str) -> None:
        """Wait for an event."""

    async def get(self, name: str) -> int:
        """Read a number; 0 if it was never set."""


class BoardControl:
    """A `Control` for an app in this process."""

    def __init__(self, board: Board) -> None:
        self.board = board

    async def set(self, name: str) -> None:
        self.board.set(name)

    async def wait(self, name: str) -> None:
        await self.board.wait(name)

    async def get(self, name: str) -> int:
        return self.board.get(name)


class DispatcherControl:
    """A `Control` for an app elsewhere, through a dispatcher that the test does not use otherwise.

    Args:
        dispatcher: has to allow several dispatches at a time: `wait()` is one that lasts.
        origin: where the app is.
    """

    def __init__(self, dispatcher: Dispatcher, origin: str) -> None:
        self._dispatcher = dispatcher
        self._origin = origin

    async def set(self, name: str) -> None:
        await self._ask("set", name)

    async def wait(self, name: str) -> None:
        await self._ask("wait", name)

    async def get(self, name: str) -> int:
        return int(await self._ask("get", name))

    async def _ask(self, verb: str, name: str) -> bytes:
        answer = _Answer()
        options = {"origin": self._origin, "path": f"/board/{verb}/{quote(name, safe='')}"}
        self._dispatcher.dispatch(options, answer)
        return await answer.body


class _Answer(DispatchHandler):
    """Collects a response."""

    def __init__(self) -> None:
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._chunks: list[bytes] = []

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        if not self.body.done():
            self.body.set_result(b"".join(self._chunks))

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self.body.done():
            self.body.set_exception(error)


class DeliberateError(RuntimeError):
    """What `/raise` raises: not a fault of the app."""


class _Request:
    """One request inside the app."""

    def __init__(self, board: Board, scope: Message, receive: Receive, send: Send) -> None:
        self.board = board
        self.scope = scope
        self.path: str = scope["path"]
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        self.token = self.query.get("token", "anonymous")
        self._receive = receive
        self._send = send
        self.gone = False

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, default))

    def last(self) -> str:
        return self.path.rpartition("/")[2]

    def set(self, event: str) -> None:
        self.board.set(f"{self.token}:{event}")

    async def wait(self, event: str) -> None:
        """Wait for an event of the test, or for the client to go."""
        waiting = asyncio.ensure_future(self.board.wait(f"{self.token}:{event}"))
        going = asyncio.ensure_future(self.until_gone())
        try:
            await asyncio.wait((waiting, going), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, going):
                task.cancel()
            await asyncio.gather(waiting, going, return_exceptions=True)

    async def until_gone(self) -> None:
        while not self.gone:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                self.set("disconnected")

    async def read(self) -> tuple[int, str]:
        """Read the body: its size and digest."""
        digest = hashlib.sha256(usedforsecurity=False)
        size = 0
        more = True
        while more and not self.gone:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                self.set("disconnected")
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            digest.update(chunk)
            if chunk:
                self.board.add(f"{self.token}:read", len(chunk))
            more = message.get("more_body", False)
        return size, digest.hexdigest()

    async def start(self, status: int = 200, headers: Iterable[tuple[str, str]] = (), **more: Any) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw, **more})

    async def body(self, chunk: bytes = b"", more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
        if chunk:
            self.board.add(f"{self.token}:sent", len(chunk))

    async def message(self, kind: str, **fields: Any) -> None:
        await self._send({"type": kind, **fields})

    async def respond(self, body: bytes, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        await self.start(status, [("content-length", str(len(body))), *headers])
        await self.body(b"" if self.scope["method"] == "HEAD" else body)


class ConformanceApp:
    """See the module's text. Every instance has its own `board`."""

    def __init__(self) -> None:
        self.board = Board()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        request = _Request(self.board, scope, receive, send)
        handler = getattr(self, "_" + request.path.split("/")[1].replace("-", "_"), None)
        if handler is None:
            await request.respond(b"no such path", 404)
            return
        request.set("started")
        request.board.add(f"{request.token}:count", 1)
        try:
            await handler(request)
        except (OSError, asyncio.CancelledError):
            # Servers tell of a client that went by an exception from send(), or by cancellation.
            request.set("disconnected")
            raise
        finally:
            request.set("ended")

    async def _echo(self, request: _Request) -> None:
        size, digest = await request.read()
        if request.gone:
            return
        scope = request.scope
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]
            ],
            "size": size,
            "sha256": digest,
        }
        await request.respond(json.dumps(told).encode(), headers=[("content-type", "application/json")])

    async def _status(self, request: _Request) -> None:
        status = int(request.last())
        if "length" in request.query:
            await request.start(status, [("content-length", request.query["length"])])
            await request.body()
        elif status in (204, 304):
            await request.start(status, [("x-status", str(status))])
            await request.body()
        else:
            await request.respond(f"status {status}".encode(), status)

    async def _bytes(self, request: _Request) -> None:
        size = int(request.last())
        await request.start(200, [("content-length", str(size))])
        await self._pattern(request, size)

    async def _stream(self, request: _Request) -> None:
        await request.start(200)
        await self._pattern(request, int(request.last()))

    async def _pattern(self, request: _Request, size: int) -> None:
        if request.scope["method"] == "HEAD":
            size = 0
        piece = request.number("chunk", 65536)
        at = 0
        while at < size:
            await request.body(pattern(min(piece, size - at), at), more=True)
            at += piece
            # Servers that do not wait in send() would fill this loop's turn and see no disconnect.
            await asyncio.sleep(0)
        await request.body()

    async def _empty(self, request: _Request) -> None:
        await request.respond(b"")

    async def _repeated(self, request: _Request) -> None:
        fields = [("set-cookie", "a=1"), ("x-many", "one"), ("set-cookie", "b=2, c"), ("x-many", "two")]
        await request.respond(b"repeated", headers=fields)

    async def _gated(self, request: _Request) -> None:
        await request.wait("head")
        if request.gone:
            return
        await request.start(200)
        for index in range(request.number("parts", 1)):
            await request.wait(str(index))
            if request.gone:
                return
            await request.body(b"part-%d;" % index, more=True)
            request.set(f"sent:{index}")
        await request.body()

    async def _early(self, request: _Request) -> None:
        await request.respond(b"too large", 413)

    async def _late_read(self, request: _Request) -> None:
        # Not request.wait(): it would read the body while looking for a disconnect.
        await request.board.wait(f"{request.token}:read-now")
        await self._echo(request)

    async def _hints(self, request: _Request) -> None:
        await request.message("http.response.early_hint", links=[b"</style.css>; rel=preload"])
        await request.respond(b"hinted")

    async def _trailers(self, request: _Request) -> None:
        await request.start(200, [("trailer", "x-sum, x-many")], trailers=True)
        await request.body(b"body")
        trailers = [(b"x-sum", b"42"), (b"x-many", b"one"), (b"x-many", b"two")]
        await request.message("http.response.trailers", headers=trailers, more_trailers=False)

    async def _hang(self, request: _Request) -> None:
        await request.until_gone()

    async def _hang_body(self, request: _Request) -> None:
        await request.start(200)
        await request.body(b"begun", more=True)
        await request.until_gone()

    async def _raise(self, request: _Request) -> None:
        raise DeliberateError("before the head, as asked")

    async def _raise_late(self, request: _Request) -> None:
        await request.start(200, [("content-length", "1000")])
        await request.body(b"some", more=True)
        raise DeliberateError("after the head, as asked")

    async def _board(self, request: _Request) -> None:
        verb, name = request.path.split("/", 3)[2:]
        if verb == "set":
            self.board.set(name)
        elif verb == "wait":
            await self.board.wait(name)
        await request.respond(str(self.board.get(name)).encode())


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


conformance_app = ConformanceApp()
"""The application of the suite; its `board` is shared with the tests of this process."""
