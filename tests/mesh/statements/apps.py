"""What runs in the workers of these tests: one ASGI app with many paths, and entries that wire by themselves.

`MeshApp` is the conformance app with what only a mesh needs. In a process worker it joins the test's office
(`kit.Office`, `orders.Desk`) through a unix socket, so that the test can give orders to a worker that takes no requests, and hears
of its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from dodici.mesh import current, wire
from dodici.testing import ConformanceApp, pattern

from .orders import OFFICE, Desk


class OddError(Exception):
    """Cannot be made from its own arguments, and does not survive pickling."""

    def __init__(self, one: int, *, two: str) -> None:
        super().__init__(f"odd {one} {two}")
        self.lock = threading.Lock()


class MeshApp(ConformanceApp):
    """See the module's text."""

    def __init__(self, label: str = "plain") -> None:
        super().__init__()
        self.label = label
        self.desk: Desk | None = None
        self.startups = 0
        self.shutdowns = 0
        self.order: list[str] = []
        self.disconnects: list[float] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def startup(self, state: dict[str, Any]) -> None:
        """What the lifespan's start-up does."""
        self.startups += 1
        state["shared"] = {"label": self.label}
        state["number"] = 1

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        if OFFICE in os.environ and self.desk is None:
            self.desk = await Desk.join(self)
        await self.startup(scope.get("state", {}))
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.shutdowns += 1
        if self.desk is not None:
            self.desk.report(f"shutdown:{self.label}")
        await send({"type": "lifespan.shutdown.complete"})

    # ------------------------------------------------------------------------------------ who answers

    async def _whoami(self, request: Any) -> None:
        await request.respond(str(os.getpid()).encode())

    async def _label(self, request: Any) -> None:
        await request.respond(self.label.encode())

    async def _slowly(self, request: Any) -> None:
        """The label in three pieces, other requests between them."""
        await request.start()
        for _ in range(3):
            await request.body(self.label.encode(), more=True)
            await asyncio.sleep(0)
        await request.body()

    async def _scope(self, request: Any) -> None:
        scope = request.scope
        state = scope.get("state")
        told = {
            "type": scope["type"],
            "server": scope["server"],
            "client": scope["client"],
            "scheme": scope["scheme"],
            "http_version": scope["http_version"],
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query_string": scope["query_string"].decode("latin-1"),
            "root_path": scope["root_path"],
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]
            ],
            "state": dict(state),
        }
        state["number"] += 1
        state["of this request"] = True
        await request.respond(json.dumps(told).encode())

    # --------------------------------------------------------------------------------------- responses

    async def _hop(self, request: Any) -> None:
        """A head with fields that are for one hop only."""
        fields = [
            ("connection", "X-Hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-authenticate", "Basic"),
            ("X-Kept", "\xfcber"),
        ]
        await request.respond(b"hop", headers=fields)

    async def _huge(self, request: Any) -> None:
        """`/huge/{n}`: n bytes in one `send`."""
        await request.start()
        request.set("sending")
        await request.body(bytes(int(request.last())), more=True)
        await request.body()

    async def _partial(self, request: Any) -> None:
        """Ten bytes of a thousand, then nothing until the client is gone."""
        await request.start(200, [("content-length", "1000")])
        await request.body(b"0123456789", more=True)
        await request.until_gone()

    async def _held(self, request: Any) -> None:
        """`/held/{n}`: n bytes, after `{token}:go`."""
        request.set("waiting")
        await self.board.wait(f"{request.token}:go")
        await request.respond(pattern(int(request.last())))

    async def _second_receive(self, request: Any) -> None:
        await request.read()
        receiving = asyncio.ensure_future(request._receive())
        for _ in range(20):
            await asyncio.sleep(0)
        blocked = not receiving.done()
        await request.respond(b"blocked" if blocked else repr(receiving.result()).encode())
        message = await receiving
        request.set(f"then:{message['type']}")

    async def _watch(self, request: Any) -> None:
        """Head and a piece; then what a disconnect looks like: `{token}:heard`, `{token}:refused`."""
        await request.start()
        await request.body(b"begun", more=True)
        message = await request._receive()
        while message["type"] == "http.request":
            message = await request._receive()
        self.disconnects.append(time.monotonic())
        request.set(f"heard:{message['type']}")
        try:
            await request.body(b"too late", more=True)
        except OSError:
            request.set("refused")
            raise

    async def _late(self, request: Any) -> None:
        """Looks at nothing until `{token}:go`, then answers, whoever is left to hear it."""
        request.set("waiting")
        await self.board.wait(f"{request.token}:go")
        try:
            await request.respond(b"late")
            request.set("answered")
        except OSError:
            request.set("refused")

    # -------------------------------------------------------------------------------------------- faults

    async def _raise_odd(self, request: Any) -> None:
        raise OddError(7, two="words")

    async def _raise_local(self, request: Any) -> None:
        class LocalError(Exception):
            pass

        raise LocalError("of a class that nobody can import")

    async def _nothing(self, request: Any) -> None:
        pass

    async def _twice(self, request: Any) -> None:
        await request.start()
        try:
            await request.start()
        except Exception:
            request.set("second start refused")
            raise

    async def _exit(self, request: Any) -> None:
        if request.last() == "hard":
            os._exit(0)
        sys.exit(0)

    async def _cancelled(self, request: Any) -> None:
        raise asyncio.CancelledError

    async def _noise(self, request: Any) -> None:
        """Much on stdout and stderr, in every way."""
        for index in range(200):
            print("out", index, "\x00\xff" * 50)
        os.write(1, b"\x00\x01\x02\xff" * 4096 + b"\n")
        os.write(2, b"\xfe" * 4096 + b"\n")
        sys.stdout.flush()
        await request.respond(b"quiet")

    # ------------------------------------------------------------------------------- members are clients

    async def _nest(self, request: Any) -> None:
        """`/nest/{n}?at=host`: asks that host for n - 1, down to 0."""
        depth = int(request.last())
        if depth == 0:
            await request.respond(b"0")
            return
        at = request.query["at"]
        response = await current().request(f"http://{at}/nest/{depth - 1}?at={at}")
        below = await response.text()
        await request.respond(str(int(below) + 1).encode(), response.status_code)

    async def _relay(self, request: Any) -> None:
        """`/relay?path=b,a`: streams its body through these hosts in turn and back; the last one echoes."""
        hosts = [host for host in request.query.get("path", "").split(",") if host]

        async def body() -> AsyncIterator[bytes]:
            more = True
            while more:
                message = await request._receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError("the caller is gone")
                more = message.get("more_body", False)
                if message.get("body"):
                    yield message["body"]

        await request.start()
        if not hosts:
            async for chunk in body():
                await request.body(chunk, more=True)
        else:
            url = f"http://{hosts[0]}.local/relay?path={','.join(hosts[1:])}"
            async with current().agent.stream("POST", url, body=body()) as response:
                async for chunk in response.body:
                    await request.body(chunk, more=True)
        await request.body()

    async def _ask(self, request: Any) -> None:
        """`/ask?url=...`: what that URL answers."""
        response = await current().request(request.query["url"])
        if self.desk is not None:
            self.desk.report(f"asked:{response.status_code}")
        await request.respond(await response.bytes(), response.status_code)

    async def _close_me(self, request: Any) -> None:
        """Close the wire from inside a request."""
        closing = asyncio.ensure_future(current().close(drain_timeout=0.5))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([closing], timeout=0.2)
        await request.respond(b"closed" if closing.done() else b"closing")

    # ----------------------------------------------------------------------------------------- processor

    async def _spin(self, request: Any) -> None:
        """`/spin/{name}`: 5 ms of processor time, and a note of the order."""
        self.order.append(request.last())
        until = time.process_time() + 0.005
        while time.process_time() < until:
            pass
        await request.respond(b"spun")

    # ----------------------------------------------------------------------------------------- websocket

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/ws/refused":
            await send({"type": "websocket.close", "code": 1008})
            return
        protocols = scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": protocols[0] if protocols else None})
        self.board.set("ws:open")
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.board.set(f"ws:closed:{message['code']}:{message.get('reason') or ''}")
                return
            text = message.get("text")
            if text == "pid":
                await send({"type": "websocket.send", "text": str(os.getpid())})
            elif text == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
                return
            elif text is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})


