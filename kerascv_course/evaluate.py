"""Evaluate a run again: ``python -m kerascv_course.evaluate RUN``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import run_cli
from kerascv_course.training.run_dir import Run


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog="python -m kerascv_course.evaluate",
        description="Evaluate a run's best weights on its whole train, validation and test splits, or on other data. "
        "Nothing is written.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data-dir", type=Path, help="folder of the dataset, if it has moved since the training")
    parser.add_argument(
        "--other-data", action="store_true", help="--data-dir holds other data: measure its test images, or all"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, evaluate, print the metrics."""
    arguments = build_parser().parse_args(argv)
    Run.open(arguments.run)
    start_tensorflow()
    from kerascv_course.experiment import Experiment, configure_logging
    from kerascv_course.training.callbacks import describe_evaluation

    configure_logging()
    experiment = Experiment.open(arguments.run, arguments.data_dir, other_data=arguments.other_data)
    metrics = experiment.evaluate()
    for split, values in metrics.items():
        numbers = (f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value:,}" for key, value in scalars(values))
        print(f"{'other data' if arguments.other_data else split:<12}" + "  ".join(numbers))
    if line := describe_evaluation(metrics["test"], experiment.recipe):
        print(line)


def scalars(values: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    """The plain numbers among a split's metrics."""
    return [(key, value) for key, value in values.items() if isinstance(value, int | float)]


if __name__ == "__main__":
    run_cli(main)
