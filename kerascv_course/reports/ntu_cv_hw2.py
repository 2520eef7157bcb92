"""Report 002: National Taiwan University, computer vision, homework 2: scenes without a network, and CIFAR-10 with several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kerascv_course import plots
from kerascv_course.analysis import Summary, summarize
from kerascv_course.analysis.torchsummary import torch_summary, torch_totals
from kerascv_course.config import Data
from kerascv_course.reports.building import (
    build,
    computed,
    curves,
    drawn,
    findings,
    function,
    measured,
    missing_run,
    picture,
    test,
    train,
    validation,
)
from kerascv_course.reports.page import Answer, Code, Comparison, Missing, Page, Part, Section, Table
from kerascv_course.reports.runs import Found, Shelf
from kerascv_course.reports.targets import target

NAME, TITLE = "ntu_cv_hw2", "NTU computer vision, homework 2: scenes and CIFAR-10"

_SCENES = {"data.image_size": (32, 32)}

#: Small runs on embedded data: recipe to what is changed in it.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "ntu-tiny-knn": {"data.image_size": (8, 8)},
    "ntu-bag-of-sift": {**_SCENES, "scenes.bin_sizes": (4,), "scenes.step": 3, "scenes.words": 50},
    "ntu-mynet": {"data": Data("digits"), "epochs": 1},
    "ntu-resnet18": {"data": Data("digits"), "epochs": 1},
    "ntu-lenet": {"data": Data("digits"), "epochs": 2},
}

#: Sweeps of the small runs: recipe to setting and values.
QUICK_SWEEPS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "ntu-tiny-knn": {"k": tuple(range(1, 11))},
    "ntu-bag-of-sift": {"k": tuple(range(1, 11)), "step": (1, 3, 5)},
}

#: The limit of a submission, MB, and the strong baseline, by the targets that print them.
LIMIT, STRONG, WEAK = "T002-56", "T002-47", "T002-24"

NETWORKS = ("ntu-mynet", "ntu-resnet18", "ntu-vgg16", "ntu-vgg16-wide", "ntu-vgg16-wide-flip", "ntu-vgg19", "ntu-lenet",
            "ntu-alexnet", "ntu-googlenet", "ntu-densenet")  # fmt: skip


def page(shelf: Shelf) -> Page:
    """The page from the runs of a shelf."""
    return build(
        NAME,
        TITLE,
        "National Taiwan University, computer vision, homework 2: fifteen scenes by nearest neighbours, and a comparison of networks.",
        (_tiny(shelf), _bag(shelf), _networks(), _table5(shelf), _comparison(shelf)),
        shelf,
    )


def _ids(first: int, count: int) -> list[str]:
    return [f"T002-{number:02d}" for number in range(first, first + count)]


def _swept(shelf: Shelf, recipe: str, setting: str, ids: Sequence[str], caption: str) -> list[Part]:
    """A sweep's test accuracies beside the printed ones, and both as a figure."""
    found = shelf.sweep(recipe, setting)
    targets = tuple(map(target, ids))
    if found is None:
        command = f"python -m kerascv_course.scenes sweep {recipe} --over {setting} --test --data-dir DATA --output RUN"
        return [Missing(caption, "This sweep has not been run.", command, targets)]
    rows = {str(row["settings"][setting]): row for row in found.rows}
    values = [one.conditions.split(";")[0] for one in targets]
    answers = []
    for one in targets:
        wanted = _setting(one.conditions, setting)
        if wanted in rows:
            answers.append(Answer(one, float(rows[wanted]["test"]), found.source, f"{setting} {wanted}"))
    lines = {"ours": [float(answer.ours) for answer in answers]}
    if not found.small:
        lines["report"] = [float(answer.target.value) for answer in answers]
    places = [_setting(answer.target.conditions, setting) for answer in answers]
    figure = plots.accuracy_lines(places, lines, setting, caption)
    parts: list[Part] = [Comparison(tuple(answers)), drawn(f"{recipe}-{setting}", figure, caption, found.source)]
    left = tuple(one for one in targets if one not in [answer.target for answer in answers])
    if left:
        parts.append(Missing(f"values of {setting} that the sweep did not try", f"It tried {', '.join(values)}.", "", left))
    return parts


