"""The group of commands. A new command is a click command of its own file, added at the end."""

from __future__ import annotations

import platform
from typing import Any

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


class ReaderGone(Exception):
    """Nobody reads standard output any more. click would else end the process in its own way."""


class _Commands(click.Group):
    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
