"""The `dodici` command. Needs the extra `cli`, and says so where it is missing.

`app` is the group of commands, to which a later command adds itself in one line. `get` declares the options
of `dodici get`; `request` makes a dispatcher and a request of them, `transfer` runs the exchange, `output`
takes the body, `verbose` tells of what goes over the wire, `exits` says how it ended.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from importlib.util import find_spec

MISSING_EXTRA = "dodici: the command line needs {}, which the extra 'cli' installs: pip install 'dodici[cli]'"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a file says that takes no more output."""


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

    from .app import ReaderGone, cli
    from .output import discard_standard_output

    _replace_what_cannot_be_shown()
    try:
        status = cli.main(args=arguments, prog_name="dodici", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        # Older versions have no such error: they show the help themselves.
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            _tell_usage(error)
        return 2
    except click.ClickException as error:
        print(f"dodici: {error.format_message()}", file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (ReaderGone, BrokenPipeError):
        # Whoever read it has seen enough. Python would complain once more when it flushes.
        discard_standard_output()
        return 23
    except OSError as error:
        if error.errno not in _FULL:
            raise
        discard_standard_output()
        print(f"dodici: cannot write: {error.strerror}", file=sys.stderr)
        return 23
    return status if isinstance(status, int) else 0


def _replace_what_cannot_be_shown() -> None:
    """A character that the terminal's encoding lacks becomes a question mark, and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _tell_usage(error: object) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    print(f"dodici: {' '.join(message.split())}", file=sys.stderr)
    if context is not None:
        print(f"Try '{context.command_path} --help'.", file=sys.stderr)
