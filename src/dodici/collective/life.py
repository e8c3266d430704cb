"""Signs of life: whether a collector's process runs, however busy its event loop is.

A process that is stopped and one whose loop is held up for two seconds by a handler that does not yield look the same on
every connection that the loop attends. Calls on the one are lost; those on the other go on. So a thread, which has
nothing else to do, answers datagrams at the number of the port for links, in UDP:

    7 bytes    b"dodici?", in the answer b"dodici!"
    9 bytes    of the asker's choice, sent back

An answer is no larger than its question, says nothing that a connection to the port does not, and cannot make anything
live for longer than a link waits in silence at most. Where no answer has ever come (a firewall lets no UDP through), silence alone
has to tell.
"""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import socket
import threading
from typing import Final

_QUESTION: Final = b"dodici?"
_ANSWER: Final = b"dodici!"
_MARK: Final = 9
_SIZE: Final = len(_QUESTION) + _MARK
_MANY: Final = 64
"""Datagrams that are answered before anything else is looked at."""
_PATIENCE: Final = 0.4
"""Seconds without an answer, while it is asked each tenth of a second, after which a process does not run."""
_UNSURE: Final = 1.75
"""Seconds of silence on a link that mean the same where nothing was ever answered."""

_log = logging.getLogger("dodici.collective")


class LifeSign:
    """Answers for this process, from a thread of its own."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._stop: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def open(self, addresses: list[tuple[int, str, int]]) -> None:
        """Answer at these addresses: families, hosts and ports. Where a port is taken, nothing answers there."""
        selector = selectors.DefaultSelector()
        for family, host, port in addresses:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                if host == "::":
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind((host, port))
            except OSError as error:
                sock.close()
                _log.info("no signs of life at %s, port %d: %s", host, port, error)
                continue
            self._sockets.append(sock)
            selector.register(sock, selectors.EVENT_READ)
        if not self._sockets:
            selector.close()
            return
        self._stop, stopped = socket.socketpair()
        selector.register(stopped, selectors.EVENT_READ, data=True)
        self._thread = threading.Thread(
            target=_answer, args=(selector, stopped), name="dodici life", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """Answer no more."""
        stop, self._stop = self._stop, None
        thread, self._thread = self._thread, None
        if stop is not None and thread is not None:
            stop.close()
            await asyncio.to_thread(thread.join)
        while self._sockets:
            self._sockets.pop().close()


def _answer(selector: selectors.BaseSelector, stopped: socket.socket) -> None:
    with selector, stopped:
        while True:
            for key, _ in selector.select():
                if key.data:
                    return
                assert isinstance(key.fileobj, socket.socket)
                _answer_at(key.fileobj)


def _answer_at(sock: socket.socket) -> None:
    for _ in range(_MANY):
        try:
            data, sender = sock.recvfrom(_SIZE + 1)
            if len(data) == _SIZE and data.startswith(_QUESTION):
                sock.sendto(_ANSWER + data[len(_QUESTION) :], sender)
        except OSError:
            return  # nothing more, or nobody who could be answered


class LifeProbe:
    """Asks for signs of life of one process. Made by `probe`."""

    def __init__(self, sock: socket.socket, address: tuple[object, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._address = address
        self._mark = os.urandom(_MARK)
        self._answers = False
        self._asked = self._heard = 0.0
        self._loop.add_reader(sock.fileno(), self._arrived)
        self._ask()

    def gone(self, silent: float) -> bool:
        """Whether the process does not run. To be called again and again while a link with it is silent.

        Args:
            silent: seconds for which that has lasted.
        """
        now = self._loop.time()
        if now - self._asked > _PATIENCE:
            self._heard = now  # it begins
        self._asked = now
        self._ask()
        return now - self._heard > _PATIENCE if self._answers else silent > _UNSURE

    def close(self) -> None:
        """Ask no more."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _ask(self) -> None:
        try:
            self._sock.sendto(_QUESTION + self._mark, self._address)
        except OSError as error:
            _log.debug("nobody can be asked for a sign of life: %s", error)

    def _arrived(self) -> None:
        try:
            while data := self._sock.recv(_SIZE + 1):
                if data == _ANSWER + self._mark:
                    self._answers = True
                    self._heard = self._loop.time()
        except OSError:
            return


async def probe(host: str, port: int) -> LifeProbe | None:
    """What asks at a port of a host; None where that is not possible."""
    loop = asyncio.get_running_loop()
    sock: socket.socket | None = None
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        return LifeProbe(sock, address)
    except OSError as error:
        if sock is not None:
            sock.close()
        _log.debug("nobody can be asked for a sign of life at %s, port %d: %s", host, port, error)
        return None
