"""Compare runs: the settings in which their recipes differ, and their metrics; runs that differ in the seed are one group.

A run that has not been evaluated (``--train-only``, or interrupted) has its validation metrics only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kerascv_course.config import TrainedRecipe
from kerascv_course.core.errors import InputError, shell_word
from kerascv_course.core.tables import markdown_table
from kerascv_course.training.run_dir import Run

__all__ = [
    "RunGroup",
    "compare_runs",
    "differences",
    "format_differences",
    "format_groups",
    "format_unevaluated",
    "group_runs",
    "read_history",
]

#: Fields of a recipe that describe it, and the one that runs of a group may differ in.
NAMES, SEED = ("description", "expect"), "seed"


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in the seed only, all evaluated or none.

    Attributes:
        settings: that distinguish the group from others: field of the recipe to value.
        runs: the run folders.
        seeds: the seed of each run.
        metrics: name to the value of each run: best epoch, validation metrics of the best and the last epoch, test metrics, number
            of parameters, and seconds of training (``training_s``); without test metrics and parameters if not evaluated.
        evaluated: whether the runs have a metrics.json.
    """

    settings: dict[str, Any]
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, tuple[float, ...]]
    evaluated: bool = True


def compare_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Group runs by the settings in which they differ.

    Args:
        runs: runs with one validation or more, in the order of the table.

    Raises:
        InputError: no runs, one given twice or without a validation, runs on different data, or with different metrics.
    """
    if not runs:
        raise InputError("compare needs one run or more: give their folders")
    flat = [_flatten(dataclasses.asdict(run.recipe())) for run in runs]
    evaluated = [(run / "metrics.json").is_file() for run in runs]
    _check_comparable(runs)
    metrics = [_metrics(run) if done else _validation(run) for run, done in zip(runs, evaluated, strict=True)]
    keys = [key for key in dict.fromkeys(key for recipe in flat for key in recipe) if key not in (*NAMES, SEED)]
    varying = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat}) > 1] or ["name"]
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(flat):
        groups.setdefault(repr([evaluated[number], *(recipe.get(key) for key in varying)]), []).append(number)
    return [
        _group({key: flat[members[0]].get(key) for key in varying}, [runs[i] for i in members], [metrics[i] for i in members])
        for members in groups.values()
    ]


def group_runs(groups: Mapping[str, Sequence[Run]], label: str) -> dict[str, RunGroup]:
    """Groups of runs by name, whose only setting is the name.

    Args:
        groups: name to finished runs, one or more, that differ in the seed only.
        label: what the name stands for.

    Raises:
        InputError: see `compare_runs`.
    """
    _check_comparable([run for runs in groups.values() for run in runs])
    metrics = {name: [_metrics(run) for run in runs] for name, runs in groups.items()}
    return {name: _group({label: name}, runs, metrics[name]) for name, runs in groups.items()}


def differences(group: RunGroup, base: RunGroup, metric: str) -> tuple[float, ...]:
    """Difference of a metric from the base's, seed by seed, for the seeds of both."""
    ours, theirs = (dict(zip(one.seeds, one.metrics[metric], strict=True)) for one in (group, base))
    return tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs)


def format_groups(groups: Sequence[RunGroup], metrics: Sequence[str] = ()) -> str:
    """A Markdown table with a row per group: settings, run folders, seeds, and each metric as mean ± standard deviation (n − 1).

    Args:
        groups: the groups that `compare_runs` returns.
        metrics: names of the metrics to show; none: all.

    Raises:
        InputError: a metric that the runs do not have.
    """
    # an evaluated group first, whose metrics are all, in their order
    known = list(
        dict.fromkeys(name for group in sorted(groups, key=lambda group: not group.evaluated) for name in group.metrics)
    )
    for name in metrics:
        if name not in known:
            raise InputError(f"the runs have no metric {name!r}; they have {', '.join(known)}")
    shown = list(metrics or known)
    rows = [
        [
            *(value if isinstance(value, str) else json.dumps(value) for value in group.settings.values()),
            ", ".join(str(run.path) for run in group.runs),
            _seeds(group),
            *(_spread(group, name) if name in group.metrics else "—" for name in shown),
        ]
        for group in groups
    ]
    return markdown_table([*groups[0].settings, "runs", "seeds", *shown], rows)


def format_unevaluated(groups: Sequence[RunGroup]) -> str:
    """A line for each run that has not been evaluated: how far it is, and the command that continues it; empty if there is none."""
    return "\n".join(
        f"{run.path} is not evaluated: validation metrics after epoch {read_history(run)[-1]['epoch']:g}"
        + (f" of {recipe.epochs}" if isinstance(recipe := run.recipe(), TrainedRecipe) else "")
        + f"; continue with python -m kerascv_course.train --resume {shell_word(run.path)}"
        for group in groups
        if not group.evaluated
        for run in group.runs
    )


