"""curl: the limit for one large body; one transfer after the other on one connection.

Its own clock is used, per transfer: start, handshake and exit are not in it, as they are not in
the phase that the others are measured in. It verifies the certificate.
"""

from __future__ import annotations

from harness import Job
from limit import main, output_of, version_of

_last_transfer = 0.3


def run(job: Job, seconds: float) -> dict[str, object]:
    """As many transfers as fit into `seconds`, going by how long the last one took."""
    global _last_transfer
    count = max(1, round(seconds / _last_transfer))
    # One argument with a range is one `-o`, and one connection. The query changes nothing.
    url = f"{job.origin}{job.path}?[1-{count}]"
    command = ["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null"]
    command += ["--http2-prior-knowledge" if job.http == 2 else "--http1.1"]
    if job.ca:
        command += ["--cacert", job.ca]
    said = output_of([*command, "--write-out", "%{size_download} %{time_pretransfer} %{time_total}\\n", url])
    times = []
    for line in said.splitlines():
        size, begun, ended = line.split()
        if int(size) != job.size:
            raise RuntimeError(f"curl received {size} bytes, not {job.size}")
        times.append(float(ended) - float(begun))
    _last_transfer = max(sum(times) / len(times), 1e-3)
    times.sort()
    return {
        "requests": len(times),
        "seconds": sum(times),
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[-1] * 1e6,
    }


if __name__ == "__main__":
    main(run, version_of("curl", r"curl ([\d.]+)"), {"get", "stream"})
