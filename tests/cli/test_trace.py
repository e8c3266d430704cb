"""`dodici trace`: the tree, the list, and what is said when there is nothing to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.server.up_kit import up, write

from dodici.cli import main
from dodici.cli.trace_tree import show_path, show_traces, tree

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def row(
    kind: str,
    span: str,
    parent: str = "",
    *,
    at: float = 0.0,
    node: str = "n",
    status: str = "200",
    name: str = "GET /",
) -> list[Any]:
    return [node, kind, ID, span, parent, name, "", 1000.0 + at, 0.002, status, 7]


def drawn(*rows: list[Any]) -> list[str]:
    return [f"{line.indent}{line.span.kind} {line.span.span_id}" for line in tree(rows)]


def test_spans_are_drawn_below_those_that_asked_for_them() -> None:
    assert drawn(
        row("worker", "c", "b", at=0.2),
        row("gateway", "a", "client", at=0.0),
        row("mesh", "d", "c", at=0.4),
        row("mesh", "b", "a", at=0.1),
        row("mesh", "e", "c", at=0.3),
        row("worker", "f", "e", at=0.35),
    ) == [
        "gateway a",
        "└─ mesh b",
        "   └─ worker c",
        "      ├─ mesh e",
        "      │  └─ worker f",
        "      └─ mesh d",
    ]


def test_clocks_that_disagree_change_no_tree() -> None:
    assert drawn(row("entry", "a"), row("serve", "b", "a", at=-5.0)) == ["entry a", "└─ serve b"]


def test_what_nobody_knows_leaves_tops_in_the_order_of_their_starts() -> None:
    assert drawn(row("worker", "b", "lost", at=1.0), row("gateway", "a", at=0.0)) == ["gateway a", "worker b"]


def test_a_span_that_is_told_of_twice_is_drawn_once() -> None:
    assert drawn(row("worker", "a", node="n"), row("worker", "a", node="m")) == ["worker a"]


def test_spans_without_an_id_are_leaves() -> None:
    assert drawn(row("entry", ""), row("serve", "", at=1.0), row("mesh", "a")) == [
        "mesh a",
        "entry ",
        "serve ",
    ]


def test_what_is_its_own_parent_and_rings_of_parents_end() -> None:
    assert drawn(row("mesh", "a", "a")) == ["mesh a"]
    assert drawn(row("mesh", "a", "b"), row("worker", "b", "a", at=1.0)) == ["? mesh a", "? worker b"]


def test_a_chain_of_any_length_is_shown() -> None:
    rows = [
        row("mesh", f"{number:x}", f"{number - 1:x}" if number else "", at=number) for number in range(3000)
    ]
    assert len(drawn(*rows)) == 3000


def test_the_tree_has_times_and_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "spans": [
            row("gateway", "a", node="node1", status="503", name="GET /\x1b[2Jorders"),
            row("worker", "b", "a", at=0.0015, node="node2"),
        ],
        "silent": [],
    }
    assert show_path(ID, answer) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"trace {ID}  ")
    assert lines[0].endswith("2 spans")
    assert lines[3].split() == [
        "gateway",
        "GET",
        "/?[2Jorders",
        "node1",
        "7",
        "+0.0",
        "ms",
        "2.0",
        "ms",
        "503",
    ]
    assert lines[4].split() == ["└─", "worker", "GET", "/", "node2", "7", "+1.5", "ms", "2.0", "ms", "200"]


def test_who_did_not_tell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_path(ID, {"spans": [row("gateway", "a")], "silent": ["node2: it is not connected"]}) == 1
    assert "did not tell: node2: it is not connected" in capsys.readouterr().err
    assert show_path(ID, {"spans": [], "silent": []}) == 1
    assert f"nobody here knows the trace {ID}" in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {
        "trace_id": ID,
        "name": "GET /",
        "kind": "gateway",
        "target": "shop",
        "started": 1000.0,
        "duration": 0.25,
    }
    traces = [
        {**listed, "status": "200", "failed": True, "spans": 3},
        {**listed, "status": "503", "failed": True, "spans": 1},
        {**listed, "status": "200", "failed": False, "spans": 2},
    ]
    assert show_traces({"traces": traces, "silent": []}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["TRACE", "STARTED", "DURATION", "STATUS", "SPANS", "WHAT"]
    assert [line.split("ms", 1)[1].strip() for line in lines[1:]] == [
        "200, failed inside      3  GET / -> shop",
        "503                     1  GET / -> shop",
        "200                     2  GET / -> shop",
    ]
    assert show_traces({"traces": [], "silent": ["w1"]}) == 1
    captured = capsys.readouterr()
    assert captured.out == "no request is remembered that fits\n"
    assert "did not tell: w1" in captured.err


def test_of_a_collector(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc")
    from tests.collective import kit

    def trace(*arguments: str) -> tuple[int, str, str]:
        status = main(["trace", "--collector", address, *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    with kit.process() as address:
        assert trace() == (0, "no request is remembered that fits\n", "")
        given = f"traceparent:00-{ID}-00f067aa0ba902b7-01"
        assert main(["call", address, "plain", "Echo.Say", "1", "-m", given]) == 0
        assert main(["call", address, "plain", "Echo.Say", '"bug"']) == 77
        capsys.readouterr()
        status, out, _ = trace(ID)
        assert status == 0
        assert [line.split()[:4] for line in out.splitlines()[3:]] == [
            ["entry", "Echo/Say", "in", "plain"],
            ["└─", "serve", "Echo/Say", "in"],
        ]
        status, out, _ = trace(ID, "--json")
        assert [(span[0], span[1], span[2]) for span in json.loads(out)["spans"]] == [
            ("kit-1", "serve", ID),
            ("kit-1", "entry", ID),
        ]
        status, out, _ = trace("--json")
        assert [(each["spans"], each["status"], each["trace_id"] == ID) for each in json.loads(out)] == [
            (2, "INTERNAL", False),
            (2, "OK", True),
        ]
        status, out, _ = trace("--failed", "--json")
        assert [each["status"] for each in json.loads(out)] == ["INTERNAL"]
        assert len(json.loads(trace("--slow", "-n", "1", "--json")[1])) == 1
        assert trace("b" * 32)[0] == 1
        status, out, err = trace("xyz")
        assert (status, out) == (67, "")
        assert "32 hexadecimal digits, not 'xyz'" in err
        for wrong in (("--name", "x"), ("--config", "x"), (ID, "--slow"), ("--cacert", __file__)):
            assert trace(*wrong)[:2] == (2, "")
    assert trace(ID)[0] == 78
    assert main(["trace", "--cacert", "ca.pem"]) == 2
    assert "go with --collector" in capsys.readouterr().err


def test_without_anybody_a_collector_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["trace"]) == 1
    assert "name a collector with --collector" in capsys.readouterr().err


def test_who_did_not_tell_is_told_beside_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dodici.cli.trace.asked", lambda ask, *_, **__: ask(Silent()))
    assert main(["trace", "--json"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("[]\n", "dodici: did not tell: w1\n")


class Silent:
    def call(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"traces": [], "silent": ["w1"]}


async def test_of_a_running_server(tmp_path: Path) -> None:
    for needed in ("httptools", "prometheus_client", "psutil", "uvicorn", "watchfiles"):
        pytest.importorskip(needed)
    file = write(tmp_path, '[services.shop]\napp = "sample:app"\npath = "/"\ncwd = "APPS"\n')
    async with up(tmp_path, file) as running:
        code, text = await running.command("trace")
        assert (code, text) == (0, "no request is remembered that fits\n")
        given = f"00-{ID}-00f067aa0ba902b7-01"
        await running.get("/pid?secret=1", headers={"traceparent": given})
        code, text = await running.command("trace", ID)
        assert code == 0
        assert [line.split()[:4] for line in text.splitlines()[3:]] == [
            ["gateway", "GET", "/pid", "->"],
            ["└─", "mesh", "GET", "/pid"],
            ["└─", "worker", "GET", "/pid"],
        ]
        code, told = await running.command("trace", given.upper(), "--json")
        assert code == 0
        found = json.loads(told)
        assert [span[1] for span in sorted(found["spans"], key=lambda span: span[7])] == [
            "gateway",
            "mesh",
            "worker",
        ]
        assert found["silent"] == []
        code, told = await running.command("trace", "--json", "-n", "1")
        assert [(each["trace_id"], each["spans"], each["failed"]) for each in json.loads(told)] == [
            (ID, 3, False)
        ]
        assert (await running.command("trace", "--failed"))[1] == "no request is remembered that fits\n"
        for wrong, words in (("xyz", "'xyz' is no id of a trace"), ("0" * 32, "is no id of a trace")):
            code, text = await running.command("trace", wrong)
            assert (code, words in text) == (1, True), text
        code, text = await running.command("trace", "a" * 32)
        assert (code, f"nobody here knows the trace {'a' * 32}" in text) == (1, True)
        code, text = await running.command("trace", ID, "--slow")
        assert (code, "are for the list" in text) == (2, True)
