"""`dodici up`: the options, and which configuration they make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .sections import SectionedCommand, SectionOption

if TYPE_CHECKING:
    from ..collective import Collector
    from ..server.config import Config
    from ..server.schema import ConfigError

_DEFAULT_FILE = "dodici.toml"
_NEEDED = ("httptools", "prometheus_client", "psutil", "uvicorn", "watchfiles", "websockets")
_SERVICE_OPTIONS = ("workers", "kind", "interface", "lifespan", "max_requests", "max_rss")

_EPILOG = f"""\b
Examples:
  dodici up                                    what ./{_DEFAULT_FILE} says
  dodici up shop.toml
  dodici up shop.toml --check
  dodici up shop.api:app --workers 4
  dodici up shop.api:app --reload --listen 127.0.0.1:8080
  dodici up 'shop.wsgi:make_app()' --listen unix:/run/shop.sock

\b
Signals:
  SIGTERM, SIGINT   finish the running requests, then end; a second one ends now
  SIGHUP            read the file again, and replace the workers one by one

\b
Exit status:
  0  it was stopped
  1  an address is in use, another one of this name runs, or no service could be started
  2  wrong usage, or a mistake in the file
"""


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _option(section: str, *names: str, **attributes: Any) -> Callable[[_Function], _Function]:
    return click.option(*names, cls=SectionOption, section=section, **attributes)


@click.command(
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    short_help="Serve apps: supervised workers behind a gateway.",
)
@click.argument("target", required=False, metavar="[FILE | MODULE:APP]")
@_option(
    "Gateway",
    "-l",
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT, [IPV6]:PORT or unix:/PATH; repeatable. Port 0 is any free one. [127.0.0.1:8000]",
)
@_option("Gateway", "--access-log", is_flag=True, help="Print a line for each request.")
@_option(
    "Gateway",
    "--admin",
    metavar="ADDRESS",
    help="Serve /metrics, /status and /healthz there; loopback alone.",
)
@_option(
    "The app of MODULE:APP",
    "-w",
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many run it. [1]",
)
@_option(
    "The app of MODULE:APP",
    "--kind",
    type=click.Choice(["process", "thread", "loop"]),
    help="What a worker is. [process]",
)
@_option(
    "The app of MODULE:APP",
    "--interface",
    type=click.Choice(["auto", "asgi", "wsgi"]),
    help="What the app is. [auto]",
)
@_option(
    "The app of MODULE:APP",
    "--lifespan",
    type=click.Choice(["auto", "on", "off"]),
    help="Whether it has start-up and shutdown events. [auto]",
)
@_option(
    "The app of MODULE:APP",
    "--max-requests",
    type=click.IntRange(min=0),
    metavar="N",
    help="Replace a worker that has served N.",
)
@_option(
    "The app of MODULE:APP",
    "--max-rss",
    metavar="SIZE",
    help="Replace a worker that has grown to SIZE, such as 512MiB.",
)
@_option("Running", "--reload", is_flag=True, help="Replace workers when files change; for development.")
@_option(
    "Running", "--name", metavar="NAME", help="What `dodici ps --name` calls it; made of the file's path."
)
@_option("Running", "--check", is_flag=True, help="Say what is wrong with the file, and end.")
@click.pass_context
def up(context: click.Context, /, target: str | None, **options: Any) -> None:
    """Serve the services of FILE, or one app, until a signal comes.

    Each service's app runs in workers of its own, which are started again when they crash and replaced without losing
    a request. Services reach each other as http://NAME.local/, and clients reach them at the gateway.
    """
    if sys.platform == "win32":
        print("dodici: up needs a system with unix sockets and signals", file=sys.stderr)
        context.exit(2)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"dodici: up needs {', '.join(missing)}, which the extra 'server' installs: pip install 'dodici[server]'",
            file=sys.stderr,
        )
        context.exit(2)
    from ..server.schema import ConfigError

    made: Collector | None = None
    try:
        config = _configuration(target, options)
        if config.collector is not None:
            from ..server.collector.build import build

            made = build(config.collector)
    except ConfigError as error:
        _tell(error)
        context.exit(2)
    if options["check"]:
        services = ", ".join(f"{service.name} ({service.app})" for service in config.services)
        if made is not None:
            services += f"; collector {made.id}"
        print(f"{config.file or target}: {services}: no mistakes found")
        return
    context.exit(_run(config, made, target or "", options["name"]))


def _tell(error: ConfigError) -> None:
    for problem in error.problems:
        print(f"dodici: {problem}", file=sys.stderr)


def _configuration(target: str | None, options: dict[str, Any]) -> Config:
    from ..server.config import AdminConfig, for_app, load
    from ..server.schema import Problems, read_table

    if target is None:
        if not Path(_DEFAULT_FILE).exists():
            raise click.UsageError(f"name a FILE or a MODULE:APP: there is no {_DEFAULT_FILE} here")
        target = _DEFAULT_FILE
    if target.endswith(".py"):
        module = target.removesuffix(".py").replace("/", ".").lstrip(".")
        raise click.UsageError(f"name the app in {target}, such as {module}:app")
    service = {name: options[name] for name in _SERVICE_OPTIONS}
    if target.endswith(".toml") or Path(target).is_file():
        given = [name for name, value in service.items() if value is not None]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise click.UsageError(f"{option} is for MODULE:APP: in a FILE, it is a key of the service")
        config = load(target)
        if options["listen"]:
            listen = for_app("a:b", listen=options["listen"]).gateway.listen
            config = replace(config, gateway=replace(config.gateway, listen=listen))
    else:
        config = for_app(target, listen=options["listen"], **service)
    if options["access_log"]:
        config = replace(config, gateway=replace(config.gateway, access_log=True))
    if options["reload"]:
        config = replace(config, reload=replace(config.reload, enabled=True))
    if options["admin"]:
        problems = Problems("", "")
        admin = read_table(AdminConfig, {"listen": options["admin"]}, ("admin",), problems)
        problems.done()
        assert admin is not None
        config = replace(config, admin=admin)
    return config


def _run(config: Config, collector: Collector | None, target: str, name: str | None) -> int:
    from ..core.errors import DodiciError, InvalidArgumentError
    from ..server.control import socket_name
    from ..server.main import run
    from ..server.schema import ConfigError

    try:
        return run(config, name=socket_name(name, config.file, target), collector=collector)
    except ConfigError as error:
        _tell(error)
        return 2
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from error
    except DodiciError as error:
        print(f"dodici: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"dodici: {error.strerror or error}", file=sys.stderr)
    return 1
