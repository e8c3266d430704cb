"""Bodies on their way out: turns, windows, frame sizes, the end, and what becomes of streams that go."""

from __future__ import annotations

import pytest
from tests.wire.h2.frames_kit import Frame, Link, Recorded, frames, headers, reset, settings, window_update

from dodici.wire.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    ErrorCode,
    headers_frames,
)
from dodici.wire.h2.outbox import Outbox
from dodici.wire.h2.windows import ReceiveWindow, SendWindow

WIDE = (4, 1 << 30), (5, 16_384)


def linked(count: int = 1, *pairs: tuple[int, int]) -> Link:
    link = Link()
    link.receive(settings(*pairs))
    for _ in range(count):
        link.open("P")
    link.sent()
    return link


def sizes(sent: list[Frame]) -> list[tuple[int, int]]:
    assert {one.kind for one in sent} <= {DATA}
    return [(one.stream, len(one.payload)) for one in sent]


# ------------------------------------------------------------------------------------------- turns


def test_streams_take_turns() -> None:
    link = linked(3, *WIDE)
    for stream in link.engine.streams.values():
        link.engine.send(stream, bytes(20_000))
    link.receive(window_update(0, 1 << 20))
    assert sizes(link.filled()) == [(1, 16_384), (3, 16_384), (5, 16_384), (1, 3616), (3, 3616), (5, 3616)]


def test_who_comes_later_waits_for_one_turn() -> None:
    link = linked(2, *WIDE)
    first, second = link.engine.streams.values()
    link.engine.send(first, bytes(1 << 20))
    assert sizes(link.filled(1)) == [(1, 16_384)]
    link.engine.send(second, b"x")
    assert sizes(link.filled(20_000)) == [(1, 16_384), (3, 1), (1, 16_384)]


def test_large_frames_do_not_hold_up_the_others() -> None:
    link = linked(2, (4, 1 << 30), (5, 1 << 20))
    link.receive(window_update(0, 1 << 20))
    for stream in link.engine.streams.values():
        link.engine.send(stream, bytes(100_000))
    assert sizes(link.filled()) == [(1, 65_536), (3, 65_536), (1, 34_464), (3, 34_464)]


def test_a_budget_is_kept_to_a_frame() -> None:
    link = linked(1, *WIDE)
    stream = link.engine.streams[1]
    link.engine.send(stream, bytes(60_000))
    assert sizes(link.filled(16_384)) == [(1, 16_384)]
    assert sizes(link.filled(16_385)) == [(1, 16_384)] * 2
    assert link.engine.outbox.ready
    assert sizes(link.filled(0)) == []


def test_pieces_keep_their_frames_and_their_order() -> None:
    link = linked()
    stream = link.engine.streams[1]
    for piece in (b"one", memoryview(b"two"), b"", bytearray(b"three")):
        link.engine.send(stream, piece)  # type: ignore[arg-type]
    assert stream.queued == 11
    assert [one.payload for one in link.filled()] == [b"one", b"two", b"three"]
    assert (stream.queued, stream.written) == (0, 11)  # type: ignore[attr-defined]
    assert not link.engine.outbox.ready


# ----------------------------------------------------------------------------------------- windows


def test_the_streams_window() -> None:
    link = linked(2, (4, 10))
    first, second = link.engine.streams.values()
    link.engine.send(first, bytes(25))
    link.engine.send(second, bytes(5))
    assert sizes(link.filled()) == [(1, 10), (3, 5)]
    assert not link.engine.outbox.ready
    link.receive(window_update(1, 3))
    assert link.engine.outbox.ready
    assert sizes(link.filled()) == [(1, 3)]
    link.receive(window_update(1, 100))
    assert sizes(link.filled()) == [(1, 12)]


