"""On which line of a TOML file a key stands.

`tomllib` gives values and forgets where they were. An error that names the line is worth a scan of its own. The
scan runs over text that `tomllib` has accepted, so it need not recognise what is wrong, only what is where: table
headers, keys at the head of a line, and what may hide either (strings, comments, brackets).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final, TypeAlias

Path: TypeAlias = "tuple[str, ...]"

_PART: Final = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_DOTTED: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_TABLE = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]").match
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=").match
_PARTS = re.compile(_PART).findall
# What matters inside a value: where strings and comments end, and how deep the brackets are.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'|#[^\n]*|[\[\]{}\n]",
    re.DOTALL,
).finditer


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table header and of every key that begins a line, by its full path.

    The tables of an array have their number, from 1, in their paths.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    elements: Counter[Path] = Counter()
    for line, start in _logical_lines(text):
        if header := _TABLE(text, start):
            table = _path(header[1])
            if header[0].lstrip().startswith("[["):
                elements[table] += 1
                table += (str(elements[table]),)
            for length in range(1, len(table) + 1):
                found.setdefault(table[:length], line)
        elif key := _KEY(text, start):
            path = table + _path(key[1])
            for length in range(len(table) + 1, len(path) + 1):
                found.setdefault(path[:length], line)
    return found


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of a key, or of the table that it is (or should be) in; None if the file says nothing of either."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _logical_lines(text: str) -> list[tuple[int, int]]:
    """Line number and offset of every line that does not go on with the value of the line before."""
    starts = [(1, 0)]
    depth = 0
    line = 1
    header = _TABLE(text, 0)
    skip = header.end() if header else 0
    for token in _TOKEN(text):
        piece = token[0]
        if token.start() < skip:
            continue
        if piece in "[{":
            depth += 1
        elif piece in "]}":
            depth -= 1
        elif piece == "\n":
            line += 1
            if depth <= 0:
                depth = 0
                starts.append((line, token.end()))
                # The brackets of a table's header are none of a value.
                header = _TABLE(text, token.end())
                skip = header.end() if header else 0
        else:
            line += piece.count("\n")
    return starts


def _path(dotted: str) -> Path:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in _PARTS(dotted))
