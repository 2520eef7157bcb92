"""What the report modules are written with: a report's description, and the parts of its page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kerascv_course.plots.base import compare_curves
from kerascv_course.recipes import get_recipe
from kerascv_course.reports.checks import show
from kerascv_course.reports.page import (
    ComparedNumber,
    ErrataPart,
    FigurePart,
    MissingPart,
    NumbersPart,
    Page,
    Part,
    Section,
    Source,
)
from kerascv_course.reports.runs import FinishedRun, RunIndex
from kerascv_course.reports.targets import REPORTS, target, targets_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "TEST",
    "TRAIN",
    "VALIDATION",
    "CourseReport",
    "best_figure",
    "build_page",
    "computed",
    "curves",
    "errata",
    "figure",
    "function",
    "measured",
    "missing_run",
    "run_figure",
]


@dataclass(frozen=True)
class CourseReport:
    """A report.

    Attributes:
        name: on the command line.
        title: of its page.
        about: course and assignment, in a sentence.
        sections: makes the sections of the page from runs.
        quick: small runs on embedded data: recipe to its changes.
        quick_switches: recipe to switches of its ablation that are run as well.
        quick_sweeps: recipe to setting and its values.
    """

    name: str
    title: str
    about: str
    sections: Callable[[RunIndex], tuple[Section, ...]]
    quick: Mapping[str, Mapping[str, Any]]
    quick_switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    quick_sweeps: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)


def build_page(report: CourseReport, runs: RunIndex) -> Page:
    """Build a report's page; printed numbers that no part compares or lists as missing are listed at its end."""
    page = Page(report.name, report.title, report.about, report.sections(runs), runs.small)
    listed = {number.target for number in page.numbers()} | {one for part in page.missing() for one in part.targets}
    left = tuple(one for one in targets_of(REPORTS[report.name]) if one not in listed)
    if not left:
        return page
    part = MissingPart("printed numbers without a run or function", "Nothing in this package computes them yet.", "", left)
    return replace(page, sections=(*page.sections, Section("Not compared", "What else the report prints.", (part,))))


def function(*functions: Callable[..., Any]) -> Source:
    """Functions of this package as the source of a number."""
    return Source("function", ", ".join(f"{one.__module__}.{one.__qualname__}" for one in functions))


def computed(source: Source, ours: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> NumbersPart:
    """Printed numbers compared with the results of functions.

    Args:
        source: the functions.
        ours: id of a target to our value.
        notes: id to a remark.
    """
    notes = notes or {}
    return NumbersPart(tuple(ComparedNumber(target(id_), value, source, notes.get(id_, "")) for id_, value in ours.items()))


def measured(
    runs: RunIndex, recipe: str, ours: Mapping[str, Callable[[FinishedRun], Any]], notes: Mapping[str, str] | None = None
) -> Part:
    """Printed numbers compared with the metrics of a recipe's best run; a `MissingPart` if there is none.

    Args:
        runs: to choose from.
        recipe: name.
        ours: id of a target to the function that reads our value from the run.
        notes: id to a remark.
    """
    run = runs.best(recipe)
    if run is None:
        return missing_run(recipe, *ours)
    return computed(run.source, {id_: read(run) for id_, read in ours.items()}, notes)


def missing_run(recipe: str, *targets: str) -> MissingPart:
    """A recipe that has not been run."""
    return MissingPart(
        f"a run of {recipe}",
        f"Expected: {get_recipe(recipe).expect}.",
        f"python -m kerascv_course.train {recipe}",
        tuple(map(target, targets)),
    )


def best_figure(runs: RunIndex, recipe: str, plot: str, caption: str) -> Part:
    """A plot of a recipe's best run; a `MissingPart` if there is none.

    Args:
        runs: to choose from.
        recipe: name.
        plot: file stem in the run's plots.
        caption: of the figure.
    """
    run = runs.best(recipe)
    return missing_run(recipe) if run is None else run_figure(run, plot, caption)


def run_figure(run: FinishedRun, plot: str, caption: str) -> Part:
    """A plot of a run; a `MissingPart` if the run has none of that name."""
    path = run.folder / f"plots/{plot}.png"
    if not path.is_file():
        return MissingPart(caption.rstrip("."), f"The run {run.folder.path.name} has no such plot.")
    return FigurePart(f"{run.recipe.name}-{plot}", path.read_bytes(), caption, run.source)


def figure(name: str, drawn: Figure, caption: str, source: Source) -> FigurePart:
    """A figure drawn for the page."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=100)
    return FigurePart(name, buffer.getvalue(), caption, source)


def curves(runs: Mapping[str, FinishedRun], panels: Sequence[str], name: str, caption: str) -> FigurePart:
    """Learning curves of several runs in one figure.

    Args:
        runs: legend entry to the run.
        panels: as `kerascv_course.plots.compare_curves` takes them.
        name: of the figure.
        caption: of the figure.
    """
    folders = ", ".join(run.folder.path.name for run in runs.values())
    drawn = compare_curves({label: [run.history] for label, run in runs.items()}, panels)
    return figure(name, drawn, f"{caption} Runs: {folders}.", next(iter(runs.values())).source)


def errata(*identifiers: str) -> ErrataPart:
    """Errors of the report with their evidence."""
    return ErrataPart(tuple(map(show, identifiers)))


def _accuracy(split: str) -> Callable[[FinishedRun], float]:
    """A function that reads the accuracy on a split, 0–1, from a run."""
    return lambda run: float(run.metric(split, "accuracy"))


#: Readers of the accuracy on a split.
TRAIN, VALIDATION, TEST = _accuracy("train"), _accuracy("validation"), _accuracy("test")
