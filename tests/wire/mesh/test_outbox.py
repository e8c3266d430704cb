"""The outbox: credit, turns, and what passes before what."""

from __future__ import annotations

from tests.wire.mesh.mesh_kit import split

from dodici.wire.mesh import frames as f
from dodici.wire.mesh.outbox import Outbox
from dodici.wire.mesh.streams import Stream


def written(outbox: Outbox) -> list[tuple[int, int, int]]:
    return [(kind, number, len(payload)) for kind, number, payload in split(b"".join(outbox.take()))]


def test_a_small_piece_goes_out_at_once_and_an_empty_one_not_at_all() -> None:
    outbox, stream = Outbox(), Stream(7, ours=True)
    outbox.send(stream, b"")
    outbox.send(stream, memoryview(b"abc"))
    assert outbox.size == 12
    assert split(b"".join(outbox.take())) == [(f.REQ_DATA, 7, b"abc")]
    assert outbox.size == 0
    assert stream.credit == f.WINDOW - 3


def test_a_large_piece_waits_in_line_and_is_cut() -> None:
    outbox, stream = Outbox(), Stream(1, ours=False)
    outbox.send(stream, bytes(100_000))
    assert written(outbox) == []
    outbox.end(stream, b"a\n1")
    assert outbox.fill(1 << 20) == [stream]
    assert written(outbox) == [(f.DATA, 1, 65536), (f.DATA, 1, 34464), (f.END, 1, 3)]
    assert stream.sent
    assert not outbox.line


def test_small_pieces_keep_their_place_behind_large_ones() -> None:
    outbox, stream = Outbox(), Stream(1, ours=True)
    outbox.send(stream, bytes(5000))
    outbox.send(stream, b"abc")
    outbox.fill(1 << 20)
    assert written(outbox) == [(f.REQ_DATA, 1, 5000), (f.REQ_DATA, 1, 3)]


def test_streams_take_turns_of_a_frame() -> None:
    outbox = Outbox()
    for number in (1, 2):
        outbox.send(Stream(number, ours=True), bytes(150_000))
    outbox.fill(1 << 20)
    assert [number for _, number, _ in written(outbox)] == [1, 2, 1, 2, 1, 2]


def test_a_budget_leaves_the_rest_in_line() -> None:
    outbox, stream = Outbox(), Stream(1, ours=True)
    outbox.send(stream, bytes(200_000))
    assert outbox.fill(100_000) == []
    assert [size for _, _, size in written(outbox)] == [65536, 65536]
    assert stream.queued == 200_000 - 2 * 65536
    assert list(outbox.line) == [stream]


def test_without_credit_nothing_moves_and_with_a_little_a_little() -> None:
    outbox, stream = Outbox(), Stream(1, ours=True)
    stream.credit = 10
    outbox.send(stream, b"x" * 30)
    outbox.end(stream)
    outbox.fill(1 << 20)
    assert written(outbox) == [(f.REQ_DATA, 1, 10)]
    outbox.schedule(stream)
    assert not outbox.line
    stream.credit = 100
    outbox.schedule(stream)
    outbox.schedule(stream)
    assert len(outbox.line) == 1
    assert outbox.fill(1 << 20) == [stream]
    assert written(outbox) == [(f.REQ_DATA, 1, 20), (f.REQ_END, 1, 0)]
    assert stream.credit == 80


def test_what_is_gone_is_not_sent() -> None:
    outbox, stream = Outbox(), Stream(1, ours=True)
    outbox.send(stream, bytes(10_000))
    stream.gone = True
    assert outbox.fill(1 << 20) == []
    assert written(outbox) == []


def test_control_passes_before_bodies() -> None:
    outbox, stream = Outbox(), Stream(1, ours=True)
    outbox.send(stream, bytes(10_000))
    outbox.write(f.REQ_RESET, 9)
    outbox.fill(1 << 20)
    assert [kind for kind, _, _ in written(outbox)] == [f.REQ_RESET, f.REQ_DATA]
