"""Report 000: HKUST, programming assignment 2, recognizing identities that are not in the training set."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kerascv_course.analysis import summarize
from kerascv_course.analysis.diagram import block_table, blocks_text
from kerascv_course.analysis.torchsummary import torch_summary
from kerascv_course.models import create_model
from kerascv_course.reports.answers import report_text
from kerascv_course.reports.page import CodePart, ComparedNumber, NumbersPart, Part, Section, TablePart
from kerascv_course.reports.paper import count_triplets, dense_parameters
from kerascv_course.reports.parts import CourseReport, computed, curves, errata, function, missing_run, run_figure
from kerascv_course.reports.runs import FinishedRun, RunIndex
from kerascv_course.reports.targets import target

_SMALL = {"data.image_size": (32, 32), "epochs": 3, "batch_size": 16}

#: Small runs on embedded digits in the role of identities.
QUICK: Mapping[str, Mapping[str, Any]] = {"hkust-id": _SMALL, "hkust-triplet": _SMALL}

#: Image sides of runs, pixels; the recipes' own first.
SIDES = (128, 96, 64, 48)

#: Target with the number of identities of the report's training set; images of each.
IDENTITIES, IMAGES = "T000-03", 10

CURVES = ("val_R1", "val_R5", "val_R10", "loss", "val_loss")


def best(runs: RunIndex, recipe: str) -> FinishedRun | None:
    """A recipe's best run on validation, among those with the largest images."""
    if runs.small:
        return runs.best(recipe)
    found = (runs.all(recipe, {"data.image_size": (side, side)}) for side in SIDES)
    return next((runs[0] for runs in found if runs), None)


def _network() -> Section:
    summary = summarize(create_model("resnet18_reid", include_top=False))
    block = next(one for one in block_table(summary) if one.label.startswith("ResBlock"))
    return Section(
        "Q1 to Q5: the network",
        "Take a ResNet-18 whose last stage keeps the size of its feature maps; print its layers; pool the last 8×8 maps; count a "
        "residual block; say which ImageNet weights can be loaded.",
        (
            computed(function(block_table), {"T000-01": block.trainable, "T000-02": summary.trainable}),
            CodePart(blocks_text(summary), "Block by block", function(blocks_text)),
            CodePart(torch_summary(summary), "All layers, in torchsummary's format", function(torch_summary)),
            CodePart(report_text("000"), "All calculator questions of the report, computed", function(report_text)),
            errata("E000-01", "E000-02", "E000-03", "E000-04"),
        ),
    )


def _head(runs: RunIndex) -> Section:
    found = best(runs, "hkust-id")
    parts: list[Part] = []
    if found is None:
        parts.append(missing_run("hkust-id", "T000-03", "T000-04"))
    else:
        trained, validated = identities(found)
        parts += [
            NumbersPart(
                (
                    ComparedNumber(target("T000-03"), trained, found.source, "identities in the run's training set"),
                    ComparedNumber(
                        target("T000-04"),
                        validated,
                        found.source,
                        "identities in its validation set, recognized by distance, without a head",
                    ),
                )
            ),
            TablePart(
                "A head on 512 features",
                ("stage", "outputs", "parameters"),
                tuple(
                    (stage, f"{count:,}", f"{dense_parameters(512, count):,}")
                    for stage, count in (("training", trained), ("validation", validated))
                ),
                function(dense_parameters),
            ),
        ]
    return Section("Q6: the head", "How many outputs does the last layer have in training and in validation?", tuple(parts))


def identities(found: FinishedRun) -> tuple[int, int]:
    """Number of identities a run was trained on and validated on: the gallery has one image of each."""
    return int(found.metric("train", "gallery")), int(found.metric("validation", "gallery"))


def _by_identity(runs: RunIndex) -> Section:
    found = best(runs, "hkust-id")
    parts: list[Part] = (
        [missing_run("hkust-id", "T000-06")] if found is None else [_recalls(found), *_training_figures(found, "Q8")]
    )
    return Section(
        "Q8: training by cross-entropy",
        "Train the network as a classifier of identities; after every epoch rank the images of other identities; plot R1, R5, R10 and "
        "the losses.",
        (*parts, errata("E000-05")),
    )


