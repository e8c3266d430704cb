"""What `dodici ps`, `pause`, `resume`, `reload`, `stop` and `logs` ask of the application."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from .status import find_slots

if TYPE_CHECKING:
    from .application import Application

_FRESH: Final = 0.5
"""Seconds that workers have to give figures for `dodici ps`; of those that are busy the last ones are shown."""
_LINES: Final = 100


class ControlCommands:
    """Does what comes in at the control socket."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """See `control.Commands`."""
        application = self._application
        match name:
            case "status":
                supervisors = list(application.supervisors.values())
                await asyncio.gather(*(each.refresh(_FRESH) for each in supervisors))
                return {"status": application.status()}
            case "pause" | "resume":
                return {"workers": await self._set_paused(str(arguments.get("target")), name == "pause")}
            case "reload":
                # In a task of its own: whoever asked may hang up, and the reload goes on.
                reloading = application.spawn(application.reload(arguments.get("service")))
                return {"problems": await asyncio.shield(reloading)}
            case "trace":
                if application.traces is None:
                    raise InvalidArgumentError("it is starting: nothing was asked of it yet")
                return await application.traces.answer(arguments)
            case "stop":
                application.stop(now=bool(arguments.get("now")))
                return {"pid": os.getpid()}
        raise InvalidArgumentError(f"no command {name!r}")

    async def _set_paused(self, target: str, paused: bool) -> list[int | None]:
        application = self._application
        found = find_slots(application.supervisors, target)
        if not found:
            known = ", ".join(application.supervisors)
            raise InvalidArgumentError(f"no service and no worker {target!r}; there are: {known}")
        changed: list[int | None] = []
        for supervisor, slots in found:
            await (supervisor.pause if paused else supervisor.resume)(slots)
            pids = [slot.worker.pid for slot in slots if slot.worker is not None]
            shown = ", ".join(map(str, pids)) or "no worker"
            application.output.say(f"{'paused' if paused else 'resumed'}: {shown}", service=supervisor.name)
            changed += pids
        return changed

    async def logs(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """See `control.Commands`."""
        application, output = self._application, self._application.output
        service = arguments.get("service")
        if service is not None and service not in {*application.supervisors, "dodici"}:
            known = ", ".join(application.supervisors)
            raise InvalidArgumentError(f"no service {service!r}; there are: {known}")
        count = arguments.get("count", _LINES)
        for line in output.last(service, count if isinstance(count, int) and count >= 0 else _LINES):
            yield asdict(line)
        if arguments.get("follow"):
            async with contextlib.aclosing(output.follow(service)) as lines:
                async for line in lines:
                    yield asdict(line)