def _setting(conditions: str, setting: str) -> str:
    """The value of k or step in a target's conditions: ``k=8; …`` or ``… dsift step [3,3] …``."""
    for part in conditions.split(";"):
        words = part.strip()
        if setting == "k" and words.startswith("k="):
            return words[2:]
        if setting == "step" and words.startswith("dsift step ["):
            return words[len("dsift step [") :].split(",")[0]
    return ""


def _tiny(shelf: Shelf) -> Section:
    return Section(
        "Part 1: tiny images",
        "Shrink every picture to 16×16, normalise, and let the nearest neighbours vote; try distances, norms and k; pass 0.2.",
        (
            *_swept(shelf, "ntu-tiny-knn", "k", _ids(1, 10), "Table 2: tiny images, accuracy against k"),
            measured(
                shelf, "ntu-tiny-knn", {WEAK: test}, {WEAK: "the recipe's accuracy, which is to pass the printed baseline"}
            ),
            picture(
                shelf, "ntu-tiny-knn", "confusion_matrix", "Half of table 1, which is lost: tiny images, rows add up to one."
            ),
            findings("E002-06", "E002-08"),
        ),
    )


def _bag(shelf: Shelf) -> Section:
    return Section(
        "Part 1: bags of SIFT words",
        "Describe every picture by the histogram of its SIFT words; try the vocabulary, the step and k.",
        (
            *_swept(shelf, "ntu-bag-of-sift", "k", _ids(11, 10), "Table 3: bags of SIFT words, accuracy against k"),
            *_swept(shelf, "ntu-bag-of-sift", "step", _ids(21, 3), "Table 4: bags of SIFT words, accuracy against the step"),
            picture(
                shelf,
                "ntu-bag-of-sift",
                "confusion_matrix",
                "The other half of table 1: bags of SIFT words, rows add up to one.",
            ),
            findings("E002-05", "E002-07"),
        ),
    )


def _networks() -> Section:
    from kerascv_course.models import create_model

    parts: list[Part] = []
    for name, first in (("mynet", 35), ("resnet18_cifar", 41)):
        summary = summarize(create_model(name))
        ids = dict(zip(_ids(first, 6), _totals(summary), strict=True))
        parts += [computed(function(torch_totals), ids), _rows(summary)]
    return Section(
        "Part 2: the networks",
        "Print the structure of the network of one's own (MyNet, a GoogLeNet) and of ResNet-18 for small pictures.",
        (*parts, findings("E002-01", "E002-04", "E002-09")),
    )


def _totals(summary: Summary) -> tuple[Any, ...]:
    """In the order of the targets: trainable parameters, four sizes in MB, other parameters."""
    totals = torch_totals(summary)
    sizes = (totals.input_mb, totals.passes_mb, totals.parameters_mb, totals.total_mb)
    return (totals.trainable, *(f"{size:.2f}" for size in sizes), totals.parameters - totals.trainable)


def _rows(summary: Summary) -> Code:
    return Code(torch_summary(summary), f"{summary.name}, every row", function(torch_summary))