# ----------------------------------------------------------------------------------------- the programs

app = MeshApp()


class _SlowStart(MeshApp):
    """Its start-up lasts until the test says so."""

    early = 0
    ready = False

    async def startup(self, state: dict[str, Any]) -> None:
        assert self.desk is not None
        self.desk.report("starting")
        await self.board.wait("start")
        await super().startup(state)
        self.ready = True

    async def _whoami(self, request: Any) -> None:
        self.early += not self.ready
        await super()._whoami(request)


slow_start = _SlowStart()


class _Unwilling(MeshApp):
    """Its start-up fails, and says why."""

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        note_cause()
        await send({"type": "lifespan.startup.failed", "message": "the database is on fire"})


unwilling = _Unwilling()


def note_cause() -> None:
    """Write the time of a failure for the test."""
    with open(os.environ["MESH_TEST_CAUSE"], "w") as file:
        file.write(str(time.monotonic()))


def failing_factory() -> Any:
    note_cause()
    raise RuntimeError("the factory is closed")


def exiting_factory() -> Any:
    note_cause()
    print("last words of the factory", file=sys.stderr, flush=True)
    os._exit(3)


def leaving_factory() -> Any:
    note_cause()
    sys.exit(4)


def chatty_factory() -> Any:
    """An app whose import and making print much."""
    print("\x00\x01 not a message \xff" * 1000, flush=True)
    return app


