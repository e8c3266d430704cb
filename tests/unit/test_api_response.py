"""Response and body: consumption, flow control, errors, and what happens to those nobody reads."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any

import pytest
from tests.unit.api_kit import HOLD, START, FakeDispatcher, data, end, fail, head, info, reply, turns

import dodici
from dodici.api.receiver import HIGH_WATER
from dodici.api.response import Response
from dodici.core.errors import (
    BodyUnusableError,
    RequestAbortedError,
    ResponseError,
    SocketError,
)
from dodici.core.headers import Headers

URL = "http://h/p"


async def respond(*steps: Any, headers: Any = None, status: int = 200) -> tuple[Response, Any]:
    fake = FakeDispatcher([START, head(status, headers), *steps])
    response = await fake.request(URL)
    return response, fake.plays[0]


# -- what the head says


async def test_head() -> None:
    response, _ = await respond(end(), headers={"X-A": "b"}, status=404)
    assert response.status_code == 404
    assert response.status_message == "OK"
    assert response.headers["x-a"] == "b"
    assert response.http_version == "1.1"
    assert response.url == URL
    assert not response.ok
    assert repr(response) == "<Response 404 http://h/p>"


async def test_trailers_come_with_the_end() -> None:
    response, play = await respond(HOLD, data(b"x"), end({"digest": "abc"}))
    assert response.trailers == Headers()
    play.go()
    await response.bytes()
    assert response.trailers["digest"] == "abc"


async def test_url_after_redirects() -> None:
    fake = FakeDispatcher()
    response = await fake.request(URL)
    response._receiver.context = {"history": ["http://h/p", "http://other/q"]}
    assert response.url == "http://other/q"


async def test_a_response_does_not_hold_the_request_body() -> None:
    class Body(list[bytes]):
        pass

    import weakref

    body = Body([b"x"])
    watch = weakref.ref(body)
    fake = FakeDispatcher()
    response = await fake.request(URL, body=body)
    await response.bytes()
    await turns()
    fake.plays.clear()
    del body
    gc.collect()
    assert watch() is None
    assert response.url == URL


# -- reading it whole


async def test_bytes_of_a_small_body_do_not_suspend() -> None:
    for body in (b"", b"hello"):
        fake = FakeDispatcher(reply(body))
        response = await fake.request(URL)
        await turns()
        reading = response.bytes()
        with pytest.raises(StopIteration) as caught:
            reading.send(None)
        assert caught.value.value == body


async def test_bytes_joins_what_comes() -> None:
    response, play = await respond(data(b"a"), data(b"b"), HOLD)
    reading = asyncio.ensure_future(response.bytes())
    await turns()
    play.go(data(b"c"), end())
    assert await reading == b"abc"
    assert response.body.bytes_read == 3


async def test_bytes_takes_everything_without_pausing_again() -> None:
    chunk = bytes(HIGH_WATER)
    response, play = await respond(*[data(chunk)] * 20, end())
    await turns(40)
    assert play.pauses == 1
    assert len(await response.bytes()) == 20 * HIGH_WATER
    assert (play.pauses, play.resumes) == (1, 1)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("ü".encode(), None, "ü"),
        ("\ufeffü".encode(), "text/plain", "ü"),
        ("ü".encode("latin-1"), "text/plain; charset=iso-8859-1", "ü"),
        ("ü".encode("latin-1"), 'text/plain; boundary=x; Charset="ISO-8859-1"', "ü"),
        ("ü".encode("utf-16"), "text/plain; charset=utf-16", "ü"),
        ("\ufeffü".encode("utf-16-le"), "text/plain; charset=utf-16-le", "ü"),
        (b"\xffx", None, "\ufffdx"),
        ("ü".encode(), "text/plain; charset=no-such-thing", "ü"),
        (b"00", "text/plain; charset=hex", "00"),
        (b"x\xff", "text/plain; charset=idna", "x\ufffd"),
        (b"x", "text/plain; charset=\x80", "x"),
        (b"x", ";;;charset", "x"),
    ],
)
async def test_text(body: bytes, content_type: str | None, text: str) -> None:
    response, _ = await respond(data(body), end(), headers={"content-type": content_type})
    assert await response.text() == text


async def test_json() -> None:
    for body in (b'{"a": "\xc3\xbc"}', b'\xef\xbb\xbf{"a": "\xc3\xbc"}', '{"a": "ü"}'.encode("utf-16")):
        response, _ = await respond(data(body), end())
        assert await response.json() == {"a": "ü"}


async def test_json_that_is_none() -> None:
    response, _ = await respond(data(b"{"), end())
    with pytest.raises(json.JSONDecodeError):
        await response.json()
    response, _ = await respond(data(b'"\xff"'), end())
    with pytest.raises(ValueError):
        await response.json()


# -- once


@pytest.mark.parametrize("first", ["bytes", "text", "json", "iterate", "dump", "aclose"])
@pytest.mark.parametrize("second", ["bytes", "text", "json", "iterate"])
async def test_consumed_once(first: str, second: str) -> None:
    async def consume(response: Response, how: str) -> None:
        if how == "iterate":
            async for _ in response:
                pass
        else:
            await getattr(response, how)()

    response, _ = await respond(data(b"1"), end())
    await turns()
    assert not response.body.used
    await consume(response, first)
    assert response.body.used
    with pytest.raises(BodyUnusableError, match="already consumed"):
        await consume(response, second)


async def test_two_readers_at_once() -> None:
    response, play = await respond(HOLD, data(b"1"), end())
    body = response.body
    first = asyncio.ensure_future(anext(body))
    await turns()
    with pytest.raises(BodyUnusableError, match="another task"):
        await anext(body)
    with pytest.raises(BodyUnusableError):
        await response.bytes()
    play.go()
    assert await first == b"1"
    with pytest.raises(StopAsyncIteration):
        await anext(body)


async def test_iteration_after_a_break_is_refused_but_anext_goes_on() -> None:
    response, _ = await respond(data(b"1"), data(b"2"), data(b"3"), end())
    async for chunk in response:
        assert chunk == b"1"
        break
    assert await anext(response.body) == b"2"
    with pytest.raises(BodyUnusableError):
        async for _ in response:
            pass


# -- iteration and flow


async def test_iteration_in_order() -> None:
    chunks = [bytes([number]) * (number + 1) for number in range(100)]
    response, _ = await respond(*map(data, chunks), end())
    assert [chunk async for chunk in response] == chunks
    assert response.body.bytes_read == sum(map(len, chunks))
    assert response.body.ended


async def test_high_water() -> None:
    chunk = bytes(16 * 1024)
    response, play = await respond(*[data(chunk)] * 100, end())
    await turns(200)
    assert response.body.bytes_read == HIGH_WATER
    assert (play.pauses, play.resumes) == (1, 0)
    body = response.body
    await anext(body)
    assert play.resumes == 1
    await turns(50)
    assert response.body.bytes_read == HIGH_WATER + len(chunk)
    total = len(chunk)
    async for piece in body_rest(body):
        total += len(piece)
        assert body.bytes_read - total <= HIGH_WATER
    assert total == 100 * len(chunk)


async def body_rest(body: Any) -> Any:
    while True:
        try:
            yield await anext(body)
        except StopAsyncIteration:
            return


async def test_a_waiting_reader_is_not_paused_for() -> None:
    big = bytes(4 * HIGH_WATER)
    response, _play = await respond(*[data(big)] * 5, end())
    total = 0
    async for chunk in response:
        total += len(chunk)
        await turns(1)
    assert total == 20 * HIGH_WATER


async def test_a_retry_while_paused_stays_paused() -> None:
    response, play = await respond(data(bytes(HIGH_WATER)), HOLD)
    await turns()
    assert play.exchange.paused
    play.exchange._paused = False
    response._receiver.on_request_start(play.exchange, {})
    assert play.exchange.paused


async def test_content_length() -> None:
    for stated, length in (("12", 12), (None, None), ("x", None), ("1, 1", None), ("٣".encode(), None)):
        response, _ = await respond(end(), headers={"content-length": stated})
        assert response.body.content_length == length
    assert repr(response.body) == "<ResponseBody 0 of ? bytes>"


# -- errors


async def test_data_before_an_error_is_given_first() -> None:
    error = SocketError("gone")
    response, _ = await respond(data(b"1"), data(b"2"), fail(error))
    await turns()
    got = []
    with pytest.raises(SocketError) as caught:
        async for chunk in response:
            got.append(chunk)
    assert caught.value is error
    assert got == [b"1", b"2"]
    with pytest.raises(BodyUnusableError):
        await response.bytes()


@pytest.mark.parametrize("early", [True, False])
async def test_whole_body_with_an_error(early: bool) -> None:
    response, play = await respond(data(b"1"), *([] if early else [HOLD]), fail(SocketError("gone")))
    if early:
        await turns()
    else:
        asyncio.get_running_loop().call_later(0.01, play.go)
    with pytest.raises(SocketError, match="gone"):
        await response.text()


async def test_an_error_that_is_never_looked_at_is_silent() -> None:
    response, _ = await respond(data(b"1"), fail(SocketError("gone")))
    await turns()
    del response
    gc.collect()
    await turns()


async def test_errors_leave_no_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        fake = FakeDispatcher([START, fail(SocketError("gone"))])
        with pytest.raises(SocketError):
            await fake.request(URL)
        fake.plays.clear()
        fake.script = []  # else the error's traceback has the dispatcher, and that the error
        response, _ = await respond(data(b"1"), fail(SocketError("gone")))
        with pytest.raises(SocketError):
            await response.bytes()
        del response, _
        await turns()
        found = [thing for thing in gc.get_objects() if type(thing).__name__ == "Receiver"]
        assert not found
    finally:
        gc.enable()


# -- dump and close


async def test_dump_reads_to_the_end() -> None:
    response, play = await respond(data(bytes(100_000)), data(bytes(20_000)), end())
    await response.dump()
    assert play.exchange.done
    assert play.aborted_with is None
    await response.dump()


async def test_dump_stops_at_the_limit() -> None:
    response, play = await respond(*[data(bytes(1000))] * 100, HOLD)
    await response.dump(limit=5000)
    assert isinstance(play.aborted_with, RequestAbortedError)
    assert response.body.bytes_read <= 6000


async def test_dump_does_not_begin_what_is_announced_to_be_too_much() -> None:
    response, play = await respond(HOLD, headers={"content-length": "1000000"})
    await response.dump()
    assert play.aborted_with is not None


async def test_dump_counts_from_where_it_is() -> None:
    response, play = await respond(
        data(bytes(5000)), data(bytes(50)), end(), headers={"content-length": "5050"}
    )
    body = response.body
    await anext(body)
    await response.dump(limit=100)
    assert play.aborted_with is None


async def test_dump_after_head_request_or_error() -> None:
    response, play = await respond(end(), headers={"content-length": "1000000"})
    await turns()
    await response.dump()
    assert play.aborted_with is None
    response, play = await respond(data(b"1"), fail(SocketError("gone")))
    await response.dump()


async def test_aclose_and_async_with() -> None:
    response, play = await respond(data(b"1"), HOLD)
    async with response:
        assert await anext(response.body) == b"1"
    assert isinstance(play.aborted_with, RequestAbortedError)
    with pytest.raises(RequestAbortedError, match="given up"):
        await anext(response.body)

    response, play = await respond(data(b"1"), end())
    await turns()
    await response.aclose()
    await response.aclose()
    assert play.aborted_with is None


async def test_aclose_wakes_a_reader() -> None:
    response, _ = await respond(HOLD)
    reading = asyncio.ensure_future(response.bytes())
    await turns()
    await response.aclose()
    with pytest.raises(BodyUnusableError, match="given up"):
        await reading


# -- dropped


async def test_a_dropped_response_aborts_its_exchange() -> None:
    response, play = await respond(data(b"1"), HOLD)
    del response
    assert play.aborted_with is None, "not from within the collector"
    await turns()
    assert isinstance(play.aborted_with, RequestAbortedError)
    assert "dropped" in str(play.aborted_with)


async def test_a_dropped_response_whose_body_is_held_does_not() -> None:
    response, play = await respond(data(b"1"), HOLD)
    body = response.body
    del response
    await turns()
    assert play.aborted_with is None
    play.go(data(b"2"), end())
    assert [chunk async for chunk in body] == [b"1", b"2"]


async def test_a_dropped_body_and_a_dropped_iterator() -> None:
    response, play = await respond(data(b"1"), HOLD)
    body = response.body
    del response
    iterator = aiter(body)
    del body
    await turns()
    assert play.aborted_with is None
    del iterator
    await turns()
    assert play.aborted_with is not None


async def test_a_body_dropped_while_the_response_is_held() -> None:
    response, play = await respond(data(b"1"), HOLD)
    assert response.body is response.body
    await turns()
    assert play.aborted_with is None
    await response.aclose()


async def test_a_response_dropped_after_its_end() -> None:
    response, play = await respond(data(b"1"), end())
    await turns()
    del response
    await turns()
    assert play.aborted_with is None


async def test_dropped_in_another_thread() -> None:
    response, play = await respond(data(b"1"), HOLD)
    box = [response]
    del response
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    await turns()
    assert play.aborted_with is not None


def test_dropped_after_the_loop_is_closed() -> None:
    async def main() -> Response:
        response, _ = await respond(data(b"1"), HOLD)
        return response

    response = asyncio.run(main())
    del response
    gc.collect()


# -- error statuses


async def test_raise_for_status_method() -> None:
    response, _play = await respond(HOLD, status=503, headers={"retry-after": "1"})
    with pytest.raises(ResponseError, match="503 OK for http://h/p") as caught:
        response.raise_for_status()
    assert caught.value.status_code == 503
    assert caught.value.headers is not None
    assert caught.value.headers["retry-after"] == "1"
    assert caught.value.body is None
    assert caught.value.origin == "http://h"
    await response.aclose()
    response, _ = await respond(end(), status=399)
    assert response.raise_for_status() is response


@pytest.mark.parametrize(
    ("content_type", "sent", "body"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("application/problem+json; charset=utf-8", b"[1]", [1]),
        ("application/json", b"{broken", "{broken"),
        ("text/plain", "ü".encode(), "ü"),
        (None, b"text", "text"),
        ("application/xml", b"<a/>", "<a/>"),
        ("image/png", b"\x89PNG", b"\x89PNG"),
        ("text/html", b"", ""),
    ],
)
async def test_raise_for_status_option(content_type: str | None, sent: bytes, body: Any) -> None:
    fake = FakeDispatcher(reply(sent, 500, {"content-type": content_type}, "Oops"))
    with pytest.raises(ResponseError, match="500 Oops") as caught:
        await fake.request(URL, raise_for_status=True)
    assert caught.value.body == body
    assert fake.plays[0].aborted_with is None


async def test_raise_for_status_bounds_the_body() -> None:
    fake = FakeDispatcher([START, head(500), *[data(b"x" * 10_000)] * 100, HOLD])
    with pytest.raises(ResponseError) as caught:
        await fake.request(URL, raise_for_status=True)
    assert caught.value.body == "x" * 128 * 1024
    assert fake.plays[0].aborted_with is not None


async def test_raise_for_status_with_a_broken_body() -> None:
    fake = FakeDispatcher([START, head(500), data(b"some"), fail(SocketError("gone"))])
    with pytest.raises(ResponseError) as caught:
        await fake.request(URL, raise_for_status=True)
    assert isinstance(caught.value.__cause__, SocketError)


async def test_raise_for_status_passes_good_ones() -> None:
    fake = FakeDispatcher([START, info(103), *reply(b"x", 304)[1:]])
    response = await dodici.get(URL, raise_for_status=True, dispatcher=fake)
    assert await response.bytes() == b"x"
