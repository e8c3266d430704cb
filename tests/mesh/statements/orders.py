"""What a test can have a worker do: orders that arrive over a unix socket of the test's own (`kit.Office`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

from dodici.mesh import current, wire

OFFICE = "MESH_TEST_OFFICE"
BADGE = "MESH_TEST_BADGE"
LINE = 1 << 20
"""Bytes of a message between a worker and the office at most."""


class Orders:
    """What a test can have a worker do. What they raise goes back as its type's name and text."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.apps = {app.label: app}
        self.finished = asyncio.Event()
        self._watch: asyncio.Task[float] | None = None

    async def set(self, name: str) -> None:
        self.app.board.set(name)

    async def wait(self, name: str) -> None:
        await self.app.board.wait(name)

    async def get(self, name: str) -> int:
        return self.app.board.get(name)

    async def clear(self) -> None:
        self.app.board.clear()

    async def attribute(self, name: str) -> Any:
        return getattr(self.app, name)

    async def accepting(self, flag: bool) -> float:
        """The seconds that it took."""
        began = time.monotonic()
        try:
            await current().set_accepting(flag)
        except TimeoutError as error:
            raise _Slow(time.monotonic() - began, error) from error
        return time.monotonic() - began

    async def is_accepting(self) -> bool:
        return current().accepting

    async def accepting_many(self, flags: list[bool]) -> list[str]:
        """All at once, in this order; what became of each."""
        wired = current()
        return await _outcomes([wired.set_accepting(flag) for flag in flags])

    async def accepting_twice(self, flag: bool) -> bool:
        """Two calls at once; whether the second returned before the first."""
        wired = current()
        first = asyncio.ensure_future(wired.set_accepting(flag))
        second = asyncio.ensure_future(wired.set_accepting(flag))
        self.app.board.set("twice:begun")
        done, _ = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        self.app.board.set("twice:one returned")
        early = second in done and first not in done
        await asyncio.gather(first, second)
        return early

    async def replace(self, label: str | None) -> None:
        """A new app of that label; None: none."""
        if label is None:
            await current().replace_server(None)
        elif "://" in label:
            await current().replace_server(label)
        else:
            app = type(self.app)(label)
            app.board = self.app.board
            app.desk = self.app.desk
            self.apps[label] = app
            await current().replace_server(app)

    async def replace_without_argument(self) -> None:
        await current().replace_server()  # type: ignore[call-arg]

    async def wire_again(self) -> None:
        await wire(self.app)

    async def shutdowns(self, label: str) -> int:
        return self.apps[label].shutdowns

    async def fetch(self, url: str, **options: Any) -> list[Any]:
        response = await current().request(url, **options)
        return [response.status_code, await response.text()]

    async def size(self, url: str) -> int:
        """The size of a body; it has to arrive whole."""
        response = await current().request(url)
        return len(await response.bytes())

    async def spread(self, url: str, count: int = 1) -> list[str]:
        """What `count` requests at once are answered, or the error's name after an exclamation mark."""
        return await _outcomes([_text(current().agent, url) for _ in range(count)])

    async def hammer(self, url: str, callers: int) -> dict[str, int]:
        """Requests without end until the event `hammer:stop`; how often each outcome was seen."""
        seen: Counter[str] = Counter()
        agent, board = current().agent, self.app.board

        async def caller() -> None:
            while not board.get("hammer:stop"):
                seen.update(await _outcomes([_text(agent, url)]))
                board.set("hammer:some")

        await asyncio.gather(*(caller() for _ in range(callers)))
        return seen

    async def global_request(self, url: str) -> str:
        """Through `dodici.request`, as app code does."""
        import dodici

        response = await dodici.request(url)
        return await response.text()

    async def close(self, drain_timeout: float = 30.0, times: int = 1) -> list[str]:
        wired = current()
        return await _outcomes([wired.close(drain_timeout) for _ in range(times)])

    async def block(self, path: str) -> None:
        """Block the loop in synchronous code until somebody connects to `path` and closes."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            assert self.app.desk is not None
            self.app.desk.report("blocked", now=True)
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)

    async def fork(self, count: int) -> list[int]:
        """Children that inherit what they may, and only sleep."""
        children = []
        for _ in range(count):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
        return children

    async def watch_timer(self) -> None:
        """Begin to measure how late a timer of 10 ms fires."""

        async def watch() -> float:
            worst = 0.0
            while not self.finished.is_set() and not self.app.board.get("timer:stop"):
                # In processor time: what other processes of the machine take is not this worker's fault.
                before = time.process_time()
                await asyncio.sleep(0.01)
                worst = max(worst, time.process_time() - before)
            return worst

        self._watch = asyncio.ensure_future(watch())

    async def timer(self) -> float:
        assert self._watch is not None
        self.app.board.set("timer:stop")
        return await self._watch

    async def counts(self) -> dict[str, int]:
        """What may not grow."""
        gc.collect()
        return {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "objects": len(gc.get_objects()),
        }

    async def modules(self) -> list[str]:
        return sorted(sys.modules)

    async def environment(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "argv": sys.orig_argv, "cwd": os.getcwd(), "env": dict(os.environ)}

    async def finish(self) -> None:
        """Let `main()` return."""
        self.finished.set()


class _Slow(Exception):
    """A propagation that failed, with the seconds that it took."""

    def __init__(self, seconds: float, error: Exception) -> None:
        super().__init__(json.dumps({"seconds": seconds, "kind": type(error).__name__, "text": str(error)}))


async def _text(agent: Any, url: str) -> str:
    response = await agent.request(url)
    return f"{await response.text()}" if response.status_code == 200 else f"!{response.status_code}"


async def _outcomes(awaitables: list[Any]) -> list[str]:
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    return [
        f"!{type(result).__name__}" if isinstance(result, BaseException) else str(result)
        for result in results
    ]


class Desk:
    """A worker's end of the socket to the test."""

    def __init__(self, app: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.orders = Orders(app)
        self._reader = reader
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def join(cls, app: Any) -> Desk:
        reader, writer = await asyncio.open_unix_connection(os.environ[OFFICE], limit=LINE)
        desk = cls(app, reader, writer)
        desk._tell({"badge": os.environ[BADGE], "pid": os.getpid()})
        desk._reading = asyncio.ensure_future(desk._read())
        return desk

    def report(self, event: str, *, now: bool = False) -> None:
        """Tell the test of an event; `now` where the loop will not turn again."""
        self._tell({"event": event})
        if now:
            assert not self._writer.transport.get_write_buffer_size()

    async def leave(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _tell(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        while line := await self._reader.readline():
            task = asyncio.ensure_future(self._obey(json.loads(line)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _obey(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": message["id"]}
        try:
            answer["result"] = await getattr(self.orders, message["order"])(**message["arguments"])
        except Exception as error:
            answer["error"] = [type(error).__name__, str(error)]
        self._tell(answer)
