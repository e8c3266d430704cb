"""Messages over HTTP/2 with Node: bodies, fields, interim responses, trailers, resets of streams, tunnels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.h2_kit import MODES, UPLOAD, client, good, pausing, sha256, streamed, told
from tests.peers.h2_peers import Node
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import RecordingHandler, pattern

pytestmark = pytest.mark.interop

REFUSED_STREAM = 7
CODES = range(14)  # all of RFC 9113 section 7


@pytest_asyncio.fixture(params=MODES)
async def one(request: pytest.FixtureRequest, node_h2: Node, ca: str) -> AsyncIterator[dodici.Client]:
    made = client(node_h2, request.param, ca)
    yield made
    await made.destroy()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "REPORT"])
async def test_uploads(one: Any, method: str) -> None:
    for body in (pattern(UPLOAD), streamed(UPLOAD)):
        said = await told(one, "/digest", method=method, body=body)
        assert said == {"method": method, "size": UPLOAD, "sha256": sha256(UPLOAD), "trailers": {}}


async def test_echo_with_pauses(one: Any) -> None:
    recorder = pausing()
    await send(one, "/echo", recorder, method="POST", body=streamed(2_000_000)).wait(30)
    assert recorder.error is None
    assert recorder.body == pattern(2_000_000)


async def test_download_with_pauses(one: Any) -> None:
    recorder = pausing(keep_body=False)
    await send(one, "/stream/5000000", recorder).wait(30)
    assert (recorder.body_size, recorder.digest) == (5_000_000, sha256(5_000_000))


async def test_fields_as_they_are_sent(one: Any) -> None:
    fields = [("Cookie", "a=1; b=2"), ("x-Two", "1"), ("x-two", "2"), ("x-empty", ""), ("te", "trailers")]
    pairs = await told(one, "/fields?q=1", headers=fields)
    names = [name for name, _ in pairs]
    assert sorted(names[:4]) == [":authority", ":method", ":path", ":scheme"]
    assert [":path", "/fields?q=1"] in pairs
    assert all(name == name.lower() for name in names)
    assert not {"host", "connection", "transfer-encoding", "keep-alive"} & set(names)
    assert "; ".join(value for name, value in pairs if name == "cookie") == "a=1; b=2"
    assert [value for name, value in pairs if name == "x-two"] == ["1", "2"]
    assert ["x-empty", ""] in pairs
    assert ["te", "trailers"] in pairs


async def test_trailers(one: Any) -> None:
    recorder = await good(one, "/trailers")
    assert recorder.body == b"body"
    assert recorder.trailers is not None
    assert recorder.trailers["x-sum"] == "42"
    assert recorder.trailers.get_list("x-many") == ["one", "two"]
    recorder = await good(one, "/trailers-only")
    assert (recorder.body, dict(recorder.trailers or {})) == (b"", {"x-sum": "0"})


async def test_early_hints(one: Any) -> None:
    recorder = await good(one, "/hints?count=3")
    assert [status for status, _ in recorder.informational] == [103] * 3
    assert [fields["link"] for _, fields in recorder.informational] == [
        f"</{number}.css>; rel=preload" for number in range(3)
    ]
    assert recorder.body == b"hinted"


async def test_many_cookies(one: Any) -> None:
    recorder = await good(one, "/cookies?count=100")
    assert recorder.headers is not None
    assert recorder.headers.get_list("set-cookie") == [f"c{number}={number}; path=/" for number in range(100)]


async def test_the_limit_of_a_head(one: Any) -> None:
    recorder = await good(one, "/large-fields?count=10&size=1000")
    assert recorder.headers is not None
    assert recorder.headers["x-large-9"] == "v" * 1000
    events = Events(one)
    recorder = await fetch(one, "/large-fields?count=20&size=1000")
    assert isinstance(recorder.error, dodici.HeadersOverflowError)
    # What is too large for one request is decoded all the same, so that the others can go on.
    assert (await good(one, "/get")).body == b"hello"
    assert events.names == []


async def test_a_body_that_is_not_as_long_as_it_says(one: Any) -> None:
    await good(one, "/get")
    events = Events(one)
    for path in ("/short", "/long"):
        recorder = await fetch(one, path)
        assert isinstance(recorder.error, dodici.DodiciError), recorder.summary()
    assert (await good(one, "/get")).body == b"hello"
    assert events.names == []


@pytest.mark.parametrize("code", CODES)
async def test_a_reset_before_the_head(one: Any, code: int) -> None:
    await good(one, "/get")
    events = Events(one)
    recorder = await fetch(one, f"/reset?when=head&code={code}")
    assert isinstance(recorder.error, dodici.StreamResetError)
    assert recorder.error.error_code == code
    assert recorder.error.request_not_processed == (code == REFUSED_STREAM)
    assert recorder.starts == (2 if code == REFUSED_STREAM else 1)
    assert (await good(one, "/get")).body == b"hello"
    assert events.names == []


@pytest.mark.parametrize("code", CODES)
async def test_a_reset_in_the_body(one: Any, code: int) -> None:
    recorder = await fetch(one, f"/reset?when=body&code={code}")
    assert recorder.status_code == 200
    assert isinstance(recorder.error, dodici.StreamResetError)
    assert recorder.error.error_code == code
    assert recorder.starts == 1
    assert (await good(one, "/get")).body == b"hello"


async def test_an_early_answer_with_no_error(one: Any) -> None:
    """A complete response and then RST_STREAM with NO_ERROR: the upload stops, the response stands (section 8.1)."""
    recorder = await fetch(one, "/reset?when=end&code=0", method="POST", body=pattern(UPLOAD))
    assert recorder.error is None, recorder.summary()
    assert recorder.body == b"early"
    assert (await good(one, "/get")).body == b"hello"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_stream_is_sent_again(one: Any, method: str) -> None:
    body = None if method == "GET" else b"posted"
    recorder = await good(one, f"/refuse-once?key={one.origin}{method}", method=method, body=body)
    assert recorder.body == b"attempt 2"
    assert recorder.starts == 2
    assert one.stats.retries == 1


async def test_an_abort_reaches_the_server(one: Any) -> None:
    name = f"abort-{one.origin[:5]}"
    recorder = send(one, f"/hold?name={name}")
    await good(one, f"/wait/{name}:started")
    recorder.controller.abort()
    assert isinstance((await recorder.wait()).error, dodici.RequestAbortedError)
    await good(one, f"/wait/{name}:closed:8")


async def test_a_slow_response_does_not_hold_up_others(one: Any) -> None:
    name = f"slow-{one.origin[:5]}"
    slow = send(one, f"/drip?name={name}")
    await slow.reached("on_response_start")
    for _ in range(20):
        assert (await good(one, "/get")).body == b"hello"
    await good(one, f"/set/{name}")
    assert (await slow.wait()).body == b"held"


async def test_frames_that_we_have_no_use_for(one: Any) -> None:
    assert (await good(one, "/strange")).body == b"strange"
    assert (await good(one, "/push")).body == b"not allowed"
    assert (await good(one, "/ping")).body == b"pong 12345678"
    assert (await told(one, "/stats"))["settings"]["enablePush"] is False


async def test_connect(one: Any) -> None:
    recorder = await fetch(one, "echo:1", method="CONNECT")
    assert recorder.names[-1] == "request_upgrade", recorder.summary()
    socket = recorder.socket
    async with asyncio.timeout(10):
        for size in (1, 100, 1_000_000):
            writing = asyncio.ensure_future(socket.write(pattern(size)))
            assert await socket.read_exactly(size) == pattern(size)
            await writing
        socket.write_eof()
        assert await socket.read() == b""
    socket.close()
    assert (await good(one, "/get")).body == b"hello"


async def test_extended_connect(one: Any) -> None:
    recorder = await fetch(one, "/echo", upgrade="websocket")
    assert recorder.names[-1] == "request_upgrade", recorder.summary()
    socket = recorder.socket
    async with asyncio.timeout(10):
        await socket.write(b"\x81\x05hello")
        assert await socket.read_exactly(7) == b"\x81\x05hello"
    socket.close()
    assert (await good(one, "/get")).body == b"hello"


@pytest.mark.parametrize("options", [{"path": "elsewhere:1", "method": "CONNECT"}, {"upgrade": "websocket"}])
async def test_a_refused_tunnel(one: Any, options: dict[str, str]) -> None:
    recorder = RecordingHandler()
    await send(
        one, options.get("path", "/elsewhere"), recorder, **{k: v for k, v in options.items() if k != "path"}
    ).wait()
    assert recorder.error is not None or recorder.status_code == 403
    assert (await good(one, "/get")).body == b"hello"
