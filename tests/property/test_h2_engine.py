"""The engine against h2 as the server, with everything interleaved; and against bytes that no server sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h2.events as told
import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.settings import SettingCodes
from hypothesis import given, strategies as st
from tests.wire.h2 import frames_kit as kit

from dodici.core.headers import Headers
from dodici.wire.h2.engine import Engine
from dodici.wire.h2.frames import GOAWAY, ConnectionFault, ErrorCode
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.sections import Section
from dodici.wire.h2.settings import LocalSettings
from dodici.wire.h2.streams import Stream

pytestmark = pytest.mark.usefixtures("empty_frames_need_no_window")

HEADS: list[kit.Fields] = [
    [(b":status", b"200")],
    [(b":status", b"200"), (b"x-same", b"always")],
    [(b":status", b"404"), (b"set-cookie", b"a=b"), (b"x-large", b"v" * 500)],
    [(b":status", b"200"), (b"x-same", b"always"), (b"x-other", b"1")],
]
TRAILERS: list[kit.Fields] = [[(b"x-sum", b"1")], [(b"grpc-status", b"0"), (b"x-same", b"always")]]
REQUEST = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
MOST = 12
"""Requests on a connection."""
LOCAL = LocalSettings(stream_window=3000, connection_window=65_535, max_header_list_size=16_384)


# --------------------------------------------------------------------------------------------- model


class Client(Stream):
    """Our side of a stream: what was sent, and what has come."""

    __slots__ = (
        "body",
        "failure",
        "given",
        "head",
        "held",
        "informational_seen",
        "ours",
        "trailers",
        "world",
    )

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.given = bytearray()
        self.head: Any = None
        self.informational_seen = 0
        self.body = bytearray()
        self.held = 0
        self.trailers: Any = None
        self.failure: BaseException | None = None
        self.ours = False
        """We have reset it."""

    @property
    def over(self) -> bool:
        return self.trailers is not None or self.failure is not None or self.ours

    def on_informational(self, section: Section) -> None:
        assert self.head is None
        assert section.status_code == 103
        self.informational_seen += 1

    def on_head(self, section: Section) -> None:
        assert self.head is None
        assert not self.over
        self.head = (section.status_code, section.headers.raw)

    def on_data(self, data: bytes) -> bool:
        assert self.head is not None
        assert not self.over
        self.body += data
        if self.world.holding:
            self.held += len(data)
            return False
        return True

    def on_end(self, trailers: Headers) -> None:
        assert not self.over
        self.trailers = trailers.raw

    def on_failed(self, error: BaseException) -> None:
        assert self.failure is None
        assert not self.ours
        self.failure = error


class Answer:
    """The server's side of a stream."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.owed = 0
        self.complete = False
        self.head: kit.Fields | None = None
        self.informational = 0
        self.body = bytearray()
        self.trailers: kit.Fields = []
        self.ended = False
        self.reset = False
        """By whichever side, as far as the server knows."""

    @property
    def silent(self) -> bool:
        return self.ended or self.reset


