"""The servers of the collective's benchmark: `python serve.py ROLE [OPTION=VALUE ...]`, until standard input ends.

    bare                 grpc.aio with a generic handler of raw bytes: what it can do on this machine
    bare-hop to=ADDRESS  the same, which forwards each call as raw bytes on one channel
    store                a collector that serves bench/Echo.Say; link=off: no batched calls; link=stream: batched on a
                         stream of grpc's, without a connection of its own; delay=SECONDS
    gate to=ADDRESS,...  a collector that has nothing itself; balance=NAME

`tls=FOLDER` turns mutual TLS on. Each prints its address in one line. All run on uvloop.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc import aio

NAMESPACE, SERVICE, METHOD = "bench", "Echo", "Say"
PATH = f"/{SERVICE}/{METHOD}"
FILES = ("cert.pem", "key.pem", "ca.pem")


def parts(folder: str) -> tuple[bytes, bytes, bytes]:
    """Certificate, key and authority."""
    cert, key, ca = ((Path(folder) / name).read_bytes() for name in FILES)
    return cert, key, ca


class _Raw(grpc.GenericRpcHandler):
    def __init__(self, run: Any) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(run)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler


async def bare(options: dict[str, str]) -> str:
    """A server that answers with what it is sent, or what the next one says."""
    forward = None
    if "to" in options:
        forward = aio.insecure_channel(options["to"]).unary_unary(PATH)

    async def run(payload: bytes, context: Any) -> bytes:
        if forward is None:
            return payload
        answer: bytes = await forward(
            payload, timeout=context.time_remaining(), metadata=context.invocation_metadata()[:1]
        )
        return answer

    server = aio.server(handlers=[_Raw(run)])
    if "tls" in options:
        cert, key, ca = parts(options["tls"])
        credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    KEPT.append(server)
    return f"127.0.0.1:{port}"


KEPT: list[Any] = []


async def collector(role: str, options: dict[str, str]) -> str:
    """A collector, started and connected."""
    from dodici.collective import Collector, link

    tls = None
    if "tls" in options:
        tls = dict(zip(("cert", "key", "ca"), (f"{options['tls']}/{name}" for name in FILES), strict=True))
    if options.get("link") == "off":
        link.MOST_CALLS = 0
    name = options.get("id", role)
    made = Collector(
        name,
        "127.0.0.1:0",
        namespaces=[NAMESPACE],
        tls=tls,
        balance=options.get("balance", "p2c"),
        link_port=None if options.get("link") == "stream" else 0,
    )
    delay = float(options.get("delay", "0"))
    if role == "store":

        @made.method(NAMESPACE, SERVICE, METHOD)
        async def say(context: Any, given: Any) -> Any:
            if delay:
                await asyncio.sleep(delay)
            return given

    await made.start()
    for address in filter(None, options.get("to", "").split(",")):
        await made.connect_to(address)
    KEPT.append(made)
    return made.address


async def main() -> None:
    role, *rest = sys.argv[1:]
    options = dict(word.split("=", 1) for word in rest)
    address = await (bare(options) if role.startswith("bare") else collector(role, options))
    print(address, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
