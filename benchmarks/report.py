"""From measurements to tables: on the screen, as a page, as JSON and as a block of the README.

Ratios compare like with like: a dispatch with undici's faster dispatch, a request with undici's
request; "other Python" is the fastest Python client that is not dodici. Of the rounds of a
contender the median one is shown, as a whole, with the extremes beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connections import Seen
from plan import BESIDE, MEBIBYTE, Contender, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Run = dict[str, Any]
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


@dataclass(slots=True, eq=False)
class Outcome:
    """All rounds of one contender in one scenario; `note` says why there are none or fewer.

    `seen` is what the server saw of it.
    """

    contender: Contender
    scenario: Scenario
    runs: list[Run]
    note: str = ""
    seen: Seen = field(default_factory=Seen)

    def take(self, run: Run) -> None:
        """Add a round, unless the client or the server objects."""
        self.note = str(run.get("unsupported", ""))
        if self.note:
            return
        self.runs.append(run)
        if self.scenario.part == "http" and not self.scenario.hold:
            self.note = self.seen.objection(self.scenario.expected(), int(run.get("sessions", 1)))
        if self.note:
            self.runs.clear()

    @staticmethod
    def rate(run: Run) -> float:
        """Requests per second."""
        return float(run["requests"] / run["seconds"])

    def score(self, run: Run) -> float:
        """What is compared; more is better."""
        match self.scenario.table:
            case "idle":
                return 1 / self.each(run)
            case "memory":
                return 1 / float(max(run["max_rss_kib"] - run["rss_before_kib"], 1))
            case "accepting":
                return 1 / float(run["p50_us"])
        return self.rate(run)

    def each(self, run: Run) -> float:
        """Bytes that one idle connection costs."""
        grown = (run["rss_after_kib"] - run["rss_before_kib"]) * 1024
        return float(max(grown, 1) / max(run["connections"], 1))

    @property
    def median(self) -> Run:
        """The round in the middle."""
        return sorted(self.runs, key=self.score)[(len(self.runs) - 1) // 2]

    @property
    def value(self) -> float:
        """The score of the median round."""
        return self.score(self.median)


class Board:
    """The outcomes of a whole run, by scenario."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Outcome]] = {}
        self.scenarios: dict[str, Scenario] = {}

    def add(self, scenario: Scenario, outcomes: list[Outcome]) -> None:
        """Take in one finished scenario."""
        self.scenarios[scenario.name] = scenario
        self.rows[scenario.name] = outcomes

    def best(self, name: str, group: str, api: str = "") -> float:
        """The best score of a group in a scenario; 0 if nobody of it was there."""
        values = [
            row.value
            for row in self.rows.get(name, [])
            if row.runs and row.contender.group == group and api in {"", row.contender.api}
        ]
        return max(values, default=0.0)

    def ratios(self, row: Outcome) -> tuple[str, str]:
        """Against undici's same interface, and against the fastest other Python client."""
        # What grew by next to nothing has no meaningful ratio to what grew by nothing.
        if row.contender.group == "limit" or row.scenario.table == "memory":
            return "", ""
        scenario = row.scenario
        undici = self.best(scenario.name, "undici", row.contender.api)
        # Where the other Python clients cannot take part, their plain numbers are the rival.
        python = self.best(scenario.baseline or scenario.name, "python")
        return _ratio(row.value, undici), _ratio(row.value, python)

    def against_limit(self, row: Outcome) -> str:
        """The ratio to the program in C, which is always 1 for itself."""
        return _ratio(row.value, self.best(row.scenario.name, "limit"))

    def table(self, name: str) -> list[list[str]]:
        """One scenario as rows of words; the first row is the head."""
        scenario = self.scenarios[name]
        head, cells = _TABLES[scenario.table]
        if scenario.part == "collective":
            return self._against_grpc(name, head, cells)
        limited = (scenario.http == 2 or scenario.part == "mesh") and self.best(name, "limit") > 0
        last = [f"vs {scenario.limit}"] if limited else []
        lines = [["client", *head, "vs undici", "vs other Python", *last]]
        for row in self.rows[name]:
            if row.runs:
                ratios = [*self.ratios(row), *([self.against_limit(row)] if limited else [])]
                lines.append([row.contender.name, *cells(row), *ratios])
            else:
                lines.append([row.contender.name, row.note, *[""] * (len(lines[0]) - 2)])
        return lines

    def _against_grpc(
        self, name: str, head: list[str], cells: Callable[[Outcome], list[str]]
    ) -> list[list[str]]:
        limit = next((row for row in self.rows[name] if row.runs and row.contender.group == "limit"), None)
        last = [] if limit is None else [f"vs {limit.contender.name}", "p99 added ms"]
        lines = [["client", *head, *last]]
        for row in self.rows[name]:
            if not row.runs:
                lines.append([row.contender.name, row.note, *[""] * (len(lines[0]) - 2)])
                continue
            compared = []
            if limit is not None:
                added = (row.median["p99_us"] - limit.median["p99_us"]) / 1e3
                compared = [self.against_limit(row), "" if row is limit else f"{added:+.2f}"]
            lines.append([row.contender.name, *cells(row), *compared])
        return lines

    def as_json(self, facts: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
        """Everything, as it is written to results.json."""
        scenarios: dict[str, Any] = {}
        for name, rows in self.rows.items():
            clients: dict[str, Any] = {}
            for row in rows:
                if not row.runs:
                    clients[row.contender.name] = {"note": row.note}
                    continue
                undici, python = self.ratios(row)
                clients[row.contender.name] = {
                    "median": row.median,
                    "vs_undici": _number(undici),
                    "vs_other_python": _number(python),
                    "vs_limit": _number(self.against_limit(row)),
                    "connections_seen": row.seen.count,
                    "ciphers_seen": sorted(row.seen.ciphers),
                    "runs": row.runs,
                }
            scenarios[name] = {"title": self.scenarios[name].title, "clients": clients}
        return {"machine": facts, "settings": settings, "scenarios": scenarios}


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}x" if base else ""


