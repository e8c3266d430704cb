"""Starts the servers of the tour, on free loopback ports and in a temporary folder, and removes both.

No port is chosen, given up and hoped for: whoever else runs on the machine could take it in between. Python's server
binds a port of the system's choice and prints its number; nginx inherits a socket that listens already.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

MEBIBYTE = 1 << 20
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"]
)

_CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        listen 127.0.0.1:{h2_port} http2;
        root {root};
        location = / {{ return 200 "Hello, world!"; }}
        location /files/ {{ }}
        location /app/ {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            # Uploads reach the application as they come, and not when they are complete.
            proxy_request_buffering off;
        }}
    }}
}}
"""


class TourServer:
    """nginx in front of the standard library's server, or that alone; a context manager.

    Args:
        size: bytes of the large file, whole mebibytes.
        nginx: False leaves it out even where it is installed.

    Attributes:
        origin: where to send requests.
        h2_origin: where the same server speaks HTTP/2; None without nginx.
        name: what answers there.
        size, sha256: of the file at `/files/large.bin`.
    """

    def __init__(self, size: int, *, nginx: bool = True) -> None:
        self.size = size
        self._nginx = nginx
        self.sha256 = ""
        self.name = ""
        self.origin = ""
        self.h2_origin: str | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._root: Path | None = None

    def __enter__(self) -> Self:
        # A file system in memory, where there is one with room and TMPDIR does not name another place.
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * self.size
        roomy = roomy and "TMPDIR" not in os.environ
        self._root = Path(tempfile.mkdtemp(prefix="dodici-tour-", dir=memory if roomy else None))
        try:
            self._start(self._root)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _start(self, root: Path) -> None:
        root.chmod(0o755)
        folder = root / "files"
        folder.mkdir()
        self._write_large(folder / "large.bin")
        upstream = self._start_python(folder, root / "log")
        python = f"http.server of Python {sys.version.split()[0]}"
        nginx = shutil.which("nginx", path=_PATH) if self._nginx else None
        if nginx is None:
            self.name = f"{python} ({'nginx is not installed' if self._nginx else 'without nginx, as asked'})"
            self.origin = f"http://127.0.0.1:{upstream}"
            return
        port, h2_port = self._start_nginx(nginx, root, upstream)
        version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        self.name = f"{version.rpartition(' ')[2].strip() or 'nginx'}, one worker, in front of {python}"
        self.origin = f"http://127.0.0.1:{port}"
        self.h2_origin = f"http://127.0.0.1:{h2_port}"

    def _start_python(self, folder: Path, log: Path) -> int:
        script = Path(__file__).with_name("tour_upstream.py")
        process = self._spawn([sys.executable, str(script), str(folder)], log, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as said:
            port = said.readline()
        if not port:
            raise not_started(log)
        return int(port)

    def _start_nginx(self, nginx: str, root: Path, upstream: int) -> tuple[int, int]:
        config, log = root / "nginx.conf", root / "error.log"
        with ExitStack() as stack:
            with (
                socket.create_server(("127.0.0.1", 0)) as listening,
                socket.create_server(("127.0.0.1", 0)) as listening_h2,
            ):
                # nginx takes connections until there are none, and would wait for the next one in a blocking socket.
                listening.setblocking(False)
                listening_h2.setblocking(False)
                host, port = listening.getsockname()
                h2_port = listening_h2.getsockname()[1]
                # Waits in the socket's queue: nginx will answer it, or end and so reset it.
                first = stack.enter_context(socket.create_connection((host, port), timeout=15))
                # Started as root, nginx would give its worker to a user who cannot write the folder.
                user = "user root;" if os.geteuid() == 0 else ""
                config.write_text(
                    _CONFIG.format(
                        root=root, port=port, h2_port=h2_port, upstream=upstream, user=user, connections=1024
                    )
                )
                command = [nginx, "-p", str(root), "-c", str(config), "-e", str(log)]
                numbers = listening.fileno(), listening_h2.fileno()
                # What nginx hands to its successor in an upgrade, and matches with `listen` by the address.
                environment = {**os.environ, "NGINX": "".join(f"{number};" for number in numbers)}
                self._spawn(command, root / "log", pass_fds=numbers, env=environment)
            try:
                first.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answered = first.recv(1)
            except OSError:
                answered = b""
        if not answered:
            raise not_started(log)
        return int(port), int(h2_port)

    def _write_large(self, path: Path) -> None:
        noise, digest = random.Random(12), hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(self.size // MEBIBYTE):
                block = noise.randbytes(MEBIBYTE)
                digest.update(block)
                file.write(block)
        self.sha256 = digest.hexdigest()

    def _spawn(self, command: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            # A session of its own: Ctrl-C goes to the tour, which then stops its servers in order.
            options = {"stdin": subprocess.DEVNULL, "stdout": file, "start_new_session": True, **options}
            process = subprocess.Popen(command, stderr=file, **options)
        self._processes.append(process)
        return process


def not_started(log: Path) -> RuntimeError:
    """The error that says what the server's log says."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return RuntimeError(f"the server did not start: {text or 'it said nothing'}")
