"""What runs, as JSON knows it: for `dodici ps`, the admin address, and the tests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .slots import Slot
from .supervisor import ServiceSupervisor
from .tally import Tally


def service_status(supervisor: ServiceSupervisor, tally: Tally | None) -> dict[str, Any]:
    """One service, its workers, and what the gateway has sent to it."""
    service = supervisor.service
    return {
        "name": service.name,
        "app": service.app,
        "kind": "collective" if service.is_collective else "address" if service.is_address else service.kind,
        "state": supervisor.state,
        "error": supervisor.error,
        "workers": service.workers,
        "requests": 0 if tally is None else tally.requests,
        "running": 0 if tally is None else tally.running,
        "websockets": 0 if tally is None else tally.websockets,
        "slots": [slot_status(slot) for slot in supervisor.slots],
    }


def slot_status(slot: Slot) -> dict[str, Any]:
    """One worker. Times are seconds, `rss` is bytes; what is not known is null."""
    worker, stats = slot.worker, slot.stats
    return {
        "index": slot.index,
        "id": None if worker is None else worker.id,
        "pid": None if worker is None else worker.pid,
        "state": slot.state if worker is None or slot.state == "replacing" else worker.state,
        "paused": slot.paused or (worker is not None and worker.paused),
        "accepting": None if worker is None else worker.accepting,
        "restarts": slot.restarts,
        "uptime": None if worker is None else round(time.monotonic() - slot.started, 3),
        **{
            name: getattr(stats, name, None)
            for name in ("requests", "errors", "running", "websockets", "rss", "loop_lag")
        },
    }


def find_slots(
    supervisors: Mapping[str, ServiceSupervisor], target: str
) -> list[tuple[ServiceSupervisor, list[Slot]]]:
    """The slots that a person means: by the service's name, or by a worker's pid or id. Empty if there are none."""
    named = supervisors.get(target)
    if named is not None:
        return [(named, list(named.slots))]
    return [
        (supervisor, [slot])
        for supervisor in supervisors.values()
        for slot in supervisor.slots
        if slot.worker is not None and target in {str(slot.worker.pid), slot.worker.id}
    ]
