"""The engine of a link against random bytes, random cuts, and a model of its credit."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from tests.wire.mesh.mesh_kit import GET, HELLO, OK, Tape, TapeStream, frame, headed, split

from dodici.core.errors import LinkError
from dodici.core.options import DispatchOptions
from dodici.wire.body import NO_LENGTH
from dodici.wire.mesh import frames as f
from dodici.wire.mesh.engine import request_frame
from dodici.wire.mesh.heads import decode_request, decode_response, encode_request, encode_response

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
)
FIELDS = st.lists(st.tuples(TOKENS.map(lambda name: "x-" + name), VALUES), max_size=6)
KINDS = [kind for kind, limit in enumerate(f.LIMITS) if limit >= 0]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(FIELDS)
def test_heads_survive_the_way(fields: list[tuple[str, str]]) -> None:
    options = DispatchOptions(origin="http://api.local", path="/a", headers=fields)
    head = decode_request(encode_request(options, NO_LENGTH))
    expected = [(name.encode(), value.encode("latin-1").strip(b" \t")) for name, value in fields]
    assert head.fields == ((b"host", b"api.local"), *expected)
    given_by_app = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    assert decode_response(encode_response(200, given_by_app)).headers.raw == tuple(expected)


@given(st.binary(max_size=400), st.lists(st.integers(0, 40), max_size=20))
def test_garbage_is_a_link_error_or_nothing(data: bytes, sizes: list[int]) -> None:
    tape = Tape()
    tape.open()
    try:
        for piece in cut(data, sizes):
            tape.engine.feed(piece)
        tape.engine.finish()
    except LinkError:
        pass


FRAMES = st.builds(
    lambda kind, number, payload: frame(kind, number, payload[: f.LIMITS[kind]]),
    st.sampled_from(KINDS),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [b"", OK, b"101", b"103", b"\1\0\0\0", f.U32.pack(len(GET)) + GET, f.U32.pack(len(OK)) + OK]
        ),
    ),
)


@given(st.lists(FRAMES, max_size=30), st.lists(st.integers(0, 60), max_size=20))
def test_frames_in_any_order_are_a_link_error_or_nothing(many: list[bytes], sizes: list[int]) -> None:
    outcomes = []
    for pieces in ([b"".join(many)], cut(b"".join(many), sizes)):
        tape = Tape()
        for whole in (True, False):
            tape.open(whole=whole)
        error = ""
        try:
            for piece in pieces:
                tape.engine.feed(piece)
        except LinkError as raised:
            error = str(raised)
        outcomes.append((tape.events, error, tape.frames()))
    assert outcomes[0] == outcomes[1]


class TwoEnds(RuleBasedStateMachine):
    """Two engines, joined by two queues of bytes, each with its requests: credit is never overrun, and what is sent
    arrives, in order.
    """

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.tapes = (Tape(hello=False), Tape(hello=False))
        self.wires: tuple[deque[bytes], deque[bytes]] = (deque([HELLO]), deque([HELLO]))
        self.sent: dict[tuple[int, int], bytes] = {}
        self.count = 0

    @rule(target=streams, side=st.integers(0, 1))
    def open(self, side: int) -> tuple[int, int]:
        engine = self.tapes[side].engine
        stream = TapeStream(self.tapes[side], engine.last + 1, ours=True)
        prefix, rest = request_frame(GET, None)
        engine.open(stream, prefix, rest, whole=False)
        self.sent[side, stream.id] = b""
        return side, stream.id

    @rule(stream=streams, size=st.integers(1, 200_000))
    def send(self, stream: tuple[int, int], size: int) -> None:
        side, number = stream
        found = self.tapes[side].engine.ours.get(number)
        if found is not None and found.ending is None and not found.sent:
            self.count = (self.count + 1) % 251
            data = bytes([self.count]) * size
            self.sent[stream] += data
            self.tapes[side].engine.outbox.send(found, data)

    @rule(stream=streams)
    def end(self, stream: tuple[int, int]) -> None:
        side, number = stream
        found = self.tapes[side].engine.ours.get(number)
        if found is not None and found.ending is None and not found.sent:
            self.tapes[side].engine.end(found)

    @rule(stream=streams)
    def cancel(self, stream: tuple[int, int]) -> None:
        side, number = stream
        found = self.tapes[side].engine.ours.get(number)
        if found is not None:
            self.tapes[side].engine.cancel(found)
            del self.sent[stream]

    @rule(stream=streams, hold=st.booleans())
    def hold(self, stream: tuple[int, int], hold: bool) -> None:
        found = self.tapes[1 - stream[0]].engine.theirs.get(stream[1])
        if isinstance(found, TapeStream):
            found.hold = hold

    @rule(side=st.integers(0, 1), budget=st.integers(1, 300_000))
    def write(self, side: int, budget: int) -> None:
        engine = self.tapes[side].engine
        for ended in engine.outbox.fill(budget):
            engine.body_sent(ended)
        data = self.tapes[side].written()
        if data:
            self.wires[1 - side].append(data)

    @rule(side=st.integers(0, 1), sizes=st.lists(st.integers(0, 5000), max_size=3))
    def read(self, side: int, sizes: list[int]) -> None:
        if self.wires[side]:
            for piece in cut(self.wires[side].popleft(), sizes):
                self.tapes[side].engine.feed(piece)

    @invariant()
    def windows_hold(self) -> None:
        for tape in self.tapes:
            for stream in (*tape.engine.ours.values(), *tape.engine.theirs.values()):
                assert 0 <= stream.credit <= f.WINDOW
                assert 0 <= stream.inbound <= f.WINDOW

    def teardown(self) -> None:
        for tape in self.tapes:
            for stream in tape.engine.theirs.values():
                assert isinstance(stream, TapeStream)
                if stream.hold:
                    return  # what was held stays held
        for _ in range(40):
            for side in (0, 1):
                self.write(side, 1 << 20)
                while self.wires[side]:
                    self.read(side, [])
        for (side, number), data in self.sent.items():
            events = [event[2:] for event in self.tapes[1 - side].events if event[:2] == ("theirs", number)]
            arrived = b"".join(event[1] for event in events if event[0] == "data")
            stream = self.tapes[side].engine.ours[number]
            # What the peer had held for a while was never consumed: then the rest still waits for credit.
            assert data.startswith(arrived)
            assert len(data) - len(arrived) == stream.queued
            assert not stream.queued or stream.credit == 0
            assert stream.sent is (("request end",) in events)


TestTwoEnds = TwoEnds.TestCase


def test_split_is_the_reverse_of_frames() -> None:
    data = headed(f.HEAD, 1, OK) + frame(f.END, 1)
    assert [kind for kind, _, _ in split(data)] == [f.HEAD, f.END]
