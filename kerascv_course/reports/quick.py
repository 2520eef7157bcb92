"""Small runs on embedded data, so that every page is to be seen in minutes and without a data set."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from kerascv_course.config import Recipe
from kerascv_course.core.io import atomic_write
from kerascv_course.experiment import Experiment, Options
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import get_ablation, with_changes

__all__ = ["small_runs"]

log = logging.getLogger("kerascv_course")

#: Side of the pictures that are cut and enlarged, pixels; and how many of a class there are for training and test.
SIDE, TRAIN, TEST = 32, 60, 30

#: Of the digits that stand for identities: how many are learnt, and pictures of each.
LEARNT, IMAGES = 8, 20


def small_runs(module: ModuleType, folder: Path) -> None:
    """Make a report's small runs; those that are finished are kept.

    Args:
        module: of the report: ``QUICK``, and where it has such ``QUICK_SWITCHES`` and ``QUICK_SWEEPS``.
        folder: for runs and pictures.
    """
    quick: Mapping[str, Mapping[str, Any]] = module.QUICK
    for name, changes in quick.items():
        recipe = with_changes(get_recipe(name), changes)
        _run(recipe, folder / name, folder)
    for name, switches in getattr(module, "QUICK_SWITCHES", {}).items():
        for switch in switches:
            changed = with_changes(with_changes(get_recipe(name), quick[name]), get_ablation(name).switches[switch])
            _run(changed, folder / f"{name}-{switch}", folder)
    for name, settings in getattr(module, "QUICK_SWEEPS", {}).items():
        for setting, values in settings.items():
            _sweep(with_changes(get_recipe(name), quick[name]), setting, values, folder / f"{name}-{setting}", folder)


def _run(recipe: Recipe, path: Path, folder: Path) -> None:
    if (path / "report.html").is_file():
        log.info("%s is finished, and kept", path)
        return
    log.info("\n%s", path)
    # the files are proved by the full runs
    recipe = dataclasses.replace(recipe, export=dataclasses.replace(recipe.export, enabled=False))
    Experiment(recipe, path, Options(data_dir=embedded(recipe, folder), resume=(path / "recipe.json").is_file())).run()


def _sweep(recipe: Recipe, setting: str, values: tuple[Any, ...], path: Path, folder: Path) -> None:
    from kerascv_course.data import load
    from kerascv_course.tasks.base import get_task
    from kerascv_course.tasks.scenes.sweeps import format_rows, sweep, variants, write_table

    if (path / "sweep.json").is_file():
        return
    data = get_task(recipe).label(load(recipe.data, embedded(recipe, folder)), None)
    rows = sweep(variants(recipe, {setting: values}), data, test=True)
    write_table(path, recipe, rows, format_rows(rows), f"{recipe.name}: {setting}")


def embedded(recipe: Recipe, folder: Path) -> Path | None:
    """Where a recipe's embedded data stands, made if it is not there: pictures for the folder source, None for other sources."""
    if recipe.data.source not in ("folder", "identities"):
        return None
    name, make = {"colorize": ("patches", _patches), "retrieve": ("identities", _identities)}.get(
        recipe.task, ("digits", _digits)
    )
    root = folder / "pictures" / name
    if not root.is_dir():
        for path, pixels in make().items():
            with atomic_write(root / path) as file:
                Image.fromarray(pixels).save(file, format="png")
    return root


def _digits() -> dict[str, np.ndarray]:
    """Handwritten digits of scikit-learn, enlarged: path to uint8 (32, 32)."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    pixels = np.kron((images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8), np.ones((1, SIDE // 8, SIDE // 8), np.uint8))
    found = {}
    for digit in range(10):
        for number, picture in enumerate(pixels[targets == digit][: TRAIN + TEST]):
            split = "train" if number < TRAIN else "test"
            found[f"{split}/{digit}/{number:03d}.png"] = picture
    return found


def _identities() -> dict[str, np.ndarray]:
    """The same digits as if they were identities: eight to learn, two others to find."""
    found = {}
    for path, picture in _digits().items():
        _, digit, file = path.split("/")
        if int(file[:3]) < IMAGES:
            found[f"{'train' if int(digit) < LEARNT else 'val'}/{digit}/{file}"] = picture
    return found


def _patches() -> dict[str, np.ndarray]:
    """Patches of scikit-learn's two photographs, every second one for the test: path to uint8 (32, 32, 3)."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    found = {}
    for path, picture in zip(photographs.filenames, photographs.images, strict=True):
        rows, columns = picture.shape[0] // SIDE, picture.shape[1] // SIDE
        for number in range(rows * columns):
            top, left = divmod(number, columns)
            split = "test" if number % 4 == 3 else "train"
            patch = picture[top * SIDE : (top + 1) * SIDE, left * SIDE : (left + 1) * SIDE]
            found[f"{split}/{Path(path).stem}/{number:03d}.png"] = np.ascontiguousarray(patch)
    return found
