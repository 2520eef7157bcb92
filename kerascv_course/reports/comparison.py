"""Finished runs side by side: what differs between their recipes, and what came of it; seeds are taken together."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from kerascv_course.core.errors import InputError
from kerascv_course.training.run_dir import Run

__all__ = ["Row", "compare_runs", "differences", "format_differences", "format_table", "join_runs", "read_history"]

#: Fields of a recipe that name it, and the one that runs of one row may differ in.
NAMES, SEED = ("description", "expect"), "seed"


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seeds alone.

    Attributes:
        settings: what distinguishes them from the other rows: field of the recipe to value.
        runs: the folders.
        seeds: likewise.
        figures: name to the value of each run: the best epoch, figures of the last and of the best validation, all plain
            numbers of the test split, parameters and seconds.
    """

    settings: dict[str, Any]
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    figures: dict[str, tuple[float, ...]]


def compare_runs(runs: Sequence[Run]) -> list[Row]:
    """Group runs by their recipes.

    Args:
        runs: finished runs, in the order of the table.

    Raises:
        InputError: no runs, one that is not finished, runs measured on other data, or with other figures.
    """
    if not runs:
        raise InputError("a comparison takes one run or more: give their folders")
    flat = [_flatten(dataclasses.asdict(run.recipe())) for run in runs]
    metrics = _comparable(runs)
    keys = [key for key in dict.fromkeys(key for recipe in flat for key in recipe) if key not in (*NAMES, SEED)]
    varying = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat}) > 1] or ["name"]
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(flat):
        groups.setdefault(repr([recipe.get(key) for key in varying]), []).append(number)
    return [
        Row(
            settings={key: flat[members[0]].get(key) for key in varying},
            runs=tuple(runs[i] for i in members),
            seeds=tuple(flat[i][SEED] for i in members),
            figures=_join([_figures(metrics[i]) for i in members]),
        )
        for members in groups.values()
    ]


def join_runs(groups: Mapping[str, Sequence[Run]], label: str) -> dict[str, Row]:
    """Runs that are grouped by name already: a row each, whose one setting is its name.

    Args:
        groups: name to finished runs, one or more, that differ in their seeds alone.
        label: what the name is called.

    Raises:
        InputError: see `compare_runs`.
    """
    _comparable([run for runs in groups.values() for run in runs])
    return {
        name: Row(
            settings={label: name},
            runs=tuple(runs),
            seeds=tuple(run.recipe().seed for run in runs),
            figures=_join([_figures(run.read_json("metrics.json")) for run in runs]),
        )
        for name, runs in groups.items()
    }


def differences(row: Row, base: Row, figure: str) -> tuple[float, ...]:
    """How much a figure differs from the base's, seed by seed, for the seeds that both have."""
    ours, theirs = (dict(zip(one.seeds, one.figures[figure], strict=True)) for one in (row, base))
    return tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs)


def format_differences(rows: Mapping[str, Row], base: str, accuracies: Sequence[str], notes: Mapping[str, str]) -> str:
    """A Markdown table of switches against a base: mean ± standard deviation (n − 1) of each figure, and for the accuracies the mean ±
    standard deviation of the differences from the base's run of the same seed, in points (percent).

    Args:
        rows: from `join_runs`, the base among them.
        base: its name.
        accuracies: figures of 0–1 that are compared, such as ``("best_val_accuracy", "test_accuracy")``.
        notes: what each switch changes.
    """
    lines = [["switch", "changes", "seeds"]]
    for name in accuracies:
        lines[0] += [name.replace("best_val_", "validation_").replace("_", " "), "difference, points"]
    lines[0] += ["best epoch", "parameters", "seconds"]
    for name, row in rows.items():
        cells = [name, notes.get(name, ""), " ".join(map(str, row.seeds))]
        for figure in accuracies:
            found = [] if name == base else differences(row, rows[base], figure)
            spread = f" ± {100 * stdev(found):.2f}" if len(found) > 1 else ""
            cells += [_spread(row.figures[figure]), f"{100 * mean(found):+.2f}{spread}" if found else "–"]
        cells += [f"{mean(row.figures['best_epoch']):.3g}", *(_spread(row.figures[key]) for key in ("parameters", "seconds"))]
        lines.append(cells)
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])


def _comparable(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The metrics of runs, if they were measured on the same data with the same figures."""
    metrics = [run.read_json("metrics.json") for run in runs]
    for run, found in zip(runs, metrics, strict=True):
        if found["data"]["fingerprint"] != metrics[0]["data"]["fingerprint"]:
            raise InputError(f"runs are compared on one data set; {run.path} was measured on other data than {runs[0].path}")
        if set(found["test"]) != set(metrics[0]["test"]):
            raise InputError(f"runs of one task are compared; {run.path} has other figures than {runs[0].path}")
    return metrics


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: item for name, part in value.items() for key, item in _flatten(part, f"{path}.{name}" if path else name).items()
    }


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    best, last = metrics.get("best", {}), metrics.get("last", {})
    return {
        "best_epoch": metrics["best_epoch"],
        **{f"best_{key}": best[key] for key in best if key.startswith("val_")},
        **{f"last_{key}": last[key] for key in last if key.startswith("val_")},
        **{f"test_{key}": value for key, value in metrics["test"].items() if isinstance(value, int | float)},
        "parameters": metrics["trainable_parameters"],
        "seconds": metrics["training_seconds"],
    }


def _join(figures: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    return {key: tuple(each[key] for each in figures) for key in figures[0]}


def read_history(run: Run) -> list[dict[str, float]]:
    """A run's history.csv: a mapping a validation.

    Raises:
        InputError: the run has none.
    """
    path = run / "history.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing: the run has not come so far")
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def format_table(rows: Sequence[Row], figures: Sequence[str] = ()) -> str:
    """A Markdown table, one line a row: settings, seeds, and each figure as its mean, with ± its standard deviation (n − 1).

    Args:
        rows: from `compare_runs`.
        figures: which, by name; none: all.

    Raises:
        InputError: a figure that the runs do not have.
    """
    known = list(rows[0].figures)
    for name in figures:
        if name not in known:
            raise InputError(f"the runs have no figure {name!r}; there are {', '.join(known)}")
    shown = list(figures or known)
    lines = [[*rows[0].settings, "seeds", *shown]]
    for row in rows:
        settings = [_text(value) for value in row.settings.values()]
        lines.append([*settings, " ".join(map(str, row.seeds)), *(_spread(row.figures[name]) for name in shown)])
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _spread(values: Sequence[float]) -> str:
    if len(set(values)) == 1 and values[0] == int(values[0]):
        return f"{int(values[0]):,}"
    digits = 0 if max(values) >= 100 else (1 if max(values) >= 20 else 4)
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle
