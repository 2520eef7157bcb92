"""Scene recipes with varied settings or on random splits: tables of accuracies."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from kerascv_course import plots
from kerascv_course.core.environment import describe_environment
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.io import atomic_write, write_text
from kerascv_course.core.progress import track
from kerascv_course.core.tables import csv_table, markdown_table
from kerascv_course.data import Dataset, Split
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes
from kerascv_course.tasks.scenes.task import SceneTask

__all__ = ["SweepRow", "format_rows", "repeat", "summarize", "sweep", "variants", "write_table"]

#: Default values of a setting; for k, step and norms those of report 002.
PRESETS: dict[str, tuple[Any, ...]] = {
    "k": tuple(range(1, 11)),
    "step": (1, 3, 5),
    "words": (50, 100, 200, 400, 800),
    "levels": (1, 2, 3),
    "distance": ("euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection"),
    "norm": ("l1", "l2", "hellinger"),
    "tiny_norm": ("l1", "l2", "none"),
    "vote": ("mode", "nearest", "distance"),
    "center": (True, False),
    "power": (0.5, 1.0, 2.0, 3.0),
    "kernel": ("linear", "intersection", "chi2"),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRow:
    """Result of one variant.

    Attributes:
        settings: name to value of the settings that distinguish it.
        validation: validation accuracy of the classifier fitted to the training split.
        test: test accuracy of the final classifier; None if not requested.
        seconds: duration, shorter with a warm cache.
    """

    settings: dict[str, Any]
    validation: float
    test: float | None
    seconds: float


def variants(recipe: SceneRecipe, over: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], SceneRecipe]]:
    """All combinations of settings, without incompatible ones.

    Args:
        recipe: the recipe whose settings are changed.
        over: field of `Scenes` to values; empty: `PRESETS`.

    Raises:
        UnknownNameError: no such field.
        InputError: no values.
    """
    fields = {field.name for field in dataclasses.fields(Scenes)}
    choices = {}
    for name, values in over.items():
        if name not in fields:
            raise UnknownNameError("setting of scenes", name, sorted(fields))
        choices[name] = list(values) or list(PRESETS.get(name, ()))
        if not choices[name]:
            raise InputError(f"{name} has no default values to sweep over: give --values")
    made = []
    for combination in itertools.product(*choices.values()):
        settings = dict(zip(choices, combination, strict=True))
        try:
            made.append((settings, dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, **settings))))
        except InputError as error:
            log.info("skipped: %s", error)
    return made


def sweep(recipes: Sequence[tuple[dict[str, Any], SceneRecipe]], data: Dataset, *, test: bool) -> list[SweepRow]:
    """Fit and evaluate every variant.

    Args:
        recipes: settings and recipe of each variant, as `variants` returns them.
        data: the dataset that all variants share.
        test: also evaluate on the test split, for comparison with a report; settings are chosen on validation.
    """
    tried = track(recipes, "trying settings", "settings")
    return [_fit_row(settings, recipe, data, test=test) for settings, recipe in tried]


def _fit_row(settings: dict[str, Any], recipe: SceneRecipe, data: Dataset, *, test: bool) -> SweepRow:
    started = time.perf_counter()
    task = SceneTask(recipe)
    model, history, best = task.fit(data)
    accuracy = float((task.predict(model, data.test) == data.test.targets).mean()) if test else None
    row = SweepRow(settings, history[best]["val_accuracy"], accuracy, round(time.perf_counter() - started, 1))
    log.info("%s", format_rows([row]).splitlines()[-1])
    return row


def repeat(recipe: SceneRecipe, data: Dataset, seeds: Sequence[int]) -> list[SweepRow]:
    """Fit and evaluate on random splits of the given sizes; everything, words included, is learned anew for each.

    Args:
        recipe: the recipe that is fitted again and again.
        data: whose images are split again.
        seeds: seed of the split of each repeat.
    """
    repeated = track(seeds, "repeating", "splits")
    return [_fit_row({"split": seed}, recipe, random_splits(data, seed), test=True) for seed in repeated]


def random_splits(data: Dataset, seed: int) -> Dataset:
    """Split all images again at random; every split keeps its number of images in every class."""
    images = np.concatenate([split.images for _, split in data.items()])
    targets = np.concatenate([split.targets for _, split in data.items()])
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name, _ in data.items()}
    for target in np.unique(targets):
        order = rng.permutation(np.flatnonzero(targets == target))
        start = 0
        for name, split in data.items():
            count = int((split.targets == target).sum())
            parts[name].append(order[start : start + count])
            start += count
    chosen = [np.sort(np.concatenate(part)) for part in parts.values()]
    train, validation, test = (Split(images[index], targets[index]) for index in chosen)
    return Dataset(train, validation, test, data.info)


def summarize(rows: Sequence[SweepRow]) -> tuple[float, float]:
    """Mean and sample standard deviation of the test accuracies of `repeat`."""
    values = [row.test for row in rows if row.test is not None]
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def format_rows(rows: Sequence[SweepRow]) -> str:
    """Format rows as a Markdown table; the column test is left out if no row has it."""
    test = any(row.test is not None for row in rows)
    cells = []
    for row in rows:
        accuracies = (row.validation, row.test) if test else (row.validation,)
        texts = ["" if value is None else f"{value:.4f}" for value in accuracies]
        cells.append([*map(str, row.settings.values()), *texts, f"{row.seconds:g}"])
    return markdown_table([*rows[0].settings, "validation", *(["test"] if test else []), "seconds"], cells)


def write_table(output: Path, recipe: SceneRecipe, rows: Sequence[SweepRow], table: str, title: str | None) -> None:
    """Write table.md, table.csv, sweep.json (rows, recipe and environment) and optionally plot.png.

    Args:
        output: folder; created if missing.
        recipe: the recipe whose settings were changed.
        rows: settings and results of each variant.
        table: the rows as Markdown.
        title: of the plot; None: no plot.
    """
    names = list(rows[0].settings)
    values = [[*row.settings.values(), row.validation, row.test, row.seconds] for row in rows]
    record = {
        "recipe": dataclasses.asdict(recipe),
        "over": names,
        "rows": list(map(dataclasses.asdict, rows)),
        "environment": describe_environment(),
    }
    write_text(output / "table.md", table + "\n")
    write_text(output / "table.csv", csv_table([*names, "validation", "test", "seconds"], values))
    write_text(output / "sweep.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if title is not None:
        places = [", ".join(map(str, row.settings.values())) for row in rows]
        lines = {"validation": [row.validation for row in rows]}
        if all(row.test is not None for row in rows):
            lines["test"] = [row.test or 0.0 for row in rows]
        figure = plots.accuracy_lines(places, lines, ", ".join(names), title)
        with atomic_write(output / "plot.png") as path:
            figure.savefig(path, dpi=110)
