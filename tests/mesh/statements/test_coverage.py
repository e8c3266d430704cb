"""Each of the sixty-eight statements about the mesh has a test that is marked with its number."""

from __future__ import annotations

import ast
from pathlib import Path

STATEMENTS = range(1, 69)


def _marked(file: Path) -> set[int]:
    """The numbers in the `statement` marks of a test module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.statement":
                    found |= {ast.literal_eval(argument) for argument in decorator.args}
    return found


def test_every_statement_has_a_test() -> None:
    folder = Path(__file__).parent
    marked = {file.name: _marked(file) for file in sorted(folder.glob("test_*.py"))}
    covered = set().union(*marked.values())
    assert covered <= set(STATEMENTS), "numbers that are no statement's"
    missing = sorted(set(STATEMENTS) - covered)
    assert not missing, f"statements without a test: {missing}"
