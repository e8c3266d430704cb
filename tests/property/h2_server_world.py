"""A server's engine and a client, ours or h2's, and the wires between them."""

from __future__ import annotations

from typing import Any

import h2.events as told
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.settings import SettingCodes
from tests.wire.h2 import server_kit

from dodici.core.headers import Headers
from dodici.wire.h2.engine import Engine
from dodici.wire.h2.frames import ErrorCode
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.requests import RequestSection
from dodici.wire.h2.sections import Section
from dodici.wire.h2.server import ServerEngine, ServerStream
from dodici.wire.h2.settings import LocalSettings
from dodici.wire.h2.streams import Stream

Fields = tuple[tuple[bytes, bytes], ...]
REQUESTS: list[Fields] = [
    ((b"te", b"trailers"),),
    ((b"authorization", b"s"), (b"x-same", b"always")),
    ((b"x-large", b"v" * 600),),
]
HEADS: list[Fields] = [(), ((b"x-same", b"always"),), ((b"x-large", b"v" * 500), (b"x", b"1"))]
TRAILERS: list[Fields] = [((b"grpc-status", b"0"),), ((b"grpc-status", b"5"), (b"x-same", b"always"))]
MOST = 14
"""Requests on a connection."""
AT_ONCE = 8
"""Of them, at a time."""
LOCAL = LocalSettings(3000, 65_535, 16_384, max_concurrent_streams=AT_ONCE)


class Request:
    """What a client has sent on a stream, and what has come."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.given = bytearray()
        self.ended = False
        self.head: Fields | None = None
        self.body = bytearray()
        self.trailers: Fields | None = None
        self.cancelled = False
        self.failure: int | None = None
        """The code with which the server has reset it."""
        self.unprocessed = False
        """The server says that it has done nothing."""


class Served(ServerStream):
    """The server's side of one."""

    __slots__ = ("body", "complete", "failed", "finished", "given", "head", "held", "ours", "section", "trailers", "world")  # fmt: skip

    def __init__(self, world: World, section: RequestSection) -> None:
        super().__init__()
        self.world = world
        self.section = section
        self.body = bytearray()
        self.held = 0
        self.complete = False
        self.failed: BaseException | None = None
        self.head: Fields | None = None
        self.given = bytearray()
        self.trailers: Fields | None = None
        self.finished = False
        self.ours = False
        """We have reset it."""

    def on_opened(self) -> None:
        self.world.served[self.id] = self

    def on_data(self, data: bytes) -> bool:
        assert not self.complete
        assert self.failed is None
        self.body += data
        if self.world.holding:
            self.held += len(data)
            return False
        return True

    def on_end(self, trailers: Headers) -> None:
        assert not self.complete
        assert self.failed is None
        assert trailers.raw == ()
        self.complete = True

    def on_failed(self, error: BaseException) -> None:
        assert self.failed is None
        self.failed = error


