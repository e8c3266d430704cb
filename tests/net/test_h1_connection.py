"""One connection: what is written in which order, what is read, and when it goes."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.peers.kit import Events, answering, fetch, ok, send, virtual

from dodici import Client, DispatchOptions, HeadersTimeoutError, Pool, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, pattern, settle
from dodici.testing.peers import make_tls

LARGE = pattern(200_000)


async def mirror(connection: PeerConnection) -> None:
    """Answer with the request's target, so that a swapped response shows."""
    while (request := await connection.next_request()) is not None:
        await connection.respond(request.target.encode())


# -- the order of writing --------------------------------------------------------------------------------


async def test_s2_4_a_large_body_is_not_overtaken_by_those_behind_it() -> None:
    # A large body of bytes leaves in pieces, by a task. Whatever was dispatched in the same turn must not slip
    # in front of it: the responses would be taken for each other's.
    async with ScriptedPeer(mirror) as peer, Client(peer.origin, pipelining=3) as client:
        await fetch(client, "/warm")
        put = send(client, "/put", method="PUT", body=LARGE, idempotent=True, blocking=False)
        get = send(client, "/get", blocking=False)
        await put.wait()
        await get.wait()
        assert (put.body, get.body) == (b"/put", b"/get")
        assert [request.target for request in peer.requests] == ["/warm", "/put", "/get"]
        assert peer.requests[1].body == LARGE


async def test_s2_4_a_large_body_waits_for_those_before_it() -> None:
    async with ScriptedPeer(mirror) as peer, Client(peer.origin, pipelining=3) as client:
        await fetch(client, "/warm")
        get = send(client, "/get", blocking=False)
        put = send(client, "/put", method="PUT", body=LARGE, idempotent=True, blocking=False)
        await put.wait()
        await get.wait()
        assert (put.body, get.body) == (b"/put", b"/get")


async def test_s2_1_dispatch_inside_request_start_keeps_the_order() -> None:
    async with ScriptedPeer(mirror) as peer, Client(peer.origin, pipelining=2) as client:
        inner = RecordingHandler()
        outer = RecordingHandler(on_request_start=lambda *_: send(client, "/inner", inner, blocking=False))
        send(client, "/outer", outer, blocking=False)
        await outer.wait()
        await inner.wait()
        assert (outer.body, inner.body) == (b"/outer", b"/inner")


async def test_s2_2_abort_of_one_inside_the_start_of_another_requeues_the_other() -> None:
    gate = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        gate.set()
        await connection.stall()

    async with ScriptedPeer([script, mirror]) as peer, Client(peer.origin, pipelining=2) as client:
        first = send(client, "/first", blocking=False)
        await gate.wait()
        second = RecordingHandler()
        second._hooks["on_request_start"] = lambda *_: second.starts == 1 and first.controller.abort()
        send(client, "/second", second)
        await first.wait()
        await second.wait()
        assert second.body == b"/second"
        assert second.starts == 2
        assert client.size == 0


# -- slots -----------------------------------------------------------------------------------------------


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x"
        await asyncio.sleep(0)


@pytest.mark.parametrize("raises", [False, True])
async def test_s2_2_an_exclusive_request_that_never_began_frees_the_connection(raises: bool) -> None:
    async with ScriptedPeer(mirror) as peer, Client(peer.origin, pipelining=2) as client:
        await fetch(client, "/warm")

        def start(*_: Any) -> None:
            if raises:
                raise ZeroDivisionError

        upload = send(
            client, "/upload", RecordingHandler(on_request_start=start), method="POST", body=endless()
        )
        if not raises:
            upload.controller.abort()
        get = await fetch(client, "/get")
        await upload.wait()
        assert get.body == b"/get"
        assert len(peer.connections) == 1
        assert [request.target for request in peer.requests] == ["/warm", "/get"]


async def test_s2_5_a_connection_whose_first_request_never_began_still_goes_idle() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin, keep_alive_timeout=0.05) as client:
        events = Events(client)
        aborted = RecordingHandler(on_request_start=lambda controller, _: controller.abort())
        send(client, recorder=aborted)
        await aborted.wait()
        await events.wait("disconnect")
        assert "idle timeout" in str(events.errors()[0])
        assert not client.connected


