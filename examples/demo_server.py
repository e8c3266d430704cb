"""Starts the servers of the demo, on free loopback ports and in a temporary folder, and removes both."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

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


class DemoServer:
    """nginx in front of the standard library's server, or that alone; a context manager.

    Args:
        size: bytes of the large file, whole mebibytes.
        nginx: False leaves it out even where it is installed.

    Attributes:
        origin: where to send requests.
        name: what answers there.
        size, sha256: of the file at `/files/large.bin`.
    """

    def __init__(self, size: int, *, nginx: bool = True) -> None:
        self.size = size
        self._nginx = nginx
        self.sha256 = ""
        self.name = ""
        self.origin = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._root: Path | None = None

    def __enter__(self) -> Self:
        memory = Path("/dev/shm")  # a file system in memory, where there is one with room
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * self.size
        self._root = Path(tempfile.mkdtemp(prefix="dodici-demo-", dir=memory if roomy else None))
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
        upstream = free_port()
        script = Path(__file__).with_name("demo_upstream.py")
        application = self._spawn([sys.executable, str(script), str(upstream), str(folder)], root)
        wait_for_port(upstream, application, root / "log")
        python = f"http.server of Python {sys.version.split()[0]}"
        nginx = shutil.which("nginx", path=_PATH) if self._nginx else None
        if nginx is None:
            self.name = f"{python} ({'nginx is not installed' if self._nginx else 'without nginx, as asked'})"
            self.origin = f"http://127.0.0.1:{upstream}"
            return
        port = free_port()
        config = root / "nginx.conf"
        # Started as root, nginx would give its worker to a user who cannot write the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            _CONFIG.format(root=root, port=port, upstream=upstream, user=user, connections=1024)
        )
        server = self._spawn([nginx, "-p", str(root), "-c", str(config), "-e", str(root / "error.log")], root)
        wait_for_port(port, server, root / "error.log")
        version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        self.name = f"{version.rpartition(' ')[2].strip() or 'nginx'}, one worker, in front of {python}"
        self.origin = f"http://127.0.0.1:{port}"

    def _write_large(self, path: Path) -> None:
        noise, digest = random.Random(12), hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(self.size // MEBIBYTE):
                block = noise.randbytes(MEBIBYTE)
                digest.update(block)
                file.write(block)
        self.sha256 = digest.hexdigest()

    def _spawn(self, command: list[str], root: Path) -> subprocess.Popen[bytes]:
        with (root / "log").open("ab") as log:
            # A session of its own: Ctrl-C goes to the demo, which then stops its servers in order.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when something accepts on `port`; raise RuntimeError if `process` ends first."""
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    raise RuntimeError(f"the server did not start: {text or 'it said nothing'}")
