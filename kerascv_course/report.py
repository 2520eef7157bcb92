"""Make the course reports afresh: ``python -m kerascv_course.report NAME|all [--quick] [--runs FOLDER …]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from kerascv_course.core.errors import InputError, UnknownNameError, run_cli
from kerascv_course.reports.targets import REPORTS

PROG = "python -m kerascv_course.report"


def report(
    name: Annotated[str, tyro.conf.Positional],
    quick: bool = False,
    runs: tuple[Path, ...] = (Path("runs"),),
    output: Path = Path("reports"),
) -> None:
    """Make a course report's page, or all five: the printed numbers beside ours, figures and tables from run folders and calculators,
    and every error of the report shown by a computation. What has no run stands as missing.

    Args:
        name: hkust_pa2, tdt4265_a3, ntu_cv_hw2, cose474_p2, csc413_a2, or all.
        quick: from small runs on embedded data, which are made in OUTPUT/quick: some minutes, no data set.
        runs: folders in which finished runs are looked for, all below as well; of several of a recipe validation chooses.
        output: folder for NAME.html, NAME/README.md with its pictures, and index.html. Pages of those names are made anew.
    """
    if name != "all" and name not in REPORTS:
        raise UnknownNameError("report", name, ["all", *REPORTS])
    lacking = [str(folder) for folder in runs if not folder.is_dir()]
    if lacking and not quick and runs != (Path("runs"),):
        raise InputError(f"--runs are folders with runs; there is no {lacking[0]}")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output is a folder; {output} is a file")

    print("starting TensorFlow …", flush=True)
    from kerascv_course.core.environment import start_tensorflow

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


def main() -> None:
    """Parse and run."""
    tyro.cli(report, prog=PROG, config=(tyro.conf.FlagCreatePairsOff,))


if __name__ == "__main__":
    run_cli(main)
