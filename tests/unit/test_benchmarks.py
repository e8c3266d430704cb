"""The benchmark tool: who takes part, what makes a result invalid, how a client's process is driven."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
_PARTS = ("mesh_plan", "part_page", "mesh_page", "collective_plan", "collective_page")
_NAMES = ("connections", "plan", "report", "driver", *_PARTS, "page", "harness")


@pytest.fixture(scope="module")
def bench():
    """The tool's modules; they are scripts and know each other by their bare names."""
    folders = [str(FOLDER), str(FOLDER / "clients")]
    sys.path[:0] = folders
    try:
        yield type("Bench", (), {name: importlib.import_module(name) for name in _NAMES})
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in _NAMES:
            sys.modules.pop(name, None)


def _named(items: Any, name: str) -> Any:
    return next(each for each in items if each.name == name)


@pytest.fixture
def scenario(bench):
    return lambda name: _named(bench.plan.scenarios(10), name)


@pytest.fixture
def contender(bench):
    return lambda name: _named(bench.plan.CONTENDERS, name)


@pytest.fixture
def outcome(bench, scenario, contender):
    """An outcome with rounds of so many requests per second, on as many connections as asked for."""

    def make(where: str, who: str, *rates: float, **more: Any) -> Any:
        played = scenario(where)
        found = bench.report.Outcome(contender(who), played, [])
        expected = played.expected()
        found.seen.protocols[expected.protocol] = expected.least
        for rate in rates:
            found.take(run(rate, **more))
        return found

    return make


def run(rate: float, **more: Any) -> dict[str, Any]:
    memory = {"max_rss_kib": 3072, "rss_before_kib": 1024}
    return {
        "requests": rate,
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "p50_us": 1e3,
        "p99_us": 2e3,
        **memory,
        **more,
    }


class TestWhatTheServerSaw:
    @pytest.mark.parametrize(
        ("seen", "sessions", "objection"),
        [
            ({"HTTP/2.0": 1}, 1, ""),
            ({"HTTP/2.0": 3}, 3, ""),
            ({"HTTP/2.0": 2}, 1, "invalid: used 2 connections, not 1"),
            ({"HTTP/2.0": 2}, 3, "invalid: used 2 connections, not 1 x 3 runs"),
            ({"HTTP/1.1": 1}, 1, "invalid: spoke HTTP/1.1, not HTTP/2.0"),
            ({"HTTP/1.1": 1, "HTTP/2.0": 1}, 1, "invalid: spoke HTTP/1.1, not HTTP/2.0"),
            ({}, 1, "invalid: used 0 connections, not 1"),
        ],
    )
    def test_http2_is_exact(self, bench, scenario, seen, sessions, objection):
        assert bench.connections.Seen(bench.connections.Counter(seen)).objection(
            scenario("h2").expected(), sessions
        ) == (objection)

    @pytest.mark.parametrize(
        ("name", "count", "valid"),
        [
            ("h1-p1", 49, False),
            ("h1-p1", 50, True),
            ("h1-p1", 75, True),
            ("h1-p1", 76, False),
            ("c1", 1, True),
        ],
    )
    def test_http1_may_replace_a_connection(self, bench, scenario, name, count, valid):
        seen = bench.connections.Seen(bench.connections.Counter({"HTTP/1.1": count}))
        assert (seen.objection(scenario(name).expected()) == "") is valid

    def test_each_look_reads_what_is_new(self, bench, tmp_path):
        log = tmp_path / "connections.log"
        log.write_text("HTTP/1.1 - - 127.0.0.1:1\n")
        watch = bench.connections.Watch(log)
        assert watch.look().count == 0
        with log.open("a") as file:
            file.write("HTTP/2.0 TLSv1.3 TLS_AES_256_GCM_SHA384 -\n")
            file.write("HTTP/1.1 - - bench\nHTTP/1.1 - - 127.0.0.1:1\n")
        seen = watch.look()
        assert dict(seen.protocols) == {"HTTP/2.0": 1, "HTTP/1.1": 1}
        assert dict(seen.ciphers) == {"TLSv1.3 TLS_AES_256_GCM_SHA384": 1}
        assert watch.look().count == 0

    def test_a_look_waits_for_lines_that_are_late(self, bench, tmp_path, monkeypatch):
        log = tmp_path / "connections.log"
        log.touch()
        watch = bench.connections.Watch(log)

        def write(_: float) -> None:
            with log.open("a") as file:
                file.write("HTTP/2.0 - - -\n")

        monkeypatch.setattr(bench.connections.time, "sleep", write)
        assert watch.look(at_least=2).count == 2

    def test_an_invalid_round_takes_all_numbers_with_it(self, outcome):
        row = outcome("h2", "httpunk", 100.0)
        assert len(row.runs) == 1
        row.seen.protocols["HTTP/2.0"] += 1
        row.take(run(1000.0))
        assert row.runs == []
        assert row.note == "invalid: used 2 connections, not 1"


