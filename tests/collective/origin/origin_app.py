"""An app that serves a collector's methods, and knows nothing of it.

It runs on the loop of the test, which can look at what it has seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"


class Request:
    """What has arrived, as far as an app reads it."""

    def __init__(self, scope: Any, receive: Any) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode()
        self.query = dict(parse_qsl(scope["query_string"].decode()))
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            self.headers[name.decode()] = value.decode()
        self._receive = receive
        self.disconnected = False

    async def pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.disconnected = True
                return
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def lines(self) -> AsyncIterator[Any]:
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)

    async def gone(self) -> None:
        """Return when the caller has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Answer:
    def __init__(self, send: Any) -> None:
        self._send = send

    async def head(
        self, status: int = 200, kind: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if kind is not None:
            fields.append((b"content-type", kind.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": fields})

    async def piece(self, body: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(
        self, body: bytes, kind: str | None = JSON, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        await self.head(status, kind, {"content-length": str(len(body)), **(headers or {})})
        await self.piece(body, more=False)


class Shop:
    """An app whose methods are `do_METHOD`. `seen` are the requests, `noted` what happened, by name."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.sent = 0
        self.received = 0
        self._notes: dict[str, asyncio.Event] = {}

    def note(self, name: str) -> asyncio.Event:
        return self._notes.setdefault(name, asyncio.Event())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        request, answer = Request(scope, receive), Answer(send)
        self.seen.append(request)
        act = getattr(self, f"do_{request.path.strip('/').partition('/')[0]}", None)
        if act is None:
            await answer.whole(b'{"detail": "Not Found"}', status=404)
        else:
            await act(request, answer)

    async def do_Echo(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """The body, as what it came."""
        body = await request.body()
        await answer.whole(body, request.headers.get("content-type"))

    async def do_Tell(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """What the request was."""
        body = await request.body()
        told = {
            "verb": request.method,
            "path": request.path,
            "query": request.query,
            "headers": request.headers,
            "body": body.decode("latin-1"),
        }
        await answer.whole(
            json.dumps(told).encode(),
            headers={
                "x-one": "1",
                "x-raw-bin": "AP8",
                "set-cookie": "a=b",
                "connection": "x-hop",
                "x-hop": "gone",
                "x-umlaut": "\xfc",
                "server": "shop",
            },
        )

    async def do_Answer(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """As it is told: {status, kind, body, times, headers}."""
        told = json.loads(await request.body())
        await answer.whole(
            told.get("body", "").encode("latin-1") * told.get("times", 1),
            told.get("kind"),
            told.get("status", 200),
            told.get("headers"),
        )

    async def do_Count(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """The numbers up to the one given, one a line."""
        most = json.loads(await request.body())
        await answer.head(kind=NDJSON, headers={"x-one": "1"})
        for number in range(most):
            await answer.piece(b"%d\n" % number)
        await answer.piece(b"", more=False)

    async def do_Sum(self, request: Request, answer: Answer) -> None:  # noqa: N802
        await answer.whole(json.dumps(sum([number async for number in request.lines()])).encode())

    async def do_Chat(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """Answers each line before the next one comes."""
        await answer.head(kind=NDJSON)
        async for line in request.lines():
            await answer.piece(json.dumps({"said": line}).encode() + b"\n")
        await answer.piece(b"", more=False)

    async def do_Early(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """Answers without reading what it is sent."""
        await answer.whole(b'"enough"')

    async def do_Wait(self, request: Request, answer: Answer) -> None:  # noqa: N802
        await request.body()
        self.note("waiting").set()
        await request.gone()
        self.note("gone").set()

    async def do_Begin(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """A line, and then nothing."""
        await request.body()
        await answer.head(kind=NDJSON)
        await answer.piece(b"1\n")
        self.note("waiting").set()
        await request.gone()
        self.note("gone").set()

    async def do_Flood(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """Lines of 1 KiB without end."""
        await answer.head(kind=NDJSON)
        line = json.dumps("x" * 1021).encode() + b"\n"
        try:
            while True:
                await answer.piece(line * 16)
                self.sent += 16 * len(line)
        except OSError:
            self.note("gone").set()

    async def do_Swallow(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """Reads a little, and then only when it is let."""
        async for piece in request.pieces():
            self.received += len(piece)
            if self.received > 64 * 1024 and not self.note("swallow").is_set():
                self.note("full").set()
                await self.note("swallow").wait()
        await answer.whole(json.dumps(self.received).encode())

    async def do_Large(self, request: Request, answer: Answer) -> None:  # noqa: N802
        size = json.loads(await request.body())
        known = request.headers.get("x-known") is not None
        if known:
            await answer.whole(b'"' + b"x" * (size - 2) + b'"')
        else:
            await answer.head(kind=JSON)
            for start in range(0, size, 65536):
                await answer.piece(b"x" * min(65536, size - start))
            await answer.piece(b"", more=False)

    async def do_Break(self, request: Request, answer: Answer) -> None:  # noqa: N802
        """Fails after a line."""
        await answer.head(kind=NDJSON)
        await answer.piece(b"1\n")
        raise RuntimeError("broken on purpose")
