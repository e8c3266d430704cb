from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dodici.collective import balance, policies

FILES = [Path(policies.__file__), *sorted(Path(balance.__file__).parent.glob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_state_machines_do_no_io_and_sleep_nowhere(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(str(node.module).partition(".")[0])
    assert not imported & {"asyncio", "grpc", "google", "socket", "ssl", "selectors", "threading", "datetime"}
    # The one default clock is the picker's; nobody else looks at a clock of its own.
    assert "time" not in imported or path.name == "picker.py"
