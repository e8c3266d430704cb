"""h2load: nghttp2's load generator, the limit for HTTP/2; one thread, windows of 1 GiB.

It does not verify certificates, and says nothing about percentiles.
"""

from __future__ import annotations

import re

from harness import Job
from limit import main, output_of, version_of


def run(job: Job, seconds: float) -> dict[str, object]:
    """One run of h2load, bounded by time."""
    streams = -(-job.concurrency // job.connections)
    command = ["h2load", f"-c{job.connections}", f"-m{streams}"]
    output = output_of([*command, "-D", f"{round(seconds * 1000)}ms", job.origin + job.path])
    found = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output, re.MULTILINE)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    if found is None or failed is None:
        raise RuntimeError(f"h2load said {output.strip().splitlines()[-1:]}")
    good, *bad = (int(each) for each in (*found.groups(), *failed.groups()))
    if any(bad):
        raise RuntimeError(f"h2load met errors: {found[0]}; {failed[0]}")
    return {"requests": good, "seconds": seconds, "p50_us": None, "p99_us": None}


if __name__ == "__main__":
    main(run, version_of("h2load", r"nghttp2/([\d.]+)"), {"get", "stream"})