def _table5(shelf: Shelf) -> Section:
    loss: Callable[[str], Callable[[Found], float]] = lambda split: lambda found: float(found.figure(split, "loss"))  # noqa: E731
    readers = (train, validation, loss("train"), loss("validation"), test)
    pairs = (("ntu-mynet", 25), ("ntu-resnet18", 30))
    runs = {recipe.removeprefix("ntu-"): found for recipe, _ in pairs if (found := shelf.best(recipe))}
    note = "ours is the accuracy on the test split, which neither training nor its validation has seen"
    parts: list[Part] = [
        measured(shelf, recipe, dict(zip(_ids(first, 5), readers, strict=True)), {f"T002-{first + 4}": note})
        for recipe, first in pairs
    ]
    if runs:
        parts.append(
            curves(
                runs,
                ("accuracy", "val_accuracy", "loss", "val_loss"),
                "curves",
                "Tables 6 and 7, which are lost: accuracy and loss on training and validation images against the epoch.",
            )
        )
    return Section(
        "Part 2: accuracies and curves",
        "Give accuracy and loss of both networks on training and validation images, draw them against the epoch, and explain why "
        "residual networks can be deep.",
        (*parts, findings("E002-02")),
    )


def _comparison(shelf: Shelf) -> Section:
    from kerascv_course.models import create_model
    from kerascv_course.recipes import get_recipe

    strong, limit = float(target(STRONG).value), float(target(LIMIT).value)
    found = {name: run for name in NETWORKS if (run := shelf.best(name))}
    accuracies = {name: float(run.figure("test", "accuracy")) for name, run in found.items()}
    rows, too_large = [], []
    for name in NETWORKS:
        recipe = get_recipe(name)
        options: dict[str, Any] = dict(recipe.model_options)
        size = 4 * summarize(create_model(recipe.model, 10, (32, 32, 3), **options)).parameters / 1e6
        too_large += [name.removeprefix("ntu-")] * (size > limit)
        shown = f"{accuracies[name]:.4f}" if name in accuracies else "not run"
        rows.append((name, recipe.model, f"{size:.1f}", "no" if size > limit else "yes", shown))
    parts: list[Part] = [
        Table(
            f"The networks at 32×32 with ten classes; MB of float32 weights against the limit of {limit:g}",
            ("recipe", "network", "MB", "within the limit", "test accuracy"),
            tuple(rows),
            function(summarize),
        ),
        Comparison(
            (
                Answer(
                    target(LIMIT),
                    f"{len(NETWORKS) - len(too_large)} of {len(NETWORKS)} within it",
                    function(summarize),
                    f"larger: {', '.join(too_large) or 'none'}",
                    given=True,
                ),
            )
        ),
    ]
    if accuracies:
        best = max(accuracies, key=lambda name: accuracies[name])
        parts.append(
            Comparison(
                (Answer(target(STRONG), accuracies[best], found[best].source, f"the best of those that were run: {best}"),)
            )
        )
    passes = lambda run: "yes" if run.figure("test", "accuracy") > strong else "no"  # noqa: E731
    below = lambda run: f"{'<' if run.figure('test', 'accuracy') < strong else '>='} {strong:g}"  # noqa: E731
    above = lambda run: f"{'>' if run.figure('test', 'accuracy') > strong else '<='} {strong:g}"  # noqa: E731
    wanted: dict[str, dict[str, Callable[[Found], Any]]] = {
        "ntu-resnet18": {"T002-48": passes},
        "ntu-vgg16": {"T002-49": test},
        "ntu-vgg16-wide": {"T002-50": test},
        "ntu-vgg16-wide-flip": {"T002-51": above},
        "ntu-lenet": {"T002-53": below},
        "ntu-googlenet": {"T002-54": test},
        "ntu-densenet": {"T002-55": test},
    }
    parts += [measured(shelf, name, readers) for name, readers in wanted.items()]
    if {"ntu-vgg16", "ntu-vgg19"} <= found.keys():
        lower = accuracies["ntu-vgg19"] < accuracies["ntu-vgg16"]
        answer = Answer(target("T002-52"), f"{'' if lower else 'not '}lower than VGG16", found["ntu-vgg19"].source)
        parts.append(Comparison((answer,)))
    else:
        parts.append(missing_run("ntu-vgg19", "T002-52"))
    return Section(
        "Part 2: which network",
        "Compare networks: which passes the strong baseline, within the size limit of a submission?",
        (*parts, findings("E002-03")),
    )
