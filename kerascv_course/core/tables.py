"""Tables for terminals, Markdown pages and CSV files, with one number format.

A table is a head and rows of cells: strings, numbers, booleans or None. Columns of numbers are aligned right, others left.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

__all__ = ["csv_table", "format_number", "format_percent", "markdown_table", "text_table"]

#: A cell that is a number, with a sign and a unit if any: ``1,234``, ``−0.5 %``, ``1.2e-05``, ``3.1×``, ``0.93 ± 0.01``.
_NUMERIC = re.compile(r"[-+−≤≥<>~]?\s?[\d.,]+(e[-+]?\d+)?(\s?[%×]|\s±.*)?|—|")

_AS_GIVEN: dict[str, Any] = {"disable_numparse": True, "preserve_whitespace": True}


def format_number(value: float | None, digits: int = 4) -> str:
    """A number for people: integers in groups of three digits, others with so many significant digits; ``—`` for None."""
    if value is None:
        return "—"
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e15 else f"{value:.{digits}g}"


def format_percent(share: float, digits: int = 0) -> str:
    """A fraction as a percentage, with a space as in the documentation: 0.75 is ``75 %``."""
    return f"{100 * share:.{digits}f} %"


def text_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, align: str = "") -> str:
    """Aligned columns for a terminal, the head underlined.

    Args:
        head: names of the columns; empty: no head.
        rows: as many cells as columns.
        align: ``l`` or ``r`` for each column, where the cells do not tell.
    """
    cells = [list(map(_cell, row)) for row in rows]
    sides = _sides(cells, len(head), align)
    # the head as a row: tabulate would widen the columns by two spaces
    table = tabulate([*([head] if head else []), *cells], tablefmt="plain", colalign=sides, **_AS_GIVEN)
    lines = [line.rstrip() for line in table.splitlines()]
    if head:
        lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, align: str = "") -> str:
    """A Markdown table; the arguments are those of `text_table`."""
    cells = [[_escape(_cell(value)) for value in row] for row in rows]
    sides = _sides(cells, len(head), align)
    if not cells:  # tabulate aligns columns that have cells only
        cells, sides = [[""] * len(head)], ["left"] * len(head)
    text: str = tabulate(cells, headers=list(map(_escape, head)), tablefmt="pipe", colalign=sides, **_AS_GIVEN)
    return text


def csv_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values, the head first: numbers in full, None as an empty cell, lines ending in LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()


def _sides(cells: Sequence[Sequence[str]], columns: int, align: str) -> list[str]:
    if align:
        return ["right" if side == "r" else "left" for side in align]
    numeric = [any(column) and all(map(_NUMERIC.fullmatch, column)) for column in zip(*cells, strict=True)]
    return ["right" if right else "left" for right in numeric or [False] * columns]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format_number(value)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", "<br>")
