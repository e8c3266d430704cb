"""What the tests of the mesh's statements share: a mesh, an office for its workers, and who is counted.

A test gives orders to a worker through its `Desk`, a unix socket of its own: so it reaches workers that take no
requests, and what it does there disturbs nothing that is tested. `Office.desk(worker)` waits for the worker to
come; a desk that is closed says that the worker is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from dodici import Agent, Dispatcher
from dodici.core.controller import refuse
from dodici.mesh import Worker, WorkerInterceptor
from dodici.testing import RecordingHandler

from .orders import BADGE, LINE, OFFICE

ROOT = Path(__file__).parents[3]
HERE = "tests.mesh.statements.apps"
APP = f"{HERE}:app"
LATE = f"{HERE}:late_main"
WAIT = 15.0
_badges = itertools.count(1)


def environment() -> dict[str, str]:
    """This process's, with the repository's root on the path of imports."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
    }


class OrderError(Exception):
    """An order failed in the worker: with the type's name and the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Desk:
    """A worker, by its own socket."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.gone = asyncio.Event()
        """The worker has left, or has died."""
        self.events: Counter[str] = Counter()
        self._reader = reader
        self._writer = writer
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def give(self, order: str, **arguments: Any) -> asyncio.Future[Any]:
        """Send an order now; its result, to be awaited.

        Raises:
            OrderError: it raised. ConnectionError: the worker is gone.
        """
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        if self.gone.is_set():
            future.set_exception(ConnectionError("the worker is gone"))
        message = {"id": number, "order": order, "arguments": arguments}
        self._writer.write(json.dumps(message).encode() + b"\n")
        return future

    async def call(self, order: str, **arguments: Any) -> Any:
        """Send an order and wait for its result."""
        return await within(self.give(order, **arguments), f"the order {order} {arguments!r:.200}")

    async def seen(self, name: str) -> None:
        """Wait for an event of the worker's board."""
        await self.call("wait", name=name)

    async def heard(self, event: str) -> None:
        """Wait for an event that the worker reports by itself."""

        async def wait() -> None:
            while not self.events[event]:
                self._changed.clear()
                await self._changed.wait()

        await within(wait(), f"the report {event!r}")

    async def read(self) -> None:
        """Until the worker is gone."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self.events[message["event"]] += 1
                    self._changed.set()
                    continue
                future = self._answers.pop(message["id"])
                if future.done():
                    continue
                if "error" in message:
                    future.set_exception(OrderError(*message["error"]))
                else:
                    future.set_result(message["result"])
        except OSError:
            pass  # it was killed
        finally:
            self.gone.set()
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(ConnectionError("the worker is gone"))
                    future.exception()
            self._writer.close()

    def close(self) -> None:
        self._writer.close()


class Office:
    """Where workers report. An asynchronous context manager."""

    def __init__(self) -> None:
        self._desks: dict[str, asyncio.Future[Desk]] = {}
        self._reading: set[asyncio.Task[Any]] = set()
        self._all: list[Desk] = []

    async def __aenter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="mesh-")
        self.path = f"{self.folder}/office"
        self._server = await asyncio.start_unix_server(self._arrived, self.path, limit=LINE)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        for desk in self._all:
            desk.close()
        await self._server.wait_closed()
        shutil.rmtree(self.folder)

    def badge(self) -> tuple[str, dict[str, str]]:
        """A new badge, and the environment of the worker that will show it."""
        badge = f"worker-{next(_badges)}"
        return badge, {**environment(), OFFICE: self.path, BADGE: badge}

    async def desk(self, badge: str) -> Desk:
        """The desk of who shows this badge, when it comes."""
        return await within(asyncio.shield(self._promised(badge)), f"the worker with badge {badge}")

    def _promised(self, badge: str) -> asyncio.Future[Desk]:
        if badge not in self._desks:
            self._desks[badge] = asyncio.get_running_loop().create_future()
        return self._desks[badge]

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        hello = json.loads(await reader.readline())
        desk = Desk(hello["pid"], reader, writer)
        self._all.append(desk)
        self._desks[hello["badge"]] = promised = self._promised(hello["badge"])
        if promised.done():  # the same worker, started again
            promised = self._desks[hello["badge"]] = asyncio.get_running_loop().create_future()
        promised.set_result(desk)
        await desk.read()


class Elsewhere(Dispatcher):
    """Stands for the network: records what the mesh leaves to it, and fails it with `ElsewhereError`."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: list[str] = []
        self._closed = False

    def dispatch(self, options: Any, handler: Any) -> bool:
        self.origins.append(options.origin)
        return refuse(handler, ElsewhereError(options.origin))

    async def close(self) -> None:
        self._closed = True

    async def destroy(self, error: BaseException | None = None) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def destroyed(self) -> bool:
        return self._closed


