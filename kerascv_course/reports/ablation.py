"""Ablations: a recipe and its switches with several seeds, run into folders that can be resumed, and summarized in one table."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from kerascv_course.config import Recipe, TrainedRecipe, changed_fields
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError
from kerascv_course.core.io import atomic_write, write_text
from kerascv_course.core.progress import track
from kerascv_course.experiment import Experiment, Interrupted, Options
from kerascv_course.models import check_model
from kerascv_course.plots.base import ablation_metrics
from kerascv_course.recipes.ablations import BASE, Ablation, with_changes
from kerascv_course.reports.comparison import RunGroup, format_differences, group_runs
from kerascv_course.tasks.base import get_task
from kerascv_course.training.callbacks import TrainingDivergedError
from kerascv_course.training.devices import OutOfMemoryError
from kerascv_course.training.precision import choose_for_device
from kerascv_course.training.run_dir import Run

__all__ = ["AblationRun", "plan", "run_all", "write_summary"]

log = logging.getLogger("kerascv_course")


@dataclass(frozen=True)
class AblationRun:
    """One run of an ablation: a switch (or `BASE`) with a seed."""

    switch: str
    recipe: Recipe
    folder: Path


def plan(recipe: Recipe, ablation: Ablation, switches: Sequence[str], seeds: Sequence[int], root: Path) -> list[AblationRun]:
    """The runs of an ablation, seed by seed, the base first, so that an ablation stopped early has complete seeds.

    Args:
        recipe: the base.
        ablation: its switches.
        switches: names; none: all.
        seeds: of weights, order and augmentation; each switch is compared with the base's run of the same seed.
        root: folder of the runs.

    Raises:
        InputError: an unknown switch, one without effect, contradicting values, no seeds or a repeated one.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds needs one or more different seeds; received {' '.join(map(str, seeds)) or 'none'}")
    recipes = {BASE: recipe}
    for name in switches or ablation.switches:
        if name not in ablation.switches:
            raise UnknownNameError(f"switch of {recipe.name}", name, ablation.switches)
        recipes[name] = with_changes(recipe, ablation.switches[name])
        if recipes[name] == recipe:
            raise InputError(f"the switch {name} changes nothing in this base: omit it from --switches")
    for changed in recipes.values():
        if isinstance(changed, TrainedRecipe):
            check_model(changed.model, changed.model_options)
    return [
        AblationRun(name, replace(changed, seed=seed), root / f"{name}-seed{seed}")
        for seed in seeds
        for name, changed in recipes.items()
    ]


def run_all(runs: Sequence[AblationRun], *, data_dir: Path | None = None) -> dict[Path, str]:
    """Run what is not finished; finished runs are kept, interrupted ones resumed.

    Args:
        runs: from `plan`.
        data_dir: folder of the dataset.

    Returns:
        Folders of failed runs (diverged, or out of memory), with the reason.

    Raises:
        InputError: a folder holds a run with other settings; the data cannot be used.
        Interrupted: Ctrl-C; the same command resumes.
    """
    failed = {}
    for number, run in enumerate(track(runs, "ablation", "runs"), start=1):
        existing = _existing(run)
        if existing and (run.folder / "report.html").exists() and existing == _resolved(run, existing):
            log.info("%d of %d: %s is finished, keeping it", number, len(runs), run.folder)
            continue
        log.info("\n%d of %d: %s", number, len(runs), run.folder)
        try:
            Experiment(run.recipe, run.folder, Options(data_dir=data_dir, resume=existing is not None)).run()
        except (TrainingDivergedError, OutOfMemoryError) as error:
            log.info("%s", error)
            failed[run.folder] = str(error)
        except Interrupted:
            raise Interrupted("interrupted; finished runs and validations are kept. Resume with the same command") from None
        keras.backend.clear_session()
        gc.collect()  # the data of a run and its pipeline form reference cycles
    return failed


def _existing(run: AblationRun) -> Recipe | None:
    """The recipe of the run in the folder; None: there is none."""
    if not (run.folder / "recipe.json").exists():
        return None
    existing = Run.open(run.folder).recipe()
    if set(changed_fields(existing, _resolved(run, existing))) - set(existing.resumable):
        raise InputError(f"{run.folder} holds a run with other settings, and is never overwritten: choose another --root")
    return existing


def _resolved(run: AblationRun, existing: Recipe) -> Recipe:
    """The run's recipe with the choices of the existing run in place of each "auto"."""
    if isinstance(run.recipe, TrainedRecipe) and isinstance(existing, TrainedRecipe):
        return choose_for_device(run.recipe, existing)
    return run.recipe


def write_summary(runs: Sequence[AblationRun], ablation: Ablation, root: Path) -> str:
    """Write ``ablation.md`` and ``ablation.png`` from the finished runs.

    Returns:
        The table, in Markdown.

    Raises:
        CourseError: the base has no finished run.
    """
    finished: dict[str, list[Run]] = {}
    for run in runs:
        if (run.folder / "report.html").exists():
            finished.setdefault(run.switch, []).append(Run.open(run.folder))
    if BASE not in finished:
        raise CourseError(f"no run of the base is finished in {root}: there is nothing to compare with")
    groups = group_runs(finished, "switch")
    recipe = runs[0].recipe
    curve = get_task(recipe).curve
    metric = f"test_{curve}"
    notes = {BASE: getattr(recipe, "model", recipe.task)}
    notes |= {name: _changes(ablation.switches[name]) for name in groups if name != BASE}
    table = format_differences(groups, BASE, [f"best_val_{curve}", metric], notes)
    write_text(root / "ablation.md", _page(recipe, ablation, groups, table))
    values = {name: group.metrics[metric] for name, group in groups.items()}
    title = f"{recipe.name}: one change at a time (dot: one seed, bar: mean)"
    figure = ablation_metrics(values, BASE, metric.replace("_", " "), title=title)
    with atomic_write(root / "ablation.png") as path:
        figure.savefig(path, dpi=100)
    return table


def _changes(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.removeprefix('model_options.')} {value}" for path, value in changes.items())


def _page(recipe: Recipe, ablation: Ablation, groups: Mapping[str, RunGroup], table: str) -> str:
    environment = groups[BASE].runs[0].read_json("environment.json")
    machine = environment["machine"]
    return f"""# Ablation of {recipe.name} ({ablation.source})

Each switch changes one thing in the base. Checkpoints are chosen on the validation split, the test split is evaluated once. Mean ±
standard deviation over the seeds; differences are taken seed by seed.

{table}

{machine["processor"]}, {machine["cores"]} cores, {", ".join(machine["gpus"]) or "no GPU"}; {environment["started"][:10]}; \
`{environment["command"]}`

![Ablation](ablation.png)
"""
