"""Report 001: NTNU TDT4265, assignment 3, plain CNNs and transfer learning on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output, kernel_from_sizes, same_padding
from kerascv_course.analysis.convolution import SOBEL_X, convolve, correlate
from kerascv_course.config import Data
from kerascv_course.reports.answers import BASE_001, IMAGE_001, report_text
from kerascv_course.reports.building import (
    build,
    computed,
    curves,
    findings,
    function,
    measured,
    missing_run,
    picture,
    test,
    train,
    validation,
)
from kerascv_course.reports.page import Answer, Code, Comparison, Missing, Page, Part, Section, Table, Text
from kerascv_course.reports.paper import count_layers
from kerascv_course.reports.runs import Shelf
from kerascv_course.reports.targets import target

NAME, REPORT, TITLE = "tdt4265_a3", "001", "TDT4265, assignment 3: convolutional networks on CIFAR-10"

#: Small runs on the embedded digits: recipe to what is changed in it.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "tdt4265-base": {"data": Data("digits"), "model_options.width": 0.5, "patience": 0},
    "tdt4265-model1": {"data": Data("digits"), "model_options.width": 0.25, "epochs": 4},
    "tdt4265-model2": {"data": Data("digits"), "model_options.width": 0.125, "epochs": 4},
}

#: Switches of the small runs' ablation.
QUICK_SWITCHES = {"tdt4265-base": ("batch-norm",)}

STEPS = "Training loss (mean of ten steps, band: one standard deviation) and validation loss; beside them validation accuracy."


def page(shelf: Shelf) -> Page:
    """The page from the runs of a shelf."""
    return build(
        NAME,
        TITLE,
        "Norwegian University of Science and Technology, computer vision and deep learning; report of March 2022.",
        (_by_hand(), _base(shelf), _models(shelf), _batch_norm(shelf), _transfer(shelf), _inside(shelf)),
        shelf,
    )


def _by_hand() -> Section:
    correlation = correlate(IMAGE_001, SOBEL_X)
    first = kernel_from_sizes(512, 504)[0]
    maps = conv_output(512, first).output
    pooled = conv_output(maps, 2, 2).output
    second = conv_output(pooled, 3).output
    network = count_layers(BASE_001, (32, 32, 3))
    counts = [layer.parameters for layer in network.layers if layer.parameters]
    rows = dict(zip(("T001-26", "T001-27", "T001-28"), (_row(row) for row in correlation), strict=True))
    asked = [_row(row) for row in convolve(IMAGE_001, SOBEL_X)]
    ids = ("T001-05", "T001-06", "T001-07", "T001-08", "T001-09")
    return Section(
        "Task 1: by hand",
        "Convolve a small picture by hand; find paddings, kernels and map sizes; count the parameters of a small network; say which "
        "layer makes a network less sensitive to small shifts.",
        (
            computed(
                function(correlate, convolve),
                rows,
                {name: f"convolution, which the task asks for: {row}" for name, row in zip(rows, asked, strict=True)},
            ),
            computed(function(same_padding), {"T001-04": same_padding(5)[0]}),
            computed(function(kernel_from_sizes), {"T001-01": f"{first}x{first}"}),
            computed(function(conv_output), {"T001-02": f"{pooled}x{pooled}", "T001-03": f"{second}x{second}"}),
            computed(function(count_layers), {**dict(zip(ids, counts, strict=True)), "T001-10": network.parameters}),
            Code(report_text(REPORT), "All of task 1, computed", function(report_text)),
            findings("E001-01", "E001-02", "E001-03", "E001-04", "E001-05", "E001-06"),
        ),
    )


def _row(values: np.ndarray) -> str:
    return " ".join(str(int(value)) for value in values)


def _base(shelf: Shelf) -> Section:
    return Section(
        "Task 2: the base network",
        "Train three stages of 5×5 convolution, ReLU and pooling with two dense layers; stop early; plot losses and accuracy; report "
        "the final accuracies.",
        (
            measured(shelf, "tdt4265-base", {"T001-11": train, "T001-12": validation, "T001-13": test}),
            picture(shelf, "tdt4265-base", "step_curves", f"Figure 1 of the report, which is lost: the base network. {STEPS}"),
            picture(shelf, "tdt4265-base", "confusion_matrix", "Which classes the base network takes for which (test split)."),
            findings("E001-07"),
        ),
    )


def _models(shelf: Shelf) -> Section:
    loss = lambda found: float(found.figure("train", "loss"))  # noqa: E731
    cross_entropy = "ours is the cross-entropy alone, without the L2 penalty"
    return Section(
        "Task 3: two better networks",
        "Improve the network in two ways, to 75 % and then to 80 % on the test images; say what helped; discuss over-fitting.",
        (
            measured(
                shelf,
                "tdt4265-model1",
                {"T001-14": loss, "T001-15": train, "T001-16": validation, "T001-17": test},
                {"T001-14": cross_entropy},
            ),
            measured(
                shelf,
                "tdt4265-model2",
                {
                    "T001-18": loss,
                    "T001-19": train,
                    "T001-20": validation,
                    "T001-21": test,
                    "T001-22": test,
                    "T001-23": train,
                },
            ),
            picture(shelf, "tdt4265-model2", "step_curves", f"Figure 2 of the report, which is lost: model 2. {STEPS}"),
            _best(shelf),
            findings("E001-08", "E001-09", "E001-10", "E001-11", "E001-12", "E001-13"),
        ),
    )


def _best(shelf: Shelf) -> Part:
    rows = []
    names = [name for name in ("tdt4265-base-best", "tdt4265-model1-best", "tdt4265-model2-best") if shelf.best(name)]
    if not names:
        return missing_run("tdt4265-base-best")
    for name in names:
        found = shelf.best(name)
        if found:
            rows.append((name, *(f"{read(found):.4f}" for read in (train, validation, test)), f"{found.metrics['epochs']:g}"))
    first = shelf.best(names[0])
    source = first.source if first else function(_best)
    return Table(
        "The same networks trained better (momentum, one cycle, label smoothing, shifts, mirror images)",
        ("recipe", "train", "validation", "test", "epochs"),
        tuple(rows),
        source,
    )


def _batch_norm(shelf: Shelf) -> Section:
    with_and_without = shelf.switch("tdt4265-base", "batch-norm")
    parts: list[Part] = []
    if with_and_without is None:
        parts.append(
            Missing(
                "figure 3 of the report, losses with and without batch norm",
                "The ablation of the base network has not been run.",
                "python -m kerascv_course.ablate tdt4265-base --switches batch-norm",
                (target("T001-24"),),
            )
        )
    else:
        gains = shelf.gains("tdt4265-base")
        largest = max(gains, key=lambda name: gains[name])
        source = with_and_without[0].source
        parts += [
            curves(
                {"without batch norm": with_and_without[0], "with batch norm": with_and_without[1]},
                ("loss+val_loss",),
                "batch-norm",
                "Figure 3 of the report, which is lost: training and validation loss with and without batch norm.",
            ),
            Comparison(
                (
                    Answer(
                        target("T001-24"), "batch normalisation" if largest == "batch-norm" else largest, source, _gains(gains)
                    ),
                )
            ),
        ]
    return Section(
        "Task 3 (c) to (e): one change at a time",
        "Switch one thing at a time (batch norm, filters, their size, L2, dropout, augmentation, pooling against stride, the "
        "optimiser) and say what helps.",
        tuple(parts),
    )


def _gains(gains: Mapping[str, float]) -> str:
    shown = ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in sorted(gains.items(), key=lambda item: -item[1]))
    return f"points of validation accuracy against the base, mean over the seeds: {shown}"


def _transfer(shelf: Shelf) -> Section:
    ours = shelf.best("tdt4265-transfer-tune")
    parts: list[Part] = [
        measured(shelf, "tdt4265-transfer", {"T001-25": test}),
        Text(
            "The report fine-tunes ImageNet's ResNet-18 at 224×224. The weights come from a hub; where they cannot be had, the "
            "recipes tdt4265-transfer-probe and -tune do the same in two phases with MobileNet at 96×96."
        ),
    ]
    if ours:
        parts.append(
            Table(
                "Transfer in two phases with ImageNet's MobileNet: the head alone, then everything",
                ("recipe", "train", "validation", "test"),
                (("tdt4265-transfer-tune", *(f"{read(ours):.4f}" for read in (train, validation, test))),),
                ours.source,
            )
        )
    parts += [_trainable(), findings("E001-14")]
    return Section(
        "Task 4 (a): transfer learning",
        "Take a ResNet-18 that knows ImageNet, train its last stage and a new head on CIFAR-10 and report the test accuracy.",
        tuple(parts),
    )


def _trainable() -> Part:
    from kerascv_course.models import create_model
    from kerascv_course.tasks.classification.transfer import freeze_before

    network = create_model("resnet18", 10)
    everything = summarize(network).trainable
    freeze_before(network, "stage4_block1_conv1")
    learning = summarize(network).trainable
    return Table(
        "ResNet-18 with ten outputs, all before its last stage frozen",
        ("parameters that learn", "of"),
        ((f"{learning:,}", f"{everything:,}"),),
        function(freeze_before, summarize),
    )


def _inside(shelf: Shelf) -> Section:
    recipe = next((name for name in ("tdt4265-transfer", "tdt4265-transfer-tune") if shelf.best(name)), "tdt4265-base")
    return Section(
        "Task 4 (b) and (c): a look inside",
        "Draw filters of the first convolution with what they answer to one picture, and maps of the last one; say what they see.",
        (
            picture(
                shelf, recipe, "first_convolution", f"Figure 6 of the report, which is lost: filters and answers ({recipe})."
            ),
            picture(shelf, recipe, "last_convolution", f"Figure 7 of the report, which is lost: the last maps ({recipe})."),
        ),
    )
