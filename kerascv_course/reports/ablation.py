"""An ablation: a recipe and its switches, each with several seeds, in folders that are kept, resumed, and put into one table."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from kerascv_course import plots
from kerascv_course.config import Recipe, TrainedRecipe, changed_fields
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError
from kerascv_course.core.io import atomic_write
from kerascv_course.experiment import Experiment, Interrupted, Options
from kerascv_course.models import check_model
from kerascv_course.recipes.ablations import BASE, Ablation, with_changes
from kerascv_course.reports.comparison import Row, format_differences, join_runs
from kerascv_course.tasks.base import get_task
from kerascv_course.training.callbacks import TrainingDivergedError
from kerascv_course.training.devices import OutOfMemoryError
from kerascv_course.training.precision import choose_for_device
from kerascv_course.training.run_dir import Run

__all__ = ["Trial", "plan", "report", "run_trials"]

log = logging.getLogger("kerascv_course")


@dataclass(frozen=True)
class Trial:
    """One run of an ablation: a switch (`BASE`: none) with a seed."""

    switch: str
    recipe: Recipe
    folder: Path


def plan(recipe: Recipe, ablation: Ablation, switches: Sequence[str], seeds: Sequence[int], root: Path) -> list[Trial]:
    """The trials, seed by seed, the base first: so that an ablation that is stopped early has whole seeds.

    Args:
        recipe: the base.
        ablation: its switches.
        switches: names of those that are tried; none: all.
        seeds: of the weights, the order and the augmentation; each switch is compared with the base's run of the same seed.
        root: folder of the runs.

    Raises:
        InputError: an unknown switch, one that changes nothing, values that do not go together, no seeds or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds are one or more, each once; received {' '.join(map(str, seeds)) or 'none'}")
    chosen = list(dict.fromkeys(switches or ablation.switches))
    recipes = {BASE: recipe}
    for name in chosen:
        if name not in ablation.switches:
            raise UnknownNameError(f"switch of {recipe.name}", name, ablation.switches)
        recipes[name] = with_changes(recipe, ablation.switches[name])
        if recipes[name] == recipe:
            raise InputError(f"the switch {name} changes nothing against this base: leave it out by --switches")
    for changed in recipes.values():
        if isinstance(changed, TrainedRecipe):
            check_model(changed.model, changed.model_options)
    return [
        Trial(name, replace(changed, seed=seed), root / f"{name}-seed{seed}")
        for seed in seeds
        for name, changed in recipes.items()
    ]


def run_trials(trials: Sequence[Trial], *, data_dir: Path | None = None) -> dict[Path, str]:
    """Run what is not finished; a finished run is kept, an interrupted one resumed.

    Args:
        trials: from `plan`.
        data_dir: where the data stands.

    Returns:
        Folders of the trials that came to nothing (the training diverged, or ran out of memory), with the reason.

    Raises:
        InputError: a folder holds a run with other settings; the data cannot be used.
        Interrupted: Ctrl-C; the same command goes on.
    """
    failed = {}
    for number, trial in enumerate(trials, start=1):
        made = _made(trial)
        if made and (trial.folder / "report.html").exists() and made == _chosen(trial, made):
            log.info("%d of %d: %s is finished, and kept", number, len(trials), trial.folder)
            continue
        log.info("\n%d of %d: %s", number, len(trials), trial.folder)
        try:
            Experiment(trial.recipe, trial.folder, Options(data_dir=data_dir, resume=made is not None)).run()
        except (TrainingDivergedError, OutOfMemoryError) as error:
            log.info("%s", error)
            failed[trial.folder] = str(error)
        except Interrupted:
            raise Interrupted("interrupted; every finished validation is kept, and the same command goes on") from None
        keras.backend.clear_session()
        gc.collect()  # the data of a run and its pipeline hang together in circles
    return failed


def _made(trial: Trial) -> Recipe | None:
    """The recipe that the trial's folder was made with; None: there is none yet."""
    if not (trial.folder / "recipe.json").exists():
        return None
    made = Run.open(trial.folder).recipe()
    if set(changed_fields(made, _chosen(trial, made))) - set(made.resumable):
        raise InputError(
            f"{trial.folder} was made with other settings than those asked for now, and is kept: choose another --root"
        )
    return made


def _chosen(trial: Trial, made: Recipe) -> Recipe:
    """The trial's recipe with the choices of the run that was made with it in place of each "auto"."""
    if isinstance(trial.recipe, TrainedRecipe) and isinstance(made, TrainedRecipe):
        return choose_for_device(trial.recipe, made)
    return trial.recipe


def report(trials: Sequence[Trial], ablation: Ablation, root: Path) -> str:
    """Write ``ablation.md`` and ``ablation.png`` into the root from the finished runs.

    Returns:
        The table, Markdown.

    Raises:
        CourseError: the base has no finished run.
    """
    finished = [trial for trial in trials if (trial.folder / "report.html").exists()]
    groups: dict[str, list[Run]] = {}
    for trial in finished:
        groups.setdefault(trial.switch, []).append(Run.open(trial.folder))
    if BASE not in groups:
        raise CourseError(f"no run of the base is finished in {root}: there is nothing to compare with")
    rows = join_runs(groups, "switch")
    recipe = trials[0].recipe
    curve = get_task(recipe).curve
    figure = f"test_{curve}"
    notes = {BASE: getattr(recipe, "model", recipe.task)} | {
        name: _changes(ablation.switches[name]) for name in groups if name != BASE
    }
    text = format_differences(rows, BASE, [f"best_val_{curve}", figure], notes)
    with atomic_write(root / "ablation.md") as path:
        path.write_text(_page(recipe, ablation, rows, text), encoding="utf-8")
    picture = plots.ablation_metrics(
        {name: row.figures[figure] for name, row in rows.items()},
        BASE,
        figure.replace("_", " "),
        title=f"{recipe.name}: one change at a time; a dot a seed, a bar the mean",
    )
    with atomic_write(root / "ablation.png") as path:
        picture.savefig(path, dpi=100)
    return text


def _changes(changes: Mapping[str, Any]) -> str:
    short: Callable[[str], str] = lambda path: path.removeprefix("model_options.")  # noqa: E731
    return ", ".join(f"{short(path)} {value}" for path, value in changes.items())


def _page(recipe: Recipe, ablation: Ablation, rows: Mapping[str, Row], table: str) -> str:
    environment = rows[BASE].runs[0].read_json("environment.json")
    machine = environment["machine"]
    return "\n".join(
        [
            f"# Ablation of {recipe.name} ({ablation.source})",
            "",
            "Each switch changes one thing against the base. Checkpoints are chosen on the validation split, the test split is",
            "measured once. Mean ± standard deviation over the seeds; differences are taken seed by seed.",
            "",
            table,
            "",
            f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}; "
            f"{environment['started'][:10]}; `{environment['command']}`",
            "",
            "![Ablation](ablation.png)",
            "",
        ]
    )
