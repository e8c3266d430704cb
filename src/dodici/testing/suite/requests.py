"""Conformance: what is sent, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from ...core.errors import (
    InvalidArgumentError,
    NotSupportedError,
    RequestContentLengthMismatchError,
)
from ...core.handler import DispatchHandler
from ...core.options import DispatchOptions
from ..app import pattern
from ..recorder import DATA, END, ERROR, RESPONSE, START

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

from ..target import SOURCES, Target


async def _agen(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


_TEXT = "grüße, ἀδελφοί"
_BODY = pattern(100_000)
_PIECES = [_BODY[at : at + 7001] for at in range(0, len(_BODY), 7001)]


def _spooled(body: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the test closes it
    file.write(body)
    file.seek(0)
    return file


_BODIES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "none": (lambda: None, b""),
    "empty": (lambda: b"", b""),
    "str": (lambda: _TEXT, _TEXT.encode()),
    "bytes": (lambda: _BODY, _BODY),
    "bytearray": (lambda: bytearray(_BODY), _BODY),
    "memoryview": (lambda: memoryview(_BODY), _BODY),
    "strided-memoryview": (lambda: memoryview(_BODY)[::2], _BODY[::2]),
    "bytesio": (lambda: io.BytesIO(_BODY), _BODY),
    "file": (lambda: _spooled(_BODY), _BODY),
    "list": (lambda: list(_PIECES), _BODY),
    "generator": (lambda: (piece for piece in _PIECES), _BODY),
    "async-generator": (lambda: _agen(_PIECES), _BODY),
    "with-empty-chunks": (lambda: _agen([b"", b"a", b"", b"b", b""]), b"ab"),
    "empty-generator": (lambda: iter(()), b""),
}
_STREAMED = {
    "bytesio",
    "file",
    "list",
    "generator",
    "async-generator",
    "with-empty-chunks",
    "empty-generator",
}


class RequestTests:
    """Requests, right and wrong."""

    # ------------------------------------------------------------------------------- what is sent

    async def test_the_app_gets_what_was_dispatched(self, target: Target) -> None:
        """Method, path, query, headers and body arrive as given."""
        recorder = await target.fetch(
            "/echo",
            method="POST",
            query={"a": ["1", "2"], "b": "x y"},
            headers=[("X-One", "1"), ("x-many", "a"), ("x-many", "b"), ("x-number", 7)],
            body=b"hello",
        )
        told = json.loads(recorder.body)
        assert (told["method"], told["path"], told["query"]) == ("POST", "/echo", "a=1&a=2&b=x+y")
        fields = [(name.lower(), value) for name, value in told["headers"]]
        assert ("x-one", "1") in fields
        assert ("x-number", "7") in fields
        many = [value for name, value in fields if name == "x-many"]
        assert many in (["a", "b"], ["a, b"])
        assert (told["size"], told["sha256"]) == (5, hashlib.sha256(b"hello").hexdigest())

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
    async def test_methods(self, target: Target, method: str) -> None:
        """Any token is a method."""
        assert json.loads((await target.fetch("/echo", method=method)).body)["method"] == method

    @pytest.mark.parametrize("kind", _BODIES)
    async def test_body_kinds(self, target: Target, kind: str) -> None:
        """Every kind of body arrives whole."""
        if kind in _STREAMED:
            target.need("streamed-requests")
        make, expected = _BODIES[kind]
        body = make()
        told = json.loads((await target.fetch("/echo", method="POST", body=body)).body)
        assert (told["size"], told["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())
        await target.usable()
        if kind == "file":
            body.close()

    @SOURCES
    async def test_stated_length_of_a_streamed_body(self, target: Target, source_class: Any) -> None:
        """A content-length that is true is sent."""
        target.need("streamed-requests")
        recorder = await target.fetch(
            "/echo", method="PUT", body=source_class(b"abc", b"de"), headers={"content-length": "5"}
        )
        told = json.loads(recorder.body)
        assert told["size"] == 5
        assert ["content-length", "5"] in told["headers"]

    async def test_options_are_reusable(self, target: Target) -> None:
        """One options object may be dispatched again and again, at the same time too."""
        options = DispatchOptions(
            **target.options("/echo", method="POST", body=b"again", headers={"x-a": "1"})
        )
        for _ in range(5):
            recorder = target.recorder()
            recorder.dispatch(target.dispatcher, options)
            assert json.loads((await recorder.wait()).body)["size"] == 5
        recorders = [target.recorder() for _ in range(20)]
        for recorder in recorders:
            recorder.dispatch(target.dispatcher, options)
        for recorder in recorders:
            assert json.loads((await recorder.wait()).body)["size"] == 5

    async def test_200_dispatches_at_once(self, target: Target) -> None:
        """None is lost, none is answered with another's response, whatever the limits."""
        recorders = [target.send(f"/echo?n={number}") for number in range(200)]
        for number, recorder in enumerate(recorders):
            await recorder.wait()
            assert recorder.error is None
            assert json.loads(recorder.body)["query"] == f"n={number}"

    # ------------------------------------------------------------------------- arguments that are wrong

    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [
            ({"path": "no-slash"}, InvalidArgumentError),
            ({"path": "/a b"}, InvalidArgumentError),
            ({"path": "/a\r\nx: y"}, InvalidArgumentError),
            ({"path": 7}, InvalidArgumentError),
            ({"method": "GE T"}, InvalidArgumentError),
            ({"method": None}, InvalidArgumentError),
            ({"headers": {"x-a": "1\r\nx-b: 2"}}, InvalidArgumentError),
            ({"headers": {"x a": "1"}}, InvalidArgumentError),
            ({"headers": {"x-a": object()}}, InvalidArgumentError),
            ({"headers": {"transfer-encoding": "chunked"}}, InvalidArgumentError),
            ({"headers": [("content-length", "1"), ("content-length", "1")]}, InvalidArgumentError),
            ({"headers": {"expect": "100-continue"}}, NotSupportedError),
            ({"body": 7}, InvalidArgumentError),
            ({"body": {"a": 1}}, InvalidArgumentError),
            (
                {"method": "POST", "body": b"abc", "headers": {"content-length": "2"}},
                RequestContentLengthMismatchError,
            ),
            ({"method": "POST", "headers": {"content-length": "3"}}, RequestContentLengthMismatchError),
            ({"headers_timeout": -1}, InvalidArgumentError),
            ({"body_timeout": "soon"}, InvalidArgumentError),
            ({"timeout": float("nan")}, InvalidArgumentError),
            ({"no_such_option": 1}, InvalidArgumentError),
        ],
        ids=lambda value: None if isinstance(value, type) else "-".join(map(str, value))[:30],
    )
    async def test_wrong_options_reach_the_handler_at_once(
        self, target: Target, wrong: dict[str, Any], kind: type[Exception]
    ) -> None:
        """An argument error is told inside dispatch(), which returns False; nothing is sent."""
        token = target.token()
        options = {**target.options(f"/echo?token={token}"), **wrong}
        recorder = target.recorder()
        assert recorder.dispatch(target.dispatcher, options) is False
        assert recorder.synchronous
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, kind)
        await recorder.wait()
        assert await target.count(token) == 0
        await target.usable()

    async def test_options_that_are_no_mapping(self, target: Target) -> None:
        """Told to the handler, not raised."""
        recorder = target.recorder()
        recorder.dispatch(target.dispatcher, 7)  # type: ignore[arg-type]  # that is what is tested
        assert recorder.synchronous
        assert isinstance(recorder.error, InvalidArgumentError)

    @pytest.mark.parametrize("missing", [START, RESPONSE, DATA, END, ERROR])
    async def test_handler_without_a_method_is_refused(self, target: Target, missing: str) -> None:
        """A handler that could not be told something is raised at, and nothing is sent."""
        token = target.token()
        kind = type("Incomplete", (DispatchHandler,), {missing: None})
        with pytest.raises(InvalidArgumentError, match=missing):
            target.dispatcher.dispatch(target.options(f"/echo?token={token}"), kind())
        with pytest.raises(InvalidArgumentError):
            target.dispatcher.dispatch(target.options(f"/echo?token={token}"), object())  # type: ignore[arg-type]
        await target.usable()
        assert await target.count(token) == 0
