"""Where a registry keeps its entries.

A store owns a `Catalogue`, and fills it. `put` writes several entries in one step, all or none; an entry whose
content is the same as before keeps its version. `refresh` catches up with others that write to the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .catalogue import Catalogue, Draft, Entry, Kind


@runtime_checkable
class Store(Protocol):
    """Keeps entries. Used on one event loop, between `start()` and `stop()`."""

    @property
    def catalogue(self) -> Catalogue:
        """What is known. Reading it never waits."""

    @property
    def current(self) -> bool:
        """Whether what the catalogue has may be believed as it is, without `refresh()`."""

    async def start(self) -> None:
        """Begin.

        Raises:
            CollectiveError: the place cannot be used.
        """

    async def refresh(self) -> None:
        """Bring the catalogue up to date.

        Raises:
            CollectiveError: UNAVAILABLE where that cannot be done now.
        """

    async def put(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        """Write entries, all or none, and return them as they are now. The catalogue then has them.

        Raises:
            CollectiveError: nothing was written, or (DEADLINE_EXCEEDED, UNAVAILABLE) nobody knows.
        """

    async def stop(self) -> None:
        """End. Entries stay where they are kept."""


class MemoryStore:
    """Keeps entries as long as the process runs."""

    def __init__(self) -> None:
        self._catalogue = Catalogue()
        self._entries: dict[tuple[Kind, str, str], Entry] = {}

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def current(self) -> bool:
        return True

    async def start(self) -> None:
        pass

    async def refresh(self) -> None:
        pass

    async def put(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        entries = []
        for draft in drafts:
            key = draft[:3]
            known = self._entries.get(key)
            if known is None:
                known = self._entries[key] = Entry(*draft, version=1, order=len(self._entries) + 1)
            elif known.content != draft.content:
                known = self._entries[key] = Entry(*draft, version=known.version + 1, order=known.order)
            entries.append(known)
        self._catalogue.apply(entries)
        return tuple(entries)

    async def stop(self) -> None:
        pass
