"""Where workers run: processes, threads, and the coordinator's own loop.

A process is a fresh interpreter, with the options of this one: nothing is forked from a process with threads, and the
program's own ``__main__`` is not imported again. Before it imports anything it takes over `sys.path`, so that it finds
what is found here, also in an archive, or under a folder that a script has added. Its control channel is the one
descriptor that it inherits; standard input is empty, standard output and error are inherited, or read here line by line
for `on_output`.

A place belongs to the loop that it was made on. It reports the end of what runs in it once, through `on_exit(code)`,
after reaping it: with the exit code, or minus the signal's number. A process is watched through a descriptor that the
kernel makes readable at its end (pidfd_open(2)), or by a thread where there is none, and not by the loop's child
watcher, which not every loop has.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeAlias

from ..net.handover import guard, unguard
from ..net.loop import Loop
from .control import Channel, QueueChannel, SocketChannel, queue_channels

OnExit: TypeAlias = "Callable[[int], None]"
OnLine: TypeAlias = "Callable[[str, str], None]"
RunWorker: TypeAlias = "Callable[[Channel, str], Coroutine[Any, Any, int]]"

MAX_LINE = 65536
"""Bytes; a longer line of output is given in pieces."""
_LEFT = 1 << 20
"""Bytes of output that a process may have left behind: as much as a pipe can hold where nobody has raised the limit (pipe(7))."""
KILLED = -int(signal.SIGKILL)
_BEGIN = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from dodici.mesh.bootstrap import main; sys.exit(main(int(sys.argv[1])))"
)


class Place(Protocol):
    """Where one worker runs, once."""

    pid: int

    @property
    def loop(self) -> Loop | None:
        """The worker's loop, where it is in this process."""

    def start(self) -> Channel:
        """Begin. Returns the coordinator's end of the control channel. Raises `OSError`."""

    def kill(self) -> None:
        """End it now, unasked. `on_exit` follows."""


