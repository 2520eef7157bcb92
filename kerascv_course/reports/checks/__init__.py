"""Checks of the reports' errata: every error is shown by a computation that yields the correct value. One module per report."""

from __future__ import annotations

from kerascv_course.reports.checks import report_000, report_001, report_002, report_003, report_004
from kerascv_course.reports.checks.evidence import CHECKS, Evidence
from kerascv_course.reports.targets import erratum

__all__ = ["MODULES", "show"]

MODULES = (report_000, report_001, report_002, report_003, report_004)


def show(identifier: str) -> Evidence:
    """Compute the evidence of an erratum.

    Checks that build a network import TensorFlow, which takes seconds; all others run in under a second without it.

    Args:
        identifier: such as ``"E001-04"``.

    Raises:
        UnknownNameError: there is no such erratum.
    """
    found = erratum(identifier)
    check = CHECKS[found.id]
    return Evidence(found, tuple(check.compute()), check.source)
