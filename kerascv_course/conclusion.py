"""What follows the training of a run: measure, draw, export, prove, report; at once, or later on its folder.

The one module here that calls the export layer, and only when a recipe ends in an export.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from PIL import Image

from kerascv_course import plots
from kerascv_course.analysis.activations import first_and_last
from kerascv_course.config import Recipe
from kerascv_course.core.environment import package_versions, seconds_since_start
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.keras_file import load_keras
from kerascv_course.data import DataInfo, Splits, load
from kerascv_course.reports.run_page import write_run_page
from kerascv_course.tasks.base import FittedTask, Task, get_task
from kerascv_course.training.checkpoint import Progress, read_progress
from kerascv_course.training.run_dir import Run

if TYPE_CHECKING:
    from export import ParityReport

__all__ = [
    "check_run",
    "conclude",
    "conclude_on_tensorflow",
    "draw",
    "evaluate_run",
    "export_again",
    "export_run",
    "finish",
    "load_best",
    "load_for",
    "log_file",
    "measure",
    "remembered_data_dir",
    "run_data",
    "serving_reference",
    "trainable",
    "write_samples",
]

log = logging.getLogger("kerascv_course")


def conclude(
    run: Run,
    recipe: Recipe,
    task: Task,
    splits: Splits,
    info: DataInfo,
    progress: Progress,
    seconds_before: float = 0.0,
) -> tuple[dict[str, Any], Path]:
    """All that follows the training: measure, draw, export, prove, report. `seconds_before`: see `measure`.

    Returns:
        The task's metrics, and a picture of the test split to try the exported file with.
    """
    model = load_best(run)
    metrics = measure(run, recipe, task, model, splits, info, progress, seconds_before)
    draw(run, recipe, task, model, splits, info, progress, metrics)
    sample = write_samples(run, task, splits, info)
    if recipe.export.enabled:
        export_run(run, recipe, task, model, splits, info, metrics)
    write_run_page(run)
    if recipe.log_style == "cose474" and "accuracy" in metrics["test"]:
        log.info("Accuracy of the model on the test images: %.2f %%", 100 * metrics["test"]["accuracy"])
    return metrics, sample


def finish(path: Path, seconds_before: float) -> None:
    """`conclude` for a run whose training is done, from what its folder has; `seconds_before`: see `measure`."""
    run = Run.open(path)
    recipe = run.recipe()
    splits, info = run_data(run)
    with log_file(run):
        conclude(run, recipe, get_task(recipe.task), splits, info, read_progress(run / "last.npz"), seconds_before)


_FINISH = """
import sys
from pathlib import Path
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import run_cli
start_tensorflow()
from kerascv_course.conclusion import finish
from kerascv_course.experiment import configure_logging
configure_logging()
run_cli(lambda: finish(Path(sys.argv[1]), float(sys.argv[2])))
"""


def conclude_on_tensorflow(run: Run) -> tuple[dict[str, Any], Path]:
    """`finish` in a process of its own, where Keras runs on TensorFlow: the converter to ONNX knows its graphs only."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", _FINISH, str(run.path), str(seconds_since_start())], env=environment, check=False
    )
    if done.returncode:
        raise CourseError(
            f"the training is done, but measuring and exporting it on TensorFlow has failed, for the reason above; once mended go "
            f"on with: python -m kerascv_course.train --resume {run.path}"
        )
    return run.read_json("metrics.json"), sorted((run / "samples").glob("*.png"))[0]


def load_for(recipe: Recipe, task: Task, data_dir: Path | None, run_dir: Path | None) -> tuple[Splits, DataInfo]:
    """A recipe's data with its task's targets; `run_dir`: a run whose choices are kept (None: a new one)."""
    splits, info = load(recipe.data, data_dir)
    return task.label(recipe, splits, info, run_dir)


def run_data(run: Run, *, data_dir: Path | None = None) -> tuple[Splits, DataInfo]:
    """The data that a run was made with, from where it stood then or from `data_dir`."""
    recipe = run.recipe()
    return load_for(recipe, get_task(recipe.task), data_dir or remembered_data_dir(run), run.path)


