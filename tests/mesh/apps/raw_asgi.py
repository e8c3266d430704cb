"""ASGI without a framework, in the shapes that people write it in."""

from __future__ import annotations

import functools
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path. Has no lifespan."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["raw_path"]})


class Service:
    """An app with a lifespan; its requests see `greeting`."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.events.append("startup")
            scope["state"]["greeting"] = self.greeting
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["greeting"].encode()})


class Holder:
    """A namespace in a namespace, for dotted attributes."""

    service = Service("held")


def create_app() -> Service:
    return Service("made")


async def create_later() -> Service:
    return Service()


def needs_settings(settings: Any) -> Service:
    raise AssertionError("never called without settings")


def broken_factory() -> Any:
    raise LookupError("no database here")


async def with_prefix(prefix: bytes, scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": prefix + scope["raw_path"]})


prefixed = functools.partial(with_prefix, b"prefix:")


class DoubleCallable:
    """ASGI 2."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        raise AssertionError("never called")


def double_callable(scope: Any) -> Any:
    return DoubleCallable(scope)


def unclear(*args: Any) -> Any:
    raise AssertionError("never called")


async def coroutine_of_two(environ: Any, start_response: Any) -> Any:
    raise AssertionError("never called")


number = 12
