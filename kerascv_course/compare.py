"""Compare runs: ``python -m kerascv_course.compare RUN RUN …``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.io import atomic_write
from kerascv_course.training.run_dir import Run


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog="python -m kerascv_course.compare",
        description="Print a Markdown table of runs: the settings in which they differ, and their metrics. Runs that differ in the "
        "seed only share a row, with mean and standard deviation.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--figures", nargs="*", default=(), metavar="NAME", help="metrics to show (default: all)")
    parser.add_argument("--plot", type=Path, help="plot the learning curves into this file, a color for each row of the table")
    parser.add_argument(
        "--curves",
        nargs="*",
        default=("accuracy", "val_accuracy", "loss", "val_loss"),
        metavar="COLUMN",
        help="columns of history.csv to plot, a panel each; columns joined by + share one, such as loss+val_loss",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, compare, print the table."""
    arguments = build_parser().parse_args(argv)
    compare(arguments.runs, tuple(arguments.figures), arguments.plot, tuple(arguments.curves))


def compare(runs: Sequence[Path], metrics: tuple[str, ...], plot: Path | None, curves: tuple[str, ...]) -> None:
    """Print the table; `plot`: a file for the curves."""
    from kerascv_course.reports.comparison import compare_runs, format_table, read_history

    rows = compare_runs([Run.open(path) for path in runs])
    print(format_table(rows, metrics))
    if plot is not None:
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


if __name__ == "__main__":
    run_cli(main)
