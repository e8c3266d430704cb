"""The demo, with small numbers: it checks itself, and says so by its exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.cli.cli_kit import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def _left_over() -> set[str]:
    folders = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    found = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {name for name in found if name.startswith("dodici-demo-")}


@pytest.mark.parametrize("options", [[], ["--no-nginx", "--no-workers"]], ids=["nginx", "python"])
def test_everything_happens_as_promised(options):
    before = _left_over()
    command = [sys.executable, str(DEMO), "--quick", *options]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"All {12 if options else 15} as promised" in done.stdout
    assert "FAIL" not in done.stdout
    assert done.stdout.count("requests/s") >= 6
    assert ("left out" in done.stdout) == bool(options)
    assert _left_over() <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up(number):
    before = _left_over()
    # SIGINT is ignored by what a shell runs in its background, and that is inherited.
    code = f"import signal, sys; signal.signal(2, signal.default_int_handler); sys.path.insert(0, {str(DEMO.parent)!r})"
    code += "; sys.argv[1:] = ['--quick', '--no-workers']; import demo; sys.exit(demo.main())"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if "streamed upload" in line:
                break
        process.send_signal(number)  # in the middle of the pause
        shown += process.stdout.read()
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert _left_over() <= before
