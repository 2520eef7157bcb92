"""One recipe with other settings, or on other random splits: tables of accuracies."""

from __future__ import annotations

import csv
import dataclasses
import io
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
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.data import Dataset, Split
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes
from kerascv_course.tasks.scenes.pipeline import scores
from kerascv_course.tasks.scenes.task import SceneTask

__all__ = ["PRESETS", "Row", "Summary", "format_rows", "repeat", "summarize_repeats", "sweep", "variants", "write_table"]

#: What is tried of a setting where nothing else is said; for k, step and norms what report 002 tries.
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
class Row:
    """One variant.

    Attributes:
        settings: name to value of what distinguishes it.
        validation: accuracy on validation, of the classifier fitted to train.
        test: accuracy on test, of the final classifier; None where it was not asked for.
        seconds: what it took, with what the cache had.
    """

    settings: dict[str, Any]
    validation: float
    test: float | None
    seconds: float


def variants(recipe: SceneRecipe, over: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], SceneRecipe]]:
    """Every combination of settings, those that do not go together left out.

    Args:
        recipe: of the task scenes.
        over: field of `kerascv_course.tasks.scenes.config.Scenes` to values; without values: those of `PRESETS`.

    Raises:
        InputError: no such field, or no values.
    """
    fields = {field.name for field in dataclasses.fields(Scenes)}
    choices = {}
    for name, values in over.items():
        if name not in fields:
            raise InputError(f"a sweep goes over settings of scenes; {name!r} is none of {', '.join(sorted(fields))}")
        choices[name] = list(values) or list(PRESETS.get(name, ()))
        if not choices[name]:
            raise InputError(f"give the values of {name} that are to be tried: --values …")
    made = []
    for combination in itertools.product(*choices.values()):
        settings = dict(zip(choices, combination, strict=True))
        try:
            made.append((settings, dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, **settings))))
        except InputError as error:
            log.info("left out: %s", error)
    return made


def sweep(recipes: Sequence[tuple[dict[str, Any], SceneRecipe]], data: Dataset, *, test: bool) -> list[Row]:
    """Fit and measure every variant.

    Args:
        recipes: from `variants`.
        data: the dataset.
        test: measure on the test split as well. For tables that are printed beside a report's; what is best is chosen on
            validation.
    """
    return [_row(settings, recipe, data, test=test) for settings, recipe in recipes]


def _row(settings: dict[str, Any], recipe: SceneRecipe, data: Dataset, *, test: bool) -> Row:
    started = time.perf_counter()
    model, history, best = SceneTask(recipe).fit(data)
    accuracy = None
    if test:
        accuracy = float((scores(model, data.test.images).argmax(axis=1) == data.test.targets).mean())
    row = Row(settings, history[best]["val_accuracy"], accuracy, round(time.perf_counter() - started, 1))
    log.info("%s", format_rows([row]).splitlines()[-1])
    return row


def repeat(recipe: SceneRecipe, data: Dataset, seeds: Sequence[int]) -> list[Row]:
    """Fit and measure on random splits: as many images of each class for training as in the given ones (100 of the fifteen scenes).

    Everything is learnt anew from each split's training images, words included.

    Args:
        recipe: what is done.
        data: whose images are divided anew.
        seeds: one for each repeat.
    """
    rows = []
    for seed in seeds:
        rows.append(_row({"split": seed}, recipe, random_splits(data, seed), test=True))
    return rows


def random_splits(data: Dataset, seed: int) -> Dataset:
    """Divide all images anew, at random within each class, every split keeping its size in every class."""
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
    chosen = {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
    return dataclasses.replace(data, **{name: Split(images[index], targets[index]) for name, index in chosen.items()})


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (of a sample) of test accuracies."""

    mean: float
    deviation: float
    count: int


def summarize_repeats(rows: Sequence[Row]) -> Summary:
    """Of the test accuracies of `repeat`."""
    values = [row.test for row in rows if row.test is not None]
    return Summary(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def format_rows(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    names = list(rows[0].settings)
    test = any(row.test is not None for row in rows)
    head = [*names, "validation", *(["test"] if test else []), "seconds"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for row in rows:
        cells = [*map(str, row.settings.values()), f"{row.validation:.4f}"]
        cells += [f"{row.test:.4f}" if row.test is not None else ""] if test else []
        lines.append(f"| {' | '.join([*cells, f'{row.seconds:g}'])} |")
    return "\n".join(lines)


def write_table(output: Path, recipe: SceneRecipe, rows: Sequence[Row], table: str, title: str | None) -> None:
    """Write a sweep's or a repeat's rows: as Markdown, as CSV and, with the recipe, the command and the machine, as JSON.

    Args:
        output: folder; it is made.
        recipe: what was varied.
        rows: the variants.
        table: the rows as Markdown.
        title: of plot.png; None: no plot.
    """
    text = io.StringIO()
    names = list(rows[0].settings)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "validation", "test", "seconds"])
    for row in rows:
        writer.writerow([*row.settings.values(), row.validation, "" if row.test is None else row.test, row.seconds])
    facts = {
        "recipe": dataclasses.asdict(recipe),
        "over": names,
        "rows": list(map(dataclasses.asdict, rows)),
        "environment": describe_environment(),
    }
    record = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for file, content in (("table.md", table + "\n"), ("table.csv", text.getvalue()), ("sweep.json", record)):
        with atomic_write(output / file) as path:
            path.write_text(content, encoding="utf-8")
    if title is not None:
        places = [", ".join(map(str, row.settings.values())) for row in rows]
        lines = {"validation": [row.validation for row in rows]}
        if all(row.test is not None for row in rows):
            lines["test"] = [row.test or 0.0 for row in rows]
        figure = plots.accuracy_lines(places, lines, ", ".join(names), title)
        with atomic_write(output / "plot.png") as path:
            figure.savefig(path, dpi=110)
