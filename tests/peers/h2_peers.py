"""HTTP/2 servers that are not ours, each a context manager: nginx, nghttpd, Node, h2o, HAProxy, Hypercorn, Granian.

Every one has `tls` and `h2c`, the origins where it speaks HTTP/2 over TLS (ALPN) and in the clear (prior knowledge).
What it is told on its command line or in its configuration is an argument: tests that need a server with odd settings
start one of their own, in some hundredths of a second.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from tests.peers.processes import (
    bound_port,
    listening,
    nginx_folders,
    port_of,
    printed_line,
    program,
    start,
    start_nginx,
    start_with_sockets,
    stop,
)

from dodici.testing import pattern

MEBIBYTE = 1 << 20


class Peer:
    """A server in processes of its own, in a folder of its own.

    Args:
        folder: where its files go; is made.
        certificate: chain and key, as files.
    """

    name = ""

    def __init__(self, folder: Path, certificate: tuple[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self.chain, self.key = certificate
        self.tls = ""
        self.h2c = ""
        self.processes: list[subprocess.Popen[bytes]] = []

    def _start(self) -> None:
        raise NotImplementedError

    def _listens(self, *, tls: int, h2c: int) -> None:
        self.tls = f"https://127.0.0.1:{tls}"
        self.h2c = f"http://127.0.0.1:{h2c}"

    def kill(self) -> None:
        """End it, and the workers that it has, as a crash would."""
        for process in self.processes:
            workers = psutil.Process(process.pid).children()
            process.kill()
            process.wait(10)
            for worker in workers:
                _kill_orphan(worker)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            stop(process)


def _kill_orphan(process: psutil.Process) -> None:
    """Kill, and wait until it is dead: who inherits it may let it be a zombie for a while."""
    try:
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            threading.Event().wait(0.002)
    except psutil.NoSuchProcess:
        pass


_NGINX = """
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    {folders}
    default_type application/octet-stream;
    client_max_body_size 200m;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    {settings}
    server {{
        listen 127.0.0.1:{ports[0]};
        listen 127.0.0.1:{ports[1]} ssl http2;
        listen 127.0.0.1:{ports[2]} http2;
        listen 127.0.0.1:{ports[3]} ssl;
        root {folder}/www;
        location = /get {{ return 200 "hello"; }}
        location = /status/204 {{ return 204; }}
        location = /fields {{ return 200 "$http_cookie|$http_x_field|$server_protocol|$host"; }}
        # Uploads and what comes back are passed on as they come, and not when they are complete.
        location / {{
            try_files $uri @app;
        }}
        location @app {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


class Nginx(Peer):
    """nginx: `/get`, files `/small` (5 bytes), `/1m` (the pattern), `/100m` (zeros), `/fields`; the rest is `upstream`'s.

    Args:
        upstream: an origin of HTTP/1.1.
        settings: directives for the `http` block.

    Attributes:
        http1_tls: an origin that does not offer h2 in ALPN.
    """

    name = "nginx"

    def __init__(self, folder: Path, certificate: tuple[str, str], upstream: str, settings: str = "") -> None:
        super().__init__(folder, certificate)
        self.upstream = upstream
        self.settings = settings
        self.http1_tls = ""

    def _start(self) -> None:
        program("nginx", "nginx-light")
        www = self.folder / "www"
        www.mkdir()
        (www / "small").write_bytes(b"small")
        (www / "1m").write_bytes(pattern(MEBIBYTE))
        with (www / "100m").open("wb") as sparse:
            sparse.truncate(100 * MEBIBYTE)
        sockets = listening(4)
        ports = [port_of(each) for each in sockets]
        config = _NGINX.format(
            folders=nginx_folders(self.folder),
            folder=self.folder,
            chain=self.chain,
            key=self.key,
            settings=self.settings,
            ports=ports,
            upstream=self.upstream,
        )
        self.processes.append(start_nginx(config, self.folder, sockets))
        self._listens(tls=ports[1], h2c=ports[2])
        self.http1_tls = f"https://127.0.0.1:{ports[3]}"


class Nghttpd(Peer):
    """nghttpd of nghttp2, two of it: files `/small` and `/1m`; what is posted comes back (`--echo-upload`).

    Args:
        options: for both command lines.
    """

    name = "nghttpd"

    def __init__(self, folder: Path, certificate: tuple[str, str], options: Sequence[str] = ()) -> None:
        super().__init__(folder, certificate)
        self.options = list(options)

    def _start(self) -> None:
        binary = program("nghttpd", "nghttp2-server")
        www = self.folder / "www"
        www.mkdir()
        (www / "small").write_bytes(b"small")
        (www / "pushed").write_bytes(b"pushed")
        (www / "1m").write_bytes(pattern(MEBIBYTE))
        command = [binary, "-a", "127.0.0.1", "-d", str(www), "--echo-upload", *self.options]
        # Last in its command line: the port, a key and a certificate.
        for ending in ["0", self.key, self.chain], ["--no-tls", "0"]:
            self.processes.append(start([*command, *ending], self.log))
        tls, h2c = (bound_port(process, self.log) for process in self.processes)
        self._listens(tls=tls, h2c=h2c)


class Node(Peer):
    """Node's http2 with the paths of h2_server.js.

    Args:
        settings: what each connection begins with, by Node's names (`maxConcurrentStreams`, ...).
        options: of `http2.createServer()`.
    """

    name = "node"

    def __init__(
        self,
        folder: Path,
        certificate: tuple[str, str],
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, certificate)
        self.given = {
            "cert": self.chain,
            "key": self.key,
            "settings": settings or {},
            "options": options or {},
        }

    def _start(self) -> None:
        binary = program("node", "nodejs")
        script = Path(__file__).with_name("h2_server.js")
        process = start([binary, str(script), json.dumps(self.given)], self.log, prints=True)
        self.processes.append(process)
        self._listens(**json.loads(printed_line(process, self.log)))


_H2O = """
{user}
listen: {{ host: 127.0.0.1, port: {ports[0]} }}
listen:
  host: 127.0.0.1
  port: {ports[1]}
  ssl: {{ certificate-file: {chain}, key-file: {key}, minimum-version: TLSv1.2 }}
num-threads: 1
pid-file: {folder}/pid
error-log: {log}
hosts:
  default:
    paths:
      /files: {{ file.dir: {folder}/www }}
      /: {{ proxy.reverse.url: "{upstream}/" }}
"""


class H2o(Peer):
    """h2o: files `/files/small`, `/files/1m`; the rest is `upstream`'s, an origin of HTTP/1.1."""

    name = "h2o"

    def __init__(self, folder: Path, certificate: tuple[str, str], upstream: str) -> None:
        super().__init__(folder, certificate)
        self.upstream = upstream

    def _start(self) -> None:
        binary = program("h2o", "h2o")
        www = self.folder / "www"
        www.mkdir()
        (www / "small").write_bytes(b"small")
        (www / "1m").write_bytes(pattern(MEBIBYTE))
        sockets = listening(2)
        ports = [port_of(each) for each in sockets]
        config = self.folder / "h2o.conf"
        config.write_text(
            _H2O.format(
                user="" if os.getuid() else "user: root",
                ports=ports,
                chain=self.chain,
                key=self.key,
                folder=self.folder,
                log=self.log,
                upstream=self.upstream,
            )
        )
        # The protocol of Server::Starter, a superdaemon.
        told = ";".join(
            f"127.0.0.1:{port}={each.fileno()}" for port, each in zip(ports, sockets, strict=True)
        )
        command = [binary, "-c", str(config)]
        self.processes.append(start_with_sockets(command, self.log, sockets, {"SERVER_STARTER_PORT": told}))
        self._listens(tls=ports[1], h2c=ports[0])


_HAPROXY = """
global
    stats timeout 1s
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend all
    bind fd@{numbers[0]}
    bind fd@{numbers[1]} ssl crt {pem} alpn h2,http/1.1
    bind fd@{numbers[2]} proto h2
    default_backend application
backend application
    server one {upstream}
"""


class Haproxy(Peer):
    """HAProxy in front of `upstream`, an origin of HTTP/1.1."""

    name = "haproxy"

    def __init__(self, folder: Path, certificate: tuple[str, str], upstream: str) -> None:
        super().__init__(folder, certificate)
        self.upstream = upstream

    def _start(self) -> None:
        binary = program("haproxy", "haproxy")
        sockets = listening(3)
        ports = [port_of(each) for each in sockets]
        pem, config = self.folder / "server.pem", self.folder / "haproxy.cfg"
        pem.write_bytes(Path(self.chain).read_bytes() + Path(self.key).read_bytes())
        config.write_text(
            _HAPROXY.format(
                numbers=[each.fileno() for each in sockets],
                pem=pem,
                upstream=self.upstream.removeprefix("http://"),
            )
        )
        self.processes.append(start_with_sockets([binary, "-db", "-f", str(config)], self.log, sockets, {}))
        self._listens(tls=ports[1], h2c=ports[2])


class Granian(Peer):
    """Granian with an ASGI app, `MODULE:NAME`; two of it, in processes of their own."""

    name = "granian"

    def __init__(self, folder: Path, certificate: tuple[str, str], app: str) -> None:
        super().__init__(folder, certificate)
        self.app = app

    def _start(self) -> None:
        if importlib.util.find_spec("granian") is None:
            pytest.skip("granian is not installed: it is for CPython only")
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--http", "2", "--no-ws"]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--log-level",
            "warning",
            "--workers-kill-timeout",
            "1",
        ]
        for ending in ["--ssl-certificate", self.chain, "--ssl-keyfile", self._key()], []:
            self.processes.append(start([*command, *ending, self.app], self.log))
        tls, h2c = (bound_port(process, self.log, workers=True) for process in self.processes)
        self._listens(tls=tls, h2c=h2c)

    def _key(self) -> str:
        """The key as PKCS #8, the one form that it reads."""
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(Path(self.key).read_bytes(), None)
        file = self.folder / "key.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(file)


class Hypercorn:
    """Hypercorn with an ASGI app, in a thread of this process with a loop of its own."""

    name = "hypercorn"

    def __init__(self, certificate: tuple[str, str], app: Any, **config: Any) -> None:
        self._sockets = listening(2)
        tls, h2c = map(port_of, self._sockets)
        self.tls = f"https://127.0.0.1:{tls}"
        self.h2c = f"http://127.0.0.1:{h2c}"
        self._app = app
        self._certificate = certificate
        self._config = config
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._started = threading.Event()

    async def _main(self) -> None:
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        config = Config()
        # Hypercorn makes sockets of its own from the numbers, and closes them.
        config.bind, config.insecure_bind = ([f"fd://{each.detach()}"] for each in self._sockets)
        config.certfile, config.keyfile = self._certificate
        config.graceful_timeout = 0.5
        config.keep_alive_timeout = 1  # ends, too, the streams of apps that have raised
        config.accesslog = config.errorlog = None
        for name, value in self._config.items():
            setattr(config, name, value)
        self._started.set()
        await serve(self._app, config, shutdown_trigger=self._ending.wait)

    def __enter__(self) -> Self:
        # The sockets listen already: a client may connect before Hypercorn accepts.
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)
