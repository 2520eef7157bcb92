"""Finding the runs that a page is made from."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from kerascv_course.config import Recipe
from kerascv_course.core.errors import CourseError
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import get_ablation, with_changes
from kerascv_course.reports.comparison import read_history
from kerascv_course.reports.page import Source
from kerascv_course.training.run_dir import Run

__all__ = ["Found", "FoundSweep", "Shelf"]

#: Figures by which the best of several runs is chosen, on validation; the first that a run has.
CHOSEN_BY = ("accuracy", "R1")


@dataclass(frozen=True)
class Found:
    """A finished run.

    Attributes:
        run: the folder.
        recipe: what made it.
        metrics: its metrics.json.
        small: one of the small runs of ``--quick``.
    """

    run: Run
    recipe: Recipe
    metrics: dict[str, Any]
    small: bool

    @property
    def source(self) -> Source:
        """For the page."""
        command = self.run.read_json("environment.json").get("command", "")
        return Source("run", str(self.run.path), command, self.small)

    @functools.cached_property
    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv."""
        return read_history(self.run)

    def figure(self, split: str, name: str) -> Any:
        """One of its measured figures."""
        return self.metrics[split][name]

    @property
    def validation(self) -> float:
        """What the best run is chosen by: the validation split's own figure, else the test split is no choice and it is 0."""
        figures = self.metrics.get("validation", {})
        return next((float(figures[name]) for name in CHOSEN_BY if name in figures), 0.0)


@dataclass(frozen=True)
class FoundSweep:
    """What ``python -m kerascv_course.scenes sweep`` left in a folder.

    Attributes:
        path: the folder.
        recipe: name of the recipe whose settings were tried.
        over: which settings.
        rows: settings, accuracy on validation and test (None: not asked for), of each variant.
        command: what made it.
        small: of ``--quick``.
    """

    path: Path
    recipe: str
    over: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    command: str
    small: bool

    @property
    def source(self) -> Source:
        """For the page."""
        return Source("run", str(self.path), self.command, self.small)


class Shelf:
    """All finished runs under some folders.

    A run stands for a recipe, or for one of its ablation's switches, if it was made with the same settings; `FREE` fields may differ.

    Args:
        folders: they and all below are searched; missing ones are empty.
        small: what the small runs of ``--quick`` change in each recipe; None: full runs.
    """

    def __init__(self, folders: Sequence[Path], *, small: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.small = small is not None
        self._changes = small or {}
        self._runs: dict[str, list[Found]] = {}
        for found in _finished(folders, self.small):
            self._runs.setdefault(found.recipe.name, []).append(found)
        self._sweeps = list(_sweeps(folders, self.small))

    def recipe(self, name: str) -> Recipe:
        """A recipe as this shelf's runs are made."""
        return with_changes(get_recipe(name), self._changes.get(name, {}))

    def all(self, name: str, changes: Mapping[str, Any] | None = None) -> list[Found]:
        """Finished runs of a recipe, the one that validation chooses first.

        Args:
            name: of the recipe.
            changes: to the recipe, as `kerascv_course.recipes.ablations.with_changes` takes them.
        """
        wanted = _settings(with_changes(self.recipe(name), changes or {}))
        runs = [found for found in self._runs.get(name, []) if _settings(found.recipe) == wanted]
        return sorted(runs, key=lambda found: -found.validation)

    def best(self, name: str) -> Found | None:
        """The run of a recipe that validation chooses."""
        return next(iter(self.all(name)), None)

    def gains(self, name: str) -> dict[str, float]:
        """What each switch of a recipe's ablation adds to the best validation accuracy: mean over the seeds that both have."""
        base = {found.recipe.seed: found for found in self.all(name)}
        found_gains = {}
        for switch, changes in get_ablation(name).switches.items():
            gains = [
                found.validation - base[found.recipe.seed].validation
                for found in self.all(name, changes)
                if found.recipe.seed in base
            ]
            if gains:
                found_gains[switch] = mean(gains)
        return found_gains

    def switch(self, name: str, switch: str) -> tuple[Found, Found] | None:
        """A run of a recipe and one with a switch of its ablation, of the same seed; None: there is no such pair."""
        with_it = {found.recipe.seed: found for found in self.all(name, get_ablation(name).switches[switch])}
        return next(((base, with_it[base.recipe.seed]) for base in self.all(name) if base.recipe.seed in with_it), None)

    def sweep(self, recipe: str, setting: str) -> FoundSweep | None:
        """A sweep of a recipe over one setting, with accuracies on the test split; the last of several."""
        found = [one for one in self._sweeps if one.recipe == recipe and one.over == (setting,)]
        return next((one for one in reversed(found) if all(row["test"] is not None for row in one.rows)), None)

    def __iter__(self) -> Iterator[Found]:
        return (found for runs in self._runs.values() for found in runs)


#: Fields of a recipe that runs of it may differ in.
FREE = (
    *("description", "expect", "seed", "epochs", "patience", "precision", "jit_compile", "fused", "deterministic", "weights"),
    *("log_style", "snapshots", "export"),
)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name not in FREE}


def _finished(folders: Sequence[Path], small: bool) -> Iterator[Found]:
    paths = {path.parent.resolve() for folder in folders for path in folder.rglob("recipe.json")}
    for path in sorted(paths):
        run = Run.open(path)
        if not ((run / "metrics.json").is_file() and (run / "report.html").is_file()):
            continue
        try:
            yield Found(run, run.recipe(), run.read_json("metrics.json"), small)
        except CourseError:  # of another version: it cannot be told what it is
            continue


def _sweeps(folders: Sequence[Path], small: bool) -> Iterator[FoundSweep]:
    for path in sorted({path.resolve() for folder in folders for path in folder.rglob("sweep.json")}):
        try:
            facts = json.loads(path.read_bytes())
            yield FoundSweep(
                path.parent,
                str(facts["recipe"]["name"]),
                tuple(facts["over"]),
                tuple(facts["rows"]),
                str(facts["environment"].get("command", "")),
                small,
            )
        except (ValueError, KeyError, TypeError):  # damaged, or of another version
            continue
