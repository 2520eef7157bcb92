"""The page that shows all reports and all runs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.io import atomic_write
from kerascv_course.reports.page import environment, relative_link
from kerascv_course.reports.runs import Found, Shelf
from kerascv_course.reports.targets import REPORTS

__all__ = ["write_index"]


def write_index(folder: Path, runs: Sequence[Path]) -> Path:
    """Write ``index.html``: the reports that have a page in the folder, and every finished run.

    Args:
        folder: of the pages.
        runs: where runs are looked for.

    Returns:
        The file.
    """
    reports = [
        (f"{name}.html", importlib.import_module(f"kerascv_course.reports.{name}").TITLE)
        for name in REPORTS
        if (folder / f"{name}.html").is_file()
    ]
    found = sorted(Shelf(runs), key=lambda one: (one.recipe.name, -one.validation))
    rows = [_row(one, folder) for one in found]
    with atomic_write(folder / "index.html") as path:
        page = environment().get_template("reports/index.html.jinja").render(reports=reports, rows=rows)
        path.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _row(found: Found, folder: Path) -> dict[str, str]:
    return {
        "recipe": found.recipe.name,
        "run": found.run.path.name,
        "link": relative_link(found.run / "report.html", folder),
        "data": str(found.metrics["data"]["source"]),
        "headline": ", ".join(f"{name} {value}" for name, value in found.metrics["headline"].items()),
        "seconds": f"{found.metrics['training_seconds']:,.0f}",
        "command": found.source.command,
    }
