"""The type of options that say how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Type = click.ParamType[float]
else:
    # Not generic in all versions.
    _Type = click.ParamType

MOST = 2**31 - 1
"""Seconds that every timer takes."""


class Seconds(_Type):
    """A number of seconds that a timer can wait: `least` or more, and with `more` set, more than that."""

    name = "seconds"

    def __init__(self, least: float, *, more: bool = False) -> None:
        self._least = least
        self._more = more

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        # What is not a number is neither.
        if not (self._least < number <= MOST or (number == self._least and not self._more)):
            least = f"more than {self._least:g}" if self._more else f"{self._least:g} or more"
            self.fail(f"{value!r} is no number of seconds: {least}, {MOST} at most.", param, ctx)
        return number
