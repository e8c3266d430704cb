"""Which layer keeps which promises: one table, made by the tests and held to by them.

Every test of `DispatcherConformance` that runs is compared with `table.json`: a test that is skipped where the table says
that it passes, or the other way round, fails. `make conformance` writes the table anew, and `docs/conformance.md` from
it. Since each result is compared by itself, it does not matter which process runs which test.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dodici.testing import FEATURES, DispatcherConformance
from dodici.testing.suite.aborts import AbortTests
from dodici.testing.suite.control import ControlTests
from dodici.testing.suite.lifecycle import LifecycleTests
from dodici.testing.suite.requests import RequestTests
from dodici.testing.suite.responses import ResponseTests
from dodici.testing.suite.uploads import UploadTests

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("table.json")
PAGE = ROOT / "docs/conformance.md"
WRITING = "CONFORMANCE_WRITE"
"""Set by `make conformance`: results are written and not compared."""
_PROPERTY = "conformance"

GROUPS: dict[str, tuple[type, str]] = {
    "responses": (ResponseTests, "heads, bodies, interim responses, trailers, apps that fail"),
    "requests": (
        RequestTests,
        "what is sent, bodies of every kind, and what is refused before anything is sent",
    ),
    "uploads": (UploadTests, "bodies that are pulled from a source, and sources that are closed"),
    "control": (ControlTests, "callbacks that raise; pause and resume"),
    "aborts": (AbortTests, "aborts at every stage"),
    "lifecycle": (LifecycleTests, "timeouts, `close()` and `destroy()`, the verbs above `dispatch()`"),
}
MEANING: dict[str, str] = {
    "app-errors": "an app that raises before the head is a 500, after it an error",
    "backpressure": "what is not read holds back the sender, in both directions",
    "bodiless-length": "a content-length with HEAD and 304",
    "disconnect": "the app hears of an exchange that was given up",
    "informational": "a 103 is told before the response",
    "on-dispatch": "a handler gets its controller in `dispatch()`",
    "streamed-requests": "bodies of unknown length",
    "timeouts": "`headers_timeout` and `body_timeout`",
    "trailers": "trailers of responses",
    "verbs": "`request()` and `stream()`",
}


class Layer(NamedTuple):
    """A row of the table."""

    name: str
    why: str = ""
    """Why it leaves something out."""


_UVICORN = "uvicorn has no trailers and no 103 in HTTP/1.1, and adds a length where there is none"
LAYERS: dict[str, Layer] = {
    "conformance/test_http1.py::TestClient": Layer("HTTP/1.1: Client"),
    "conformance/test_http1.py::TestPipeliningClient": Layer("HTTP/1.1: Client, pipelining"),
    "conformance/test_http1.py::TestPool": Layer("HTTP/1.1: Pool"),
    "conformance/test_http1.py::TestSmallPool": Layer("HTTP/1.1: Pool of 2 connections"),
    "conformance/test_http1.py::TestRoundRobinPool": Layer("HTTP/1.1: RoundRobinPool"),
    "conformance/test_http1.py::TestBalancedPool": Layer("HTTP/1.1: BalancedPool"),
    "conformance/test_http1.py::TestComposedAgent": Layer("HTTP/1.1: Agent, composed"),
    "conformance/test_http1.py::TestAgentOverUvicorn": Layer("HTTP/1.1: Agent, to uvicorn", _UVICORN),
    "conformance/test_interceptors.py::TestRetry": Layer("HTTP/1.1: through `retry`"),
    "conformance/test_interceptors.py::TestRedirect": Layer("HTTP/1.1: through `redirect`"),
    "conformance/test_interceptors.py::TestDecompress": Layer("HTTP/1.1: through `decompress`"),
    "conformance/test_interceptors.py::TestAll": Layer("HTTP/1.1: through all three"),
    "conformance/test_http2.py::TestClient": Layer("HTTP/2: Client"),
    "conformance/test_http2.py::TestPool": Layer("HTTP/2: Pool"),
    "conformance/test_http2.py::TestBalancedPool": Layer("HTTP/2: BalancedPool"),
    "conformance/test_http2.py::TestComposedAgent": Layer("HTTP/2: Agent, composed"),
    "conformance/test_http2.py::TestH2CClient": Layer("h2c: H2CClient"),
    "conformance/test_http2.py::TestCleartextPool": Layer("h2c: Pool"),
    "conformance/test_http2.py::TestSmallPool": Layer("h2c: Pool of 2 connections"),
    "conformance/test_http2.py::TestRoundRobinPool": Layer("h2c: RoundRobinPool"),
    "conformance/test_http2.py::TestCleartextAgent": Layer("h2c: Agent"),
    "interop/test_h2_asgi.py::TestHypercorn[tls]": Layer(
        "HTTP/2: Pool, to Hypercorn",
        "Hypercorn buffers what a blocked stream gets, and sends trailers only to whom asks with `te`",
    ),
    "interop/test_h2_asgi.py::TestHypercorn[h2c]": Layer("h2c: Pool, to Hypercorn", "as above"),
    "mesh/test_link_conformance.py::TestSocketInOneLoop": Layer("mesh: a link, sockets in one loop"),
    "mesh/test_link_conformance.py::TestQueueInOneLoop": Layer("mesh: a link, queues in one loop"),
    "mesh/test_link_conformance.py::TestSocketToAThread": Layer("mesh: a link, sockets to a thread"),
    "mesh/test_link_conformance.py::TestQueueToAThread": Layer("mesh: a link, queues to a thread"),
    "mesh/test_conformance.py::TestProcess": Layer("mesh: worker in a process"),
    "mesh/test_conformance.py::TestThread": Layer("mesh: worker in a thread"),
    "mesh/test_conformance.py::TestLoop": Layer("mesh: worker in the loop"),
    "mesh/test_conformance.py::TestWithHooks": Layer("mesh: with hooks"),
    "server/test_gateway_conformance.py::TestThroughTheGateway": Layer(
        "gateway of `dodici up`, to a worker", f"its HTTP server is uvicorn, and {_UVICORN}"
    ),
    "server/test_egress.py::TestThroughTheEgress": Layer("`dodici up`, a service that is in the collective"),
    "collective/http/test_conformance.py::TestWithoutAHop": Layer(
        "collective: origin of the collector itself"
    ),
    "collective/http/test_conformance.py::TestOneHop": Layer("collective: origin one hop away"),
}
"""Every class that inherits the suite, in the order of the table. In brackets: a parameter of its fixture `target`."""

_GROUP_OF = {
    name: group for group, (kind, _) in GROUPS.items() for name in vars(kind) if name.startswith("test_")
}
_NEEDED = re.compile(r"has no '([a-z-]+)'").search


# -- what a test run sees ------------------------------------------------------------------------------------


def belongs(item: pytest.Item) -> bool:
    """Whether a test is one of the suite's, of a layer."""
    cls = getattr(item, "cls", None)
    return (
        cls is not None
        and issubclass(cls, DispatcherConformance)
        and item.path.is_relative_to(ROOT / "tests")
        and item.originalname in _GROUP_OF  # type: ignore[attr-defined]
    )


