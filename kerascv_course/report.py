"""Build the course reports: ``python -m kerascv_course.report NAME|all [--quick] [--runs FOLDER …]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, UnknownNameError, run_cli
from kerascv_course.reports.targets import REPORTS


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog="python -m kerascv_course.report",
        description="Build a course report's page, or all five: every printed number beside ours, tables and figures from run "
        "folders and calculators, and every error of the report shown by a computation. Results without a run are marked missing.",
    )
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(REPORTS)}, or all")
    parser.add_argument(
        "--quick", action="store_true", help="from small runs on embedded data, made in OUTPUT/quick: some minutes, no dataset"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[Path("runs")],
        metavar="FOLDER",
        help="folders to search for finished runs, recursively; of several runs of a recipe the one with the best validation is used",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("reports"),
        help="folder for NAME.html, NAME/README.md with its figures, and index.html; pages of those names are replaced",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, build the pages, print where they are."""
    arguments = build_parser().parse_args(argv)
    report(arguments.name, quick=arguments.quick, runs=tuple(arguments.runs), output=arguments.output)


def report(name: str, *, quick: bool, runs: tuple[Path, ...], output: Path) -> None:
    """Build one page or all, and the index."""
    if name != "all" and name not in REPORTS:
        raise UnknownNameError("report", name, ["all", *REPORTS])
    lacking = [str(folder) for folder in runs if not folder.is_dir()]
    if lacking and not quick and runs != (Path("runs"),):
        raise InputError(f"--runs takes folders with runs; no such folder: {lacking[0]}")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output must be a folder; {output} is a file")

    print("starting TensorFlow …", flush=True)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.reports import make_page
    from kerascv_course.reports.index import write_index
    from kerascv_course.reports.page import write_page

    configure_logging()
    output.mkdir(parents=True, exist_ok=True)
    for one in REPORTS if name == "all" else (name,):
        page = make_page(one, runs, quick=output / "quick" if quick else None)
        html, _ = write_page(page, output)
        print(
            f"{html}: {len(page.answers())} printed numbers beside ours, {len(page.findings())} errors shown, "
            f"{len(page.missing())} parts missing",
            flush=True,
        )
    print(write_index(output, [output / "quick"] if quick else runs))


if __name__ == "__main__":
    run_cli(main)
