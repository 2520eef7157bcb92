"""Set finished runs side by side: ``python -m kerascv_course.compare RUN RUN …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from kerascv_course.errors import InputError, run_cli


def compare(
    runs: Annotated[list[Path], tyro.conf.Positional],
    figures: tuple[str, ...] = (),
    plot: Path | None = None,
    curves: tuple[str, ...] = ("val_loss", "val_accuracy"),
) -> None:
    """Print a Markdown table: what differs between the runs' recipes, and what came of it. Runs that differ in the seed alone
    share a line, with mean and standard deviation.

    Args:
        runs: run folders.
        figures: which figures, by name; none: all.
        plot: draw the runs' curves into this picture (the first run of each line).
        curves: which columns of history.csv are drawn.
    """
    from kerascv_course.comparison import compare_runs, format_table, read_history
    from kerascv_course.training.run import Run

    rows = compare_runs([Run.open(path) for path in runs])
    print(format_table(rows, figures))
    if plot is not None:
        from kerascv_course.files import write_beside
        from kerascv_course.plots import compare_curves

        histories = {", ".join(map(str, row.settings.values())): read_history(row.runs[0]) for row in rows}
        missing = [key for history in histories.values() for key in curves if key not in history[0]]
        if missing:
            raise InputError(f"the histories have no column {missing[0]!r}")
        with write_beside(plot) as path:
            compare_curves(histories, curves).savefig(path, dpi=90)
        print(plot)


def main() -> None:
    """Parse and run."""
    tyro.cli(compare, prog="python -m kerascv_course.compare")


if __name__ == "__main__":
    run_cli(main)
