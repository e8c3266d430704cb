"""`dodici call`: the options. What is done is in `call_run`."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from .collector import available
from .seconds import Seconds
from .sections import SectionedCommand
from .up import _option

_EPILOG = """\b
Examples:
  dodici call 127.0.0.1:50051 orders OrderService.CreateOrder '{"sku": "a-1"}'
  dodici call 127.0.0.1:50051 orders shop.v1.OrderService.List -v --target orders-2
  printf '{"n": 1} {"n": 2}' | dodici call 127.0.0.1:50051 math Sums.Add - --stream

\b
Types come from the collector's reflection, or from its registry, or from that of --registry. Of a method
whose types nobody knows, JSON becomes a google.protobuf.Struct, ListValue, string and so on, in an envelope.

\b
Exit status: 0, or 64 + the number of the gRPC status:
  65 CANCELLED           70 ALREADY_EXISTS      75 OUT_OF_RANGE
  66 UNKNOWN             71 PERMISSION_DENIED   76 UNIMPLEMENTED
  67 INVALID_ARGUMENT    72 RESOURCE_EXHAUSTED  77 INTERNAL
  68 DEADLINE_EXCEEDED   73 FAILED_PRECONDITION 78 UNAVAILABLE
  69 NOT_FOUND           74 ABORTED             79 DATA_LOSS
                                                80 UNAUTHENTICATED
  2 for wrong usage, 23 if the output could not be written, 130 for an interrupt
"""


@click.command(
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Call a method through a collector.",
)
@click.argument("address")
@click.argument("namespace")
@click.argument("method", metavar="SERVICE.METHOD")
@click.argument("given", required=False, metavar="[JSON | -]")
@_option(
    "The call",
    "-m",
    "--metadata",
    multiple=True,
    metavar="NAME:VALUE",
    help="Send metadata; repeatable. VALUE is base64 for a NAME in -bin.",
)
@_option(
    "The call",
    "--timeout",
    type=Seconds(0, more=True),
    default=30.0,
    metavar="SECONDS",
    help="Its deadline. [30]",
)
@_option("The call", "--target", metavar="ID", help="The collector that has to run it.")
@_option(
    "The call",
    "--stream",
    is_flag=True,
    help="The method streams; needed for several values if nobody knows its types.",
)
@_option("The call", "--envelope", is_flag=True, help="Use the envelope, whatever is known.")
@_option("The call", "--registry", metavar="ADDRESS", help="Ask this registry for types.")
@_option(
    "The call", "-v", "--verbose", is_flag=True, help="Tell who ran it, how long that took, and its metadata."
)
@_option("TLS", "--cacert", metavar="FILE", help="Trust these authorities, PEM; this is what turns TLS on.")
@_option("TLS", "--cert", metavar="FILE", help="A client certificate, PEM.")
@_option("TLS", "--key", metavar="FILE", help="Its private key, PEM.")
@_option("TLS", "--server-name", metavar="NAME", help="The name that the collector's certificate has.")
@click.pass_context
def call(
    context: click.Context, /, address: str, namespace: str, method: str, given: str | None, **options: Any
) -> None:
    """Call SERVICE.METHOD of NAMESPACE through the collector at ADDRESS, and print what it answers, as JSON.

    `-` reads JSON from standard input: one value, or any number of them for a method that streams its input.
    """
    if not available("call"):
        context.exit(2)
    service, _, name = method.removeprefix("/").replace("/", ".").rpartition(".")
    if not service or not name:
        raise click.UsageError(f"name the method as SERVICE.METHOD, not {method!r}")
    from .call_run import Wanted, run

    wanted = Wanted(
        address=address,
        namespace=namespace,
        service=service,
        method=name,
        inputs=_inputs(given),
        metadata=tuple(_pair(text) for text in options.pop("metadata")),
        **options,
    )
    context.exit(run(wanted))


def _inputs(given: str | None) -> tuple[Any, ...]:
    where = "standard input" if given == "-" else "the argument"
    try:
        text = sys.stdin.read() if given == "-" else given
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{where} is not UTF-8") from error
    if text is None:
        return ()
    decoder = json.JSONDecoder(parse_constant=_no_json)
    values = []
    at = 0
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if at >= len(text):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise click.UsageError(
                f"{where} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
            ) from error
        except (ValueError, RecursionError) as error:
            # What the parser lets through: a number of thousands of digits, brackets that are as many deep.
            what = "brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise click.UsageError(f"{where} is not JSON: {what}") from error
        values.append(value)
    if given != "-" and len(values) != 1:
        raise click.UsageError("the argument must be one JSON value; give several on standard input, with -")
    return tuple(values)


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of it")


def _pair(text: str) -> tuple[str, str | bytes]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.UsageError(f"--metadata takes NAME:VALUE, not {text!r}")
    name, value = name.strip().lower(), value.strip()
    if not name.endswith("-bin"):
        return name, value
    import base64
    import binascii

    try:
        return name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise click.UsageError(f"the value of {name} must be base64: {error}") from error