class World:
    """A server and a client that has read its settings, and the wires between them.

    Steps are methods, whose numbers mean what they make of them.
    """

    def __init__(self) -> None:
        self.holding = False
        self.server = ServerEngine(self, LOCAL, {}, 16_384, lambda: 0.0)
        self.server.start()
        self.served: dict[int, Served] = {}
        self.requests: dict[int, Request] = {}
        self.told_to_stop = False
        self.pings = [0, 0]
        self.to_server = b""
        self.to_client = b""

    # the server

    def on_request(self, section: RequestSection) -> Served:
        assert len(self.server.streams) < AT_ONCE
        assert self.server.accepting
        return Served(self, section)

    def on_settings(self) -> None:
        pass

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        raise AssertionError(f"the client gave up: {code} {debug!r}")

    def on_pong(self, payload: bytes) -> None:
        self.pings[1] += 1

    def _call(self, number: int) -> Served | None:
        open_ones = [call for call in self.served.values() if not (call.finished or call.gone)]
        return open_ones[number % len(open_ones)] if open_ones else None

    def respond(self, number: int, size: int) -> None:
        call = self._call(number)
        if call is not None and call.head is None:
            call.head = HEADS[size % len(HEADS)]
            self.server.head(call, encode_fields([(b":status", b"200"), *call.head]))

    def reply(self, number: int, size: int) -> None:
        call = self._call(number)
        if call is not None and call.head is not None:
            piece = bytes((size + index) % 249 for index in range(size % 9000))
            call.given += piece
            self.server.send(call, piece)

    def finish(self, number: int, size: int) -> None:
        call = self._call(number)
        if call is None:
            return
        call.finished = True
        call.trailers = TRAILERS[size % len(TRAILERS)] if size % 3 or call.head is None else ()
        if call.head is None:
            call.head, call.trailers = call.trailers, ()
            self.server.finish(call, encode_fields([(b":status", b"200"), *call.head]))
        elif call.trailers:
            self.server.finish(call, encode_fields(call.trailers))
        else:
            self.server.end(call)

    def answer(self, number: int, size: int) -> None:
        call = self._call(number)
        if call is not None and call.head is None:
            call.finished = True
            call.head, call.trailers = HEADS[size % len(HEADS)], TRAILERS[size % len(TRAILERS)]
            call.given += bytes((size + index) % 241 for index in range(size % 20_000))
            head = encode_fields([(b":status", b"200"), *call.head])
            trailers = encode_fields(call.trailers)
            self.server.answer(call, head, bytes(call.given), trailers, at_once=number % 4 > 0)

    def refuse(self, number: int, size: int) -> None:
        call = self._call(number)
        if call is not None:
            call.ours = True
            self.server.reset(call, ErrorCode.INTERNAL_ERROR)

    def hold(self, number: int, size: int) -> None:
        self.holding = number % 2 == 0

    def consume(self, number: int, size: int) -> None:
        for call in self.served.values():
            if (call.id + number) % 3:
                count = min(size, call.held)
                call.held -= count
                self.server.consumed(call, count)

    def fill(self, number: int, size: int) -> None:
        self.server.fill(size)

    def check(self, number: int, size: int) -> None:
        self.server.ping(b"%08d" % number)

    def retire(self, number: int, size: int) -> None:
        if number == 0:
            self.server.retire()
        elif number == 1:
            self.server.refuse_more()

    # the wires

    def upstream(self, number: int, size: int) -> None:
        self.to_server += self.from_client()
        data, self.to_server = self.to_server[:size], self.to_server[size:]
        self.server.receive(data)

    def downstream(self, number: int, size: int) -> None:
        self.to_client += self.server.outbox.take()
        data, self.to_client = self.to_client[:size], self.to_client[size:]
        self.client_receive(data)

    # the client

    def _request(self, number: int) -> tuple[int, Request] | None:
        """One that may still be sent on."""
        found = [
            (key, one)
            for key, one in self.requests.items()
            if not (one.ended or one.cancelled or one.unprocessed) and one.failure is None
        ]
        return found[number % len(found)] if found else None

    def from_client(self) -> bytes:
        raise NotImplementedError

    def client_receive(self, data: bytes) -> None:
        raise NotImplementedError

    def request(self, number: int, size: int) -> None:
        raise NotImplementedError

    def send(self, number: int, size: int) -> None:
        raise NotImplementedError

    def end(self, number: int, size: int) -> None:
        raise NotImplementedError

    def cancel(self, number: int, size: int) -> None:
        raise NotImplementedError

    def read(self, number: int, size: int) -> None:
        raise NotImplementedError

    def client_fill(self, number: int, size: int) -> None:
        """What waits for a turn in the client."""

    def ask(self, number: int, size: int) -> None:
        raise NotImplementedError

    def configure(self, number: int, size: int) -> None:
        """The client's settings."""

    def in_step(self) -> None:
        """The windows of the connection are the same on both sides."""
        raise NotImplementedError

    # the end

    def settle(self) -> None:
        """Let all that was begun come to its end."""
        self.holding = False
        for _ in range(100):
            while (found := self._request(0)) is not None:
                self.end(0, 0)
                assert found[1].ended or found[1].cancelled
            self.client_fill(0, 1 << 20)
            self.upstream(0, 1 << 30)
            for call in self.served.values():
                self.server.consumed(call, call.held)
                call.held = 0
            while self._call(0) is not None:
                self.finish(0, 1)
            self.server.fill(1 << 20)
            self.downstream(0, 1 << 30)
            self.read(0, 0)
            self.read(1, 0)
            if not (self.server.streams or self.server.outbox.parts or self.to_server or self.idle()):
                return
        raise AssertionError(f"streams that do not end: {self.server.streams}")

    def idle(self) -> bool:
        """Whether the client has nothing left to send."""
        return False

    def compare(self) -> None:
        """Both sides tell the same."""
        assert not self.server.closed
        self.in_step()
        for number, one in self.requests.items():
            call = self.served.get(number)
            if call is None:
                assert one.unprocessed or one.cancelled or one.failure == ErrorCode.REFUSED_STREAM
                assert one.head is None
                continue
            assert not one.unprocessed
            assert one.failure != ErrorCode.REFUSED_STREAM
            assert call.gone
            assert call.section.fields == one.fields
            assert one.given.startswith(call.body)
            if call.complete:
                assert call.body == one.given
            if one.cancelled:
                continue
            if call.ours:
                assert one.failure == ErrorCode.INTERNAL_ERROR
                assert one.trailers is None
                continue
            assert call.failed is None
            assert call.finished
            assert (one.head, one.trailers) == (call.head, call.trailers)
            assert one.body == call.given
            assert one.failure in (None, ErrorCode.NO_ERROR)


