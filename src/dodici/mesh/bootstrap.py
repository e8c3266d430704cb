"""A worker's life, whatever its kind: from the coordinator's `start` message to its end.

    start -> import -> joined -> start-up of the app (or main()) -> ready -> ... -> closed

Importing comes before joining: it holds the loop for as long as it takes, and a member that cannot acknowledge would
hold up everybody's changes. Start-up comes after, so that it may use the mesh.

A process worker begins in `main()`: see `spawn.py`. At its end nothing that the app left behind holds it up for long:
the interpreter joins its threads, and one of them may be stuck in a request that was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.garbage import look_rarely

if TYPE_CHECKING:
    import logging

    from .control import Channel, Message
    from .host import AppHost
    from .member import Member
    from .wired import Place, Wired

_LAG_TICK = 0.5
_CANCELLED = 5.0
"""Seconds that a `main()` has after its worker was closed."""
_LINGER = 2.0
"""Seconds that a process has to end when its worker has: less than the coordinator waits before it kills."""


async def run_worker(channel: Channel, kind: str, ask_to_end: asyncio.Event | None = None) -> int:
    """Be a worker; returns the exit code.

    Args:
        channel: the worker's end of its control channel.
        kind: ``"process"``, ``"thread"`` or ``"loop"``.
        ask_to_end: when set, the worker drains and ends.
    """
    return await _Run(channel, kind, ask_to_end or asyncio.Event()).run()


class _Run:
    def __init__(self, channel: Channel, kind: str, ask_to_end: asyncio.Event) -> None:
        self.channel = channel
        self.kind = kind
        self.end = ask_to_end
        self.loop = asyncio.get_running_loop()
        self.began = time.monotonic()
        self.started: asyncio.Future[tuple[Message, list[Any]]] = self.loop.create_future()
        self.member: Member | None = None
        self.place: Place | None = None
        self.broken = False
        self.drain_timeout = 30.0
        self.lag = _Lag(self.loop)

    async def run(self) -> int:
        ended = self.loop.create_task(self.end.wait())
        try:
            self.channel.start(self._received, self._lost)
            await asyncio.wait((ended, self.started), return_when=asyncio.FIRST_COMPLETED)
            if not self.started.done():
                return 1 if self.broken else 0
            self.config, self.objects = self.started.result()
            self.lag.start()
            work = self.loop.create_task(self._work())
            try:
                await asyncio.wait((ended, work), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    await self._close()
                    # What closes itself ends by itself; a main() that goes on after that is cancelled.
                    await asyncio.wait((work,), timeout=0 if self.config["entry"] else _CANCELLED)
                    work.cancel()
                    await asyncio.wait((work,), timeout=_CANCELLED)
                return work.result() if work.done() and not work.cancelled() else 0
            finally:
                self._cut()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        finally:
            ended.cancel()
            self.lag.stop()
            self._cut()
            if self.member is not None:
                await self.member.ended()
                if self.place is not None and self.place.wired is not None and self.kind != "process":
                    await self.place.wired.abandon()
            self.channel.close()

    def _cut(self) -> None:
        """Leave nothing that others could wait for. First: whoever is cancelled next may want to answer."""
        if self.member is not None:
            self.member.cut(ConnectionAbortedError("the worker was ended"))

    # ---------------------------------------------------------------------------- control channel

    def _received(self, message: Message, attachments: list[Any]) -> None:
        if self.member is not None:
            self.member.receive(message, attachments)
        elif message["type"] == "start":
            if not self.started.done():
                self.started.set_result((message, attachments))
        elif message["type"] == "call" and message["do"] == "close":
            self.end.set()  # it is importing, and is not wanted any more
        else:
            raise ValueError(f"{message['type']!r} before 'start'")

    def _lost(self, error: BaseException | None) -> None:
        if self.member is not None:
            self.member.lost(error)
        elif error is not None:
            self.broken = True
            _log().error("a worker lost its coordinator before it had joined: %s", error)
        self.end.set()

    # --------------------------------------------------------------------------------------- life

    async def _work(self) -> int:
        config = self.config
        try:
            main_or_app = self._load()
            place = await self._join()
            wired: Wired | None = None
            if not config["entry"]:
                from .wired import attach

                hooks = self.objects[2] if self.objects else {}
                host = self._make_host(**hooks)
                wired = await attach(place, host, main_or_app, bool(config["accepting"]))
        except SystemExit as error:
            # A module or a factory that gives up: its worker does, and nobody else in this process.
            from .spawn import exit_code

            self._failed(error)
            return exit_code(error)
        except Exception as error:
            self._failed(error)
            return 1
        if wired is not None:
            await wired.closed.wait()
            return 0
        try:
            await main_or_app(*self._arguments())
        except Exception as error:
            self._failed(error)
            await self._close()
            return 1
        await self._close()
        return 0

    def _load(self) -> Any:
        config = self.config
        target = self.objects[0] if self.objects else config["target"]
        cwd = config["cwd"]
        if not config["entry"]:
            from .loading import resolve

            return resolve(target, interface=config["interface"], cwd=cwd)
        if isinstance(target, str):
            from .loading import _load

            target = _load(target, cwd)
        if not asyncio.iscoroutinefunction(target):
            from ..core.errors import InvalidArgumentError

            raise InvalidArgumentError(f"{config['name']}: {target!r} is not an async function")
        return target

    def _arguments(self) -> tuple[Any, ...]:
        return tuple(self.objects[1] if self.objects else self.config["args"])

    async def _join(self) -> Place:
        from .member import Member, MeshSettings
        from .snapshot import MemberInfo
        from .wired import Place, settle

        config = self.config
        info = MemberInfo(id=config["id"], name=config["name"], pid=os.getpid(), kind=self.kind)
        self.member = member = Member(info, self.channel, self.loop, MeshSettings(**config["settings"]))
        member.calls |= {"close": self._on_close, "drain": self._on_drain, "stats": self._on_stats}
        self.place = Place(member, self._make_host)
        settle(self.place, whole_process=self.kind == "process")
        await member.joined()
        return self.place

    def _make_host(self, **wanted: Any) -> AppHost:
        from .host import AppHost

        config = self.config
        given = {key: value for key, value in wanted.items() if value is not None}
        for key in ("lifespan", "interface", "app_errors", "wsgi_threads", "cwd"):
            given.setdefault(key, config[key])
        given["trace"] = config["settings"].get("trace", True)
        return AppHost(**given)

    def _failed(self, error: BaseException) -> None:
        self.channel.send(
            {
                "type": "failed",
                "error": f"{type(error).__name__}: {error}",
                "traceback": getattr(error, "remote_traceback", "")
                or "".join(traceback.format_exception(error)),
            }
        )

    async def _close(self) -> None:
        place = self.place
        if place is None:
            return
        if place.wired is not None:
            await place.wired.close(self.drain_timeout)
        else:
            await place.member.close()

    # -------------------------------------------------------------------- what is asked for (calls)

    async def _on_close(self, message: Message) -> None:
        self.drain_timeout = float(message["drain_timeout"])
        self.end.set()

    async def _on_drain(self, message: Message) -> None:
        if self.place is not None and self.place.wired is not None:
            await self.place.wired.drain([str(host) for host in message["hosts"]], float(message["seconds"]))

    async def _on_stats(self, message: Message) -> Mapping[str, Any]:
        counts: dict[str, Any] = {"requests": 0, "errors": 0, "running": 0, "websockets": 0}
        if self.place is not None and self.place.wired is not None:
            stats = self.place.wired._host.stats
            running = stats.running + stats.queued
            counts = {
                "requests": stats.served + running,
                "errors": stats.errors,
                "running": running,
                "websockets": stats.websockets,
            }
        return {
            **counts,
            "rss": resident(),
            "loop_lag": self.lag.seconds,
            "uptime": time.monotonic() - self.began,
        }


class _Lag:
    """How late the loop is: the worst of the last two ticks, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._expected = 0.0
        self._last = self._worst = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._expected = self._loop.time() + _LAG_TICK
        self._handle = self._loop.call_at(self._expected, self._tick)

    def _tick(self) -> None:
        self._last, self._worst = self._worst, max(0.0, self._loop.time() - self._expected)
        self.start()

    @property
    def seconds(self) -> float:
        return max(self._last, self._worst, self._loop.time() - self._expected)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


