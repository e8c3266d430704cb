"""wrk: the limit that this machine and this nginx set; C, one thread, checks nothing."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

from harness import Job, Unsupported, parse


def measure(job: Job) -> dict[str, object]:
    """Run wrk twice, to warm up and to measure, and translate what it says."""
    if job.kind in {"distinct", "idle", "send-stream"}:
        raise Unsupported("wrk repeats one request that it holds in memory")
    if job.warmup:
        _run(job, job.warmup)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = _run(job, job.seconds)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if result.pop("errors"):
        raise RuntimeError(f"wrk met errors: {result}")
    return {
        **result,
        "cpu_seconds": round(used, 4),
        "max_rss_kib": after.ru_maxrss,
        "rss_before_kib": None,
        "version": _version(),
    }


def _run(job: Job, seconds: float) -> dict[str, object]:
    connections = min(job.connections, job.concurrency)
    script = Path(__file__).with_suffix(".lua")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    words = [f"pipelining={job.pipelining}", f"upload={job.upload}"]
    # wrk takes a connection for dead after two seconds; a large body may take longer.
    command += ["--timeout", "60s", job.origin + job.path, "--", *words]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found: dict[str, object] = json.loads(line.removeprefix("RESULT "))
    return found


def _version() -> str:
    output = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"wrk (?:debian/)?v?([\d.]+)", output)
    return found[1] if found else "?"


if __name__ == "__main__":
    try:
        print(json.dumps(measure(parse(sys.argv[1:]))))
    except Unsupported as reason:
        print(json.dumps({"unsupported": str(reason)}))