def _recalls(found: FinishedRun) -> NumbersPart:
    recalls = {name: float(found.metric("test", name)) for name in ("R1", "R5", "R10")}
    names = sorted(recalls, key=lambda name: -recalls[name])
    signs = [">" if recalls[a] > recalls[b] else "=" for a, b in pairwise(names)]
    shown = names[0] + "".join(f" {sign} {name}" for sign, name in zip(signs, names[1:], strict=True))
    values = ", ".join(f"{name} {value:.4f}" for name, value in recalls.items())
    return NumbersPart((ComparedNumber(target("T000-06"), shown, found.source, f"{values}; {_conditions(found)}"),))


def _conditions(found: FinishedRun) -> str:
    baselines = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics["baselines"].items())
    return f"{'×'.join(map(str, found.recipe.data.image_size))} pixels; baselines {baselines}"


def _training_figures(found: FinishedRun, question: str) -> list[Part]:
    return [
        curves(
            {found.recipe.name: found},
            CURVES,
            f"{found.recipe.name}-curves",
            f"{question} (the report's plots are lost): R1, R5 and R10 on identities outside the training set, and the losses.",
        ),
        run_figure(found, "step_curves", "Training loss against the step (mean of ten steps, band: one standard deviation)."),
        run_figure(found, "rank_lists", "Queries and their nearest images; green: same identity."),
    ]


def _triplets() -> Section:
    count = count_triplets(int(target(IDENTITIES).value), IMAGES)
    return Section(
        "Q9 and Q10: triplets",
        "How many triplets can be formed from 230 identities with ten images each?",
        (computed(function(count_triplets), {"T000-05": count.ordered}, {"T000-05": str(count)}), errata("E000-07")),
    )


def _by_triplets(runs: RunIndex) -> Section:
    found = best(runs, "hkust-triplet")
    if found is None:
        parts: list[Part] = [missing_run("hkust-triplet", "T000-07", "T000-08", "T000-09")]
    else:
        history = [float(row["val_R10"]) for row in found.history]
        late = len(history) * 3 // 4
        change = history[-1] - max(history[: late + 1])
        notes = {"T000-07": _conditions(found), "T000-08": ""}
        parts = [
            NumbersPart(
                (
                    *(
                        ComparedNumber(target(name), float(found.metric("test", recall)), found.source, notes[name])
                        for name, recall in (("T000-07", "R1"), ("T000-08", "R5"))
                    ),
                    ComparedNumber(
                        target("T000-09"),
                        f"{history[-1]:.4f}, {change:+.4f} against the best of the first three quarters",
                        found.source,
                        holds=change < 0.02,
                    ),
                )
            ),
            *_training_figures(found, "Q11"),
            run_figure(found, "triplets", "Sampled triplets: anchor, positive, negative (Q9; the report's figure is lost)."),
            *_others(runs),
        ]
    return Section(
        "Q11: training by triplets",
        "Train the embedding by triplets; plot the same; is it better?",
        (*parts, errata("E000-06")),
    )


def _others(runs: RunIndex) -> list[Part]:
    rows = []
    sources = []
    for name in ("hkust-id", "hkust-triplet", "hkust-id-best", "hkust-triplet-best"):
        found = best(runs, name) if not runs.small or name in QUICK else None
        if found:
            figures = (f"{found.metric('test', key):.4f}" for key in ("R1", "R5", "R10", "mAP"))
            rows.append((name, "×".join(map(str, found.recipe.data.image_size)), *figures))
            sources.append(found.source)
    return [
        TablePart(
            "All recipes on identities outside the training set",
            ("recipe", "pixels", "R1", "R5", "R10", "mAP"),
            tuple(rows),
            sources[0],
        )
    ]


REPORT = CourseReport(
    "hkust_pa2",
    "HKUST, assignment 2: identities from a modified ResNet-18",
    "Hong Kong University of Science and Technology, programming assignment 2: train on 230 identities, recognize 49 others. The "
    "course's images are not public; our runs use other images.",
    lambda runs: (_network(), _head(runs), _by_identity(runs), _triplets(), _by_triplets(runs)),
    QUICK,
)
