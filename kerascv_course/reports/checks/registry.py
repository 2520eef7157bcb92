"""Every erratum of the five reports shown by a computation: the right value comes out when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from kerascv_course.reports.errata import Erratum, erratum
from kerascv_course.reports.evidence import FINDINGS

__all__ = ["Shown", "show"]

#: Reports whose findings fill more than one module.
_PARTS = {"004": ("004", "004_theory")}


@dataclass(frozen=True)
class Shown:
    """An erratum with its evidence.

    Attributes:
        erratum: what the report prints, and what is right.
        lines: the evidence in words and numbers; every number was computed for it, or is one that the report prints.
        source: dotted names of the functions that computed it, parted by commas.
    """

    erratum: Erratum
    lines: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return "\n".join([str(self.erratum), *(f"    {line}" for line in self.lines), f"    ({self.source})"])


def show(erratum_id: str) -> Shown:
    """Compute the evidence of an erratum.

    Those about a network build it, which imports TensorFlow and takes seconds; all others take under a second without it.

    Args:
        erratum_id: such as ``"E001-04"``.

    Raises:
        UnknownNameError: there is no such erratum.
    """
    found = erratum(erratum_id)
    for part in _PARTS.get(found.report, (found.report,)):
        importlib.import_module(f"kerascv_course.reports.checks.report_{part}")
    how = FINDINGS[found.id]
    return Shown(found, tuple(how.compute()), how.source)