def evaluate_run(run: Run, *, data_dir: Path | None = None) -> dict[str, Any]:
    """Measure a run's best weights anew over the whole of each split; nothing is written.

    Returns:
        The task's metrics (see its `evaluate`).
    """
    recipe = run.recipe()
    task = get_task(recipe.task)
    splits, info = load_for(recipe, task, data_dir or remembered_data_dir(run), run.path)
    return task.evaluate(load_best(run), recipe, splits, info)


def export_again(run: Run, *, data_dir: Path | None = None) -> Path:
    """Export a finished run's best weights anew; its model.onnx is replaced once the new file has passed the gate.

    Returns:
        The file.

    Raises:
        InputError: the run is not finished, or its data cannot be found.
        ParityError: the new file gives other answers than Keras; model.onnx is unchanged.
    """
    recipe, metrics = run.recipe(), run.read_json("metrics.json")
    task = get_task(recipe.task)
    splits, info = load_for(recipe, task, data_dir or remembered_data_dir(run), run.path)
    path = export_run(run, recipe, task, load_best(run), splits, info, metrics)
    write_run_page(run)
    return path


def check_run(run: Run, path: Path | None = None, *, data_dir: Path | None = None) -> ParityReport:
    """Check an exported file against a run's best weights on the whole test split; nothing is written.

    Args:
        run: the run.
        path: the file; None: the run's model.onnx.
        data_dir: where the data stands, if it has moved.

    Raises:
        ParityError: the file gives other answers than Keras.
    """
    recipe = run.recipe()
    serving, splits, labels = serving_reference(run, data_dir=data_dir)
    return _check(serving, path or run / "model.onnx", recipe, get_task(recipe.task), splits, labels)


def serving_reference(run: Run, *, data_dir: Path | None = None) -> tuple[keras.Model, Splits, list[str]]:
    """What a run's exported file should answer like: the serving graph of its best weights, the data, and the labels."""
    recipe = run.recipe()
    task = get_task(recipe.task)
    splits, info = load_for(recipe, task, data_dir or remembered_data_dir(run), run.path)
    model = load_best(run)
    labels = task.describe(model, recipe, info, run.read_json("metrics.json"))["labels"]
    return task.serving_graph(model, recipe, info), splits, list(labels)


def _check(serving: keras.Model, path: Path, recipe: Recipe, task: Task, splits: Splits, labels: Sequence[str]) -> ParityReport:
    from export import check_parity

    options: dict[str, Any] = {"batch_sizes": task.batch_sizes} if isinstance(task, FittedTask) else {}
    return check_parity(
        serving,
        path,
        splits.test.images,
        targets=splits.test.targets,
        answer=task.answer,
        labels=labels,
        tolerance=recipe.export.tolerance,
        **options,
    )


def load_best(run: Run) -> keras.Model:
    """The best weights of a run, for inference.

    Raises:
        InputError: there are none yet, or the file is damaged.
    """
    path = run / "best.keras"
    if not path.is_file():
        raise InputError(f"{path} is missing: the run stopped before its first checkpoint; start it anew")
    return load_keras(path)


def measure(
    run: Run,
    recipe: Recipe,
    task: Task,
    model: keras.Model,
    splits: Splits,
    info: DataInfo,
    progress: Progress,
    seconds_before: float = 0.0,
) -> dict[str, Any]:
    """Measure the best weights on every split and write metrics.json. The test split is touched here for the first time.

    `seconds_before`: of the command, before this process began.
    """
    log.info("measuring the best weights (%g of %d)", progress.history[progress.best]["epoch"], progress.history[-1]["epoch"])
    metrics = task.evaluate(model, recipe, splits, info)
    seconds = seconds_before + seconds_since_start()
    log.info("%.0f s since the command's start, everything included", seconds)
    run.write_json(
        "metrics.json",
        {
            **metrics,
            "headline": task.headline(metrics),
            "best_epoch": progress.history[progress.best]["epoch"],
            "epochs": progress.history[-1]["epoch"],
            "best": progress.history[progress.best],
            "last": progress.history[-1],
            "seconds_since_start": round(seconds, 1),
            "training_seconds": round(sum(row["seconds"] for row in progress.history), 1),
            "trainable_parameters": trainable(model),
            "data": dataclasses.asdict(info),
        },
    )
    return metrics


