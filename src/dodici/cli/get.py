"""`dodici get`: the options, and nothing but the options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .exits import TABLE
from .sections import SectionedCommand, SectionOption
from .settings import GetSettings

_Function = TypeVar("_Function", bound=Callable[..., Any])

_EXAMPLES = """\b
Examples:
  dodici get example.com
  dodici get -v https://example.com/
  dodici get -o large.bin https://example.com/large.bin
  dodici get -d size=12 -d colour=red https://example.com/orders
  dodici get --json '{"size": 12}' -H 'authorization: Bearer abc' https://example.com/orders
  dodici get -F photo=@cat.jpg -F title=Cat https://example.com/photos
  dodici get -fsSL --retry 3 --timeout 60 -O https://example.com/releases/latest.tar.gz
  dodici get --unix-socket /run/docker.sock http://docker/version

\b
Exit status:
"""
_EPILOG = _EXAMPLES + "\n".join(f"  {status:>3}  {meaning}" for status, meaning in TABLE.items())


def _option(section: str, *names: str, **attributes: Any) -> Callable[[_Function], _Function]:
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def _zero_or_more(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value < float("inf"):
        raise click.BadParameter(f"{value!r} is not a number of 0 or more")
    return value


_REQUEST, _BODY, _OUTPUT = "Request", "Request body", "Output"
_TIME, _CONNECTION = "Redirects, retries and time", "Connection and TLS"
_SECONDS: dict[str, Any] = {"type": float, "callback": _zero_or_more, "metavar": "SECONDS"}
_COUNT: dict[str, Any] = {"type": int, "callback": _zero_or_more, "metavar": "N"}


@click.command(
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Send one request and print the response's body.",
)
@click.argument("url")
@_option(
    _REQUEST, "-X", "--request", "method", metavar="METHOD", help="The method; GET, or POST with a body."
)
@_option(
    _REQUEST,
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header field; repeatable. 'NAME:' leaves out one that is sent by default, 'NAME;' sends it empty.",
)
@_option(
    _REQUEST, "-u", "--user", metavar="USER:PASSWORD", help="Basic credentials; asks for a password left out."
)
@_option(_REQUEST, "-A", "--user-agent", metavar="NAME", help="The user-agent field.")
@_option(_REQUEST, "-I", "--head", is_flag=True, help="Send HEAD, and print the response's head.")
@_option(_REQUEST, "--compressed", is_flag=True, help="Ask for a compressed response, and decode it.")
@_option(
    _BODY,
    "-d",
    "--data",
    multiple=True,
    metavar="DATA",
    help="A form's data, as it is; repeatable, joined by '&'. '@FILE' reads a file less its line ends, '@-' stdin.",
)
@_option(
    _BODY, "--data-binary", multiple=True, metavar="DATA", help="The same, but a file is sent byte by byte."
)
@_option(
    _BODY,
    "-F",
    "--form",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of multipart/form-data; repeatable. 'NAME=@FILE' sends a file, 'NAME=<FILE' its text; "
    "';type=TYPE' and ';filename=NAME' may follow.",
)
@_option(
    _BODY,
    "--json",
    multiple=True,
    metavar="JSON",
    help="A JSON body, with its content-type. '@FILE' reads a file.",
)
@_option(
    _BODY, "-T", "--upload-file", metavar="FILE", help="Stream a file as the body, by PUT; '-' is stdin."
)
@_option(
    _OUTPUT,
    "-o",
    "--output",
    metavar="FILE",
    help="Write the body to FILE; '-' is stdout, whatever the body.",
)
@_option(_OUTPUT, "-O", "--remote-name", is_flag=True, help="Write to a file named as in the URL.")
@_option(_OUTPUT, "-i", "--include", is_flag=True, help="Print the response's head before the body.")
@_option(
    _OUTPUT,
    "-v",
    "--verbose",
    is_flag=True,
    help="Tell on stderr what is sent (>), received (<) and done (*).",
)
@_option(_OUTPUT, "-s", "--silent", is_flag=True, help="No progress bar, no error messages.")
@_option(_OUTPUT, "-S", "--show-error", is_flag=True, help="With -s: error messages all the same.")
@_option(
    _OUTPUT,
    "-f",
    "--fail",
    is_flag=True,
    help="A status of 400 or above is an error (exit status 22), without a body.",
)
@_option(_TIME, "-L", "--location", is_flag=True, help="Follow redirects.")
@_option(_TIME, "--max-redirs", **_COUNT, default=50, show_default=True, help="How many with -L.")
@_option(
    _TIME,
    "--retry",
    **_COUNT,
    default=0,
    help="Repeat up to N times what failed for a passing reason (429, 5xx, a broken connection) and is safe to repeat; "
    "a download goes on where it broke.",
)
@_option(_TIME, "-m", "--timeout", "--max-time", **_SECONDS, help="For everything together.")
@_option(
    _TIME,
    "--connect-timeout",
    **_SECONDS,
    default=10,
    show_default=True,
    help="For DNS, TCP and TLS; 0 for no limit.",
)
@_option(
    _CONNECTION, "--unix-socket", metavar="PATH", help="Connect to a unix socket instead of the URL's host."
)
@_option(_CONNECTION, "--http1.1", "http1", is_flag=True, help="Speak HTTP/1.1 alone.")
@_option(
    _CONNECTION,
    "--http2",
    is_flag=True,
    help="Name HTTP/2 first in the offer to an https server; it is offered without this, too.",
)
@_option(
    _CONNECTION,
    "--http2-prior-knowledge",
    is_flag=True,
    help="Speak HTTP/2 to an http server, which must understand it.",
)
@_option(_CONNECTION, "-k", "--insecure", is_flag=True, help="Do not verify the server's certificate.")
@_option(
    _CONNECTION,
    "--cacert",
    metavar="FILE",
    help="Trust these certificate authorities instead of the system's.",
)
@_option(_CONNECTION, "-E", "--cert", metavar="FILE", help="A client certificate (PEM).")
@_option(_CONNECTION, "--key", metavar="FILE", help="Its private key, unless it is in the same file.")
@click.pass_context
def get(context: click.Context, /, **options: Any) -> None:
    """Send one request to URL and write the body of its response to standard output.

    A URL without a scheme is one of http. JSON is indented and coloured where standard output is a terminal;
    in a pipe or a file the body is what was received, byte by byte.
    """
    from .transfer import run

    settings = GetSettings(**options)
    if settings.user is not None and ":" not in settings.user:
        password = click.prompt(f"Password for {settings.user}", hide_input=True, err=True)
        settings = settings.with_password(password)
    context.exit(run(settings))