class World:
    """Both sides and the wires between them. Each method is a step, whose numbers mean what it makes of them."""

    def __init__(self) -> None:
        self.holding = False
        self.pongs = 0
        self.engine = Engine(self, LOCAL, {}, 16_384, lambda: 0.0)
        self.engine.start()
        self.server = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
        )
        self.server.initiate_connection()
        self.unacknowledged = 1
        self.clients: list[Client] = []
        self.answers: dict[int, Answer] = {}
        self.to_server = b""
        self.to_client = b""

    def on_settings(self) -> None:
        pass

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        raise AssertionError(f"h2 gave up: {code} {debug!r}")

    def on_pong(self, payload: bytes) -> None:
        self.pongs += 1

    def _client(self, number: int) -> Client | None:
        return self.clients[number % len(self.clients)] if self.clients else None

    def _answer(self, number: int) -> tuple[int, Answer] | None:
        open_ones = [(key, answer) for key, answer in self.answers.items() if not answer.silent]
        return open_ones[number % len(open_ones)] if open_ones else None

    # our side

    def request(self, number: int, size: int) -> None:
        if len(self.clients) < MOST:
            client = Client(self)
            self.clients.append(client)
            block = encode_fields([*REQUEST, (b"authorization", b"s" * (number % 7))])
            self.engine.open(client, block, end=size % 4 == 0)

    def send(self, number: int, size: int) -> None:
        client = self._client(number)
        if client is not None and not (client.gone or client.sent or client.ending):
            piece = bytes((number * 7 + index) % 251 for index in range(size % 9000))
            client.given += piece
            self.engine.send(client, piece)

    def end(self, number: int, size: int) -> None:
        client = self._client(number)
        if client is not None:
            self.engine.end(client)

    def fill(self, number: int, size: int) -> None:
        self.engine.fill(size)

    def cancel(self, number: int, size: int) -> None:
        client = self._client(number)
        if client is not None and not client.gone:
            client.ours = client.trailers is None
            self.engine.reset(client)

    def hold(self, number: int, size: int) -> None:
        self.holding = number % 2 == 0

    def consume(self, number: int, size: int) -> None:
        client = self._client(number)
        if client is not None:
            count = min(size, client.held)
            client.held -= count
            self.engine.consumed(client, count)

    def ask(self, number: int, size: int) -> None:
        self.engine.ping(b"%08d" % number)

    # the wires

    def upstream(self, number: int, size: int) -> None:
        self.to_server += self.engine.outbox.take()
        data, self.to_server = self.to_server[:size], self.to_server[size:]
        for event in self.server.receive_data(data):
            if isinstance(event, told.RequestReceived):
                self.answers[event.stream_id] = Answer()
            elif isinstance(event, told.DataReceived):
                answer = self.answers[event.stream_id]
                answer.received += event.data
                answer.owed += event.flow_controlled_length
            elif isinstance(event, told.StreamEnded):
                self.answers[event.stream_id].complete = True
            elif isinstance(event, told.SettingsAcknowledged):
                self.unacknowledged -= 1
            elif isinstance(event, told.StreamReset):
                self.answers[event.stream_id].reset = True

    def downstream(self, number: int, size: int) -> None:
        self.to_client += self.server.data_to_send()
        data, self.to_client = self.to_client[:size], self.to_client[size:]
        self.engine.receive(data)

    # the server's side

    def hint(self, number: int, size: int) -> None:
        found = self._answer(number)
        if found is not None and found[1].head is None:
            self.server.send_headers(found[0], [(b":status", b"103"), (b"link", b"x" * (size % 20))])
            found[1].informational += 1

    def respond(self, number: int, size: int) -> None:
        found = self._answer(number)
        if found is not None and found[1].head is None:
            found[1].head = HEADS[size % len(HEADS)]
            found[1].ended = size % 5 == 0
            self.server.send_headers(found[0], found[1].head, end_stream=found[1].ended)

    def reply(self, number: int, size: int) -> None:
        found = self._answer(number)
        if found is not None and found[1].head is not None:
            pad = number % 256 if number % 3 == 0 else None
            room = self.server.local_flow_control_window(found[0]) - (0 if pad is None else pad + 1)
            if room >= 0:
                piece = bytes((size + index) % 249 for index in range(min(room, size, 16_000)))
                found[1].body += piece
                found[1].ended = size % 11 == 0
                self.server.send_data(found[0], piece, end_stream=found[1].ended, pad_length=pad)

    def finish(self, number: int, size: int) -> None:
        found = self._answer(number)
        if found is not None and found[1].head is not None:
            found[1].ended = True
            if size % 2:
                found[1].trailers = TRAILERS[number % len(TRAILERS)]
                self.server.send_headers(found[0], found[1].trailers, end_stream=True)
            else:
                self.server.end_stream(found[0])

    def refuse(self, number: int, size: int) -> None:
        found = self._answer(number)
        if found is not None:
            found[1].reset = True
            self.server.reset_stream(
                found[0], ErrorCode.REFUSED_STREAM if size % 2 else ErrorCode.INTERNAL_ERROR
            )

    def read(self, number: int, size: int) -> None:
        for key, answer in self.answers.items():
            if answer.owed and (key + number) % 2:
                self.server.acknowledge_received_data(answer.owed, key)
                answer.owed = 0

    def check(self, number: int, size: int) -> None:
        self.server.ping(b"%08d" % number)

    def configure(self, number: int, size: int) -> None:
        code, values = [
            (SettingCodes.INITIAL_WINDOW_SIZE, [0, 10, 5000, 65_535, 200_000]),
            (SettingCodes.MAX_FRAME_SIZE, [16_384, 20_000, 100_000]),
            (SettingCodes.HEADER_TABLE_SIZE, [0, 100, 4096, 10_000]),
        ][number % 3]
        self.update(code, values[size % len(values)])

    def update(self, code: SettingCodes, value: int) -> None:
        if not self.unacknowledged:  # h2 takes each acknowledgement for one of all that it has announced
            self.unacknowledged += 1
            self.server.update_settings({code: value})

    # the end

    def settle(self) -> None:
        """Let all that was begun come to its end."""
        self.holding = False
        self.downstream(0, 1 << 30)
        self.upstream(0, 1 << 30)
        self.update(SettingCodes.INITIAL_WINDOW_SIZE, 65_535)
        for client in self.clients:
            self.engine.end(client)
            self.engine.consumed(client, client.held)
            client.held = 0
        for _ in range(100):
            self.engine.fill(1 << 20)
            self.upstream(0, 1 << 30)
            self.read(0, 0)
            self.read(1, 0)
            while (found := self._answer(0)) is not None:
                self.respond(0, 1)
                self.finish(0, 0)
                assert found[1].ended
            self.downstream(0, 1 << 30)
            if not (self.engine.streams or self.engine.outbox.parts or self.server._data_to_send):
                return
        raise AssertionError(f"streams that do not end: {self.engine.streams}")

    def compare(self) -> None:
        """Both sides tell the same."""
        assert not self.engine.closed
        assert self.unacknowledged == 0
        assert self.server.state_machine.state != ConnectionState.CLOSED
        assert self.engine.outbox.window.size == self.server.inbound_flow_control_window
        assert self.engine._window.size == self.server.outbound_flow_control_window
        for client in self.clients:
            answer = self.answers[client.id]
            assert client.gone
            assert client.given.startswith(answer.received)
            if answer.complete:
                assert answer.received == client.given
            if client.ours:
                continue
            if client.trailers is None:
                assert client.failure is not None
                assert answer.reset
                assert answer.body.startswith(client.body)
                continue
            assert answer.ended
            assert answer.head is not None
            fields = list(answer.head)
            assert client.head == (int(fields[0][1]), tuple(fields[1:]))
            assert client.informational_seen == answer.informational
            assert client.body == answer.body
            assert client.trailers == tuple(answer.trailers)