async def test_s2_1_a_source_that_raises_before_the_first_chunk_keeps_the_connection() -> None:
    def broken() -> Any:
        raise ZeroDivisionError
        yield b""

    async with ScriptedPeer(mirror) as peer, Client(peer.origin) as client:
        upload = await fetch(client, "/upload", method="POST", body=broken())
        assert isinstance(upload.error, ZeroDivisionError)
        assert (await fetch(client, "/get")).body == b"/get"
        assert len(peer.connections) == 1


# -- timers ----------------------------------------------------------------------------------------------


@virtual
async def test_s2_6_the_idle_timer_does_not_run_into_a_slow_upload() -> None:
    # The source takes longer than the connection may be idle, and longer than the headers may take.
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(10)
            yield b"abc"

    async with ScriptedPeer(mirror) as peer, Client(peer.origin, headers_timeout=5) as client:
        await fetch(client, "/warm")
        upload = await fetch(client, "/upload", method="POST", body=slowly())
        assert upload.error is None
        assert upload.body == b"/upload"
        assert len(peer.connections) == 1


@virtual
async def test_s2_6_a_blocked_upload_does_not_shorten_the_body_timeout() -> None:
    # The head came early, the server reads nothing more and goes on answering: the headers timeout is over.
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await asyncio.sleep(20)
        await connection.send(b"ok")
        await connection.stall()

    async def much() -> AsyncIterator[bytes]:
        while True:
            yield LARGE

    async with (
        ScriptedPeer(script) as peer,
        Client(peer.origin, headers_timeout=5, body_timeout=60) as client,
    ):
        upload = await fetch(client, "/", method="POST", body=much())
        assert upload.error is None
        assert upload.body == b"ok"


@virtual
async def test_s2_6_headers_timeout_of_the_second_request_counts_from_its_own_writing() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok())
        await connection.read_request()
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        client = Client(peer.origin, headers_timeout=10, keep_alive_timeout=60, retry_stale=False)
        await fetch(client)
        await asyncio.sleep(9)
        began = asyncio.get_running_loop().time()
        late = await fetch(client)
        assert isinstance(late.error, HeadersTimeoutError)
        assert 10 <= asyncio.get_running_loop().time() - began <= 12
        await client.destroy()


# -- pausing ---------------------------------------------------------------------------------------------


async def test_s2_2_pause_from_another_thread_stops_the_reading_of_the_socket() -> None:
    # The flag is seen before the call arrives on the loop; the socket must be left alone all the same.
    total = 32 << 20
    sent = 0
    begun = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        nonlocal sent
        await connection.read_request()
        await connection.send(f"HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n")
        block = bytes(65536)
        while sent < total and not connection.lost:
            await connection.send(block)
            sent += len(block)
            begun.set()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(keep_body=False, threaded=True)
        send(client, recorder=recorder)
        await recorder.received(1)
        thread = threading.Thread(target=recorder.controller.pause)
        thread.start()
        while not recorder.controller.paused:
            pass  # the loop's thread must not take a turn before the flag is up
        before = -1
        while before != (sent, recorder.body_size):
            before = (sent, recorder.body_size)
            await asyncio.sleep(0.05)
        thread.join()
        assert sent < total - (8 << 20), "the client went on reading"
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body_size == total


async def test_s2_2_calls_of_the_controller_from_other_threads() -> None:
    async with ScriptedPeer(answering_slowly) as peer, Client(peer.origin) as client:
        loop = asyncio.get_running_loop()
        recorder = send(client, recorder=RecordingHandler(threaded=True))
        await recorder.reached("on_response_start")
        for _ in range(20):
            await loop.run_in_executor(None, recorder.controller.pause)
            await loop.run_in_executor(None, recorder.controller.resume)
        await recorder.received(20)
        await loop.run_in_executor(None, recorder.controller.abort, ValueError("enough"))
        await recorder.wait()
        assert isinstance(recorder.error, ValueError)
        await loop.run_in_executor(None, recorder.controller.abort)
        await loop.run_in_executor(None, recorder.controller.pause)
        await loop.run_in_executor(None, recorder.controller.resume)
        assert client.size == 0


