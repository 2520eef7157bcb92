"""Small runs on embedded data, to preview every report within minutes and without a dataset."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerascv_course.config import Recipe
from kerascv_course.core.io import atomic_write
from kerascv_course.core.progress import track
from kerascv_course.data import load
from kerascv_course.experiment import Experiment, Options
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import get_ablation, with_changes
from kerascv_course.reports.parts import CourseReport
from kerascv_course.tasks.base import get_task
from kerascv_course.tasks.scenes.config import SceneRecipe
from kerascv_course.tasks.scenes.sweeps import format_rows, sweep, variants, write_table

__all__ = ["embedded_data", "make_small_runs"]

log = logging.getLogger("kerascv_course")

#: Side of the images, pixels; number per class for training and test.
SIDE, TRAIN, TEST = 32, 60, 30

#: Digits as identities: number of those for training, and images of each.
TRAINED, IMAGES = 8, 20


def make_small_runs(report: CourseReport, folder: Path) -> None:
    """Make a report's small runs; finished ones are kept.

    Args:
        report: with its quick runs, switches and sweeps.
        folder: for runs and images.
    """
    for name, changes in track(report.quick.items(), f"small runs of {report.name}", "recipes"):
        recipe = with_changes(get_recipe(name), changes)
        _run(recipe, folder / name, folder)
        for switch in report.quick_switches.get(name, ()):
            _run(with_changes(recipe, get_ablation(name).switches[switch]), folder / f"{name}-{switch}", folder)
        for setting, values in report.quick_sweeps.get(name, {}).items():
            _sweep(recipe, setting, values, folder / f"{name}-{setting}", folder)


def _run(recipe: Recipe, path: Path, folder: Path) -> None:
    if (path / "report.html").is_file():
        log.info("%s is finished, keeping it", path)
        return
    log.info("\n%s", path)
    # exported files are validated by the full runs
    recipe = dataclasses.replace(recipe, export=dataclasses.replace(recipe.export, enabled=False))
    resume = (path / "recipe.json").is_file()
    Experiment(recipe, path, Options(data_dir=embedded_data(recipe, folder), resume=resume)).run()


def _sweep(recipe: Recipe, setting: str, values: tuple[Any, ...], path: Path, folder: Path) -> None:
    if (path / "sweep.json").is_file():
        return
    if not isinstance(recipe, SceneRecipe):
        raise TypeError(f"{recipe.name} is not a recipe of scenes")
    data = get_task(recipe).label(load(recipe.data, embedded_data(recipe, folder)), None)
    rows = sweep(variants(recipe, {setting: values}), data, test=True)
    write_table(path, recipe, rows, format_rows(rows), f"{recipe.name}: {setting}")


def embedded_data(recipe: Recipe, folder: Path) -> Path | None:
    """Folder of a recipe's embedded data, created if missing: images for the sources of folders, None for other sources."""
    if recipe.data.source not in ("folder", "identities"):
        return None
    sources = {"colorize": ("patches", _patches), "retrieve": ("identities", _identities)}
    name, make = sources.get(recipe.task, ("digits", _digits))
    root = folder / "images" / name
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
        for number, image in enumerate(pixels[targets == digit][: TRAIN + TEST]):
            split = "train" if number < TRAIN else "test"
            found[f"{split}/{digit}/{number:03d}.png"] = image
    return found


def _identities() -> dict[str, np.ndarray]:
    """The same digits as identities: eight for training, two others for validation."""
    found = {}
    for path, image in _digits().items():
        _, digit, file = path.split("/")
        if int(file[:3]) < IMAGES:
            found[f"{'train' if int(digit) < TRAINED else 'val'}/{digit}/{file}"] = image
    return found


def _patches() -> dict[str, np.ndarray]:
    """Patches of scikit-learn's two photographs, every fourth one for the test: path to uint8 (32, 32, 3)."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    found = {}
    for path, image in zip(photographs.filenames, photographs.images, strict=True):
        rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
        for number in range(rows * columns):
            top, left = divmod(number, columns)
            split = "test" if number % 4 == 3 else "train"
            patch = image[top * SIDE : (top + 1) * SIDE, left * SIDE : (left + 1) * SIDE]
            found[f"{split}/{Path(path).stem}/{number:03d}.png"] = np.ascontiguousarray(patch)
    return found
