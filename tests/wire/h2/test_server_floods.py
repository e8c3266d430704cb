"""Floods end a server's connection with ENHANCE_YOUR_CALM; honest crowds do not (RFC 9113 section 10.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from tests.wire.h2.frames_kit import (
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
from tests.wire.h2.server_kit import GET, HEAD, TRAILERS, Front

from dodici.wire.h2.frames import MAX_STREAM_ID, ConnectionFault, ErrorCode
from dodici.wire.h2.guard import ABORTED, ALLOWANCE, CROSSING, PERIOD
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.settings import LocalSettings

SLACK = 10
LEFT = ALLOWANCE - 1
"""When the client's SETTINGS have come."""
WIDE = LocalSettings(1 << 20, 16 << 20, 16_384, max_concurrent_streams=16_384)
CALL = encode_fields([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m")])
MESSAGE = b"\0\0\0\0\x05hello"
BAD = headers(1, [(b"x", b"no pseudo-header")])[9:]
_ANY = 0x7BCDEFA9


def front(**how: int) -> Front:
    return Front.begun((4, 1 << 20), local=WIDE, **how)


def numbers(count: int, first: int = 1) -> range:
    return range(first, first + 2 * count, 2)


def each(which: Iterable[int], *make: Callable[[int], bytes]) -> list[bytes]:
    """The frames that `make` gives for a stream, for every one of these."""
    wire = b"".join([one(_ANY) for one in make])
    mark = _ANY.to_bytes(4, "big")
    return [wire.replace(mark, number.to_bytes(4, "big")) for number in which]


def calls(which: range, *, end: bool = True) -> bytes:
    return b"".join(each(which, lambda n: headers(n, CALL), lambda n: data(n, MESSAGE, end=end)))


def endured(one: Front, wires: Iterator[bytes], most: int) -> int:
    """How many of `wires` may come before the connection ends."""
    for count in range(most):
        try:
            one.receive(next(wires))
        except ConnectionFault as fault:
            if fault.code != ErrorCode.ENHANCE_YOUR_CALM:
                raise
            return count
        one.engine.outbox.parts.clear()
    raise AssertionError("it goes on")


def always(wire: bytes) -> Iterator[bytes]:
    while True:
        yield wire


def on_new_streams(*make: Callable[[int], bytes]) -> Iterator[bytes]:
    for start in range(3, MAX_STREAM_ID, 2000):
        yield from each(numbers(1000, start), *make)


# -------------------------------------------------------------------------------- worthless frames


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(settings(), id="settings"),
        pytest.param(settings((4, 100)), id="settings-that-say-something"),
        pytest.param(settings(ack=True), id="acknowledgements-of-settings"),
        pytest.param(ping(), id="ping"),
        pytest.param(ping(ack=True), id="pong"),
        pytest.param(priority(1), id="priority"),
        pytest.param(priority(99), id="priority-on-idle"),
        pytest.param(priority(99, b""), id="priority-of-nothing"),
        pytest.param(goaway(1), id="goaway"),
        pytest.param(frame(0x77, 0, 0), id="unknown"),
        pytest.param(window_update(0, 1), id="window-update"),
        pytest.param(window_update(1, 1), id="window-update-of-a-stream"),
        pytest.param(data(1), id="empty-data"),
        pytest.param(data(1, pad=255), id="padding"),
    ],
)
def test_floods(wire: bytes) -> None:
    one = front()
    one.receive(headers(1, GET))
    assert endured(one, always(wire), ALLOWANCE + SLACK) >= ALLOWANCE - SLACK


def test_continuations() -> None:
    """CERT VU#421644: a block that does not end, in frames of little or nothing."""
    one = front()
    one.receive(headers(1, GET, whole=False))
    assert endured(one, always(continuation(1, b"", whole=False)), ALLOWANCE + SLACK) >= ALLOWANCE - SLACK
    one = front()
    one.receive(headers(1, b"\0" * 16_384, whole=False))
    assert endured(one, always(continuation(1, b"\0" * 16_384, whole=False)), 10) == 7


def test_blocks_in_many_frames_one_after_another() -> None:
    one = front()
    make = [
        lambda n: headers(n, GET[:1], end=True, whole=False),
        lambda n: continuation(n, b"", whole=False),
        lambda n: continuation(n, GET[1:]),
        lambda n: rst_stream(n),
    ]
    assert endured(one, on_new_streams(*make), ALLOWANCE + SLACK) <= ALLOWANCE


def test_what_is_mixed_is_counted_together() -> None:
    one = front()
    one.receive(headers(1, GET))
    mixed = ping() + settings() + data(1) + window_update(1, 1)
    assert endured(one, always(mixed), ALLOWANCE) <= ALLOWANCE // 4


def test_time_gives_back() -> None:
    one = front()
    for _ in range(20):
        one.receive(ping() * (ALLOWANCE - 1))
        one.engine.outbox.parts.clear()
        one.now += PERIOD
    assert endured(one, always(ping()), 3000) <= 2 * ALLOWANCE + SLACK


