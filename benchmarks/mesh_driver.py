"""A contender of the mesh: a process with its workers, measured as a whole.

What its workers use is a part of what a mesh costs, so processor time and memory are counted over
the whole tree of processes.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from driver import Driver

if TYPE_CHECKING:
    from plan import Contender

FAREWELL = 5.0  # seconds


class MeshDriver(Driver):
    """The driver of `contender`, on whatever core; `answer_within` bounds each answer, in seconds."""

    def __init__(self, contender: Contender, arguments: list[str], answer_within: float) -> None:
        super().__init__(contender, arguments, None, answer_within)
        self._tree = Tree(self._process.pid)
        self._before = (0, 0)

    def warm_up(self) -> str:
        """Wait for the end of the warm-up, and take the baseline of memory."""
        reason = super().warm_up()
        self._before = self._tree.memory("VmRSS")
        return reason

    def measure(self) -> dict[str, Any]:
        """One measurement, with the processor time and the memory of all its processes.

        Memory in KiB, for the client and for its workers: `*_rss_before_kib` (before the first round),
        `*_max_rss_kib` (the peak) and `*_rss_after_kib`. Workers that are threads are in the client's.
        """
        self._tree.reset_peaks()
        cpu, before = self._tree.cpu(), self._before
        run = super().measure()
        if "unsupported" in run:
            return run
        run["cpu_seconds"] = round(self._tree.cpu() - cpu, 2)
        peak, after = self._tree.memory("VmHWM"), self._tree.memory("VmRSS")
        run["rss_before_kib"], run["max_rss_kib"] = sum(before), sum(peak)
        for at, role in enumerate(("client", "workers")):
            run[f"{role}_rss_before_kib"] = before[at]
            run[f"{role}_max_rss_kib"] = peak[at]
            run[f"{role}_rss_after_kib"] = after[at]
        return run

    def close(self) -> None:
        """Let the client stop its workers and clear up, then end what is left."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGCONT)
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL)
        super().close()


class Tree:
    """A process and all that it started."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu(self) -> float:
        """Seconds of processor time; those of children that have ended are left out."""
        used = 0.0
        for each in self._alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                used += times.user + times.system
        return used

    def memory(self, field: str) -> tuple[int, int]:
        """A field of the kernel's account, in KiB: of the root, and of all others."""
        root, *others = (_kib(each.pid, field) for each in self._alive())
        return root, sum(others)

    def reset_peaks(self) -> None:
        """Let VmHWM begin anew; where this is refused, the peak covers the start-up too."""
        for each in self._alive():
            with contextlib.suppress(OSError):
                Path(f"/proc/{each.pid}/clear_refs").write_text("5")

    def _alive(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return [self._root]


def _kib(pid: int, field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0
