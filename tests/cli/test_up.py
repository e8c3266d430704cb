"""The commands around `dodici up`, as far as they need no server: options, mistakes, tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.cli.cli_kit import run_process

from dodici.cli import main
from dodici.cli.console import duration
from dodici.cli.ps import render

for needed in ("httptools", "prometheus_client", "psutil", "uvicorn", "watchfiles", "websockets"):
    pytest.importorskip(needed)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_check(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('[services.shop]\napp = "a:b"\npath = "/"\n')
    assert main(["up", "shop.toml", "--check"]) == 0
    assert capsys.readouterr().out == f"{file}: shop (a:b): no mistakes found\n"
    file.write_text('[services.shop]\nap = "a:b"\nworkers = 0\n')
    assert main(["up", str(file), "--check"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"dodici: {file}:1: services.shop: 'app' is missing",
        f"dodici: {file}:2: services.shop.ap: unknown key; did you mean 'app'?",
        f"dodici: {file}:3: services.shop.workers: must be a whole number, 1 or more, not 0",
    ]


def test_default_file(tmp_path: Path, capsys: Capture) -> None:
    assert main(["up"]) == 2
    assert "there is no dodici.toml here" in capsys.readouterr().err
    (tmp_path / "dodici.toml").write_text('[services.shop]\napp = "a:b"\n')
    assert main(["up", "--check"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop",), "must be 'module:app'"),
        (("gone.toml",), "No such file"),
        (("./shop/api.py",), "name the app in ./shop/api.py, such as shop.api:app"),
        (("a:b", "--workers", "0"), "0 is not in the range"),
        (("a:b", "--max-rss", "much"), "such as '512MiB'"),
        (("a:b", "--listen", "8000"), "'8000' is no address"),
        (("a:b", "--admin", "0.0.0.0:1"), "use a loopback address"),
        (("a:b", "--name", "../x", "--listen", "127.0.0.1:0"), "is no name"),
        (("shop.toml", "--workers", "2"), "--workers is for MODULE:APP"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "shop.toml").write_text('[services.shop]\napp = "a:b"\n')
    assert main(["up", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ps", "pause x", "resume x", "reload", "stop", "logs"])
def test_nobody_to_ask(command: str, capsys: Capture) -> None:
    assert main(command.split()) == 1
    assert capsys.readouterr().err == "dodici: no `dodici up` of this user is running\n"
    assert main([*command.split(), "--name", "mine"]) == 1
    assert "no `dodici up` answers at" in capsys.readouterr().err


def test_figures_of_a_stopped_server_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from dodici.server import control

    asked: list[float | None] = []

    def client(_: Path, timeout: float | None) -> control.ControlClient:
        asked.append(timeout)
        raise control.ControlError("nobody")

    monkeypatch.setattr(control, "ControlClient", client)
    # What takes its time takes it.
    assert [main([command, "--name", "x"]) for command in ("ps", "reload")] == [1, 1]
    assert asked == [15.0, None]


@pytest.mark.parametrize("command", ["up", "ps", "pause", "resume", "reload", "stop", "logs"])
def test_help(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: {'dodici'} {command} " in shown
    assert "Example" in shown or "Which `dodici up` is meant" in shown


def test_get_does_not_load_the_server() -> None:
    code = "import sys, dodici.cli.app; sys.exit('dodici.server' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert run_process("up", "--check", "x:y").status == 0


SLOT: dict[str, Any] = {
    "index": 0, "id": "w1", "pid": 4711, "state": "ready", "paused": False, "accepting": True, "restarts": 2,
    "uptime": 3725.0, "requests": 12, "errors": 1, "running": 3, "websockets": 0, "rss": 50 * 2**20,
    "loop_lag": 0.0021,
}  # fmt: skip


def test_table() -> None:
    gone = dict.fromkeys(SLOT) | {"index": 1, "state": "waiting", "paused": False, "restarts": 5}
    paused = SLOT | {"pid": 4712, "paused": True}
    services = [
        {"name": "shop", "kind": "process", "state": "running", "error": None, "slots": [SLOT, paused]},
        {"name": "broken", "kind": "process", "state": "failed", "error": "exited with 3", "slots": [gone]},
    ]
    status = {
        "name": "shop-1", "pid": 99, "state": "running", "listening": ["127.0.0.1:8000"], "connections": 4,
        "uptime": 61.0, "services": services,
    }  # fmt: skip
    console = Console(width=160, force_terminal=False, record=True)
    with console.capture() as captured:
        console.print(render(status))
    lines = [line.split() for line in captured.get().splitlines()]
    assert " ".join(lines[0]) == "shop-1 process 99 running 127.0.0.1:8000 4 connections up 1m 1s"
    assert " ".join(lines[3]) == "shop 4711 process ready 12 3 1 50 MiB 2.1 ms 1h 2m 2"
    assert lines[4][3] == "paused"
    assert " ".join(lines[5]) == "broken - process failed - - - - - - 5"
    assert " ".join(lines[6]) == "broken: exited with 3"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3600, "1h 0m"),
        (3660, "1h 1m"),
        (90061, "1d 1h"),
        (86401, "1d 0h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PEER: dict[str, Any] = {
    "id": "node2", "address": "127.0.0.1:50052", "state": "connected", "linked": True, "namespaces": ["shop"],
    "in_flight": 1, "latency": 0.0123, "ejected_for": 0.0, "breakers": {}, "calls": 7, "failures": 2, "since": 1.0,
    "last_activity": 1.0,
}  # fmt: skip


def route(service: str, method: str, **keys: Any) -> dict[str, Any]:
    return {
        "namespace": "shop", "service": service, "method": method, "kind": "unary_unary", "idempotent": False,
        "local": True, "hops": 0, "peers": [], "calls": 2, "failures": 1, "share": 0.25, "shares": {}, **keys,
    }  # fmt: skip


def test_collector_of_the_table() -> None:
    collector = {
        "id": "node1", "address": "127.0.0.1:50051", "state": "draining", "namespaces": ["shop"], "started": 1.0,
        "in_flight": 3, "calls": 9, "failures": 1, "rate": 0.5, "peers": [PEER], "members": [],
        "routes": [
            route("Orders", "*", shares={"node2": 0.5}),
            route("Orders", "~http", shares={"node2": 1.0, "node3": 0.0}),
            route("Stock", "Take", local=False, share=0.0, shares={"node2": 1.0}),
        ],
        "served": [{"namespace": "shop", "service": "Orders", "by": "http://orders.local"}],
        "unanswered": {"127.0.0.1:50053": "nobody answers"},
    }  # fmt: skip
    status = {
        "name": "n", "pid": 99, "state": "running", "listening": [], "connections": 0, "uptime": 1.0, "services": [],
        "collector": collector,
    }  # fmt: skip
    console = Console(width=160, force_terminal=False, record=True)
    with console.capture() as captured:
        console.print(render(status))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "collector node1 127.0.0.1:50051 draining shop 3 in flight 9 calls, 1 failed, 0.5/s" in " ".join(
        lines
    )
    assert "node2 127.0.0.1:50052 connected yes 1 12.3 ms 7 2 shop closed" in lines
    assert "shop/Orders http://orders.local 25 % node2 100 %, node3 0 % 4 2" in lines
    assert "shop/Stock - - node2 100 % 2 1" in lines
    assert lines[-1] == "127.0.0.1:50053 is tried again: nobody answers"


def test_check_looks_at_the_collector(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("grpc")
    file = tmp_path / "shop.toml"
    text = (
        '[services.shop]\napp = "a:b"\n[collector]\nid = "a"\n[collector.services."test.Shop"]\n'
        'origin = "http://shop.local"\n'
    )
    file.write_text(text)
    assert main(["up", str(file), "--check"]) == 0
    assert capsys.readouterr().out == f"{file}: shop (a:b); collector a: no mistakes found\n"
    file.write_text(text.replace('origin = "http://shop.local"', 'handler = "nowhere_at_all:x"'))
    assert main(["up", str(file), "--check"]) == 2
    assert capsys.readouterr().err.startswith(
        f"dodici: {file}:6: collector.services.\"test.Shop\".handler: cannot import 'nowhere_at_all'"
    )
    # What is for `dodici up` is not for `dodici collector`.
    file.write_text(text)
    assert main(["collector", "--config", str(file), "--check"]) == 2
    assert "services: is a table of `dodici up`, which runs a collector, too" in capsys.readouterr().err
