"""`dodici collectors`: members, links, routes, breakers and rates of collectors."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from .collector import available
from .seconds import Seconds
from .sections import SectionedCommand
from .up import _option

if TYPE_CHECKING:
    from collections.abc import Callable

_EPILOG = """\b
Examples:
  dodici collectors                            every collector of this user, on this machine
  dodici collectors 127.0.0.1:50051 --watch
  dodici collectors 10.0.0.7:50051 --cacert ca.pem --cert me.pem --key me.key --json

\b
Exit status:
  0   shown
  1   no collector of this user is running here
  23  the output could not be written
  64 + the number of a gRPC status: ADDRESS did not tell; see `dodici call --help`
"""


@click.command(
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Show collectors: members, links, routes, breakers, rates.",
)
@click.argument("address", required=False)
@_option("Showing", "-w", "--watch", is_flag=True, help="Go on showing it, until interrupted.")
@_option(
    "Showing",
    "--interval",
    type=Seconds(0.1),
    default=1.0,
    metavar="SECONDS",
    help="With --watch. [1]",
)
@_option("Showing", "--json", "as_json", is_flag=True, help="As JSON, for programs, with the last calls.")
@_option("Showing", "--calls", is_flag=True, help="Show the last calls, too.")
@_option("Asking", "--timeout", type=Seconds(0.1), default=5.0, metavar="SECONDS", help="[5]")
@_option("TLS", "--cacert", metavar="FILE", help="Trust these authorities, PEM; this is what turns TLS on.")
@_option("TLS", "--cert", metavar="FILE", help="A client certificate, PEM.")
@_option("TLS", "--key", metavar="FILE", help="Its private key, PEM.")
@_option("TLS", "--server-name", metavar="NAME", help="The name that the collector's certificate has.")
@click.pass_context
def collectors(context: click.Context, /, address: str | None, **options: Any) -> None:
    """Show what the collector at ADDRESS knows: members, links, routes, breakers, rates.

    Without ADDRESS: what every `dodici collector` and `dodici up` of this user on this machine knows.
    """
    if not available("collectors"):
        context.exit(2)
    from ..collective.errors import CollectiveError
    from ..core.errors import DodiciError
    from .collector_client import exit_status, tell

    tls = {name: options.pop(name) for name in ("cacert", "cert", "key", "server_name")}
    try:
        if address is None:
            found = _local
        else:
            found = _remote(address, options["timeout"], tls)
        status = _show(found, address is not None, options)
    except KeyboardInterrupt:
        status = 130
    except CollectiveError as error:
        print(f"dodici: {tell(error)}", file=sys.stderr)
        status = exit_status(error)
    except DodiciError as error:
        print(f"dodici: {error.message}", file=sys.stderr)
        status = 1
    context.exit(status)


def _show(found: Callable[[], list[dict[str, Any]]], single: bool, options: dict[str, Any]) -> int:
    watching = options["watch"]
    if watching and not options["as_json"]:
        from .collectors_table import watch

        watch(_as_long_as_it_takes(found), options["interval"], calls=options["calls"])
    figures = found()
    if not figures and not watching:
        print("dodici: no collector of this user is running; name the ADDRESS of one", file=sys.stderr)
        return 1
    if options["as_json"]:
        while True:
            shown = figures[0] if single else figures
            print(json.dumps(shown, indent=None if watching else 2), flush=True)
            if not watching:
                return 0
            time.sleep(options["interval"])
            figures = found()
    from .collectors_table import show

    show(figures, calls=options["calls"])
    return 0


def _as_long_as_it_takes(found: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
    """The same for who goes on looking: once somebody has told, a restart is no reason to end."""
    from ..collective.errors import CollectiveError
    from .collector_client import tell

    told = False

    def look() -> list[dict[str, Any]]:
        nonlocal told
        try:
            figures = found()
        except CollectiveError as error:
            if not told:
                raise
            return [{"lost": tell(error)}]
        told = True
        return figures

    return look


def _local() -> list[dict[str, Any]]:
    """What the collectors of this user tell at their control sockets."""
    from ..server.collector.node import SUFFIX
    from ..server.control import ControlClient, ControlError, folder

    told = []
    for path in sorted(folder().glob(f"*{SUFFIX}")):
        try:
            with ControlClient(path, timeout=5.0) as client:
                told.append(client.call("stats")["stats"])
        except ControlError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                # Left over from one that was killed: nobody else will take its name again.
                path.unlink(missing_ok=True)
    return told


def _remote(address: str, timeout: float, tls: dict[str, Any]) -> Callable[[], list[dict[str, Any]]]:
    """What the collector at an address tells."""
    import asyncio

    from google.protobuf.struct_pb2 import Struct

    from ..collective.inspection import PATH
    from ..collective.values import from_message
    from .collector_client import channel_to, security_of

    async def ask() -> list[dict[str, Any]]:
        channel = channel_to(address, security_of(**tls))
        try:
            return [from_message(Struct.FromString(await channel.unary(PATH, b"", timeout=timeout)))]
        finally:
            await channel.close()

    return lambda: asyncio.run(ask())
