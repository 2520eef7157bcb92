"""What the five reports print: every number of them, to be set beside ours."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kerascv_course.core.errors import UnknownNameError

__all__ = ["REPORTS", "Target", "difference", "targets_of"]

#: Name of a page to the number of its report.
REPORTS = {"hkust_pa2": "000", "tdt4265_a3": "001", "ntu_cv_hw2": "002", "cose474_p2": "003", "csc413_a2": "004"}


@dataclass(frozen=True)
class Target:
    """One number, or one finding, that a report prints.

    Attributes:
        id: ``T<report>-<number>``, numbered within the report.
        report: "000" to "004".
        experiment: question, table or section.
        model: network or features.
        dataset: what it was measured on, or the shape it was computed for.
        metric: what was measured.
        value: as printed.
        conditions: settings, and whether it is right.
    """

    id: str
    report: str
    experiment: str
    model: str
    dataset: str
    metric: str
    value: str
    conditions: str

    @property
    def text(self) -> str:
        """What the number is, in a line."""
        named = [part for part in (self.experiment, self.model if self.model != "-" else "", self.metric) if part]
        return ", ".join(named)


def targets_of(report: str) -> tuple[Target, ...]:
    """All of a report, in its order.

    Raises:
        UnknownNameError: another report than "000" to "004".
    """
    if report not in REPORTS.values():
        raise UnknownNameError("report", report, list(REPORTS.values()))
    return tuple(target for target in _all() if target.report == report)


def difference(printed: str, ours: Any) -> str:
    """How far ours is from what is printed: signed, to the printed number's digits (a fraction to four at least); or whether two
    texts are equal."""
    try:
        value = float(printed)
        found = float(ours)
    except (TypeError, ValueError):
        return "equal" if str(ours).split() == printed.split() else "differs"
    if value == found:
        return "equal"
    digits = max(len(printed.partition(".")[2]), 4 if isinstance(ours, float) else 0)
    return f"{found - value:+,.{digits}f}"


@functools.cache
def _all() -> tuple[Target, ...]:
    text = resources.files("kerascv_course.reports").joinpath("targets.csv").read_text(encoding="utf-8")
    counts: dict[str, int] = {}
    found = []
    for row in csv.DictReader(text.splitlines()):
        number = counts[row["report"]] = counts.get(row["report"], 0) + 1
        found.append(Target(f"T{row['report']}-{number:02d}", **row))
    return tuple(found)
