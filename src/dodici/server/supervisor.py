"""Keeps the workers of a service running.

A service has as many slots as its configuration says workers, and a task for each, its keeper: it starts a worker,
waits for its end, and starts another when the time has come (`restarts`). A worker is replaced, for a reload or for
its age, in an order that loses nothing: the new one is started, ready and routed; the slot is handed over; the old one
is taken out of the mesh, finishes what it has, and ends. When the new one does not start, the old one stays.

Who changes a slot holds its lock. A keeper that was woken by the end of a worker which is no longer the slot's does
nothing. Nothing is ever killed for being slow to answer: a worker that computes is not a worker that hangs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ..core.errors import DodiciError, MeshTimeoutError
from .config import ServiceConfig
from .output import Output
from .restarts import Restarts
from .slots import MakeWorker, MeshLike, Slot, WorkerLike, how_it_ended

CHECK_SECONDS: Final = 1.0
"""How often the workers are asked for their figures, and their age is looked at."""
_TAIL: Final = 30


class ServiceSupervisor:
    """The workers of one service.

    Args:
        service: its configuration.
        mesh: where they are routed.
        make: makes a worker.
        output: told what happens, and given what the workers print.
    """

    def __init__(self, service: ServiceConfig, mesh: MeshLike, make: MakeWorker, output: Output) -> None:
        self.service = service
        self.slots: list[Slot] = []
        self.restarts = Restarts(service.crash_limit, service.crash_window)
        self.started_once = False
        """A worker of it has been ready."""
        self._mesh = mesh
        self._make = make
        self._output = output
        self._stopping = False
        self._changing = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[Any]] = set()
        self._ending: set[WorkerLike] = set()

    @property
    def name(self) -> str:
        """The service's."""
        return self.service.name

    @property
    def error(self) -> str | None:
        """Why the last start of a worker failed that does not run."""
        return next((slot.error for slot in self.slots if slot.error is not None), None)

    @property
    def state(self) -> str:
        """``"running"``, ``"starting"``, ``"degraded"`` (some workers are missing), ``"failed"`` or ``"stopped"``."""
        if self._stopping:
            return "stopped"
        if self.restarts.failed:
            return "failed"
        running = sum(slot.worker is not None for slot in self.slots)
        if running == len(self.slots):
            return "running"
        return "degraded" if running or self.started_once or self.error else "starting"

    # ------------------------------------------------------------------------------- starting and keeping

    async def start(self) -> None:
        """Start the workers side by side; returns when each is ready or its first start has failed."""
        self._scale(self.service.workers)
        self._checking = asyncio.create_task(self._check_for_ever())
        await self._settled()

    async def _settled(self) -> None:
        await asyncio.gather(*(slot.settled.wait() for slot in self.slots))

    def _scale(self, workers: int) -> list[Slot]:
        """Add slots, or take away the last ones, which are returned."""
        while len(self.slots) < workers:
            slot = Slot(len(self.slots))
            self.slots.append(slot)
            self._begin(slot)
        gone = self.slots[workers:]
        del self.slots[workers:]
        return gone

    def _begin(self, slot: Slot) -> None:
        if self._stopping:
            return  # a reload that meets the end
        slot.keeper = asyncio.create_task(self._keep(slot))

    async def _keep(self, slot: Slot) -> None:
        while True:
            async with slot.lock:
                worker = slot.worker
                if worker is None:
                    worker = await self._start(slot)
            if worker is None:
                delay = self._failed()
                slot.state = "waiting"
                slot.settled.set()
                await self._pause_before_start(slot, delay)
                continue
            slot.settled.set()
            if self.service.is_address:
                return  # not ours to keep
            code = await worker.wait()
            async with slot.lock:
                if slot.worker is not worker:
                    continue  # it was replaced
                slot.worker = None
                slot.stats = None
            delay = self._crashed(slot, worker, code)
            slot.restarts += 1
            slot.state = "waiting"
            await self._pause_before_start(slot, delay)

    async def _pause_before_start(self, slot: Slot, delay: float) -> None:
        if delay:
            try:
                async with asyncio.timeout(delay):
                    await slot.retry.wait()
            except TimeoutError:
                pass
        slot.retry.clear()
        slot.state = "starting"

    async def _start(self, slot: Slot) -> WorkerLike | None:
        """A worker that is ready and routed, in its slot; None if it did not start, which is told."""
        service = self.service
        try:
            worker = await self._route(service)
        except Exception as error:  # whatever it is: a keeper that ends would leave its slot empty for ever
            slot.error = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__
            self._output.say(f"{self.name}: worker did not start: {error}", service=self.name)
            return None
        self._put(slot, worker, service)
        await self._keep_paused(slot)
        return worker

    async def _route(self, service: ServiceConfig) -> WorkerLike:
        worker = self._make(service, self._take_output)
        routing = asyncio.ensure_future(self._mesh.route(service.name, worker))
        try:
            await asyncio.shield(routing)
        except asyncio.CancelledError:
            # It has no requests yet, and may be in an import that listens to nobody.
            worker.kill()
            routing.cancel()
            self._leaving.add(routing)
            routing.add_done_callback(self._left)
            raise
        except MeshTimeoutError as error:
            # It is routed; somebody is slow to learn of it.
            self._output.say(str(error), service=self.name)
        return worker

    def _put(self, slot: Slot, worker: WorkerLike, service: ServiceConfig) -> None:
        slot.worker = worker
        slot.state = "running"
        slot.started = time.monotonic()
        slot.stats = None
        slot.request_limit = service.max_requests
        if service.max_requests and service.max_requests_jitter:
            # Workers that began together shall not be replaced together.
            slot.request_limit += random.randint(0, service.max_requests_jitter)  # noqa: S311
        slot.error = None
        self.started_once = True
        elsewhere = service.is_address or service.is_collective
        what = f"at {service.app}" if elsewhere else f"ready ({service.app})"
        self._output.say(f"worker {worker.pid or worker.id} {what}", service=self.name)

    async def _keep_paused(self, slot: Slot) -> None:
        """A worker that takes the place of a paused one is paused, too."""
        if slot.paused and slot.worker is not None:
            try:
                await self._mesh.pause_worker(slot.worker)
            except DodiciError as error:
                self._output.say(f"cannot pause the new worker: {error}", service=self.name)

    def _take_output(self, worker: Any, stream: str, line: str) -> None:
        self._output.add(self.name, worker.pid, stream, line)

    # ------------------------------------------------------------------------------------------- crashing

    def _failed(self) -> float:
        was = self.restarts.failed
        delay = self.restarts.crashed(time.monotonic())
        if self.restarts.failed and not was:
            self._say_failed(delay, "its workers do not start")
        return delay

    def _crashed(self, slot: Slot, worker: WorkerLike, code: int | None) -> float:
        was = self.restarts.failed
        delay = self.restarts.crashed(time.monotonic())
        self._output.say(f"worker {worker.pid or worker.id} {how_it_ended(code)}", service=self.name)
        if self.restarts.failed and not was:
            tail = self._output.last(self.name, _TAIL, pid=worker.pid) if worker.pid else []
            slot.error = how_it_ended(code)
            self._say_failed(delay, "its workers crash")
            if tail:
                self._output.say("the last that it printed:", service=self.name)
                for line in tail:
                    self._output.say(f"  {line.text}", service=self.name)
        return delay

    def _say_failed(self, delay: float, why: str) -> None:
        service = self.service
        self._output.say(
            f"service {self.name} has failed: {why}, {service.crash_limit} times within "
            f"{service.crash_window:g} s; the next try is in {delay:g} s, or with `dodici reload {self.name}`",
            service=self.name,
        )

    # ------------------------------------------------------------------------------------------ replacing

    async def reload(self, service: ServiceConfig | None = None) -> str | None:
        """Replace all workers, one by one; with a new configuration if there is one.

        Returns None, or why it was given up. Workers that were not replaced run on as they were.
        """
        async with self._changing:
            before = self.service
            if service is not None:
                self.service = service
            self.restarts = Restarts(self.service.crash_limit, self.service.crash_window)
            known = self.slots[: self.service.workers]
            self._scale(max(self.service.workers, len(self.slots)))
            for slot in known:
                error = await self._renew(slot)
                if error is not None:
                    self.service = before
                    self._output.say(
                        f"reload given up, the workers before run on: {error}", service=self.name
                    )
                    break
            else:
                error = None
            for slot in self._scale(self.service.workers):
                self._leave_later(slot)
            if error is not None:
                return error
            await self._settled()
            return self.error

    async def _renew(self, slot: Slot) -> str | None:
        """A worker of the present configuration for a slot. Returns why that failed, or None."""
        if slot.worker is not None:
            error = await self._replace(slot)
            if slot.keeper is not None and slot.keeper.done():
                self._begin(slot)  # it was a service at an address, which has nothing to keep
            return error
        slot.settled.clear()
        slot.retry.set()
        if slot.lock.locked() and slot.keeper is not None:
            # What starts there may be of the code or the configuration before.
            slot.keeper.cancel()
            await asyncio.gather(slot.keeper, return_exceptions=True)
            self._begin(slot)
        return None

    async def _replace(self, slot: Slot) -> str | None:
        """Start a worker in the place of one that runs. Returns why that failed, or None."""
        async with slot.lock:
            old = slot.worker
            if old is None or self._stopping:
                return None  # it crashed just now: the keeper starts another
            slot.state = "replacing"
            service = self.service
            try:
                new = await self._route(service)
            except Exception as error:
                slot.state = "running"
                return str(error)
            self._put(slot, new, service)
            await self._keep_paused(slot)
        await self._end(old, service)
        return None

    async def _end(self, worker: WorkerLike, service: ServiceConfig) -> None:
        """Take a worker out of the mesh, let it finish, end it."""
        self._ending.add(worker)
        try:
            await worker.stop(service.drain_timeout)
        except (DodiciError, OSError) as error:
            self._output.say(
                f"worker {worker.pid or worker.id} did not leave well: {error}", service=self.name
            )
            worker.kill()
        self._ending.discard(worker)  # not if this was cancelled: it is there to be killed

    def _leave_later(self, slot: Slot) -> None:
        task = asyncio.create_task(self._remove(slot))
        self._leaving.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._leaving.discard(task)
        if not task.cancelled():
            task.exception()  # whoever has started it is not interested any more

    async def _remove(self, slot: Slot) -> None:
        async with slot.lock:
            worker, slot.worker = slot.worker, None
            slot.state = "stopped"
            if slot.keeper is not None:
                slot.keeper.cancel()
        if worker is not None:
            await self._end(worker, self.service)

    # ------------------------------------------------------------------------------------------- watching

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.check()
            except Exception as error:
                self._output.say(f"{type(error).__name__}: {error}", service=self.name)

    async def refresh(self, timeout: float) -> None:
        """Ask the workers for their figures; those that do not answer in time keep the ones before."""
        asking = [asyncio.ensure_future(self._ask(slot)) for slot in self.slots]
        if asking:
            _, late = await asyncio.wait(asking, timeout=timeout)
            for task in late:
                task.cancel()

    async def check(self) -> None:
        """Look at the workers' figures; replace those that have done or grown enough."""
        await asyncio.gather(*(self._ask(slot) for slot in self.slots))
        whole = self.slots and all(slot.worker is not None for slot in self.slots)
        if whole and self.restarts.steady(time.monotonic()):
            self._output.say("runs again", service=self.name)
        for slot in list(self.slots):
            reason = self._too_old(slot)
            if reason is None or self._changing.locked():
                continue
            async with self._changing:
                self._output.say(
                    f"replacing worker {slot.worker and slot.worker.pid}: {reason}", service=self.name
                )
                error = await self._replace(slot)
                if error is not None:
                    self._output.say(f"it stays: {error}", service=self.name)

    async def _ask(self, slot: Slot) -> None:
        worker = slot.worker
        if worker is None or self.service.is_address:
            return
        try:
            stats = await worker.stats()
        except (DodiciError, OSError):
            return  # busy, or about to end; the figures before stand
        if slot.worker is worker:
            slot.stats = stats

    def _too_old(self, slot: Slot) -> str | None:
        stats = slot.stats
        if stats is None or slot.worker is None or slot.state != "running":
            return None
        if slot.request_limit and stats.requests >= slot.request_limit:
            return f"it has served {stats.requests} requests (max_requests)"
        if self.service.max_rss and stats.rss > self.service.max_rss:
            return f"it has {stats.rss / 2**20:.0f} MiB (max_rss {self.service.max_rss / 2**20:.0f} MiB)"
        return None

    # ------------------------------------------------------------------------------ pausing and stopping

    async def pause(self, slots: list[Slot]) -> None:
        """Send these nothing more until they are resumed. What they have, they finish."""
        await self._set_paused(slots, True, self._mesh.pause_worker)

    async def resume(self, slots: list[Slot]) -> None:
        """The reverse of `pause`."""
        await self._set_paused(slots, False, self._mesh.resume_worker)

    async def _set_paused(
        self, slots: list[Slot], paused: bool, change: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> None:
        for slot in slots:
            slot.paused = paused
            if slot.worker is not None:
                await change(slot.worker)

    async def stop(self) -> None:
        """End the keepers, so that nothing is started again, and the workers, with a drain."""
        self.release()
        slots = self._scale(0)
        await asyncio.gather(*(self._remove(slot) for slot in slots))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def release(self) -> None:
        """From now on workers that end stay ended."""
        self._stopping = True
        if self._checking is not None:
            self._checking.cancel()
        for slot in self.slots:
            if slot.keeper is not None:
                slot.keeper.cancel()

    def kill(self) -> None:
        """End the workers now."""
        for slot in self.slots:
            if slot.worker is not None:
                slot.worker.kill()
        for worker in self._ending:
            worker.kill()