class ElsewhereError(Exception):
    """What `Elsewhere` answers."""


class Mesh:
    """An interceptor, an agent through it, and an office. An asynchronous context manager that leaves nothing behind.

    Args:
        base: what the agent wraps; by default `Agent()`.
        options: of `WorkerInterceptor`.
    """

    def __init__(self, base: Any = None, **options: Any) -> None:
        self.interceptor = WorkerInterceptor(**options)
        self.agent = (base or Agent()).compose(self.interceptor)
        self.office = Office()
        self.workers: list[Any] = []
        self._badges: dict[int, str] = {}

    async def __aenter__(self) -> Self:
        await self.office.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for worker in self.workers:
                if worker.kind == "process" and worker.pid:
                    thaw(worker.pid)
            async with asyncio.timeout(20):
                with contextlib.suppress(*self._tolerated()):
                    await self.interceptor.close(drain_timeout=0.2)
                await self.agent.destroy()
        finally:
            for worker in self.workers:
                if worker.kind == "process" and worker.state != "exited":
                    worker.kill()
            await self.office.__aexit__()

    def _tolerated(self) -> tuple[type[BaseException], ...]:
        # A mesh whose workers were killed or frozen on purpose may say so at its end.
        return (ExceptionGroup, TimeoutError, ConnectionError)

    def worker(self, target: Any = APP, **options: Any) -> Any:
        """A worker that reports to the office; `Worker.entry` for the names of `main` functions."""
        make = Worker
        if isinstance(target, str) and target.endswith("_main"):
            make = Worker.entry
        if options.get("kind", "process") == "process" and isinstance(target, str) and ":" in target:
            badge, environment = self.office.badge()
            options["env"] = environment | options.pop("env", {})
            options.setdefault("cwd", str(ROOT))
        else:
            badge = ""
        worker = make(target, **options)
        self.workers.append(worker)
        self._badges[id(worker)] = badge
        return worker

    async def start(self, name: str, /, count: int = 1, target: Any = APP, **options: Any) -> list[Any]:
        """Route `count` new workers side by side."""
        workers = [self.worker(target, **options) for _ in range(count)]
        await self.route(name, workers)
        return workers

    async def route(self, name: str, workers: Any) -> None:
        await within(self.interceptor.route(name, workers), f"route({name!r})")

    async def desk(self, worker: Any) -> Desk:
        return await self.office.desk(self._badges[id(worker)])

    async def desks(self, workers: list[Any]) -> list[Desk]:
        return [await self.desk(worker) for worker in workers]

    # -------------------------------------------------------------------------------------- requests

    async def text(self, url: str, **options: Any) -> str:
        """The body of a response that has to be a 200."""
        response = await within(self.agent.request(url, **options), url)
        body = await within(response.text(), f"the body of {url}")
        assert response.status_code == 200, f"{response.status_code} {body}"
        return body

    async def json(self, url: str, **options: Any) -> Any:
        return json.loads(await self.text(url, **options))

    def send(
        self, origin: str, path: str = "/", recorder: RecordingHandler | None = None, **options: Any
    ) -> RecordingHandler:
        """Dispatch; the recorder."""
        recorder = recorder or RecordingHandler()
        recorder.dispatch(self.agent, {"origin": origin, "path": path, **options})
        return recorder

    async def outcome(self, url: str) -> str:
        """What is answered, or the error's name or the status after an exclamation mark."""
        try:
            response = await self.agent.request(url)
            body = await response.text()
        except Exception as error:
            return f"!{type(error).__name__}"
        return body if response.status_code == 200 else f"!{response.status_code}"

    async def spread(self, url: str, count: int) -> list[str]:
        """The outcomes of that many at once."""
        return await within(
            asyncio.gather(*(self.outcome(url) for _ in range(count))), f"{count} times {url}"
        )

    async def applied(self, condition: Callable[[Any], Any]) -> None:
        """Wait until the coordinator's snapshot is such."""
        await until(lambda: condition(self.interceptor.snapshot()), "the snapshot")


