"""`dodici trace`: the path of a request, or the last ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .control import command

if TYPE_CHECKING:
    from ..server.control import ControlClient


@command("trace", "Show the path of a request, with times.")
@click.argument("trace_id", required=False, metavar="[TRACE_ID]")
@click.option("--slow", is_flag=True, help="Of the last ones, the slowest first.")
@click.option("--failed", is_flag=True, help="Of the last ones, those in which something failed.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def trace(
    client: ControlClient, *, trace_id: str | None, slow: bool, failed: bool, count: int, as_json: bool
) -> int:
    """Show the path of the request whose trace has TRACE_ID, through gateway, workers and collectors.

    Without TRACE_ID: the last requests that this node remembers, the newest first. TRACE_ID is the 32 digits of the
    `traceparent` (W3C Trace Context) that the client has sent, or that access log and this list show. A client's whole
    `traceparent` will do, too.

    Exit status 1: nobody knows the trace, or it is not certain that all was found.
    """
    from .trace_tree import show_path, show_traces

    if trace_id is None:
        answer = client.call("trace", count=count, slow=slow, failed=failed)
        if as_json:
            print(json.dumps(answer["traces"], indent=2))
            return 0
        return show_traces(answer)
    if slow or failed:
        raise click.UsageError("--slow and --failed are for the list: leave out TRACE_ID")
    wanted = trace_id.strip().lower()
    pieces = wanted.split("-")
    if len(pieces) >= 4 and len(pieces[1]) == 32:
        wanted = pieces[1]
    answer = client.call("trace", trace_id=wanted)
    if as_json:
        print(json.dumps({"spans": answer["spans"], "silent": answer["silent"]}, indent=2))
        return 0 if answer["spans"] and not answer["silent"] else 1
    return show_path(wanted, answer)
