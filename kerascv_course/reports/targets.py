"""What the five course reports print: numbers to compare with ours (targets.csv) and errors (errata.csv)."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = [
    "REPORTS",
    "Erratum",
    "Target",
    "all_errata",
    "difference",
    "errata_of",
    "erratum",
    "printed",
    "printed_numbers",
    "target",
    "targets_of",
]

Entry = TypeVar("Entry", "Target", "Erratum")

#: Name of a page to the number of its report.
REPORTS = {"hkust_pa2": "000", "tdt4265_a3": "001", "ntu_cv_hw2": "002", "cose474_p2": "003", "csc413_a2": "004"}


@dataclass(frozen=True)
class Target:
    """A number, or a statement, that a report prints.

    Attributes:
        id: ``T<report>-<number>``, numbered within the report.
        report: "000" to "004".
        experiment: question, table or section.
        model: network or features.
        dataset: the data set of the measurement, or the input shape of the computation.
        metric: what was measured.
        value: as printed.
        conditions: settings, and whether the value is right.
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
        """Experiment, model and metric in a line."""
        named = [part for part in (self.experiment, self.model if self.model != "-" else "", self.metric) if part]
        return ", ".join(named)


@dataclass(frozen=True)
class Erratum:
    """An error of a report.

    Attributes:
        id: ``E<report>-<number>``.
        report: "000" to "004".
        where: question, table or section of the report.
        printed: what the report says.
        correct: what is right.
        kind: arithmetic, conceptual, convention, wording ….
        evidence: how it was found; may be empty.
    """

    id: str
    report: str
    where: str
    printed: str
    correct: str
    kind: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.id} ({self.where}): printed {self.printed!r}; correct: {self.correct}"


def targets_of(report: str) -> tuple[Target, ...]:
    """All printed numbers of a report, "000" to "004", in its order.

    Raises:
        UnknownNameError: another report.
    """
    _check_report(report)
    return tuple(one for one in _targets() if one.report == report)


def target(identifier: str) -> Target:
    """A printed number by its id, such as ``"T001-13"``.

    Raises:
        UnknownNameError: there is none.
    """
    return _find("target", identifier, _targets())


def errata_of(report: str) -> tuple[Erratum, ...]:
    """The errors of a report, "000" to "004".

    Raises:
        UnknownNameError: another report.
    """
    _check_report(report)
    return tuple(one for one in all_errata() if one.report == report)


def erratum(identifier: str) -> Erratum:
    """An error by its id, such as ``"E001-04"``.

    Raises:
        UnknownNameError: there is none.
    """
    return _find("erratum", identifier.upper(), all_errata())


def printed(report: str, experiment: str, metric: str = "", model: str = "") -> list[str]:
    """Values that a report prints, in its order.

    Args:
        report: "000" to "004".
        experiment, metric, model: how the columns of these names begin.

    Raises:
        InputError: no target matches.
    """
    found = [
        one.value
        for one in targets_of(report)
        if one.experiment.startswith(experiment) and one.metric.startswith(metric) and one.model.startswith(model)
    ]
    if not found:
        raise InputError(f"report {report} prints no {metric!r} of {model!r} in {experiment!r}: see reports/targets.csv")
    return found


def printed_numbers(report: str, experiment: str, metric: str = "", model: str = "") -> list[float]:
    """The values of `printed` as numbers."""
    return [float(value) for value in printed(report, experiment, metric, model)]


def difference(printed: str, ours: Any) -> str:
    """Our value minus the printed one, signed, with the printed number's digits (at least four for floats).

    ``"equal"`` if they are the same; ``"equal"`` or ``"differs"`` for values that are no numbers.
    """
    try:
        value = float(printed)
        found = float(ours)
    except (TypeError, ValueError):
        return "equal" if str(ours).split() == printed.split() else "differs"
    if value == found:
        return "equal"
    digits = max(len(printed.partition(".")[2]), 4 if isinstance(ours, float) else 0)
    return f"{found - value:+,.{digits}f}"


def _check_report(report: str) -> None:
    if report not in REPORTS.values():
        raise UnknownNameError("report", report, list(REPORTS.values()))


def _find(kind: str, identifier: str, entries: tuple[Entry, ...]) -> Entry:
    for one in entries:
        if one.id == identifier:
            return one
    raise UnknownNameError(kind, identifier, [one.id for one in entries])


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("kerascv_course.reports").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(keepends=True)))


@functools.cache
def _targets() -> tuple[Target, ...]:
    counts: dict[str, int] = {}
    found = []
    for row in _rows("targets.csv"):
        number = counts[row["report"]] = counts.get(row["report"], 0) + 1
        found.append(Target(f"T{row['report']}-{number:02d}", **row))
    return tuple(found)


@functools.cache
def all_errata() -> tuple[Erratum, ...]:
    """The errors of all reports, in order."""
    return tuple(Erratum(**row) for row in _rows("errata.csv"))
