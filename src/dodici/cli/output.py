"""Where the body goes: a file with a progress bar, a pipe, or a terminal.

The body is written piece by piece as it comes. The one exception is JSON on a terminal, which is kept up to
`JSON_LIMIT` bytes to be indented as a whole.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from .exits import Failure

if TYPE_CHECKING:
    from ..api.response import Response
    from .settings import GetSettings

JSON_LIMIT: Final = 1 << 20
"""Bytes of JSON that are indented on a terminal; a longer body is printed as it is."""

_BINARY = (
    "the body is binary and could upset the terminal: "
    "save it with -o FILE, or use -o - to print it all the same"
)
# Outside of strings nothing but punctuation, literals and blanks is left in valid JSON.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+').findall
_OPENING: Final = frozenset("{[")
_CLOSING: Final = frozenset("}]")


class Output:
    """Takes the body of one response (`with`)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(complete=kind is None)

    def write(self, data: bytes) -> None:
        """Take a piece of the body, or the head before it."""
        try:
            self._file.write(data)
            # A stream of events is read by somebody who waits for the next.
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is left in the buffer would fail again at exit.
            discard_standard_output()
            raise Failure(23, f"cannot write: {error.strerror or error}") from error

    def finish(self, *, complete: bool) -> None:
        """The body has ended, or failed."""


class FileOutput(Output):
    """A file, overwritten from its first byte; what was written stays, whatever happens."""

    def __init__(self, path: str, total: int | None, *, progress: bool) -> None:
        try:
            file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - closed by finish()
        except OSError as error:
            raise Failure(23, f"cannot write {path}: {error.strerror or error}") from error
        super().__init__(file)
        self._progress: Any = None
        if progress:
            self._progress = _progress_bar()
            self._task = self._progress.add_task(Path(path).name, total=total)
            self._progress.start()

    def write(self, data: bytes) -> None:
        # Unbuffered, and a disk that is nearly full takes a part.
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise Failure(23, f"cannot write: {error.strerror or error}") from error
        if self._progress is not None:
            self._progress.update(self._task, advance=len(data))

    def finish(self, *, complete: bool) -> None:
        if self._progress is not None:
            if complete:
                done = self._progress.tasks[self._task].completed
                self._progress.update(self._task, total=done)
            self._progress.stop()
        self._file.close()


class TerminalOutput(Output):
    """A terminal: binary is refused."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._last = b"\n"

    def write(self, data: bytes) -> None:
        if b"\0" in data:
            raise Failure(23, _BINARY)
        self._last = data[-1:] or self._last
        super().write(data)

    def finish(self, *, complete: bool) -> None:
        if self._last != b"\n":
            # The prompt that follows belongs on a line of its own.
            Output.write(self, b"\n")


class JSONOutput(TerminalOutput):
    """A terminal that is shown JSON: indented and coloured once it is complete."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._kept: list[bytes] | None = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if self._kept is None:
            super().write(data)
            return
        self._kept.append(data)
        self._size += len(data)
        if self._size > JSON_LIMIT:
            self._give_up()

    def finish(self, *, complete: bool) -> None:
        text = indented(b"".join(self._kept)) if self._kept and complete else None
        if text is None:
            self._give_up()
        else:
            self._kept = None
            _print_json(text)
        super().finish(complete=complete)

    def _give_up(self) -> None:
        kept, self._kept = self._kept or [], None
        for data in kept:
            super().write(data)


def open_output(settings: GetSettings, name: str | None, response: Response) -> Output:
    """The place where the body of `response` goes.

    Args:
        settings: what was asked for.
        name: the file that the body is to be written to; None without one.
        response: tells the type and the length.

    Raises:
        Failure: the file cannot be written.
    """
    if name is not None and name != "-":
        quiet = settings.silent or settings.verbose or not sys.stderr.isatty()
        return FileOutput(name, response.body.content_length, progress=not quiet)
    stdout = sys.stdout.buffer
    if name == "-" or not sys.stdout.isatty():
        return Output(stdout)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    json = (kind == "application/json" or kind.endswith("+json")) and not settings.head
    return JSONOutput(stdout) if json else TerminalOutput(stdout)


def discard_standard_output() -> None:
    """Nothing more can be written there: keep Python from trying, and complaining, when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:
        return


def indented(data: bytes) -> str | None:
    """JSON on many lines, its numbers and strings as they are; None if it is not JSON.

    Nothing is parsed and written anew, so that 1E400 stays what the server sent.
    """
    from json import loads

    try:
        loads(data)
        text = data.decode("utf-8-sig")
    except (ValueError, RecursionError):
        return None
    pieces: list[str] = []
    depth = 0
    before = ""
    for piece in _TOKEN(text):
        if before in _OPENING and piece not in _CLOSING:
            depth += 1
            pieces.append("\n" + "  " * depth)
        elif piece in _CLOSING and before not in _OPENING:
            depth -= 1
            pieces.append("\n" + "  " * depth)
        elif before == ",":
            pieces.append("\n" + "  " * depth)
        pieces.append(": " if piece == ":" else piece)
        before = piece
    return "".join(pieces)


def _print_json(text: str) -> None:
    from rich.console import Console
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    shown = Text(text)
    JSONHighlighter().highlight(shown)
    Console(highlight=False).print(shown, soft_wrap=True)


def _progress_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
