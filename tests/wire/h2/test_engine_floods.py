"""Floods end the connection with ENHANCE_YOUR_CALM; honest traffic, however busy, does not (RFC 9113 section 10.5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.wire.h2.frames_kit import (
    OK,
    Link,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

from dodici.wire.h2.frames import ConnectionFault, ErrorCode
from dodici.wire.h2.guard import ALLOWANCE, PERIOD
from dodici.wire.h2.settings import LocalSettings

SLACK = 10
HEAD = headers(1, b"\x88")


def established(requests: str = "G") -> Link:
    link = Link()
    for kind in requests:
        link.open(kind)
    link.receive(settings())
    link.sent()
    return link


def endured(link: Link, wire: bytes, most: int = ALLOWANCE + SLACK) -> int:
    """How many times `wire` may come before the connection ends."""
    for count in range(most):
        try:
            link.receive(wire)
        except ConnectionFault as fault:
            if fault.code != ErrorCode.ENHANCE_YOUR_CALM:
                raise
            return count
    raise AssertionError("it goes on")


# ------------------------------------------------------------------------------------------ floods


@pytest.mark.parametrize(
    ("before", "wire"),
    [
        pytest.param(b"", settings(), id="settings"),
        pytest.param(b"", settings((3, 100)), id="settings-that-say-something"),
        pytest.param(b"", settings(ack=True), id="acknowledgements-of-settings"),
        pytest.param(b"", ping(), id="ping"),
        pytest.param(b"", ping(ack=True), id="pong"),
        pytest.param(b"", priority(1), id="priority"),
        pytest.param(b"", goaway(1), id="goaway"),
        pytest.param(b"", frame(0x77, 0, 0), id="unknown"),
        pytest.param(b"", window_update(0, 1), id="window-update"),
        pytest.param(b"", window_update(1, 1), id="window-update-of-a-stream"),
        pytest.param(HEAD, data(1), id="empty-data"),
        pytest.param(HEAD, data(1, pad=255), id="padding"),
        pytest.param(headers(1, b"\x88", end=True), rst_stream(1), id="rst-stream"),
        pytest.param(headers(1, b"\x88", whole=False), continuation(1, b"", whole=False), id="continuation"),
    ],
)
def test_floods(before: bytes, wire: bytes) -> None:
    link = established()
    link.receive(before)
    assert ALLOWANCE - SLACK <= endured(link, wire) < ALLOWANCE + SLACK


def test_floods_on_a_stream_that_was_reset() -> None:
    for wire in (data(1), headers(1, b""), headers(1, [(b":status", b"103")]), headers(1, [(b"Bad", b"")])):
        link = established()
        link.engine.reset(link.engine.streams[1])
        assert endured(link, wire, 2000) <= ALLOWANCE + 30


def test_a_body_on_a_stream_that_was_reset_ends_with_its_window() -> None:
    link = established()
    link.receive(HEAD)
    link.engine.reset(link.engine.streams[1])
    assert ALLOWANCE <= endured(link, data(1, bytes(1000)), 2000) <= ALLOWANCE + 66


def test_informational_heads_on_many_streams() -> None:
    link = established("G" * 40)
    wire = b"".join([headers(1 + 2 * number, [(b":status", b"103")]) for number in range(40)])
    assert endured(link, wire) <= ALLOWANCE // 40


def test_what_is_mixed_is_counted_together() -> None:
    link = established()
    assert endured(link, ping() + settings() + window_update(0, 1)) <= ALLOWANCE // 3


def test_time_gives_back() -> None:
    link = established()
    link.now = PERIOD
    assert endured(link, ping(), 3000) <= 2 * ALLOWANCE
    link = established()
    for _ in range(20):
        link.receive(ping() * (ALLOWANCE - 1))
        link.now += PERIOD
    assert endured(link, ping(), 3000) <= 2 * ALLOWANCE


def test_uploads_pay_for_so_many_updates_and_no_more() -> None:
    link = established("P")
    stream = link.engine.streams[1]
    for _ in range(10):
        link.receive(window_update(0, 1_000_000), window_update(1, 1_000_000))
        link.engine.send(stream, bytes(1_000_000))
        link.filled()
    sent = 10_000_000
    assert endured(link, window_update(0, 1), sent) <= ALLOWANCE + sent // 256


# ---------------------------------------------------------------------------------- honest traffic


def test_ten_thousand_requests() -> None:
    """At one moment, each with early hints before its head, answered with a body."""
    link = established("")
    answer = [(b":status", b"103")], OK
    for _ in range(10_000):
        number = link.open().id
        link.receive(*[headers(number, fields) for fields in answer], data(number, b"x", end=True))
        link.sent()
    assert link.events[-1] == ("end", 19_999, ())


def test_ten_thousand_refusals() -> None:
    link = established("")
    for _ in range(10_000):
        link.receive(rst_stream(link.open().id, ErrorCode.REFUSED_STREAM))
    assert len(link.errors) == 10_000


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("batch", [1, 100])
def test_ten_thousand_cancellations(begun: bool, batch: int) -> None:
    """Of answers that were on their way."""
    link = established("")
    for _ in range(10_000 // batch):
        streams = [link.open() for _ in range(batch)]
        if begun:
            link.receive(*[headers(stream.id) for stream in streams])
        for stream in streams:
            link.engine.reset(stream)
        for stream in streams:
            link.receive(b"" if begun else headers(stream.id), data(stream.id, b"x" * 100))
            link.receive(headers(stream.id, [(b"x", b"1")], end=True))
        link.sent()
    assert not link.engine.closed


def test_a_cancelled_download_of_small_pieces() -> None:
    local = LocalSettings(524_288, 16_777_216, 16_384)
    link = Link(local)
    stream = link.open()
    link.receive(settings(), headers(1))
    link.engine.reset(stream)
    link.receive(data(1, b"x" * 100) * 5_000)
    assert not link.engine.closed


@pytest.mark.parametrize("portion", [16_384, 4096, 1024], ids="updates-of-{}".format)
def test_an_upload_of_a_hundred_mebibytes(portion: int) -> None:
    """With WINDOW_UPDATE for each portion that the server reads, of the stream and of the connection."""
    link = established("P")
    stream = link.engine.streams[1]
    body = memoryview(bytes(100 << 20))
    link.engine.send(stream, body)
    link.engine.end(stream)
    left = len(body)
    owed = 0
    answers = {}
    while left:
        before = stream.queued
        link.engine.fill(256 * 1024)
        link.engine.outbox.parts.clear()
        owed += before - stream.queued
        left = stream.queued
        count, owed = divmod(owed, portion)
        if count not in answers:
            answers[count] = (window_update(0, portion) + window_update(1, portion)) * count
        link.receive(answers[count])
    assert stream.sent


def test_an_upload_into_a_large_window_that_is_read_later() -> None:
    link = established("P")
    stream = link.engine.streams[1]
    link.receive(window_update(0, 16 << 20), window_update(1, 16 << 20))
    link.engine.send(stream, bytes(16 << 20))
    link.filled()
    assert stream.queued == 0
    link.receive((window_update(0, 4096) + window_update(1, 4096)) * 4096)
    assert not link.engine.closed


def test_many_small_messages_each_with_a_ping() -> None:
    """As gRPC servers estimate the bandwidth, in both directions."""
    link = established("P")
    stream = link.engine.streams[1]
    link.receive(headers(1))
    for _ in range(10_000):
        link.receive(ping(), data(1, b"m" * 10))
        link.engine.send(stream, b"m" * 10)
        link.filled()
        link.receive(ping(), window_update(0, 10), window_update(1, 10))
    assert not link.engine.closed


def quiet(link: Link) -> None:
    link.now += 10
    link.receive(ping())


def asked(link: Link) -> None:
    link.now += 60
    link.engine.ping(b"12345678")
    link.receive(ping(ack=True))


@pytest.mark.parametrize("moment", [quiet, asked])
def test_idle_days(moment: Callable[[Link], None]) -> None:
    link = established()
    for _ in range(100_000 // 10):
        moment(link)
    assert not link.engine.closed


def test_unknown_frames_beside_answers() -> None:
    link = established("")
    for _ in range(5_000):
        number = link.open().id
        link.receive(frame(0x0A, 0, 0, b"alt-svc"), headers(number, end=True), window_update(number, 5))
    assert not link.engine.closed