def judge(item: pytest.Item, report: pytest.TestReport) -> None:
    """Compare the result of a test with the table, or note it down for a new one."""
    if not belongs(item):
        return
    if report.failed or report.when == "teardown" or (report.when == "setup" and not report.skipped):
        return
    layer, test = place_of(item)
    seen = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    target = item.funcargs.get("target")  # type: ignore[attr-defined]
    left_out = sorted(FEATURES - target.features) if target is not None else []
    if layer not in LAYERS:
        _fail(
            report,
            f"{layer} inherits the conformance suite: give it a row in LAYERS of {Path(__file__).name}",
        )
    elif os.environ.get(WRITING):
        report.user_properties.append((_PROPERTY, [layer, test, seen, left_out]))
    else:
        table = load()
        expected_out = table["left_out"].get(layer, [])
        if target is not None and left_out != expected_out:
            _fail(report, f"{LAYERS[layer].name} leaves out {left_out}, and in the table {expected_out}.")
            return
        expected = table["skipped"].get(layer, {}).get(test, "") if layer in table["layers"] else None
        if test not in table["tests"] or expected != seen:
            said = "not there" if expected is None or test not in table["tests"] else expected or "passed"
            _fail(report, f"{LAYERS[layer].name}, {test}: {seen or 'passed'}, and in the table: {said}.")


def place_of(item: Any) -> tuple[str, str]:
    """The layer that a test is of, and the test's name in the suite."""
    layer = f"{item.path.relative_to(ROOT / 'tests').as_posix()}::{item.cls.__name__}"
    original: str = item.originalname
    parameters = item.name.removeprefix(original).strip("[]")
    callspec = getattr(item, "callspec", None)
    kind = callspec.params.get("target") if callspec is not None else None
    if kind is not None:
        layer = f"{layer}[{kind}]"
        parameters = f"-{parameters}-".replace(f"-{kind}-", "-", 1).strip("-")
    return layer, f"{original}[{parameters}]" if parameters else original


def _fail(report: pytest.TestReport, text: str) -> None:
    report.outcome = "failed"
    report.longrepr = f"{text}\nIf that is right, run `make conformance` and commit what it writes."


