"""The group of commands. A new command is a click command of its own file, added at the end."""

from __future__ import annotations

import platform

import click

from .. import __version__
from .call import call
from .collector import collector
from .collectors import collectors
from .control import COMMANDS
from .get import get
from .trace import trace
from .up import up


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(
            f"dodici {__version__} ({platform.python_implementation()} {platform.python_version()}, "
            f"{platform.system()})"
        )
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def cli() -> None:
    """One HTTP dispatcher, on the command line."""


cli.add_command(get)
cli.add_command(up)
cli.add_command(collector)
cli.add_command(call)
cli.add_command(collectors)
cli.add_command(trace)
for command in COMMANDS:
    cli.add_command(command)