def test_answers_pay_for_so_much_and_no_more() -> None:
    one = front()
    which = numbers(10_000)
    one.receive(calls(which))
    for number in which:
        one.answer(number)
    one.engine.outbox.parts.clear()
    assert endured(one, always(ping()), 3000) <= 2 * ALLOWANCE + SLACK
    one = front()
    one.receive(calls(which))
    for number in which:
        one.answer(number)
    one.engine.outbox.parts.clear()
    assert endured(one, always(window_update(0, 1)), 100_000) <= 2 * len(which) + 2 * ALLOWANCE


# ------------------------------------------------------------------------ requests that come to nothing


@pytest.mark.parametrize(
    "make",
    [
        pytest.param([lambda n: headers(n, CALL, end=True), rst_stream], id="reset"),
        pytest.param(
            [lambda n: headers(n, CALL), lambda n: data(n, MESSAGE, end=True), rst_stream], id="reset-with-a-body"
        ),
        pytest.param(
            [lambda n: headers(n, CALL), lambda n: data(n, b"x") * 9, rst_stream], id="reset-with-a-body-in-pieces"
        ),
        pytest.param([lambda n: headers(n, CALL, end=True), lambda n: window_update(n, 0)], id="update-of-0"),
        pytest.param(
            [lambda n: headers(n, CALL, end=True), lambda n: window_update(n, MAX_STREAM_ID)], id="update-overflows"
        ),
        pytest.param([lambda n: headers(n, CALL, end=True), lambda n: priority(n, b"")], id="priority-of-nothing"),
        pytest.param([lambda n: headers(n, CALL), lambda n: headers(n, CALL)], id="second-head"),
        pytest.param(
            [lambda n: headers(n, CALL), lambda n: data(n, b"x" * 9), lambda n: headers(n, b"\x88", end=True)],
            id="malformed-trailers",
        ),
        pytest.param(
            [
                lambda n: headers(n, CALL + encode_fields([(b"content-length", b"5")])),
                lambda n: data(n, b"four", end=True),
            ],
            id="mismatch",
        ),
    ],
)  # fmt: skip
def test_requests_that_come_to_nothing(make: list[Callable[[int], bytes]]) -> None:
    """CVE-2023-44487 and CVE-2025-8671: each costs a handler's start, and none counts against MAX_CONCURRENT_STREAMS."""
    one = front()
    count = endured(one, on_new_streams(*make), ABORTED + SLACK)
    assert count == ABORTED or count <= ALLOWANCE + SLACK
    requests = sum([event[0] == "open" for event in one.events])
    assert requests == len(one.errors) + len(one.engine.streams), "somebody waits for an end"


def test_requests_that_come_to_nothing_slowly() -> None:
    """Some for each second, for as long as there are any."""
    one = front()
    wires = on_new_streams(lambda n: headers(n, CALL, end=True), rst_stream)
    for _ in range(3):
        for _ in range(2500):
            one.receive(next(wires))
        one.now += 1.0
    assert not one.engine.closed
    assert endured(one, wires, ABORTED + SLACK) == ABORTED


@pytest.mark.parametrize("end", [True, False])
def test_malformed_requests(end: bool) -> None:
    wires = on_new_streams(lambda n: headers(n, BAD, end=end))
    assert endured(front(), wires, ALLOWANCE + SLACK) == LEFT


def test_requests_beyond_the_limit() -> None:
    one = Front.begun(most=1)
    one.receive(headers(1, CALL))
    wires = on_new_streams(lambda n: headers(n, CALL, end=True))
    assert endured(one, wires, ALLOWANCE + SLACK) == LEFT


def test_requests_after_we_refused() -> None:
    """All that may have been under way are, and then it is enough."""
    one = front()
    one.receive(headers(1, CALL))
    one.engine.refuse_more()
    count = endured(one, on_new_streams(lambda n: headers(n, CALL, end=True)), 20_000)
    assert count == WIDE.max_concurrent_streams - 1 + LEFT


def test_resets_of_what_has_ended() -> None:
    """One for each stream."""
    one = front()
    one.receive(headers(1, CALL, end=True))
    one.answer(1)
    assert endured(one, always(rst_stream(1)), ALLOWANCE + SLACK) == 1 + ALLOWANCE + 1
    one = front()
    one.receive(headers(MAX_STREAM_ID, CALL, end=True))
    assert endured(one, always(rst_stream(1)), 20_000) == CROSSING + LEFT


def test_bodies_of_what_was_refused() -> None:
    one = Front.begun(most=1)
    one.receive(headers(1, CALL), headers(3, CALL))
    allowed = one.engine._settings.stream_window + one.engine._block_limit
    count = endured(one, always(data(3, bytes(1000))), 2000)
    assert count <= allowed // 1000 + ALLOWANCE


def test_what_resets_are_remembered_is_bounded() -> None:
    one = front()
    for start in range(1, 36_000, 12_000):
        which = numbers(6000, start)
        one.receive(b"".join(each(which, lambda n: headers(n, CALL))))
        for number in which:
            one.engine.finish(one[number], HEAD)
        one.engine.outbox.parts.clear()
    assert len(one.engine._reset._left) == WIDE.max_concurrent_streams