def member(snapshot: Any, worker: Any) -> Any:
    """What a snapshot says of a worker; None if it is not in it."""
    return snapshot.members.get(worker.id)


async def within(awaitable: Awaitable[Any], what: str, seconds: float = WAIT) -> Any:
    """Await with a limit that names what did not happen."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise AssertionError(f"{what} did not happen within {seconds:g} s") from None
        raise


async def until(condition: Callable[[], Any], what: str, seconds: float = WAIT) -> None:
    """Wait for what no event tells."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not become so within {seconds:g} s: {value!r}")
        await asyncio.sleep(0.005)


async def eventually(ask: Callable[[], Awaitable[Any]], what: str, seconds: float = WAIT) -> None:
    """The same, for a question that is awaited."""
    end = time.monotonic() + seconds
    while not (value := await ask()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not become so within {seconds:g} s: {value!r}")
        await asyncio.sleep(0.005)


# -------------------------------------------------------------------------------------------- processes


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + WAIT
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < end, f"{pid} does not stop"


def thaw(pid: int) -> None:
    """SIGCONT, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that stands still."""
    freeze(pid)
    try:
        yield
    finally:
        thaw(pid)


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Census:
    """What this process holds; what is held later and was not before is a leak."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = self._descriptors()
        self.threads = set(threading.enumerate())
        self.children = {child.pid for child in psutil.Process().children(recursive=True)}

    @staticmethod
    def _descriptors() -> dict[str, str]:
        found = {}
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[number] = os.readlink(f"/proc/self/fd/{number}")
        return found

    def leaks(self) -> list[str]:
        """What is there now and was not then."""
        gc.collect()
        children = psutil.Process().children(recursive=True)
        now = self._descriptors()
        before, after = Counter(map(_sort, self.descriptors.values())), Counter(map(_sort, now.values()))
        return [
            *(f"descriptor of {kind}: {count}" for kind, count in (after - before).items()),
            *(f"thread {each.name}" for each in threading.enumerate() if each not in self.threads),
            *(f"process {each.pid} {_status(each)}" for each in children if each.pid not in self.children),
        ]

    def check(self) -> None:
        """Assert that nothing was leaked; what is ending may take a moment."""
        end = time.monotonic() + 5
        while leaks := self.leaks():
            if time.monotonic() > end:
                raise AssertionError("left behind: " + "; ".join(leaks))
            time.sleep(0.01)


def _sort(link: str) -> str:
    return link.partition("[")[0] if link.startswith(("socket:", "pipe:")) else link


def _status(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.status()
    return "ending"


async def no_tasks_left(before: set[Any]) -> None:
    """Assert that every task of this loop that was begun since has ended."""

    def left() -> list[asyncio.Task[Any]]:
        ours = before | {asyncio.current_task()}
        return [task for task in asyncio.all_tasks() if task not in ours and not task.done()]

    end = time.monotonic() + 5
    while tasks := left():
        if time.monotonic() > end:
            raise AssertionError(f"tasks left behind: {tasks}")
        await asyncio.sleep(0.005)