class TestWhoTakesPart:
    def test_one_program_sets_the_limit(self, bench, scenario):
        limits = {
            name: [
                each.name
                for each in bench.plan.CONTENDERS
                if each.group == "limit" and scenario(name).admits(each)
            ]
            for name in ("h1-p1", "h2", "h2c-c50", "h2-1m", "h2-100m", "h2-slow")
        }
        assert limits == {
            "h1-p1": ["wrk"],
            "h2": ["h2load"],
            "h2c-c50": ["h2load"],
            "h2-1m": ["h2load"],
            "h2-100m": ["curl"],
            "h2-slow": [],
        }

    def test_slow_clients_are_asked_for_by_name(self, scenario, contender):
        assert scenario("h2").admits(contender("httpx"))
        assert not scenario("h2-c50").admits(contender("httpx"))
        assert scenario("h2-c50").admits(contender("httpx"), named=True)

    def test_who_does_not_speak_http2_is_not_in_it(self, scenario, contender):
        assert scenario("tls").admits(contender("aiohttp"))
        assert not scenario("h2").admits(contender("aiohttp"), named=True)

    def test_names_are_unique(self, bench):
        names = [each.name for each in bench.plan.scenarios(10)]
        assert len(names) == len(set(names))


class TestTables:
    def test_ratios_compare_like_with_like(self, bench, scenario, outcome):
        board = bench.report.Board()
        rows = [
            outcome("h2", "h2load", 1000.0, p50_us=None, p99_us=None),
            outcome("h2", "dodici-dispatch", 400.0, 500.0, 900.0),
            outcome("h2", "dodici-request", 300.0),
            outcome("h2", "undici-dispatch", 100.0),
            outcome("h2", "undici-request", 50.0),
            outcome("h2", "pyreqwest", 200.0),
        ]
        board.add(scenario("h2"), rows)
        head, limit, dispatch, request, *_ = board.table("h2")
        assert head[-3:] == ["vs undici", "vs other Python", "vs h2load"]
        assert limit == ["h2load", "1,000", "1,000-1,000", "500.0", "", "", "", "", "1.00x"]
        assert dispatch == [
            "dodici-dispatch",
            "500",
            "400-900",
            "1000.0",
            "1.00",
            "2.00",
            "5.00x",
            "2.50x",
            "0.50x",
        ]
        assert request[-3:] == ["6.00x", "1.50x", "0.30x"]
        assert "| **dodici-dispatch** | **500** |" in bench.report.markdown(board.table("h2"))

    def test_a_slow_stream_is_compared_with_none(self, bench, scenario, outcome):
        board = bench.report.Board()
        alone = {"requests": 400, "seconds": 2.0, "p50_us": 500.0, "p99_us": 750.0}
        row = outcome("h2-slow", "httpunk", 100.0, alone=alone, slow_bytes_per_second=1 << 19)
        board.add(scenario("h2-slow"), [row])
        _, cells = board.table("h2-slow")
        assert cells[1:10] == ["100", "100-100", "0.50x", "1.00", "2.00", "0.50", "0.75", "0.50", "2.0"]

    def test_a_note_stands_where_the_numbers_would(self, bench, scenario, contender):
        board = bench.report.Board()
        row = bench.report.Outcome(contender("httpunk"), scenario("h2"), [], "invalid: spoke HTTP/1.1")
        board.add(scenario("h2"), [row])
        assert board.table("h2")[1][:3] == ["httpunk", "invalid: spoke HTTP/1.1", ""]
        found = board.as_json({}, {})["scenarios"]["h2"]["clients"]
        assert found == {"httpunk": {"note": "invalid: spoke HTTP/1.1"}}


