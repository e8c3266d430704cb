"""Servers that are not ours, each started once.

Those of HTTP/1.1 have the same set of paths:

/get        200, `hello`                       /echo       POST: the body back
/204        204                                /redirect   302, location: /get
/large      4 MiB of `pattern()`

Those of HTTP/2 have the paths that tests/peers/h2_peers.py says, and those that stand in front of an application
the ones of `dodici.testing.app`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.peers.asgi import UvicornServer
from tests.peers.h2_peers import Granian, H2o, Haproxy, Hypercorn, Nghttpd, Nginx, Node
from tests.peers.processes import (
    listening,
    nginx_folders,
    port_of,
    printed_line,
    program,
    start,
    start_nginx,
    stop,
)

from dodici.testing import conformance_app, pattern

LARGE = 4 << 20


@dataclass
class Server:
    """A running server."""

    name: str
    origin: str
    paths: dict[str, str]
    """Where this server has what the tests ask for."""
    keeps_alive: bool = True


PATHS = {name: f"/{name}" for name in ("get", "echo", "204", "redirect", "large")}


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The authority of every certificate here."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate and a key as files."""
    folder = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(chain), str(key)


@pytest.fixture(scope="session")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority as a file."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `certificate`."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# ----------------------------------------------------------------------------------------- nginx

NGINX = """
    worker_processes 1;
    events {{ worker_connections 512; }}
    http {{
        {folders}
        client_max_body_size 100m;
        server {{
            listen 127.0.0.1:{port};
            listen 127.0.0.1:{tls_port} ssl;
            ssl_certificate {chain};
            ssl_certificate_key {key};
            root {folder}/www;
            location = /get {{ return 200 "hello"; }}
            location = /204 {{ return 204; }}
            location = /redirect {{ return 302 /get; }}
            # nginx has no echo of its own.
            location = /echo {{
                client_body_in_file_only clean;
                proxy_pass {backend}/echo;
            }}
        }}
    }}
"""


@pytest.fixture(scope="session")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str], uvicorn: Server
) -> Iterator[tuple[Server, Server]]:
    program("nginx", "nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    (folder / "www" / "large").write_bytes(pattern(LARGE))
    sockets = listening(2)
    port, tls_port = map(port_of, sockets)
    config = NGINX.format(
        folder=folder,
        folders=nginx_folders(folder),
        port=port,
        tls_port=tls_port,
        chain=certificate[0],
        key=certificate[1],
        backend=uvicorn.origin,
    )
    process = start_nginx(config, folder, sockets)
    yield (
        Server("nginx", f"http://127.0.0.1:{port}", PATHS),
        Server("nginx-tls", f"https://127.0.0.1:{tls_port}", PATHS),
    )
    stop(process)


# ------------------------------------------------------------------------------------------ Node

NODE = """
const http = require('http'), https = require('https'), fs = require('fs');
const large = Buffer.alloc(%(large)d);
for (let i = 0; i < large.length; i++) large[i] = (i %% 65792) & 255;
function answer(request, response) {
  switch (request.url) {
    case '/get': response.setHeader('content-length', 5); response.end('hello'); break;
    case '/204': response.writeHead(204); response.end(); break;
    case '/redirect': response.writeHead(302, {location: '/get'}); response.end(); break;
    case '/large': response.write(large); response.end(); break;
    case '/echo': request.pipe(response); break;
    default: response.writeHead(404); response.end();
  }
}
const plain = http.createServer(answer);
const tls = https.createServer({cert: fs.readFileSync('%(chain)s'), key: fs.readFileSync('%(key)s')}, answer);
const listening = (server) => new Promise((done) => server.listen(0, '127.0.0.1', done));
Promise.all([listening(plain), listening(tls)]).then(() => {
  console.log(`${plain.address().port} ${tls.address().port}`);
});
"""


@pytest.fixture(scope="session")
def node(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str]
) -> Iterator[tuple[Server, Server]]:
    binary = program("node", "nodejs")
    log = tmp_path_factory.mktemp("node") / "log"
    script = NODE % {"large": LARGE, "chain": certificate[0], "key": certificate[1]}
    process = start([binary, "-e", script], log, prints=True)
    port, tls_port = printed_line(process, log).split()
    yield (
        Server("node", f"http://127.0.0.1:{port}", PATHS),
        Server("node-tls", f"https://127.0.0.1:{tls_port}", PATHS),
    )
    stop(process)