def test_the_connections_window() -> None:
    link = linked(2, *WIDE)
    for stream in link.engine.streams.values():
        link.engine.send(stream, bytes(60_000))
    sent = sizes(link.filled())
    assert sum(size for _, size in sent) == 65_535
    assert sent == [(1, 16_384), (3, 16_384), (1, 16_384), (3, 16_383)]
    assert not link.engine.outbox.ready
    link.receive(window_update(0, 7))
    assert link.engine.outbox.ready
    assert sizes(link.filled()) == [(1, 7)]
    link.receive(window_update(0, 1 << 20))
    assert sum(size for _, size in sizes(link.filled())) == 120_000 - 65_535 - 7


def test_a_window_that_closed_while_in_line() -> None:
    link = linked(2, (4, 100))
    first, second = link.engine.streams.values()
    link.engine.send(first, bytes(100))
    link.engine.send(second, bytes(300))
    link.filled(1)
    assert second.scheduled
    link.receive(settings((4, 0)))
    link.sent()
    assert sizes(link.filled()) == []
    assert not link.engine.outbox.ready
    link.receive(settings((4, 150)))
    link.sent()
    assert sizes(link.filled()) == [(3, 150)]


def test_an_update_schedules_once() -> None:
    link = linked(2, *WIDE)
    first, second = link.engine.streams.values()
    link.engine.send(first, bytes(40_000))
    link.engine.send(second, bytes(20_000))
    link.receive(window_update(1, 5), window_update(1, 5), settings((4, 1 << 29)))
    link.sent()
    assert sizes(link.filled()) == [(1, 16_384), (3, 16_384), (1, 16_384), (3, 3616), (1, 7232)]


def test_frames_become_larger() -> None:
    link = linked(1, (4, 1 << 20))
    stream = link.engine.streams[1]
    link.engine.send(stream, bytes(50_000))
    assert sizes(link.filled(1)) == [(1, 16_384)]
    link.receive(settings((5, 20_000)))
    link.sent()
    assert sizes(link.filled()) == [(1, 20_000), (1, 13_616)]


# --------------------------------------------------------------------------------------------- ends


def test_the_last_frame_ends_the_stream() -> None:
    link = linked()
    stream = link.engine.streams[1]
    link.engine.send(stream, bytes(20_000))
    link.engine.end(stream)
    assert not stream.sent
    assert [one.flags for one in link.filled()] == [0, END_STREAM]
    assert stream.sent
    assert not stream.gone
    link.receive(headers(1, end=True))
    assert stream.gone


def test_an_end_alone() -> None:
    link = linked()
    stream = link.engine.streams[1]
    link.engine.send(stream, b"x")
    assert [one.flags for one in link.filled()] == [0]
    link.engine.end(stream)
    link.engine.end(stream)
    assert link.sent() == [Frame(DATA, END_STREAM, 1, b"")]


def test_an_end_needs_no_window() -> None:
    """6.9."""
    link = linked(1, (4, 0))
    link.engine.end(link.engine.streams[1])
    assert link.sent() == [Frame(DATA, END_STREAM, 1, b"")]


@pytest.mark.parametrize("body", [b"", b"rest"])
def test_an_end_after_the_answer_closes_the_stream(body: bytes) -> None:
    link = linked()
    stream = link.engine.streams[1]
    link.receive(headers(1, end=True))
    assert not stream.gone
    link.engine.send(stream, body)
    link.engine.end(stream)
    assert [(one.flags, one.payload) for one in link.filled()] == [(END_STREAM, body)]
    assert stream.gone
    assert link.engine.streams == {}


def test_a_stream_that_is_reset_in_line() -> None:
    link = linked(2, *WIDE)
    first, second = link.engine.streams.values()
    link.engine.send(first, bytes(100_000))
    link.engine.send(second, b"x")
    link.engine.reset(first)
    assert (first.queued, list(first.queue or ())) == (0, [])
    assert link.filled() == [reset(1, ErrorCode.CANCEL), Frame(DATA, 0, 3, b"x")]


