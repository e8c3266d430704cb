"""The servers that every client is measured against.

One nginx with one worker, started on free loopback ports with a configuration of its own in a
temporary folder, so that nothing on the machine is touched. It inherits sockets that listen
already: a port that was only chosen could be somebody else's by the time that nginx binds it.

* ``/``: 13 bytes, from memory;
* ``/1m`` and ``/100m``: files, kept in memory where the machine has a memory file system;
* ``/upload``: reads the whole request body before it answers 200. A plain ``return 200`` would
  answer first and throw the body away later, which flatters every client. The mirror module is
  what makes nginx read: a mirrored request needs the body. ``check_uploads`` proves it on start.

The same locations are served by four listeners: HTTP/1.1 in the clear and over TLS, HTTP/2 over
TLS, and HTTP/2 in the clear with prior knowledge. TLS has a certificate made for this run.

The first request of each connection is logged: that log is how a run learns, from the server,
how many connections a client used and what it spoke on them (connections.py).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

MEBIBYTE = 1 << 20

# Longer than a run: a connection that the server closes would be measured as a reconnect.
_CONFIG = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {root}/nginx.pid;
error_log {root}/error.log error;
events {{ worker_connections {files}; multi_accept on; }}
http {{
    default_type text/plain;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    http2_max_concurrent_streams 256;
    map $connection_requests $is_first {{ default 0; 1 1; }}
    log_format connections "$server_protocol $ssl_protocol $ssl_cipher $http_host";
    access_log {root}/connections.log connections if=$is_first;
    open_file_cache max=16;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen 127.0.0.1:{plain} backlog=16384;
        listen 127.0.0.1:{tls} ssl backlog=16384;
        listen 127.0.0.1:{h2} ssl http2 backlog=16384;
        listen 127.0.0.1:{h2c} http2 backlog=16384;
        ssl_certificate {root}/server.pem;
        ssl_certificate_key {root}/server.pem;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;
        root {root}/files;
        location = / {{ return 200 "Hello, world!"; }}
        location = /upload {{
            mirror /read-body;
            error_page 405 =200 /accepted;
            try_files /accepted =404;
        }}
        location = /read-body {{ internal; return 204; }}
    }}
}}
"""


class BenchServer:
    """nginx for one run, pinned to one core; a context manager.

    Attributes: `plain`, `tls`, `h2` and `h2c` are origins, `ca` is the file with the certificate
    authority that the clients have to trust, `connections` the log with a line per connection.
    """

    def __init__(self, core: int) -> None:
        self._core = core
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1024 * MEBIBYTE
        self._root = Path(tempfile.mkdtemp(prefix="bench-", dir=memory if roomy else None))
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        for each in self._sockets:
            # nginx takes inherited ones as they are, and accept() has to end its multi_accept loop.
            each.setblocking(False)
        self._ports = plain, tls, h2, h2c = [each.getsockname()[1] for each in self._sockets]
        self.plain = f"http://127.0.0.1:{plain}"
        self.tls = f"https://127.0.0.1:{tls}"
        self.h2 = f"https://127.0.0.1:{h2}"
        self.h2c = f"http://127.0.0.1:{h2c}"
        self.connections = self._root / "connections.log"
        self.ca = str(self._root / "ca.pem")

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        root, (plain, tls, h2, h2c) = self._root, self._ports
        root.chmod(0o755)
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self.ca)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(root / "server.pem"))
        files = root / "files"
        files.mkdir()
        noise = os.urandom(MEBIBYTE)
        (files / "1m").write_bytes(noise)
        with (files / "100m").open("wb") as file:
            for _ in range(100):
                file.write(noise)
        (files / "accepted").write_bytes(b"ok")
        # Started as root, nginx would give its worker to a user who cannot write the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config = root / "nginx.conf"
        config.write_text(
            _CONFIG.format(root=root, plain=plain, tls=tls, h2=h2, h2c=h2c, user=user, files=open_files())
        )
        command = ["nginx", "-p", str(root), "-c", str(config), "-e", str(root / "error.log")]
        # Waits in the socket's queue: nginx will answer it, or end and so reset it.
        with socket.create_connection(("127.0.0.1", plain), timeout=10) as first:
            self._process = spawn_pinned(command, self._core, listening=self._sockets)
            self._close_sockets()
            try:
                first.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answered = first.recv(1)
            except OSError:
                answered = b""
        if not answered:
            log = root / "error.log"
            raise RuntimeError(f"nginx did not start: {log.read_text().strip() if log.exists() else ''}")
        check_uploads(plain)

    def _close_sockets(self) -> None:
        """Close our copies: with nginx the last one goes, and who waits there gets to know."""
        for each in self._sockets:
            each.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._close_sockets()
        shutil.rmtree(self._root, ignore_errors=True)


class HoldServer:
    """A server that answers only when `count` requests wait, so that `count` connections exist.

    Args: `core` to run on, `count` of requests to gather before all of them are answered.
    """

    def __init__(self, core: int, count: int) -> None:
        self.origin = ""
        script = Path(__file__).with_name("hold.py")
        self._command = [sys.executable, str(script), str(count)]
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = process = spawn_pinned(self._command, self._core, capture=True)
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise RuntimeError(f"the server did not start: {process.communicate()[1].decode()}")
        self.origin = f"http://127.0.0.1:{int(port)}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def open_files() -> int:
    """The number of open files a child may have (the soft limit)."""
    import resource

    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)


def spawn_pinned(
    command: list[str], core: int, *, capture: bool = False, listening: Iterable[socket.socket] = ()
) -> subprocess.Popen[bytes]:
    """Start `command` on one core; its children inherit the pin, and nginx the sockets in `listening`."""
    pipe = subprocess.PIPE if capture else None
    numbers = [each.fileno() for each in listening]
    # What nginx hands to its successor in an upgrade, and matches with `listen` by the address.
    environment = {**os.environ, "NGINX": "".join(f"{number};" for number in numbers)} if numbers else None
    before = os.sched_getaffinity(0)
    # Set around the start rather than in a preexec_fn, which is not safe with threads.
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, pass_fds=numbers, env=environment
        )
    finally:
        os.sched_setaffinity(0, before)


def check_uploads(port: int) -> None:
    """Prove that `/upload` answers after the last byte of the body and not before."""
    size = 4 * MEBIBYTE
    head = f"POST /upload HTTP/1.1\r\nhost: bench\r\ncontent-length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(head.encode() + bytes(size - 1))
        sock.settimeout(0.2)
        try:
            early = sock.recv(64)
        except TimeoutError:
            early = b""
        if early:
            raise RuntimeError(f"/upload answered before it had the body: {early!r}")
        sock.settimeout(10)
        sock.sendall(b"\0")
        answer = sock.recv(64)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"/upload does not accept a body: {answer!r}")
