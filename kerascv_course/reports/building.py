"""What the report modules are written with: parts of a page from runs and from functions of this package."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kerascv_course.recipes import get_recipe
from kerascv_course.reports.checks import show
from kerascv_course.reports.page import (
    Answer,
    Comparison,
    Finding,
    Findings,
    Missing,
    Page,
    Part,
    Picture,
    Section,
    Source,
)
from kerascv_course.reports.runs import Found, Shelf
from kerascv_course.reports.targets import REPORTS, target, targets_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "build",
    "computed",
    "curves",
    "drawn",
    "findings",
    "function",
    "measured",
    "missing_run",
    "picture",
    "png",
    "run_picture",
    "test",
    "train",
    "validation",
]


def function(*functions: Callable[..., Any]) -> Source:
    """Functions of this package as what made a number."""
    return Source("function", ", ".join(f"{one.__module__}.{one.__qualname__}" for one in functions))


def computed(source: Source, ours: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> Comparison:
    """Printed numbers beside what functions give.

    Args:
        source: the functions.
        ours: id of a target to our value.
        notes: id to what else is to be said.
    """
    return Comparison(tuple(Answer(target(name), value, source, (notes or {}).get(name, "")) for name, value in ours.items()))


def measured(
    shelf: Shelf, recipe: str, ours: Mapping[str, Callable[[Found], Any]], notes: Mapping[str, str] | None = None
) -> Part:
    """Printed numbers beside what the best run of a recipe measured; `Missing` where there is none.

    Args:
        shelf: the runs.
        recipe: name.
        ours: id of a target to how our value is read from the run.
        notes: id to what else is to be said.
    """
    found = shelf.best(recipe)
    if found is None:
        return missing_run(recipe, *ours)
    source = found.source
    return Comparison(
        tuple(Answer(target(name), read(found), source, (notes or {}).get(name, "")) for name, read in ours.items())
    )


def missing_run(recipe: str, *targets: str) -> Missing:
    """A recipe that has not been run."""
    return Missing(
        f"a run of {recipe}",
        f"What to expect: {get_recipe(recipe).expect}.",
        f"python -m kerascv_course.train {recipe}",
        tuple(map(target, targets)),
    )


def picture(shelf: Shelf, recipe: str, plot: str, caption: str) -> Part:
    """A plot of the best run of a recipe; `Missing` where there is none.

    Args:
        shelf: the runs.
        recipe: name.
        plot: name in the run's plots, without its ending.
        caption: what is to be seen.
    """
    found = shelf.best(recipe)
    return missing_run(recipe) if found is None else run_picture(found, plot, caption)


def run_picture(found: Found, plot: str, caption: str) -> Part:
    """A plot of a run; `Missing` where the run has none of that name."""
    path = found.run / f"plots/{plot}.png"
    if not path.is_file():
        return Missing(caption.rstrip("."), f"The run {found.run.path.name} has no such plot.")
    return Picture(f"{found.recipe.name}-{plot}", path.read_bytes(), caption, found.source)


def drawn(name: str, figure: Figure, caption: str, source: Source) -> Picture:
    """A figure that is drawn for the page."""
    return Picture(name, png(figure), caption, source)


def png(figure: Figure) -> bytes:
    """A figure's picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def findings(*identifiers: str) -> Findings:
    """Errors of the report, each with the computation that shows it."""
    shown = map(show, identifiers)
    return Findings(
        tuple(
            Finding(
                one.erratum.id,
                one.erratum.where,
                one.erratum.printed,
                one.erratum.correct,
                one.lines,
                Source("function", one.source),
            )
            for one in shown
        )
    )


def _accuracy(split: str) -> Callable[[Found], float]:
    return lambda found: float(found.figure(split, "accuracy"))


#: How the accuracy on a split is read from a run.
train, validation, test = _accuracy("train"), _accuracy("validation"), _accuracy("test")


def curves(runs: Mapping[str, Found], panels: Sequence[str], name: str, caption: str) -> Picture:
    """Learning curves of several runs in one figure.

    Args:
        runs: name in the legend to the run.
        panels: as `kerascv_course.plots.compare_curves` takes them.
        name: of the figure.
        caption: what is to be seen.
    """
    from kerascv_course import plots

    histories = {label: [found.history] for label, found in runs.items()}
    folders = ", ".join(found.run.path.name for found in runs.values())
    first = next(iter(runs.values()))
    return drawn(name, plots.compare_curves(histories, panels), f"{caption} Runs: {folders}.", first.source)


def build(name: str, title: str, about: str, sections: Sequence[Section], shelf: Shelf) -> Page:
    """A page, on which no printed number is passed over in silence: those that no part answers or misses stand at its end."""
    page = Page(name, title, about, tuple(sections), shelf.small)
    named = {answer.target for answer in page.answers()} | {one for part in page.missing() for one in part.targets}
    left = tuple(one for one in targets_of(REPORTS[name]) if one not in named)
    if not left:
        return page
    part = Missing("printed numbers that nothing here answers", "No run or function of this package gives them yet.", "", left)
    section = Section("Not answered", "What else the report prints.", (part,))
    return replace(page, sections=(*page.sections, section))