def _number(ratio: str) -> float | None:
    return float(ratio.rstrip("x")) if ratio else None


def _milliseconds(microseconds: float | None) -> str:
    return "" if microseconds is None else f"{microseconds / 1e3:.2f}"


def _grown(run: Run) -> str:
    before = run["rss_before_kib"]
    return "" if before is None else f"{(run['max_rss_kib'] - before) / 1024:.1f}"


def _spread(row: Outcome, scale: float) -> str:
    values = [row.score(run) * scale for run in row.runs]
    return f"{min(values):,.0f}-{max(values):,.0f}"


def _rate_cells(row: Outcome) -> list[str]:
    run = row.median
    return [
        f"{row.value:,.0f}",
        _spread(row, 1),
        f"{run['cpu_seconds'] / run['requests'] * 1e6:.1f}",
        _milliseconds(run["p50_us"]),
        _milliseconds(run["p99_us"]),
    ]


def _beside_cells(row: Outcome) -> list[str]:
    run = row.median
    alone = run["alone"]
    return [
        f"{row.value:,.0f}",
        _spread(row, 1),
        _ratio(row.value, row.rate(alone)),
        _milliseconds(run["p50_us"]),
        _milliseconds(run["p99_us"]),
        _milliseconds(alone["p50_us"]),
        _milliseconds(alone["p99_us"]),
        f"{run['slow_bytes_per_second'] / MEBIBYTE:.2f}",
        _grown(run),
    ]


def _body_cells(row: Outcome) -> list[str]:
    run, job = row.median, row.scenario.job
    size = max(int(job.get("size", 0)), int(job.get("upload", 0)))
    per_gib = run["cpu_seconds"] / (run["requests"] * size) * (1 << 30)
    scale = size / MEBIBYTE
    return [f"{row.value * scale:,.0f}", _spread(row, scale), f"{per_gib:.2f}", _grown(run)]