# ------------------------------------------------------------------------------------------ our client


class Opened(Stream):
    __slots__ = ("held", "one", "ours")

    def __init__(self, world: Ours, one: Request) -> None:
        super().__init__()
        self.ours = world
        self.one = one
        self.held = 0

    def on_head(self, section: Section) -> None:
        assert self.one.head is None
        assert section.status_code == 200
        self.one.head = section.headers.raw

    def on_data(self, data: bytes) -> bool:
        self.one.body += data
        self.held += len(data)
        return False

    def on_end(self, trailers: Headers) -> None:
        assert self.one.trailers is None
        self.one.trailers = trailers.raw

    def on_failed(self, error: BaseException) -> None:
        assert self.one.failure is None
        self.one.failure = error.error_code  # type: ignore[attr-defined]


class Ours(World):
    def __init__(self) -> None:
        super().__init__()
        self.client = Engine(_ClientSink(self), LocalSettings(4000, 65_535, 16_384), {}, 16_384, lambda: 0.0)
        self.client.start()
        self.streams: dict[int, Opened] = {}
        self.downstream(0, 1 << 30)

    def from_client(self) -> bytes:
        return self.client.outbox.take()

    def client_receive(self, data: bytes) -> None:
        self.client.receive(data)

    def request(self, number: int, size: int) -> None:
        if len(self.requests) < MOST and not self.told_to_stop:
            one = Request(REQUESTS[number % len(REQUESTS)])
            stream = Opened(self, one)
            one.ended = size % 4 == 0
            self.client.open(stream, encode_fields([*server_kit.POST, *one.fields]), end=one.ended)
            self.requests[stream.id] = one
            self.streams[stream.id] = stream

    def send(self, number: int, size: int) -> None:
        found = self._request(number)
        if found is not None:
            piece = bytes((number * 7 + index) % 251 for index in range(size % 9000))
            found[1].given += piece
            self.client.send(self.streams[found[0]], piece)

    def end(self, number: int, size: int) -> None:
        found = self._request(number)
        if found is not None:
            found[1].ended = True
            self.client.end(self.streams[found[0]])

    def cancel(self, number: int, size: int) -> None:
        live = [stream for stream in self.streams.values() if not stream.gone]
        if live:
            stream = live[number % len(live)]
            stream.one.cancelled = True
            self.client.reset(stream)

    def read(self, number: int, size: int) -> None:
        for stream in self.streams.values():
            if (stream.id // 2 + number) % 2:
                self.client.consumed(stream, stream.held)
                stream.held = 0

    def client_fill(self, number: int, size: int) -> None:
        self.client.fill(size)

    def ask(self, number: int, size: int) -> None:
        self.client.ping(b"%08d" % number)

    def idle(self) -> bool:
        return bool(self.client.outbox.parts or self.client.streams)

    def in_step(self) -> None:
        assert not self.client.closed
        assert self.client.outbox.window.size == self.server._window.size
        assert self.server.outbox.window.size == self.client._window.size


class _ClientSink:
    """What our client is told of the connection."""

    def __init__(self, world: Ours) -> None:
        self.world = world

    def on_settings(self) -> None:
        pass

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        assert code == ErrorCode.NO_ERROR, debug
        self.world.told_to_stop = True
        for stream in unprocessed:
            assert isinstance(stream, Opened)
            stream.one.unprocessed = True

    def on_pong(self, payload: bytes) -> None:
        self.world.pings[0] += 1


# ------------------------------------------------------------------------------------------ h2's client


class Theirs(World):
    def __init__(self) -> None:
        super().__init__()
        self.client = H2Connection(
            H2Configuration(client_side=True, header_encoding=None, normalize_inbound_headers=False)
        )
        self.client.initiate_connection()
        self.unacknowledged = 1
        self.owed: dict[int, int] = {}
        self.downstream(0, 1 << 30)

    def from_client(self) -> bytes:
        data: bytes = self.client.data_to_send()
        return data

    def client_receive(self, data: bytes) -> None:
        for event in self.client.receive_data(data):
            if isinstance(event, told.ConnectionTerminated):
                assert event.error_code == ErrorCode.NO_ERROR, event
                self.told_to_stop = True
                continue
            if isinstance(event, told.SettingsAcknowledged):
                self.unacknowledged -= 1
            one = self.requests.get(getattr(event, "stream_id", None) or 0)
            if one is None:
                continue
            if isinstance(event, told.ResponseReceived):
                assert one.head is None
                assert event.headers[0] == (b":status", b"200")
                one.head = tuple(event.headers[1:])
            elif isinstance(event, told.DataReceived):
                one.body += event.data
                self.owed[event.stream_id] = self.owed.get(event.stream_id, 0) + event.flow_controlled_length
            elif isinstance(event, told.TrailersReceived):
                one.trailers = tuple(event.headers)
            elif isinstance(event, told.StreamEnded):
                one.trailers = one.trailers or ()
            elif isinstance(event, told.StreamReset):
                one.failure = event.error_code

    @property
    def speaking(self) -> bool:
        return self.client.state_machine.state != ConnectionState.CLOSED

    def _request(self, number: int) -> tuple[int, Request] | None:
        return super()._request(number) if self.speaking else None

    def request(self, number: int, size: int) -> None:
        if len(self.requests) < MOST and not self.told_to_stop:
            if self.client.open_outbound_streams >= AT_ONCE:
                return  # h2 keeps to it
            key = self.client.get_next_available_stream_id()
            one = self.requests[key] = Request(REQUESTS[number % len(REQUESTS)])
            one.ended = size % 4 == 0
            how: dict[str, Any] = {} if number % 5 else {"priority_weight": 9, "priority_depends_on": 0}
            self.client.send_headers(key, [*server_kit.POST, *one.fields], end_stream=one.ended, **how)

    def send(self, number: int, size: int) -> None:
        found = self._request(number)
        if found is not None:
            pad = number % 256 if number % 3 == 0 else None
            room = self.client.local_flow_control_window(found[0]) - (0 if pad is None else pad + 1)
            if room >= 0:
                piece = bytes((size + index) % 249 for index in range(min(room, size, 16_000)))
                found[1].given += piece
                self.client.send_data(found[0], piece, pad_length=pad)

    def end(self, number: int, size: int) -> None:
        found = self._request(number)
        if found is not None:
            found[1].ended = True
            self.client.end_stream(found[0])

    def cancel(self, number: int, size: int) -> None:
        found = self._request(number)
        if found is not None:
            found[1].cancelled = True
            self.client.reset_stream(found[0], ErrorCode.CANCEL)

    def read(self, number: int, size: int) -> None:
        if self.speaking:
            for key in list(self.owed):
                if (key // 2 + number) % 2:
                    self.client.acknowledge_received_data(self.owed.pop(key), key)

    def ask(self, number: int, size: int) -> None:
        if self.speaking:
            self.client.ping(b"%08d" % number)

    def configure(self, number: int, size: int) -> None:
        code, values = [
            (SettingCodes.INITIAL_WINDOW_SIZE, [0, 10, 5000, 65_535, 200_000]),
            (SettingCodes.MAX_FRAME_SIZE, [16_384, 20_000, 100_000]),
            (SettingCodes.HEADER_TABLE_SIZE, [0, 100, 4096, 10_000]),
        ][number % 3]
        self.update(code, values[size % len(values)])

    def update(self, code: SettingCodes, value: int) -> None:
        if not self.unacknowledged and self.speaking:  # h2 takes each acknowledgement for one of all of them
            self.unacknowledged += 1
            self.client.update_settings({code: value})
            if code == SettingCodes.MAX_FRAME_SIZE:
                # h2 knows of larger frames only in the call after the one with the acknowledgement.
                self.client.max_inbound_frame_size = max(value, self.client.max_inbound_frame_size)

    def retire(self, number: int, size: int) -> None:
        """h2 takes GOAWAY for the end of everything: not with it."""

    def settle(self) -> None:
        self.downstream(0, 1 << 30)
        self.upstream(0, 1 << 30)
        self.downstream(0, 1 << 30)
        self.update(SettingCodes.INITIAL_WINDOW_SIZE, 65_535)
        super().settle()

    def idle(self) -> bool:
        return bool(self.client._data_to_send)

    def in_step(self) -> None:
        assert self.speaking
        assert self.unacknowledged == 0
        assert self.server.outbox.window.size == self.client.inbound_flow_control_window
        assert self.server._window.size == self.client.outbound_flow_control_window