STEPS: list[Callable[[World, int, int], None]] = [
    World.request,
    World.send,
    World.end,
    World.fill,
    World.cancel,
    World.hold,
    World.consume,
    World.ask,
    World.upstream,
    World.downstream,
    World.hint,
    World.respond,
    World.reply,
    World.finish,
    World.refuse,
    World.read,
    World.check,
    World.configure,
]
OFTEN = [World.request, World.send, World.fill, World.upstream, World.downstream, World.respond, World.reply]
WEIGHED = STEPS + 4 * OFTEN
programs = st.binary(min_size=450, max_size=900)
"""Three octets are a step: which one, its number, and the root of its size."""


def run(program: bytes) -> Iterator[World]:
    """Take the steps, and stop between them."""
    world = World()
    for at in range(0, len(program) - 2, 3):
        step, number, root = program[at : at + 3]
        WEIGHED[step % len(WEIGHED)](world, number, root * root)
        yield world
    world.settle()
    world.compare()


@given(programs)
def test_h2_agrees(program: bytes) -> None:
    for _ in run(program):
        pass


@given(programs, st.integers(1, 3000))
def test_h2_agrees_of_a_busy_connection(program: bytes, portion: int) -> None:
    """The wires carry pieces of one size between all steps, and bodies leave in small portions."""
    for world in run(program):
        world.fill(0, portion)
        world.upstream(0, portion)
        world.downstream(0, portion)