# ------------------------------------------------------------------------------------ honest crowds


def test_ten_thousand_calls_in_a_second_with_pings_and_updates() -> None:
    """As gRPC's clients estimate the bandwidth: PING with what they receive, and updates of both windows."""
    one = front()
    useless = ping() + window_update(0, 16)
    for number, call in enumerate(
        each(numbers(10_000), lambda n: headers(n, CALL) + data(n, MESSAGE, end=True))
    ):
        one.receive(call, useless)
        one.answer(2 * number + 1)
        one.engine.outbox.parts.clear()
    assert not one.engine.closed


def test_five_thousand_answers_that_are_acknowledged_late() -> None:
    one = front()
    which = numbers(5000)
    one.receive(calls(which))
    for number in which:
        one.answer(number)
    one.engine.outbox.parts.clear()
    one.receive(window_update(0, 16) * 5000, *each(which, lambda n: window_update(n, 16)))
    assert not one.engine.closed


@pytest.mark.parametrize("body", [True, False])
def test_five_thousand_calls_that_are_given_up_at_once(body: bool) -> None:
    one = front()
    which = numbers(5000)
    one.receive(calls(which, end=False) if body else b"".join(each(which, lambda n: headers(n, CALL))))
    one.now += 10.0
    one.receive(*each(which, rst_stream))
    assert len(one.errors) == 5000
    assert not one.engine.streams


def test_five_thousand_calls_that_are_given_up_as_soon_as_they_were_made() -> None:
    one = front()
    which = numbers(5000)
    one.receive(calls(which))
    one.receive(*each(which, rst_stream))
    assert len(one.errors) == 5000
    assert not one.engine.closed


@pytest.mark.parametrize("lives", [0.02, 0.1])
def test_two_thousand_deadlines_each_second(lives: float) -> None:
    """Of clients, which tell us."""
    one = front()
    for start in range(1, 16_000, 4000):
        which = numbers(2000, start)
        one.receive(b"".join(each(which, lambda n: headers(n, CALL, end=True))))
        one.now += lives
        one.receive(*each(which, rst_stream))
        one.now += 1.0 - lives
    assert len(one.errors) == 8000


@pytest.mark.parametrize("end", [True, False])
def test_deadlines_that_both_sides_see(end: bool) -> None:
    """The client's RST_STREAM crosses the end that we have told."""
    one = front()
    for start in range(1, 16_000, 4000):
        which = numbers(2000, start)
        one.receive(calls(which, end=end))
        for number in which:
            one.engine.finish(one[number], HEAD)
        one.engine.outbox.parts.clear()
        one.receive(*each(which, rst_stream))
        one.now += 1.0
    assert not one.engine.closed


def test_twelve_thousand_streams_whose_deadline_comes_while_they_write() -> None:
    """What each has sent before it knew, and what it does then, is in good faith."""
    one = front()
    which = numbers(12_000)
    one.receive(calls(which, end=False))
    for number in which:
        one.engine.finish(one[number], TRAILERS)
    one.engine.outbox.parts.clear()
    one.receive(*each(which, lambda n: data(n, MESSAGE)))
    one.receive(
        *each(which[::2], lambda n: data(n, MESSAGE)), *each(which[1::2], lambda n: data(n, end=True))
    )
    one.receive(*each(which, rst_stream))
    assert not one.engine.closed


def test_hedged_calls() -> None:
    """Of which each has one that is too late, after a few milliseconds."""
    one = front()
    for number in range(1, 12_000, 4):
        one.receive(calls(range(number, number + 4, 2)))
        one.now += 0.0005
        one.answer(number)
        one.engine.outbox.parts.clear()
        one.receive(rst_stream(number + 2))
    assert not one.engine.closed


def test_a_crowd_on_its_way_when_we_refuse() -> None:
    one = front()
    which = numbers(3000)
    one.receive(calls(which))
    one.engine.refuse_more()
    one.engine.outbox.parts.clear()
    late = numbers(10_000, 6001)
    one.receive(b"".join(each(late, lambda n: headers(n, CALL))))
    assert len(one.sent()) == 10_000
    one.receive(*each(late, lambda n: data(n, MESSAGE, end=True)))
    for number in which:
        one.answer(number)
    assert not one.engine.closed


def test_a_long_download_with_pings() -> None:
    one = front()
    one.receive(headers(1, CALL, end=True))
    one.engine.head(one[1], HEAD)
    for _ in range(5000):
        one.engine.send(one[1], MESSAGE)
        one.engine.fill(1 << 20)
        one.engine.outbox.parts.clear()
        one.receive(ping(), window_update(0, 10), window_update(1, 10))
    assert not one.engine.closed


def test_a_long_upload_with_pings() -> None:
    one = front()
    one.receive(headers(1, CALL))
    for _ in range(5000):
        one.receive(data(1, MESSAGE), ping())
        one.engine.outbox.parts.clear()
    assert not one.engine.closed


def test_idle_days() -> None:
    one = front()
    for _ in range(10_000):
        one.now += 0.2
        one.receive(ping())
        one.engine.outbox.parts.clear()
    assert not one.engine.closed
