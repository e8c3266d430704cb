"""The application behind the tour: the standard library's HTTP server, run as a process of its own.

Behind nginx it answers /app/...; without nginx it serves everything.

    /               13 bytes
    /files/NAME     a file of the folder, with its length
    /app/echo       JSON: method, content-type, size and sha256 of the body that arrived
    /app/flaky?id=  503 the first time that an id is seen, then JSON with the number of the attempt
    /app/slow       answers after a minute, or never

    python tour_upstream.py FOLDER

It listens on a free loopback port, whose number is the first line that it prints.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

PIECE = 1 << 16
HELLO = b"Hello, world!"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in two writes: without this, the second would wait for the first one's ACK.
    disable_nagle_algorithm = True
    folder: Path
    attempts: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(HELLO, "text/plain")
        elif url.path.startswith("/files/"):
            self.send_file(self.folder / Path(url.path).name)
        elif url.path == "/app/echo":
            self.echo()
        elif url.path == "/app/flaky":
            self.flaky(url.query)
        elif url.path == "/app/slow":
            time.sleep(60)
        else:
            self.answer(b"not found", "text/plain", 404)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server looks for

    def echo(self) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self.body():
            digest.update(piece)
            size += len(piece)
        self.answer_json(
            method=self.command,
            content_type=self.headers.get("content-type"),
            size=size,
            sha256=digest.hexdigest(),
        )

    def flaky(self, key: str) -> None:
        with self.lock:
            self.attempts[key] += 1
            attempt = self.attempts[key]
        if attempt == 1:
            self.answer(b"try again", "text/plain", 503)
        else:
            self.answer_json(attempt=attempt)

    def body(self) -> Iterator[bytes]:
        """The request's body, piece by piece, chunked or with a length."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                yield from self.exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from self.exactly(int(self.headers.get("content-length", 0)))

    def exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read(min(size, PIECE))
            if not piece:
                raise ConnectionError("the request's body was cut")
            size -= len(piece)
            yield piece

    def answer_json(self, **values: object) -> None:
        self.answer(json.dumps(values).encode(), "application/json")

    def answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self.send_response(200)
            self.send_header("content-type", "application/octet-stream")
            self.send_header("content-length", str(path.stat().st_size))
            self.end_headers()
            if self.command != "HEAD":
                self.connection.sendfile(file)

    def log_message(self, *_: object) -> None:
        """A demo needs no access log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of the tour break connections off on purpose."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
