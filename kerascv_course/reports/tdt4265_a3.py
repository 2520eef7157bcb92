"""Report 001: NTNU TDT4265, assignment 3, plain CNNs and transfer learning on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output, kernel_from_sizes, same_padding
from kerascv_course.analysis.convolution import SOBEL_X, convolve, correlate
from kerascv_course.config import Data
from kerascv_course.models import create_model
from kerascv_course.reports.answers import BASE_001, IMAGE_001, report_text
from kerascv_course.reports.page import CodePart, ComparedNumber, MissingPart, NumbersPart, Part, Section, TablePart, TextPart
from kerascv_course.reports.paper import count_layers
from kerascv_course.reports.parts import (
    TEST,
    TRAIN,
    VALIDATION,
    CourseReport,
    best_figure,
    computed,
    curves,
    errata,
    function,
    measured,
    missing_run,
)
from kerascv_course.reports.runs import RunIndex
from kerascv_course.reports.targets import target
from kerascv_course.tasks.classification.transfer import freeze_before

#: Small runs on the embedded digits.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "tdt4265-base": {"data": Data("digits"), "model_options.width": 0.5, "patience": 0},
    "tdt4265-model1": {"data": Data("digits"), "model_options.width": 0.25, "epochs": 4},
    "tdt4265-model2": {"data": Data("digits"), "model_options.width": 0.125, "epochs": 4},
}

STEPS = "Training loss (mean of ten steps, band: one standard deviation) and validation loss; right: validation accuracy."


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
        "Convolve a small image by hand; find paddings, kernels and map sizes; count the parameters of a small network; name the layer "
        "that makes a network less sensitive to small shifts.",
        (
            computed(
                function(correlate, convolve),
                rows,
                {name: f"convolution, as the task asks: {row}" for name, row in zip(rows, asked, strict=True)},
            ),
            computed(function(same_padding), {"T001-04": same_padding(5)[0]}),
            computed(function(kernel_from_sizes), {"T001-01": f"{first}x{first}"}),
            computed(function(conv_output), {"T001-02": f"{pooled}x{pooled}", "T001-03": f"{second}x{second}"}),
            computed(function(count_layers), {**dict(zip(ids, counts, strict=True)), "T001-10": network.parameters}),
            CodePart(report_text("001"), "All of task 1, computed", function(report_text)),
            errata("E001-01", "E001-02", "E001-03", "E001-04", "E001-05", "E001-06"),
        ),
    )


def _row(values: np.ndarray) -> str:
    return " ".join(str(int(value)) for value in values)


def _base(runs: RunIndex) -> Section:
    return Section(
        "Task 2: the base network",
        "Train three stages of 5×5 convolution, ReLU and pooling with two dense layers and early stopping; plot losses and accuracy; "
        "report the final accuracies.",
        (
            measured(
                runs,
                "tdt4265-base",
                {"T001-11": TRAIN, "T001-12": VALIDATION, "T001-13": TEST},
            ),
            best_figure(runs, "tdt4265-base", "step_curves", f"Figure 1 (the report's is lost): the base network. {STEPS}"),
            best_figure(runs, "tdt4265-base", "confusion_matrix", "Confusion matrix of the base network on the test split."),
            errata("E001-07"),
        ),
    )


def _models(runs: RunIndex) -> Section:
    loss = lambda found: float(found.metric("train", "loss"))  # noqa: E731
    cross_entropy = "ours is the cross-entropy without the L2 penalty"
    return Section(
        "Task 3: two better networks",
        "Improve the network to 75 % and then to 80 % on the test images; say what helped; discuss overfitting.",
        (
            measured(
                runs,
                "tdt4265-model1",
                {"T001-14": loss, "T001-15": TRAIN, "T001-16": VALIDATION, "T001-17": TEST},
                {"T001-14": cross_entropy},
            ),
            measured(
                runs,
                "tdt4265-model2",
                {
                    "T001-18": loss,
                    "T001-19": TRAIN,
                    "T001-20": VALIDATION,
                    "T001-21": TEST,
                    "T001-22": TEST,
                    "T001-23": TRAIN,
                },
            ),
            best_figure(runs, "tdt4265-model2", "step_curves", f"Figure 2 (the report's is lost): model 2. {STEPS}"),
            _best(runs),
            errata("E001-08", "E001-09", "E001-10", "E001-11", "E001-12", "E001-13"),
        ),
    )


def _best(runs: RunIndex) -> Part:
    rows = []
    names = [name for name in ("tdt4265-base-best", "tdt4265-model1-best", "tdt4265-model2-best") if runs.best(name)]
    if not names:
        return missing_run("tdt4265-base-best")
    for name in names:
        found = runs.best(name)
        if found:
            rows.append(
                (
                    name,
                    *(f"{read(found):.4f}" for read in (TRAIN, VALIDATION, TEST)),
                    f"{found.metrics['epochs']:g}",
                )
            )
    first = runs.best(names[0])
    source = first.source if first else function(_best)
    return TablePart(
        "The same networks with better training (momentum, one-cycle schedule, label smoothing, shifts, flips)",
        ("recipe", "train", "validation", "test", "epochs"),
        tuple(rows),
        source,
    )


def _batch_norm(runs: RunIndex) -> Section:
    with_and_without = runs.switch("tdt4265-base", "batch-norm")
    parts: list[Part] = []
    if with_and_without is None:
        parts.append(
            MissingPart(
                "figure 3, losses with and without batch normalization",
                "The ablation of the base network has not been run.",
                "python -m kerascv_course.ablate tdt4265-base --switches batch-norm",
                (target("T001-24"),),
            )
        )
    else:
        gains = runs.gains("tdt4265-base")
        largest = max(gains, key=lambda name: gains[name])
        source = with_and_without[0].source
        parts += [
            curves(
                {"without batch normalization": with_and_without[0], "with batch normalization": with_and_without[1]},
                ("loss+val_loss",),
                "batch-norm",
                "Figure 3 (the report's is lost): training and validation loss with and without batch normalization.",
            ),
            NumbersPart(
                (
                    ComparedNumber(
                        target("T001-24"), "batch normalization" if largest == "batch-norm" else largest, source, _gains(gains)
                    ),
                )
            ),
        ]
    return Section(
        "Task 3 (c) to (e): one change at a time",
        "Change one thing at a time (batch normalization, filters, their size, L2, dropout, augmentation, pooling or stride, the "
        "optimizer) and say what helps.",
        tuple(parts),
    )


def _gains(gains: Mapping[str, float]) -> str:
    shown = ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in sorted(gains.items(), key=lambda item: -item[1]))
    return f"gain in validation accuracy over the base, percentage points, mean over the seeds: {shown}"


def _transfer(runs: RunIndex) -> Section:
    ours = runs.best("tdt4265-transfer-tune")
    parts: list[Part] = [
        measured(runs, "tdt4265-transfer", {"T001-25": TEST}),
        TextPart(
            "The report fine-tunes an ImageNet ResNet-18 at 224×224, with weights from a hub. If they are not available, the recipes "
            "tdt4265-transfer-probe and -tune do the same in two phases with MobileNet at 96×96."
        ),
    ]
    if ours:
        parts.append(
            TablePart(
                "Transfer learning in two phases with an ImageNet MobileNet: first the head, then all layers",
                ("recipe", "train", "validation", "test"),
                (("tdt4265-transfer-tune", *(f"{read(ours):.4f}" for read in (TRAIN, VALIDATION, TEST))),),
                ours.source,
            )
        )
    parts += [_trainable(), errata("E001-14")]
    return Section(
        "Task 4 (a): transfer learning",
        "Take an ImageNet ResNet-18, train its last stage and a new head on CIFAR-10, and report the test accuracy.",
        tuple(parts),
    )


def _trainable() -> Part:
    network = create_model("resnet18", 10)
    everything = summarize(network).trainable
    freeze_before(network, "stage4_block1_conv1")
    trainable = summarize(network).trainable
    return TablePart(
        "ResNet-18 with ten outputs, frozen up to its last stage",
        ("trainable parameters", "of"),
        ((f"{trainable:,}", f"{everything:,}"),),
        function(freeze_before, summarize),
    )


def _inside(runs: RunIndex) -> Section:
    recipe = next((name for name in ("tdt4265-transfer", "tdt4265-transfer-tune") if runs.best(name)), "tdt4265-base")
    return Section(
        "Task 4 (b) and (c): filters and activations",
        "Plot filters and activations of the first convolution for one image, and activations of the last one; say what they detect.",
        (
            best_figure(
                runs, recipe, "first_convolution", f"Figure 6 (the report's is lost): filters and activations ({recipe})."
            ),
            best_figure(
                runs,
                recipe,
                "last_convolution",
                f"Figure 7 (the report's is lost): last activations ({recipe}).",
            ),
        ),
    )


REPORT = CourseReport(
    "tdt4265_a3",
    "TDT4265, assignment 3: convolutional networks on CIFAR-10",
    "Norwegian University of Science and Technology, computer vision and deep learning; report of March 2022.",
    lambda runs: (_by_hand(), _base(runs), _models(runs), _batch_norm(runs), _transfer(runs), _inside(runs)),
    QUICK,
    quick_switches={"tdt4265-base": ("batch-norm",)},
)
