"""Several collectors: on this loop, or each in a process of its own that can be killed, stopped and started again.

    async with fleet(a={}, b={}) as (a, b):               on this loop, all in "shop"
    async with processes() as launch:                     b = await launch("b"); await b.ask("connect", address=...)

Every collector of a process serves "shop": Work.* as below, under the services that it is told to. As a program
(`python fleet.py '{"id": "b", ...}'`) this file is such a process: it reads commands from its stdin, a JSON object a
line, and answers each on its stdout. It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from dodici.collective import Collector, Retry

NAMESPACE = "shop"
WAIT = 10.0


# -- what they serve -----------------------------------------------------------------------------------------


class Work:
    """Handlers that say what they see. `counts` are calls by method."""

    def __init__(self, id: str) -> None:  # noqa: A002
        self.id = id
        self.counts: dict[str, int] = {}
        self.cancelled = 0
        self.running = 0
        self.released = asyncio.Event()

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    async def who(self, context: Any, given: Any) -> Any:
        self.count("Who")
        if given:
            await asyncio.sleep(given)
        return self.id

    async def once(self, context: Any, given: Any) -> Any:
        """Not idempotent."""
        self.count("Once")
        if given:
            await asyncio.sleep(given)
        return self.id

    async def see(self, context: Any, given: Any) -> Any:
        """What the handler sees of its call."""
        self.count("See")
        context.set_trailing_metadata(
            (("x-seen", "1"), ("x-seen", "2"), ("x-seen-bin", b"\x00\xfe"), ("x-id", self.id))
        )
        return {
            "id": self.id,
            "path": list(context.path),
            "remaining": context.time_remaining(),
            "trace": context.trace.trace_id,
            "metadata": [
                [name, value if isinstance(value, str) else value.hex()]
                for name, value in context.metadata.multi_items()
            ],
        }

    async def fail(self, context: Any, given: Any) -> Any:
        self.count("Fail")
        context.set_trailing_metadata({"x-why": self.id})
        context.abort(given, f"as told: {given}", {"by": self.id})

    async def hold(self, context: Any, given: Any) -> Any:
        """Wait until released; tell of a cancellation."""
        self.running += 1
        try:
            await self.released.wait()
            return self.id
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def numbers(self, context: Any, given: Any) -> AsyncIterator[Any]:
        self.running += 1
        try:
            for number in range(given):
                self.count("Numbers")
                yield number
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def total(self, context: Any, given: AsyncIterator[Any]) -> Any:
        result = 0
        async for number in given:
            self.count("Total")
            result += number
        return result

    async def chat(self, context: Any, given: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for each in given:
            yield f"{self.id}:{each}"


def serve(collector: Collector, service: str = "Work", namespace: str = NAMESPACE) -> Work:
    """Register all of `Work` at a collector."""
    work = Work(collector.id)
    for name, handler, kind, idempotent in (
        ("Who", work.who, "unary_unary", True),
        ("Once", work.once, "unary_unary", False),
        ("See", work.see, "unary_unary", True),
        ("Fail", work.fail, "unary_unary", False),
        ("FailSafely", work.fail, "unary_unary", True),
        ("Hold", work.hold, "unary_unary", False),
        ("Numbers", work.numbers, "unary_stream", True),
        ("Total", work.total, "stream_unary", False),
        ("Chat", work.chat, "stream_stream", False),
    ):
        collector.register_service(namespace, service, name, handler, kind=kind, idempotent=idempotent)
    return work


# -- on this loop ----------------------------------------------------------------------------------------------


def collector(id: str, address: str = "127.0.0.1:0", **options: Any) -> Collector:  # noqa: A002
    """A collector in "shop", not started."""
    return Collector(id, address, **{"namespaces": [NAMESPACE], **options})


@contextlib.asynccontextmanager
async def fleet(**members: dict[str, Any]) -> AsyncIterator[tuple[Collector, ...]]:
    """Started collectors, by id, with their options; not connected."""
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for id, options in members.items():  # noqa: A001
            started.append(await stack.enter_async_context(collector(id, **options)))
        yield tuple(started)


async def until(condition: Callable[[], Any], timeout: float = WAIT) -> None:
    """Return when the condition is true. For what no event tells of."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def routed(by: Collector, service: str = "Work", method: str = "Who", namespace: str = NAMESPACE) -> set[str]:
    """The peers that a collector would choose from for a method."""
    from dodici.collective.names import RouteKey

    group = by._router.table.group(RouteKey(namespace, service, method))  # type: ignore[attr-defined]
    return {candidate.peer for tier in group.tiers for candidate in tier.candidates} if group else set()


async def settled(by: Collector, *peers: str, service: str = "Work") -> None:
    """Return when a collector would choose from exactly these peers for Work.Who."""
    await until(lambda: routed(by, service) == set(peers))


# -- in processes ----------------------------------------------------------------------------------------------


