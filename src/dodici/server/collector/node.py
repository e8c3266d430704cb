"""A collector that is kept going: started, connected, looked at, drained.

The addresses of `connect` are tried until they answer, in any order of starting. From then on the collector itself
finds its peers again.

Its control socket is what `dodici collectors` finds it by, beside those of `dodici up`. It can do without one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...collective.balance import Backoff
from ...collective.policies import Reconnect
from ...core.errors import DodiciError, InvalidArgumentError, MeshTimeoutError
from ..control import ControlError, ControlServer, folder
from ..schema import Problems
from .build import register, register_origins, unregister

if TYPE_CHECKING:
    from ...collective import Collector
    from ...core.dispatcher import Dispatcher
    from .config import CollectorConfig
    from .exposition import Exposition
    from .served import ServedConfig

log = logging.getLogger("dodici.collective")

SUFFIX: Final = ".collector"
"""Of the control sockets, beside those of `dodici up`."""
_NEWEST: Final = 100
_STOP_SECONDS: Final = 5.0


def socket_of(collector_id: str, address: str) -> Path:
    """Where a collector's control socket is.

    Raises:
        ControlError: there is no folder for it.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", collector_id).strip("-")[:24] or "collector"
    mark = hashlib.sha256(f"{collector_id}\n{address}".encode()).hexdigest()[:8]
    return folder() / f"{readable}-{mark}{SUFFIX}"


class CollectorCommands:
    """What is answered at the control socket."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """``"stats"``: the figures and the newest records."""
        if name != "stats":
            raise InvalidArgumentError(f"unknown command: {name!r}")
        records = self._collector.history[-int(arguments.get("history", _NEWEST)) :]
        return {
            "stats": {
                **self._collector.stats().as_dict(),
                "history": [record.as_dict() for record in records],
            }
        }

    async def logs(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """None: a collector's log is its standard error."""
        raise InvalidArgumentError("a collector keeps no log")
        yield {}


