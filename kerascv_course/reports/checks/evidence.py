"""Registry of the checks: a function for every erratum, and what the checks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kerascv_course.analysis import Summary, summarize
from kerascv_course.models import create_model
from kerascv_course.reports.targets import Erratum

__all__ = ["CHECKS", "Check", "Evidence", "check", "network"]


@dataclass(frozen=True)
class Check:
    """The computation of an erratum's evidence.

    Attributes:
        compute: returns the evidence, line by line.
        source: dotted names of the functions that compute it, separated by commas.
    """

    compute: Callable[[], list[str]]
    source: str


@dataclass(frozen=True)
class Evidence:
    """An erratum with its evidence.

    Attributes:
        erratum: the printed and the correct text.
        lines: the evidence; every number is computed, or is one that the report prints.
        source: dotted names of the functions that computed it, separated by commas.
    """

    erratum: Erratum
    lines: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return "\n".join([str(self.erratum), *(f"    {line}" for line in self.lines), f"    ({self.source})"])


#: By the erratum's id; filled by `check`.
CHECKS: dict[str, Check] = {}


def check(identifier: str, *functions: Callable[..., Any]) -> Callable[[Callable[[], list[str]]], Callable[[], list[str]]]:
    """Register the decorated function as the check of an erratum.

    Args:
        identifier: of the erratum, such as ``"E001-04"``.
        functions: of this package that do the computing; none: the decorated function does it with NumPy or by hand.
    """

    def register(compute: Callable[[], list[str]]) -> Callable[[], list[str]]:
        if identifier in CHECKS:
            raise ValueError(f"{identifier} has two checks")
        names = [f"{function.__module__}.{function.__qualname__}" for function in functions or (compute,)]
        CHECKS[identifier] = Check(compute, ", ".join(names))
        return compute

    return register


def network(name: str, **options: Any) -> Summary:
    """Summary of one of our networks, built once: `create_model` and `summarize`."""
    return _network(name, tuple(sorted(options.items())))


@cache
def _network(name: str, options: tuple[tuple[str, Any], ...]) -> Summary:
    return summarize(create_model(name, **dict(options)))
