"""The tables of docs/results.md: ``python scripts/results.py RUN …``. Runs of one command but for the seed share a line."""

from __future__ import annotations

import shlex
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import tyro

from kerascv_course.training.run_dir import Run

#: Options of the command that say where files stand, and so belong to a machine.
PLACES = ("--run-dir", "--data-dir")


def main(runs: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Print a Markdown table.

    Args:
        runs: finished run folders.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in map(Run.open, runs):
        facts = {
            "recipe": run.recipe(),
            "metrics": run.read_json("metrics.json"),
            "environment": run.read_json("environment.json"),
        }
        groups.setdefault((facts["recipe"].name, command(facts["environment"]["command"])), []).append(facts)
    print(
        "| command | seeds | train | validation | test | epochs, best / run | training, s | command to these figures, s | commit |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for (_, words), group in groups.items():
        metrics = [facts["metrics"] for facts in group]
        accuracies = [spread([one[split]["accuracy"] for one in metrics], 4) for split in ("train", "validation", "test")]
        epochs = ", ".join(f"{one['best_epoch']:g} / {one['epochs']:g}" for one in metrics)
        cells = [
            f"`{words}`",
            ", ".join(str(facts["recipe"].seed) for facts in group),
            *accuracies,
            epochs,
            spread([one["training_seconds"] for one in metrics], 0),
            spread([one["seconds_since_start"] for one in metrics], 0),
            ", ".join(dict.fromkeys(str(facts["environment"]["commit"]) for facts in group)),
        ]
        print(f"| {' | '.join(cells)} |")


def command(text: str) -> str:
    """A run's command without what belongs to one machine or one seed: ``kerascv_course.train RECIPE …``."""
    words = iter(shlex.split(text)[2:])
    kept = []
    for word in words:
        if word in (*PLACES, "--seed"):
            next(words, None)
        elif word == "--weights":
            kept += [word, "/".join(Path(next(words, "")).parts[-2:])]
        elif not word.startswith(tuple(f"{place}=" for place in PLACES)):
            kept.append(word)
    return " ".join(kept[1:])


def spread(values: list[float], digits: int) -> str:
    """The mean, with the sample's standard deviation where there are several."""
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle


if __name__ == "__main__":
    tyro.cli(main, prog="python scripts/results.py")
