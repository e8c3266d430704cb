"""Links between two members, for tests: pairs of every kind, a host without ceremony, a dispatcher over one link."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

from dodici.core.controller import Exchange
from dodici.core.errors import ClientDestroyedError
from dodici.mesh.link import Link, open_link
from dodici.mesh.snapshot import MemberInfo
from dodici.net.local import queue_pair
from dodici.pool.base import BaseDispatcher
from dodici.wire.mesh import frames
from dodici.wire.mesh.frames import FRAME

CLIENT = MemberInfo(id="client-1", name="client", pid=1, kind="loop")
WORKER = MemberInfo(id="worker-1", name="shop.api:app", pid=2, kind="loop", app=True)


class TinyHost:
    """A `RequestSink` and `StreamOwner` that begins every request at once, and notes what it is told."""

    def __init__(self, app: Any, *, app_errors: str = "500", state: Mapping[str, Any] | None = None) -> None:
        self.app = app
        self.app_errors = app_errors
        self.trace = True
        self.state = state
        self.begin = True
        self.streams: list[Any] = []
        self.waiting: list[Any] = []
        self.scopes: list[Any] = []
        self.responses: list[tuple[int, Any]] = []
        self.errors: list[BaseException] = []
        self.ended_streams = 0
        self.on_request_hook: Callable[[Any], None] | None = None
        self.keep = True

    def accept(self, stream: Any) -> None:
        if not self.begin:
            self.waiting.append(stream)
        elif not stream.given_up:
            if self.keep:
                self.streams.append(stream)
            stream.run(self.app, self.state, self)

    def on_request(self, scope: Any) -> None:
        if self.keep:
            self.scopes.append(scope)
        if self.on_request_hook is not None:
            self.on_request_hook(scope)

    def on_response(self, scope: Any, status_code: int, headers: Any) -> None:
        if self.keep:
            self.responses.append((status_code, headers))

    def on_error(self, scope: Any, error: BaseException) -> None:
        self.errors.append(error)

    def ended(self, stream: Any) -> None:
        self.ended_streams += 1


class TinyOwner:
    """A `LinkOwner` that notes what it is told."""

    def __init__(self) -> None:
        self.lost: list[tuple[Any, BaseException | None, list[Exchange]]] = []
        self.refusals: list[tuple[Exchange, str]] = []
        self.idle = 0
        self.gone = asyncio.Event()

    def link_lost(self, link: Any, error: BaseException | None, unsent: list[Exchange]) -> None:
        self.lost.append((link, error, unsent))
        self.gone.set()

    def refused(self, link: Any, exchange: Exchange, reason: str) -> None:
        self.refusals.append((exchange, reason))

    def link_idle(self, link: Any) -> None:
        self.idle += 1


class LinkDispatcher(BaseDispatcher):
    """Dispatches over one link, and does what `MeshClient` does of lifecycle."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.running: dict[Exchange, None] = {}

    def dispatch(self, options: Any, handler: Any) -> bool:
        exchange = self._accept(options, handler)
        if exchange is None:
            return False
        exchange.handler = _Watching(self, handler)
        self.running[exchange] = None
        self.link.offer(exchange)
        return True

    def over(self, exchange: Exchange) -> None:
        self.running.pop(exchange, None)
        if not self.running:
            self._wake()

    async def _close(self) -> None:
        if self.running:
            await self._drained()
        self._destroyed = True

    def _fail_all(self, error: BaseException) -> None:
        for exchange in list(self.running):
            if exchange.carrier is not None:
                exchange.carrier.abort_exchange(exchange, error)

    async def _gone(self) -> None:
        if self._loop is not None:
            self.link.stage()


class _Watching:
    """Tells the dispatcher of the end of an exchange."""

    def __init__(self, dispatcher: LinkDispatcher, handler: Any) -> None:
        self._dispatcher = dispatcher
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        callback = getattr(self._handler, name)
        if name not in ("on_response_end", "on_response_error", "on_request_upgrade"):
            return callback

        def last(controller: Any, *args: Any) -> None:
            self._dispatcher.over(controller)
            callback(controller, *args)

        return last


def make_ends(kind: str, near: asyncio.AbstractEventLoop, far: asyncio.AbstractEventLoop) -> tuple[Any, Any]:
    """Two joined ends: ``"socket"`` or ``"queue"``."""
    if kind == "socket":
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return queue_pair(near, far)


class LinkPair:
    """Two members in one loop, joined."""

    def __init__(self, near: Link, far: Link, owner: TinyOwner, far_owner: TinyOwner, host: TinyHost) -> None:
        self.near = near
        self.far = far
        self.owner = owner
        self.far_owner = far_owner
        self.host = host
        self.dispatcher = LinkDispatcher(near)


@asynccontextmanager
async def link_pair(app: Any, kind: str = "socket", **host_options: Any) -> AsyncIterator[LinkPair]:
    """Both ends in this loop; the far one serves `app`."""
    loop = asyncio.get_running_loop()
    ends = make_ends(kind, loop, loop)
    owner, far_owner, host = TinyOwner(), TinyOwner(), TinyHost(app, **host_options)
    near = await open_link(ends[0], member_id=CLIENT.id, peer=WORKER, sink=None, owner=owner)
    far = await open_link(ends[1], member_id=WORKER.id, peer=CLIENT, sink=host, owner=far_owner)
    pair = LinkPair(near, far, owner, far_owner, host)
    try:
        yield pair
    finally:
        near.abort(ClientDestroyedError())
        async with asyncio.timeout(5):
            await far_owner.gone.wait()
        await _rest()


async def _rest() -> None:
    """Let transports be closed and tasks end."""
    for _ in range(10):
        await asyncio.sleep(0)


class FarLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self._ready = threading.Event()
        self._stop: asyncio.Event = None  # type: ignore[assignment]
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),))

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        await _rest()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def run(self, coroutine: Any) -> Any:
        """Await something there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))


@asynccontextmanager
async def threaded_dispatcher(app: Any, kind: str = "socket") -> AsyncIterator[LinkDispatcher]:
    """A dispatcher to `app`, which runs in another thread."""
    with FarLoop() as far:
        ends = make_ends(kind, asyncio.get_running_loop(), far.loop)
        owner = TinyOwner()

        async def serve() -> tuple[Link, TinyOwner]:
            far_owner = TinyOwner()
            link = await open_link(
                ends[1], member_id=WORKER.id, peer=CLIENT, sink=TinyHost(app), owner=far_owner
            )
            return link, far_owner

        near = await open_link(ends[0], member_id=CLIENT.id, peer=WORKER, sink=None, owner=owner)
        _, far_owner = await far.run(serve())
        try:
            yield LinkDispatcher(near)
        finally:
            near.abort(ClientDestroyedError())
            async with asyncio.timeout(5):
                await far.run(far_owner.gone.wait())
            await _rest()


class RawPeer:
    """The far end of a link, played frame by frame."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._data = b""

    async def send(self, *data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, b"".join(data))

    async def frame(self) -> tuple[int, int, bytes]:
        """The next frame: type, number, payload."""
        while len(self._data) < 9 or len(self._data) < 9 + FRAME.unpack_from(self._data)[0]:
            data = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 20)
            if not data:
                raise EOFError
            self._data += data
        length, kind, number = FRAME.unpack_from(self._data)
        payload = self._data[9 : 9 + length]
        self._data = self._data[9 + length :]
        return kind, number, payload

    async def until(self, wanted: int) -> tuple[int, int, bytes]:
        """The next frame of this type."""
        while True:
            found = await self.frame()
            if found[0] == wanted:
                return found

    async def closed(self) -> None:
        """Read to the end."""
        try:
            while True:
                await self.frame()
        except (EOFError, ConnectionResetError):
            pass

    def close(self) -> None:
        self._sock.close()


class RawPair:
    """A link whose far end is played by the test."""

    def __init__(self, link: Link, peer: RawPeer, owner: TinyOwner, host: TinyHost | None) -> None:
        self.link = link
        self.peer = peer
        self.owner = owner
        self.host = host
        self.dispatcher = LinkDispatcher(link)


@asynccontextmanager
async def raw_pair(app: Any = None, *, hello: bool = True, **link_options: Any) -> AsyncIterator[RawPair]:
    """A link with a peer that has said HELLO; it serves `app` if there is one."""
    near, far = socket.socketpair()
    peer, owner, host = RawPeer(far), TinyOwner(), TinyHost(app) if app is not None else None
    link = await open_link(near, member_id=CLIENT.id, peer=WORKER, sink=host, owner=owner, **link_options)
    if hello:
        await peer.send(frames.hello(WORKER.id))
        assert (await peer.frame())[0] == frames.HELLO
    try:
        yield RawPair(link, peer, owner, host)
    finally:
        link.abort(ClientDestroyedError())
        peer.close()
        await _rest()
