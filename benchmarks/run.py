"""The benchmark: `python benchmarks/run.py` (or `make bench`).

Starts the server, then for each scenario lets every contender take its turn, round by round, in
a process of its own on the client's core. After each turn the server's log has to confirm that
the client did what the scenario says. A complete run writes docs/benchmarks.md,
benchmarks/results.json and the block in the README; a partial or quick one only prints, unless
`--output DIR` says where to write.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import page
import report
from collective_plan import COLLECTIVE_CONTENDERS, collective_scenarios
from connections import Watch
from driver import Driver, DriverError
from mesh_driver import MeshDriver
from mesh_plan import MESH, MESH_CONTENDERS, ORIGIN, mesh_scenarios
from plan import CONTENDERS, HERE, Contender, Scenario, scenarios
from report import Board, Outcome

from server import BenchServer, HoldServer

ROOT = HERE.parent


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure dodici against its peers.")
    parser.add_argument("--seconds", type=float, default=1.2, help="per measurement")
    parser.add_argument("--warmup", type=float, default=1.2, help="seconds before the first")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median is shown")
    parser.add_argument("--only", default="", help="clients: dodici,undici-request,aiohttp")
    parser.add_argument(
        "--scenario", default="", help="scenarios by name: h1-p1,tls; mesh or collective for all of these"
    )
    parser.add_argument("--idle", type=int, default=10_000, help="number of idle connections")
    parser.add_argument("--quick", action="store_true", help="one short round, prints only")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="write a partial run, too: scenarios that were not measured keep their recorded figures",
    )
    parser.add_argument("--output", type=Path, help="write the page and the JSON to this folder")
    parser.add_argument("--list", action="store_true", help="name the scenarios and clients")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.warmup, options.repeat = 0.3, 0.2, 1
        options.idle = min(options.idle, 1000)
    return options


def say(text: str) -> None:
    """Progress, visible at once."""
    print(text, flush=True)


def cores() -> tuple[int, int]:
    """The server's core and the client's."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        say("Only one core: server and client share it, and the numbers mean little.")
    return usable[0], usable[-1]


def raise_open_files(wanted: int) -> int:
    """Allow `wanted` open files if the system does; return what is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((wanted, max(hard, wanted)), (min(wanted, hard), hard)):
        with contextlib.suppress(ValueError, OSError):
            if wanted > soft:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def install_undici() -> None:
    """Fetch undici and Node's mesh once, where npm is there; without it the run goes on."""
    for folder, package in ((HERE, "undici"), (MESH, "undici-thread-interceptor")):
        if (folder / "node_modules" / package).is_dir() or shutil.which("npm") is None:
            continue
        say(f"Installing {package} ...")
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
        subprocess.run(command, cwd=folder, check=False)


class Session:
    """One run: what was asked for, and where things are. Only HTTP needs the `server`."""

    def __init__(
        self, options: argparse.Namespace, server: BenchServer | None, pair: tuple[int, int]
    ) -> None:
        self.options = options
        self._server = server
        self.server_core, self.core = pair
        self.watch = Watch(server.connections) if server is not None else None
        self.drivers: dict[Outcome, Driver] = {}

    @property
    def server(self) -> BenchServer:
        """What serves HTTP."""
        assert self._server is not None
        return self._server

    def arguments(self, scenario: Scenario, origin: str) -> list[str]:
        """The options of the drivers for this scenario."""
        job: dict[str, Any] = {
            "origin": origin,
            "http": scenario.http,
            "seconds": self.options.seconds,
            "warmup": self.options.warmup,
            **scenario.job,
        }
        if scenario.tls:
            job["ca"] = self.server.ca
        return [word for key, value in job.items() for word in (f"--{key}", str(value))]

    def origin(self, scenario: Scenario) -> str:
        """Where the server offers what `scenario` is about."""
        if scenario.part != "http":
            return ORIGIN
        if scenario.http == 2:
            return self.server.h2 if scenario.tls else self.server.h2c
        return self.server.tls if scenario.tls else self.server.plain

    def play(self, scenario: Scenario, contenders: list[Contender]) -> list[Outcome]:
        """All rounds of one scenario, interleaved."""
        outcomes = [Outcome(each, scenario, [], each.missing()) for each in contenders]
        turn = self._hold if scenario.hold else self._turn
        with contextlib.ExitStack() as stack:
            for number in range(self.options.repeat):
                for outcome in outcomes:
                    # Who cannot or does not finish is not asked again.
                    if outcome.note:
                        continue
                    try:
                        turn(outcome, stack)
                    except DriverError as error:
                        outcome.note = str(error)
                    self._show(outcome, f"{number + 1}/{self.options.repeat}")
        return outcomes

    def _start(self, outcome: Outcome, origin: str) -> Driver:
        limit = 60 + 10 * (self.options.seconds + self.options.warmup)
        arguments = self.arguments(outcome.scenario, origin)
        if outcome.scenario.part != "http":
            return MeshDriver(outcome.contender, arguments, limit)
        return Driver(outcome.contender, arguments, self.core, limit)

    def _turn(self, outcome: Outcome, stack: contextlib.ExitStack) -> None:
        """One measurement; in the first round the process is started, and `stack` will end it."""
        if self.watch is not None:
            self.watch.look()
        driver = self.drivers.get(outcome)
        if driver is None:
            driver = self._start(outcome, self.origin(outcome.scenario))
            self.drivers[outcome] = driver
            stack.callback(self._end, outcome)
            outcome.note = driver.warm_up()
            if outcome.note:
                return
        run = driver.measure()
        driver.rest()
        if self.watch is not None and outcome.scenario.part == "http":
            wanted = outcome.scenario.expected().least * int(run.get("sessions", 1))
            outcome.seen += self.watch.look(wanted - outcome.seen.count)
        outcome.take(run)

    def _end(self, outcome: Outcome) -> None:
        self.drivers.pop(outcome).close()

    def _hold(self, outcome: Outcome, _: contextlib.ExitStack) -> None:
        """One measurement of a fresh process against a fresh server that holds its answers."""
        count = int(outcome.scenario.job["concurrency"])
        with (
            HoldServer(self.server_core, count) as server,
            contextlib.closing(self._start(outcome, server.origin)) as driver,
        ):
            outcome.note = driver.warm_up()
            if not outcome.note:
                outcome.take(driver.measure())

    @staticmethod
    def _show(outcome: Outcome, rounds: str) -> None:
        shown = outcome.note or f"{outcome.rate(outcome.runs[-1]):>12,.1f} req/s"
        say(f"  {outcome.scenario.name:<12} {rounds}  {outcome.contender.name:<24} {shown}")


