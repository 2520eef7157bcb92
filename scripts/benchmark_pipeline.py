"""Speed of the training stream: ``python scripts/benchmark.py pipeline`` writes the first part of docs/training_speed.md.

``python scripts/benchmark.py folder`` trains on a folder of generated files and prints memory and time, for docs/data.md.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmark_page import machine, read_parts, write_page
from PIL import Image

from kerascv_course.config import Augmentation
from kerascv_course.core.environment import core_count, start_tensorflow

ROOT = Path(__file__).resolve().parent.parent

PAGE_HEAD = "# Speed of training"
PARTS = ("pipeline", "train")

#: The fastest networks for CIFAR-10 here, and the recipe that trains them.
NETWORKS = {"lenet5": "tdt4265-base", "fastnet": "fastnet-cifar10-small"}

#: What the stream is to deliver, in multiples of what the fastest network takes.
REQUIRED = 5

#: Each change by itself, as strong as it is commonly used on CIFAR-10, and sets of them.
CHANGES = {
    "none": Augmentation(),
    "flip": Augmentation(flip=True),
    "alternating flip": Augmentation(alternating_flip=True),
    "translate 4, zeros (random crop, padding 4)": Augmentation(translate=4),
    "translate 2, reflected": Augmentation(translate=2, border="reflect"),
    "rotate 15°": Augmentation(rotate=15),
    "colour jitter 0.4": Augmentation(color_jitter=0.4),
    "cutout 8": Augmentation(cutout=8),
    "random erasing, probability 0.5": Augmentation(erase=0.5),
    "mixup 0.2": Augmentation(mixup=0.2),
    "cutmix 1": Augmentation(cutmix=1),
    "all at once": Augmentation(flip=True, translate=4, rotate=15, color_jitter=0.4, cutout=8, erase=0.5, mixup=0.2, cutmix=1),
}


def pipeline(
    rounds: int = 9,
    batch: int = 500,
    seconds: float = 0.3,
    output: Path = ROOT / "docs" / "training_speed.md",
) -> None:
    """Images/s of the training stream with each augmentation, beside what the fastest networks take.

    Args:
        rounds: times that everything is measured, in turns.
        batch: images a step.
        seconds: how long each is measured in a round, at least.
        output: Markdown file; its other parts stay.
    """
    start_tensorflow()
    from kerascv_course import list_models

    rng = np.random.default_rng(0)
    images, targets = rng.integers(0, 256, (10_000, 32, 32, 3), np.uint8), rng.integers(0, 10, 10_000)
    networks = {name: _training_step(name, images, targets, batch) for name in NETWORKS if name in list_models()}
    streams = {name: _stream(config, images, targets, batch) for name, config in (CHANGES | _of_recipes()).items()}
    rates: dict[str, list[float]] = {name: [] for name in [*networks, *streams]}
    for turn in range(rounds + 1):
        for name in rng.permutation(list(rates)).tolist():
            # Opened anew: a stream that stays open goes on filling its buffers in another's turn.
            step = networks[name] if name in networks else iter(streams[name]).__next__
            rate = batch * _steps_per_second(step, seconds)
            if turn:  # the first traces, allocates and lets tf.data tune itself
                rates[name].append(rate)
    medians = {name: median(values) for name, values in rates.items()}
    fastest = max(networks, key=lambda name: medians[name])
    short = [name for name in streams if medians[name] < REQUIRED * medians[fastest]]
    lines = [
        "## The stream of training images",
        "",
        "The stream that `model.fit` is given (`kerascv_course/data/pipeline.py`), read by itself: shuffled CIFAR-10-sized uint8 "
        f"images from memory in batches of {batch}. {rounds} rounds of {seconds:g} s each, in turns, medians; "
        f"`python scripts/benchmark.py pipeline`, {datetime.now(UTC):%Y-%m-%d}; {machine()}.",
        "",
        "Training steps on a batch that is in memory, for comparison: "
        + ", ".join(f"`{name}` as in `{NETWORKS[name]}` {medians[name]:,.0f} images/s" for name in networks)
        + f". The stream is to deliver at least {REQUIRED} times what the fastest takes, here `{fastest}`; "
        + (f"short of it: {', '.join(short)}." if short else "each augmentation does."),
        "",
        f"| augmentation | images/s | {' | '.join(f'times what `{name}` takes' for name in networks)} |",
        f"| --- | ---: |{' ---: |' * len(networks)}",
    ]
    lines += [
        f"| {name} | {medians[name]:,.0f} | {' | '.join(f'{medians[name] / medians[network]:.1f}' for network in networks)} |"
        for name in streams
    ]
    parts = read_parts(output) | {"pipeline": "\n".join(lines)}
    write_page(output, PAGE_HEAD, parts, PARTS)
    print(parts["pipeline"])


def folder(
    images: int = 50_000,
    size: int = 224,
    cache: tuple[str, ...] = ("auto",),
    model: str = "keras.applications/MobileNet --model-options alpha 0.25",
    batch: int = 16,
) -> None:
    """A whole run on generated JPEG files in a temporary folder: peak memory, seconds in all and of the epoch.

    Args:
        images: number of files, in 10 classes.
        size: their height and width.
        cache: values of ``--data.cache``, one run each.
        model: network, and its options.
        batch: images of a training step; the values within the network take memory as well.
    """
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        with ProcessPoolExecutor(core_count()) as pool:
            list(pool.map(partial(_write_class, root / "images", size, images // 10), range(10)))
        stored = sum(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"{images:,} files of {size}×{size}, {stored / 1e9:.2f} GB; {machine()}", flush=True)
        for one in cache:
            words = f"folder-classify --model {model} --epochs 1 --batch-size {batch} --data.cache {one}"
            words += f" --data.image-size {size} {size} --data-dir {root / 'images'} --run-dir {root / one}"
            started = time.perf_counter()
            child = subprocess.Popen([sys.executable, "-m", "kerascv_course.train", *words.split()])
            _, status, used = os.wait4(child.pid, 0)
            row = (root / one / "history.csv").read_text().splitlines()[-1].split(",")
            print(
                f"--data.cache {one}: exit code {os.waitstatus_to_exitcode(status)}, peak {used.ru_maxrss / 1024**2:.2f} GiB, "
                f"{time.perf_counter() - started:.0f} s in all, of these the epoch with its validation {float(row[-1]):.0f} s",
                flush=True,
            )


def _write_class(root: Path, size: int, count: int, number: int) -> None:
    """Write `count` JPEG files of a class: a bright disc on a gradient, farther down for each class, and coarse noise."""
    rng, (rows, columns) = np.random.default_rng(number), np.mgrid[:size, :size]
    (root / f"class{number}").mkdir(parents=True)
    for image in range(count):
        top, left = size * (number + 0.5) / 10, rng.uniform(0, size)
        light = 60 + 100 * rows / size + 90 * ((rows - top) ** 2 + (columns - left) ** 2 < (size / 6) ** 2)
        noise = rng.normal(0, 25, (-(-size // 8), -(-size // 8), 3)).repeat(8, 0).repeat(8, 1)[:size, :size]
        pixels = np.clip(light[..., None] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"class{number}" / f"{image:05}.jpg", quality=90)


def _steps_per_second(step: Callable[[], Any], seconds: float) -> float:
    for measured in (False, True):  # the first time round, tf.data fills its buffers
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds or count < 3:
            step()
            count += 1
        if measured:
            rate = count / (time.perf_counter() - started)
    return rate


def _of_recipes() -> dict[str, Augmentation]:
    """What the recipes for CIFAR-10 ask for, less what stands in `CHANGES`; named by the first that does."""
    from kerascv_course.recipes import all_recipes

    found: dict[Augmentation, str] = {}
    for recipe in all_recipes().values():
        if recipe.data.source == "cifar10" and recipe.augmentation not in CHANGES.values():
            found.setdefault(recipe.augmentation, f"recipe `{recipe.name}`")
    return {name: augmentation for augmentation, name in found.items()}


def _stream(config: Augmentation, images: np.ndarray, targets: np.ndarray, batch: int) -> Any:
    from kerascv_course.data.pipeline import training_batches
    from kerascv_course.data.splits import Split
    from kerascv_course.recipes import get_recipe

    recipe = dataclasses.replace(get_recipe("tdt4265-base"), augmentation=config, batch_size=batch)
    return training_batches(Split(images, targets), recipe, classes=10)


def _training_step(name: str, images: np.ndarray, targets: np.ndarray, batch: int) -> Callable[[], Any]:
    """A call that makes one step of `model.fit`'s own compiled training function, on the same batch in memory each time."""
    import keras
    import tensorflow as tf

    from kerascv_course.data.splits import Split, make_dataset
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.classification.task import ClassificationTask
    from kerascv_course.training.precision import choose_for_device
    from kerascv_course.training.trainer import prepare

    recipe = choose_for_device(dataclasses.replace(get_recipe(NETWORKS[name]), batch_size=batch))
    if recipe.model != name:
        recipe = dataclasses.replace(recipe, model=name, model_options={})
    split = Split(images, targets)
    data = make_dataset("random", tuple(map(str, range(10))), "random pixels", split, split, split)
    model = prepare(ClassificationTask(recipe), data).model
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images[:batch], targets[:batch])).repeat())
    return lambda: keras.ops.convert_to_numpy(model.train_function(batches)["loss"])
