"""The programs in C that set the limit of a scenario: wrk, h2load and curl.

They are not driven by the harness but started for each measurement, and check little of what they
receive. The processor time is that of the children, start included.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

from harness import Job, Unsupported, parse, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[Job, float], dict[str, object]]


def output_of(command: list[str]) -> str:
    """What a program printed; a program that fails raises with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"RuntimeError: {command[0]} failed: {words[-1]}")
    return done.stdout


def version_of(command: str, pattern: str) -> str:
    """The version in what a program says about itself, whatever its exit code."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "?"


def main(run: Run, version: str, kinds: set[str]) -> None:
    """The driver around `run(job, seconds)`, which makes one run of the program.

    `kinds` names what the program can do. `sessions` in the answers counts its runs so far: each
    opens its connections anew.
    """
    job = parse(sys.argv[1:])
    sessions = 0

    def once(seconds: float) -> dict[str, object]:
        nonlocal sessions
        sessions += 1
        return run(job, seconds)

    def warm_up() -> None:
        if job.kind not in kinds:
            raise Unsupported("repeats one request that it holds in memory")
        if job.warmup:
            once(job.warmup)

    def measure() -> dict[str, object]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = once(job.seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {
            **result,
            "cpu_seconds": round(used, 4),
            "max_rss_kib": after.ru_maxrss,
            "rss_before_kib": None,
            "version": version,
            "sessions": sessions,
        }

    serve(warm_up, measure)
