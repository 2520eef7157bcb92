"""Build the course reports: ``python -m kerascv_course.report NAME|all [--quick] [--runs FOLDER …]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.progress import say, track
from kerascv_course.reports.targets import REPORTS

__all__ = ["build_parser", "main"]

RUNS = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build the pages, print where they are; 0, or 2 without arguments."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        build_parser().print_help()
        return 2
    args = build_parser().parse_args(words)
    missing = [str(folder) for folder in args.runs if not folder.is_dir()]
    if missing and not args.quick and args.runs != [RUNS]:
        raise InputError(f"--runs needs existing folders; there is no {missing[0]}")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output needs a folder; {args.output} is a file")

    print("starting TensorFlow …", flush=True)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.reports.index import make_page, write_index
    from kerascv_course.reports.page import write_page

    configure_logging()
    args.output.mkdir(parents=True, exist_ok=True)
    quick = args.output / "quick" if args.quick else None
    for name in track(list(REPORTS) if args.name == "all" else [args.name], "building pages", "pages"):
        page = make_page(name, args.runs, quick=quick)
        html, _ = write_page(page, args.output)
        say(
            f"{html}: {len(page.numbers())} printed numbers compared with ours, {len(page.evidence())} errata shown, "
            f"{len(page.missing())} parts missing"
        )
    print(write_index(args.output, [quick] if quick else args.runs))
    return 0


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog="python -m kerascv_course.report",
        description="Build the page of a course report, or of all five: our numbers next to the printed ones, figures and tables from "
        "run folders and calculators, and every error of the report shown by a computation. Parts without a run are listed as missing.",
    )
    names = ", ".join(f"{name} (report {number})" for name, number in REPORTS.items())
    parser.add_argument("name", choices=[*REPORTS, "all"], metavar="NAME", help=f"{names}, or all")
    parser.add_argument(
        "--quick", action="store_true", help="use small runs on embedded data, made in OUTPUT/quick: minutes, and no dataset"
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[RUNS],
        metavar="FOLDER",
        help="folders searched recursively for finished runs; of several runs of a recipe the best on validation is used "
        "(default: runs)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("reports"),
        metavar="FOLDER",
        help="folder for NAME.html, NAME/README.md with its figures, and index.html, which are replaced (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    run_cli(main)
