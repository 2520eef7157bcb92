"""Measure a run again: ``python -m kerascv_course.evaluate RUN``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascv_course.core.errors import run_cli
from kerascv_course.training.run_dir import Run


def evaluate(run: Annotated[Path, tyro.conf.Positional], data_dir: Path | None = None) -> None:
    """Load a run's best weights and measure them over the whole train, validation and test splits. Nothing is written.

    Args:
        run: run folder.
        data_dir: where the data stands, if it has moved since the training.
    """
    from kerascv_course.core.environment import start_tensorflow

    Run.open(run)
    start_tensorflow()
    from kerascv_course.experiment import Experiment

    metrics = Experiment.open(run, data_dir).evaluate()
    for split, figures in metrics.items():
        numbers = (f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value:,}" for key, value in scalars(figures))
        print(f"{split:<12}" + "  ".join(numbers))
    if "accuracy" in metrics["test"]:
        print(f"Accuracy = {metrics['test']['accuracy']:.4f}")


def scalars(figures: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    """The plain numbers among a split's figures."""
    return [(key, value) for key, value in figures.items() if isinstance(value, int | float)]


def main() -> None:
    """Parse and run."""
    tyro.cli(evaluate, prog="python -m kerascv_course.evaluate")


if __name__ == "__main__":
    run_cli(main)
