"""Announcements that are too large for one frame: cut into parts, and put together again.

A part is an announcement with some of the routes. All but the last say that more follows; what else an announcement
says is in each of them. Parts of one are never mixed with those of another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from .protos import link_pb2 as pb

log = logging.getLogger("dodici.collective")

_PART: Final = 16 * 1024
"""Bytes of one part: what anybody's messages may have, and little enough to let calls through in between."""
_ENTRY: Final = 8
"""Bytes that a route needs beside its own."""
_MOST: Final = 64 * 1024 * 1024
"""Bytes of all that one peer announces; routes beyond are not taken."""


def split(whole: pb.Announcement, size: int, message: int) -> Iterator[pb.Announcement]:
    """An announcement of `size` bytes, in parts that fit where a message may have `message` bytes.

    A part has one route at least, however large that is.
    """
    most = min(_PART, message // 2)
    if size <= most:
        yield whole
        return
    head = pb.Announcement()
    head.CopyFrom(whole)
    del head.routes[:]
    routes: list[pb.Route] = []
    room = most - head.ByteSize()
    for route in whole.routes:
        needs = route.ByteSize() + _ENTRY
        if routes and needs > room:
            yield _part(head, routes, more=True)
            routes, room = [], most - head.ByteSize()
        routes.append(route)
        room -= needs
    yield _part(head, routes, more=False)


def _part(head: pb.Announcement, routes: list[pb.Route], *, more: bool) -> pb.Announcement:
    part = pb.Announcement()
    part.CopyFrom(head)
    part.routes.extend(routes)
    part.more = more
    return part


class Assembly:
    """Puts the parts that a peer sends together.

    Args:
        peer: its id.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._whole: pb.Announcement | None = None
        self._bytes = 0

    def add(self, part: pb.Announcement) -> pb.Announcement | None:
        """Take a part. Returns the announcement if that was its last, else None."""
        whole = self._whole
        if whole is None:
            if not part.more:
                return part
            whole, self._bytes = pb.Announcement(), 0
        size = part.ByteSize()
        if self._bytes <= _MOST < self._bytes + size:
            log.warning(
                "%s announces more than %d bytes of routes: the others are not taken", self._peer, _MOST
            )
        self._bytes += size
        if self._bytes > _MOST:
            del part.routes[:]
        del whole.namespaces[:]  # each part has all of them
        whole.MergeFrom(part)
        self._whole = whole if part.more else None
        whole.more = False
        return None if part.more else whole
