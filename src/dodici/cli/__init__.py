"""The `dodici` command. Needs the extra `cli`, and says so where it is missing.

`app` is the group of commands, to which a later command adds itself in one line. `get` declares the options
of `dodici get`; `request` makes a dispatcher and a request of them, `transfer` runs the exchange, `output`
takes the body, `verbose` tells of what goes over the wire, `exits` says how it ended.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

MISSING_EXTRA = "dodici: the command line needs {}, which the extra 'cli' installs: pip install 'dodici[cli]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. The return value is the exit status.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(MISSING_EXTRA.format(" and ".join(missing)), file=sys.stderr)
        return 2
    import click

    from .app import cli
    from .output import discard_standard_output

    try:
        status = cli.main(args=arguments, prog_name="dodici", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        _tell_usage(error)
        return 2
    except click.ClickException as error:
        print(f"dodici: {error.format_message()}", file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read the help has seen enough. Python would complain once more when it flushes.
        discard_standard_output()
        return 23
    return status if isinstance(status, int) else 0


def _tell_usage(error: object) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    print(f"dodici: {' '.join(message.split())}", file=sys.stderr)
    if context is not None:
        print(f"Try '{context.command_path} --help'.", file=sys.stderr)
