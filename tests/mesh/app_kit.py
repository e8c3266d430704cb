"""Drives apps: `Call` is one ASGI request, `FakeStream` is what a host sees of one, `served` has a link, too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from tests.mesh.link_kit import CLIENT, WORKER, LinkDispatcher, TinyOwner, make_ends

from dodici.core.errors import ClientDestroyedError
from dodici.mesh.host import AppHost
from dodici.mesh.link import open_link


class Call:
    """One HTTP request to an ASGI app: what it is given, and what it has sent.

    `pieces` is the request's body; without `complete` the app's `receive()` waits after the last of them, until
    `feed()` or `leave()`. After `leave()` its `send()` raises OSError, as a server's does.
    """

    def __init__(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        pieces: Iterable[bytes] = (),
        complete: bool = True,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        raw_path, _, query = path.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(b"host", b"api.local")]
            + [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "server": ("api.local", 80),
            "client": ("mesh", 0),
            "state": dict(state or {}),
        }
        self.sent: list[MutableMapping[str, Any]] = []
        self.changed = asyncio.Condition()
        self.gone = False
        self.received = 0
        """Messages that the app has taken."""
        self.gate = asyncio.Event()
        """While it is not set, `send()` of a body waits: a client that does not read."""
        self.gate.set()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        parts = list(pieces)
        for index, piece in enumerate(parts):
            self.feed(piece, more=not complete or index < len(parts) - 1)
        if complete and not parts:
            self.feed(b"", more=False)

    def feed(self, body: bytes, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.gone = True
        self.gate.set()
        self._messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        message = await self._messages.get()
        if message["type"] == "http.disconnect":
            self._messages.put_nowait(message)
        self.received += 1
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.gate.wait()
        if self.gone:
            raise OSError("the client is gone")
        async with self.changed:
            self.sent.append(message)
            self.changed.notify_all()

    async def run(self, app: Any) -> Call:
        await app(self.scope, self.receive, self.send)
        return self

    async def until_sent(self, number: int) -> None:
        """Wait for that many messages."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.sent) >= number)

    @property
    def status(self) -> int:
        return next(int(one["status"]) for one in self.sent if one["type"] == "http.response.start")

    @property
    def headers(self) -> dict[str, str]:
        start = next(one for one in self.sent if one["type"] == "http.response.start")
        return {name.decode(): value.decode("latin-1") for name, value in start["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        return [one.get("body", b"") for one in self.sent if one["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)


class FakeStream:
    """A `ServerStream` whose app is called with nothing: it may await `stream.gate`, and report to `stream.log`."""

    def __init__(
        self, name: str = "", *, authority: str = "api.local", websocket: bool = False, log: Any = None
    ) -> None:
        self.name = name
        self.authority = authority
        self.websocket = websocket
        self.given_up = False
        self.log: list[Any] = [] if log is None else log
        self.refused: str | None = None
        self.aborted: str | None = None
        self.state: Mapping[str, Any] | None = None
        self.host: Any = None
        self.over = asyncio.Event()
        self.raises: BaseException | None = None
        """What `run()` and `refuse()` raise, as no stream should."""
        self.task: asyncio.Task[None] | None = None

    def run(self, app: Any, state: Mapping[str, Any] | None, host: Any) -> None:
        self.state, self.host = state, host
        if self.raises is not None:
            raise self.raises
        self.task = asyncio.get_running_loop().create_task(self._run(app))
        self.task.add_done_callback(self._end)  # it may be cancelled before its first step

    async def _run(self, app: Any) -> None:
        scope = {"type": "http", "method": "GET", "path": f"/{self.name}", "server": (self.authority, 80)}
        try:
            self.host.on_request(scope)
            await app(scope, self, None)
            self.host.on_response(scope, 200, [])
        except asyncio.CancelledError as error:
            self.host.on_error(scope, error)
        except Exception as error:
            self.host.on_error(scope, error)

    def _end(self, task: Any) -> None:
        self.over.set()
        self.host.ended(self)

    def refuse(self, reason: str) -> None:
        if self.raises is not None:
            raise self.raises
        self.refused = reason
        self.over.set()

    def abort(self, reason: str) -> None:
        self.aborted = reason
        if self.task is not None:
            self.task.cancel()


@asynccontextmanager
async def hosting(target: Any = None, **options: Any) -> Any:
    """An `AppHost`, closed at the end."""
    host = AppHost(**options)
    try:
        if target is not None:
            await host.replace(target)
        yield host
    finally:
        await host.close(0)


@asynccontextmanager
async def served(target: Any, kind: str = "socket", **options: Any) -> Any:
    """A dispatcher to a target that an `AppHost` at the other end of a link serves, and that host."""
    loop = asyncio.get_running_loop()
    ends = make_ends(kind, loop, loop)
    owner, far_owner = TinyOwner(), TinyOwner()
    async with hosting(target, **options) as host:
        near = await open_link(ends[0], member_id=CLIENT.id, peer=WORKER, sink=None, owner=owner)
        await open_link(ends[1], member_id=WORKER.id, peer=CLIENT, sink=host, owner=far_owner)
        try:
            yield LinkDispatcher(near), host
        finally:
            near.abort(ClientDestroyedError())
            async with asyncio.timeout(5):
                await far_owner.gone.wait()
                await host.drained()
