"""What the findings have in common: the table of them, the reports' printed numbers, networks in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kerascv_course.analysis import Summary, summarize
from kerascv_course.core.errors import InputError
from kerascv_course.models.registry import create_model
from kerascv_course.reports.targets import targets_of

__all__ = ["FINDINGS", "Finding", "finding", "network", "printed", "printed_numbers"]


@dataclass(frozen=True)
class Finding:
    """How one erratum is shown.

    Attributes:
        compute: gives the evidence, line by line.
        source: dotted names of the functions that compute it, parted by commas.
    """

    compute: Callable[[], list[str]]
    source: str


#: By the erratum's identifier; filled by `finding` as the modules of the reports are imported.
FINDINGS: dict[str, Finding] = {}


def finding(identifier: str, *functions: Callable[..., Any]) -> Callable[[Callable[[], list[str]]], Callable[[], list[str]]]:
    """Decorate the function that shows an erratum.

    Args:
        identifier: of the erratum, such as ``"E001-04"``.
        functions: of this package, which do the computing; none: the decorated function does it itself, with NumPy or by hand.
    """

    def register(compute: Callable[[], list[str]]) -> Callable[[], list[str]]:
        if identifier in FINDINGS:
            raise ValueError(f"an erratum is shown by one function; {identifier} has two")
        names = [f"{function.__module__}.{function.__qualname__}" for function in functions or (compute,)]
        FINDINGS[identifier] = Finding(compute, ", ".join(names))
        return compute

    return register


def network(name: str, **options: Any) -> Summary:
    """A network of this package, built afresh and counted: `create_model` and `summarize`."""
    return _network(name, tuple(sorted(options.items())))


@cache
def _network(name: str, options: tuple[tuple[str, Any], ...]) -> Summary:
    return summarize(create_model(name, **dict(options)))


def printed(report: str, experiment: str, metric: str = "", model: str = "") -> list[str]:
    """The values that a report prints, in its order.

    Args:
        report: "000" to "004".
        experiment: how the column of that name begins.
        metric: likewise.
        model: likewise.

    Raises:
        InputError: no row of the table of printed values fits.
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
    """The same as numbers."""
    return [float(value) for value in printed(report, experiment, metric, model)]
