"""The control socket: how `dodici ps`, `pause`, `reload` and the others reach a running `dodici up`.

A unix socket of mode 0600 in a folder of mode 0700 that belongs to this user; a peer of another user is turned away
where the system can tell (root may). Its name follows from the configuration's path, so that the commands find it.
A socket that nobody answers at is left over from a process that was killed, and is replaced.

A request is one line of JSON, ``{"command": ..., ...}``; the answer is one line, ``{"ok": true, ...}`` or
``{"ok": false, "error": ...}``. `logs` answers with any number of lines ``{"line": ...}`` before it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, Self

from ..core.closing import aclose
from ..core.errors import DodiciError, InvalidArgumentError
from .address import Address

_LINE_LIMIT: Final = 64 * 1024
_CLIENTS: Final = 64
_SUFFIX: Final = ".sock"


class ControlError(DodiciError):
    """A running `dodici up` could not be reached, or could not do what it was asked."""

    code = "DODICI_ERR_CONTROL"


class Commands(Protocol):
    """Who does what is asked."""

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do it, and return the answer. Raises `DodiciError` where it cannot be done."""

    def logs(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The lines that are asked for."""


# ---------------------------------------------------------------------------------------------- where it is


def folder() -> Path:
    """The folder of this user's control sockets, made if it is not there.

    Raises:
        ControlError: it belongs to somebody else, or others may write there.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "dodici" if base else Path(tempfile.gettempdir()) / f"dodici-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ControlError(f"no folder for control sockets at {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ControlError(
            f"{path} must be a folder of mode 0700 that belongs to this user: control sockets are kept there"
        )
    return path


def socket_name(name: str | None, file: Path | None, target: str = "") -> str:
    """The name of the socket: the given one, or made of the configuration's path, or of the app and where it runs.

    Raises:
        InvalidArgumentError: the given one is no file name.
    """
    if name is not None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", name) is None:
            raise InvalidArgumentError(
                f"{name!r} is no name: up to 41 letters, digits, dots, dashes and underscores"
            )
        return name
    origin = str(file.resolve()) if file is not None else f"{Path.cwd()}\n{target}"
    readable = file.stem if file is not None else target.partition(":")[0]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", readable).strip("-")[:24] or "app"
    return f"{readable}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def socket_path(name: str) -> Path:
    """Where the socket of that name is."""
    return folder() / f"{name}{_SUFFIX}"


def running() -> list[str]:
    """The names of this user's `dodici up` that answer."""
    found = []
    for path in sorted(folder().glob(f"*{_SUFFIX}")):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except OSError:
                continue
        found.append(path.name.removesuffix(_SUFFIX))
    return found


# ---------------------------------------------------------------------------------------------- the server


class ControlServer:
    """Answers at a control socket.

    Args:
        path: of the socket.
        commands: who does what is asked.
    """

    def __init__(self, path: Path, commands: Commands) -> None:
        self.path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._inode = 0

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            ControlError: another one answers there.
        """
        before = os.umask(0o177)
        try:
            listener = Address(path=str(self.path)).listen(16)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ControlError(
                    f"a `dodici up` of this name runs already ({self.path.stem}): "
                    "stop it with `dodici stop`, or give this one another --name"
                ) from error
            raise ControlError(f"no control socket: {error.strerror}") from error
        finally:
            os.umask(before)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=_LINE_LIMIT)

    async def stop(self) -> None:
        """Answer no more; what is running is cut off."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except OSError:
            pass

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > _CLIENTS:
                await _write(writer, {"ok": False, "error": "too many clients of the control socket"})
            elif _is_stranger(writer.get_extra_info("socket")):
                await _write(writer, {"ok": False, "error": "this is another user's"})
            else:
                await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # it went away, or we do
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                await _write(writer, {"ok": False, "error": "the request is too long"})
                return
            if not line.endswith(b"\n"):
                return
            await self._answer(line, reader, writer)

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(line)
            name = request.pop("command")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            await _write(writer, {"ok": False, "error": "a request is a JSON object with a command"})
            return
        try:
            if name == "logs":
                await self._send_logs(request, reader, writer)
                answer: dict[str, Any] = {}
            else:
                answer = await self._commands.command(str(name), request)
        except DodiciError as error:
            await _write(writer, {"ok": False, "error": error.message})
        except (TypeError, ValueError) as error:
            # Arguments of another type than the command has them: a client that is none of ours.
            await _write(writer, {"ok": False, "error": f"{type(error).__name__}: {error}"})
        else:
            await _write(writer, {"ok": True, **answer})

    async def _send_logs(
        self, arguments: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines = self._commands.logs(arguments)
        # A client that follows says nothing more: what can be read is that it has gone.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(anext(lines, None))
                try:
                    await asyncio.wait((following, gone), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
                if following.cancelled() or (item := following.result()) is None:
                    return
                await _write(writer, {"line": item})
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            await aclose(lines)


async def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    await writer.drain()


def _is_stranger(peer: Any) -> bool:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return False  # the folder's mode is all there is
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return user not in {0, os.getuid()}


# ---------------------------------------------------------------------------------------------- the client


class ControlClient:
    """Asks a running `dodici up`. Blocks: it is for commands that do nothing else.

    Args:
        path: of its control socket.
        timeout: seconds for each answer; None for no limit.

    Raises:
        ControlError: nobody answers there.
    """

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ControlError(f"no `dodici up` answers at {path}: {error.strerror or error}") from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask for something, and return the answer.

        Raises:
            ControlError: it could not be done, or the connection broke.
        """
        self._send(command, arguments)
        answer = self._read()
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error", "no answer")))
        return answer

    def wait_for_end(self) -> None:
        """Return when the server has gone."""
        try:
            while self._file.readline():
                pass
        except OSError:
            pass

    def lines(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """The lines of `logs`."""
        self._send("logs", arguments)
        while True:
            answer = self._read()
            if "line" not in answer:
                if not answer.get("ok"):
                    raise ControlError(str(answer.get("error", "no answer")))
                return
            yield answer["line"]

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            self._socket.sendall(json.dumps({"command": command, **given}).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever hung up has said why, before

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except TimeoutError as error:
            raise ControlError(
                f"no answer for {self._socket.gettimeout():g} s: the server is stopped, or something blocks its loop"
            ) from error
        except OSError as error:
            raise ControlError(f"the connection broke: {error.strerror or error}") from error
        if not line.endswith(b"\n"):
            raise ControlError("the server went away without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer
