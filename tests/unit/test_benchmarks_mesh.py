"""The part of the benchmark tool about the mesh: who takes part, what is counted, and what is checked."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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
    "harness",
    "mesh_app",
    "mesh_client",
    "mesh_request",
    "mesh_dispatch",
)


@pytest.fixture(scope="module")
def bench():
    """The tool's modules; they are scripts and know each other by their bare names."""
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(FOLDER / "clients"), str(FOLDER / "mesh")]
    try:
        yield type("Bench", (), {name: importlib.import_module(name) for name in _NAMES})
    finally:
        sys.path[:] = before
        for name in _NAMES:
            sys.modules.pop(name, None)


def _named(items: Any, name: str) -> Any:
    return next(each for each in items if each.name == name)


@pytest.fixture
def scenario(bench):
    return lambda name: _named(bench.mesh_plan.mesh_scenarios(), name)


@pytest.fixture
def contender(bench):
    return lambda name: _named(bench.mesh_plan.MESH_CONTENDERS, name)


def run(rate: float, **more: Any) -> dict[str, Any]:
    memory = {"rss_before_kib": 1024, "max_rss_kib": 3072}
    return {
        "requests": rate,
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "p50_us": 1e3,
        "p99_us": 2e3,
        **memory,
        **more,
    }


@pytest.fixture
def board(bench, scenario, contender):
    """A board with one scenario, and for each named contender the runs that are given."""

    def make(name: str, **runs: list[dict[str, Any]]) -> Any:
        played = scenario(name)
        rows = []
        for who, given in runs.items():
            row = bench.report.Outcome(contender(who.replace("_", "-")), played, [])
            for each in given:
                row.take(each)
            rows.append(row)
        found = bench.report.Board()
        found.add(played, rows)
        return found

    return make


class TestWhoTakesPart:
    def test_each_part_has_its_own(self, bench, scenario, contender):
        over_http = bench.plan.scenarios(10)[0]
        assert not any(over_http.admits(each, named=True) for each in bench.mesh_plan.MESH_CONTENDERS)
        for name in ("mesh-c100", "mesh-stall", "mesh-accepting"):
            assert not any(scenario(name).admits(each, named=True) for each in bench.plan.CONTENDERS)

    def test_names_are_unique(self, bench):
        every = (*bench.plan.scenarios(10), *bench.mesh_plan.mesh_scenarios())
        names = [each.name for each in every]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [
            ("mesh", "mesh-c1", "mesh-accepting"),
            ("tls,mesh-1m", "tls", "mesh-1m"),
            ("", "h1-p1", "collective-origin-c16"),
        ],
    )
    def test_the_mesh_is_chosen_by_its_name(self, bench, asked, first, last):
        options = argparse.Namespace(only="", scenario=asked, idle=10)
        who, what = bench.run.chosen(options)
        assert (what[0].name, what[-1].name) == (first, last)
        others = bench.collective_plan.COLLECTIVE_CONTENDERS
        assert who == [*bench.plan.CONTENDERS, *bench.mesh_plan.MESH_CONTENDERS, *others]

    def test_a_family_is_of_one_part(self, bench):
        who, _ = bench.run.chosen(argparse.Namespace(only="undici", scenario="", idle=10))
        assert {each.part for each in who} == {"http"}
        who, _ = bench.run.chosen(argparse.Namespace(only="undici-thread-interceptor", scenario="", idle=10))
        assert [each.name for each in who] == ["thread-interceptor-dispatch", "thread-interceptor-request"]

    def test_an_unknown_scenario_is_named(self, bench):
        with pytest.raises(SystemExit, match="No such scenario: mash;"):
            bench.run.chosen(argparse.Namespace(only="", scenario="mash,mesh", idle=10))

    def test_threads_have_one_worker(self, scenario, contender):
        assert scenario("mesh-c100").admits(contender("dodici-request-thread"))
        assert not scenario("mesh-c100-w2").admits(contender("dodici-request-thread"))

    @pytest.mark.parametrize(
        ("name", "who"),
        [
            (
                "mesh-stall",
                {
                    "dodici-request",
                    "dodici-request-thread",
                    "thread-interceptor-request",
                    "uvicorn-aiohttp",
                    "granian-aiohttp",
                },
            ),
            ("mesh-accepting", {"dodici-request"}),
        ],
    )
    def test_what_is_not_about_speed(self, bench, scenario, name, who):
        admitted = {each.name for each in bench.mesh_plan.MESH_CONTENDERS if scenario(name).admits(each)}
        assert admitted == who

    def test_an_old_node_is_named_as_the_reason(self, bench, contender, monkeypatch, tmp_path):
        old = tmp_path / "node"
        old.write_text("#!/bin/sh\necho v20.1.0\n")
        old.chmod(0o755)
        (tmp_path / "node_modules" / "undici-thread-interceptor").mkdir(parents=True)
        monkeypatch.setattr(bench.mesh_plan, "MESH", tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        bench.mesh_plan.node.cache_clear()
        peer = contender("thread-interceptor-request")
        try:
            assert peer.missing().startswith("needs Node 22 or newer")
            old.write_text("#!/bin/sh\necho v22.0.0\n")
            bench.mesh_plan.node.cache_clear()
            assert peer.missing() == ""
            assert peer.command()[0] == str(old)
        finally:
            bench.mesh_plan.node.cache_clear()

    def test_what_is_not_installed_is_named_as_the_reason(self, bench, contender, monkeypatch, tmp_path):
        monkeypatch.setattr(bench.mesh_plan, "MESH", tmp_path)
        missing = contender("thread-interceptor-request").missing()
        assert missing == "undici-thread-interceptor is not installed (npm install in benchmarks/mesh/)"


class TestTables:
    def test_ratios_compare_like_with_like(self, board):
        found = board(
            "mesh-c100",
            socketpair=[run(1000.0)],
            dodici_dispatch=[run(400.0), run(500.0), run(900.0)],
            dodici_request=[run(300.0)],
            thread_interceptor_dispatch=[run(100.0)],
            thread_interceptor_request=[run(50.0)],
            uvicorn_aiohttp=[run(60.0)],
            granian_aiohttp=[run(75.0)],
        )
        head, limit, dispatch, request, *_ = found.table("mesh-c100")
        assert head[-3:] == ["vs undici", "vs other Python", "vs socketpair"]
        assert limit[-3:] == ["", "", "1.00x"]
        assert dispatch[:3] == ["dodici-dispatch", "500", "400-900"]
        assert dispatch[-3:] == ["5.00x", "6.67x", "0.50x"]
        assert request[-3:] == ["6.00x", "4.00x", "0.30x"]

    def test_memory_is_told_for_each_side(self, board):
        grown = {
            "client_rss_before_kib": 1024,
            "client_max_rss_kib": 3072,
            "client_rss_after_kib": 2048,
            "workers_rss_before_kib": 1024,
            "workers_max_rss_kib": 1536,
            "workers_rss_after_kib": 1024,
        }
        found = board("mesh-stall", dodici_request=[run(1, **grown)])
        assert found.table("mesh-stall")[1] == [
            "dodici-request",
            "1",
            "1.0",
            "2.0",
            "0.5",
            "1.0",
            "0.0",
            "",
            "",
        ]

    def test_growth_has_a_median_and_no_ratio(self, board):
        grown = [run(1, max_rss_kib=1024 + kib, rss_before_kib=1024) for kib in (400, 100, 200)]
        found = board("mesh-abort", dodici_request=grown, uvicorn_aiohttp=[run(1, max_rss_kib=1124)])
        row = found.rows["mesh-abort"][0]
        assert row.median["max_rss_kib"] == 1224
        # Next to nothing against nothing is no ratio.
        assert found.ratios(row) == ("", "")

    def test_the_quicker_is_the_better(self, board):
        rounds = [run(50, p50_us=p50, load_per_second=1234) for p50 in (4e3, 2e3, 3e3)]
        found = board("mesh-accepting", dodici_request=rounds)
        assert found.table("mesh-accepting")[1][1:6] == ["50", "3.00", "2.00-4.00", "2.00", "1,234"]

    def test_the_page_keeps_the_parts_apart(self, bench, board):
        found = board("mesh-c100", dodici_request=[run(300.0)])
        settings = {"seconds": 1.2, "warmup": 1.2, "repeat": 3}
        text = bench.page.page(found, {"CPU": "x"}, settings)
        over_http, _, mesh = text.partition(bench.mesh_page.METHOD)
        assert "### Mesh: 17 bytes, 100 callers, 1 worker" in mesh
        assert "### Mesh" not in over_http
        assert "| **dodici-request** | **300** |" in bench.page.readme_block(found, {})

    def test_a_page_without_the_mesh_does_not_speak_of_it(self, bench):
        settings = {"seconds": 1.2, "warmup": 1.2, "repeat": 3}
        assert bench.mesh_page.METHOD not in bench.page.page(bench.report.Board(), {"CPU": "x"}, settings)


class TestTree:
    """A client whose worker is a process of its own, and works as long as it is told to."""

    SCRIPT = """
import json, subprocess, sys, time
WORKER = "import sys\\nblock = b''\\nfor line in sys.stdin:\\n" \\
    "    block = b'x' * (32 << 20)\\n    sum(range(8_000_000))\\n    print('done', flush=True)\\n"
worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print("ready", flush=True)
for line in sys.stdin:
    print("go", file=worker.stdin, flush=True)
    worker.stdout.readline()
    print(json.dumps({"requests": 1, "worker": worker.pid}), flush=True)
worker.stdin.close()
worker.wait()
open(sys.argv[1], "w").write("left in order")
"""

    @pytest.fixture
    def driver(self, bench, tmp_path):
        script, self.mark = tmp_path / "driver.py", tmp_path / "mark"
        script.write_text(self.SCRIPT)
        words = [sys.executable, str(script), str(self.mark)]
        client = type("Client", (), {"command": lambda _: words})()
        driver = bench.mesh_driver.MeshDriver(client, [], 20.0)
        yield driver
        driver.close()

    def test_its_workers_are_counted(self, driver):
        assert driver.warm_up() == ""
        found = driver.measure()
        assert found["cpu_seconds"] > 0.02
        assert found["workers_max_rss_kib"] - found["workers_rss_before_kib"] >= 30 << 10
        assert found["client_max_rss_kib"] - found["client_rss_before_kib"] < 8 << 10
        both = found["client_rss_before_kib"] + found["workers_rss_before_kib"]
        assert found["rss_before_kib"] == both

    def test_growth_is_counted_from_the_beginning(self, driver):
        driver.warm_up()
        first, second = driver.measure(), driver.measure()
        assert second["workers_rss_before_kib"] == first["workers_rss_before_kib"]
        assert second["workers_max_rss_kib"] - second["workers_rss_before_kib"] >= 30 << 10

    def test_it_is_asked_to_leave_though_it_rests(self, driver):
        driver.warm_up()
        worker = driver.measure()["worker"]
        driver.rest()
        driver.close()
        assert self.mark.read_text() == "left in order"
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)

    def test_who_does_not_leave_is_ended(self, bench, tmp_path, monkeypatch):
        monkeypatch.setattr(bench.mesh_driver, "FAREWELL", 0.1)
        script = tmp_path / "driver.py"
        script.write_text("import signal\nprint('ready', flush=True)\nwhile True: signal.pause()\n")
        client = type("Client", (), {"command": lambda _: [sys.executable, str(script)]})()
        driver = bench.mesh_driver.MeshDriver(client, [], 20.0)
        assert driver.warm_up() == ""
        started = time.monotonic()
        driver.close()
        assert time.monotonic() - started < 5
        assert driver._process.returncode == -signal.SIGKILL


class TestAnswers:
    @pytest.fixture
    def client(self, bench):
        """A client of nobody, which answers what it is told to."""

        class Scripted(bench.mesh_client.MeshClient):
            status, body = 200, bench.mesh_app.SMALL
            asked = 0

            async def whole(self, target: str) -> tuple[int, bytes]:
                self.asked += 1
                return self.status, self.body

        return lambda **job: Scripted(bench.harness.Job(origin="http://api.local", **job))

    async def test_a_good_answer_is_counted(self, client):
        assert await client(size=17).get("http://api.local/") == 17

    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (500, b'{"hello":"world"}', "answered 500 with 17 bytes, not 200 with 17"),
            (200, b'{"hello":"you"}', "answered 200 with 15 bytes"),
            (200, b'{"hello":"w0rld"}', "another body"),
        ],
    )
    async def test_a_bad_answer_ends_the_measurement(self, client, status, body, reason):
        each = client(size=17)
        each.status, each.body = status, body
        with pytest.raises(RuntimeError, match=reason):
            await each.get("http://api.local/")

    async def test_a_large_body_is_compared_once(self, bench, client):
        each = client(size=1 << 20, path="/1m", concurrency=1)
        each.body = bench.mesh_app.LARGE
        await each.run(0.0)
        assert each.asked == 2
        each.body = bytes(1 << 20)
        await each.run(0.0)
        assert each.asked == 3
        other = client(size=1 << 20, path="/1m", concurrency=1)
        other.body = bytes(1 << 20)
        with pytest.raises(RuntimeError, match="/1m has another body"):
            await other.run(0.0)

    @pytest.mark.parametrize(
        ("size", "status", "body", "reason"),
        [
            (17, 503, b'{"hello":"world"}', "answered 503"),
            (17, 200, b'{"hello":"w0rld"}', "another body"),
            (1 << 20, 200, b"short", "answered 200 with 5 bytes, not 200 with 1048576"),
        ],
    )
    async def test_a_bad_answer_ends_a_phase_of_dispatches(self, bench, size, status, body, reason):
        dispatched = []
        job = bench.harness.Job(origin="http://api.local", size=size, concurrency=2)
        client = bench.mesh_dispatch.DodiciDispatch(job)
        client.agent = type(
            "Agent", (), {"dispatch": lambda _, options, handler: dispatched.append(handler)}
        )()
        phase = bench.mesh_dispatch.Phase(client, deadline=0.0)
        slot = bench.mesh_dispatch.Slot(phase)
        slot.on_response_start(None, status, None, "")
        slot.on_response_data(None, body)
        slot.on_response_end(None, None)
        with pytest.raises(RuntimeError, match=reason):
            await phase.done
        assert dispatched == []

    async def test_counted_is_exact(self, bench):
        open_now = most = asked = 0

        async def once() -> bool:
            nonlocal open_now, most, asked
            open_now += 1
            asked += 1
            most, number = max(most, open_now), asked
            await asyncio.sleep(0)
            open_now -= 1
            return number % 5 != 0

        assert len(await bench.mesh_client.counted(once, 20, 4)) == 20
        assert most == 4
        assert asked in {24, 25}

    async def test_an_answer_that_came_early_is_no_abort(self, client):
        assert await client(kind="abort", size=0).abort("http://api.local/slow") is False

    async def test_who_waits_longer_gives_up(self, client):
        each = client(kind="abort", size=0)
        each.whole = lambda _: asyncio.get_running_loop().create_future()
        assert await each.abort("http://api.local/slow") is True


class TestApp:
    """The app that all Python workers serve."""

    async def ask(self, bench: Any, path: str) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        await bench.mesh_app.app({"type": "http", "path": path}, receive, send)
        start, *pieces = sent
        assert dict(start["headers"])[b"content-length"] == b"%d" % sum(len(each["body"]) for each in pieces)
        assert [each.get("more_body", False) for each in pieces] == [True] * (len(pieces) - 1) + [False]
        return start["status"], b"".join(each["body"] for each in pieces[:32])

    async def test_bodies(self, bench):
        assert await self.ask(bench, "/") == (200, b'{"hello":"world"}')
        status, body = await self.ask(bench, "/1m")
        assert (status, len(body)) == (200, 1 << 20)
        assert body == bytes(range(256)) * 4096
        assert bench.mesh_app.HUGE_PIECES * len(bench.mesh_app.PIECE) == 1 << 30
        assert (await self.ask(bench, "/1g"))[1].startswith(body)

    async def test_who_goes_away_is_not_waited_for(self, bench):
        started = time.monotonic()
        assert await self.ask(bench, "/slow") == (200, b'{"hello":"world"}')
        assert time.monotonic() - started < bench.mesh_app.PATIENCE


class TestContenders:
    """Each of them starts, answers and counts; how fast is not asked here."""

    @pytest.fixture
    def measured(self, bench, scenario, contender):
        """One short round of a contender in a scenario."""
        drivers = []

        def make(where: str, who: str, **more: int) -> Any:
            reason = contender(who).missing()
            if reason:
                pytest.skip(reason)
            job = {"origin": bench.mesh_plan.ORIGIN, "http": 1, "seconds": 0.02, "warmup": 0.02}
            job.update(scenario(where).job, **more)
            words = [word for key, value in job.items() for word in (f"--{key}", str(value))]
            driver = bench.mesh_driver.MeshDriver(contender(who), words, 30.0)
            drivers.append(driver)
            row = bench.report.Outcome(contender(who), scenario(where), [], driver.warm_up())
            if not row.note:
                row.take(driver.measure())
            assert row.note == ""
            board = bench.report.Board()
            board.add(row.scenario, [row])
            return row.runs[0], board.table(where)[1]

        yield make
        for each in drivers:
            each.close()

    @pytest.mark.parametrize(
        ("where", "who"),
        [
            ("mesh-c100-w2", "socketpair"),
            ("mesh-c100-w2", "dodici-dispatch"),
            ("mesh-c1", "dodici-request-thread"),
            ("mesh-1m", "dodici-request"),
            ("mesh-1m", "dodici-dispatch-thread"),
            ("mesh-c1-w2", "uvicorn-aiohttp"),
            ("mesh-1m", "granian-aiohttp"),
            ("mesh-1m", "thread-interceptor-request"),
        ],
    )
    def test_takes_its_turn(self, measured, where, who):
        found, cells = measured(where, who)
        assert found["requests"] >= 1
        assert cells[0] == who
        assert cells[1] != "0"

    def test_accepting(self, measured):
        found, _ = measured("mesh-accepting", "dodici-request", workers=2)
        assert found["requests"] == 50
        assert found["load_per_second"] > 0
        assert 0 < found["p50_us"] <= found["p99_us"]
