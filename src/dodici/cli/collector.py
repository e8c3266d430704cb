"""`dodici collector`: the options, and which configuration they make."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .sections import SectionedCommand
from .up import _option

if TYPE_CHECKING:
    from ..server.collector.config import CollectorConfig

DEFAULT_FILE = "collector.toml"
NEEDED = ("grpc", "google.protobuf", "grpc_health", "grpc_reflection")

_EPILOG = f"""\b
Examples:
  dodici collector                             what ./{DEFAULT_FILE} says
  dodici collector --config shop.toml --check
  dodici collector --id orders-1 --listen 127.0.0.1:50051 --serve orders.OrderService=shop.orders:Orders
  dodici collector --id gate --namespace orders --connect 127.0.0.1:50051

\b
Signals:
  SIGTERM, SIGINT   tell the peers, finish the running calls, then end; a second one ends now

\b
Exit status:
  0  it was stopped
  1  the address cannot be listened on, or the registry cannot be opened
  2  wrong usage, or a mistake in the file
"""


@click.command(
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Run a collector: one process of a collective.",
)
@_option(
    "Configuration",
    "-c",
    "--config",
    "file",
    metavar="FILE",
    help="A TOML file with a table [collector]; options count instead of its keys.",
)
@_option("Configuration", "--check", is_flag=True, help="Say what is wrong with it, and end.")
@_option("The collector", "--id", "id_", metavar="ID", help="Its name in the collective.")
@_option(
    "The collector",
    "-l",
    "--listen",
    metavar="ADDRESS",
    help="HOST:PORT, [IPV6]:PORT or unix:/PATH. Port 0 is any free one. [127.0.0.1:50051]",
)
@_option(
    "The collector", "-n", "--namespace", multiple=True, metavar="NAME", help="One that it is in; repeatable."
)
@_option(
    "The collector",
    "-s",
    "--serve",
    multiple=True,
    metavar="NAMESPACE.SERVICE=MODULE:OBJECT",
    help="Serve the methods of an object; repeatable.",
)
@_option(
    "Other collectors",
    "--connect",
    multiple=True,
    metavar="ADDRESS",
    help="Connect to the collector there, as soon as it answers; repeatable.",
)
@_option(
    "Other collectors",
    "--discovery",
    metavar="URL",
    help="Find the others: etcd://HOST:PORT[/PREFIX][?ttl=SECONDS].",
)
@_option("Other collectors", "--balance", metavar="NAME", help="How one of them is chosen. [p2c]")
@_option(
    "Other collectors",
    "--registry",
    metavar="REGISTRY",
    help="sqlite:PATH, memory, etcd://HOST:PORT, or the ADDRESS of another registry.",
)
@_option("Security", "--cert", metavar="FILE", help="Its certificate, PEM.")
@_option("Security", "--key", metavar="FILE", help="The private key, PEM.")
@_option("Security", "--ca", metavar="FILE", help="The authorities that it trusts, PEM.")
@_option("Security", "--insecure", is_flag=True, help="Allow plaintext on an address that others can reach.")
@_option("Running", "--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus there.")
@_option(
    "Running", "--drain-timeout", type=float, metavar="SECONDS", help="That running calls have to end. [30]"
)
@_option("Running", "--log-level", metavar="LEVEL", help="debug, info, warning or error. [info]")
@click.pass_context
def collector(context: click.Context, /, file: str | None, check: bool, **options: Any) -> None:
    """Run a collector until a signal comes.

    It serves methods to whoever calls it, and passes on to its peers what they serve.
    """
    if not available("collector"):
        context.exit(2)
    from ..core.errors import DodiciError
    from ..server.schema import ConfigError

    try:
        config = _configuration(file, options)
        from ..server.collector.build import build

        made = build(config)
    except ConfigError as error:
        for problem in error.problems:
            print(f"dodici: {problem}", file=sys.stderr)
        context.exit(2)
    if check:
        print(f"{config.file or 'the options'}: collector {config.id}: no mistakes found")
        return
    if config.metrics is not None and find_spec("prometheus_client") is None:
        print("dodici: metrics need prometheus-client: pip install prometheus-client", file=sys.stderr)
        context.exit(2)
    from .collector_run import run

    try:
        status = run(config, made)
    except DodiciError as error:
        print(f"dodici: {error.message}", file=sys.stderr)
        status = 1
    context.exit(status)


def available(command: str) -> bool:
    """Whether what the collective needs is installed; if not, that is told."""
    from ..server.config import installed

    # What grpc's core says on standard error is said once more by the error that the command tells.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    missing = [name for name in NEEDED if not installed(name)]
    if missing:
        print(
            f"dodici: {command} needs {', '.join(missing)}, which the extra 'collective' installs: "
            "pip install 'dodici[collective]'",
            file=sys.stderr,
        )
    return not missing


def _configuration(file: str | None, options: dict[str, Any]) -> CollectorConfig:
    from ..server.collector.config import load, parse
    from ..server.schema import Problems

    given: dict[str, Any] = {
        "id": options["id_"],
        "namespaces": list(options["namespace"]) or None,
        "connect": list(options["connect"]) or None,
        "insecure": options["insecure"] or None,
        **{
            name: options[name]
            for name in (
                "listen",
                "discovery",
                "balance",
                "registry",
                "metrics",
                "drain_timeout",
                "log_level",
            )
        },
    }
    files = {name: str(Path(options[name]).resolve()) for name in ("cert", "key", "ca") if options[name]}
    if files:
        given["tls"] = files
    if options["serve"]:
        given["services"] = dict(_served(text) for text in options["serve"])
    given = {name: value for name, value in given.items() if value is not None}
    if file is None and "id" not in given:
        if not Path(DEFAULT_FILE).exists():
            raise click.UsageError(f"give --config or --id: there is no {DEFAULT_FILE} here")
        file = DEFAULT_FILE
    if file is None:
        return parse({}, given, Problems("", ""))
    return load(file, given)


def _served(text: str) -> tuple[str, dict[str, str]]:
    name, equals, handler = text.partition("=")
    if not equals:
        raise click.UsageError(f"--serve takes NAMESPACE.SERVICE=MODULE:OBJECT, not {text!r}")
    return name, {"handler": handler}
