"""WSGI apps as ASGI apps: the bridge is a2wsgi, and this module is its railing.

a2wsgi builds the environ, keeps the threads, and carries calls between them and the loop. Around it stands what PEP
3333 and a client that may leave at any moment ask for, on both sides of the thread border:

    loop     WSGIBridge.__call__ -> a2wsgi -> _Exchange.send     holds the head back until there is a body, so that
                                                                  both travel together; never raises into a2wsgi, whose
                                                                  thread would then wait for ever
    thread   a2wsgi -> _Exchange.pieces -> the app               start_response() as PEP 3333 says it, `exc_info`
                                                                  included; waits for room; closes the iterable in this
                                                                  thread; stops when the client is gone
    thread   the app -> _Input -> _Exchange.read -> loop         wsgi.input: file-like without exceptions, and a client
                                                                  that leaves in the middle of a body is an OSError

An `_Exchange` belongs to both sides. The thread writes `head` and `last` before the message that makes the loop read
them; `gone` goes from False to True once; `_waiting` is under the condition's lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..core.errors import InvalidArgumentError, NotSupportedError

if TYPE_CHECKING:
    from .contracts import Scope

HIGH_WATER = 64 * 1024
"""Bytes of response body that a thread may be ahead of the client."""
_PIECE_COST = 512  # what a piece is charged beside its bytes, so that tiny ones are bounded, too
_KEY = "dodici.exchange"


class WSGIBridge:
    """An ASGI app that runs a WSGI app in threads of its own.

    Args:
        app: the WSGI app (PEP 3333).
        threads: how many requests run at once; the others wait in order.

    Raises:
        InvalidArgumentError: `threads` is not a positive number.
        NotSupportedError: a2wsgi is not installed.
    """

    def __init__(self, app: Callable[..., Any], *, threads: int = 8) -> None:
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise InvalidArgumentError(f"wsgi_threads must be a positive number, not {threads!r}")
        try:
            from a2wsgi import WSGIMiddleware
        except ImportError as error:
            raise NotSupportedError("a WSGI app needs a2wsgi: pip install 'dodici[wsgi]'") from error
        self.app = app
        self._bridge = WSGIMiddleware(self._guarded, workers=threads, send_queue_size=0)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})  # before accept: refused with 403
            return
        if scope["type"] != "http":
            raise RuntimeError(f"a WSGI app has no {scope['type']}")
        exchange = _Exchange(scope, receive, send)
        try:
            await self._bridge(exchange.cleaned_scope(), receive, exchange.send)
        finally:
            exchange.finish()
        if exchange.failure is not None:
            raise exchange.failure

    def close(self) -> None:
        """Let the threads end, after the request that each of them runs. Nothing is waited for."""
        self._bridge.executor.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        exchange: _Exchange = environ["asgi.scope"].pop(_KEY)
        return exchange.pieces(self.app, environ, start_response)


class _Exchange:
    """One request, as both sides of the thread border see it."""

    def __init__(self, scope: Scope, receive: Any, send: Any) -> None:
        self._scope = scope
        self._receive = receive
        # The mesh's own streams know at once when the client gives up, while nobody receives.
        self._stream = getattr(receive, "__self__", None)
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[Any] | None = None
        self._room = threading.Condition()
        self._waiting = 0
        self.gone = False
        self.failure: BaseException | None = None
        self.head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.last = b""
        self._committed = False  # the head can no longer be replaced
        self._begun = self._complete = False  # what the loop has sent
        self._length: int | None = None  # of the response: what the loop has yet to send
        self._left: int | None = None  # the same, counted by the thread
        self._begin_bridge: Any = None
        self._write_bridge: Any = None

    def cleaned_scope(self) -> Any:
        """The scope that a2wsgi makes the environ of."""
        headers: list[tuple[bytes, bytes]] = []
        cookies: list[bytes] = []
        for name, value in self._scope["headers"]:
            if name == b"cookie":
                cookies.append(value)  # a list with commas, as WSGI joins fields, is no cookie
            elif b"_" not in name:  # in an environ "x_real_ip" could not be told from "x-real-ip"
                headers.append((name, value))
        if cookies:
            headers.append((b"cookie", b"; ".join(cookies)))
        query = self._scope["query_string"]
        if not query.isascii():
            query = quote_from_bytes(query, safe="".join(map(chr, range(33, 127)))).encode()
        return {**self._scope, "path": "/", "headers": headers, "query_string": query, _KEY: self}

    # -- on the loop -----------------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """What a2wsgi calls for each message. `http.response.start` comes from `head`."""
        if message["type"] != "http.response.body":
            return
        body: bytes = message["body"]
        more: bool = message.get("more_body", False)
        if not more:
            body = self.last
        try:
            if not self.gone and not self._complete:
                await self._pass_on(body, more)
        except Exception as error:
            self.gone = True
            if not isinstance(error, OSError):
                self.failure = error
        finally:
            if more:
                self._free(len(body))

    async def _pass_on(self, body: bytes, more: bool) -> None:
        if not self._begun:
            assert self.head is not None
            self._begun = True
            status, headers = self.head
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if more and self._length is not None:
            self._length -= len(body)
            more = self._length > 0
        self._complete = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def finish(self) -> None:
        """The request is over on the loop's side: the thread must not wait for it any more."""
        self._free(0, gone=True)
        if self._reading is not None:
            self._reading.cancel()

    def _free(self, size: int, *, gone: bool = False) -> None:
        with self._room:
            self._waiting -= size + _PIECE_COST
            self.gone = self.gone or gone
            self._room.notify()

    async def _next_message(self) -> Any:
        self._reading = asyncio.current_task()
        try:
            return await self._receive()
        finally:
            self._reading = None

    # -- in the thread ---------------------------------------------------------------------------------

    def pieces(self, app: Callable[..., Any], environ: dict[str, Any], begin: Any) -> Iterator[bytes]:
        """Call the app and pass on what it returns, piece by piece. Nothing, if the client left before its turn."""
        if getattr(self._stream, "given_up", False):
            self.gone = True
            return
        self._begin_bridge = begin
        self._fill_in(environ)
        iterable = app(environ, self._start_response)
        try:
            count = len(iterable) if isinstance(iterable, list | tuple) else -1
            for piece in iterable:
                count -= 1
                if not isinstance(piece, bytes):
                    raise TypeError(f"a WSGI app must yield bytes, not {type(piece).__name__}")
                if not piece:
                    continue
                self._commit(len(piece))
                if count == 0:
                    self.last = piece  # goes with the message that ends the body: one crossing less
                    break
                if not self._wait_for_room(len(piece)):
                    return
                yield piece
            self._commit(0)
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()

    def _fill_in(self, environ: dict[str, Any]) -> None:
        scope = self._scope
        environ["asgi.scope"] = scope
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
        path = unquote_to_bytes(raw_path) if scope.get("raw_path") else raw_path
        path = path.removeprefix(scope.get("root_path", "").encode())
        environ["PATH_INFO"] = path.decode(
            "latin-1"
        )  # PEP 3333: bytes as characters, whatever their encoding
        environ["wsgi.input"] = io.BufferedReader(_Input(self), HIGH_WATER)
        environ["wsgi.input_terminated"] = True  # frameworks may read to its end without a content-length
        environ["wsgi.errors"] = sys.stderr

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._committed:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circle through the traceback
        elif self.head is not None:
            raise AssertionError("start_response() was called twice, the second time without exc_info")
        code = status[:3]
        if not (code.isdecimal() and code.isascii() and status[3:4] in {"", " "}):
            raise ValueError(f"start_response() takes a status such as '200 OK', not {status!r}")
        self._length = None
        pairs: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            pair = (name.strip().lower().encode("latin-1"), value.strip().encode("latin-1"))
            if pair[0] == b"content-length" and pair[1].isdigit():
                self._length = int(pair[1])
            pairs.append(pair)
        self.head = (int(code), pairs)
        return self._write

    def _commit(self, size: int) -> None:
        """A piece of the body (or its end) is at hand: from now on the head stays as it is."""
        if self.head is None:
            raise AssertionError("the WSGI app sent a body, or returned, without calling start_response()")
        if not self._committed:
            self._committed = True
            self._left = self._length
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise AssertionError("the WSGI app sent more than its content-length")

    def _write(self, data: bytes) -> None:
        """The callable that start_response() returns, for apps older than iterables."""
        if not data:
            return
        self._commit(len(data))
        if not self._wait_for_room(len(data)):
            raise OSError("the client is gone")
        if self._write_bridge is None:
            self._write_bridge = self._begin_bridge("200 OK", [])
        self._write_bridge(data)

    def _wait_for_room(self, size: int) -> bool:
        """Wait until the loop has sent enough of what it was given. False: the client is gone."""
        with self._room:
            while self._waiting > HIGH_WATER and not self.gone:
                self._room.wait()
            self._waiting += size + _PIECE_COST
            return not self.gone

    def read(self) -> tuple[bytes, bool]:
        """The next piece of the request's body, and whether more follows.

        Raises:
            OSError: the client is gone, and the body is not complete.
        """
        if self.gone:
            raise OSError("the client is gone")
        try:
            message = asyncio.run_coroutine_threadsafe(self._next_message(), self._loop).result()
        except concurrent.futures.CancelledError:
            raise OSError("the client is gone") from None
        if message["type"] != "http.request":
            self.gone = True
            raise OSError("the client is gone before the end of the body")
        return message.get("body", b""), message.get("more_body", False)


class _Input(io.RawIOBase):
    """The request's body, under a `BufferedReader` that makes it ``wsgi.input``."""

    def __init__(self, exchange: _Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._rest = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._more:
            body, self._more = self._exchange.read()
            self._rest = memoryview(body)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
