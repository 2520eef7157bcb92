"""``run`` and ``check``: export a run anew, prove its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.commands import Commands


def add_parsers(commands: Commands) -> None:
    """The commands ``run`` and ``check``."""
    run = commands.add_parser(
        "run", help="export a run anew (the word may be left out: python -m export RUN)", allow_abbrev=False
    )
    run.add_argument("run", type=Path, help="run folder; its model.onnx is replaced once the new file has passed the gate")
    run.add_argument("--data-dir", type=Path, help="where the data stands, if it has moved since the training")
    run.set_defaults(call=export_command)

    check = commands.add_parser(
        "check", help="check a run's model.onnx against its Keras model on the whole test split", allow_abbrev=False
    )
    check.add_argument("run", type=Path, help="run folder")
    check.add_argument("--file", type=Path, help="another ONNX file than the run's model.onnx")
    check.add_argument("--data-dir", type=Path, help="where the data stands, if it has moved since the training")
    check.set_defaults(call=check_command)


def export_command(arguments: argparse.Namespace) -> int:
    """Export a run anew and prove the file."""
    from kerascv_course.environment import start_tensorflow
    from kerascv_course.training.run import Run

    run = Run.open(arguments.run)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging, export_again

    configure_logging()
    print(export_again(run, data_dir=arguments.data_dir))
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """Check a file against a run and print the table."""
    from kerascv_course.environment import start_tensorflow
    from kerascv_course.training.run import Run

    run = Run.open(arguments.run)
    start_tensorflow()
    from export.parity import ParityError
    from kerascv_course.experiment import check_run

    try:
        print(check_run(run, arguments.file, data_dir=arguments.data_dir))
    except ParityError as error:
        print(error.report.table())  # the error names what differs
        raise
    return 0
