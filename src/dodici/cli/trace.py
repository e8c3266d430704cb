"""`dodici trace`: the path of a request, or the last ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .collector import available
from .control import asked, which
from .sections import SectionedCommand
from .up import _option

if TYPE_CHECKING:
    from collections.abc import Callable

_EPILOG = """\b
Which `dodici up` is asked: the only one that runs, or that of --name, or that of the file of --config.

\b
Examples:
  dodici trace --failed
  dodici trace 4bf92f3577b34da6a3ce929d0e0e4736
  dodici trace 4bf92f3577b34da6a3ce929d0e0e4736 --collector 127.0.0.1:50051

\b
Exit status:
  0   shown
  1   nobody knows the trace, or it is not certain that all was found; nobody could be asked
  2   wrong usage
  64 + the number of a gRPC status: the collector did not tell; see `dodici call --help`
"""


@click.command(
    "trace",
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Show the path of a request, with times.",
)
@click.argument("trace_id", required=False, metavar="[TRACE_ID]")
@_option("Showing", "--slow", is_flag=True, help="Of the last ones, the slowest first.")
@_option("Showing", "--failed", is_flag=True, help="Of the last ones, those in which something failed.")
@_option(
    "Showing",
    "-n",
    "--lines",
    "count",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many.",
)
@_option("Showing", "--json", "as_json", is_flag=True, help="As JSON, for programs.")
@which
@_option("Asking", "--collector", metavar="ADDRESS", help="Ask the collector there, and no `dodici up`.")
@_option("TLS", "--cacert", metavar="FILE", help="Trust these authorities, PEM; this is what turns TLS on.")
@_option("TLS", "--cert", metavar="FILE", help="A client certificate, PEM.")
@_option("TLS", "--key", metavar="FILE", help="Its private key, PEM.")
@_option("TLS", "--server-name", metavar="NAME", help="The name that the collector's certificate has.")
@click.pass_context
def trace(
    context: click.Context,
    /,
    trace_id: str | None,
    name: str | None,
    config: Path | None,
    collector: str | None,
    **options: Any,
) -> None:
    """Show the path of the request whose trace has TRACE_ID, through gateway, workers and collectors.

    Without TRACE_ID: the last requests that this node remembers, the newest first. TRACE_ID is the 32 digits of the
    `traceparent` (W3C Trace Context) that the client has sent, or that access log and this list show. A client's whole
    `traceparent` will do, too.
    """
    if trace_id is not None and (options["slow"] or options["failed"]):
        raise click.UsageError("--slow and --failed are for the list: leave out TRACE_ID")
    tls = {option: options.pop(option) for option in ("cacert", "cert", "key", "server_name")}
    wanted = None if trace_id is None else _id_of(trace_id)
    if collector is None:
        if any(tls.values()):
            raise click.UsageError("--cacert, --cert, --key and --server-name go with --collector")
        status = asked(
            lambda client: _show(lambda **given: client.call("trace", **given), wanted, **options),
            name,
            config,
            otherwise="; name a collector with --collector",
        )
        context.exit(status)
    if name is not None or config is not None:
        raise click.UsageError("--collector asks no `dodici up`: leave out --name and --config")
    if not available("trace --collector"):
        context.exit(2)
    from ..collective.errors import CollectiveError
    from .collector_client import exit_status, tell
    from .trace_remote import asking

    try:
        context.exit(_show(asking(collector, tls), wanted, **options))
    except CollectiveError as error:
        print(f"dodici: {tell(error)}", file=sys.stderr)
        context.exit(exit_status(error))


def _id_of(text: str) -> str:
    wanted = text.strip().lower()
    pieces = wanted.split("-")
    return pieces[1] if len(pieces) >= 4 and len(pieces[1]) == 32 else wanted


def _show(
    ask: Callable[..., dict[str, Any]],
    trace_id: str | None,
    *,
    slow: bool,
    failed: bool,
    count: int,
    as_json: bool,
) -> int:
    """Ask, and print the answer. Returns the exit status."""
    from .trace_tree import outcome, show_path, show_traces

    if trace_id is None:
        answer = ask(count=count, slow=slow, failed=failed)
        if not as_json:
            return show_traces(answer)
        print(json.dumps(answer["traces"], indent=2))
        return outcome(answer)
    answer = ask(trace_id=trace_id)
    if not as_json:
        return show_path(trace_id, answer)
    print(json.dumps({"spans": answer["spans"], "silent": answer["silent"]}, indent=2))
    return 0 if answer["spans"] and not answer["silent"] else 1
