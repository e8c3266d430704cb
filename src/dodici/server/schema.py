"""How a key of the configuration is declared, checked and documented: once, where its field is.

A field of a configuration dataclass is made by `key()`, which says how its TOML value is read. `read_table` turns a
table into the dataclass and collects what is wrong with it, each problem with its path, so that one run shows all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from ..core.errors import InvalidArgumentError
from .address import Address
from .lines import Path as KeyPath, key_lines, line_of

_T = TypeVar("_T")
Reader = Callable[[Any], Any]

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)?\s*").fullmatch
_UNITS: Final = {
    None: 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: KeyPath
    message: str
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = ":".join(filter(None, (self.file, "" if self.line is None else str(self.line))))
        return ": ".join(filter(None, (where, dotted(self.path), self.message)))


class ConfigError(InvalidArgumentError):
    """The configuration cannot be used. `problems` has all that is wrong with it; the text is the first of them."""

    code = "DODICI_ERR_CONFIG"
    problems: tuple[Problem, ...] = ()

    def __init__(self, message: str = "", **facts: Any) -> None:
        problems = facts.get("problems", ())
        if problems and not message:
            more = len(problems) - 1
            message = str(problems[0]) + (f" (and {more} more)" if more else "")
        super().__init__(message, **facts)


class NestedError(InvalidArgumentError):
    """A value that is a table cannot be used. `keys` is the path, inside of it, to what is wrong."""

    code = "DODICI_ERR_CONFIG"
    keys: KeyPath = ()


def dotted(path: KeyPath) -> str:
    """A path as TOML writes it."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + part.replace('"', '\\"') + '"'
        for part in path
    )


def keys_of(error: InvalidArgumentError) -> KeyPath:
    """Where, inside of a value that was refused, the mistake is; empty if it is the value as a whole."""
    return error.keys if isinstance(error, NestedError) else ()


def key(read: Reader, default: Any = MISSING, *, shown: str | None = None) -> Any:
    """A field that is a key: how it is read, and what it is where it is not given."""
    metadata = {"read": read, "shown": shown}
    if default is MISSING:
        return field(metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def unknown_key(name: str, known: Iterable[str], what: str = "key") -> str:
    """What is said of a key that does not exist, with the nearest that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, 1, 0.6)
    return f"unknown {what}" + (
        f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"
    )


class Problems:
    """Collects what is wrong, and tells it with file and line."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines = key_lines(text)
        self.found: list[Problem] = []

    def add(self, path: KeyPath, message: str) -> None:
        """Note a problem of the key at `path`."""
        self.found.append(Problem(path, message, self._file, line_of(self._lines, path)))

    def unknown(self, path: KeyPath, known: Mapping[str, Any] | list[str], what: str = "key") -> None:
        """Note a key that does not exist, with the nearest that does."""
        self.add(path, unknown_key(path[-1], known, what))

    def read(self, path: KeyPath, read: Reader, value: Any) -> Any:
        """A value, or None with a problem noted."""
        try:
            return read(value)
        except InvalidArgumentError as error:
            self.add((*path, *keys_of(error)), error.message)
        return None

    def done(self) -> None:
        """Raise `ConfigError` if there is anything to say."""
        if self.found:
            self.found.sort(key=lambda problem: (problem.line or 0, problem.path))
            raise ConfigError(problems=tuple(self.found))


def read_table(kind: type[_T], table: Any, path: KeyPath, problems: Problems, **given: Any) -> _T | None:
    """Make a `kind` of a TOML table. None if that is not possible; the reasons are in `problems`."""
    if not isinstance(table, dict):
        problems.add(path, f"must be a table, not {toml_type(table)}")
        return None
    known = {each.name: each for each in fields(kind) if "read" in each.metadata}  # type: ignore[arg-type]
    before = len(problems.found)
    values: dict[str, Any] = dict(given)
    for name, value in table.items():
        if name not in known:
            problems.unknown((*path, name), known)
            continue
        values[name] = problems.read((*path, name), known[name].metadata["read"], value)
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            problems.add(path, f"{name!r} is missing")
    if len(problems.found) > before:
        return None
    try:
        return kind(**values)
    except InvalidArgumentError as error:
        problems.add((*path, *keys_of(error)), error.message)
        return None


# ------------------------------------------------------------------------------------ kinds of values

_MOST: Final = 2**31 - 1
"""Of anything that is counted, and of seconds: what every system and every timer takes."""
_MOST_BYTES: Final = 2**62


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def toml_type(value: object) -> str:
    """What TOML calls the type of a value."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date")


def string(value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"must be a string, not {toml_type(value)}")
    if not value:
        raise InvalidArgumentError("must not be empty")
    if "\0" in value:
        raise InvalidArgumentError("has a NUL in it")
    return value


def boolean(value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"must be true or false, not {value!r}")
    return value


def count(minimum: int) -> Reader:
    """A whole number of `minimum` or more."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _MOST:
            most = f", {_MOST} at most" if isinstance(value, int) and value > _MOST else ""
            raise InvalidArgumentError(
                f"must be a whole number, {minimum} or more{most}, not {_shown(value)}"
            )
        return value

    return read


def seconds(value: Any) -> float:
    """A number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise InvalidArgumentError(f"must be a number of seconds, 0 or more, not {_shown(value)}")
    return float(value)


def positive_seconds(value: Any) -> float:
    """A number of seconds, more than 0."""
    if seconds(value) == 0:
        raise InvalidArgumentError("must be more than 0 seconds")
    return float(value)


def size(value: Any) -> int:
    """A number of bytes, or a string such as ``"512MiB"``."""
    given = value
    if isinstance(value, str) and (found := _SIZE(value)) is not None:
        given = int(Decimal(found[1]) * _UNITS[found[2]])
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _MOST_BYTES:
        raise InvalidArgumentError(
            f"must be a number of bytes or a size such as '512MiB', not {_shown(value)}"
        )
    return given


def one_of(*choices: str) -> Reader:
    """One of a few words."""

    def read(value: Any) -> str:
        if value not in choices:
            near = difflib.get_close_matches(str(value).lower(), choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidArgumentError(f"must be one of {', '.join(map(repr, choices))}, not {value!r}{hint}")
        return str(value)

    return read


def each(read: Reader, what: str) -> Reader:
    """An array of such values, or a single one; a tuple of them."""

    def read_all(value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise InvalidArgumentError(f"must name at least one {what}")
        return tuple(read(item) for item in values)

    return read_all


def string_table(value: Any) -> dict[str, str]:
    """A table of strings; numbers and booleans are written as an environment has them."""
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"must be a table of strings, not {toml_type(value)}")
    given: dict[str, str] = {}
    for name, item in value.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidArgumentError(f"{name!r} is no name of an environment variable")
        if isinstance(item, bool):
            item = "1" if item else "0"
        if not isinstance(item, str | int | float):
            raise InvalidArgumentError(f"{name!r} must be a string, not {toml_type(item)}")
        if "\0" in str(item):
            raise InvalidArgumentError(f"{name!r} has a NUL in it")
        given[name] = str(item)
    return given


def address(value: Any) -> Address:
    """See `Address`."""
    return Address.parse(value)


def folder(value: Any) -> Path:
    """The path of a folder; whether it is there is looked at when the whole file is read."""
    text = string(value)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidArgumentError(f"there is no user whose home folder {text!r} could start with") from None
