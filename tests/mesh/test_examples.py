"""The examples of docs/load-shedding.md run, and do what the page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_coordinator_that_follows_health_events() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.load_shedding.coordinator"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ill, spread, held = done.stdout.splitlines()[:3]
    assert ill.startswith("examples.load_shedding.app:app (pid ")
    assert ill.endswith(" is ill")
    assert spread == "ten requests were served by 1 of 2 workers"
    pid = ill.partition("(pid ")[2].partition(")")[0]
    assert held == f"{pid} held {256 << 20} bytes"
    assert "Traceback" not in done.stderr
