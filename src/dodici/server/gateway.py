"""The gateway: an ASGI app that finds the service of a request, and dispatches it into the mesh.

Nothing is buffered but a request's body of at most `WHOLE` bytes, which then travels with its head, and what the
client has not yet taken of the response (`delivery.HIGH_WATER`). A request that is repeated byte by byte, as clients
with one connection repeat theirs, is prepared once: `_prepared` remembers the options of requests without a body.

What the client gets of a failure:

    no route                                                    404
    a small body that does not arrive within `request_timeout`  408
    a body larger than allowed                                  413
    fields or a path that HTTP does not allow                   400
    nobody takes requests at the moment (NoTargetError ...)     503, with Retry-After
    no head in time, or a body that stalls before its head      504
    a worker that exited, a refused connection, any other       502

After the head there is no status to give: the connection is closed, so that nobody takes a part for the whole.

A request may belong to a trace (W3C Trace Context): to the one that the client names, or to a new one, if there are
not too many. Its fields are taken off, and the mesh carries it beside the request: what is prepared stays the same.

The ASGI server is asked whether the client is still there only for requests that take their time: a task for each
request would cost a fifth of its throughput, so `_look` starts one at its second look, a quarter of a second apart.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from ..core.dispatcher import Dispatcher
from ..core.errors import DodiciError, InvalidArgumentError, NotSupportedError
from ..core.headers import Headers
from ..core.options import DispatchOptions
from ..core.spans import note
from ..core.trace import (
    PER_SECOND,
    TRACEPARENT,
    TRACESTATE,
    Sampler,
    Trace,
    current,
    new_trace,
    of_fields,
)
from .bridge import Bridge
from .delivery import ON_GONE, Delivery, Upload
from .failures import ClientGoneError, RequestLateError, RequestTooLargeError, explain
from .forwarded import Forwarding, Pairs, response_fields
from .routing import Route, Router
from .tally import Tally

WHOLE: Final = 32 * 1024
"""Bytes of a request's body that are read before it is sent on; the mesh carries as many with the head."""
_PREPARED: Final = 256
_LOOK_SECONDS: Final = 0.25
_RETRY_AFTER: Final = [(b"retry-after", b"1")]
_CLOSE: Final = [(b"connection", b"close")]
_CLIENT_GONE: Final = 499

Send = Callable[[Any], Any]
AccessLog = Callable[[dict[str, Any], str, int, int, float], None]
"""(scope, service or "-", status, bytes of the response's body, seconds)."""