class TestHarness:
    @pytest.fixture
    def client(self, bench):
        """A client without a network; each request is one turn of the loop."""

        class Local(bench.harness.Client):
            package = "dodici"
            versions = ("h2",)
            chunks = 1 << 30

            async def get(self, target: str) -> int:
                await asyncio.sleep(0)
                return 13

            async def trickle(self, target: str, took: Any) -> None:
                for _ in range(self.chunks):
                    await took(100)

        return Local

    def job(self, bench, **more: Any) -> Any:
        given = {"origin": "https://localhost", "ca": "ca.pem", "http": 2, "seconds": 0.02, "warmup": 0.0}
        return bench.harness.Job(**{**given, **more})

    def test_one_client_per_connection_where_a_pool_has_one(self, bench, client):
        job = self.job(bench, connections=3, concurrency=8)
        shares = [
            (each.job.connections, each.job.concurrency) for each in bench.harness.Fleet(client, job).clients
        ]
        assert shares == [(1, 3), (1, 3), (1, 2)]
        client.one_connection = False
        assert [each.job for each in bench.harness.Fleet(client, job).clients] == [job]

    @pytest.mark.parametrize(("more", "spoken"), [({"ca": ""}, "h2c"), ({"http": 1}, "http/1.1")])
    def test_a_version_that_it_does_not_speak(self, bench, client, more, spoken):
        with pytest.raises(bench.harness.Unsupported, match=f"does not speak {spoken}"):
            bench.harness.Fleet(client, self.job(bench, **more))

    async def test_bodies_are_counted(self, bench, client):
        fleet = bench.harness.Fleet(client, self.job(bench, connections=2, concurrency=4, size=14))
        await fleet.open()
        with pytest.raises(RuntimeError, match=r"gave \d+ bytes, not 14 each"):
            await fleet.measure()

    async def test_beside_a_slow_stream(self, bench, client, monkeypatch):
        monkeypatch.setattr(bench.harness, "TRICKLE", 100_000)
        fleet = bench.harness.Fleet(client, self.job(bench, connections=1, concurrency=4, kind="beside"))
        await fleet.open()
        result = await fleet.measure()
        assert result["alone"]["requests"] >= 3
        assert result["requests"] >= 3
        assert 0 < result["slow_bytes_per_second"] <= 110_000

    async def test_a_slow_stream_that_ends_is_no_measurement(self, bench, client, monkeypatch):
        monkeypatch.setattr(bench.harness, "TRICKLE", 1 << 30)
        client.chunks = 2
        fleet = bench.harness.Fleet(client, self.job(bench, connections=1, concurrency=4, kind="beside"))
        with pytest.raises(RuntimeError, match="the slow stream ended too early"):
            await fleet.measure()


class TestDriver:
    @pytest.fixture
    def start(self, bench, tmp_path):
        """Start a driver whose script is `text`."""
        started = []
        core = min(os.sched_getaffinity(0))

        def make(text: str, answer_within: float = 20.0) -> Any:
            script = tmp_path / "driver.py"
            script.write_text(text)
            client = type("Client", (), {"command": lambda _: [sys.executable, str(script)]})()
            started.append(bench.driver.Driver(client, [], core, answer_within))
            return started[-1]

        yield make
        for each in started:
            each.close()

    def test_answers_once_per_turn_and_rests_between(self, start):
        driver = start(
            "import sys\n"
            "print('ready', flush=True)\n"
            "for number, line in enumerate(sys.stdin):\n"
            "    print('{\"requests\": %d}' % number, flush=True)\n"
        )
        assert driver.warm_up() == ""
        assert driver.measure() == {"requests": 0}
        driver.rest()
        assert driver.measure() == {"requests": 1}

    def test_says_why_it_cannot_take_part(self, start):
        assert start('print(\'{"unsupported": "no h2"}\')').warm_up() == "no h2"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("raise ValueError('no luck')", "ValueError: no luck"),
            ("raise SystemExit(3)", "exit 3"),
            ("print('what?')", "said 'what?'"),
        ],
    )
    def test_a_driver_that_fails_is_an_error(self, bench, start, text, reason):
        driver = start(text)
        with pytest.raises(bench.driver.DriverError, match=f"^{reason.replace('?', '[?]')}"):
            driver.warm_up()

    def test_a_silent_driver_is_given_up(self, bench, start):
        driver = start("import sys; sys.stdin.read()", answer_within=0.1)
        with pytest.raises(bench.driver.DriverError, match="did not finish in 0 s"):
            driver.warm_up()


def test_what_is_not_measured_keeps_its_recorded_figures(bench: Any, tmp_path: Path) -> None:
    client, other = bench.plan.CONTENDERS[:2]
    first, second = bench.plan.scenarios(10)[:2]
    run = {"requests": 100, "seconds": 1.0, "cpu_seconds": 0.5, "p50_us": 1.0, "p99_us": 2.0}
    old = bench.report.Board()
    old.add(first, [bench.report.Outcome(client, first, [run])])
    old.add(
        second,
        [bench.report.Outcome(client, second, [run]), bench.report.Outcome(other, second, [], "not there")],
    )
    bench.report.write_json(tmp_path / "results.json", old, {}, {})
    new = bench.report.Board()
    new.add(first, [bench.report.Outcome(client, first, [{**run, "requests": 300}])])
    whole = bench.report.completed(
        new,
        tmp_path / "results.json",
        bench.plan.scenarios(10),
        bench.plan.CONTENDERS,
    )
    assert list(whole.rows) == [first.name, second.name]
    assert whole.rows[first.name][0].value == 300
    assert [(row.value if row.runs else row.note) for row in whole.rows[second.name]] == [100, "not there"]
