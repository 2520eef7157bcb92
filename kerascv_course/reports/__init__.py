"""The five course reports made afresh: each a page with the printed numbers beside ours, from run folders and calculators.

`targets` (what is printed), `runs` (finding run folders), `findings` (errors of the reports, shown by computation), `page` (what a
page holds, HTML and Markdown), `building` (parts of pages), `quick` (small runs on embedded data), and one module a report.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.errors import UnknownNameError
from kerascv_course.reports.page import Page
from kerascv_course.reports.runs import Shelf
from kerascv_course.reports.targets import REPORTS

__all__ = ["REPORTS", "make_page"]


def make_page(name: str, folders: Sequence[Path], *, quick: Path | None = None) -> Page:
    """Make a report's page.

    Args:
        name: of `REPORTS`.
        folders: where runs are looked for, all below as well.
        quick: folder for small runs on embedded data, which are made there and taken in the place of those.

    Raises:
        UnknownNameError: no such report.
    """
    if name not in REPORTS:
        raise UnknownNameError("report", name, REPORTS)
    module = importlib.import_module(f"kerascv_course.reports.{name}")
    if quick is not None:
        from kerascv_course.reports.quick import small_runs

        small_runs(module, quick)
        return module.page(Shelf([quick], small=module.QUICK))
    return module.page(Shelf(folders))