def draw(
    run: Run,
    recipe: Recipe,
    task: Task,
    model: keras.Model,
    splits: Splits,
    info: DataInfo,
    progress: Progress,
    metrics: dict[str, Any],
) -> None:
    """Write plots/: the learning curves, by epochs and by steps, the task's own figures, and two of the inside."""
    best = progress.history[progress.best]["epoch"]
    if "loss" in progress.history[0]:
        run.write_figure(
            "plots/learning_curves.png", plots.learning_curves(progress.history, task.curve, best, task.more_curves)
        )
    if len(progress.steps):
        run.write_figure("plots/step_curves.png", plots.step_curves(progress.steps[:, [0, 2]], progress.history, task.curve))
    figures = task.figures(model, recipe, splits, info, metrics)
    if not isinstance(task, FittedTask):
        figures |= first_and_last(model, splits.test.images[0])
    for name, figure in figures.items():
        run.write_figure(f"plots/{name}.png", figure)


def write_samples(run: Run, task: Task, splits: Splits, info: DataInfo, count: int = 10) -> Path:
    """Write a few test pictures to samples/, to try the exported file with.

    Returns:
        The first of them.
    """
    paths = []
    for name, image in task.samples(splits, info, count).items():
        paths.append(run / f"samples/{name}.png")
        with atomic_write(paths[-1]) as path:
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
    return paths[0]


def export_run(
    run: Run, recipe: Recipe, task: Task, model: keras.Model, splits: Splits, info: DataInfo, metrics: dict[str, Any]
) -> Path:
    """Export the serving graph, prove it on the whole test split, and only then name it model.onnx.

    A file that fails is kept as model.rejected.onnx; parity.json tells what differs in either case.

    Raises:
        ParityError: the file gives other answers than Keras.
    """
    from export import ParityError, certify, export_model
    from export.files import replace_model

    log.info("exporting, and checking the file on all %d test images", len(splits.test))
    serving, described = task.serving_graph(model, recipe, info), task.describe(model, recipe, info, metrics)
    candidate = run / "model.rejected.onnx"
    normalization = (recipe.data.normalize_mean, recipe.data.normalize_std)
    export_model(
        serving,
        candidate,
        name=recipe.name,
        recipe=dataclasses.asdict(recipe),
        opset=recipe.export.opset,
        resize=recipe.data.resize,
        data={"source": info.source, "fingerprint": info.fingerprint, "citation": info.citation},
        versions=package_versions(),
        license=recipe.export.license,
        layout=recipe.export.layout,
        **{"task": recipe.task, "preprocessing": normalization, **described},
    )
    try:
        report = _check(serving, candidate, recipe, task, splits, described["labels"])
    except ParityError as error:
        run.write_json("parity.json", error.report.to_plain())
        write_run_page(run)
        raise
    run.write_json("parity.json", report.to_plain())
    run.write_figure(
        "plots/parity.png", plots.difference_histogram(report.histograms(), report.decades, recipe.export.tolerance)
    )
    certify(candidate, report)
    replace_model(candidate, run / "model.onnx")
    log.info("%s", report.summary())
    return run / "model.onnx"


def trainable(model: keras.Model) -> int:
    """How many numbers of a model learn."""
    return sum(
        int(weight.size) if hasattr(weight, "size") else 0
        for weight in map(keras.ops.convert_to_numpy, model.trainable_weights)
    )


def remembered_data_dir(run: Run) -> Path | None:
    """Where a run's data stood when it was begun; None: in the usual place."""
    with contextlib.suppress(InputError):
        remembered = run.read_json("environment.json").get("data_dir")
        return Path(remembered) if remembered else None
    return None


@contextlib.contextmanager
def log_file(run: Run) -> Iterator[None]:
    """Copy this package's log to log.txt while the run lasts; a resumed run adds to it."""
    handler = logging.FileHandler(run / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    try:
        yield
    except CourseError as error:
        log.debug("ended with an error: %s", error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
