"""WSGI without a framework, in the shapes that people write it in."""

from __future__ import annotations

import functools
from typing import Any


def app(environ: Any, start_response: Any) -> list[bytes]:
    """Answers with the path."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode("latin-1")]


class Service:
    """An instance as an app."""

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return app(environ, start_response)


class PerRequest:
    """A class as an app (PEP 3333): its instance is the iterable."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        self._answer = app(environ, start_response)

    def __iter__(self) -> Any:
        return iter(self._answer)


def configured(settings: Any, environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [str(settings).encode()]


partial = functools.partial(configured, {"debug": True})


def lenient(environ: Any, start_response: Any, extra: Any = None) -> list[bytes]:
    return app(environ, start_response)


def traced(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


wrapped = traced(app)