def new_loop() -> Loop:
    """An event loop for a worker: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: Loop = uvloop.new_event_loop()
    return loop


class ProcessPlace:
    """A process of its own.

    Args:
        loop: the coordinator's.
        env: what is added to this process's environment.
        cwd: its working directory; None for this process's.
        on_exit: see above.
        on_line: `(stream, line)` for each line on ``"stdout"`` and ``"stderr"``; None lets it inherit them.
    """

    loop = None

    def __init__(
        self,
        loop: Loop,
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
        on_exit: OnExit,
        on_line: OnLine | None,
    ) -> None:
        self._loop = loop
        self._env = env
        self._cwd = cwd
        self._on_exit = on_exit
        self._on_line = on_line
        self._process: subprocess.Popen[bytes] | None = None
        self._outputs: list[_Output] = []
        self._pidfd: int | None = None
        self.pid = 0

    def start(self) -> Channel:
        ours, theirs = socket.socketpair()
        pipes: list[int] = []
        try:
            streams: dict[str, Any] = {}
            if self._on_line is not None:
                for name in ("stdout", "stderr"):
                    read, write = os.pipe()
                    pipes.append(write)
                    streams[name] = write
                    self._outputs.append(_Output(self._loop, read, name, self._on_line))
            self._process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable,
                    *_interpreter_options(),
                    "-c",
                    _BEGIN,
                    str(theirs.fileno()),
                    *_import_path(),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=dict(os.environ, **self._env) if self._env else None,
                cwd=self._cwd,
                **streams,
            )
        except BaseException:
            ours.close()
            for output in self._outputs:
                output.close()
            raise
        finally:
            theirs.close()
            for write in pipes:
                os.close(write)
        self.pid = self._process.pid
        self._watch()
        return SocketChannel(ours, self._loop)

    def _watch(self) -> None:
        assert self._process is not None
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or forbidden by a sandbox
            process = self._process
            threading.Thread(target=self._wait_in_thread, args=(process,), daemon=True).start()
        else:
            guard(self._pidfd)
            self._loop.add_reader(self._pidfd, self._ended)

    def _wait_in_thread(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:
            pass  # the loop is closed: nobody asks any more

    def _ended(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            unguard(self._pidfd)
            os.close(self._pidfd)
        code = process.wait()
        for output in self._outputs:
            output.finish()
        self._on_exit(code)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def _interpreter_options() -> list[str]:
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return options


def _import_path() -> list[str]:
    # A worker may have another working directory; the empty entry means that of the program.
    return [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - Path.absolute() keeps ".."


class _Output:
    """Reads what a process writes on one stream, line by line."""

    def __init__(self, loop: Loop, descriptor: int, name: str, on_line: OnLine) -> None:
        self._loop = loop
        self._descriptor: int | None = descriptor
        self._name = name
        self._on_line = on_line
        self._rest = b""
        os.set_blocking(descriptor, False)
        guard(descriptor)
        loop.add_reader(descriptor, self._readable)

    def _readable(self) -> int:
        if self._descriptor is None:
            return 0
        try:
            data = os.read(self._descriptor, MAX_LINE)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            data = b""
        if not data:
            self.close()
            return 0
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        while len(self._rest) > MAX_LINE:
            lines.append(self._rest[:MAX_LINE])
            self._rest = self._rest[MAX_LINE:]
        for line in lines:
            self._give(line)
        return len(data)

    def _give(self, line: bytes) -> None:
        try:
            self._on_line(self._name, line.decode("utf-8", "replace").removesuffix("\r"))
        except Exception as error:
            self._loop.call_exception_handler({"message": "on_output raised", "exception": error})

    def finish(self) -> None:
        """The process has ended: take what is there. Its own children may keep the stream open, and are not heard."""
        left = _LEFT
        while left > 0 and (count := self._readable()):
            left -= count
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            unguard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            if self._rest:
                self._give(self._rest)


class ThreadPlace:
    """A thread with a loop of its own. A thread cannot be ended from outside: `kill()` cancels what its loop runs."""

    def __init__(self, loop: Loop, run: RunWorker, *, name: str, on_exit: OnExit) -> None:
        self._coordinator = loop
        self._run = run
        self._name = name
        self._on_exit = on_exit
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[int] | None = None
        self._killed = False
        self.loop: Loop = new_loop()
        self.pid = os.getpid()

    def start(self) -> Channel:
        ours, theirs = queue_channels(self._coordinator, self.loop)
        # A daemon: a program that ends without closing its mesh must not wait for its workers.
        self._thread = threading.Thread(target=self._main, args=(theirs,), name=self._name, daemon=True)
        self._thread.start()
        return ours

    def _main(self, channel: QueueChannel) -> None:
        code = 1
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                code = runner.run(self._until_killed(channel))
        except SystemExit as exit_:
            code = exit_code(exit_)
        except BaseException as error:
            if not self._killed:
                report_crash(error)
        finally:
            channel.close()
            try:
                self._coordinator.call_soon_threadsafe(self._ended, KILLED if self._killed else code)
            except RuntimeError:
                pass  # the loop is closed: nobody asks any more

    async def _until_killed(self, channel: QueueChannel) -> int:
        self._task = asyncio.current_task()
        return await self._run(channel, "thread")

    def _ended(self, code: int) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._on_exit(code)

    def kill(self) -> None:
        self._killed = True
        try:
            self.loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # it has ended

    def _cancel(self) -> None:
        # It cuts the links first; then the runner cancels what is left.
        if self._task is not None:
            self._task.cancel()


class LoopPlace:
    """The coordinator's own loop."""

    def __init__(self, loop: Loop, run: RunWorker, *, name: str, on_exit: OnExit) -> None:
        self.loop = loop
        self._run = run
        self._name = name
        self._on_exit = on_exit
        self._task: asyncio.Task[int] | None = None
        self._channel: QueueChannel | None = None
        self.pid = os.getpid()

    def start(self) -> Channel:
        ours, self._channel = queue_channels(self.loop, self.loop)
        self._task = self.loop.create_task(
            self._run(self._channel, "loop"), name=self._name, context=contextvars.copy_context()
        )
        self._task.add_done_callback(self._ended)
        return ours

    def _ended(self, task: asyncio.Task[int]) -> None:
        assert self._channel is not None
        self._channel.close()
        code = KILLED
        if not task.cancelled():
            error = task.exception()
            if error is None:
                code = task.result()
            else:
                code = 1
                report_crash(error)
        self._on_exit(code)

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()


def exit_code(exit_: SystemExit) -> int:
    """What a process exits with for `sys.exit(...)`."""
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code & 0xFF
    print(exit_.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def report_crash(error: BaseException) -> None:
    """A worker ended in a way that is nobody's intention."""
    import logging

    logging.getLogger("dodici.mesh").critical("a worker ended with an error", exc_info=error)