def resident() -> int:
    """Memory of this process in RAM, in bytes; the highest it ever was where only that is known."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - a fifth of Path.read_bytes
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


# ------------------------------------------------------------------------------------ a process


async def _run_process(sock: socket.socket) -> int:
    from .control import SocketChannel

    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    return await run_worker(SocketChannel(sock, loop), "process", end)


def main(descriptor: int) -> int:
    """Run a process worker on its control channel; returns the exit code."""
    del sys.argv[1:]  # which are nobody's but spawn.py's
    # A handler and not SIG_IGN, which would be inherited by programs that the app starts.
    signal.signal(signal.SIGINT, lambda *_: None)
    from .spawn import exit_code, new_loop

    look_rarely()
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    runner = asyncio.Runner(loop_factory=new_loop)
    code = 1
    try:
        code = runner.run(_run_process(sock))
    except SystemExit as exit_:
        # An app that called sys.exit() wants to be gone: nothing that runs is waited for.
        code = exit_code(exit_)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    finally:
        last = threading.Timer(_LINGER, _end_at_last, (code,))
        last.daemon = True
        last.start()
    runner.close()
    return code


def _end_at_last(code: int) -> None:
    # Daemons end with the interpreter by themselves, and what is left over are threads that it waits for.
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon]
    _log().warning(
        "the process is ended although its app still runs (threads: %s)",
        ", ".join(name for name in threads if name != "MainThread") or "none but the main one",
    )
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _log() -> logging.Logger:
    import logging

    return logging.getLogger("dodici.mesh")
