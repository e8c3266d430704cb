"""The test kit itself: broken promises are found, scripts that fail are heard, virtual time is exact."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.peers.asgi import AsgiServer
from tests.peers.kit import answering, fetch, ok

from dodici import Client, Dispatcher, Headers, InvalidArgumentError, SocketError
from dodici.core.controller import EndedController, Exchange
from dodici.core.options import DispatchOptions
from dodici.core.timers import Timers
from dodici.testing import (
    FEATURES,
    Board,
    DispatcherControl,
    PeerConnection,
    PeerError,
    PromiseError,
    RecordingHandler,
    ScriptedPeer,
    Target,
    VirtualClock,
    conformance_app,
    pattern,
    run_virtual,
    serve,
    settle,
)

# ---------------------------------------------------------------------------------------- recorder


class Scripted(Dispatcher):
    """A dispatcher that calls back as a test says, right or wrong."""

    closed = destroyed = False  # type: ignore[assignment]

    def __init__(
        self, play: Callable[[Any, Any], None], *, inside: bool = False, returns: Any = True
    ) -> None:
        self.play = play
        self.inside = inside
        self.returns = returns

    def dispatch(self, options: Any, handler: Any) -> bool:
        controller = EndedController()
        if self.inside:
            self.play(handler, controller)
        else:
            asyncio.get_running_loop().call_soon(self.play, handler, controller)
        return self.returns  # type: ignore[no-any-return]

    async def close(self) -> None: ...
    async def destroy(self, error: BaseException | None = None) -> None: ...


EMPTY = Headers()


def well(handler: Any, controller: Any) -> None:
    handler.on_request_start(controller, {})
    handler.on_response_start(controller, 103, EMPTY, "Hints")
    handler.on_response_start(controller, 200, EMPTY, "OK")
    handler.on_response_data(controller, b"a")
    handler.on_response_data(controller, b"b")
    handler.on_response_end(controller, EMPTY)


async def test_recorder_of_a_good_exchange() -> None:
    recorder = RecordingHandler()
    recorder.dispatch(Scripted(well))
    await recorder.wait()
    assert recorder.names == [
        "request_start",
        "response_start",
        "response_start",
        "response_data",
        "response_end",
    ]
    assert (recorder.status_code, recorder.body, recorder.body_size, recorder.starts) == (200, b"ab", 2, 1)
    assert recorder.informational == [(103, EMPTY)]
    assert recorder.ended.result() is recorder


def played(*steps: Callable[[Any, Any], Any]) -> Callable[[Any, Any], None]:
    def play(handler: Any, controller: Any) -> None:
        for step in steps:
            step(handler, controller)

    return play


def start(h: Any, c: Any) -> None:
    h.on_request_start(c, {})


def head(h: Any, c: Any) -> None:
    h.on_response_start(c, 200, EMPTY, "OK")


def end(h: Any, c: Any) -> None:
    h.on_response_end(c, EMPTY)


def fail(h: Any, c: Any) -> None:
    h.on_response_error(c, SocketError("x"))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([start, head, end, end], "on_response_end after the terminal"),
        ([start, head, end, fail], "on_response_error after the terminal"),
        ([start, fail, lambda h, c: h.on_response_data(c, b"x")], "on_response_data after the terminal"),
        ([head, end], "on_response_start before on_request_start"),
        ([start, end], "before the final response head"),
        ([start, head, head, end], "after the final response head"),
        ([start, head, start, end], "on_request_start after the final"),
        ([start, lambda h, c: h.on_response_data(c, b"x"), head, end], "data before the final"),
        ([start, head, lambda h, c: h.on_response_data(c, b""), end], "non-empty bytes"),
        ([start, head, lambda h, c: h.on_response_data(c, bytearray(b"x")), end], "non-empty bytes"),
        ([start, head, lambda h, c: h.on_response_end(c, None)], "trailers are NoneType"),
        ([start, lambda h, c: h.on_response_start(c, "200", EMPTY, "OK"), end], "status_code is '200'"),
        ([start, lambda h, c: h.on_response_start(c, 200, {}, "OK"), end], "headers are dict"),
        ([start, lambda h, c: h.on_response_error(c, "text")], "not an exception"),
        ([start, lambda h, c: h.on_response_error(EndedController(), SocketError())], "another controller"),
        ([end], "was the first callback"),
    ],
)
async def test_recorder_finds_broken_promises(steps: list[Any], said: str) -> None:
    recorder = RecordingHandler()
    recorder.dispatch(Scripted(played(*steps)))
    try:
        with pytest.raises(PromiseError, match=said):
            await recorder.wait()
    except TypeError:
        pytest.fail("the recorder itself failed")


async def test_recorder_finds_callbacks_inside_dispatch() -> None:
    recorder = RecordingHandler()
    recorder.dispatch(Scripted(well, inside=True))
    with pytest.raises(PromiseError, match="inside dispatch"):
        await recorder.wait()


async def test_recorder_finds_a_wrong_answer_of_dispatch() -> None:
    for play, returns, said in ((well, None, "not a bool"), (fail, True, "returned True")):
        recorder = RecordingHandler()
        recorder.dispatch(Scripted(play, inside=play is fail, returns=returns))
        with pytest.raises(PromiseError, match=said):
            await recorder.wait()


async def test_recorder_finds_the_wrong_thread() -> None:
    recorder = RecordingHandler()
    await asyncio.to_thread(recorder.on_request_start, EndedController(), {})
    with pytest.raises(PromiseError, match="another thread"):
        recorder.check()


async def test_recorder_times_out_and_says_what_there_was() -> None:
    recorder = RecordingHandler()
    recorder.dispatch(Scripted(played(start)))
    with pytest.raises(TimeoutError, match=r"terminal callback did not come .* on_request_start"):
        await recorder.wait(0.02)
    with pytest.raises(TimeoutError, match="3 bytes of body"):
        await recorder.received(3, 0.02)


async def test_recorder_does_not_wait_for_what_cannot_come() -> None:
    recorder = RecordingHandler()
    recorder.dispatch(Scripted(well))
    with pytest.raises(PromiseError, match="ended before 3 bytes"):
        await recorder.received(3)


async def test_recorder_refuses_unknown_hooks() -> None:
    with pytest.raises(InvalidArgumentError, match="on_reponse_end"):
        RecordingHandler(on_reponse_end=print)


# ------------------------------------------------------------------------------------------- peers


async def test_peer_reports_what_it_did_not_expect() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.expect(b"POST ")

    with pytest.raises(PeerError, match=r"connection 1: expected b'POST ', got b'GET /"):
        async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
            assert isinstance((await fetch(client)).error, SocketError)


async def test_peer_reports_exceptions_of_its_script_and_unexpected_connections() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        raise LookupError("a slip")

    with pytest.raises(
        PeerError, match=r"LookupError: a slip; connection 2: .* 1 connections only"
    ) as caught:
        async with ScriptedPeer([script]) as peer, Client(peer.origin) as client:
            await fetch(client)
            await fetch(client)
    assert isinstance(caught.value.__cause__, LookupError)


async def test_peer_finds_what_was_sent_beyond_the_end() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.expect(b"he")
        await connection.read_eof()

    with pytest.raises(PeerError, match="expected the end, got b'llo'"):
        async with ScriptedPeer(script) as peer:
            _, writer = await asyncio.open_connection("127.0.0.1", peer.port)
            writer.write(b"hello")
            writer.close()
            await writer.wait_closed()
            await peer.finished()


async def test_peer_records_and_serves() -> None:
    async with ScriptedPeer(serve(ok(b"1"), ok(b"2"), then="stall")) as peer, Client(peer.origin) as client:
        assert (await fetch(client, "/a")).body == b"1"
        assert (await fetch(client, "/b", method="POST", body=iter((b"chu", b"nked")))).body == b"2"
        assert [(one.method, one.target, one.body) for one in peer.requests] == [
            ("GET", "/a", b""),
            ("POST", "/b", b"chunked"),
        ]
        assert peer.open == 1
        assert peer.connections[0].received.startswith(b"GET /a HTTP/1.1\r\n")
        await client.close()
        await peer.all_closed()


async def test_peer_over_tls_and_unix() -> None:
    async with (
        ScriptedPeer(answering, tls=True, unix=True) as peer,
        Client(
            peer.origin, socket_path=peer.socket_path, connect={"ssl_context": peer.client_context}
        ) as client,
    ):
        assert (await fetch(client)).body == b"ok"


# ------------------------------------------------------------------------------------------- clock


def test_virtual_clock_runs_what_is_due_in_order() -> None:
    clock, ran = VirtualClock(), []
    begin = clock.time()
    clock.call_later(2, lambda: ran.append(("two", clock.time() - begin)))
    clock.call_later(1, lambda: ran.append(("one", clock.time() - begin)))
    clock.call_later(1, lambda: clock.call_later(0.5, ran.append, ("nested", clock.time() - begin)))
    clock.call_later(1.2, ran.append, "never").cancel()
    clock.call_later(9, ran.append, "later")
    assert clock.advance(0.9) == 0
    assert clock.advance(1.1) == 4
    assert ran == [("one", 1.0), ("nested", 1.0), ("two", 2.0)]
    assert clock.pending == 1


def test_virtual_clock_drives_timers_and_exchanges() -> None:
    clock = VirtualClock()
    fired: list[float] = []
    timer = Timers(clock).timer(lambda: fired.append(clock.time()))
    timer.arm(30)
    clock.advance(29.9)
    assert not fired
    clock.advance(2)
    assert len(fired) == 1

    told: list[BaseException] = []

    class Handler:
        def on_response_error(self, _: Any, error: BaseException) -> None:
            told.append(error)
            raise LookupError

    exchange = Exchange(Handler(), DispatchOptions(), clock, threading.get_ident())
    exchange.abort()
    assert len(told) == 1
    assert isinstance(clock.exceptions[0]["exception"], LookupError)


def test_virtual_time_is_exact_and_fast() -> None:
    async def main() -> tuple[float, str]:
        loop = asyncio.get_running_loop()
        since = loop.time()
        await asyncio.sleep(3600)
        found = await loop.run_in_executor(None, time.sleep, 0.05)
        assert found is None
        assert loop.time() - since == 3600
        async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
            return loop.time() - since, (await fetch(client)).body.decode()

    since = time.monotonic()
    elapsed, body = run_virtual(main())
    assert time.monotonic() - since < 5
    assert body == "ok"
    assert elapsed == 3600


def test_virtual_time_has_a_limit_in_real_time() -> None:
    with pytest.raises(TimeoutError, match="real time"):
        run_virtual(asyncio.Event().wait(), limit=0.05)


# --------------------------------------------------------------------------------- the suite's own


def test_pattern_continues() -> None:
    assert pattern(200_000) == pattern(70_001) + pattern(129_999, 70_001)
    assert pattern(0) == b""


async def test_board_wakes_waiters_on_other_threads() -> None:
    board = Board()
    waiting = asyncio.ensure_future(board.wait("a"))
    await settle(3)
    await asyncio.to_thread(board.set, "a")
    async with asyncio.timeout(5):
        await waiting
        await board.wait("a")
    board.add("a", 2)
    assert board.get("a") == 3


async def test_board_through_a_dispatcher() -> None:
    async with AsgiServer(conformance_app) as server, Client(server.origin, pipelining=1) as client:
        control = DispatcherControl(client, server.origin)
        await control.set("x:there/and back")
        await control.wait("x:there/and back")
        assert await control.get("x:there/and back") == 1
        assert await control.get("x:nothing") == 0


async def test_target_refuses_unknown_features() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown feature 'trailer'"):
        Target(Client("http://a"), "http://a", features=FEATURES | {"trailer"})


PREAMBLE = """
import pytest_asyncio
import dodici
from dodici.testing import DispatcherConformance, Target, conformance_app
from tests.peers.asgi import AsgiServer

