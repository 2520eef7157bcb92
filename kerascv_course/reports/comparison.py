"""Compare finished runs: the settings in which their recipes differ, and their metrics; runs that differ in the seed are one group."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from kerascv_course.core.errors import InputError
from kerascv_course.core.tables import markdown_table
from kerascv_course.training.run_dir import Run

__all__ = ["RunGroup", "compare_runs", "differences", "format_differences", "format_groups", "group_runs", "read_history"]

#: Fields of a recipe that describe it, and the one that runs of a group may differ in.
NAMES, SEED = ("description", "expect"), "seed"


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in the seed only.

    Attributes:
        settings: that distinguish the group from others: field of the recipe to value.
        runs: the folders.
        seeds: of the runs.
        metrics: name to the value of each run: best epoch, validation metrics of the best and the last epoch, test metrics, number
            of parameters, and training seconds.
    """

    settings: dict[str, Any]
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, tuple[float, ...]]


def compare_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Group runs by the settings in which they differ.

    Args:
        runs: finished runs, in the order of the table.

    Raises:
        InputError: no runs, an unfinished one, runs on different data, or with different metrics.
    """
    if not runs:
        raise InputError("compare needs one run or more: give their folders")
    flat = [_flatten(dataclasses.asdict(run.recipe())) for run in runs]
    metrics = _comparable(runs)
    keys = [key for key in dict.fromkeys(key for recipe in flat for key in recipe) if key not in (*NAMES, SEED)]
    varying = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat}) > 1] or ["name"]
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(flat):
        groups.setdefault(repr([recipe.get(key) for key in varying]), []).append(number)
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
    metrics = iter(_comparable([run for runs in groups.values() for run in runs]))
    return {name: _group({label: name}, runs, [next(metrics) for _ in runs]) for name, runs in groups.items()}


def differences(group: RunGroup, base: RunGroup, metric: str) -> tuple[float, ...]:
    """Difference of a metric from the base's, seed by seed, for the seeds of both."""
    ours, theirs = (dict(zip(one.seeds, one.metrics[metric], strict=True)) for one in (group, base))
    return tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs)


def format_groups(groups: Sequence[RunGroup], metrics: Sequence[str] = ()) -> str:
    """A Markdown table with a row per group: settings, seeds, and each metric as mean ± standard deviation (n − 1).

    Args:
        groups: from `compare_runs`.
        metrics: names; none: all.

    Raises:
        InputError: a metric that the runs do not have.
    """
    known = list(groups[0].metrics)
    for name in metrics:
        if name not in known:
            raise InputError(f"the runs have no metric {name!r}; they have {', '.join(known)}")
    shown = list(metrics or known)
    rows = [
        [
            *(value if isinstance(value, str) else json.dumps(value) for value in group.settings.values()),
            _seeds(group),
            *(_spread(group.metrics[name]) for name in shown),
        ]
        for group in groups
    ]
    return markdown_table([*groups[0].settings, "seeds", *shown], rows)


def format_differences(groups: Mapping[str, RunGroup], base: str, accuracies: Sequence[str], notes: Mapping[str, str]) -> str:
    """A Markdown table of an ablation's switches.

    Metrics are mean ± standard deviation (n − 1) over the seeds; differences of accuracies from the base, in percentage points, are
    taken seed by seed.

    Args:
        groups: from `group_runs`, including the base.
        base: its name.
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
            row += [_spread(group.metrics[metric]), f"{100 * mean(found):+.2f}{spread}" if found else "–"]
        row.append(f"{mean(group.metrics['best_epoch']):.3g}")
        rows.append([*row, *(_spread(group.metrics[key]) for key in ("parameters", "seconds"))])
    return markdown_table([*head, "best epoch", "parameters", "seconds"], rows)


def read_history(run: Run) -> list[dict[str, float]]:
    """Rows of a run's history.csv, one per validation.

    Raises:
        InputError: the run has none.
    """
    path = run / "history.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing: the run has no validation yet")
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _comparable(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """metrics.json of runs on the same data with the same metrics."""
    metrics = [run.read_json("metrics.json") for run in runs]
    for run, found in zip(runs, metrics, strict=True):
        if found["data"]["fingerprint"] != metrics[0]["data"]["fingerprint"]:
            raise InputError(f"compared runs need the same data; {run.path} was evaluated on other data than {runs[0].path}")
        if set(found["test"]) != set(metrics[0]["test"]):
            raise InputError(f"compared runs need the same task; {run.path} has other metrics than {runs[0].path}")
    return metrics


def _group(settings: dict[str, Any], runs: Sequence[Run], metrics: Sequence[dict[str, Any]]) -> RunGroup:
    flat = [_flat_metrics(one) for one in metrics]
    values = {key: tuple(each[key] for each in flat) for key in flat[0]}
    return RunGroup(settings, tuple(runs), tuple(run.recipe().seed for run in runs), values)


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: item for name, part in value.items() for key, item in _flatten(part, f"{path}.{name}" if path else name).items()
    }


def _flat_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    best, last = metrics.get("best", {}), metrics.get("last", {})
    return {
        "best_epoch": metrics["best_epoch"],
        **{f"best_{key}": best[key] for key in best if key.startswith("val_")},
        **{f"last_{key}": last[key] for key in last if key.startswith("val_")},
        **{f"test_{key}": value for key, value in metrics["test"].items() if isinstance(value, int | float)},
        "parameters": metrics["trainable_parameters"],
        "seconds": metrics["training_seconds"],
    }


def _seeds(group: RunGroup) -> str:
    return " ".join(map(str, group.seeds))


def _spread(values: Sequence[float]) -> str:
    if len(set(values)) == 1 and values[0] == int(values[0]):
        return f"{int(values[0]):,}"
    digits = 0 if max(values) >= 100 else (1 if max(values) >= 20 else 4)
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle
