"""Report 002: National Taiwan University, computer vision, homework 2: scenes without a network, and CIFAR-10 with several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kerascv_course.analysis import Summary, summarize
from kerascv_course.analysis.torchsummary import torch_summary, torch_totals
from kerascv_course.config import Data, TrainedRecipe
from kerascv_course.models import create_model
from kerascv_course.plots.base import accuracy_lines
from kerascv_course.recipes import get_recipe
from kerascv_course.reports.page import CodePart, ComparedNumber, MissingPart, NumbersPart, Part, Section, TablePart
from kerascv_course.reports.parts import (
    TEST,
    TRAIN,
    VALIDATION,
    CourseReport,
    best_figure,
    computed,
    curves,
    errata,
    figure,
    function,
    measured,
    missing_run,
)
from kerascv_course.reports.runs import FinishedRun, RunIndex
from kerascv_course.reports.targets import target

_SCENES = {"data.image_size": (32, 32)}

#: Small runs on embedded data.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "ntu-tiny-knn": {"data.image_size": (8, 8)},
    "ntu-bag-of-sift": {**_SCENES, "scenes.bin_sizes": (4,), "scenes.step": 3, "scenes.words": 50},
    "ntu-mynet": {"data": Data("digits"), "epochs": 1},
    "ntu-resnet18": {"data": Data("digits"), "epochs": 1},
    "ntu-lenet": {"data": Data("digits"), "epochs": 2},
}

#: Targets with the size limit of a submission, MB, and with the strong and the weak baseline.
LIMIT, STRONG, WEAK = "T002-56", "T002-47", "T002-24"

NETWORKS = ("ntu-mynet", "ntu-resnet18", "ntu-vgg16", "ntu-vgg16-wide", "ntu-vgg16-wide-flip", "ntu-vgg19", "ntu-lenet",
            "ntu-alexnet", "ntu-googlenet", "ntu-densenet")  # fmt: skip


def _ids(first: int, count: int) -> list[str]:
    return [f"T002-{number:02d}" for number in range(first, first + count)]


def _swept(runs: RunIndex, recipe: str, setting: str, ids: Sequence[str], caption: str) -> list[Part]:
    """Test accuracies of a sweep compared with the printed ones, and both as a figure."""
    found = runs.sweep(recipe, setting)
    targets = tuple(map(target, ids))
    if found is None:
        command = f"python -m kerascv_course.scenes sweep {recipe} --over {setting} --test --data-dir DATA --output RUN"
        return [MissingPart(caption, "This sweep has not been run.", command, targets)]
    rows = {str(row["settings"][setting]): row for row in found.rows}
    values = [one.conditions.split(";")[0] for one in targets]
    answers = []
    for one in targets:
        wanted = _setting(one.conditions, setting)
        if wanted in rows:
            answers.append(ComparedNumber(one, float(rows[wanted]["test"]), found.source, f"{setting} {wanted}"))
    lines = {"ours": [float(answer.ours) for answer in answers]}
    if not found.small:
        lines["report"] = [float(answer.target.value) for answer in answers]
    places = [_setting(answer.target.conditions, setting) for answer in answers]
    drawn = accuracy_lines(places, lines, setting, caption)
    parts: list[Part] = [NumbersPart(tuple(answers)), figure(f"{recipe}-{setting}", drawn, caption, found.source)]
    left = tuple(one for one in targets if one not in [answer.target for answer in answers])
    if left:
        parts.append(
            MissingPart(f"values of {setting} that are not in the sweep", f"The sweep has {', '.join(values)}.", "", left)
        )
    return parts


def _setting(conditions: str, setting: str) -> str:
    """Value of k or step in a target's conditions: ``k=8; …`` or ``… dsift step [3,3] …``."""
    for part in conditions.split(";"):
        words = part.strip()
        if setting == "k" and words.startswith("k="):
            return words[2:]
        if setting == "step" and words.startswith("dsift step ["):
            return words[len("dsift step [") :].split(",")[0]
    return ""


def _tiny(runs: RunIndex) -> Section:
    return Section(
        "Part 1: tiny images",
        "Resize every image to 16×16, normalize it, and let the nearest neighbors vote; try distances, norms and k; exceed 0.2.",
        (
            *_swept(runs, "ntu-tiny-knn", "k", _ids(1, 10), "Table 2: tiny images, accuracy against k"),
            measured(
                runs,
                "ntu-tiny-knn",
                {WEAK: TEST},
                {WEAK: "the recipe's which must exceed the printed baseline"},
            ),
            best_figure(
                runs,
                "ntu-tiny-knn",
                "confusion_matrix",
                "Table 1 (the report's is lost): confusion matrix of tiny images, normalized per row.",
            ),
            errata("E002-06", "E002-08"),
        ),
    )


def _bag(runs: RunIndex) -> Section:
    return Section(
        "Part 1: bags of SIFT words",
        "Describe every image by the histogram of its SIFT words; try the vocabulary, the step and k.",
        (
            *_swept(runs, "ntu-bag-of-sift", "k", _ids(11, 10), "Table 3: bags of SIFT words, accuracy against k"),
            *_swept(runs, "ntu-bag-of-sift", "step", _ids(21, 3), "Table 4: bags of SIFT words, accuracy against the step"),
            best_figure(
                runs,
                "ntu-bag-of-sift",
                "confusion_matrix",
                "Table 1 (the report's is lost): confusion matrix of bags of SIFT words, normalized per row.",
            ),
            errata("E002-05", "E002-07"),
        ),
    )


def _networks() -> Section:
    parts: list[Part] = []
    for name, first in (("mynet", 35), ("resnet18_cifar", 41)):
        summary = summarize(create_model(name))
        ids = dict(zip(_ids(first, 6), _totals(summary), strict=True))
        parts += [computed(function(torch_totals), ids), _rows(summary)]
    return Section(
        "Part 2: the networks",
        "Print the structure of your own network (MyNet, a GoogLeNet) and of ResNet-18 for small images.",
        (*parts, errata("E002-01", "E002-04", "E002-09")),
    )


def _totals(summary: Summary) -> tuple[Any, ...]:
    """In the order of the targets: trainable parameters, four sizes in MB, other parameters."""
    totals = torch_totals(summary)
    sizes = (totals.input_mb, totals.passes_mb, totals.parameters_mb, totals.total_mb)
    return (totals.trainable, *(f"{size:.2f}" for size in sizes), totals.parameters - totals.trainable)


def _rows(summary: Summary) -> CodePart:
    return CodePart(torch_summary(summary), f"{summary.name}, all layers", function(torch_summary))


def _table5(runs: RunIndex) -> Section:
    loss: Callable[[str], Callable[[FinishedRun], float]] = lambda split: lambda found: float(found.metric(split, "loss"))  # noqa: E731
    readers = (TRAIN, VALIDATION, loss("train"), loss("validation"), TEST)
    pairs = (("ntu-mynet", 25), ("ntu-resnet18", 30))
    best = {recipe.removeprefix("ntu-"): found for recipe, _ in pairs if (found := runs.best(recipe))}
    note = "ours is the accuracy on the test split, used in neither training nor validation"
    parts: list[Part] = [
        measured(runs, recipe, dict(zip(_ids(first, 5), readers, strict=True)), {f"T002-{first + 4}": note})
        for recipe, first in pairs
    ]
    if best:
        parts.append(
            curves(
                best,
                ("accuracy", "val_accuracy", "loss", "val_loss"),
                "curves",
                "Tables 6 and 7 (the report's are lost): accuracy and loss on training and validation images against the epoch.",
            )
        )
    return Section(
        "Part 2: accuracies and curves",
        "Give accuracy and loss of both networks on training and validation images, plot them against the epoch, and explain why "
        "residual networks can be deep.",
        (*parts, errata("E002-02")),
    )


def _comparison(runs: RunIndex) -> Section:
    found = {name: run for name in NETWORKS if (run := runs.best(name))}
    parts = [*_sizes(found), *_against_printed(runs)]
    if found:
        name, best = max(found.items(), key=lambda item: TEST(item[1]))
        answer = ComparedNumber(target(STRONG), TEST(best), best.source, f"best run: {name}")
        parts.append(NumbersPart((answer,)))
    if {"ntu-vgg16", "ntu-vgg19"} <= found.keys():
        lower = TEST(found["ntu-vgg19"]) < TEST(found["ntu-vgg16"])
        answer = ComparedNumber(target("T002-52"), f"{'' if lower else 'not '}lower than VGG16", found["ntu-vgg19"].source)
        parts.append(NumbersPart((answer,)))
    else:
        parts.append(missing_run("ntu-vgg19", "T002-52"))
    return Section(
        "Part 2: which network",
        "Compare networks: which exceeds the strong baseline within the size limit of a submission?",
        (*parts, errata("E002-03")),
    )


def _sizes(found: Mapping[str, FinishedRun]) -> list[Part]:
    """Sizes and accuracies of the networks, and how many are within the size limit."""
    limit = float(target(LIMIT).value)
    rows, too_large = [], []
    for name in NETWORKS:
        recipe = get_recipe(name)
        if not isinstance(recipe, TrainedRecipe):
            raise TypeError(f"{name} has no network")
        options: dict[str, Any] = dict(recipe.model_options)
        size = 4 * summarize(create_model(recipe.model, 10, (32, 32, 3), **options)).parameters / 1e6
        too_large += [name.removeprefix("ntu-")] * (size > limit)
        shown = f"{TEST(found[name]):.4f}" if name in found else "not run"
        rows.append((name, recipe.model, f"{size:.1f}", "no" if size > limit else "yes", shown))
    within = ComparedNumber(
        target(LIMIT),
        f"{len(NETWORKS) - len(too_large)} of {len(NETWORKS)} within the limit",
        function(summarize),
        f"larger: {', '.join(too_large) or 'none'}",
        given=True,
    )
    caption = f"Networks at 32×32 with ten classes; size of the float32 weights against the limit of {limit:g} MB"
    head = ("recipe", "network", "MB", "within the limit", "test accuracy")
    return [TablePart(caption, head, tuple(rows), function(summarize)), NumbersPart((within,))]


def _against_printed(runs: RunIndex) -> list[Part]:
    """Test accuracies of the networks against the printed ones, or against the strong baseline."""
    strong = float(target(STRONG).value)
    wanted: dict[str, tuple[str, Callable[[FinishedRun], Any]]] = {
        "ntu-resnet18": ("T002-48", lambda run: "yes" if TEST(run) > strong else "no"),
        "ntu-vgg16": ("T002-49", TEST),
        "ntu-vgg16-wide": ("T002-50", TEST),
        "ntu-vgg16-wide-flip": ("T002-51", lambda run: f"{'>' if TEST(run) > strong else '<='} {strong:g}"),
        "ntu-lenet": ("T002-53", lambda run: f"{'<' if TEST(run) < strong else '>='} {strong:g}"),
        "ntu-googlenet": ("T002-54", TEST),
        "ntu-densenet": ("T002-55", TEST),
    }
    return [measured(runs, name, {identifier: read}) for name, (identifier, read) in wanted.items()]


REPORT = CourseReport(
    "ntu_cv_hw2",
    "NTU computer vision, homework 2: scenes and CIFAR-10",
    "National Taiwan University, computer vision, homework 2: fifteen scenes by nearest neighbors, and a comparison of networks.",
    lambda runs: (_tiny(runs), _bag(runs), _networks(), _table5(runs), _comparison(runs)),
    QUICK,
    quick_sweeps={
        "ntu-tiny-knn": {"k": tuple(range(1, 11))},
        "ntu-bag-of-sift": {"k": tuple(range(1, 11)), "step": (1, 3, 5)},
    },
)
