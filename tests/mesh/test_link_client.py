"""What a handler and the owner of a link are told: by good peers, bad ones, and those that go."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.mesh.link_kit import CLIENT, WORKER, TinyOwner, link_pair, raw_pair
from tests.peers.kit import now, virtual
from tests.wire.mesh.mesh_kit import OK, credit, frame, headed

from dodici.core import diagnostics
from dodici.core.controller import Exchange
from dodici.core.errors import (
    BodyAbortedError,
    BodyTimeoutError,
    HeadersTimeoutError,
    InvalidArgumentError,
    LinkError,
    NotSupportedError,
    RequestAbortedError,
    ResponseContentLengthMismatchError,
    TargetChangedError,
    WorkerExitedError,
)
from dodici.core.options import DispatchOptions
from dodici.mesh import link as link_module
from dodici.mesh.link import open_link
from dodici.mesh.server_stream import ServerStream
from dodici.testing import RecordingHandler
from dodici.testing.recorder import DATA, RESPONSE, START
from dodici.wire.mesh import frames as f

ORIGIN = "http://api.local"


def send(
    pair: Any, path: str = "/", recorder: RecordingHandler | None = None, **options: Any
) -> RecordingHandler:
    recorder = recorder or RecordingHandler()
    recorder.dispatch(pair.dispatcher, {"origin": ORIGIN, "path": path, **options})
    return recorder


async def ok(scope: Any, receive: Any, respond: Any) -> None:
    await respond({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await respond({"type": "http.response.body", "body": b"ok"})


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------ what is sent


async def test_requests_of_one_turn_leave_in_one_write_and_in_order() -> None:
    async with raw_pair() as pair:
        for number in range(5):
            send(pair, f"/{number}")
        for number in range(1, 6):
            kind, found, payload = await pair.peer.frame()
            assert (kind, found) == (f.REQUEST | f.FINAL, number)
            assert f"GET\n/{number - 1}\nhttp\napi.local\nhost\napi.local".encode() == payload[4:]


async def test_options_remember_their_frame() -> None:
    async with raw_pair() as pair:
        options = DispatchOptions(origin=ORIGIN, path="/", method="POST", body=b"abc")
        payloads = []
        for _ in range(2):
            RecordingHandler().dispatch(pair.dispatcher, options)
            payloads.append((await pair.peer.frame())[2])
            remembered = options.wire_cache
        assert payloads[0] == payloads[1]
        assert payloads[0].endswith(b"abc")
        assert remembered is options.wire_cache
        # What another serializer has remembered is not taken for a frame.
        object.__setattr__(options, "wire_cache", (b"host", b"GET / HTTP/1.1"))
        RecordingHandler().dispatch(pair.dispatcher, options)
        assert (await pair.peer.frame())[2] == payloads[0]


@pytest.mark.parametrize("size", [f.INLINE, f.INLINE + 1])
async def test_bodies_up_to_32_kib_travel_with_the_head(size: int) -> None:
    async with raw_pair() as pair:
        send(pair, method="POST", body=b"x" * size)
        kind, _, payload = await pair.peer.frame()
        if size == f.INLINE:
            assert kind == f.REQUEST | f.FINAL
            assert payload.endswith(b"x" * size)
        else:
            assert kind == f.REQUEST
            assert await pair.peer.frame() == (f.REQ_DATA, 1, b"x" * size)
            assert (await pair.peer.frame())[0] == f.REQ_END


async def test_what_cannot_be_sent_is_told_and_nothing_is_written() -> None:
    async with raw_pair() as pair:
        for options, kind in (
            ({"method": "CONNECT", "path": "a:1"}, NotSupportedError),
            ({"upgrade": "h2c"}, NotSupportedError),
            ({"path": "http://other/"}, NotSupportedError),
            ({"origin": "api.local"}, InvalidArgumentError),
        ):
            recorder = send(pair, **options)  # type: ignore[arg-type]
            await recorder.wait()
            assert isinstance(recorder.error, kind)
            assert recorder.count(START) == 0
        send(pair)
        assert (await pair.peer.frame())[1] == 1


async def test_an_abort_before_the_flush_sends_nothing() -> None:
    async with raw_pair() as pair:
        recorder = send(pair)
        assert pair.link.running == 1
        recorder.controller.abort()
        assert pair.link.running == 0
        assert recorder.names == ["response_error"]
        send(pair, "/second")
        _, number, payload = await pair.peer.frame()
        assert number == 1
        assert b"/second" in payload


async def test_an_abort_in_flight_is_a_reset() -> None:
    async with raw_pair() as pair:
        recorder = send(pair)
        await pair.peer.frame()
        recorder.controller.abort()
        assert await pair.peer.frame() == (f.REQ_RESET, 1, b"")
        await pair.peer.send(headed(f.HEAD | f.FINAL, 1, OK, b"late"))
        second = send(pair)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD | f.FINAL, 2, OK, b"hello"))
        await second.wait()
        assert second.body == b"hello"
        assert recorder.body == b""


async def test_a_callback_that_closes_the_link_gives_its_request_back() -> None:
    async with raw_pair() as pair:
        recorder = RecordingHandler(on_request_start=lambda *_: pair.link.close())
        send(pair, recorder=recorder)
        other = send(pair)
        await pair.owner.gone.wait()
        _, error, unsent = pair.owner.lost[0]
        assert error is None
        assert [exchange.handler._handler for exchange in unsent] == [recorder, other]
        assert all(exchange.carrier is None and not exchange.done for exchange in unsent)


async def test_a_callback_that_closes_the_link_and_raises_has_its_error() -> None:
    async with raw_pair() as pair:
        error = ValueError("mine")

        def close(*_: Any) -> None:
            pair.link.close()
            raise error

        recorder = send(pair, recorder=RecordingHandler(on_request_start=close))
        await recorder.wait()
        assert recorder.error is error


async def test_a_streamed_body_is_pulled_by_credit() -> None:
    pulled = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 65536
            yield bytes(65536)

    async with raw_pair() as pair:
        recorder = send(pair, method="POST", body=source())
        assert (await pair.peer.frame())[0] == f.REQUEST
        for _ in range(4):
            assert len((await pair.peer.frame())[2]) == 65536
        await settle()
        assert pulled <= f.WINDOW + 65536
        await pair.peer.send(credit(f.CREDIT, 1, f.PORTION))
        for _ in range(2):
            assert len((await pair.peer.frame())[2]) == 65536
        await settle()
        assert pulled <= f.WINDOW + f.PORTION + 65536
        recorder.controller.abort()
        assert (await pair.peer.frame())[0] == f.REQ_RESET


async def test_diagnostics() -> None:
    told: list[tuple[str, Any]] = []
    names = ["sendHeaders", "headers", "bodyChunkReceived", "trailers", "bodySent", "bodyChunkSent", "error"]
    channels = [
        diagnostics.channel(f"undici:{'client' if name == 'sendHeaders' else 'request'}:{name}")
        for name in names
    ]

    def note(message: dict[str, Any], name: str) -> None:
        told.append((name.rpartition(":")[2], message))

    for channel in channels:
        channel.subscribe(note)
    try:
        async with link_pair(ok) as pair:
            await send(pair, "/a?b", method="POST", body=b"abc").wait()
            assert [name for name, _ in told] == [
                "sendHeaders", "bodyChunkSent", "bodySent", "headers", "bodyChunkReceived", "trailers",
            ]  # fmt: skip
            assert told[0][1]["headers"].startswith(
                "POST /a?b HTTP/1.1\r\nhost: api.local\r\ncontent-length: 3\r\n"
            )
            assert told[3][1]["response"]["status_code"] == 200
            assert told[4][1]["chunk"] == b"ok"
            told.clear()
            await send(pair, method="POST", body=pieces(b"one", b"two")).wait()
            assert [name for name, _ in told].count("bodyChunkSent") == 2
    finally:
        for channel in channels:
            channel.unsubscribe(note)


# ---------------------------------------------------------------------------------------------- what is refused


async def test_a_refused_request_goes_back_to_the_owner() -> None:
    async with raw_pair() as pair:
        recorder = send(pair, method="POST", body=b"abc")
        again = send(pair, method="POST", body=[b"abc"])
        gone = send(pair, method="POST", body=pieces(b"abc"))
        for _ in range(3):
            await pair.peer.until(f.REQUEST if _ else f.REQUEST | f.FINAL)
        await pair.peer.send(*[frame(f.RESET, number, b"\x01not now") for number in (1, 2, 3)])
        await gone.wait()
        assert isinstance(gone.error, TargetChangedError)
        assert gone.error.request_not_processed
        assert [reason for _, reason in pair.owner.refusals] == ["not now"] * 2
        assert [exchange.handler._handler for exchange, _ in pair.owner.refusals] == [recorder, again]
        assert all(
            not exchange.source_taken and exchange.carrier is None for exchange, _ in pair.owner.refusals
        )
        assert pair.link.running == 0
        for exchange, _ in pair.owner.refusals:
            pair.link.offer(exchange)
        assert (await pair.peer.until(f.REQUEST | f.FINAL))[1] == 4
        await pair.peer.until(f.REQ_END)
        await pair.peer.send(*[headed(f.HEAD | f.FINAL, number, OK) for number in (4, 5)])
        assert (await recorder.wait()).error is None
        assert recorder.starts == 2
        assert (await again.wait()).error is None


async def test_a_member_without_an_app_refuses() -> None:
    async with raw_pair() as pair:
        await pair.peer.send(headed(f.REQUEST | f.FINAL, 1, b"GET\n/\nhttp\na"))
        assert await pair.peer.frame() == (f.RESET, 1, b"\x01this member has no app")


# ---------------------------------------------------------------------------------------- responses that go wrong


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("ending", ["lost", "reset"])
async def test_a_body_that_is_cut_is_an_error_behind_what_came(paused: bool, ending: str) -> None:
    async with raw_pair() as pair:
        recorder = RecordingHandler(
            on_response_start=lambda controller, *_: controller.pause() if paused else None
        )
        send(pair, recorder=recorder)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 1, OK), frame(f.DATA, 1, b"some"))
        await recorder.reached(RESPONSE)
        if not paused:
            await recorder.received(4)
        if ending == "reset":
            await pair.peer.send(frame(f.RESET, 1, b"\x04stopped"), frame(f.BARRIER, 1))
            await pair.peer.until(f.BARRIER_ACK)
        else:
            pair.peer.close()
            await pair.owner.gone.wait()
        if paused:
            assert recorder.count(DATA) == 0
            recorder.controller.resume()
        await recorder.wait()
        assert recorder.body == b"some"
        assert isinstance(recorder.error, BodyAbortedError)
        assert recorder.error.status_code == 200


async def test_a_whole_response_stays_one_when_the_link_is_lost() -> None:
    async with raw_pair() as pair:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(pair, recorder=recorder)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD | f.FINAL, 1, OK, b"whole"))
        pair.peer.close()
        await pair.owner.gone.wait()
        assert pair.link.running == 1
        recorder.controller.resume()
        await recorder.wait()
        assert (recorder.error, recorder.body) == (None, b"whole")
        assert pair.link.running == 0


async def test_what_a_peer_sent_before_it_left_outlives_a_write_to_it_that_fails() -> None:
    async with raw_pair() as pair:
        recorder = send(pair)
        await pair.peer.frame()
        pieces = [frame(f.DATA, 1, bytes([n]) * 16_000) for n in range(9)]
        # Both without a turn of the loop between: the next request is written before anything is read.
        with pytest.raises(StopIteration):
            pair.peer.send(headed(f.HEAD, 1, OK), *pieces, frame(f.END, 1), frame(f.BYE)).send(None)
        pair.peer.close()
        late = send(pair, "/late")
        await recorder.wait()
        assert (recorder.error, recorder.body_size) == (None, 9 * 16_000)
        assert isinstance((await late.wait()).error, WorkerExitedError)
        assert pair.owner.lost[0][1] is None, "it left in order"


async def test_a_pause_stops_credit() -> None:
    async with raw_pair() as pair:
        recorder = RecordingHandler(
            keep_body=False, on_response_data=lambda controller, _: controller.pause()
        )
        send(pair, recorder=recorder)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 1, OK), *[frame(f.DATA, 1, bytes(65536))] * 4)
        await recorder.received(65536)
        await pair.peer.send(frame(f.BARRIER, 1))
        assert (await pair.peer.frame())[0] == f.BARRIER_ACK
        recorder.controller.resume()
        assert await pair.peer.frame() == (f.REQ_CREDIT, 1, f.U32.pack(131072))
        assert recorder.body_size == 131072


async def test_a_length_that_a_peer_does_not_keep() -> None:
    async with raw_pair() as pair:
        recorder = send(pair)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 1, b"200\ncontent-length\n3"), frame(f.DATA, 1, b"four"))
        await recorder.wait()
        assert isinstance(recorder.error, ResponseContentLengthMismatchError)
        assert recorder.count(DATA) == 0
        assert (await pair.peer.frame())[0] == f.REQ_RESET


@pytest.mark.parametrize("callback", ["on_response_start", "on_response_data"])
async def test_a_callback_that_raises_resets(callback: str) -> None:
    error = ValueError("mine")

    def fail(*_: Any) -> None:
        raise error

    async with raw_pair() as pair:
        recorder = send(pair, recorder=RecordingHandler(**{callback: fail}))
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 1, OK), frame(f.DATA, 1, b"x"), frame(f.DATA, 1, b"y"))
        await recorder.wait()
        assert recorder.error is error
        assert (await pair.peer.frame())[0] == f.REQ_RESET
        assert not pair.link.lost


# ---------------------------------------------------------------------------------------------- the end of links


async def test_a_lost_link_fails_what_was_written_and_gives_the_rest_back() -> None:
    async with raw_pair() as pair:
        written, streamed = send(pair), send(pair, method="POST", body=pieces(b"abc"))
        await pair.peer.until(f.REQ_DATA)
        unsent = send(pair)
        aborted = send(pair)
        aborted.controller.abort()
        pair.link.abort(LinkError("cut"))
        for recorder in (written, streamed):
            await recorder.wait()
            assert isinstance(recorder.error, WorkerExitedError)
            assert "shop.api:app" in str(recorder.error)
            assert isinstance(recorder.error.__cause__, LinkError)
        assert unsent.names == []
        _, error, back = pair.owner.lost[0]
        assert isinstance(error, LinkError)
        assert [exchange.handler._handler for exchange in back] == [unsent]
        assert pair.link.running == 0
        late = send(pair)
        await settle()
        assert [exchange.handler._handler for exchange in pair.owner.lost[1][2]] == [late]


@pytest.mark.parametrize("kind", ["socket", "queue"])
async def test_close_says_goodbye_behind_what_was_written(kind: str) -> None:
    async with link_pair(ok, kind) as pair:
        recorder = await send(pair).wait()
        assert recorder.body == b"ok"
        running = send(pair, "/running")
        pair.host.begin = False
        while not pair.host.waiting:
            await asyncio.sleep(0)
        pair.near.close()
        pair.near.close()
        await pair.far_owner.gone.wait()
        assert [error for _, error, _ in pair.owner.lost] == [None]
        assert [error for _, error, _ in pair.far_owner.lost] == [None]
        assert isinstance((await running.wait()).error, WorkerExitedError)
        assert pair.host.waiting[0].given_up
        assert pair.far.serving == 0


@pytest.mark.parametrize("kind", ["socket", "queue"])
async def test_a_barrier_comes_behind_all_requests(kind: str) -> None:
    async with link_pair(ok, kind) as pair:
        pair.host.begin = False
        for _ in range(100):
            send(pair)
        await pair.far.barrier()
        assert len(pair.host.waiting) == 100
        await asyncio.gather(*[pair.near.barrier() for _ in range(3)])
        waiting = asyncio.ensure_future(pair.near.barrier())
        await asyncio.sleep(0)
        pair.near.abort(LinkError("cut"))
        await waiting
        await pair.near.barrier()


async def test_an_answer_that_nobody_waits_for_any_more_is_no_fault() -> None:
    async with raw_pair() as pair:
        waiting = asyncio.ensure_future(pair.link.barrier())
        kind, number, _ = await pair.peer.frame()
        assert kind == f.BARRIER
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pair.peer.send(frame(f.BARRIER_ACK, number))
        waiting = asyncio.ensure_future(pair.link.barrier())
        _, number, _ = await pair.peer.frame()
        await pair.peer.send(frame(f.BARRIER_ACK, number))
        await waiting
        assert not pair.link.lost


async def test_idle_is_told_when_neither_side_has_anything() -> None:
    async with link_pair(ok) as pair:
        assert (pair.owner.idle, pair.far_owner.idle) == (0, 0)
        await send(pair).wait()
        await pair.near.barrier()
        await settle()
        assert pair.owner.idle == 1
        assert pair.far_owner.idle == 1
        assert (pair.near.running, pair.far.serving) == (0, 0)


async def test_numbers_that_are_used_up_end_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f, "MAX_STREAM", 3)
    async with link_pair(ok) as pair:
        recorders = [send(pair) for _ in range(5)]
        for recorder in recorders[:3]:
            assert (await recorder.wait()).body == b"ok"
        await pair.owner.gone.wait()
        _, error, unsent = pair.owner.lost[0]
        assert error is None
        assert [exchange.handler._handler for exchange in unsent] == recorders[3:]


BAD: dict[str, tuple[bytes, str]] = {
    "garbage": (b"\xff" * 100, "unknown frame type"),
    "http": (b"HTTP/1.1 200 OK\r\n\r\n", "unknown frame type|are allowed"),
    "overrun": (headed(f.HEAD, 1, OK) + frame(f.DATA, 1, bytes(65536)) * 5, "beyond its credit"),
    "never": (headed(f.HEAD, 9, OK), "never made"),
    "accept": (frame(f.ACCEPT, 1, b"101"), "asked for no WebSocket"),
    "message": (frame(f.TEXT, 1, b"x"), "does not fit"),
    "close": (frame(f.CLOSE, 1, b"\0\0"), "does not fit"),
    "barrier": (frame(f.BARRIER_ACK, 7), "barrier 7"),
    "hello": (f.hello("worker-1"), "second HELLO"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_peer_that_breaks_the_protocol_loses_the_link_and_no_more(name: str) -> None:
    data, text = BAD[name]
    async with raw_pair() as pair:
        recorder = send(
            pair, recorder=RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        )
        await pair.peer.frame()
        await pair.peer.send(data)
        await pair.peer.closed()
        await pair.owner.gone.wait()
        recorder.controller.resume()
        await recorder.wait()
        assert isinstance(recorder.error, WorkerExitedError | BodyAbortedError)
        error = pair.owner.lost[0][1]
        assert isinstance(error, LinkError)
        with pytest.raises(LinkError, match=text):
            raise error


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (f.hello("worker-2"), "says that it is 'worker-2'"),
        (frame(f.BYE), "before HELLO"),
        (b"GET / HT", "middle of"),
    ],
    ids=["other", "none", "cut"],
)
async def test_a_peer_that_is_somebody_else(data: bytes, text: str) -> None:
    async with raw_pair(hello=False) as pair:
        await pair.peer.frame()
        await pair.peer.send(data)
        pair.peer.close()
        await pair.owner.gone.wait()
        assert text in str(pair.owner.lost[0][1])


def _script() -> list[bytes]:
    return [
        headed(f.HEAD | f.FINAL, 1, OK, b"one"),
        frame(f.INFO, 2, b"103"),
        headed(f.HEAD, 2, OK),
        frame(f.DATA, 2, b"two"),
        frame(f.END, 2),
    ]


async def test_an_end_at_every_point_of_two_responses() -> None:
    data = b"".join(_script())
    for at in range(len(data) + 1):
        async with raw_pair() as pair:
            first, second = send(pair), send(pair)
            await pair.peer.frame()
            await pair.peer.frame()
            await pair.peer.send(data[:at])
            pair.peer.close()
            await pair.owner.gone.wait()
            for recorder, end in ((first, len(_script()[0])), (second, len(data))):
                await recorder.wait()
                assert (recorder.error is None) is (at >= end)
            error = pair.owner.lost[0][1]
            assert isinstance(error, LinkError)
            whole = at in {len(b"".join(_script()[:count])) for count in range(6)}
            assert ("middle of a frame" in str(error)) is not whole


async def test_a_peer_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_UNREAD", 100_000)
    async with raw_pair() as pair:
        recorders = []
        while not pair.link.lost:
            recorders.append(send(pair, headers={"x-a": "a" * 8000}))
            if len(recorders) % 16 == 0:
                await asyncio.sleep(0)
        assert len(recorders) < 2000
        assert "does not read" in str(pair.owner.lost[0][1])
        assert isinstance((await recorders[0].wait()).error, WorkerExitedError)


async def test_a_socket_that_is_none_is_closed() -> None:
    near, far = socket.socketpair()
    far.close()
    near.detach()
    with pytest.raises(OSError):
        await open_link(near, member_id=CLIENT.id, peer=WORKER, sink=None, owner=TinyOwner())


# ------------------------------------------------------------------------------------------------------ timeouts


@virtual
async def test_timeouts() -> None:
    async with raw_pair() as pair:
        began = now()
        default = send(pair)
        head = send(pair, headers_timeout=20)
        none = send(pair, headers_timeout=0)
        body = send(pair, body_timeout=30)
        slow = send(pair, body_timeout=20)
        for _ in range(5):
            await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 4, OK), headed(f.HEAD, 5, OK))
        for _ in range(4):
            await asyncio.sleep(15)
            await pair.peer.send(frame(f.DATA, 5, b"x"))
        await head.wait()
        assert isinstance(head.error, HeadersTimeoutError)
        await body.wait()
        assert isinstance(body.error, BodyTimeoutError)
        await pair.peer.send(frame(f.END, 5))
        assert (await slow.wait()).body == b"xxxx"
        await default.wait()
        assert isinstance(default.error, HeadersTimeoutError)
        assert 300 <= now() - began <= 303
        none.controller.abort()
        assert [await pair.peer.until(f.REQ_RESET) for _ in range(4)] == [
            (f.REQ_RESET, number, b"") for number in (2, 4, 1, 3)
        ]


@virtual
async def test_no_body_timeout_runs_while_paused() -> None:
    async with raw_pair(body_timeout=5.0) as pair:
        recorder = send(
            pair, recorder=RecordingHandler(on_response_data=lambda controller, _: controller.pause())
        )
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD, 1, OK), frame(f.DATA, 1, b"x"))
        await recorder.received(1)
        await asyncio.sleep(60)
        assert not recorder.ended.done()
        began = now()
        recorder.controller.resume()
        await recorder.wait()
        assert isinstance(recorder.error, BodyTimeoutError)
        assert 5 <= now() - began <= 7


async def test_no_timeout_runs_behind_a_whole_response() -> None:
    async with raw_pair() as pair:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(pair, recorder=recorder, headers_timeout=0.02, body_timeout=0.02)
        await pair.peer.frame()
        await pair.peer.send(headed(f.HEAD | f.FINAL, 1, OK, b"whole"))
        await recorder.reached(RESPONSE)
        await asyncio.sleep(0.06)  # three times what must not fire
        recorder.controller.resume()
        await recorder.wait()
        assert (recorder.error, recorder.body) == (None, b"whole")
        assert len(pair.link.timers) <= 1


@virtual
async def test_an_upload_that_is_not_taken_times_out_and_one_that_is_does_not() -> None:
    async with raw_pair(headers_timeout=10.0) as pair:
        stuck = send(pair, method="POST", body=[bytes(65536)] * 10)
        for _ in range(5):
            await pair.peer.frame()
        began = now()
        await stuck.wait()
        assert isinstance(stuck.error, HeadersTimeoutError)
        assert 10 <= now() - began <= 13
        taken = send(pair, method="POST", body=bytes(5 * f.WINDOW))
        got = 0
        while True:
            kind, number, payload = await pair.peer.frame()
            if kind == f.REQ_END:
                break
            if kind == f.REQ_DATA and number == 2:
                got += len(payload)
                if got % f.WINDOW == 0:
                    await asyncio.sleep(8)
                    await pair.peer.send(credit(f.CREDIT, 2, f.WINDOW))
        await pair.peer.send(headed(f.HEAD | f.FINAL, 2, OK))
        assert (await taken.wait()).error is None


async def test_an_idle_link_has_no_timer() -> None:
    async with link_pair(ok) as pair:
        await send(pair).wait()
        assert pair.near._timer is not None
        pair.near._on_tick()
        assert pair.near._timer is None
        pair.near._on_tick()
        assert (await send(pair).wait()).error is None


# --------------------------------------------------------------------------------------------- fairness and memory


async def test_a_large_send_does_not_hold_up_a_small_request() -> None:
    async def app(scope: Any, receive: Any, respond: Any) -> None:
        await respond({"type": "http.response.start", "status": 200, "headers": []})
        size = 100 << 20 if scope["path"] == "/large" else 10
        await respond({"type": "http.response.body", "body": memoryview(bytes(size))})

    def request(number: int, path: bytes) -> bytes:
        return headed(f.REQUEST | f.FINAL, number, b"GET\n" + path + b"\nhttp\na")

    async with raw_pair(app) as pair:
        await pair.peer.send(request(1, b"/large"))
        await pair.peer.frame()
        left = 4
        for number in range(2, 50):
            for _ in range(left):
                assert (await pair.peer.frame())[:2] == (f.DATA, 1)
            # The credit puts a window of the large body in line, and the request comes behind it.
            await pair.peer.send(credit(f.REQ_CREDIT, 1, f.WINDOW), request(number, b"/small"))
            between = 0
            while (await pair.peer.frame())[1] != number:
                between += 1
            assert between <= 2
            left = 4 - between


async def test_one_stalled_reader_stalls_nobody_else() -> None:
    async def app(scope: Any, receive: Any, respond: Any) -> None:
        await respond({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await respond({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await respond({"type": "http.response.body"})

    async with link_pair(app) as pair:
        stalled = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(pair, recorder=stalled)
        await stalled.reached(RESPONSE)
        other = await send(pair, recorder=RecordingHandler(keep_body=False)).wait()
        assert other.body_size == 64 * 65536
        assert stalled.count(DATA) == 0
        stalled.controller.resume()
        assert len((await stalled.wait()).body) == 64 * 65536


async def test_a_stopped_reader_is_bounded() -> None:
    taken = 0

    async def app(scope: Any, receive: Any, respond: Any) -> None:
        nonlocal taken
        await respond({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await respond({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            taken += 65536

    async with link_pair(app) as pair:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(pair, recorder=recorder)
        await recorder.reached(RESPONSE)
        await settle(300)
        # A window on its way, and what waits for credit.
        assert f.WINDOW <= taken <= 2 * f.WINDOW
        recorder.controller.abort()
        await recorder.wait()


async def test_ten_thousand_aborted_requests_leave_nothing() -> None:
    async def app(scope: Any, receive: Any, respond: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with link_pair(app) as pair:
        pair.host.keep = False

        async def burst(count: int) -> None:
            recorders = [send(pair) for _ in range(count)]
            await pair.near.barrier()
            await settle(3)
            for number, recorder in enumerate(recorders):
                if number % 2:
                    recorder.controller.abort()
                else:
                    recorder.controller.abort(RequestAbortedError("why not"))
            await pair.near.barrier()
            await settle(5)

        def count() -> dict[str, int]:
            gc.collect()
            kinds = [type(found).__name__ for found in gc.get_objects()]
            return {
                name: kinds.count(name)
                for name in (Exchange.__name__, ServerStream.__name__, "ClientStream", "Task")
            }

        await burst(500)
        before = count()
        for _ in range(19):
            await burst(500)
        assert count() == before
        assert pair.near.engine.ours == pair.far.engine.theirs == {}
        assert (pair.near.running, pair.far.serving) == (0, 0)
        assert pair.host.ended_streams + pair.far.serving <= 10_000
        assert pair.host.errors == []
