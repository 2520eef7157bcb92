"""Report 003: Korea University COSE474, project 2, VGG16 and a shortened ResNet-50 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.config import Data
from kerascv_course.reports.building import build, findings, function, measured, missing_run
from kerascv_course.reports.page import Answer, Code, Comparison, Page, Part, Section, Table
from kerascv_course.reports.runs import Found, Shelf
from kerascv_course.reports.targets import target

NAME, TITLE = "cose474_p2", "COSE474, project 2: VGG16 and a shortened ResNet-50 on CIFAR-10"

#: Small runs on the embedded digits: recipe to what is changed in it. Two epochs: a last one that goes on from a checkpoint.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "cose474-vgg16": {"data": Data("digits"), "epochs": 2},
    "cose474-resnet50": {"data": Data("digits"), "epochs": 2},
}

#: Recipe to its targets: the running means of the loss at five steps, and the test accuracy in percent.
PRINTED = {
    "cose474-vgg16": ("T003-01", "T003-02", "T003-03", "T003-04", "T003-05", "T003-06"),
    "cose474-resnet50": ("T003-07", "T003-08", "T003-09", "T003-10", "T003-11", "T003-12"),
}


def page(shelf: Shelf) -> Page:
    """The page from the runs of a shelf."""
    return build(
        NAME,
        TITLE,
        "Korea University, deep learning, project 2: complete a VGG16 and a ResNet-50 that stops after its fourth stage.",
        (_networks(), *(_training(shelf, recipe) for recipe in PRINTED), _discussion(shelf)),
        shelf,
    )


def _networks() -> Section:
    from kerascv_course.models import create_model

    rows = []
    for name in ("vgg16_cose474", "resnet50_cose474"):
        summary = summarize(create_model(name))
        rows.append((name, f"{summary.trainable:,}", f"{summary.macs or 0:,}", f"{summary.parameter_bytes / 1e6:.1f} MB"))
    return Section(
        "The networks",
        "Complete the bottleneck block, with and without down-sampling, and the table of the ResNet's maps.",
        (
            Table(
                "Both networks on a 32×32 picture",
                ("network", "parameters that learn", "multiply-accumulates", "weights"),
                tuple(rows),
                function(summarize),
            ),
            findings("E003-02", "E003-03"),
        ),
    )


def _training(shelf: Shelf, recipe: str) -> Section:
    *losses, accuracy = PRINTED[recipe]
    found = shelf.best(recipe)
    parts: list[Part] = []
    if found is None:
        parts.append(missing_run(recipe, *losses, accuracy))
    else:
        steps, means = running_means(found, len(losses))
        note = f"after epoch {found.metrics['epochs']:g}"
        parts += [
            Comparison(
                tuple(
                    Answer(target(name), float(value), found.source, f"{note}, step {step}")
                    for name, step, value in zip(losses, steps, means, strict=True)
                )
            ),
            measured(shelf, recipe, {accuracy: lambda run: 100 * float(run.figure("test", "accuracy"))}, {accuracy: note}),
            Code(_log(found, steps, means), "The last epoch in the course's format", found.source),
        ]
    return Section(
        f"One more epoch of {recipe.removeprefix('cose474-')}",
        "Go on from a checkpoint for one epoch; print the running mean of the loss every hundred steps and the test accuracy.",
        tuple(parts),
    )


def running_means(found: Found, count: int) -> tuple[list[int], list[float]]:
    """Mean of the loss from the start of a run's last epoch to each of `count` evenly spaced steps of it.

    Returns:
        The steps, from 1 within the epoch, and the means.
    """
    steps = np.genfromtxt(found.run / "steps.csv", delimiter=",", names=True)
    epoch = steps.size // round(found.metrics["epochs"])
    last = steps["loss"][-epoch:]
    marks = [round(epoch * (i + 1) / count) for i in range(count)]
    return marks, [float(last[:mark].mean()) for mark in marks]


def _log(found: Found, steps: list[int], means: list[float]) -> str:
    lines = [
        f"Epoch [{found.metrics['epochs']:g}/{found.metrics['epochs']:g}], Step [{step}/{steps[-1]}] Loss: {mean:.4f}"
        for step, mean in zip(steps, means, strict=True)
    ]
    return "\n".join([*lines, f"Accuracy of the model on the test images: {100 * found.figure('test', 'accuracy'):.2f} %"])


def _discussion(shelf: Shelf) -> Section:
    runs = {name: shelf.best(name) for name in PRINTED}
    parts: list[Part] = []
    rows = tuple(
        (name, f"{found.figure('test', 'accuracy'):.4f}", f"{found.metrics['epochs']:g}")
        for name, found in runs.items()
        if found
    )
    first = next((found for found in runs.values() if found), None)
    if first:
        parts.append(Table("Both on the test images", ("recipe", "accuracy", "epochs"), rows, first.source))
    return Section(
        "Discussion",
        "Which network is better, and why does the loss hardly fall in the one epoch?",
        (*parts, findings("E003-01")),
    )
