"""What the pages of the mesh and of the collective are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from report import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plan import Contender
    from report import Board, Outcome


def part_section(board: Board, part: str, method: str, caveats: str) -> list[str]:
    """All scenarios of one part of the page; nothing if none was measured."""
    played = {name: each for name, each in board.scenarios.items() if each.part == part}
    if not played:
        return []
    parts = [method, f"## Results of the {part}\n"]
    for name, scenario in played.items():
        parts += [f"### {scenario.title}\n", markdown(board.table(name)), ""]
    return [*parts, caveats]


def short_table(
    board: Board,
    corner: str,
    headlines: dict[str, str],
    contenders: Iterable[Contender],
    ratio: Callable[[Outcome], str],
) -> list[list[str]]:
    """One row per contender, one column per scenario that was measured; empty if none was."""
    names = [name for name in headlines if name in board.rows]
    if not names:
        return []
    lines = [[corner, *(headlines[name] for name in names)]]
    for contender in contenders:
        cells = [_cell(board, name, contender, ratio) for name in names]
        if any(cells):
            lines.append([contender.name, *cells])
    return lines


def _cell(board: Board, name: str, contender: Contender, ratio: Callable[[Outcome], str]) -> str:
    for row in board.rows[name]:
        if row.contender is contender and row.runs:
            against = ratio(row)
            return f"{row.value:,.0f} ({against})" if against else f"{row.value:,.0f}"
    return ""
