"""The app that the tests of `dodici up` serve: raw ASGI, so that it starts in no time."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import dodici

fail_at_start = os.environ.get("FAIL_FILE")
if fail_at_start and os.path.exists(fail_at_start):
    raise RuntimeError("this is why it does not start")
if os.environ.get("SLOW_START"):
    print("starting slowly", flush=True)
    time.sleep(60)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        print("lifespan begins", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan ends", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await PATHS.get(scope["path"], echo)(scope, receive, send)


async def answer(send: Any, value: Any, status: int = 200) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    fields = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    fields = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    await answer(
        send,
        {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": fields,
            "size": size,
        },
    )


async def pid(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, {"pid": os.getpid()})


async def hold(scope: Any, receive: Any, send: Any) -> None:
    """Answers with its head at once, and with its pid when the request's body has ended."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b" ", "more_body": True})
    while (message := await receive()).get("more_body"):
        pass
    assert message["type"] == "http.request"
    await send({"type": "http.response.body", "body": json.dumps({"pid": os.getpid()}).encode()})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    print("the client has gone", flush=True)


async def crash(scope: Any, receive: Any, send: Any) -> None:
    print("about to crash", file=sys.stderr, flush=True)
    os._exit(7)


async def environment(scope: Any, receive: Any, send: Any) -> None:
    await answer(
        send, {"cwd": os.getcwd(), "colour": os.environ.get("COLOUR"), "term": os.environ.get("TERM")}
    )


async def neighbour(scope: Any, receive: Any, send: Any) -> None:
    """Asks the other service, through the mesh."""
    response = await dodici.get("http://other.local/pid")
    await answer(send, await response.json())


async def large(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def compute(scope: Any, receive: Any, send: Any) -> None:
    time.sleep(0.5)
    await answer(send, {"pid": os.getpid()})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you say"})
            return
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    print(f"websocket ended with {message['code']}", flush=True)


PATHS = {
    "/pid": pid,
    "/hold": hold,
    "/silent": silent,
    "/crash": crash,
    "/environment": environment,
    "/neighbour": neighbour,
    "/large": large,
    "/compute": compute,
}
