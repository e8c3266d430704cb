"""The part of the benchmark tool about the collective: who takes part, what is compared, and that it runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")
pytest.importorskip("uvloop")

FOLDER = Path(__file__).parents[2] / "benchmarks"
_NAMES = (
    "machine",
    "server",
    "connections",
    "plan",
    "driver",
    "mesh_plan",
    "mesh_driver",
    "report",
    "part_page",
    "mesh_page",
    "collective_plan",
    "collective_page",
    "page",
    "run",
)


@pytest.fixture(scope="module")
def bench():
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER)]
    try:
        yield type("Bench", (), {name: importlib.import_module(name) for name in _NAMES})
    finally:
        sys.path[:] = before
        for name in _NAMES:
            sys.modules.pop(name, None)


def _named(items: Any, name: str) -> Any:
    return next(each for each in items if each.name == name)


def test_who_takes_part(bench) -> None:
    everybody = (
        *bench.plan.CONTENDERS,
        *bench.mesh_plan.MESH_CONTENDERS,
        *bench.collective_plan.COLLECTIVE_CONTENDERS,
    )
    part = {
        scenario.name: [each.name for each in everybody if scenario.admits(each)]
        for scenario in bench.collective_plan.collective_scenarios()
    }
    direct, hop = (
        ["grpc.aio", "dodici-face", "dodici-envelope"],
        ["grpc.aio", "dodici-link", "dodici-link-stream", "dodici-no-link"],
    )
    assert part == {
        **{f"collective-direct-c{callers}": direct for callers in (1, 32, 100)},
        **{f"collective-hop-c{callers}": hop for callers in (1, 32, 100)},
        "collective-tls": ["grpc.aio", "dodici-face"],
        "collective-slow": ["dodici-p2c", "dodici-round-robin"],
        **{
            f"collective-origin-c{callers}": ["dodici-whole", "dodici-gateway", "dodici-hop"]
            for callers in (1, 16)
        },
    }
    for scenario in (*bench.plan.scenarios(1), *bench.mesh_plan.mesh_scenarios()):
        assert not any(scenario.admits(each) for each in bench.collective_plan.COLLECTIVE_CONTENDERS)


def _outcome(bench, name: str, scenario: Any, requests: int, p99: float) -> Any:
    run = {
        "requests": requests,
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "p50_us": 100.0,
        "p99_us": p99,
        "version": "1",
    }
    contender = _named(bench.collective_plan.COLLECTIVE_CONTENDERS, name)
    return bench.report.Outcome(contender, scenario, [run])


@pytest.fixture
def board(bench):
    board = bench.report.Board()
    scenario = _named(bench.collective_plan.collective_scenarios(), "collective-direct-c1")
    board.add(
        scenario,
        [
            _outcome(bench, "grpc.aio", scenario, 4000, 500.0),
            _outcome(bench, "dodici-face", scenario, 3000, 750.0),
            bench.report.Outcome(
                _named(bench.collective_plan.COLLECTIVE_CONTENDERS, "dodici-envelope"), scenario, [], "broke"
            ),
        ],
    )
    slow = _named(bench.collective_plan.collective_scenarios(), "collective-slow")
    board.add(slow, [_outcome(bench, "dodici-p2c", slow, 900, 5000.0)])
    return board


def test_everything_is_compared_with_grpc(board) -> None:
    head, limit, face, envelope = board.table("collective-direct-c1")
    assert head == [
        "client",
        "req/s",
        "range",
        "CPU us/req",
        "p50 ms",
        "p99 ms",
        "vs grpc.aio",
        "p99 added ms",
    ]
    assert limit[-2:] == ["1.00x", ""]
    assert face[-2:] == ["0.75x", "+0.25"]
    assert envelope[:2] == ["dodici-envelope", "broke"]
    assert len(envelope) == len(head)
    head, p2c = board.table("collective-slow")
    assert head[-1] == "p99 ms"
    assert p2c[-1] == "5.00"


def test_page_and_readme_have_it(bench, board) -> None:
    text = "\n".join(bench.collective_page.section(board))
    assert "### Collective: a call to a collector, 100 bytes, 1 caller\n" in text
    assert "| **dodici-face** | **3,000** |" in text
    assert "| **dodici-face** | **3,000 (0.75x)** |" in bench.collective_page.block(board)
    assert bench.collective_page.section(bench.report.Board()) == []
    assert bench.collective_page.block(bench.report.Board()) == ""
    assert (
        board.as_json({}, {})["scenarios"]["collective-direct-c1"]["clients"]["dodici-face"]["vs_limit"]
        == 0.75
    )


@pytest.mark.parametrize(
    ("kind", "worker"),
    [
        ("direct", "bare"),
        ("direct", "envelope"),
        ("tls", "face"),
        ("hop", "bare"),
        ("hop", "link"),
        ("hop", "no-link"),
        ("slow", "round_robin"),
    ],
)
def test_drivers_measure(kind: str, worker: str) -> None:
    words = {
        "origin": "-", "kind": kind, "worker": worker, "size": 100, "concurrency": 3, "seconds": 0.05, "warmup": 0.05,
    }  # fmt: skip
    arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "clients" / "collective_grpc.py"), *arguments],
        input="go\n",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    ready, told = done.stdout.splitlines() or [done.stderr, "{}"]
    assert ready == "ready"
    run = json.loads(told)
    assert run["requests"] >= 3
    assert run["p99_us"] > 0
