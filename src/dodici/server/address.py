"""Where to listen: ``"127.0.0.1:8000"``, ``"[::1]:8000"``, ``"localhost:8000"`` or ``"unix:/run/shop.sock"``.

A socket is opened before anything else is started, so that an address in use is an error at once, and a client that
comes early waits in the queue instead of being refused.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..core.errors import InvalidArgumentError

_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^:\[\]\s/]*)):([0-9]{1,5})").fullmatch
_UNIX_PATH_LIMIT: Final = 103
"""Bytes of a unix socket's path that every system takes (macOS: 104 with the NUL)."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at: a host and a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: object) -> Address:
        """Read an address as a person writes it.

        Raises:
            InvalidArgumentError: it is none; says what one looks like.
        """
        if not isinstance(text, str):
            raise InvalidArgumentError(f"an address is a string such as '127.0.0.1:8000', not {text!r}")
        if text.startswith("unix:"):
            path = text[5:].removeprefix("//")
            if not path.startswith("/") or "\0" in path:
                raise InvalidArgumentError(
                    f"{text!r}: the path of a unix socket is absolute, such as 'unix:/run/shop.sock'"
                )
            if len(os.fsencode(path)) > _UNIX_PATH_LIMIT:
                raise InvalidArgumentError(
                    f"{text!r}: the path of a unix socket has at most {_UNIX_PATH_LIMIT} bytes"
                )
            return cls(path=path)
        found = _HOST_PORT(text)
        if found is None or int(found[3]) > 65535:
            raise InvalidArgumentError(
                f"{text!r} is no address: write '127.0.0.1:8000', '[::1]:8000' or 'unix:/run/shop.sock'"
            )
        host = found[1] if found[1] is not None else found[2]
        if not host:
            raise InvalidArgumentError(
                f"{text!r} has no host: write '127.0.0.1{text}' for this machine alone, '0.0.0.0{text}' for all"
            )
        if found[1] is not None:
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise InvalidArgumentError(f"{text!r}: there is no IPv6 address in the brackets") from None
        return cls(host=host, port=int(found[3]))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For people to click on."""
        return str(self) if self.path is not None else f"http://{self}"

    def listen(self, backlog: int = 2048) -> socket.socket:
        """Open a socket here that listens. Port 0 is any free one: see `bound`.

        A unix socket that nobody answers at any more is replaced.

        Raises:
            OSError: the address is in use, or not ours; the text names it.
        """
        try:
            if self.path is not None:
                return _listen_unix(self.path, backlog)
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = found[0]
            opened = socket.socket(family, kind, protocol)
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # [::] would take the port of 0.0.0.0, too, on some systems and not on others.
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                opened.bind(where)
                opened.listen(backlog)
                opened.setblocking(False)
            except BaseException:
                opened.close()
                raise
            return opened
        except UnicodeError as error:
            raise OSError(errno.EINVAL, f"cannot listen at {self}: {self.host!r} is no host name") from error
        except OSError as error:
            reason = (
                "the address is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            )
            raise OSError(error.errno, f"cannot listen at {self}: {reason}") from error

    def bound(self, listener: socket.socket) -> Address:
        """The same, with the port that the system gave."""
        if self.path is not None:
            return self
        return Address(host=self.host, port=listener.getsockname()[1])

    def release(self) -> None:
        """Remove what listening has left in the file system."""
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)


def _listen_unix(path: str, backlog: int) -> socket.socket:
    remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(path)
        opened.listen(backlog)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def remove_stale(path: str) -> None:
    """Remove a unix socket that nobody listens at.

    Raises:
        OSError: somebody does, or it is no socket.
    """
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            Path(path).unlink(missing_ok=True)
            return
        except TimeoutError:
            pass
    raise OSError(errno.EADDRINUSE, "the address is in use")