class CollectorNode:
    """A collector as a program, or a part of one, has it.

    Args:
        config: what it was built of.
        collector: of `build`; not started.
        dispatcher: reaches its origins; None: the global one.
    """

    def __init__(
        self, config: CollectorConfig, collector: Collector, dispatcher: Dispatcher | None = None
    ) -> None:
        self.config = config
        self.collector = collector
        self.unanswered: dict[str, str] = {}
        """By address of `connect`: why there is no connection yet."""
        self._dispatcher = dispatcher
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._connected: dict[str, str] = {}
        self._control: ControlServer | None = None
        self.metrics: Exposition | None = None
        """Where its metrics are, if the configuration says so."""
        self._cut = asyncio.Event()
        self._forgotten: list[ServedConfig] = []

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            DodiciError: it cannot be started; `stop` is to be called all the same.
            ConfigError: an origin cannot be one.
        """
        register_origins(self.collector, self.config, self._dispatcher)
        await self.collector.start()
        try:
            control = ControlServer(
                socket_of(self.collector.id, self.collector.address), CollectorCommands(self.collector)
            )
            await control.start()
        except ControlError as error:
            log.warning("`dodici collectors` will not see this one: %s", error.message)
        else:
            self._control = control
        if self.config.metrics is not None:
            from .exposition import Exposition

            self.metrics = Exposition(self.collector, self.config.metrics)

    @property
    def line(self) -> str:
        """Who it is and where, for people."""
        metrics = "" if self.metrics is None else f", metrics at {self.metrics.url}"
        return f"collector {self.collector.id}, listening at {self.collector.address}{metrics}"

    def connect(self) -> None:
        """Dial the addresses of the configuration, again and again until they answer."""
        for address in self.config.connect:
            if address not in self._dialling:
                self.unanswered[address] = "nobody has answered yet"
                self._dialling[address] = asyncio.create_task(self._dial(address))

    async def follow(self, config: CollectorConfig) -> None:
        """Serve what another configuration says, in its namespaces, and connect to whom it names.

        What it does not name any more is served until `forget`: calls may be on their way.

        Raises:
            ConfigError: a service cannot be served: the one before is, if there was one. All else is done.
        """
        problems = Problems("", "") if config.problems is None else config.problems
        before = {served.table: served for served in self.config.services}
        after = {served.table: served for served in config.services}
        await self.forget()
        self._forgotten += [before[table] for table in before.keys() - after.keys()]
        served = [self._renew(before.get(table), now, problems) for table, now in after.items()]
        gone = set(self.config.connect) - set(config.connect)
        left = set(self.config.namespaces) - set(config.namespaces)
        joined = set(config.namespaces) - set(self.config.namespaces)
        self.config = replace(config, services=tuple(each for each in served if each is not None))
        try:
            for namespace in joined:
                await self.collector.join(namespace)
            await self._leave(left - {each.namespace for each in self._forgotten})
        except MeshTimeoutError as error:
            log.warning("%s: %s", self.collector.id, error.message)
        await self._disconnect(gone)
        self.connect()
        problems.done()

    async def forget(self) -> None:
        """Take back what the configurations before served, and the present one does not; leave its namespaces."""
        left = {each.namespace for each in self._forgotten}
        while self._forgotten:
            unregister(self.collector, self._forgotten.pop())
        try:
            await self._leave(left)
        except MeshTimeoutError as error:
            log.warning("%s: %s", self.collector.id, error.message)

    async def _leave(self, namespaces: Iterable[str]) -> None:
        """Leave those that the configuration does not name, and serves nothing in."""
        for namespace in set(namespaces).difference(
            self.config.namespaces, (each.namespace for each in self.config.services)
        ):
            await self.collector.leave(namespace)

    def _renew(
        self, before: ServedConfig | None, now: ServedConfig, problems: Problems
    ) -> ServedConfig | None:
        """Serve `now` instead of `before`. Returns what is served."""
        if now == before:
            return now
        found = len(problems.found)
        if before is not None:
            unregister(self.collector, before)
        register(self.collector, now, problems, self._dispatcher)
        if len(problems.found) == found:
            return now
        if before is not None:
            register(self.collector, before, problems, self._dispatcher)
        return before

    async def _disconnect(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            task = self._dialling.pop(address, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self.unanswered.pop(address, None)
            connection = self._connected.pop(address, None)
            if connection is not None:
                try:
                    await self.collector.disconnect(connection)
                except DodiciError as error:
                    log.info("%s was not connected any more: %s", address, error.message)

    async def _dial(self, address: str) -> None:
        backoff = Backoff(Reconnect(initial=0.1, cap=2.0))
        while True:
            try:
                found = await self.collector.connect_to(address, timeout=self.config.connect_timeout)
            except DodiciError as error:
                if self.unanswered.get(address) != error.message:
                    log.warning("%s is tried again: %s", address, error.message)
                self.unanswered[address] = error.message
            else:
                self.unanswered.pop(address, None)
                self._connected[address] = found.connection_id
                names = ", ".join(found.shared_namespaces) or "no namespace"
                log.info("connected to %s at %s, sharing %s", found.target_collector_id, address, names)
                return
            await asyncio.sleep(backoff.next())

    async def drain(self) -> None:
        """Have the peers told, and wait for what runs: up to `drain_timeout` seconds, or until `cut`."""
        if not self.collector.started:
            return
        log.info("%s drains", self.collector.id)
        draining = asyncio.create_task(self.collector.drain(self.config.drain_timeout))
        cut = asyncio.create_task(self._cut.wait())
        try:
            await asyncio.wait((draining, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (draining, cut):
                task.cancel()
            [outcome, _] = await asyncio.gather(draining, cut, return_exceptions=True)
        if isinstance(outcome, MeshTimeoutError):
            log.warning("%s: %s", self.collector.id, outcome.message)
        elif isinstance(outcome, Exception):
            log.error("%s does not drain: %s", self.collector.id, outcome)

    def cut(self) -> None:
        """Wait for nothing any more."""
        self._cut.set()

    async def stop(self) -> None:
        """End the collector; harmless when it was not started."""
        dialling = list(self._dialling.values())
        self._dialling.clear()
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        if self.metrics is not None:
            self.metrics.close()
        if self._control is not None:
            await self._control.stop()
        await self.collector.stop(0.0 if self._cut.is_set() else _STOP_SECONDS)

    def status(self) -> dict[str, Any]:
        """Its figures (see `CollectorStats.as_dict()`), what serves its services, and the addresses that it dials still."""
        served = [
            {"namespace": each.namespace, "service": each.service, "by": each.origin or each.handler}
            for each in self.config.services
        ]
        return {**self.collector.stats().as_dict(), "served": served, "unanswered": dict(self.unanswered)}
