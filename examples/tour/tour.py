"""Starts a real server and sends it everything that dodici can, through the public API.

    python examples/tour/tour.py            under a minute on two cores
    python examples/tour/tour.py --quick    the same with small numbers

Exit status 0 means that everything happened as promised: contents are compared by their hashes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from tour_handlers import MEBIBYTE
from tour_mesh import MESH_STEPS
from tour_server import TourServer
from tour_steps import STEPS, Broken, Stage

import dodici

NEXT = """Where to look next
  examples/tour/            these steps, to copy from; tour_mesh.py: those with workers
  make demo                 two nodes, gateway, mesh and collective, while things break
  dodici up examples/shop/shop.toml   the shop of the last step, on port 8000 (docs/server.md)
  dodici get -v example.com the same from a shell (docs/cli.md)
  docs/dispatcher.md        the contract: handlers, pause, resume, abort
  docs/interceptors.md      retry, redirect, and your own in 20 lines
  make bench                dodici beside other clients, on this machine"""


class Result(NamedTuple):
    name: str
    good: bool
    text: str
    rate: str
    seconds: float


async def perform(server: TourServer, console: Console, *, quick: bool, workers: bool) -> list[Result]:
    results = []
    async with dodici.Pool(server.origin, connections=50) as pool:
        stage = Stage(
            origin=server.origin,
            h2_origin=server.h2_origin,
            size=server.size,
            sha256=server.sha256,
            concurrent=200 if quick else 1000,
            callers=4 if quick else 32,
            rest=0.02 if quick else 0.0,
            seconds=0.2 if quick else 2.0,
            pool=pool,
            progress=lambda total: progress(console, total),
        )
        for name, step in (STEPS | MESH_STEPS if workers else STEPS).items():
            began = time.perf_counter()
            try:
                async with asyncio.timeout(60):
                    text, rate = await step(stage)
                good = True
            except (Broken, dodici.DodiciError, OSError) as error:
                good, text, rate = False, f"{type(error).__name__}: {error}", ""
            results.append(Result(name, good, text, rate, time.perf_counter() - began))
            mark = "[green]ok[/green]  " if good else "[bold red]FAIL[/bold red]"
            console.print(f"{mark} {name}", end="  ")
            console.print(f"{text}  {rate}".rstrip(), style="dim", markup=False, highlight=False)
    await dodici.get_global_dispatcher().close()
    return results


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, or a line for each quarter where nobody watches."""
    if console.is_terminal:
        from rich import progress as bar

        columns: list[Any] = [
            bar.TextColumn("     large.bin"),
            bar.BarColumn(),
            bar.DownloadColumn(binary_units=True),
            bar.TransferSpeedColumn(),
            bar.TimeRemainingColumn(),
        ]
        with bar.Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("large.bin", total=total)
            yield lambda size: shown.advance(task, size)
        return
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        quarter = done * 4 // total
        done += size
        if done * 4 // total > quarter:
            console.print(
                f"     large.bin {done / MEBIBYTE:6.1f} of {total / MEBIBYTE:.1f} MiB", highlight=False
            )

    yield advance


def show(results: list[Result], console: Console) -> None:
    table = Table(title="What happened", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("step", no_wrap=True)
    table.add_column("what happened", overflow="fold")
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for result in results:
        mark = "[green]ok[/green]" if result.good else "[bold red]FAIL[/bold red]"
        table.add_row(
            mark, result.name, result.text.replace("[", r"\["), result.rate, f"{result.seconds:.2f} s"
        )
    console.print()
    console.print(table, highlight=False)
    console.print()


def event_loop() -> tuple[Callable[[], asyncio.AbstractEventLoop], str]:
    """Uvloop's where that is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop, "asyncio (uvloop is not installed)"
    return uvloop.new_event_loop, f"uvloop {version('uvloop')}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and short bursts")
    parser.add_argument(
        "--no-nginx", action="store_true", help="use Python's own server even if nginx is there"
    )
    parser.add_argument("--no-workers", action="store_true", help="leave out the steps with worker processes")
    arguments = parser.parse_args()
    quick = arguments.quick
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    # A kill is an end like any other: the servers are stopped and their folder is removed.
    # A shell that starts it in the background has SIGINT ignored, and SIGTERM goes the same way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # A worker is killed on purpose.
    logging.getLogger("dodici.mesh").setLevel(logging.CRITICAL)
    factory, loop_name = event_loop()
    began = time.perf_counter()
    try:
        size = (4 if quick else 100) * MEBIBYTE
        with TourServer(size, nginx=not arguments.no_nginx) as server:
            python = f"Python {sys.version.split()[0]}"
            console.print(f"dodici {dodici.__version__}, {python}, {loop_name}", highlight=False)
            console.print(f"server: {server.name}, at {server.origin}\n", highlight=False)
            with asyncio.Runner(loop_factory=factory) as runner:
                results = runner.run(perform(server, console, quick=quick, workers=not arguments.no_workers))
    except KeyboardInterrupt:
        console.print("\ninterrupted: the servers are stopped and their files removed")
        return 130
    show(results, console)
    failed = [result.name for result in results if not result.good]
    took = time.perf_counter() - began
    if failed:
        console.print(f"[bold red]{len(failed)} of {len(results)} failed:[/bold red] {', '.join(failed)}")
        return 1
    console.print(f"All {len(results)} as promised, in {took:.1f} s.\n", highlight=False)
    console.print(NEXT, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
