"""Two nodes on this machine, real traffic through gateways, mesh and collective, and things that go wrong meanwhile.

    python examples/demo/demo.py             about half a minute on two cores
    python examples/demo/demo.py --quick     the same with short phases
    python examples/demo/demo.py --no-etcd   the nodes know each other's addresses, even where etcd is installed

Exit status 0 means that every phase went as promised: no call failed, but orders that ran on what was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from demo_cluster import Broken, Cluster, cluster
from demo_phases import PHASES, Phase, Stage, served_by
from demo_traffic import CALLERS, WAYS, Tally, Traffic, traffic_to
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import dodici

NEXT = """Where to look next
  dodici up examples/shop/node1.toml --name node1   and node2.toml in another terminal
  dodici ps --name node1 --watch    services, workers, collector, peers: docs/server.md
  dodici trace --name node1         the last requests, and their paths: docs/tracing.md
  docs/flow-control.md              why nothing was lost when a worker was paused
  docs/collective.md                collectors, and HTTP through them
  examples/demo/demo_phases.py      what this demo does to the nodes
  make tour                         the client alone: streams, retries, HTTP/2"""

LEGEND = f"""
{CALLERS} callers of each way.
order: POST through a gateway, FastAPI's worker, mesh and collective to Flask's worker.
stock: GET through a gateway and the collective to Flask's worker.
collective: the same GET from a collector of the demo's own. rpc: the same as a gRPC call.
Promised is that nothing fails but orders that ran on what was killed: an order is never
sent twice."""
WHOSE = "node1 : node2 is whose inventory answered."

LOG_LINES = 25


@dataclass
class Result:
    """One phase: what it told, what was counted, and what is wrong with it, if something is."""

    name: str
    text: str
    tallies: dict[str, Tally]
    allowed: int
    nodes: list[int]
    wrong: str = ""

    @property
    def calls(self) -> int:
        return sum(tally.calls for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    def judge(self) -> None:
        """Only orders may fail, and no more than ran on what was killed."""
        orders = self.tallies["order"].failed
        if self.wrong or (self.failed == orders <= self.allowed):
            return
        reasons = {
            f"{way}: {count} x {reason}"
            for way in WAYS
            for reason, count in self.tallies[way].failures.most_common(3)
        }
        self.wrong = f"{self.failed} calls failed, {self.allowed} may: " + "; ".join(sorted(reasons))


async def perform(shop: Cluster, console: Console, *, quick: bool) -> list[Result]:
    """All phases, one after the other; the rest is left out after one that failed."""
    results: list[Result] = []
    hold, rest = (0.5, 0.3) if quick else (2.5, 0.02)
    async with traffic_to(shop, rest) as traffic:
        stage = Stage(
            shop,
            traffic,
            hold,
            lambda text: console.print(f"     {text}", style="dim", markup=False, highlight=False),
        )
        traffic.start()
        try:
            # The first calls make connections and wake the apps: they are nobody's phase.
            await stage.warm_up()
            traffic.turn()
            for name, phase in PHASES.items():
                result = await _one(name, phase, stage, console)
                results.append(result)
                if result.wrong:
                    break
        finally:
            await traffic.stop()
    return results


async def _one(name: str, phase: Phase, stage: Stage, console: Console) -> Result:
    console.print(f"[bold]{name}[/bold]")
    showing = asyncio.create_task(_progress(name, stage.traffic, console))
    text, allowed, wrong = "", 0, ""
    try:
        async with asyncio.timeout(60):
            text, allowed = await phase(stage)
    except TimeoutError:
        wrong = "it took longer than a minute"
    except (Broken, OSError, dodici.DodiciError) as error:
        wrong = str(error) or type(error).__name__
    finally:
        showing.cancel()
        await asyncio.wait([showing])
    tallies = stage.traffic.turn()
    served = [served_by(tallies, workers) for workers in stage.inventory.values()]
    result = Result(name, text, tallies, allowed, served, wrong)
    result.judge()
    mark = "[bold red]FAIL[/bold red]" if result.wrong else "[green]ok[/green]  "
    console.print(f"{mark} ", end="")
    counted = f"{result.calls:,} calls, {result.failed} failed"
    console.print(f"{result.wrong or result.text}; {counted}", markup=False, highlight=False)
    return result


async def _progress(name: str, traffic: Traffic, console: Console) -> None:
    """A line that follows the calls, where somebody watches."""
    if not console.is_terminal:
        return
    began = time.perf_counter()
    with console.status(name) as status:
        while True:
            calls = sum(tally.calls for tally in traffic.tallies.values())
            failed = sum(tally.failed for tally in traffic.tallies.values())
            seconds = time.perf_counter() - began
            status.update(f"{name}, {seconds:.1f} s: {calls:,} calls, {failed} failed")
            await asyncio.sleep(0.1)


def show(results: list[Result], console: Console) -> None:
    """The table. A narrow terminal gets the times of all ways together."""
    wide = console.width >= 130
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    ways = [f"{way}\np50 / p99 ms" for way in WAYS] if wide else ["p50 / p99 ms"]
    for column in ("calls", "failed", "promised", *ways, *(["node1 : node2"] if wide else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        times = [tally.times for tally in result.tallies.values()]
        if not wide:
            times = [Tally([each for tally in result.tallies.values() for each in tally.seconds]).times]
        table.add_row(
            result.name,
            f"{result.calls:,}",
            f"[bold red]{result.failed}[/bold red]" if result.wrong else str(result.failed),
            f"up to {result.allowed}" if result.allowed else "0",
            *times,
            *([" : ".join(f"{count:,}" for count in result.nodes)] if wide else []),
        )
    console.print()
    console.print(table, highlight=False)
    console.print(f"{LEGEND}\n{WHOSE}" if wide else LEGEND, highlight=False)


async def demo(arguments: argparse.Namespace, console: Console) -> bool:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dodici-demo-") as folder:
        async with cluster(Path(folder), etcd=not arguments.no_etcd) as shop:
            found = "the nodes know each other's addresses (static discovery)"
            if shop.discovery is not None:
                found = f"the nodes find each other through {shop.discovery.partition('?')[0]}"
            elif not arguments.no_etcd:
                found += "; etcd is not installed"
            console.print(f"dodici {dodici.__version__}; {found}", highlight=False)
            results: list[Result] = []
            kept = False
            try:
                took = await shop.up()
                for node in shop.processes:
                    console.print(
                        f"{node.name}: gateway {node.gateway}, collector {node.collector}", highlight=False
                    )
                console.print(f"both are up after {took:.1f} s\n", highlight=False)
                results = await perform(shop, console, quick=arguments.quick)
                if not any(result.wrong for result in results):
                    await shop.down()
                    kept = True
            except Broken as error:
                console.print(f"[bold red]FAIL[/bold red] {escape(str(error))}", highlight=False)
            if not kept:
                for process in shop.processes:
                    console.print(f"\nthe last lines of {process.name}:", style="bold")
                    console.print("\n".join(list(process.lines)[-LOG_LINES:]), markup=False, highlight=False)
    if results:
        show(results, console)
    if kept:
        console.print(f"\nAs promised, in {time.perf_counter() - began:.1f} s.\n", highlight=False)
        console.print(NEXT, highlight=False, markup=False)
    else:
        console.print("\n[bold red]Not as promised[/bold red]: see FAIL above, and the nodes' last lines.")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short phases, and less traffic")
    parser.add_argument("--no-etcd", action="store_true", help="static discovery, even if etcd is installed")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    # A kill is an end like any other: the nodes are ended and their folder is removed.
    # A shell that starts it in the background has SIGINT ignored, and SIGTERM goes the same way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # Peers are lost on purpose.
    logging.getLogger("dodici").setLevel(logging.CRITICAL)
    try:
        return 0 if asyncio.run(demo(arguments, console)) else 1
    except KeyboardInterrupt:
        console.print("\ninterrupted: the nodes are ended and their files removed")
        return 130


if __name__ == "__main__":
    sys.exit(main())