def test_a_stream_may_go_on_from_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_written` may queue more, and may reset."""
    link = linked(2, *WIDE)
    first, second = link.engine.streams.values()

    def on_written(stream: Recorded, count: int) -> None:
        if stream is first and count == 3:
            link.engine.send(first, b"more")
        elif stream is first:
            link.engine.reset(first)

    monkeypatch.setattr(Recorded, "on_written", on_written)
    link.engine.send(first, b"one")
    link.engine.send(second, b"two!")
    assert link.filled() == [
        Frame(DATA, 0, 1, b"one"),
        Frame(DATA, 0, 3, b"two!"),
        Frame(DATA, 0, 1, b"more"),
        reset(1, ErrorCode.CANCEL),
    ]


def test_take_empties() -> None:
    outbox = Outbox(10)
    outbox.parts += b"a", memoryview(b"b")
    assert (outbox.take(), outbox.take()) == (b"ab", b"")


# ------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385])
def test_head_frames(size: int, end: bool) -> None:
    sent = frames(headers_frames(7, bytes(size), end, 16_384))
    assert b"".join(one.payload for one in sent) == bytes(size)
    assert [one.stream for one in sent] == [7] * (1 + size // 16_385)
    assert [one.flags & END_STREAM for one in sent] == [end] + [0] * (len(sent) - 1)
    assert [one.flags & END_HEADERS for one in sent] == [0] * (len(sent) - 1) + [END_HEADERS]


@pytest.mark.parametrize("size", [0, 1, 16_384])
def test_a_head_in_one_frame(size: int) -> None:
    link = linked(0)
    link.open("G", bytes(size))
    link.open("P", bytes(size))
    assert link.sent() == [
        Frame(HEADERS, END_HEADERS | END_STREAM, 1, bytes(size)),
        Frame(HEADERS, END_HEADERS, 3, bytes(size)),
    ]


@pytest.mark.parametrize(
    ("size", "limit", "pieces"),
    [
        (16_385, 16_384, [16_384, 1]),
        (32_768, 16_384, [16_384, 16_384]),
        (40_000, 16_384, [16_384, 16_384, 7232]),
        (40_000, 39_999, [39_999, 1]),
    ],
)
def test_a_head_in_several(size: int, limit: int, pieces: list[int]) -> None:
    link = linked(0, (5, limit))
    block = bytes(number % 251 for number in range(size))
    link.open("G", block)
    sent = link.sent()
    assert [one.kind for one in sent] == [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
    assert [one.flags for one in sent] == [END_STREAM] + [0] * (len(pieces) - 2) + [END_HEADERS]
    assert [len(one.payload) for one in sent] == pieces
    assert b"".join(one.payload for one in sent) == block


# ------------------------------------------------------------------------------------ windows alone


def test_send_windows() -> None:
    window = SendWindow(10)
    assert window.grow(-20)
    assert window.size == -10
    assert window.grow(2**31 - 1 + 10)
    assert window.size == 2**31 - 1
    assert not window.grow(1)


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11])
def test_receive_windows_never_run_dry(limit: int) -> None:
    """Whoever has consumed all has granted at least half of the window, so that the peer is never stuck."""
    for apart in (True, False):
        window = ReceiveWindow(limit)
        granted = limit
        for _ in range(50):
            assert granted > 0
            granted -= 1
            if apart:
                assert window.take(1)
                granted += window.credit(1)
            else:
                granted += window.take_consumed(1)
            assert granted == window.size
            assert window.size <= limit


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("used", [0, 3, 5])
def test_receive_windows_end(used: int, apart: bool) -> None:
    window = ReceiveWindow(10)
    assert window.take(used)
    assert window.take(10 - used) if apart else window.take_consumed(10 - used) >= 0
    window = ReceiveWindow(10)
    window.take(used)
    assert not window.take(11 - used) if apart else window.take_consumed(11 - used) == -1
