"""wrk: the limit that this machine and this nginx set for HTTP/1.1; one thread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import Job
from limit import main, output_of, version_of


def run(job: Job, seconds: float) -> dict[str, object]:
    """One run of wrk, which counts in whole seconds."""
    connections = min(job.connections, job.concurrency)
    script = Path(__file__).with_suffix(".lua")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    words = [f"pipelining={job.pipelining}", f"upload={job.upload}"]
    # wrk takes a connection for dead after two seconds; a large body may take longer.
    command += ["--timeout", "60s", job.origin + job.path, "--", *words]
    output = output_of(command)
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    if found.pop("errors"):
        raise RuntimeError(f"wrk met errors: {found}")
    return found


if __name__ == "__main__":
    main(run, version_of("wrk", r"wrk (?:debian/)?v?([\d.]+)"), {"get", "stream", "send"})
