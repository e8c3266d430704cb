"""A server's engine against our client's and against h2 as the client, with everything interleaved; and against bytes
that no client sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from tests.property.h2_server_world import Ours, Theirs, World
from tests.wire.h2 import frames_kit as kit, server_kit
from tests.wire.h2.server_kit import Front

from dodici.wire.h2.frames import GOAWAY, PREFACE, ConnectionFault
from dodici.wire.h2.settings import LocalSettings

pytestmark = pytest.mark.usefixtures("empty_frames_need_no_window")

STEPS: list[str] = [
    "request", "send", "end", "cancel", "read", "client_fill", "ask", "configure", "upstream", "downstream",
    "respond", "reply", "finish", "answer", "refuse", "hold", "consume", "fill", "check", "retire",
]  # fmt: skip
OFTEN = ["request", "send", "client_fill", "fill", "upstream", "downstream", "respond", "reply", "answer"]
WEIGHED = STEPS + 3 * OFTEN
programs = st.binary(min_size=300, max_size=600)
"""Three octets are a step: which one, its number, and the root of its size."""


def run(world: World, program: bytes) -> Iterator[None]:
    """Take the steps, and stop between them."""
    for at in range(0, len(program) - 2, 3):
        step, number, root = program[at : at + 3]
        getattr(world, WEIGHED[step % len(WEIGHED)])(number, root * root)
        yield
    world.settle()
    world.compare()


worlds = st.sampled_from([Ours, Theirs])


@given(worlds, programs)
def test_both_sides_agree(make: type[World], program: bytes) -> None:
    for _ in run(make(), program):
        pass


@given(worlds, programs, st.integers(1, 3000))
def test_both_sides_agree_of_a_busy_connection(make: type[World], program: bytes, portion: int) -> None:
    """The wires carry pieces of one size between all steps, and bodies leave in small portions."""
    world = make()
    for _ in run(world, program):
        world.fill(0, portion)
        world.client_fill(0, portion)
        world.upstream(0, portion)
        world.downstream(0, portion)


def test_the_model_notices() -> None:
    """The comparison can fail."""
    for make in (Ours, Theirs):
        for spoil in ("given", "body"):
            world = make()
            world.request(0, 1)
            world.upstream(0, 1 << 20)
            world.downstream(0, 1 << 20)
            world.send(0, 100)
            world.upstream(0, 1 << 20)
            world.answer(1, 100)
            world.settle()
            world.compare()
            getattr(world.requests[1], spoil).append(0)
            with pytest.raises(AssertionError):
                if spoil == "given":
                    world.served[1].complete = True
                world.compare()


# -------------------------------------------------------------------------------------- no client's bytes

_streams = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 7, 2, 2**31 - 1])
_numbers = st.sampled_from([0, 1, 100, 16_384, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
_blocks = st.sampled_from(
    [
        b"",
        server_kit.GET,
        server_kit.GET + b"\x40\x01a\x01b",
        server_kit.GET + b"\xbe",
        b"\x40\x01a\x01b",
        server_kit.GET + b"\x0f\x0d\x015",
        b"\x3f\xe1\x1f" + server_kit.GET,
        b"\x20",
        b"\x88",
        b"\xff",
        b"\x20" + server_kit.GET + b"\x00\x01A\x01b",
        kit.block_of([*server_kit.POST, (b"x", b"y" * 100)]),
        kit.block_of([*server_kit.POST, (b"x", b"y" * 30_000)]),
    ]
) | st.binary(max_size=12)
_pads = st.none() | st.integers(0, 20)
_frames = st.one_of(
    st.builds(kit.data, _streams, st.binary(max_size=30), end=st.booleans(), pad=_pads),
    st.builds(kit.headers, _streams, _blocks, end=st.booleans(), whole=st.booleans() | st.just(True), pad=_pads),
    st.builds(kit.headers, st.sampled_from([1, 3, 5, 7, 9]), st.just(server_kit.GET), end=st.booleans()),
    st.builds(kit.continuation, _streams, _blocks, whole=st.booleans()),
    st.builds(kit.rst_stream, _streams, st.integers(0, 20)),
    st.lists(st.tuples(st.integers(0, 9), _numbers), max_size=3).map(lambda pairs: kit.settings(*pairs)),
    st.builds(kit.ping, ack=st.booleans()),
    st.builds(kit.goaway, _streams, st.integers(0, 20), st.binary(max_size=5)),
    st.builds(kit.window_update, _streams, _numbers),
    st.builds(kit.priority, _streams, st.binary(min_size=4, max_size=6)),
    st.builds(kit.push_promise, _streams, _streams),
    st.builds(kit.frame, st.integers(0, 255), st.integers(0, 255), _streams, st.binary(max_size=12)),
)  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Frames, some of them damaged, cut anywhere."""
    wire = bytearray(b"" if draw(st.integers(0, 9)) == 0 else server_kit.OPENING)
    wire += b"".join(draw(st.lists(_frames, max_size=15)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    return [bytes(wire[start:end]) for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def endure(pieces: list[bytes]) -> None:
    """Each request is answered at its end with more than the windows let through."""
    front = Front(LocalSettings(1000, 65_535, 16_384, max_concurrent_streams=3))

    def act(event: tuple[Any, ...]) -> None:
        if event[0] == "end" and event[1] in front.engine.streams:
            front.answer(event[1], bytes(70_000 if event[1] == 1 else 10))

    front.on_event = act
    for piece in pieces:
        try:
            front.receive(piece)
        except ConnectionFault:
            sent = front.sent()
            assert sent[-1].kind == GOAWAY
            assert sum(one.kind == GOAWAY for one in sent) == 1
            assert front.engine.closed
            break
        assert not front.engine.closed
        front.filled()
    told_before = list(front.events)
    if front.engine.closed:
        front.receive(PREFACE, kit.settings(), kit.headers(9, server_kit.GET))
        assert front.events == told_before
    for number in {event[1] for event in told_before if event[0] == "open"}:
        ends = [event[0] for event in told_before if event[0] in ("end", "failed") and event[1] == number]
        assert ends in ([], ["end"], ["failed"], ["end", "failed"])
    assert len(front.engine.streams) <= 3
    for stream in front.engine.streams.values():
        assert not stream.gone


@given(conversations())
def test_nothing_but_a_fault_comes_of_any_frames(pieces: list[bytes]) -> None:
    endure(pieces)


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_nothing_but_a_fault_comes_of_any_bytes(pieces: list[bytes], begun: bool) -> None:
    endure([server_kit.OPENING, *pieces] if begun else pieces)


@given(conversations())
def test_cuts_change_nothing(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    outcomes = []
    for way in (pieces, [whole], [whole[at : at + 1] for at in range(len(whole))]):
        front = Front()
        code = None
        try:
            for piece in way:
                front.receive(piece)
        except ConnectionFault as fault:
            code = fault.code
        outcomes.append((front.events, front.sent(), code))
    assert outcomes[0] == outcomes[1] == outcomes[2]
