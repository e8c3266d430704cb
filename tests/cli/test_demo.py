"""The demo, with short phases: it checks itself, and says so by its exit status."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.cli.cli_kit import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.py"
PHASES = 8


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts its files; it is empty again in the end. Paths of sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="d-", ignore_cleanup_errors=True) as made:
        yield Path(made)
        assert not list(Path(made).iterdir())


def _environment(folder: Path) -> dict[str, str]:
    return {**environment(), "TMPDIR": str(folder)}


def _descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_everything_happens_as_promised(folder):
    done = subprocess.run(
        [sys.executable, str(DEMO), "--quick", "--no-etcd"],
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "As promised" in done.stdout
    assert "FAIL" not in done.stdout
    # The table has a line for each phase; orders alone may fail, and only in the two in which something is killed.
    rows = re.findall(
        r"^(\w[\w ]+?) +│ +([\d,]+) │ +(\d+) │ +(0|up to \d+) │.*│ +[\d,]+ : [\d,]+",
        done.stdout,
        re.MULTILINE,
    )
    assert len(rows) == PHASES, done.stdout
    for name, calls, failed, promised in rows:
        assert int(calls.replace(",", "")) > 0
        assert int(failed) <= (int(promised.rpartition(" ")[2]) if "killed" in name else 0)


def test_interrupted_it_cleans_up(folder):
    code = f"import sys; sys.path.insert(0, {str(DEMO.parent)!r})"
    code += "; sys.argv[1:] = ['--quick', '--no-etcd']; import demo; sys.exit(demo.main())"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            shown = ""
            for line in process.stdout:
                shown += line
                if "both are up" in line:
                    break
            started = _descendants(process)
            process.send_signal(signal.SIGINT)  # while the traffic begins
            shown += process.stdout.read()
        finally:
            process.kill()
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert len(started) >= 6, "two nodes, and their workers"
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
