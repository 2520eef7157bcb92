"""Report 000: HKUST, programming assignment 2, recognising identities that were never trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerascv_course.analysis import summarize
from kerascv_course.analysis.answers import report_text
from kerascv_course.analysis.paper import count_triplets, dense_parameters
from kerascv_course.analysis.printing import block_table, blocks_text, torch_summary
from kerascv_course.reports.building import build, computed, findings, function, target
from kerascv_course.reports.page import Code, Missing, Page, Section, Table
from kerascv_course.reports.runs import Shelf

NAME, REPORT, TITLE = "hkust_pa2", "000", "HKUST, assignment 2: identities from a modified ResNet-18"

#: There are no small runs: no pictures of people are embedded.
QUICK: Mapping[str, Mapping[str, Any]] = {}

#: Identities of the training and the validation set, and pictures of each.
TRAIN, VALIDATION, IMAGES = 230, 49, 10


def page(shelf: Shelf) -> Page:
    """The page from the runs of a shelf."""
    return build(
        NAME,
        TITLE,
        "Hong Kong University of Science and Technology, programming assignment 2: learn 230 identities, recognise 49 others.",
        (_network(), _head(), _triplets(), _training()),
        shelf,
    )


def _network() -> Section:
    from kerascv_course.registry import create_model

    summary = summarize(create_model("resnet18_reid"))
    block = next(one for one in block_table(summary) if one.label.startswith("ResBlock"))
    return Section(
        "Q1 to Q5: the network",
        "Take a ResNet-18 whose last stage keeps its maps' size; print its layers; pool the last 8×8 maps; count a residual block; "
        "say which ImageNet weights fit.",
        (
            computed(function(block_table), {"T000-01": block.trainable, "T000-02": summary.trainable}),
            Code(blocks_text(summary), "Block by block", function(blocks_text)),
            Code(torch_summary(summary), "Every row, in torchsummary's format", function(torch_summary)),
            Code(report_text(REPORT), "All calculator questions of the report, computed", function(report_text)),
            findings("E000-01", "E000-02", "E000-03", "E000-04"),
        ),
    )


def _head() -> Section:
    from kerascv_course.registry import create_model

    features = summarize(create_model("resnet18_reid")).graph
    width = features.out(features.nodes[-1]).shape[-1]
    units = {}
    rows = []
    for name, stage, identities in (("T000-03", "training", TRAIN), ("T000-04", "validation", VALIDATION)):
        head = create_model("resnet18_reid", identities, include_top=True)
        units[name] = int(head.output_shape[-1])
        rows.append((stage, str(width), str(units[name]), f"{dense_parameters(width, units[name]):,}"))
    return Section(
        "Q6: the head",
        "How many outputs does the last layer have while it learns, and while it is validated?",
        (
            computed(function(create_model), units),
            Table("The last layer", ("stage", "inputs", "outputs", "parameters"), tuple(rows), function(dense_parameters)),
        ),
    )


def _triplets() -> Section:
    count = count_triplets(TRAIN, IMAGES)
    return Section(
        "Q10: triplets",
        "How many triplets can be made of 230 identities with ten pictures each?",
        (
            computed(function(count_triplets), {"T000-05": count.ordered}, {"T000-05": str(count)}),
            findings("E000-07"),
        ),
    )


def _training() -> Section:
    return Section(
        "Q8, Q9 and Q11: learning to tell identities apart",
        "Train by cross-entropy, then by triplets; rank the 49 identities; draw R1, R5, R10 and the losses.",
        (
            Missing(
                "the two trainings",
                "There is no run of them to make this from.",
                "",
                tuple(target(f"T000-{number:02d}") for number in range(6, 10)),
            ),
            findings("E000-05", "E000-06"),
        ),
    )
