"""Report 000: HKUST, programming assignment 2, recognising identities that were never trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kerascv_course.analysis import summarize
from kerascv_course.analysis.diagram import block_table, blocks_text
from kerascv_course.analysis.torchsummary import torch_summary
from kerascv_course.reports.answers import report_text
from kerascv_course.reports.building import build, computed, curves, findings, function, missing_run, run_picture
from kerascv_course.reports.page import Answer, Code, Comparison, Page, Part, Section, Table
from kerascv_course.reports.paper import count_triplets, dense_parameters
from kerascv_course.reports.runs import Found, Shelf
from kerascv_course.reports.targets import target

NAME, REPORT, TITLE = "hkust_pa2", "000", "HKUST, assignment 2: identities from a modified ResNet-18"

_SMALL = {"data.image_size": (32, 32), "epochs": 3, "batch_size": 16}

#: Small runs on embedded digits, which stand for identities: recipe to what is changed in it.
QUICK: Mapping[str, Mapping[str, Any]] = {"hkust-id": _SMALL, "hkust-triplet": _SMALL}

#: Sides of the pictures, pixels, that runs may have been made with; the recipes' own first.
SIDES = (128, 96, 64, 48)

#: The target that prints how many identities the report's training set has, and how many pictures there are of each.
IDENTITIES, IMAGES = "T000-03", 10

CURVES = ("val_R1", "val_R5", "val_R10", "loss", "val_loss")


def page(shelf: Shelf) -> Page:
    """The page from the runs of a shelf."""
    return build(
        NAME,
        TITLE,
        "Hong Kong University of Science and Technology, programming assignment 2: learn 230 identities, recognise 49 others. The "
        "course's pictures are not public; runs are made on others.",
        (_network(), _head(shelf), _by_identity(shelf), _triplets(), _by_triplets(shelf)),
        shelf,
    )


def best(shelf: Shelf, recipe: str) -> Found | None:
    """The run of a recipe that validation chooses, of the largest pictures that there are runs of."""
    if shelf.small:
        return shelf.best(recipe)
    found = (shelf.all(recipe, {"data.image_size": (side, side)}) for side in SIDES)
    return next((runs[0] for runs in found if runs), None)


def _network() -> Section:
    from kerascv_course.models import create_model

    summary = summarize(create_model("resnet18_reid", include_top=False))
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


def _head(shelf: Shelf) -> Section:
    found = best(shelf, "hkust-id")
    parts: list[Part] = []
    if found is None:
        parts.append(missing_run("hkust-id", "T000-03", "T000-04"))
    else:
        learnt, others = identities(found)
        parts += [
            Comparison(
                (
                    Answer(target("T000-03"), learnt, found.source, "identities that the run learnt"),
                    Answer(
                        target("T000-04"),
                        others,
                        found.source,
                        "identities that it is validated on; by distance, without a head",
                    ),
                )
            ),
            Table(
                "A head on 512 features",
                ("stage", "outputs", "parameters"),
                tuple(
                    (stage, f"{count:,}", f"{dense_parameters(512, count):,}")
                    for stage, count in (("training", learnt), ("validation", others))
                ),
                function(dense_parameters),
            ),
        ]
    return Section(
        "Q6: the head", "How many outputs does the last layer have while it learns, and while it is validated?", tuple(parts)
    )


def identities(found: Found) -> tuple[int, int]:
    """Identities that a run learnt, and that it was validated on: one picture of each is the gallery."""
    return int(found.figure("train", "gallery")), int(found.figure("validation", "gallery"))


def _by_identity(shelf: Shelf) -> Section:
    found = best(shelf, "hkust-id")
    parts: list[Part] = [missing_run("hkust-id", "T000-06")] if found is None else [_ordered(found), *_learning(found, "Q8")]
    return Section(
        "Q8: learning by cross-entropy",
        "Train the network as a classifier of identities; after every epoch rank the others' pictures; draw "
        "R1, R5, R10 and the losses.",
        (*parts, findings("E000-05")),
    )


def _ordered(found: Found) -> Comparison:
    recalls = {name: float(found.figure("test", name)) for name in ("R1", "R5", "R10")}
    names = sorted(recalls, key=lambda name: -recalls[name])
    signs = [">" if recalls[a] > recalls[b] else "=" for a, b in pairwise(names)]
    shown = names[0] + "".join(f" {sign} {name}" for sign, name in zip(signs, names[1:], strict=True))
    values = ", ".join(f"{name} {value:.4f}" for name, value in recalls.items())
    return Comparison((Answer(target("T000-06"), shown, found.source, f"{values}; {_beside(found)}"),))


def _beside(found: Found) -> str:
    baselines = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics["baselines"].items())
    return f"{'×'.join(map(str, found.recipe.data.image_size))} pixels; baselines: {baselines}"


def _learning(found: Found, question: str) -> list[Part]:
    return [
        curves(
            {found.recipe.name: found},
            CURVES,
            f"{found.recipe.name}-curves",
            f"The plots of {question}, which are lost: R1, R5 and R10 of identities that are not learnt, and the losses.",
        ),
        run_picture(found, "step_curves", "Training loss against the step (mean of ten, band: one standard deviation)."),
        run_picture(found, "rank_lists", "What is nearest to some pictures; green: the right identity."),
    ]


def _triplets() -> Section:
    count = count_triplets(int(target(IDENTITIES).value), IMAGES)
    return Section(
        "Q9 and Q10: triplets",
        "How many triplets can be made of 230 identities with ten pictures each?",
        (computed(function(count_triplets), {"T000-05": count.ordered}, {"T000-05": str(count)}), findings("E000-07")),
    )


def _by_triplets(shelf: Shelf) -> Section:
    found = best(shelf, "hkust-triplet")
    if found is None:
        parts: list[Part] = [missing_run("hkust-triplet", "T000-07", "T000-08", "T000-09")]
    else:
        history = [float(row["val_R10"]) for row in found.history]
        late = len(history) * 3 // 4
        change = history[-1] - max(history[: late + 1])
        notes = {"T000-07": _beside(found), "T000-08": ""}
        parts = [
            Comparison(
                (
                    *(
                        Answer(target(name), float(found.figure("test", recall)), found.source, notes[name])
                        for name, recall in (("T000-07", "R1"), ("T000-08", "R5"))
                    ),
                    Answer(
                        target("T000-09"),
                        f"{history[-1]:.4f}, {change:+.4f} against the best of the first three quarters",
                        found.source,
                        holds=change < 0.02,
                    ),
                )
            ),
            *_learning(found, "Q11"),
            run_picture(found, "triplets", "Sampled triplets: anchor, positive, negative (Q9, which is lost)."),
            *_others(shelf),
        ]
    return Section(
        "Q11: learning by triplets",
        "Train the embedding by triplets; draw the same; does it do better?",
        (*parts, findings("E000-06")),
    )


def _others(shelf: Shelf) -> list[Part]:
    rows = []
    sources = []
    for name in ("hkust-id", "hkust-triplet", "hkust-id-best", "hkust-triplet-best"):
        found = best(shelf, name) if not shelf.small or name in QUICK else None
        if found:
            figures = (f"{found.figure('test', key):.4f}" for key in ("R1", "R5", "R10", "mAP"))
            rows.append((name, "×".join(map(str, found.recipe.data.image_size)), *figures))
            sources.append(found.source)
    return [
        Table(
            "All recipes on identities that they have not learnt",
            ("recipe", "pixels", "R1", "R5", "R10", "mAP"),
            tuple(rows),
            sources[0],
        )
    ]
