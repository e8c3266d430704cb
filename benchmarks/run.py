"""The benchmark: `python benchmarks/run.py` (or `make bench`).

Starts the server, then for each scenario lets every contender take its turn, round by round, in
a process of its own on the client's core. A complete run writes docs/benchmarks.md,
benchmarks/results.json and the block in the README; a partial or quick one only prints, unless
`--output DIR` says where to write.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
from plan import CONTENDERS, HERE, Contender, Scenario, scenarios
from report import Board, Outcome, Run
from server import BenchServer, HoldServer, spawn_pinned

ROOT = HERE.parent


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure dodici against its peers.")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--warmup", type=float, default=1.5, help="seconds before each")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median is shown")
    parser.add_argument("--only", default="", help="clients: dodici,undici-request,aiohttp")
    parser.add_argument("--scenario", default="", help="scenarios by name: h1-p1,tls")
    parser.add_argument("--idle", type=int, default=10_000, help="number of idle connections")
    parser.add_argument("--quick", action="store_true", help="one short round, prints only")
    parser.add_argument("--output", type=Path, help="write the page and the JSON to this folder")
    parser.add_argument("--list", action="store_true", help="name the scenarios and clients")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.warmup, options.repeat = 0.5, 0.7, 1
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
    """Fetch undici once, where npm is there; without it the run goes on."""
    if (HERE / "node_modules" / "undici").is_dir() or shutil.which("npm") is None:
        return
    say("Installing undici ...")
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=HERE, check=False)


def measure(contender: Contender, arguments: list[str], core: int, limit: float) -> Run:
    """One turn of one contender; what went wrong is in the answer, under `failed`."""
    process = spawn_pinned([*contender.command(), *arguments], core, capture=True)
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"failed": f"did not finish in {limit:.0f} s"}
    try:
        found: Run = json.loads(output.decode().strip().splitlines()[-1])
    except (IndexError, ValueError):
        words = errors.decode().strip().splitlines() or [f"exit {process.returncode}"]
        reason = next((word for word in reversed(words) if "Error" in word), words[-1])
        return {"failed": reason.strip()[:80]}
    return found


class Session:
    """One run: what was asked for, and where things are."""

    def __init__(self, options: argparse.Namespace, server: BenchServer, pair: tuple[int, int]) -> None:
        self.options = options
        self.server = server
        self.server_core, self.core = pair

    def arguments(self, scenario: Scenario, origin: str) -> list[str]:
        """The options of the drivers for this scenario."""
        job: dict[str, Any] = {
            "origin": origin,
            "seconds": self.options.seconds,
            "warmup": self.options.warmup,
            **scenario.job,
        }
        if scenario.tls:
            job["ca"] = self.server.ca
        return [word for key, value in job.items() for word in (f"--{key}", str(value))]

    def play(self, scenario: Scenario, contenders: list[Contender]) -> list[Outcome]:
        """All rounds of one scenario, interleaved."""
        outcomes = [Outcome(each, scenario, [], each.missing()) for each in contenders]
        for number in range(self.options.repeat):
            for outcome in outcomes:
                # Who cannot or does not finish is not asked again.
                if outcome.note:
                    continue
                self._turn(outcome, number)
        return outcomes

    def _turn(self, outcome: Outcome, number: int) -> None:
        scenario = outcome.scenario
        limit = 60 + 10 * (self.options.seconds + self.options.warmup)
        with contextlib.ExitStack() as stack:
            origin = self.server.tls if scenario.tls else self.server.plain
            if scenario.hold:
                count = int(scenario.job["concurrency"])
                origin = stack.enter_context(HoldServer(self.server_core, count)).origin
            run = measure(outcome.contender, self.arguments(scenario, origin), self.core, limit)
        outcome.note = str(run.get("failed") or run.get("unsupported") or "")
        shown = outcome.note
        if not outcome.note:
            outcome.runs.append(run)
            shown = f"{run['requests'] / run['seconds']:>12,.1f} req/s"
        rounds = f"{number + 1}/{self.options.repeat}"
        say(f"  {scenario.name:<12} {rounds}  {outcome.contender.name:<24} {shown}")


def chosen(options: argparse.Namespace) -> tuple[list[Contender], list[Scenario]]:
    """Who and what the command line asks for."""
    wanted = {word for word in options.only.split(",") if word}
    names = {word for word in options.scenario.split(",") if word}
    every = scenarios(options.idle)
    unknown = names - {scenario.name for scenario in every}
    if unknown:
        sys.exit(f"No such scenario: {', '.join(sorted(unknown))}; --list names them.")
    who = [each for each in CONTENDERS if not wanted or wanted & {each.name, each.family}]
    return who, [each for each in every if not names or each.name in names]


def write(board: Board, options: argparse.Namespace, facts: dict[str, str]) -> None:
    """Write the results where they belong, or say that they are not written."""
    settings = {key: getattr(options, key) for key in ("seconds", "warmup", "repeat", "idle")}
    partial = bool(options.quick or options.only or options.scenario)
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
    if shutil.which("nginx") is None:
        sys.exit("nginx is needed (Debian: apt-get install nginx-light).")
    install_undici()
    allowed = raise_open_files(options.idle + 1000)
    options.idle = min(options.idle, allowed - 1000)
    who, what = chosen(options)
    if options.list:
        say("Clients:   " + " ".join(each.name for each in CONTENDERS))
        say("Scenarios: " + " ".join(each.name for each in what))
        return
    facts = machine.facts()
    board = Board()
    started = time.monotonic()
    pair = cores()
    with BenchServer(pair[0]) as server:
        session = Session(options, server, pair)
        for number, scenario in enumerate(what, 1):
            passed = (time.monotonic() - started) / 60
            say(f"[{number}/{len(what)}, {passed:.0f} min] {scenario.title}")
            contenders = [each for each in who if scenario.admits(each)]
            try:
                board.add(scenario, session.play(scenario, contenders))
            except KeyboardInterrupt:
                say("Interrupted: nothing is written.")
                return
            say("\n" + report.plain(board.table(scenario.name)) + "\n")
    write(board, options, facts)


if __name__ == "__main__":
    main()