# --------------------------------------------------------------------------------------- uvicorn


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"]
    status, headers = 200, []
    if path == "/get":
        body = b"hello"
    elif path == "/large":
        body = pattern(LARGE)
    elif path == "/204":
        status, body = 204, b""
    elif path == "/redirect":
        status, body, headers = 302, b"", [(b"location", b"/get")]
    if status != 204:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="session")
def uvicorn() -> Iterator[Server]:
    with UvicornServer(asgi) as server:
        yield Server("uvicorn", server.origin, PATHS)


@pytest.fixture(scope="session")
def uvicorn_tls(certificate: tuple[str, str]) -> Iterator[Server]:
    with UvicornServer(asgi, ssl_certfile=certificate[0], ssl_keyfile=certificate[1]) as server:
        yield Server("uvicorn-tls", server.origin, PATHS)


# --------------------------------------------------------------------------------------- aiohttp


@pytest.fixture(scope="session")
def aiohttp() -> Iterator[Server]:
    from aiohttp import web

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"location": "/get"})

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, LARGE, 100_000):
            await response.write(pattern(min(100_000, LARGE - at), at))
        await response.write_eof()
        return response

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ready = threading.Event()
    ending = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        app = web.Application(client_max_size=100 << 20)
        app.router.add_get("/get", get)
        app.router.add_post("/echo", echo)
        app.router.add_get("/204", nothing)
        app.router.add_get("/redirect", redirect)
        app.router.add_get("/large", large)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        loops.append(asyncio.get_running_loop())
        ready.set()
        await ending.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield Server("aiohttp", f"http://127.0.0.1:{listening.getsockname()[1]}", PATHS)
    loops[0].call_soon_threadsafe(ending.set)
    thread.join(10)
    listening.close()


# --------------------------------------------------------------------------------------- httpbin


@pytest.fixture(scope="session")
def httpbin() -> Iterator[Server]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, when they are imported
        from httpbin import app
        from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            pass

    def small_app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/echo":
            # Werkzeug's input ends by itself only where it took the chunks apart.
            size = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
            body = environ["wsgi.input"].read(size)
            start_response("200 OK", [("content-length", str(len(body)))])
            return [body]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, small_app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    paths = {
        "get": "/base64/aGVsbG8=",
        "echo": "/echo",
        "204": "/status/204",
        "redirect": "/status/302",
        "large": "/range/102400?chunk_size=1000",
    }
    yield Server("httpbin", f"http://127.0.0.1:{server.server_port}", paths, keeps_alive=False)
    server.shutdown()
    server.server_close()
    thread.join(10)


SERVERS = ["nginx", "nginx-tls", "node", "node-tls", "uvicorn", "uvicorn-tls", "aiohttp", "httpbin"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """One of the servers."""
    name = request.param
    if name == "uvicorn-tls":
        return request.getfixturevalue("uvicorn_tls")  # type: ignore[no-any-return]
    base, _, tls = name.partition("-")
    found = request.getfixturevalue(base)
    return found[1 if tls else 0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------- HTTP/2


@pytest.fixture(scope="session")
def application() -> Iterator[str]:
    """The origin of the conformance app over HTTP/1.1, for servers that pass requests on."""
    with UvicornServer(conformance_app) as server:
        yield server.origin


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For servers that run for the whole session; each makes a folder in it."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def nginx_h2(folder: Path, certificate: tuple[str, str], application: str) -> Iterator[Nginx]:
    with Nginx(folder / "nginx", certificate, application) as server:
        yield server


@pytest.fixture(scope="session")
def nghttpd(folder: Path, certificate: tuple[str, str]) -> Iterator[Nghttpd]:
    with Nghttpd(folder / "nghttpd", certificate) as server:
        yield server


@pytest.fixture(scope="session")
def node_h2(folder: Path, certificate: tuple[str, str]) -> Iterator[Node]:
    with Node(folder / "node", certificate) as server:
        yield server


@pytest.fixture(scope="session")
def h2o(folder: Path, certificate: tuple[str, str], application: str) -> Iterator[H2o]:
    with H2o(folder / "h2o", certificate, application) as server:
        yield server


@pytest.fixture(scope="session")
def haproxy(folder: Path, certificate: tuple[str, str], application: str) -> Iterator[Haproxy]:
    with Haproxy(folder / "haproxy", certificate, application) as server:
        yield server


@pytest.fixture(scope="session")
def granian(folder: Path, certificate: tuple[str, str]) -> Iterator[Granian]:
    with Granian(folder / "granian", certificate, "dodici.testing:conformance_app") as server:
        yield server


@pytest.fixture(scope="session")
def hypercorn(certificate: tuple[str, str]) -> Iterator[Hypercorn]:
    with Hypercorn(certificate, conformance_app) as server:
        yield server