# -------------------------------------------------------------------------------------- no server's bytes

_streams = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 7, 2, 2**31 - 1])
_numbers = st.sampled_from([0, 1, 100, 16_384, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
_blocks = st.sampled_from(
    [
        b"",
        b"\x88",
        b"\x88\x40\x01a\x01b",
        b"\x88\xbe",
        b"\x40\x01a\x01b",
        b"\x88\x0f\x0d\x015",
        b"\x48\x03103",
        b"\x3f\xe1\x1f\x88",
        b"\x20",
        b"\xff",
        b"\x88\x00\x01A\x01b",
        kit.block_of([(b":status", b"204"), (b"x", b"y" * 100)]),
    ]
) | st.binary(max_size=12)
_pads = st.none() | st.integers(0, 20)
valid_frames = st.one_of(
    st.builds(kit.data, _streams, st.binary(max_size=30), end=st.booleans(), pad=_pads),
    st.builds(kit.headers, _streams, _blocks, end=st.booleans(), whole=st.booleans() | st.just(True), pad=_pads),
    st.builds(kit.headers, st.sampled_from([1, 3, 5]), _blocks, end=st.booleans()),
    st.builds(kit.continuation, _streams, _blocks, whole=st.booleans()),
    st.builds(kit.rst_stream, _streams, st.integers(0, 20)),
    st.lists(st.tuples(st.integers(0, 9), _numbers), max_size=3).map(lambda pairs: kit.settings(*((n, v % 2**32) for n, v in pairs))),
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
    wire = bytearray(b"" if draw(st.integers(0, 9)) == 0 else kit.settings())
    wire += b"".join(draw(st.lists(valid_frames, max_size=15)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    return [bytes(wire[start:end]) for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def endure(pieces: list[bytes]) -> kit.Link:
    link = kit.Link()
    uploading = [link.open(kind) for kind in "GPHC"][1]
    link.engine.send(uploading, bytes(100_000))
    for piece in pieces:
        try:
            link.receive(piece)
        except ConnectionFault:
            sent = link.sent()
            assert sent[-1].kind == GOAWAY
            assert link.engine.closed
            assert sum(one.kind == GOAWAY for one in sent) == 1
            break
        assert not link.engine.closed
        link.engine.fill(1 << 20)
        link.sent()
    told = list(link.events)
    if link.engine.closed:
        link.receive(kit.headers(1))
        assert link.events == told
    for number in (1, 3, 5, 7):
        ends = [event[0] for event in told if event[0] in ("end", "failed") and event[1] == number]
        assert ends in ([], ["end"], ["failed"], ["end", "failed"])
    for stream in link.engine.streams.values():
        assert not stream.gone
    return link


@given(conversations())
def test_nothing_but_a_fault_comes_of_any_frames(pieces: list[bytes]) -> None:
    endure(pieces)


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_nothing_but_a_fault_comes_of_any_bytes(pieces: list[bytes], begun: bool) -> None:
    endure([kit.settings(), *pieces] if begun else pieces)


@given(conversations())
def test_cuts_change_nothing(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    outcomes = []
    for way in (pieces, [whole], [whole[at : at + 1] for at in range(len(whole))]):
        link = kit.Link()
        for kind in "GPHC":
            link.open(kind)
        code = None
        try:
            for piece in way:
                link.receive(piece)
        except ConnectionFault as fault:
            code = fault.code
        outcomes.append((link.events, link.sent(), code))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_the_model_notices() -> None:
    """The comparison can fail."""
    world = World()
    world.request(0, 1)
    world.send(0, 100)
    world.settle()
    world.clients[0].given += b"x"
    with pytest.raises(AssertionError):
        world.compare()
