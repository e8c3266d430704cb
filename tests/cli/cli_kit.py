"""What the tests of the command line share: a server that records, peers that misbehave, and ways to run."""

from __future__ import annotations

import gzip
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SOURCE = Path(__file__).parents[2] / "src"


def pattern(size: int) -> bytes:
    block = bytes(range(1, 252))  # no NUL, so that it counts as text; a prime length, so that a slip shows
    return (block * (size // len(block) + 1))[:size]


class Recorded(NamedTuple):
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RecordingServer

    def do_GET(self) -> None:
        body = b"".join(self._body())
        self.server.requests.append(Recorded(self.command, self.path, self.headers.items(), body))
        _, kind, *rest = urlsplit(self.path).path.split("/")
        getattr(self, f"_{kind or 'hello'}")(*rest)

    do_POST = do_PUT = do_HEAD = do_PATCH = do_GET  # noqa: N815 - the names that http.server looks for

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("content-length", 0)))

    def _send(self, body: bytes, kind: str = "text/plain", status: int = 200, **fields: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hello(self) -> None:
        self._send(b"Hello, world!")

    def _json(self) -> None:
        self._send(b'{"a":[1,{}],"n":1E400,"s":"x\\u00e9,:{"}', "application/json; charset=utf-8")

    def _bytes(self, size: str, *_: str) -> None:
        self._send(pattern(int(size)), "application/octet-stream")

    def _binary(self) -> None:
        self._send(b"\x89PNG\0\1\2\3", "image/png")

    def _status(self, status: str) -> None:
        self._send(f"this is {status}".encode(), status=int(status))

    def _redirect(self, left: str) -> None:
        target = f"/redirect/{int(left) - 1}" if int(left) > 1 else "/"
        self._send(b"elsewhere", status=302, Location=target)

    def _loop(self) -> None:
        self._send(b"again", status=302, Location="/loop")

    def _flaky(self, *key: str) -> None:
        self.server.seen[key] += 1
        self._send(
            b"at last" if self.server.seen[key] > 1 else b"", status=200 if self.server.seen[key] > 1 else 503
        )

    def _gzip(self) -> None:
        self._send(gzip.compress(b"was compressed"), Content_Encoding="gzip")

    def _slow(self) -> None:
        self.server.release.wait(20)
        self.close_connection = True

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"begun ")
        self.server.release.wait(20)
        self.close_connection = True

    def log_message(self, *_: Any) -> None: ...


class UnixHandler(Handler):
    disable_nagle_algorithm = False


class RecordingServer(ThreadingHTTPServer):
    request_queue_size = 128
    block_on_close = True

    def __init__(self, *arguments: Any) -> None:
        self.requests: list[Recorded] = []
        self.seen: Counter[Any] = Counter()
        self.release = threading.Event()
        super().__init__(*arguments)

    @property
    def last(self) -> Recorded:
        return self.requests[-1]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Clients go away on purpose here."""


class UnixServer(RecordingServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "unix", 0

    def get_request(self) -> Any:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextmanager
def serving(server: RecordingServer) -> Iterator[RecordingServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def scripted(answer: bytes, *, reset: bool = False) -> Iterator[str]:
    """A server that reads one request head, says `answer` and is gone. Gives its origin."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                connection.sendall(answer)
                if reset:
                    time.sleep(0.05)  # what was sent is to arrive before the reset overtakes it
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(10)


class Ran(NamedTuple):
    status: int
    out: bytes
    err: str


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_PROXY": "*"}


def spawn(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "dodici", *arguments], env=environment(), **options)


def run_process(*arguments: str, data: bytes | None = None, **options: Any) -> Ran:
    """`python -m dodici`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "dodici", *arguments],
        input=data,
        capture_output=True,
        env=environment(),
        timeout=30,
        check=False,
        **options,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode())


def run_on_terminal(*arguments: str, **options: Any) -> tuple[int, str]:
    """`python -m dodici` on a pseudo-terminal: its exit status, and all that it showed."""
    import pty

    master, slave = pty.openpty()
    child_environment = {**environment(), "TERM": "xterm-256color", "COLUMNS": "120"}
    child_environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dodici", *arguments],
        env=child_environment,
        **{"stdin": slave, "stdout": slave, "stderr": slave, **options},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux's way to say that nobody holds the other side any more
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return process.wait(30), shown.decode(errors="replace")