def chosen(options: argparse.Namespace) -> tuple[list[Contender], list[Scenario]]:
    """Who and what the command line asks for."""
    wanted = {word for word in options.only.split(",") if word}
    names = {word for word in options.scenario.split(",") if word}
    every = (*scenarios(options.idle), *mesh_scenarios(), *collective_scenarios())
    parts = {scenario.part for scenario in every}
    unknown = names - {scenario.name for scenario in every} - parts
    if unknown:
        sys.exit(f"No such scenario: {', '.join(sorted(unknown))}; --list names them.")
    everybody = (*CONTENDERS, *MESH_CONTENDERS, *COLLECTIVE_CONTENDERS)
    who = [each for each in everybody if not wanted or wanted & {each.name, each.family}]
    return who, [each for each in every if not names or names & {each.name, each.part}]


def write(board: Board, options: argparse.Namespace, facts: dict[str, str]) -> None:
    """Write the results where they belong, or say that they are not written."""
    settings = {key: getattr(options, key) for key in ("seconds", "warmup", "repeat", "idle")}
    partial = bool(options.quick or options.only or options.scenario) and not options.keep
    text = page.page(board, facts, settings)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "benchmarks.md").write_text(text)
        report.write_json(options.output / "results.json", board, facts, settings)
        say(f"Written to {options.output}.")
    elif partial:
        say("A partial run: nothing is written (--output DIR writes).")
    else:
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "benchmarks.md").write_text(text)
        report.write_json(HERE / "results.json", board, facts, settings)
        in_readme = report.replace_block(ROOT / "README.md", page.readme_block(board, facts))
        where = ", README.md" if in_readme else ""
        say(f"Written: docs/benchmarks.md, benchmarks/results.json{where}.")


def main() -> None:
    """Run what was asked for and report it."""
    options = parse()
    # A run that is stopped must not leave nginx and the files behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    install_undici()
    allowed = raise_open_files(options.idle + 1000)
    options.idle = min(options.idle, allowed - 1000)
    who, what = chosen(options)
    if options.list:
        say("Clients:   " + " ".join(each.name for each in CONTENDERS))
        say("Mesh:      " + " ".join(each.name for each in MESH_CONTENDERS))
        say("Collective: " + " ".join(each.name for each in COLLECTIVE_CONTENDERS))
        say("Scenarios: " + " ".join(each.name for each in what))
        return
    over_http = any(scenario.part == "http" for scenario in what)
    if over_http and shutil.which("nginx") is None:
        sys.exit("nginx is needed (Debian: apt-get install nginx-light).")
    facts = machine.facts()
    board = Board()
    wanted = {word for word in options.only.split(",") if word}
    started = time.monotonic()
    pair = cores()
    with BenchServer(pair[0]) if over_http else contextlib.nullcontext() as server:
        session = Session(options, server, pair)
        for number, scenario in enumerate(what, 1):
            passed = (time.monotonic() - started) / 60
            say(f"[{number}/{len(what)}, {passed:.0f} min] {scenario.title}")
            contenders = [each for each in who if scenario.admits(each, named=bool(wanted))]
            try:
                board.add(scenario, session.play(scenario, contenders))
            except KeyboardInterrupt:
                say("Interrupted: nothing is written.")
                return
            say("\n" + report.plain(board.table(scenario.name)) + "\n")
    if options.keep:
        everybody = (*CONTENDERS, *MESH_CONTENDERS, *COLLECTIVE_CONTENDERS)
        every = (*scenarios(options.idle), *mesh_scenarios(), *collective_scenarios())
        board = report.completed(board, HERE / "results.json", every, everybody)
    write(board, options, facts)


if __name__ == "__main__":
    main()
