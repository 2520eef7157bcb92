"""One recipe, whole: load, train, and `kerascv_course.conclusion`. The command lines only call this."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras

from kerascv_course.conclusion import conclude, conclude_on_tensorflow, load_for, log_file, remembered_data_dir, trainable
from kerascv_course.config import Recipe
from kerascv_course.core.environment import describe_environment
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.schema import to_json
from kerascv_course.data import DataInfo, Splits
from kerascv_course.tasks.base import FittedTask, Task, get_task
from kerascv_course.training.callbacks import write_history
from kerascv_course.training.checkpoint import Progress
from kerascv_course.training.devices import ONE, Devices
from kerascv_course.training.distributed import agree, leave
from kerascv_course.training.memory import telling_out_of_memory
from kerascv_course.training.precision import choose_for_device, describe_choice
from kerascv_course.training.run_dir import Run
from kerascv_course.training.trainer import prepare, train
from kerascv_course.training.watching import Watch, check_watch, watchers

__all__ = ["Interrupted", "Result", "configure_logging", "run_recipe"]

#: Fields of a recipe that may change when a run is resumed.
RESUMABLE = ("epochs", "patience")

log = logging.getLogger("kerascv_course")


class Interrupted(CourseError):
    """The user stopped the training; it can be resumed."""


@dataclass(frozen=True)
class Result:
    """What a finished run comes to.

    Attributes:
        run: the folder.
        headline: the task's few figures, name to text.
        sample: a picture of the test split in the folder, to try the exported file with; None: the run stopped before the test.
        seconds: from loading the data to the report.
    """

    run: Run
    headline: dict[str, str]
    sample: Path | None
    seconds: float


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    train_only: bool = False,
    devices: Devices = ONE,
) -> Result:
    """Run a recipe into a folder.

    Args:
        recipe: what to do.
        run_dir: a new folder, or with `resume` the run to go on with.
        data_dir: where the data stands (see `kerascv_course.data.load`); a resumed run remembers it.
        resume: go on from the last checkpoint; of the recipe only `RESUMABLE` fields may differ from the run's.
        watch: what else is recorded of the training; it changes no figure.
        train_only: stop after the training, before anything is measured on the test split; resumed, the run goes on there.
        devices: what the training is spread over (`kerascv_course.training.devices.find_devices`). Of several
            processes the first writes the folder, measures and exports; the others return after the training. All need the same
            recipe, data and, to resume, the same folder.

    Raises:
        InputError: the recipe, the data or the folder cannot be used; nothing is changed.
        Interrupted: Ctrl-C; the run can be resumed.
        TrainingDivergedError: the loss is not finite.
        OutOfMemoryError: a step takes more memory than there is.
        ParityError: the exported file gives other answers than Keras (`export.validation`).
        LostProcessError: another process of the training has ended.
    """
    started = time.perf_counter()
    watch = watch or Watch()
    check_watch(watch)
    if resume:
        _check_backend(Run.open(run_dir))
        before = choose_for_device(Run.open(run_dir).recipe())
        recipe = choose_for_device(recipe, before)
        _check_resumable(before, recipe)
        data_dir = data_dir or remembered_data_dir(Run.open(run_dir))
    task = get_task(recipe.task)
    if not isinstance(task, FittedTask):
        recipe = choose_for_device(recipe)
    elif devices.total > 1:
        raise InputError(f"the task {recipe.task} is not trained by gradients and uses one device; leave --devices out")
    splits, info = load_for(recipe, task, data_dir, run_dir if resume else None)
    if devices.processes > 1:
        found = _fingerprint(run_dir / "last.npz") if resume else ""
        agree({"recipe": to_json(recipe), "data": info.fingerprint, "checkpoint in the run folder": found})
    with telling_out_of_memory(recipe, run_dir):
        training = None if isinstance(task, FittedTask) else prepare(recipe, task, splits, info, devices)
    if training and not devices.writes:
        train(recipe, training, splits, info, Run(run_dir), resume=resume)
        leave()
        return Result(Run(run_dir), {}, None, time.perf_counter() - started)
    run = Run.open(run_dir) if resume else Run.create(run_dir, recipe)
    with log_file(run), telling_out_of_memory(recipe, run_dir):
        log.info("%s: %s", recipe.name, recipe.description)
        log.info("%s", _data_line(info, task))
        if training:
            log.info("%s with %s trainable parameters", recipe.model, f"{trainable(training.model):,}")
            log.info("%s", describe_choice(recipe, devices))
        _record_start(run, recipe, data_dir, devices, resume=resume)
        if not resume:
            for name, text in task.files(info).items():
                run.write_text(name, text)
        try:
            if training:
                progress = train(recipe, training, splits, info, run, resume=resume, watchers=watchers(run, watch))
            else:
                progress = fit(recipe, task, splits, info, run)
            if devices.processes > 1:
                leave()
            if train_only:
                best = progress.history[progress.best]
                headline = {name: f"{value:g}" for name, value in best.items() if name == "epoch" or name.startswith("val")}
                return Result(run, headline, None, time.perf_counter() - started)
            if keras.backend.backend() == "tensorflow":
                metrics, sample = conclude(run, recipe, task, splits, info, progress)
            else:
                metrics, sample = conclude_on_tensorflow(run)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; every finished validation is kept. Go on with: python -m kerascv_course.train --resume {run.path}"
            ) from None
        return Result(run, task.headline(metrics), sample, time.perf_counter() - started)


def fit(recipe: Recipe, task: Task, splits: Splits, info: DataInfo, run: Run) -> Progress:
    """Let a task that learns without gradients do so, into the run folder; a resumed run finds its long work in the cache."""
    if not isinstance(task, FittedTask):
        raise TypeError(f"{type(task).__name__} is trained by gradients")
    keras.utils.set_random_seed(recipe.seed)
    model, history, best = task.fit(recipe, splits, info)
    with atomic_write(run / "best.keras") as path:
        model.save(path)
    write_history(run, history)
    for row in history:
        log.info("%s", "  ".join(f"{key} {value:g}" for key, value in row.items() if key != "epoch"))
    return Progress(info.fingerprint, history, best)


def _data_line(info: DataInfo, task: Task) -> str:
    sizes = ", ".join(f"{count:,} {name}" for name, count in info.sizes.items())
    return f"data: {info.source}, {len(info.labels)} {task.targets}, {sizes} images of {'×'.join(map(str, info.image_shape))}"


def _check_resumable(before: Recipe, now: Recipe) -> None:
    changed = [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name not in RESUMABLE and getattr(before, field.name) != getattr(now, field.name)
    ]
    if changed:
        raise InputError(
            f"a resumed run keeps its recipe, only {' and '.join(RESUMABLE)} may change; received another {changed[0]}: "
            "start a new run for it"
        )


def _record_start(run: Run, recipe: Recipe, data_dir: Path | None, devices: Devices, *, resume: bool) -> None:
    if resume:
        run.tidy()
        log.info("resuming %s", run.path)
    else:
        run.write_json(
            "environment.json",
            {
                **describe_environment(),
                "backend": keras.backend.backend(),
                "devices": devices.local,
                "processes": devices.processes,
                "data_dir": str(data_dir.resolve()) if data_dir else None,
            },
        )


def _fingerprint(path: Path) -> str:
    """Digest of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_backend(run: Run) -> None:
    """Refuse to go on with another Keras backend, which draws other random numbers."""
    if not (run / "environment.json").is_file():
        return
    began, now = run.read_json("environment.json").get("backend", "tensorflow"), keras.backend.backend()
    if began != now:
        raise InputError(
            f"{run.path} was begun with the Keras backend {began} and goes on with it; this is {now}: set KERAS_BACKEND={began}"
        )


def configure_logging() -> None:
    """Print this package's log to stdout, a plain line each."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl, which comes with TensorFlow, prints at the root once more
