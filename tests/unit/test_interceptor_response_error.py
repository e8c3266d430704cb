"""response_error(): one error instead of an error response."""

from __future__ import annotations

import pickle

import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    head,
    play,
    start,
    virtual,
)

from dodici.core.errors import InvalidArgumentError, ResponseError, SocketError
from dodici.interceptors import response_error
from dodici.testing import RecordingHandler

JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.mark.parametrize("status", [400, 404, 499, 500, 599])
@virtual
async def test_an_error_response_is_an_error(status):
    recorder, base = await play(
        response_error(), answer(status, JSON, b'{"why": "so"}', "Nope"), options={"path": "/x"}
    )
    assert recorder.names == ["request_start", "response_error"]
    error = recorder.error
    assert isinstance(error, ResponseError)
    assert (error.code, error.status_code, error.body) == ("UND_ERR_RESPONSE", status, {"why": "so"})
    assert error.headers["content-type"].startswith("application/json")
    assert str(error) == f"GET http://a.test/x was answered {status} Nope"
    assert pickle.loads(pickle.dumps(error)).body == {"why": "so"}
    # The exchange itself was in order.
    assert base.outcomes == ["end"]


@pytest.mark.parametrize("status", [200, 204, 302, 399])
@virtual
async def test_others_pass(status):
    recorder, _ = await play(response_error(), answer(status, body=b"x"))
    assert (recorder.status_code, recorder.body) == (status, b"x")


@pytest.mark.parametrize(
    ("headers", "body", "decoded"),
    [
        (JSON, b"[1]", [1]),
        ({"content-type": "application/problem+json"}, b'"x"', "x"),
        (JSON, b"{broken", "{broken"),
        (JSON, b"", ""),
        (JSON, b"[" * 100_000, "[" * 100_000),
        ({"content-type": "text/plain"}, "è".encode(), "è"),
        ({"content-type": "text/html; charset=iso-8859-1"}, b"\xe8", "è"),
        ({"content-type": "text/html; charset=klingon"}, b"x", "x"),
        ({"content-type": "text/plain"}, b"\xff", "�"),
        ({"content-type": "image/png"}, b"\x89PNG", b"\x89PNG"),
        ({"content-type": ";;;"}, b"x", "x"),
        ({}, b"x", b"x"),
        ({**JSON, "content-encoding": "gzip"}, b"\x1f\x8b", b"\x1f\x8b"),
        ({**JSON, "content-encoding": "identity"}, b"1", 1),
    ],
)
@virtual
async def test_bodies(headers, body, decoded):
    recorder, _ = await play(response_error(), answer(500, headers, body))
    assert recorder.error.body == decoded


@virtual
async def test_a_body_without_pieces():
    recorder, _ = await play(response_error(), [start(), head(404), end()])
    assert recorder.error.body == b""


@virtual
async def test_a_long_body_is_cut():
    recorder, base = await play(
        response_error(max_size=10),
        [start(), head(500), data(b"12345678"), data(b"9abcdef"), data(b"more"), end()],
    )
    assert recorder.error.body == b"123456789a"
    assert base.players[0].exchange.aborted
    recorder, base = await play(response_error(max_size=2), [start(), head(500), data(b"12"), end()])
    assert (recorder.error.body, base.outcomes) == (b"12", ["end"])
    recorder, _ = await play(response_error(max_size=0), [start(), head(500), data(b"12"), end()])
    assert recorder.error.body == b""


@virtual
async def test_a_body_that_breaks():
    broken = SocketError("other side closed")
    recorder, _ = await play(
        response_error(), [start(), head(500, {"content-type": "text/plain"}), data(b"wh"), fail(broken)]
    )
    assert isinstance(recorder.error, ResponseError)
    assert recorder.error.body == "wh"
    assert recorder.error.__cause__ is broken


@virtual
async def test_an_abort_in_the_body_is_an_abort():
    base = ScriptedDispatcher([start(), head(500), data(b"x"), data(b"y"), end()])
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(response_error()), {"origin": ORIGIN})
    await recorder.reached("on_request_start")
    reason = ValueError("enough")
    recorder.controller.abort(reason)
    await recorder.wait()
    assert recorder.error is reason


@virtual
async def test_1xx_passes():
    recorder, _ = await play(response_error(), [start(), head(103), head(500), end()])
    assert [status for status, _ in recorder.informational] == [103]
    assert recorder.error.status_code == 500


def test_invalid_arguments():
    for size in (-1, 1.5, "1"):
        with pytest.raises(InvalidArgumentError):
            response_error(max_size=size)
