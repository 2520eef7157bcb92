"""Finished runs and sweeps in folders, to build reports from."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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

__all__ = ["FinishedRun", "FinishedSweep", "RunIndex"]

#: Validation metrics by which the best of several runs is chosen; the first that a run has.
CHOSEN_BY = ("accuracy", "R1")

#: Fields in which runs of one recipe may differ.
FREE = (
    *("description", "expect", "seed", "epochs", "patience", "precision", "jit_compile", "fused", "deterministic", "weights"),
    *("log_style", "snapshots", "export"),
)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: of the run.
        recipe: of the run.
        metrics: its metrics.json.
        small: one of the small runs of ``--quick``.
    """

    folder: Run
    recipe: Recipe
    metrics: dict[str, Any]
    small: bool

    @property
    def source(self) -> Source:
        """The run as a source of numbers."""
        return Source("run", str(self.folder.path), "; ".join(self.folder.commands()), self.small)

    @functools.cached_property
    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv."""
        return read_history(self.folder)

    def metric(self, split: str, name: str) -> Any:
        """A metric of a split."""
        return self.metrics[split][name]

    @property
    def validation(self) -> float:
        """Validation metric by which the best run is chosen; 0 without one, because the test split is no basis for a choice."""
        metrics = self.metrics.get("validation", {})
        return next((float(metrics[name]) for name in CHOSEN_BY if name in metrics), 0.0)


@dataclass(frozen=True)
class FinishedSweep:
    """Results of ``python -m kerascv_course.scenes sweep``.

    Attributes:
        path: the folder.
        recipe: name of the recipe whose settings were varied.
        over: names of the settings.
        rows: settings, and accuracy on validation and test (None: not requested), of each variant.
        command: that made it.
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
        """The sweep as a source of numbers."""
        return Source("run", str(self.path), self.command, self.small)


class RunIndex:
    """All finished runs in some folders.

    A run belongs to a recipe, or to a switch of its ablation, if it has the same settings; `FREE` fields may differ.

    Args:
        folders: searched recursively; missing ones are empty.
        small: changes of the small runs of ``--quick`` to each recipe; None: full runs.
    """

    def __init__(self, folders: Sequence[Path], *, small: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.small = small is not None
        self._changes = small or {}
        self._runs: dict[str, list[FinishedRun]] = {}
        for run in _finished(folders, self.small):
            self._runs.setdefault(run.recipe.name, []).append(run)
        self._sweeps = list(_sweeps(folders, self.small))

    def recipe(self, name: str) -> Recipe:
        """A recipe with the settings of these runs."""
        return with_changes(get_recipe(name), self._changes.get(name, {}))

    def all(self, name: str, changes: Mapping[str, Any] | None = None) -> list[FinishedRun]:
        """Finished runs of a recipe, the best on validation first.

        Args:
            name: of the recipe.
            changes: to the recipe, as `kerascv_course.recipes.ablations.with_changes` takes them.
        """
        wanted = _settings(with_changes(self.recipe(name), changes or {}))
        runs = [run for run in self._runs.get(name, []) if _settings(run.recipe) == wanted]
        return sorted(runs, key=lambda run: -run.validation)

    def best(self, name: str) -> FinishedRun | None:
        """The run of a recipe that is best on validation."""
        return next(iter(self.all(name)), None)

    def gains(self, name: str) -> dict[str, float]:
        """Gain in best validation accuracy of each switch of a recipe's ablation, averaged over the seeds of both."""
        base = {run.recipe.seed: run for run in self.all(name)}
        gains = {}
        for switch, changes in get_ablation(name).switches.items():
            found = [
                run.validation - base[run.recipe.seed].validation for run in self.all(name, changes) if run.recipe.seed in base
            ]
            if found:
                gains[switch] = mean(found)
        return gains

    def switch(self, name: str, switch: str) -> tuple[FinishedRun, FinishedRun] | None:
        """A run of a recipe, and one of the same seed with a switch of its ablation; None: there is no such pair."""
        with_it = {run.recipe.seed: run for run in self.all(name, get_ablation(name).switches[switch])}
        return next(((base, with_it[base.recipe.seed]) for base in self.all(name) if base.recipe.seed in with_it), None)

    def sweep(self, recipe: str, setting: str) -> FinishedSweep | None:
        """A sweep of a recipe over one setting with test accuracies; the last of several."""
        found = [one for one in self._sweeps if one.recipe == recipe and one.over == (setting,)]
        return next((one for one in reversed(found) if all(row["test"] is not None for row in one.rows)), None)

    def __iter__(self) -> Iterator[FinishedRun]:
        return (run for runs in self._runs.values() for run in runs)


def _settings(recipe: Recipe) -> dict[str, Any]:
    recipe = replace(recipe, data=replace(recipe.data, cache="auto"))
    return {field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name not in FREE}


def _finished(folders: Sequence[Path], small: bool) -> Iterator[FinishedRun]:
    paths = {path.parent.resolve() for folder in folders for path in folder.rglob("recipe.json")}
    for path in sorted(paths):
        run = Run.open(path)
        if not ((run / "metrics.json").is_file() and (run / "report.html").is_file()):
            continue
        try:
            yield FinishedRun(run, run.recipe(), run.read_json("metrics.json"), small)
        except CourseError:  # of another version: the recipe cannot be read
            continue


def _sweeps(folders: Sequence[Path], small: bool) -> Iterator[FinishedSweep]:
    for path in sorted({path.resolve() for folder in folders for path in folder.rglob("sweep.json")}):
        try:
            facts = json.loads(path.read_bytes())
            yield FinishedSweep(
                path.parent,
                str(facts["recipe"]["name"]),
                tuple(facts["over"]),
                tuple(facts["rows"]),
                str(facts["environment"].get("command", "")),
                small,
            )
        except (ValueError, KeyError, TypeError):  # damaged, or of another version
            continue
