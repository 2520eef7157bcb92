"""Set finished runs side by side: ``python -m kerascv_course.compare RUN RUN …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascv_course.core.errors import InputError, run_cli


def compare(
    runs: Annotated[list[Path], tyro.conf.Positional],
    figures: tuple[str, ...] = (),
    plot: Path | None = None,
    curves: tuple[str, ...] = ("accuracy", "val_accuracy", "loss", "val_loss"),
) -> None:
    """Print a Markdown table: what differs between the runs' recipes, and what came of it. Runs that differ in the seed alone
    share a line, with mean and standard deviation.

    Args:
        runs: run folders.
        figures: which figures, by name; none: all.
        plot: draw the runs' curves into this picture, a colour for each line of the table.
        curves: which columns of history.csv are drawn, a panel each; columns joined by + share one, such as loss+val_loss.
    """
    from kerascv_course.reports.comparison import compare_runs, format_table, read_history
    from kerascv_course.training.run_dir import Run

    rows = compare_runs([Run.open(path) for path in runs])
    print(format_table(rows, figures))
    if plot is not None:
        from kerascv_course.core.io import atomic_write
        from kerascv_course.plots import compare_curves

        # the recipes' names where they tell the rows apart, else all that differs
        names = [str(row.settings.get("name")) for row in rows]
        told = len(set(names)) == len(rows)
        labels = names if told else [", ".join(map(_text, row.settings.items())) for row in rows]
        histories = {label: [read_history(run) for run in row.runs] for label, row in zip(labels, rows, strict=True)}
        columns = [key for panel in curves for key in panel.split("+")]
        for history in (history for runs in histories.values() for history in runs):
            if missing := [key for key in columns if key not in history[0]]:
                raise InputError(f"the histories have no column {missing[0]!r}; they have {', '.join(history[0])}")
        with atomic_write(plot) as path:
            compare_curves(histories, curves).savefig(path, dpi=90)
        print(plot)


def _text(setting: tuple[str, Any]) -> str:
    """A setting in a legend: texts for themselves, anything else with its field's last name."""
    field, value = setting
    return value if isinstance(value, str) else f"{field.rpartition('.')[2]} {'default' if value is None else value}"


def main() -> None:
    """Parse and run."""
    tyro.cli(compare, prog="python -m kerascv_course.compare")


if __name__ == "__main__":
    run_cli(main)
