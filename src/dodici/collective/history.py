"""The last calls of a collector, each as one record for each role that the collector had in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, overload

from ..core.grpc_status import GrpcStatus
from .contracts import Call
from .results import Status
from .trace import place_in

Role: TypeAlias = Literal["entry", "forward", "serve"]

KEPT: Final = 1000
"""Records that a collector keeps."""
LONGEST: Final = 1024
"""Characters of each name in a record: as many as the name of a method may have."""
_STATUSES: Final = {status: Status(status) for status in GrpcStatus}

_NO_WORDS: Final = frozenset({"status", "started", "duration", "path"})


class DispatchRecord(NamedTuple):
    """A call that has ended.

    Attributes:
        role: ``"entry"``: it came into the collective here; ``"forward"``: it was passed on for another collector;
            ``"serve"``: it was run here. A call that came in here and was run here has two records.
        namespace: with `service` and `method`, what was called, as the caller spelt it; 1,024 characters of each.
        service: see there.
        method: see there.
        source: who sent it here: the id of a collector, or the address of a client; empty for calls of this process.
        target: the collector that was asked for; empty if any would do.
        handled_by: the collector that ran it; empty if nobody did.
        status: how it ended: a number such as 200 that knows its `grpc_status`.
        started: POSIX time.
        duration: seconds.
        path: ids of the collectors that it had passed before this one.
        trace_id: of its W3C trace; empty if it belongs to none.
        span_id: of this part of it; empty if it belongs to none.
        parent_id: of the span that asked for it; empty if nobody named one.
    """

    role: Role
    namespace: str
    service: str
    method: str
    source: str
    target: str
    handled_by: str
    status: Status
    started: float
    duration: float
    path: tuple[str, ...]
    trace_id: str
    span_id: str = ""
    parent_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON."""
        return {**self._asdict(), "status": int(self.status), "grpc_status": self.status.grpc_status.name}


def record_from(told: Mapping[str, Any]) -> DispatchRecord:
    """The reverse of `DispatchRecord.as_dict`.

    Raises:
        KeyError, TypeError, ValueError: it is no record.
    """
    words = {name: str(told[name]) for name in DispatchRecord._fields if name not in _NO_WORDS}
    return DispatchRecord(
        **words,  # type: ignore[arg-type]
        status=_STATUSES[GrpcStatus[told["grpc_status"]]],
        started=float(told["started"]),
        duration=float(told["duration"]),
        path=tuple(map(str, told["path"])),
    )


class History(Sequence[DispatchRecord]):
    """The newest records, the oldest of them first. What is beyond `most` is forgotten.

    Raises:
        ValueError: `most` is below 0.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._records: deque[DispatchRecord] = deque(maxlen=most)
        self.note = self._records.append

    @property
    def most(self) -> int:
        """How many are kept."""
        return self._records.maxlen or 0

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> DispatchRecord: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[DispatchRecord, ...]: ...

    def __getitem__(self, index: int | slice) -> DispatchRecord | tuple[DispatchRecord, ...]:
        if isinstance(index, slice):
            return tuple(self._records)[index]
        return self._records[index]

    def __iter__(self) -> Iterator[DispatchRecord]:
        # A copy: records come in while somebody looks at them.
        return iter(tuple(self._records))

    def __repr__(self) -> str:
        return f"<History of {len(self)} calls, {self.most} at most>"


def record_of(call: Call, role: Role, status: GrpcStatus, ended: float, seconds: float) -> DispatchRecord:
    """The record of a call that ended at the POSIX time `ended`, after so many seconds."""
    namespace, service, method = call.key
    target, handled_by = call.target or "", call.handled_by
    if len(namespace) + len(service) + len(method) + len(target) + len(handled_by) > LONGEST:
        # What nobody has may be called by a name as long as a message.
        namespace, service, method = namespace[:LONGEST], service[:LONGEST], method[:LONGEST]
        target, handled_by = target[:LONGEST], handled_by[:LONGEST]
    return DispatchRecord(
        role,
        namespace,
        service,
        method,
        call.from_collector or call.peer,
        target,
        handled_by,
        _STATUSES[status],
        ended - seconds,
        seconds,
        call.path,
        *place_in(call, served=role == "serve"),
    )