def format_differences(groups: Mapping[str, RunGroup], base: str, accuracies: Sequence[str], notes: Mapping[str, str]) -> str:
    """A Markdown table of an ablation's switches.

    Metrics are mean ± standard deviation (n − 1) over the seeds; differences of accuracies from the base, in percentage points, are
    taken seed by seed.

    Args:
        groups: the groups that `group_runs` returns, including the base.
        base: name of the base.
        accuracies: metrics in 0–1 that are compared, such as ``("best_val_accuracy", "test_accuracy")``.
        notes: what each switch changes.
    """
    head = ["switch", "changes", "seeds"]
    for name in accuracies:
        head += [name.replace("best_val_", "validation_").replace("_", " "), "difference, points"]
    rows = []
    for name, group in groups.items():
        row = [name, notes.get(name, ""), _seeds(group)]
        for metric in accuracies:
            found = [] if name == base else differences(group, groups[base], metric)
            spread = f" ± {100 * stdev(found):.2f}" if len(found) > 1 else ""
            row += [_spread(group, metric), f"{100 * mean(found):+.2f}{spread}" if found else "–"]
        row.append(f"{mean(group.metrics['best_epoch']):.3g}")
        rows.append([*row, *(_spread(group, key) for key in ("parameters", "training_s"))])
    return markdown_table([*head, "best epoch", "parameters", "training, s"], rows)


def read_history(run: Run) -> list[dict[str, float]]:
    """Rows of a run's history.csv, one per validation.

    Raises:
        InputError: the run has none.
    """
    path = run / "history.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing: the run has no validation yet")
    rows = run.history()
    if not rows:
        raise InputError(f"{path} is empty: the run has no validation yet")
    return rows


def _check_comparable(runs: Sequence[Run]) -> None:
    """Check that the runs are different ones, on the same data with the same metrics.

    Raises:
        InputError: they are not.
    """
    seen: dict[Path, Run] = {}
    for run in runs:
        if (before := seen.setdefault(run.path.resolve(), run)) is not run:
            twice = f"{run.path} twice" if run.path == before.path else f"{before.path} and {run.path}, the same folder"
            raise InputError(f"compared runs must be different ones; received {twice}: leave one out")
    finished = [(run, run.read_json("metrics.json")) for run in runs if (run / "metrics.json").is_file()]
    for run, found in finished:
        first, expected = finished[0]
        if found["data"]["fingerprint"] != expected["data"]["fingerprint"]:
            raise InputError(f"compared runs need the same data; {run.path} was evaluated on other data than {first.path}")
        if set(found["test"]) != set(expected["test"]):
            raise InputError(f"compared runs need the same task; {run.path} has other metrics than {first.path}")
    recipes = [run.recipe() for run in runs]
    for run, recipe in zip(runs, recipes, strict=True):
        if recipe.data.source != recipes[0].data.source:
            raise InputError(f"compared runs need the same data; {run.path} was trained on other data than {runs[0].path}")
        if recipe.task != recipes[0].task:
            raise InputError(f"compared runs need the same task; {run.path} has another one than {runs[0].path}")


def _group(settings: dict[str, Any], runs: Sequence[Run], metrics: Sequence[dict[str, float]]) -> RunGroup:
    values = {key: tuple(each[key] for each in metrics) for key in metrics[0]}
    seeds = tuple(run.recipe().seed for run in runs)
    return RunGroup(settings, tuple(runs), seeds, values, (runs[0] / "metrics.json").is_file())


def _validation(run: Run) -> dict[str, float]:
    """Metrics of a run without metrics.json, from its history: the best validation is chosen as in training."""
    if not (run / "history.csv").is_file():
        run.read_json("metrics.json")  # says that the run is unfinished
    history, recipe = read_history(run), run.recipe()
    monitor = recipe.monitor if isinstance(recipe, TrainedRecipe) else "val_accuracy"
    sign = 1 if monitor == "val_loss" else -1
    best = history[-1] if monitor == "last" else min(history, key=lambda row: sign * row[monitor])
    return {
        "best_epoch": best["epoch"],
        **_validation_metrics(best, history[-1]),
        "training_s": round(sum(row["seconds"] for row in history), 1),
    }


def _validation_metrics(best: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    rows = {"best": best, "last": last}
    return {f"{name}_{key}": row[key] for name, row in rows.items() for key in row if key.startswith("val_")}


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: item for name, part in value.items() for key, item in _flatten(part, f"{path}.{name}" if path else name).items()
    }


def _metrics(run: Run) -> dict[str, float]:
    """Metrics of an evaluated run."""
    metrics = run.read_json("metrics.json")
    return {
        "best_epoch": metrics["best_epoch"],
        **_validation_metrics(metrics.get("best", {}), metrics.get("last", {})),
        **{f"test_{key}": value for key, value in metrics["test"].items() if isinstance(value, int | float)},
        "parameters": metrics["trainable_parameters"],
        "training_s": metrics["training_seconds"],
    }


def _seeds(group: RunGroup) -> str:
    """Number of seeds, and which."""
    return f"{len(group.seeds)} ({' '.join(map(str, group.seeds))})"


def _spread(group: RunGroup, name: str) -> str:
    """Mean and standard deviation of a metric, seconds to a tenth, others to four digits unless they are large."""
    values = group.metrics[name]
    if len(set(values)) == 1 and values[0] == int(values[0]):
        return f"{int(values[0]):,}"
    digits = 0 if max(values) >= 100 else 1 if max(values) >= 20 or name == "training_s" else 4
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle
