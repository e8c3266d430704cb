"""The table of the documentation: complete, up to date, and held to by what judges the tests."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conformance import table
from tests.conformance.table import GROUPS, LAYERS, MEANING, PAGE, ROOT, load, page

from dodici.testing import FEATURES, DispatcherConformance

LAYER = next(iter(LAYERS))


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text() == page(load()), "run `make conformance`, and commit what it writes"


def test_the_table_has_every_layer_and_every_test() -> None:
    assert load()["layers"] == list(LAYERS)
    suite = {name for name in dir(DispatcherConformance) if name.startswith("test_")}
    assert {test.partition("[")[0] for test in load()["tests"]} == suite
    assert set(load()["tests"].values()) == set(GROUPS)
    assert set(MEANING) == FEATURES
    for layer in LAYERS:
        assert (ROOT / "tests" / layer.partition("::")[0]).is_file()


def test_who_leaves_something_out_says_why() -> None:
    assert set(load()["skipped"]) == set(load()["left_out"])
    for layer in load()["left_out"]:
        assert LAYERS[layer].why


class Judged(DispatcherConformance):
    __test__ = False


def judged(layer: str, test: str, *, skipped: str = "", features: Any = FEATURES) -> Any:
    """What becomes of the report of a test that has passed, or was skipped."""
    path, _, name = layer.partition("::")
    item: Any = SimpleNamespace(
        cls=type(name, (Judged,), {}),
        path=ROOT / "tests" / path,
        originalname=test.partition("[")[0],
        name=test,
        funcargs={"target": SimpleNamespace(features=features)},
    )
    report: Any = SimpleNamespace(
        when="call",
        failed=False,
        skipped=bool(skipped),
        outcome="skipped" if skipped else "passed",
        longrepr=("file", 1, skipped) if skipped else None,
        user_properties=[],
    )
    table.judge(item, report)
    return report


def test_what_the_table_says_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(table.WRITING, raising=False)
    assert judged(LAYER, "test_head").outcome == "passed"
    layer, skipped = next(iter(load()["skipped"].items()))
    test, why = next(iter(skipped.items()))
    features = FEATURES - set(load()["left_out"][layer])
    assert judged(layer, test, skipped=why, features=features).outcome == "skipped"


@pytest.mark.parametrize(
    ("layer", "test", "more", "text"),
    [
        (LAYER, "test_head", {"skipped": "Skipped: Client here has no 'verbs'"}, "in the table: passed"),
        (LAYER, "test_head[more]", {}, "in the table: not there"),
        (LAYER, "test_head", {"features": FEATURES - {"disconnect"}}, r"leaves out \['disconnect'\]"),
        ("conformance/test_http1.py::TestMore", "test_head", {}, "give it a row"),
    ],
    ids=["skipped", "unknown test", "feature", "unknown layer"],
)
def test_what_it_does_not_say_fails(
    monkeypatch: pytest.MonkeyPatch, layer: str, test: str, more: dict[str, Any], text: str
) -> None:
    monkeypatch.delenv(table.WRITING, raising=False)
    report = judged(layer, test, **more)
    assert report.outcome == "failed"
    assert re.search(text, report.longrepr)
    assert "make conformance" in report.longrepr


def test_what_is_skipped_in_the_table_may_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(table.WRITING, raising=False)
    layer, skipped = next(iter(load()["skipped"].items()))
    report = judged(layer, next(iter(skipped)), features=FEATURES - set(load()["left_out"][layer]))
    assert report.outcome == "failed"