class Process:
    """A collector in a process of its own."""

    def __init__(self, started: asyncio.subprocess.Process, settings: dict[str, Any]) -> None:
        self.process = started
        self.settings = settings
        self.id = settings["id"]
        self.address = ""
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._reader = asyncio.create_task(self._read())

    async def ask(self, what: str, **arguments: Any) -> Any:
        """Have it do something, and return what it answers."""
        self._last += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[self._last] = future
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"number": self._last, "do": what, **arguments}).encode() + b"\n")
        async with asyncio.timeout(30):
            answer = await future
        if "error" in answer:
            raise AssertionError(f"{self.id}: {what}: {answer['error']}")
        return answer["result"]

    def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()

    def stop(self) -> None:
        """SIGSTOP."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def gone(self) -> None:
        """Return when the process has ended."""
        await self.process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            answer = json.loads(line)
            future = self._replies.pop(answer["number"], None)
            if future is not None and not future.done():
                future.set_result(answer)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(ConnectionError(f"{self.id} has ended"))


@contextlib.asynccontextmanager
async def processes(program: str = __file__) -> AsyncIterator[Any]:
    """Gives `await launch(id, **settings) -> Process`; they are killed at the end.

    `program` is the file that they run: with the settings as its argument it answers commands as this one does.
    """
    launched: list[Process] = []

    async def launch(id: str, **settings: Any) -> Process:  # noqa: A002
        settings = {"id": id, "address": "127.0.0.1:0", **settings}
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(program).resolve()),
            json.dumps(settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        process = Process(started, settings)
        launched.append(process)
        process.address = await process.ask("address")
        return process

    try:
        yield launch
    finally:
        for process in launched:
            process.kill()
        for process in launched:
            await process.gone()
            # Or its transport warns that the pipe was left open.
            process.process._transport.close()  # type: ignore[attr-defined]


class _Load:
    """Calls at a steady rate, and how each of them ended."""

    def __init__(self, by: Collector, method: str, rate: float) -> None:
        self.ended: list[tuple[float, int, str]] = []
        """When each began, its status, and who ran it."""
        self._by, self._method, self._rate = by, method, rate
        self._calls: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            due += 1 / self._rate
            await asyncio.sleep(due - time.monotonic())

    async def _call(self) -> None:
        began = time.time()
        result = await self._by.dispatch(NAMESPACE, "Work", self._method, timeout=10)
        self.ended.append((began, int(result.status), result.handled_by_collector_id))

    async def finish(self) -> list[tuple[float, int, str]]:
        self._task.cancel()
        await asyncio.gather(self._task, *self._calls, return_exceptions=True)
        return self.ended


class _Program:
    """What a process does."""

    def __init__(self, settings: dict[str, Any]) -> None:
        retry = Retry(**settings["retry"]) if "retry" in settings else None
        self.collector = collector(
            settings["id"], settings["address"], retry=retry, discovery=settings.get("discovery")
        )
        self.works = [serve(self.collector, service) for service in settings.get("serves", ["Work"])]
        self.load: _Load | None = None

    async def do(self, what: str, arguments: dict[str, Any]) -> Any:
        match what:
            case "address":
                return self.collector.address
            case "connect":
                result = await self.collector.connect_to(arguments["address"])
                return [result.target_collector_id, list(result.shared_namespaces)]
            case "dispatch":
                began = time.monotonic()
                result = await self.collector.dispatch(
                    NAMESPACE,
                    "Work",
                    arguments["method"],
                    arguments.get("given"),
                    timeout=arguments.get("timeout"),
                    target=arguments.get("target"),
                )
                return {
                    "status": int(result.status),
                    "message": result.status.message,
                    "output": result.output,
                    "by": result.handled_by_collector_id,
                    "took": time.monotonic() - began,
                }
            case "routed":
                return sorted(routed(self.collector))
            case "settle":
                began = time.monotonic()
                await settled(self.collector, *arguments["peers"])
                return time.monotonic() - began
            case "load":
                self.load = _Load(self.collector, arguments["method"], arguments["rate"])
            case "finish":
                assert self.load is not None
                return await self.load.finish()
            case "seen":
                assert self.load is not None
                return len(self.load.ended)
            case "counts":
                return self.works[0].counts
            case "running":
                return [self.works[0].running, self.works[0].cancelled]
            case "block":
                time.sleep(arguments["seconds"])  # as a handler that does not yield
            case "drain":
                await self.collector.drain()
            case "end":
                await self.collector.stop()
            case _:
                raise ValueError(what)
        return None

    async def run(self) -> None:
        async with self.collector:
            await obey(self.do)


async def obey(do: Callable[[str, dict[str, Any]], Any]) -> None:
    """Carry out the commands of `Process.ask`, side by side, until there are no more."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(command: dict[str, Any]) -> None:
        number, what = command.pop("number"), command.pop("do")
        try:
            reply = {"number": number, "result": await do(what, command)}
        except Exception as error:
            reply = {"number": number, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)

    async for line in reader:
        task = asyncio.create_task(answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _run() -> None:
    await _Program(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    asyncio.run(_run())