async def answering_slowly(connection: PeerConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while not connection.lost:
        await connection.send(b"x")
        await asyncio.sleep(0.001)


async def test_s2_2_pause_at_the_end_of_a_tls_connection_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it")
        connection.close()

    connect = {"ssl_context": make_tls().client_context}
    async with ScriptedPeer(script, tls=True) as peer, Client(peer.origin, connect=connect) as client:
        with caplog.at_level(logging.WARNING):
            recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
            send(client, recorder=recorder)
            await recorder.reached("on_response_start")
            await peer.all_closed() if not peer.open else await settle(50)
            recorder.controller.resume()
            await recorder.wait()
        assert recorder.body == b"all of it"
        assert caplog.records == []


# -- reading ---------------------------------------------------------------------------------------------


async def test_s2_7_close_delimited_body_does_not_lend_its_connection_to_the_next() -> None:
    async def once(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nold")
        connection.close()

    async with ScriptedPeer([once, mirror]) as peer, Client(peer.origin) as client:
        inner = RecordingHandler()
        outer = RecordingHandler(on_response_end=lambda *_: send(client, "/inner", inner))
        send(client, "/outer", outer)
        await outer.wait()
        await inner.wait()
        assert (outer.body, inner.body) == (b"old", b"/inner")
        assert inner.starts == 1


async def test_s2_5_an_idle_poisoned_connection_of_a_blocked_loop_serves_nobody() -> None:
    # The bytes are in the socket, the loop has not seen them, and requests are dispatched without a pause.
    async with ScriptedPeer(mirror) as peer, Client(peer.origin, pipelining=4) as client:
        await fetch(client, "/warm")
        duplicate = peer.connections[0]._socket()
        with duplicate:
            duplicate.send(ok(b"evil") * 4)
            recorders = [send(client, f"/{index}", blocking=False) for index in range(4)]
            for index, recorder in enumerate(recorders):
                await recorder.wait()
                assert recorder.body == f"/{index}".encode()


async def test_options_may_be_dispatched_by_several_dispatchers() -> None:
    # What a connection remembers of the options must not carry one origin's head to another.
    options = DispatchOptions(path="/same")
    async with ScriptedPeer(mirror) as one, ScriptedPeer(mirror) as two:
        async with (
            Client(one.origin) as first,
            Client(two.origin, pipelining=0) as second,
            Client(two.origin) as third,
        ):
            for client in (first, second, third, first, second):
                recorder = RecordingHandler()
                recorder.dispatch(client, options)
                await recorder.wait()
        assert {request.headers["host"] for request in one.requests} == {f"127.0.0.1:{one.port}"}
        assert {request.headers["host"] for request in two.requests} == {f"127.0.0.1:{two.port}"}
        closing = [request.headers.get("connection") for request in two.requests]
        assert closing.count("close") == 2


async def test_s2_5_an_upload_that_wrote_nothing_yet_survives_a_stale_connection() -> None:
    # Not a byte was written, so it may be repeated, whatever its method.
    gate = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"body"

    async def once(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok())
        await leave.wait()
        connection.close()

    leave = asyncio.Event()
    async with ScriptedPeer([once, mirror]) as peer, Client(peer.origin) as client:
        events = Events(client)
        await fetch(client)
        upload = send(client, "/upload", method="POST", body=source())
        await upload.reached("on_request_start")
        await settle()
        leave.set()
        await events.wait("disconnect")
        gate.set()
        await upload.wait()
        # Its source was begun and cannot begin again: an error, but one that says that nothing was sent.
        assert isinstance(upload.error, SocketError)
        assert upload.error.bytes_sent == 0
        assert client.size == 0


async def test_pool_serves_after_every_kind_of_failure() -> None:
    async def script(connection: PeerConnection) -> None:
        while (request := await connection.next_request()) is not None:
            match request.target:
                case "/reset":
                    connection.reset()
                case "/garbage":
                    await connection.send(b"\x15\x03\x01 not http at all\r\n\r\n")
                case "/cut":
                    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                    connection.close()
                case target:
                    await connection.respond(target.encode())

    async with ScriptedPeer(script) as peer, Pool(peer.origin, connections=1) as pool:
        for target in ("/reset", "/garbage", "/cut"):
            assert (await fetch(pool, target, method="POST")).error is not None
            assert (await fetch(pool, "/fine")).body == b"/fine"
            assert pool.stats.size == 0


# -- a pipeline, one of which is aborted -----------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 2, 3])
async def test_s2_2_abort_behind_a_response_that_has_begun_harms_nobody_else(position: int) -> None:
    # The first is in mid-body: it can neither be told again from the beginning nor is there a reason to fail it.
    more = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        for _ in range(4):
            await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await more.wait()
        await connection.send(b"half")
        for index in range(1, 4):
            await connection.respond(f"/{index}".encode())
        await connection.closed()

    async with ScriptedPeer([script, mirror]) as peer, Client(peer.origin, pipelining=4) as client:
        events = Events(client)
        recorders = [send(client, f"/{index}", blocking=False) for index in range(4)]
        await recorders[0].received(4)
        recorders[position].controller.abort(ZeroDivisionError())
        assert isinstance(recorders[position].error, ZeroDivisionError)
        await settle()
        more.set()
        for index, recorder in enumerate(recorders):
            await recorder.wait()
            if index != position:
                assert recorder.body == (f"/{index}".encode() if index else b"halfhalf")
                # Those before it are answered where they were sent, those behind it elsewhere.
                assert recorder.starts == (1 if index < position else 2)
        await events.wait("disconnect")
        assert client.size == 0


@virtual
async def test_s2_6_deadline_behind_a_response_that_has_begun_harms_nobody_else() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await asyncio.sleep(20)
        await connection.send(b"half")
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=2) as client:
        first = send(client, blocking=False)
        second = send(client, blocking=False, timeout=5)
        await second.wait()
        assert isinstance(second.error, TimeoutError)
        await first.wait()
        assert first.body == b"halfhalf"
        assert first.starts == 1


async def test_s2_2_what_is_assigned_to_a_connection_lost_while_paused_goes_elsewhere() -> None:
    # The end is only noticed through a write: the reading is paused.
    async def once(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody")
        await lose.wait()
        connection.reset()

    lose = asyncio.Event()
    async with ScriptedPeer([once, mirror]) as peer, Client(peer.origin, pipelining=3) as client:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        first = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/first", first)
        await first.reached("on_response_start")
        lose.set()
        await peer.all_closed()
        others = [send(client, f"/{index}", blocking=False) for index in range(2)]
        await settle()
        first.controller.resume()
        await first.wait()
        for index, recorder in enumerate(others):
            await recorder.wait()
            assert recorder.body == f"/{index}".encode()
        assert reported == []


# -- uploads that are cut --------------------------------------------------------------------------------


def refuse_uploads(listener: socket.socket, count: int) -> None:
    """Answer without reading the body, and close: the kernel resets the connection."""
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(ok(b"no", "connection: close\r\n", status=413))


async def test_s2_7_an_answer_before_the_end_of_an_upload_is_read_though_the_upload_fails() -> None:
    async def ready() -> AsyncIterator[bytes]:
        while True:  # never suspends: the connection must see to it that others run
            yield bytes(60_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse_uploads, args=(listener, 20), daemon=True)
        thread.start()
        async with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            for _ in range(20):
                upload = await fetch(client, method="POST", body=ready())
                assert (upload.status_code, upload.body) == (413, b"no"), upload.summary()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)


async def test_s2_7_a_ready_source_does_not_starve_the_loop() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await connection.closed()

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def ready() -> Any:
        for _ in range(200):
            yield bytes(60_000)

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        counting = asyncio.ensure_future(count())
        upload = send(client, method="POST", body=ready())
        await upload.reached("on_request_start")
        while upload.controller.bytes_sent < 12_000_000:
            await asyncio.sleep(0)
        counting.cancel()
        upload.controller.abort()
        await upload.wait()
        assert turns >= 40  # a turn for each 128 KiB, or two
