"""`dodici ps`, `pause`, `resume`, `reload`, `stop`, `logs`: what one asks of a running `dodici up`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .seconds import Seconds
from .up import _option

if TYPE_CHECKING:
    from ..server.control import ControlClient

_WHICH = """\b
Which `dodici up` is meant: the only one that runs, or that of --name, or that of the file of --config.
"""


_Function = TypeVar("_Function", bound=Callable[..., Any])
_PATIENCE = 15.0
"""Seconds for an answer that takes a server no more than a moment."""


def command(
    name: str, text: str, *, timeout: float | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that asks a running `dodici up`; its function gets the client first.

    Args:
        name: of the command.
        text: one line of help.
        timeout: seconds for each answer; None where it comes when something is done, however long that takes.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @which
        @click.pass_context
        @wraps(function)
        def run(context: click.Context, /, name: str | None, config: Path | None, **options: Any) -> None:
            context.exit(asked(lambda client: function(client, **options), name, config, timeout=timeout))

        return click.command(
            name,
            help=f"{function.__doc__}\n\n{_WHICH}",
            short_help=text,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )(run)

    return decorate


def which(function: _Function) -> _Function:
    """The options that say which `dodici up` is meant."""
    by_name = _option("Asking", "--name", metavar="NAME", help="The one that was started with this --name.")
    by_file = _option(
        "Asking",
        "-c",
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The one that serves this file.",
    )
    return by_name(by_file(function))


def asked(
    ask: Callable[[ControlClient], int | None],
    name: str | None,
    config: Path | None,
    *,
    timeout: float | None = None,
    otherwise: str = "",
) -> int:
    """What `ask` returns of the `dodici up` that is meant: the exit status. `otherwise` is added where none runs."""
    from ..core.errors import DodiciError
    from ..server.control import ControlClient, ControlError

    try:
        with ControlClient(_path(name, config, otherwise), timeout) as client:
            return ask(client) or 0
    except KeyboardInterrupt:
        return 130
    except DodiciError as error:
        print(f"dodici: {error.message}", file=sys.stderr)
        return 1 if isinstance(error, ControlError) else 2


def _path(name: str | None, config: Path | None, otherwise: str) -> Path:
    from ..server.control import ControlError, running, socket_name, socket_path

    if name is not None or config is not None:
        return socket_path(socket_name(name, config))
    found = running()
    if not found:
        raise ControlError(f"no `dodici up` of this user is running{otherwise}")
    if len(found) > 1:
        raise ControlError(f"more than one is running; say which with --name: {', '.join(found)}")
    return socket_path(found[0])


@command("ps", "List services and workers.", timeout=_PATIENCE)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing it, until interrupted.")
@click.option(
    "--interval",
    type=Seconds(0.1),
    default=1.0,
    show_default=True,
    help="Seconds, with --watch.",
)
def ps(client: ControlClient, *, as_json: bool, watch: bool, interval: float) -> int:
    """List services and workers, with what they do."""
    if as_json and not watch:
        print(json.dumps(client.call("status")["status"], indent=2))
        return 0
    from .ps import show, watch_status

    if watch:
        watch_status(lambda: client.call("status")["status"], interval, as_json=as_json)
    else:
        show(client.call("status")["status"])
    return 0


@command("pause", "Send nothing more to a service or a worker.")
@click.argument("target", metavar="SERVICE|PID")
def pause(client: ControlClient, *, target: str) -> int:
    """Send nothing more to a service, or to one worker, until it is resumed. What it has, it finishes."""
    return _tell_workers("paused", client.call("pause", target=target))


@command("resume", "Let a service or a worker take requests again.")
@click.argument("target", metavar="SERVICE|PID")
def resume(client: ControlClient, *, target: str) -> int:
    """Let a service, or one worker, take requests again."""
    return _tell_workers("resumed", client.call("resume", target=target))


def _tell_workers(what: str, answer: dict[str, Any]) -> int:
    print(f"{what}: {', '.join(map(str, answer['workers'])) or 'no worker is running'}")
    return 0


@command("reload", "Replace workers without losing a request.")
@click.argument("service", required=False)
def reload(client: ControlClient, *, service: str | None) -> int:
    """Read the file again, and replace the workers of all services, or of SERVICE, one by one.

    Returns when it is done. Workers whose successor does not start stay; then the exit status is 1.
    """
    problems = client.call("reload", service=service)["problems"]
    for problem in problems:
        print(f"dodici: {problem}", file=sys.stderr)
    if not problems:
        print("reloaded")
    return 1 if problems else 0


@command("stop", "Finish what is running, then end.")
@click.option("--now", is_flag=True, help="Do not wait for running requests.")
def stop(client: ControlClient, *, now: bool) -> int:
    """Finish what is running, then end. Returns when it has ended."""
    pid = client.call("stop", now=now)["pid"]
    client.wait_for_end()
    print(f"stopped: {pid}")
    return 0


@command("logs", "Show what the workers have printed.")
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what they print next, until interrupted.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(min=0), default=100, show_default=True, help="How many."
)
def logs(client: ControlClient, *, service: str | None, follow: bool, count: int) -> int:
    """Show the last lines that the workers of SERVICE, or of all, have printed."""
    from ..server.output import Output

    shown = Output.for_terminal()
    for line in client.lines(service=service, follow=follow, count=count):
        shown.add(line["service"], line["pid"], line["stream"], line["text"])
        if shown.broken:
            return 23
    return 0


COMMANDS = (ps, pause, resume, reload, stop, logs)