class Gateway:
    """The ASGI app.

    Args:
        dispatcher: reaches the services, as ``http://NAME.local``: an `Agent` composed with a `WorkerInterceptor`.
        router: which service a request is for. May be replaced at any time, by assigning `router`.
        forwarding: makes the fields that are sent on.
        websocket_size: bytes of a WebSocket message that are allowed.
        access_log: called for each request that has ended.
        trace: follow requests: see the module's text. Else fields of traces pass as they are.
        traces_per_second: of requests that name no trace, how many are followed at most.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        router: Router,
        forwarding: Forwarding | None = None,
        *,
        websocket_size: int = 16 * 1024 * 1024,
        access_log: AccessLog | None = None,
        trace: bool = False,
        traces_per_second: float = PER_SECOND,
    ) -> None:
        self._dispatcher = dispatcher
        self._router = router
        self._forwarding = forwarding or Forwarding()
        self._bridge = Bridge(dispatcher, self._forwarding, websocket_size)
        self._log = access_log
        self._trace = trace
        self._sampler = Sampler(traces_per_second)
        self._prepared: dict[Any, tuple[Route, DispatchOptions]] = {}
        self._fields: dict[int, tuple[Headers, Pairs]] = {}
        self._running: set[tuple[Delivery, Any]] = set()
        self._looking = False
        self._watchers: set[asyncio.Task[None]] = set()
        self._date = (0, b"")
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        """By service; ``"-"`` has the requests that no service was for."""

    @property
    def router(self) -> Router:
        """Which service a request is for."""
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        self._router = router
        self._prepared = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise NotSupportedError(f"the gateway knows no {scope['type']!r}")

    # ---------------------------------------------------------------------------------------------- HTTP

    async def _http(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        began = time.perf_counter()
        service = "-"
        status = _CLIENT_GONE
        sent = 0
        tally: Tally | None = None
        trace: Trace | None = None
        try:
            upload: Upload | None = None
            key = self._key(scope)
            known = self._prepared.get(key)
            if known is not None:
                route, options = known
                service = route.service
                if self._trace:
                    trace = self._begin_trace()
            else:
                if self._trace:
                    trace, named = self._take_trace(scope)
                    if named:
                        key = None
                try:
                    found = self.find(scope)
                    if found is None:
                        status = 404
                        sent = await self._answer(scope, send, 404, "no service is at this address")
                        return
                    route = found
                    service = route.service
                    options, upload = await self._prepare(scope, receive, route, key)
                except RequestTooLargeError as error:
                    status = 413
                    sent = await self._answer(scope, send, 413, error.message)
                    return
                except RequestLateError as error:
                    status = 408
                    sent = await self._answer(scope, send, 408, error.message, _CLOSE)
                    return
                except (InvalidArgumentError, NotSupportedError) as error:
                    status = 400
                    sent = await self._answer(scope, send, 400, error.message)
                    return
            tally = self.tallies[service]
            tally.running += 1
            status, sent = await self._exchange(scope, receive, send, options, upload)
        except ClientGoneError:
            status = _CLIENT_GONE
        except DodiciError:
            status = 502
            raise
        finally:
            seconds = time.perf_counter() - began
            if tally is not None:
                tally.running -= 1
            self.tallies[service].add(status, seconds)
            if trace is None and status >= 500 and self._trace:
                trace = new_trace()  # what fails is remembered, though not whence it came
            if trace is not None:
                note("gateway", trace, scope["method"], scope["raw_path"], service, seconds, status)
            if self._log is not None:
                self._log(scope, service, status, sent, seconds)

    def _key(self, scope: dict[str, Any]) -> tuple[Any, ...] | None:
        """What the options of a request without a body are remembered by; None for one that may have a body."""
        return (
            scope["method"],
            scope["raw_path"],
            scope["query_string"],
            scope.get("client"),
            tuple(scope["headers"]),
        )

    def find(self, scope: dict[str, Any]) -> Route | None:
        """The route of a request; None if there is none.

        Raises:
            InvalidArgumentError: not exactly one Host field, or none that could be one (RFC 9112 3.2).
        """
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 and (hosts or scope["http_version"] != "1.0"):
            raise InvalidArgumentError("a request has one Host field")
        authority = hosts[0].decode("latin-1") if hosts else ""
        return self._router.find(authority, scope["raw_path"].decode("latin-1"))

    async def _prepare(
        self, scope: dict[str, Any], receive: Any, route: Route, key: Any
    ) -> tuple[DispatchOptions, Upload | None]:
        headers, length = self._forwarding.fields(scope, route.prefix if route.strip else "")
        path = scope["raw_path"].decode("latin-1")[route.strip :] or "/"
        if scope["query_string"]:
            path = f"{path}?{scope['query_string'].decode('latin-1')}"
        body: Any = None
        upload: Upload | None = None
        if length:
            if route.request_size and length > route.request_size:
                raise RequestTooLargeError(f"the body has more than {route.request_size} bytes")
            upload = Upload(receive, route.request_size)
            if 0 < length <= WHOLE and not any(name == b"expect" for name, _ in scope["headers"]):
                body = await self._whole(upload, route)
            else:
                body = upload
        options = DispatchOptions(
            origin=route.origin,
            path=path,
            method=scope["method"],
            headers=headers,
            body=body,
            headers_timeout=route.request_timeout,
            body_timeout=route.body_timeout,
        )
        if upload is None:
            self._remember(key, route, options)
        return options, upload

    def _remember(self, key: tuple[Any, ...] | None, route: Route, options: DispatchOptions) -> None:
        if key is not None:
            if len(self._prepared) >= _PREPARED:
                self._prepared.clear()
            self._prepared[key] = (route, options)

    @staticmethod
    async def _whole(upload: Upload, route: Route) -> bytes:
        try:
            async with asyncio.timeout(route.request_timeout or None):
                return await upload.whole()
        except TimeoutError:
            raise RequestLateError("the request's body came late") from None

    async def _exchange(
        self,
        scope: dict[str, Any],
        receive: Any,
        send: Send,
        options: DispatchOptions,
        upload: Upload | None,
    ) -> tuple[int, int]:
        """Dispatch, and send on what comes. Returns the status that the client got, and the bytes of its body."""
        delivery = Delivery(asyncio.get_running_loop(), upload)
        extensions = scope.get("extensions") or {}
        if "http.response.early_hint" in extensions:
            delivery.hints = []
        entry = (delivery, receive)
        scope[ON_GONE] = delivery.leave
        self._running.add(entry)
        if not self._looking:
            self._look_later()
        try:
            self._dispatcher.dispatch(options, delivery)
            while not delivery.status_code:
                if delivery.error is not None:
                    return await self._fail(scope, send, delivery.error)
                await delivery.wait()
                while delivery.hints:
                    await _send_hints(send, delivery.hints.pop(0))
            sent = await self._send_response(send, delivery, "http.response.trailers" in extensions)
            return delivery.status_code, sent
        except asyncio.CancelledError:
            if not delivery.status_code:
                # The server ends, and its patience with this request is over.
                await self._answer(scope, send, 503, "the server is stopping", _RETRY_AFTER)
            raise
        except OSError as error:
            # What an ASGI server's send() raises once the client has gone.
            raise error if isinstance(error, DodiciError) else ClientGoneError(str(error)) from None
        finally:
            del scope[ON_GONE]
            self._running.discard(entry)
            if delivery.watcher is not None:
                delivery.watcher.cancel()
            if not delivery.ended:
                delivery.leave()

    async def _send_response(self, send: Send, delivery: Delivery, can_trail: bool) -> int:
        headers = delivery.headers
        trails = can_trail and "trailer" in headers
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": delivery.status_code,
            "headers": self._response_fields(headers),
        }
        if trails:
            start["trailers"] = True
        await send(start)
        sent = 0
        while True:
            if delivery.error is not None:
                # Raised to the ASGI server, which then closes the connection: a part is not taken for the whole.
                raise delivery.error
            ended = delivery.ended
            if delivery.chunks or ended:
                body = delivery.take()
                sent += len(body)
                await send({"type": "http.response.body", "body": body, "more_body": not ended})
                if ended:
                    break
            else:
                await delivery.wait()
        if trails:
            await send({"type": "http.response.trailers", "headers": response_fields(delivery.trailers)})
        return sent

    def _response_fields(self, headers: Headers) -> Pairs:
        # A response's head that was seen before is the same object: the layers below see to it.
        known = self._fields.get(id(headers))
        if known is None:
            if len(self._fields) >= _PREPARED:
                self._fields.clear()
            known = self._fields[id(headers)] = (headers, response_fields(headers))
        return known[1] if "date" in headers else [*known[1], (b"date", self._now())]

    def _now(self) -> bytes:
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    async def _fail(self, scope: dict[str, Any], send: Send, error: BaseException) -> tuple[int, int]:
        if isinstance(error, ClientGoneError) or not isinstance(error, DodiciError):
            raise error
        status, text = explain(error)
        return status, await self._answer(scope, send, status, text, _RETRY_AFTER if status == 503 else [])

    async def _answer(
        self, scope: dict[str, Any], send: Send, status: int, text: str, more: Pairs | None = None
    ) -> int:
        """A response of the gateway's own."""
        body = f"{status}: {text}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"date", self._now()),
            *(more or ()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        return len(body)

    # -------------------------------------------------------------------------------------------- traces

    def _begin_trace(self) -> Trace | None:
        """The place of a request that names no trace: in a new one, or in none."""
        trace = new_trace() if self._sampler.allows() else None
        if current.get() is not trace:
            current.set(trace)
        return trace

    def _take_trace(self, scope: dict[str, Any]) -> tuple[Trace | None, bool]:
        """The place of a request in its trace, and whether its fields had said anything of it. They are taken off:
        also what is malformed, and a `tracestate` that belongs to nothing (section 3.2).
        """
        fields = scope["headers"]
        kept = [pair for pair in fields if pair[0] != TRACEPARENT and pair[0] != TRACESTATE]
        if len(kept) == len(fields):
            return self._begin_trace(), False
        scope["headers"] = kept
        above = of_fields(fields)
        if above is None:
            return self._begin_trace(), True
        trace = above.part()
        current.set(trace)
        return trace, True

    # ---------------------------------------------------------------------------------- clients that leave

    def _look_later(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        for delivery, receive in self._running:
            if not delivery.seen:
                delivery.seen = True
            elif delivery.watcher is None and (delivery.upload is None or delivery.upload.ended):
                delivery.watcher = task = asyncio.get_running_loop().create_task(_watch(delivery, receive))
                self._watchers.add(task)
                task.add_done_callback(self._watchers.discard)
        if self._running:
            self._look_later()

    # ------------------------------------------------------------------------------------------ WebSocket

    async def _websocket(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        began = time.perf_counter()
        try:
            route = self.find(scope)
        except InvalidArgumentError:
            route = None
        service = "-" if route is None else route.service
        tally = self.tallies[service]
        tally.websockets += 1
        status = _CLIENT_GONE
        trace = self._take_trace(scope)[0] if self._trace else None
        try:
            status = await self._bridge.run(scope, receive, send, route)
        finally:
            seconds = time.perf_counter() - began
            tally.websockets -= 1
            # Not into the durations: how long a WebSocket lasts says nothing of how fast a service answers.
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if trace is not None:
                note("gateway", trace, "WEBSOCKET", scope["raw_path"], service, seconds, status)
            if self._log is not None:
                self._log(scope, service, status, 0, seconds)


async def _watch(delivery: Delivery, receive: Any) -> None:
    while not delivery.ended:
        message = await receive()
        if message["type"] == "http.disconnect":
            delivery.leave()
            return


async def _send_hints(send: Send, headers: Headers) -> None:
    links = [value for name, value in headers.raw if name.lower() == b"link"]
    if links:
        await send({"type": "http.response.early_hint", "links": links})
