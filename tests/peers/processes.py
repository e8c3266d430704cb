"""Servers that are other programs: started without a race for their port, and stopped.

A port that is chosen, given up and then bound by a server belongs in between to whoever asks the kernel for one. So
no server here is told a port that it has to get. Each of them has one of three ways:

* it inherits a socket that listens already (nginx, h2o, haproxy);
* it binds port 0 and prints which one it got (Node);
* it binds port 0 and says nothing, and the kernel is asked what that process listens on (nghttpd, granian).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

START = 15.0


def program(name: str, package: str) -> str:
    """The path of an installed program; skip without it, fail where CI is to have everything."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        said = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    return found


def listening(count: int) -> list[socket.socket]:
    """Sockets that listen, for a server to inherit."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(count)]
    for listener in listeners:
        listener.setblocking(False)  # nginx accepts until there is nothing left, and would wait there
    return listeners


def port_of(listener: socket.socket) -> int:
    """The port that a socket has."""
    return listener.getsockname()[1]  # type: ignore[no-any-return]


def not_started(process: subprocess.Popen[bytes], log: Path) -> RuntimeError:
    """End what is left of a server; the error that says what its log says."""
    stop(process)
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return RuntimeError(f"the server ended with {process.returncode}: {text or 'it said nothing'}")


def start(
    command: Sequence[str],
    log: Path,
    *,
    inherits: Sequence[socket.socket] = (),
    environment: Mapping[str, str] | None = None,
    prints: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a server whose output goes to `log`, or its stdout to a pipe if it `prints` what it listens on."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if prints else file,
            stderr=file,
            pass_fds=[each.fileno() for each in inherits],
            env={**os.environ, **(environment or {})},
        )


def start_with_sockets(
    command: Sequence[str], log: Path, sockets: Sequence[socket.socket], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a server that inherits `sockets`, and return when it answers on the first, which speaks HTTP/1.1.

    Our copies are closed: when the server ends, nothing listens there any more.

    Raises:
        RuntimeError: it ended instead; with what `log` says.
    """
    # Waits in the socket's queue: the server will answer it, or end and so reset it.
    with socket.create_connection(sockets[0].getsockname(), timeout=START) as first:
        process = start(command, log, inherits=sockets, environment=environment)
        for each in sockets:
            each.close()
        try:
            first.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answered = first.recv(1)
        except OSError:
            answered = b""
    if not answered:
        raise not_started(process, log)
    return process


def start_nginx(config: str, folder: Path, sockets: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
    """Start nginx with a configuration that has a `listen 127.0.0.1:PORT` for each of `sockets`.

    The first of them is the one for HTTP/1.1 in the clear. The configuration need not name a user, a pid or folders
    for temporary files.
    """
    binary = program("nginx", "nginx-light")
    folder.chmod(0o755)
    file, log = folder / "nginx.conf", folder / "error.log"
    user = "" if os.getuid() else "user root;\n"
    file.write_text(user + f"daemon off;\npid {folder}/pid;\nerror_log {log} warn;\n" + config)
    # What nginx hands to its successor in an upgrade, and matches with `listen` by the address.
    environment = {"NGINX": "".join(f"{each.fileno()};" for each in sockets)}
    command = [binary, "-c", str(file), "-p", str(folder), "-e", str(log)]
    return start_with_sockets(command, log, sockets, environment)


def nginx_folders(folder: Path) -> str:
    """The directives that keep what nginx writes in the folder; for its `http` block."""
    kinds = {"client_body": "body", "proxy": "proxy", "fastcgi": "fastcgi", "uwsgi": "uwsgi", "scgi": "scgi"}
    return "access_log off;\n" + "".join(
        f"{kind}_temp_path {folder}/{name};\n" for kind, name in kinds.items()
    )


def printed_line(process: subprocess.Popen[bytes], log: Path) -> str:
    """The first line that the server prints, when it listens; closes the pipe.

    Raises:
        RuntimeError: it ended instead; with what `log` says.
    """
    assert process.stdout is not None
    with process.stdout as pipe:
        line = pipe.readline().decode().strip()
    if not line:
        raise not_started(process, log)
    return line


def bound_port(process: subprocess.Popen[bytes], log: Path, *, workers: bool = False) -> int:
    """The port that the server listens on, when it does; with `workers`, one of its children.

    Raises:
        RuntimeError: it ended instead, or did not listen in time; with what `log` says.
    """
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            watched = psutil.Process(process.pid)
            for each in watched.children() if workers else [watched]:
                for connection in each.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        return connection.laddr.port  # type: ignore[no-any-return]
        except psutil.Error:
            pass  # it ended meanwhile
        # Another process: there is no event to wait for.
        threading.Event().wait(0.01)
    raise not_started(process, log)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and wait for it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
