"""Report 003: Korea University COSE474, project 2, VGG16 and a shortened ResNet-50 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.config import Data
from kerascv_course.models import create_model
from kerascv_course.reports.page import CodePart, ComparedNumber, NumbersPart, Part, Section, TablePart
from kerascv_course.reports.parts import CourseReport, errata, function, measured, missing_run
from kerascv_course.reports.runs import FinishedRun, RunIndex
from kerascv_course.reports.targets import target

#: Small runs on the embedded digits. Two epochs: the last one resumes from a checkpoint.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "cose474-vgg16": {"data": Data("digits"), "epochs": 2},
    "cose474-resnet50": {"data": Data("digits"), "epochs": 2},
}

#: Recipe to its targets: running means of the loss at five steps, and test accuracy in percent.
PRINTED = {
    "cose474-vgg16": ("T003-01", "T003-02", "T003-03", "T003-04", "T003-05", "T003-06"),
    "cose474-resnet50": ("T003-07", "T003-08", "T003-09", "T003-10", "T003-11", "T003-12"),
}


def _networks() -> Section:
    rows = []
    for name in ("vgg16_cose474", "resnet50_cose474"):
        summary = summarize(create_model(name))
        rows.append((name, f"{summary.trainable:,}", f"{summary.macs or 0:,}", f"{summary.parameter_bytes / 1e6:.1f} MB"))
    return Section(
        "The networks",
        "Complete the bottleneck block, with and without downsampling, and the table of the ResNet's feature maps.",
        (
            TablePart(
                "Both networks on 32×32 images",
                ("network", "trainable parameters", "multiply-accumulates", "weights"),
                tuple(rows),
                function(summarize),
            ),
            errata("E003-02", "E003-03"),
        ),
    )


def _training(runs: RunIndex, recipe: str) -> Section:
    *losses, accuracy = PRINTED[recipe]
    found = runs.best(recipe)
    parts: list[Part] = []
    if found is None:
        parts.append(missing_run(recipe, *losses, accuracy))
    else:
        steps, means = running_means(found, len(losses))
        note = f"after epoch {found.metrics['epochs']:g}"
        parts += [
            NumbersPart(
                tuple(
                    ComparedNumber(target(name), float(value), found.source, f"{note}, step {step}")
                    for name, step, value in zip(losses, steps, means, strict=True)
                )
            ),
            measured(runs, recipe, {accuracy: lambda run: 100 * float(run.metric("test", "accuracy"))}, {accuracy: note}),
            CodePart(_log(found, steps, means), "The last epoch in the course's format", found.source),
        ]
    return Section(
        f"One more epoch of {recipe.removeprefix('cose474-')}",
        "Resume from a checkpoint for one epoch; print the running mean of the loss every hundred steps and the test accuracy.",
        tuple(parts),
    )


def running_means(found: FinishedRun, count: int) -> tuple[list[int], list[float]]:
    """Running mean of the loss in a run's last epoch, at `count` evenly spaced steps.

    Returns:
        The steps, counted from 1 within the epoch, and the means.
    """
    steps = np.genfromtxt(found.folder / "steps.csv", delimiter=",", names=True)
    epoch = steps.size // round(found.metrics["epochs"])
    last = steps["loss"][-epoch:]
    marks = [round(epoch * (i + 1) / count) for i in range(count)]
    return marks, [float(last[:mark].mean()) for mark in marks]


def _log(found: FinishedRun, steps: list[int], means: list[float]) -> str:
    lines = [
        f"Epoch [{found.metrics['epochs']:g}/{found.metrics['epochs']:g}], Step [{step}/{steps[-1]}] Loss: {mean:.4f}"
        for step, mean in zip(steps, means, strict=True)
    ]
    return "\n".join([*lines, f"Accuracy of the model on the test images: {100 * found.metric('test', 'accuracy'):.2f} %"])


def _discussion(runs: RunIndex) -> Section:
    best = {name: runs.best(name) for name in PRINTED}
    parts: list[Part] = []
    rows = tuple(
        (name, f"{found.metric('test', 'accuracy'):.4f}", f"{found.metrics['epochs']:g}")
        for name, found in best.items()
        if found
    )
    first = next((found for found in best.values() if found), None)
    if first:
        parts.append(TablePart("Both networks on the test images", ("recipe", "accuracy", "epochs"), rows, first.source))
    return Section(
        "Discussion",
        "Which network is better, and why does the loss hardly decrease in the epoch?",
        (*parts, errata("E003-01")),
    )


REPORT = CourseReport(
    "cose474_p2",
    "COSE474, project 2: VGG16 and a shortened ResNet-50 on CIFAR-10",
    "Korea University, deep learning, project 2: complete a VGG16, and a ResNet-50 that ends after its fourth stage.",
    lambda runs: (_networks(), *(_training(runs, recipe) for recipe in PRINTED), _discussion(runs)),
    QUICK,
)
