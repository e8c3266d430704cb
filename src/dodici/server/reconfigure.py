"""Reads the configuration again, and makes what runs follow it.

Services are added, removed and replaced; so is what the collector serves, and whom it connects to. What only a
restart can change stays as it was, and that is told.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from .config import Config, load
from .schema import ConfigError, Problem

if TYPE_CHECKING:
    from .application import Application


FOLLOWED: Final = (
    "namespaces",
    "connect",
    "services",
    "drain_timeout",
    "connect_timeout",
    "file",
    "problems",
)
"""What of `[collector]` a reload changes."""


class Reconfiguration:
    """The reloads of one application, one at a time."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._running = asyncio.Lock()
        self._is_due = False

    def begin(self) -> None:
        """Reload everything, beside. One that has not begun yet does what this one is about."""
        if not self._is_due:
            self._is_due = True
            self._application.spawn(self.reload())

    async def reload(self, service: str | None = None) -> list[str]:
        """See `Application.reload`."""
        application = self._application
        await application.started.wait()
        async with self._running:
            self._is_due = False
            if application.state == "stopping":
                return ["the server is stopping: nothing was reloaded"]
            config = application.config
            if config.file is not None:
                try:
                    config = self._follow(load(config.file))
                except ConfigError as error:
                    problems = [str(problem) for problem in error.problems]
                    for problem in problems:
                        application.output.say(problem)
                    application.output.say("the configuration has mistakes; nothing was changed")
                    return problems
            if service is not None:
                return await self._reload_one(config, service)
            return await self._reload_all(config)

    async def _reload_one(self, config: Config, name: str) -> list[str]:
        application = self._application
        supervisors = application.supervisors
        supervisor, found = supervisors.get(name), config.service(name)
        if supervisor is None or found is None:
            raise InvalidArgumentError(f"no service {name!r}; there are: {', '.join(supervisors)}")
        error = await supervisor.reload(found)
        services = tuple(
            supervisor.service if each.name == name else each for each in application.config.services
        )
        application.use(replace(application.config, services=services))
        return [] if error is None else [f"{name}: {error}"]

    async def _reload_all(self, config: Config) -> list[str]:
        application = self._application
        supervisors = application.supervisors
        added = [each for each in config.services if each.name not in supervisors]
        gone = [name for name in supervisors if config.service(name) is None]
        for service in added:
            supervisors[service.name] = application.supervise(service)
        work = [supervisors[each.name].start() for each in added]
        kept = [each for each in config.services if each not in added]
        reloads = [supervisors[each.name].reload(each) for each in kept]
        results, _ = await asyncio.gather(asyncio.gather(*reloads), asyncio.gather(*work))
        # A service whose reload was given up runs on with what it had.
        services = tuple(supervisors[each.name].service for each in config.services)
        # What is added is there before calls come for it. What is gone has no workers before it is served no more: peers
        # are told of that, and what is on its way goes elsewhere.
        problems = await self._reload_collector(config)
        application.use(
            replace(
                config,
                services=services,
                collector=config.collector if application.node is None else application.node.config,
            )
        )
        await asyncio.gather(*(supervisors.pop(name).stop() for name in gone))
        if application.node is not None:
            await application.node.forget()
        errors = {each.name: error for each, error in zip(kept, results, strict=True)}
        errors |= {each.name: supervisors[each.name].error for each in added}
        problems += [f"{name}: {error}" for name, error in errors.items() if error is not None]
        application.output.say("reloaded" if not problems else "reloaded in part")
        return problems

    async def _reload_collector(self, config: Config) -> list[str]:
        node = self._application.node
        if node is None or config.collector is None:
            return []
        try:
            await node.follow(config.collector)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
            for problem in problems:
                self._application.output.say(problem)
            return problems
        return []

    def _follow(self, config: Config) -> Config:
        """A new configuration, less what only a restart can change, which is told."""
        now = self._application.config
        for section in ("gateway", "admin", "mesh"):
            self._tell(section, getattr(now, section), getattr(config, section))
        collector = now.collector
        if (config.collector is None) != (collector is None):
            self._application.output.say("[collector]: a restart is needed to add or remove it")
            if collector is None and any(service.is_collective for service in config.services):
                problem = Problem(
                    ("collector",), "a restart is needed before services can be in the collective"
                )
                raise ConfigError(problems=(problem,))
        elif collector is not None and config.collector is not None:
            self._tell("collector", collector, config.collector, FOLLOWED)
            collector = replace(collector, **{name: getattr(config.collector, name) for name in FOLLOWED})
        return replace(
            config,
            gateway=now.gateway,
            admin=now.admin,
            mesh=now.mesh,
            reload=now.reload,
            collector=collector,
        )

    def _tell(self, section: str, before: Any, now: Any, but: tuple[str, ...] = ()) -> None:
        names = [
            each.name
            for each in fields(now)
            if each.name not in but and getattr(before, each.name) != getattr(now, each.name)
        ]
        if names:
            self._application.output.say(
                f"[{section}] {', '.join(names)}: a restart is needed for this to change"
            )
