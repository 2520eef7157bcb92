"""All course reports: build the page of one, and the index page of reports and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.errors import UnknownNameError
from kerascv_course.core.html import render_html
from kerascv_course.core.io import write_text
from kerascv_course.reports import cose474_p2, csc413_a2, hkust_pa2, ntu_cv_hw2, tdt4265_a3
from kerascv_course.reports.page import Page, relative_link
from kerascv_course.reports.parts import build_page
from kerascv_course.reports.quick import make_small_runs
from kerascv_course.reports.runs import FinishedRun, RunIndex

__all__ = ["REPORTS", "make_page", "write_index"]

#: All reports by name.
REPORTS = {module.REPORT.name: module.REPORT for module in (hkust_pa2, tdt4265_a3, ntu_cv_hw2, cose474_p2, csc413_a2)}


def make_page(name: str, folders: Sequence[Path], *, quick: Path | None = None) -> Page:
    """Build a report's page.

    Args:
        name: of `REPORTS`.
        folders: searched for runs, recursively.
        quick: folder of small runs on embedded data, which are made there and used instead.

    Raises:
        UnknownNameError: no such report.
    """
    if name not in REPORTS:
        raise UnknownNameError("report", name, REPORTS)
    report = REPORTS[name]
    if quick is None:
        return build_page(report, RunIndex(folders))
    make_small_runs(report, quick)
    return build_page(report, RunIndex([quick], small=report.quick))


def write_index(folder: Path, runs: Sequence[Path]) -> Path:
    """Write ``index.html``: the reports with a page in the folder, and every finished run.

    Args:
        folder: of the pages.
        runs: folders searched for runs.

    Returns:
        The file.
    """
    pages = [(f"{name}.html", report.title) for name, report in REPORTS.items() if (folder / f"{name}.html").is_file()]
    rows = [_row(run, folder) for run in sorted(RunIndex(runs), key=lambda run: (run.recipe.name, -run.validation))]
    write_text(folder / "index.html", render_html("kerascv_course.reports", "index.html.jinja", reports=pages, rows=rows))
    return folder / "index.html"


def _row(run: FinishedRun, folder: Path) -> dict[str, str]:
    return {
        "recipe": run.recipe.name,
        "run": run.folder.path.name,
        "link": relative_link(run.folder / "report.html", folder),
        "data": str(run.metrics["data"]["source"]),
        "headline": ", ".join(f"{name} {value}" for name, value in run.metrics["headline"].items()),
        "seconds": f"{run.metrics['training_seconds']:,.0f}",
        "command": run.source.command,
    }
