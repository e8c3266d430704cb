"""Servers that are not ours, each started once, each with the same set of paths.

/get        200, `hello`                       /echo       POST: the body back
/204        204                                /redirect   302, location: /get
/large      4 MiB of `pattern()`
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.peers.asgi import UvicornServer

from dodici.testing import pattern

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


def program(name: str, package: str) -> str:
    """The path of an installed program; skip without it, fail where CI is to have everything."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        said = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]  # type: ignore[no-any-return]


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        # Another process: there is no event to wait for.
        threading.Event().wait(0.02)
    raise RuntimeError("the server does not listen")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate and a key as files, of a CA that `make_tls().client_context` does not know: see `client_tls`."""
    return _certificate(tmp_path_factory.mktemp("tls"))[:2]


_made: dict[str, Any] = {}


def _certificate(folder: Path) -> tuple[str, str, Any]:
    if not _made:
        import ssl

        import trustme

        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        chain, key = folder / "chain.pem", folder / "key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        _made.update(chain=str(chain), key=str(key), context=context)
    return _made["chain"], _made["key"], _made["context"]


@pytest.fixture(scope="session")
def client_tls(certificate: tuple[str, str]) -> Any:
    """A client's context that trusts `certificate`."""
    return _made["context"]


# ----------------------------------------------------------------------------------------- nginx

NGINX = """
    daemon off;
    worker_processes 1;
    pid {folder}/pid;
    error_log {folder}/error.log;
    events {{ worker_connections 512; }}
    http {{
        access_log off;
        client_body_temp_path {folder}/body;
        proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi;
        scgi_temp_path {folder}/scgi;
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
                proxy_pass http://127.0.0.1:{backend};
            }}
        }}
    }}
"""


def _nginx(folder: Path, certificate: tuple[str, str]) -> tuple[subprocess.Popen[bytes], int, int]:
    binary = program("nginx", "nginx-light")
    (folder / "www").mkdir()
    (folder / "www" / "large").write_bytes(pattern(LARGE))
    folder.chmod(0o755)
    port, tls_port = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(
        textwrap.dedent(NGINX).format(
            folder=folder,
            port=port,
            tls_port=tls_port,
            chain=certificate[0],
            key=certificate[1],
            backend=_made["backend"],
        )
        + ("" if os.getuid() else "user root;\n")
    )
    process = subprocess.Popen(
        [binary, "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until_listening(port, process)
    return process, port, tls_port


@pytest.fixture(scope="session")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str], uvicorn: Server
) -> Iterator[tuple[Server, Server]]:
    program("nginx", "nginx-light")
    _made["backend"] = uvicorn.origin.rpartition(":")[2] + "/echo"
    process, port, tls_port = _nginx(tmp_path_factory.mktemp("nginx"), certificate)
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
http.createServer(answer).listen(%(port)d, '127.0.0.1');
https.createServer({cert: fs.readFileSync('%(chain)s'), key: fs.readFileSync('%(key)s')}, answer).listen(%(tls_port)d, '127.0.0.1');
"""


@pytest.fixture(scope="session")
def node(certificate: tuple[str, str]) -> Iterator[tuple[Server, Server]]:
    binary = program("node", "nodejs")
    port, tls_port = free_port(), free_port()
    script = NODE % {
        "large": LARGE,
        "port": port,
        "tls_port": tls_port,
        "chain": certificate[0],
        "key": certificate[1],
    }
    process = subprocess.Popen([binary, "-e", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_listening(port, process)
    wait_until_listening(tls_port, process)
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