# -- the table -----------------------------------------------------------------------------------------------

_loaded: dict[str, Any] = {}


def load() -> dict[str, Any]:
    """`table.json`: the tests by group, and for each layer which of them are skipped and why."""
    if not _loaded:
        _loaded.update(json.loads(TABLE.read_text()))
    return _loaded


class Results:
    """Gathers what a run with `WRITING` has seen, in the process that is told of everything."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, str]] = {}
        self.left_out: dict[str, list[str]] = {}

    def take(self, report: pytest.TestReport) -> None:
        """A test has ended."""
        for name, value in report.user_properties:
            if name == _PROPERTY:
                layer, test, skipped, left_out = value
                if left_out:
                    self.left_out[layer] = left_out
                self.seen.setdefault(layer, {})[test] = skipped

    def write(self) -> None:
        """Write the table and the page. A layer that has not run keeps its row.

        Raises:
            pytest.UsageError: a layer has neither run nor a row.
        """
        before = load() if TABLE.exists() else {"tests": {}, "layers": [], "left_out": {}, "skipped": {}}
        table: dict[str, Any] = {"tests": {}, "layers": list(LAYERS), "left_out": {}, "skipped": {}}
        if len(self.seen) < len(LAYERS):
            table["tests"].update(before["tests"])
        for layer in LAYERS:
            if layer in self.seen:
                seen = self.seen[layer]
                table["tests"].update((test, _GROUP_OF[test.partition("[")[0]]) for test in seen)
                skipped = {test: why for test, why in sorted(seen.items()) if why}
                left_out = self.left_out.get(layer)
            elif layer in before["layers"]:
                skipped, left_out = before["skipped"].get(layer), before["left_out"].get(layer)
            else:
                raise pytest.UsageError(f"{layer} has not run, and has no row: the table is not written")
            if skipped:
                table["skipped"][layer] = skipped
            if left_out:
                table["left_out"][layer] = left_out
        table["tests"] = dict(sorted(table["tests"].items()))
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
        PAGE.write_text(page(table))


def page(table: dict[str, Any]) -> str:
    """`docs/conformance.md`."""
    tests: dict[str, str] = table["tests"]
    totals = {group: sum(1 for of in tests.values() if of == group) for group in GROUPS}
    lines = [
        "# Conformance",
        "",
        (
            "Every layer keeps the promises of [the contract](dispatcher.md), and the same tests say so: the suite "
            f"`dodici.testing.DispatcherConformance`, {len(tests)} tests, run against each of them. This table is made by "
            "the tests (`make conformance`), and a test run that sees anything else fails."
        ),
        "",
        f"| layer | {' | '.join(GROUPS)} | left out |",
        f"|---|{'---:|' * len(GROUPS)}---|",
    ]
    notes: list[str] = []
    for key in table["layers"]:
        layer = LAYERS[key]
        skipped: dict[str, str] = table["skipped"].get(key, {})
        cells = []
        for group, total in totals.items():
            left = sum(1 for test in skipped if tests[test] == group)
            cells.append(f"{total - left} of {total}" if left else f"{total}")
        features = table["left_out"].get(key, [])
        lines.append(f"| {layer.name} | {' | '.join(cells)} | {', '.join(features)} |")
        if features:
            notes.append(
                f"- {layer.name}: no {', no '.join(features)}. {layer.why[:1].upper()}{layer.why[1:]}."
            )
    lines += [
        "",
        "Numbers are tests that pass. What is left out, and why:",
        "",
        *notes,
        "",
        "## The groups",
        "",
    ]
    lines += [f"- **{group}** ({totals[group]}): {text}" for group, (_, text) in GROUPS.items()]
    lines += ["", "## What a layer may leave out", ""]
    needs: dict[str, set[str]] = {}
    for skipped in table["skipped"].values():
        for test, why in skipped.items():
            if found := _NEEDED(why):
                needs.setdefault(found[1], set()).add(test.partition("[")[0].removeprefix("test_"))
    for feature in sorted(FEATURES):
        names = ", ".join(name.replace("_", " ") for name in sorted(needs.get(feature, ())))
        lines.append(f"- **{feature}**: {MEANING[feature]}" + (f" ({names})" if names else ""))
    lines += [
        "",
        (
            "`response_error` and `dump` are not in the table: they replace responses by design. To put a dispatcher of "
            "your own through the suite, inherit `DispatcherConformance` and give it a `Target`. Where that takes long to "
            'make, `loop_scope = "class"` lets one of them serve all tests.'
        ),
        "",
    ]
    return "\n".join(lines)
