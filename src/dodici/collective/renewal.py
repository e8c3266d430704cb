"""A link that is made anew while calls are on it.

A certificate is looked at in the handshake alone. So that no link outlives what it was opened with, another is opened
beside it when the certificate has changed, and when it is as old as `TLS.max_age` says. New calls go on the new one as
soon as that has told what there is to call; the old one ends when its last call has.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from .errors import CollectiveError
from .tls import GRACE

log = logging.getLogger("dodici.collective")

_LOOK: Final = 1.0
"""Seconds between two looks at the certificate."""
_PATIENCE: Final = 10.0
"""Seconds for a new link to stand."""
_AGAIN: Final = 10.0
"""Seconds until another try; twice as many after each that fails."""
_RARELY: Final = 600.0
"""Seconds between two tries, at most: where the port cannot be reached, no link is renewed."""


async def renewed(
    link: Callable[[Callable[[], None], bool], Coroutine[Any, Any, None]],
    age: tuple[Callable[[], int], float | None] | None,
) -> None:
    """Keep to a link and its successors. Returns when the last of them has ended.

    Args:
        link: opens one and keeps to it; called with what it calls once the link carries calls, and whether it succeeds
            another.
        age: a number that changes when a new link is needed, and the seconds that one may last (None: any time); None:
            it is never renewed.

    Raises:
        CollectiveError: what the last of them has ended with.
    """
    old: set[asyncio.Task[None]] = set()
    # What changes while a link is opened with it counts as a change: it may be half of one that was read.
    generation = age[0]() if age is not None else 0
    current = asyncio.create_task(link(_nothing, False))
    again = _AGAIN
    lasts = _drawn(age[1]) if age is not None else 0.0
    try:
        while age is not None:
            begun = time.monotonic()
            while age[0]() == generation and time.monotonic() - begun < lasts:
                await asyncio.wait([current], timeout=min(_LOOK, lasts))
                if current.done():
                    return current.result()
            generation = age[0]()
            fresh = await _succeeded(link, current)
            if fresh is None:
                if current.done():
                    return current.result()
                lasts, again = again, min(again * 2, _RARELY)
                continue
            lasts, again = _drawn(age[1]), _AGAIN
            old.add(current)
            current.add_done_callback(old.discard)
            current.add_done_callback(_told)
            asyncio.get_running_loop().call_later(GRACE, current.cancel)
            current = fresh
        await current
    finally:
        for each in (current, *old):
            each.cancel()
        await asyncio.gather(current, *old, return_exceptions=True)


async def _succeeded(
    link: Callable[[Callable[[], None], bool], Coroutine[Any, Any, None]], current: asyncio.Task[None]
) -> asyncio.Task[None] | None:
    """Another link, once it carries calls; None if there is none."""
    ready = asyncio.Event()
    fresh = asyncio.create_task(link(ready.set, True))
    standing = asyncio.create_task(ready.wait())
    taken = False
    try:
        await asyncio.wait([current, fresh, standing], timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        taken = standing.done() and not fresh.done()
        if not taken:
            log.warning("a link could not be made anew with the present certificate")
        return fresh if taken else None
    finally:
        standing.cancel()
        if not taken:
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)


def _drawn(seconds: float | None) -> float:
    # Not all links of a collective in the same moment.
    return float("inf") if seconds is None else seconds * random.uniform(0.9, 1.0)  # noqa: S311 - no secret


def _nothing() -> None:
    pass


def _told(link: asyncio.Task[None]) -> None:
    error = None if link.cancelled() else link.exception()
    if error is not None and not isinstance(error, CollectiveError):
        log.error("an old link has failed", exc_info=error)