async def late_main() -> None:
    """Wires without an app, and does what the test says until `finish`."""
    wired = await wire(None)
    app.desk = await Desk.join(app)
    try:
        await app.desk.orders.finished.wait()
    finally:
        await wired.close()
        await app.desk.leave()


async def failing_main() -> None:
    await wire(None)
    note_cause()
    raise RuntimeError("main has given up")


async def hooked_main() -> None:
    """An app with hooks on the worker's side."""
    seen: list[list[Any]] = []

    def on_server_request(scope: Any) -> None:
        if scope["path"] == "/hook-raises":
            raise RuntimeError("the hook says no")
        seen.append(["request", scope["path"]])

    def on_server_response(scope: Any, status_code: int, headers: Any) -> None:
        seen.append(["response", scope["path"], status_code])

    def on_server_error(scope: Any, error: BaseException) -> None:
        seen.append(["error", scope["path"], type(error).__name__])

    app.order = seen  # type: ignore[assignment]
    await wire(
        app,
        on_server_request=on_server_request,
        on_server_response=on_server_response,
        on_server_error=on_server_error,
    )
    assert app.desk is not None
    await app.desk.orders.finished.wait()


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A WSGI app that may call its own name, from its thread, and give up after half a second."""
    body = str(os.getpid()).encode()
    if environ["PATH_INFO"] == "/self":
        import dodici

        loop = _wsgi["loop"]
        wired = _wsgi["wired"]
        asking = asyncio.run_coroutine_threadsafe(
            wired.request("http://wsgi.local/whoami", timeout=0.5), loop
        )
        app.board.set("asks itself")
        try:
            asking.result(10)
            body = b"answered"
        except dodici.DodiciError as error:
            body = type(error).__name__.encode()
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))])
    return [body]


_wsgi: dict[str, Any] = {}


async def wsgi_main() -> None:
    """A WSGI app, wired by hand, so that its threads can find the loop."""
    _wsgi["loop"] = asyncio.get_running_loop()
    app.desk = await Desk.join(app)
    _wsgi["wired"] = wired = await wire(wsgi_app)
    try:
        await app.desk.orders.finished.wait()
    finally:
        await wired.close()
        await app.desk.leave()
