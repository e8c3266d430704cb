"""The tour, with small numbers: it checks itself, and says so by its exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.cli_kit import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

TOUR = Path(__file__).parents[2] / "examples" / "tour" / "tour.py"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the tour puts its files; it is empty again in the end. Paths of sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="d-", ignore_cleanup_errors=True) as made:
        yield Path(made)
        assert not list(Path(made).iterdir())


def _environment(folder: Path) -> dict[str, str]:
    return {**environment(), "TMPDIR": str(folder)}


@pytest.mark.parametrize("options", [[], ["--no-nginx", "--no-workers"]], ids=["nginx", "python"])
def test_everything_happens_as_promised(options, folder):
    command = [sys.executable, str(TOUR), "--quick", *options]
    done = subprocess.run(
        command, env=_environment(folder), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"All {12 if options else 15} as promised" in done.stdout
    assert "FAIL" not in done.stdout
    assert done.stdout.count("requests/s") >= 6
    assert ("left out" in done.stdout) == bool(options)


def test_killed_it_cleans_up(folder):
    code = f"import sys; sys.path.insert(0, {str(TOUR.parent)!r})"
    code += "; sys.argv[1:] = ['--no-workers']; import tour; sys.exit(tour.main())"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if "concurrent requests" in line:
                break
        process.send_signal(signal.SIGTERM)  # in the middle of a burst
        shown += process.stdout.read()
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
