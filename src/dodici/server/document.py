"""Reads a TOML file, and says on which line it is none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from .schema import ConfigError, Problem


def read_text(file: str | Path) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(problems=(Problem((), error.strerror or str(error), str(file)),)) from None
    try:
        # Editors of some systems begin a file with a byte order mark.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(problems=(Problem((), f"not UTF-8: {error.reason}", str(file), line),)) from None


def parse_document(text: str, file: str) -> dict[str, Any]:
    """The tables of a configuration's text; `file` is its name.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = None if found is None else int(found[1] or text.count("\n") + 1)
        message = str(error) if found is None else str(error).replace(found[0], "")
        raise ConfigError(problems=(Problem((), f"not TOML: {message}", file, line),)) from None
    except (ValueError, RecursionError):
        # What tomllib lets through: a number with thousands of digits, brackets that are as many deep.
        problem = Problem((), "a number is too long, or brackets are nested too deeply", file)
        raise ConfigError(problems=(problem,)) from None