class Base(DispatcherConformance):
    __test__ = False
    @pytest_asyncio.fixture
    async def target(self):
        async with AsgiServer(conformance_app) as server:
            agent = dodici.Agent()
            wrapped = agent.compose(lambda dispatch: lambda options, handler: dispatch(options, self.wrong(handler)))
            yield Target(wrapped, server.origin, features=())
            await agent.destroy()
"""

FAULTY = """
class Wrong{number}(dodici.DecoratorHandler):
    {fault}

class TestWrong{number}(Base):
    __test__ = True
    wrong = Wrong{number}
"""

CHOSEN = "callbacks_come or repeated_headers or large_body or raising_aborts or abort_in_a_callback"

FAULTS = {
    "none": "pass",
    "end-twice": """
    def on_response_end(self, controller, trailers):
        self.handler.on_response_end(controller, trailers)
        self.handler.on_response_end(controller, trailers)""",
    "joined-chunks": """
    def on_response_data(self, controller, chunk):
        self.handler.on_response_data(controller, bytearray(chunk))""",
    "lost-chunk": """
    seen = 0
    def on_response_data(self, controller, chunk):
        self.seen += 1
        if self.seen != 2: self.handler.on_response_data(controller, chunk)""",
    "wrapped-error": """
    def on_response_error(self, controller, error):
        self.handler.on_response_error(controller, dodici.SocketError(str(error)))""",
    "swallowed-exception": """
    def on_response_start(self, *args):
        try: self.handler.on_response_start(*args)
        except Exception: pass""",
    "joined-cookies": """
    def on_response_start(self, controller, status, headers, message):
        self.handler.on_response_start(controller, status, dodici.Headers(dict(headers)), message)""",
}


async def test_conformance_finds_faults(tmp_path: Path) -> None:
    """One class per fault, in a process of its own: the good one passes, each other one fails somewhere."""
    root = Path(__file__).parents[2]
    file = tmp_path / "test_generated.py"
    classes = [
        FAULTY.format(number=number, fault=fault.strip()) for number, fault in enumerate(FAULTS.values())
    ]
    file.write_text(PREAMBLE + "".join(classes))
    python_path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    options = [
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "--timeout",
        "2",
        "--tb",
        "no",
    ]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), "-k", CHOSEN, str(file)],
        env={**os.environ, "PYTHONPATH": python_path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) .*::TestWrong(\d+)::", done.stdout, re.MULTILINE)
    failed = {int(number) for outcome, number in outcomes if outcome != "PASSED"}
    assert outcomes.count(("PASSED", "0")) >= 6, done.stdout
    assert failed == set(range(1, len(FAULTS))), done.stdout
