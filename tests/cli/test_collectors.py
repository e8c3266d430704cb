"""`dodici collector` as a process, and `dodici collectors` that looks at it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")
pytest.importorskip("prometheus_client")

from rich.console import Console
from tests.cli.cli_kit import environment, run_process, spawn

from dodici.cli import main
from dodici.cli.collectors_table import Rates, render
from dodici.collective.data_plane import Channel
from dodici.collective.errors import CollectiveError, call_error
from dodici.core.grpc_status import GrpcStatus

Capture = pytest.CaptureFixture[str]

CODE = """
import asyncio

class Orders:
    async def Create(self, context, given):
        return {"id": 1, **given}

    async def Hold(self, context, given):
        print("held", flush=True)
        await asyncio.sleep(given)
        return "at last"

    def Fail(self, context, given):
        raise ValueError("a secret")
"""
ORDERS = """
[collector]
id = "orders-1"
listen = "127.0.0.1:0"
metrics = "127.0.0.1:0"

[collector.services."orders.OrderService"]
handler = "orders:Orders"
idempotent = ["Create"]
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.py").write_text(CODE)
    (tmp_path / "orders.toml").write_text(ORDERS)


class Process:
    """A running `dodici collector`."""

    def __init__(self, *arguments: str) -> None:
        self.popen = spawn(
            "collector", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.popen.stdout is not None
        self.first = self.popen.stdout.readline()
        found = re.search(r"collector (\S+), process (\d+), listening at ([^\s,]+)", self.first)
        assert found is not None, self.first + str(self.popen.communicate()[1])
        self.id, self.pid, self.address = found[1], int(found[2]), found[3]

    def line(self) -> str:
        assert self.popen.stdout is not None
        return str(self.popen.stdout.readline())

    def wait(self) -> tuple[int, str]:
        errors = self.popen.communicate(timeout=30)[1]
        return self.popen.returncode, str(errors)


@contextmanager
def collector(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


@contextmanager
def gate_and_orders() -> Iterator[tuple[Process, Process]]:
    with ExitStack() as stack:
        orders = stack.enter_context(collector("--config", "orders.toml"))
        gate = stack.enter_context(
            collector(
                "--id",
                "gate",
                "--listen",
                "127.0.0.1:0",
                "--namespace",
                "orders",
                "--connect",
                orders.address,
            )
        )
        assert gate.popen.stderr is not None
        while "connected to orders-1" not in str(gate.popen.stderr.readline()):
            assert gate.popen.poll() is None
        yield gate, orders


def test_calls_pass_from_one_process_to_the_other(capsys: Capture) -> None:
    with gate_and_orders() as (gate, orders):
        assert main(["call", gate.address, "orders", "OrderService.Create", '{"sku": "a"}', "-v"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out) == {"id": 1, "sku": "a"}
        assert "handled by orders-1" in told.err

        assert main(["collectors", gate.address, "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert (seen["id"], seen["state"], seen["calls"], seen["failures"]) == ("gate", "serving", 1, 0)
        [peer] = seen["peers"]
        assert (peer["id"], peer["address"], peer["calls"]) == ("orders-1", orders.address, 1)
        assert [record["handled_by"] for record in seen["history"]] == ["orders-1"]

        assert main(["collectors", "--json"]) == 0
        both = {each["id"]: each for each in json.loads(capsys.readouterr().out)}
        assert set(both) == {"gate", "orders-1"}
        assert both["orders-1"]["history"][0]["role"] == "serve"

        assert main(["collectors", "--calls"]) == 0
        shown = capsys.readouterr().out
        assert re.search(
            r"^gate +127\.0\.0\.1:\d+ +serving +orders +0 in flight +1 calls, 0 failed", shown, re.MULTILINE
        )
        assert re.search(r"^orders-1 +127\.0\.0\.1:\d+ +connected +yes .* orders closed", shown, re.MULTILINE)
        assert re.search(
            r"^orders/OrderService.Create +unary_unary, idempotent +no +1 +orders-1 +1 +0",
            shown,
            re.MULTILINE,
        )
        assert re.search(r"^orders/OrderService.Create +entry +\S+ +orders-1 +200 OK", shown, re.MULTILINE)


def test_sigterm_lets_running_calls_end() -> None:
    with collector("--config", "orders.toml") as process:

        async def call() -> bytes:
            from dodici.collective.protos import collector_pb2
            from dodici.collective.values import from_any, to_any

            request = collector_pb2.DispatchRequest(namespace="orders", method_name="Hold", input=to_any(0.5))
            request.service.service_name = "OrderService"
            channel = Channel(process.address)
            try:
                answering = asyncio.ensure_future(
                    channel.unary(
                        "/collector.CollectiveDispatcher/Dispatch", request.SerializeToString(), timeout=20
                    )
                )
                assert await asyncio.to_thread(process.line) == "held\n"
                os.kill(process.pid, signal.SIGTERM)
                answer = collector_pb2.DispatchResponse.FromString(await answering)
                assert answer.status.code == 200, answer
                return from_any(answer.output)  # type: ignore[no-any-return]
            finally:
                await channel.close()

        assert asyncio.run(call()) == "at last"
        status, errors = process.wait()
        assert status == 0
        assert "orders-1 drains" in errors


def test_a_second_signal_ends_it_now() -> None:
    with collector("--config", "orders.toml") as process:

        async def call() -> None:
            from dodici.collective.protos import collector_pb2
            from dodici.collective.values import to_any

            request = collector_pb2.DispatchRequest(
                namespace="orders", method_name="Hold", input=to_any(25.0)
            )
            request.service.service_name = "OrderService"
            channel = Channel(process.address)
            try:
                answering = asyncio.ensure_future(
                    channel.unary(
                        "/collector.CollectiveDispatcher/Dispatch", request.SerializeToString(), timeout=20
                    )
                )
                assert await asyncio.to_thread(process.line) == "held\n"
                os.kill(process.pid, signal.SIGTERM)
                assert process.popen.stderr is not None
                while "drains" not in await asyncio.to_thread(process.popen.stderr.readline):
                    pass
                os.kill(process.pid, signal.SIGINT)
                with pytest.raises(CollectiveError):
                    await answering
            finally:
                await channel.close()

        asyncio.run(call())
        assert process.wait()[0] == 0


def test_log_lines_carry_the_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with collector("--config", "orders.toml") as process:
        ran = run_process(
            "call", process.address, "orders", "OrderService.Fail", "1",
            "-m", f"traceparent: 00-{trace}-00f067aa0ba902b7-01",
        )  # fmt: skip
        assert ran.status == 77
        assert "secret" not in ran.err
        os.kill(process.pid, signal.SIGTERM)
        status, errors = process.wait()
    assert status == 0
    assert f"ERROR dodici.collective trace={trace}: orders/OrderService.Fail failed" in errors
    assert "ValueError: a secret" in errors


def test_metrics_are_served(capsys: Capture) -> None:
    with collector("--config", "orders.toml") as process:
        assert main(["call", process.address, "orders", "OrderService.Create", "{}"]) == 0
        found = re.search(r"metrics at (http://\S+)", process.first)
        assert found is not None
        with urllib.request.urlopen(found[1], timeout=10) as answer:
            text = answer.read().decode()
        assert (
            'dodici_collective_calls_total{code="OK",method="Create",namespace="orders",peer="",role="serve",'
            'service="OrderService"} 1.0'
        ) in text


def test_left_over_sockets_are_cleared_away(capsys: Capture, tmp_path: Path) -> None:
    with collector("--config", "orders.toml") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.popen.wait(10)
        [left] = (tmp_path / "dodici").glob("*.collector")
        assert main(["collectors"]) == 1
        assert "no collector of this user is running" in capsys.readouterr().err
        assert not left.exists()


def test_a_stopped_one_leaves_no_socket(tmp_path: Path) -> None:
    with collector("--config", "orders.toml") as process:
        assert len([*(tmp_path / "dodici").glob("*.collector")]) == 1
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait()[0] == 0
    assert not [*(tmp_path / "dodici").glob("*.collector")]


def test_what_cannot_be_started(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = run_process("collector", "--id", "a", "--listen", address)
        assert ran.status == 1
        assert f"dodici: cannot listen on {address}" in ran.err
        assert "Traceback" not in ran.err
        ran = run_process("collector", "--id", "a", "--listen", "127.0.0.1:0", "--metrics", address)
        assert ran.status == 1
        assert f"dodici: metrics cannot listen at {address}" in ran.err
        assert "Traceback" not in ran.err


def test_nobody_tells(capsys: Capture) -> None:
    assert main(["collectors", "127.0.0.1:1"]) == 78
    assert capsys.readouterr().err.startswith("dodici: UNAVAILABLE: ")
    assert main(["collectors", "nonsense"]) == 2


# -- the examples --------------------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parents[2] / "examples" / "collective"


@pytest.mark.parametrize("name", ["orders", "gate"])
def test_examples_have_no_mistakes(name: str) -> None:
    ran = run_process("collector", "--config", str(EXAMPLES / f"{name}.toml"), "--check")
    assert (ran.status, ran.err) == (0, "")
    assert b"no mistakes found" in ran.out


def test_example_of_a_line() -> None:
    script = [sys.executable, str(EXAMPLES / "line.py")]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=40, env=environment(), check=True)
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["200", "200", "400"]
    assert [line.partition(" trace")[0] for line in lines[-4:-1]] == [
        "gate: entry, handled by store,",
        "between: forward, handled by store,",
        "store: serve, handled by store,",
    ]


# -- the tables ----------------------------------------------------------------------------------------------


def figures(**changed: Any) -> dict[str, Any]:
    peer = {
        "id": "b", "address": "h:1", "state": "connected", "linked": True, "namespaces": ["n"], "in_flight": 2,
        "latency": 0.0015, "ejected_for": 0.0, "breakers": {"n": "open"}, "calls": 10, "failures": 1,
        "since": 0.0, "last_activity": 0.0,
    }  # fmt: skip
    member = {
        "id": "c", "address": "h:2", "namespaces": ["n"], "epoch": 1, "started": 0.0, "source": "etcd",
        "alive": False, "last_seen": 940.0,
    }  # fmt: skip
    return {
        "id": "a", "address": "h:0", "state": "serving", "namespaces": ["n"], "started": 900.0, "in_flight": 3,
        "calls": 20, "failures": 2, "rate": 1.25, "peers": [peer], "routes": [], "members": [member],
        "history": [], **changed,
    }  # fmt: skip


def text_of(*given: dict[str, Any], rates: Rates | None = None, now: float = 1000.0) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render([*given], rates, now, calls=True))
    return console.export_text()


def test_tables_tell_breakers_members_and_rates() -> None:
    text = text_of(figures())
    assert re.search(
        r"^a +h:0 +serving +n +3 in flight +20 calls, 2 failed, 1\.2/s +up 1m 40s", text, re.MULTILINE
    )
    assert re.search(r"^b +h:1 +connected +yes +2 +1\.5 ms +10 +1 +n open", text, re.MULTILINE)
    assert re.search(r"^c +h:2 +etcd +n +1m 0s, not alive", text, re.MULTILINE)
    assert "CALLS/S" not in text
    rates = Rates()
    assert re.search(r"10 +1 +- +n open", text_of(figures(), rates=rates))
    later = figures()
    later["peers"][0]["calls"] = 35
    assert re.search(r"35 +1 +12\.5 +n open", text_of(later, rates=rates, now=1002.0))


def test_an_ejected_peer_is_one() -> None:
    given = figures()
    given["peers"][0]["ejected_for"] = 12.0
    assert re.search(r"^b +h:1 +ejected", text_of(given), re.MULTILINE)


def test_many_routes_are_cut() -> None:
    route = {
        "namespace": "n", "service": "S", "kind": "unary_unary", "idempotent": False, "local": True, "hops": 0,
        "peers": [], "calls": 0, "failures": 0,
    }  # fmt: skip
    text = text_of(figures(routes=[{**route, "method": f"m{number:03}"} for number in range(60)]))
    assert "n/S.m049" in text
    assert "n/S.m050" not in text
    assert "and 10 more; --json has them" in text
    assert "not told" not in text
    assert "and 7 that it has not told" in text_of(figures(routes_left_out=7))


def test_watching_shows_it_again_until_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    looks = 0

    def look() -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt
        return [figures(calls=looks)]

    monkeypatch.setattr("dodici.cli.collectors._local", look)
    assert main(["collectors", "--watch", "--interval", "0.1"]) == 130
    assert looks == 3
    assert "20 calls" not in capsys.readouterr().out
    looks = 0
    assert main(["collectors", "--watch", "--json", "--interval", "0.1"]) == 130
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("[{")]
    assert [line[0]["calls"] for line in lines] == [1, 2]


def test_watching_outlasts_a_restart(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    looks = 0

    def remote(*_: Any) -> Any:
        def look() -> list[dict[str, Any]]:
            nonlocal looks
            looks += 1
            if looks == 2:
                raise call_error(GrpcStatus.UNAVAILABLE, "nobody\x1b there")
            if looks == 4:
                raise KeyboardInterrupt
            return [figures(calls=looks)]

        return look

    monkeypatch.setattr("dodici.cli.collectors._remote", remote)
    assert main(["collectors", "h:1", "--watch", "--interval", "0.1"]) == 130
    told = capsys.readouterr().out
    shown = re.findall(r"\d calls|UNAVAILABLE.*there", told)
    assert shown == ["1 calls", "UNAVAILABLE: nobody? there", "3 calls"]
    looks = 1  # who has never told anything is not waited for
    assert main(["collectors", "h:1", "--watch", "--interval", "0.1"]) == 64 + GrpcStatus.UNAVAILABLE


def test_names_are_no_markup_and_do_not_move_the_cursor() -> None:
    odd = "a[red]b[/]c\x1b[2J"
    peer = {**figures()["peers"][0], "id": odd, "namespaces": [odd], "breakers": {}}
    text = text_of(figures(namespaces=[odd], peers=[peer]))
    assert text.count("a[red]b[/]c?[2J") == 3
    assert "\x1b" not in text


@pytest.mark.parametrize("as_json", [False, True])
def test_each_look_is_written_at_once_into_a_pipe(as_json: bool) -> None:
    with (
        collector("--config", "orders.toml") as orders,
        spawn(
            "collectors",
            orders.address,
            "--watch",
            "--interval",
            "0.1",
            *(("--json",) if as_json else ()),
            stdout=-1,
            stderr=-1,
        ) as process,
    ):
        assert process.stdout is not None
        looks = 0
        while looks < 2:
            looks += b"orders-1" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 23
        assert process.stderr is not None
        assert process.stderr.read() == b""
