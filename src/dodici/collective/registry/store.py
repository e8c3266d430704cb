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

        What an entry with `merge` becomes is made of what there is in the step that writes it (see `Draft.over`).

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
        there = [self._entries.get(draft.key) for draft in drafts]
        contents = [
            draft.over(None if known is None else known.content)
            for draft, known in zip(drafts, there, strict=True)
        ]
        for draft, known, content in zip(drafts, there, contents, strict=True):
            if known is None:
                known = Entry(*draft.key, content, version=1, order=len(self._entries) + 1)
            elif known.content != content:
                known = Entry(*draft.key, content, known.version + 1, known.order)
            self._entries[draft.key] = known
            entries.append(known)
        self._catalogue.apply(entries)
        return tuple(entries)

    async def stop(self) -> None:
        pass