def _idle_cells(row: Outcome) -> list[str]:
    run = row.median
    peak = (run["max_rss_kib"] - run["rss_before_kib"]) / 1024
    rate = run["connections"] / run["seconds"]
    return [f"{run['connections']:,}", f"{row.each(run):,.0f}", f"{peak:,.0f}", f"{rate:,.0f}"]


def _memory_cells(row: Outcome) -> list[str]:
    run = row.median
    grown = [
        (run[f"{role}_{when}_kib"] - run[f"{role}_rss_before_kib"]) / 1024
        for when in ("max_rss", "rss_after")
        for role in ("client", "workers")
    ]
    return [f"{run['requests']:,}", f"{run['seconds']:.1f}", *(f"{value:.1f}" for value in grown)]


def _accepting_cells(row: Outcome) -> list[str]:
    run = row.median
    medians = [float(each["p50_us"]) / 1e3 for each in row.runs]
    return [
        f"{run['requests']:,}",
        _milliseconds(run["p50_us"]),
        f"{min(medians):.2f}-{max(medians):.2f}",
        _milliseconds(run["p99_us"]),
        f"{run['load_per_second']:,.0f}",
    ]


_TABLES = {
    "rate": (["req/s", "range", "CPU us/req", "p50 ms", "p99 ms"], _rate_cells),
    "body": (["MiB/s", "range", "CPU s/GiB", "peak RSS growth MiB"], _body_cells),
    BESIDE: (
        [
            "req/s",
            "range",
            "vs alone",
            "p50 ms",
            "p99 ms",
            "p50 alone",
            "p99 alone",
            "slow MiB/s",
            "peak RSS growth MiB",
        ],
        _beside_cells,
    ),
    "memory": (
        [
            "requests",
            "seconds",
            "peak growth of the client MiB",
            "of its workers MiB",
            "left in the client MiB",
            "in its workers MiB",
        ],
        _memory_cells,
    ),
    "accepting": (["calls", "p50 ms", "range", "p99 ms", "req/s meanwhile"], _accepting_cells),
    "idle": (["connections", "bytes each", "peak MiB", "opened/s"], _idle_cells),
}


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    # A note stands in the second cell and may be long: it must not widen the column.
    widths[1] = min(widths[1], 14)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, dodici's in bold."""
    head, *body = lines
    rule = ["---", *["---:"] * (len(head) - 1)]
    shown = [
        [f"**{cell}**" if cell and line[0].startswith("dodici") else cell for cell in line] for line in body
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *shown])


def write_json(path: Path, board: Board, facts: dict[str, str], settings: dict[str, Any]) -> None:
    """Write results.json."""
    path.write_text(json.dumps(board.as_json(facts, settings), indent=1) + "\n")


def completed(
    board: Board, recorded: Path, every: Sequence[Scenario], contenders: Sequence[Contender]
) -> Board:
    """The board with what it lacks taken from a results.json, in the order of `every`."""
    known_by = {(each.part, each.name): each for each in contenders}
    known = json.loads(recorded.read_text())["scenarios"] if recorded.exists() else {}
    whole = Board()
    for scenario in every:
        if scenario.name in board.rows:
            whole.add(scenario, board.rows[scenario.name])
        elif scenario.name in known:
            whole.add(
                scenario,
                [
                    Outcome(
                        known_by[scenario.part, name],
                        scenario,
                        kept.get("runs", []),
                        kept.get("note", ""),
                        Seen(
                            Counter({"recorded": kept.get("connections_seen", 0)}),
                            Counter(kept.get("ciphers_seen", ())),
                        ),
                    )
                    for name, kept in known[scenario.name]["clients"].items()
                    if (scenario.part, name) in known_by
                ],
            )
    return whole


def replace_block(readme: Path, block: str) -> bool:
    """Put `block` between the two marks of the README; False if they are not there."""
    if not readme.exists():
        return False
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    readme.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}")
    return True
