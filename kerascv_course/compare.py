"""Compare runs: ``python -m kerascv_course.compare RUN RUN …``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.io import atomic_write
from kerascv_course.reports.comparison import RunGroup, compare_runs, format_groups, format_unevaluated, read_history
from kerascv_course.training.run_dir import Run

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, print the table, draw the curves."""
    args = build_parser().parse_args(argv)
    groups = compare_runs([Run.open(path) for path in args.runs])
    print(format_groups(groups, args.metrics))
    if notes := format_unevaluated(groups):
        print(f"\n{notes}\n")
    if args.plot is not None:
        _draw(groups, args.curves, args.plot)
        print(args.plot)


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog="python -m kerascv_course.compare",
        description="Print a Markdown table of runs: the settings in which their recipes differ, and their metrics. Runs that differ "
        "in the seed only share a row, with mean and standard deviation. Runs that are not evaluated, such as those of train "
        "--train-only, have their validation metrics.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, each once")
    parser.add_argument("--metrics", "--figures", nargs="+", default=(), metavar="NAME", help="metrics to show; default: all")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the runs' curves into this file, one color per row of the table"
    )
    parser.add_argument(
        "--curves",
        nargs="+",
        default=("accuracy", "val_accuracy", "loss", "val_loss"),
        metavar="COLUMN",
        help="columns of history.csv to draw, one panel each; columns joined by + share a panel, such as loss+val_loss "
        "(default: accuracy val_accuracy loss val_loss)",
    )
    return parser


def _draw(groups: Sequence[RunGroup], curves: Sequence[str], path: Path) -> None:
    from kerascv_course.plots.base import compare_curves

    # the recipes' names if they identify the groups, else all settings that differ
    names = [str(group.settings.get("name")) for group in groups]
    if len(set(names)) < len(groups):
        names = [", ".join(map(_label, group.settings.items())) for group in groups]
    histories: dict[str, list[list[dict[str, float]]]] = {}
    for name, group in zip(names, groups, strict=True):
        histories.setdefault(name, []).extend(read_history(run) for run in group.runs)
    columns = [key for panel in curves for key in panel.split("+")]
    for history in (history for runs in histories.values() for history in runs):
        if missing := [key for key in columns if key not in history[0]]:
            raise InputError(f"the histories have no column {missing[0]!r}; they have {', '.join(history[0])}")
    with atomic_write(path) as temporary:
        compare_curves(histories, curves).savefig(temporary, dpi=90)


def _label(setting: tuple[str, Any]) -> str:
    """A setting in a legend: strings as they are, other values with the field's last name."""
    field, value = setting
    return value if isinstance(value, str) else f"{field.rpartition('.')[2]} {'default' if value is None else value}"


if __name__ == "__main__":
    run_cli(main)
