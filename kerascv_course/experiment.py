"""An experiment: one recipe and its run folder, from loading the data to the report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TextIO, TypeVar, Unpack

import keras
from PIL import Image

import export
from kerascv_course import plots
from kerascv_course.analysis.activations import first_and_last
from kerascv_course.config import Recipe, TrainedRecipe
from kerascv_course.core.environment import (
    describe_environment,
    package_versions,
    quiet_stderr,
    seconds_since_start,
    source_commit,
)
from kerascv_course.core.errors import CourseError, InputError, shell_word
from kerascv_course.core.io import atomic_write
from kerascv_course.core.keras_file import load_model, save_model
from kerascv_course.core.progress import LogHandler, Wait, hide
from kerascv_course.core.provenance import is_current, outdated, record_current
from kerascv_course.core.schema import to_json
from kerascv_course.data import Dataset, load
from kerascv_course.data.other import load_other
from kerascv_course.data.record import FILE, check_fingerprint, check_labels, read_record, to_record
from kerascv_course.run_page import write_run_page
from kerascv_course.tasks.base import FittedTask, TrainedTask, get_task
from kerascv_course.training.callbacks import Monitors, describe_result
from kerascv_course.training.checkpoint import Progress, read_progress, write_history
from kerascv_course.training.devices import ONE, Devices, report_out_of_memory
from kerascv_course.training.distributed import agree, leave
from kerascv_course.training.precision import choose_for_device, describe_choice
from kerascv_course.training.resume import check_backend, describe_complete, is_complete, resumed_recipe
from kerascv_course.training.run_dir import METRICS, Run
from kerascv_course.training.trainer import Training, prepare, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from export.validation import GateOptions, ParityReport

__all__ = ["Experiment", "Interrupted", "Options", "configure_logging"]

#: Test images that a run keeps.
SAMPLES = 10

log = logging.getLogger("kerascv_course")

P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(CourseError):
    """The user stopped the training; it can be resumed."""

    exit_code = 130


@dataclass(frozen=True)
class Options:
    """How a recipe is run. None of this changes a metric.

    Attributes:
        data_dir: folder of the dataset (see `kerascv_course.data.load`); a resumed run remembers it.
        resume: continue from the last checkpoint; only the recipe's `resumable` fields may differ.
        train_only: stop after the training, before the test split is used; resuming continues there.
        other_data: measure a run on other data than it was made of (`kerascv_course.data.other`): evaluate and validate alone.
        devices: devices to train on (`kerascv_course.training.devices.find_devices`). Of several processes the first writes the
            folder, evaluates and exports; the others return after the training. All need the same recipe, data and, to resume,
            folder.
        monitors: what else to record of the training.
    """

    data_dir: Path | None = None
    resume: bool = False
    train_only: bool = False
    other_data: bool = False
    devices: Devices = ONE
    monitors: Monitors = dataclasses.field(default_factory=Monitors)


#: What an experiment does by default.
DEFAULTS = Options()


def _locked(method: Callable[Concatenate[Experiment, P], T]) -> Callable[Concatenate[Experiment, P], T]:
    """A method during which no other process may write into the run folder."""

    @functools.wraps(method)
    def locked(experiment: Experiment, /, *arguments: P.args, **options: P.kwargs) -> T:
        with experiment.folder.lock():
            return method(experiment, *arguments, **options)

    return locked


class Experiment:
    """Runs a recipe in a run folder.

    `run` calls `load`, `fit`, `evaluate`, `plot`, `export` and `report` in turn.

    `data`, `model` and `predictions` are loaded or computed at first use. `open` gives the experiment of a finished run, to evaluate,
    export or validate it again.

    Args:
        recipe: the experiment's settings; to resume, the run's own with other `resumable` fields at most.
        run_dir: a new folder, or the run to resume.
        options: dataset folder, resuming, devices and monitors.

    Attributes:
        recipe: with this machine's choice in place of each "auto".
        folder: the run folder, which `fit` creates.
        task: the recipe's `kerascv_course.tasks.base.Task`.
        progress: history and steps of the training; None before `fit`.
        metrics: of each split; empty before `evaluate`.
        seconds: duration of `run`.
        complete: whether `run` found a finished run, with nothing left to train, evaluate or export, and changed nothing.

    Raises:
        InputError: the run cannot be resumed with this recipe, or the options do not suit it.
        CourseError: an optional package that `options` require is not installed.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, options: Options = DEFAULTS) -> None:
        options.monitors.check()
        if options.resume:
            recipe = resumed_recipe(Run.open(run_dir), recipe)
        elif isinstance(recipe, TrainedRecipe):
            recipe = choose_for_device(recipe)
        self.recipe, self.folder, self.options = recipe, Run(run_dir), options
        self.task = get_task(recipe)
        if isinstance(self.task, FittedTask) and options.devices.total > 1:
            raise InputError(f"the task {recipe.task} uses a single device, because it has no gradient descent; omit --devices")
        self.progress: Progress | None = None
        self.metrics: dict[str, Any] = {}
        self.seconds, self.complete = 0.0, False
        self._training: Training | None = None

    @classmethod
    def open(cls, run_dir: Path, data_dir: Path | None = None, *, other_data: bool = False) -> Experiment:
        """The experiment of a run whose training is done.

        Args:
            run_dir: the run folder.
            data_dir: folder of the dataset, if it has moved since.
            other_data: measure the run on the test images of this folder, which are not its own; see `Options`.

        Raises:
            InputError: not a run folder, or a damaged one.
        """
        options = Options(data_dir=data_dir, resume=True, other_data=other_data)
        experiment = cls(Run.open(run_dir).recipe(), run_dir, options)
        if (experiment.folder / METRICS).is_file() and is_current(run_dir, METRICS):
            experiment.metrics = experiment.folder.read_json(METRICS)
        return experiment

    @functools.cached_property
    def data(self) -> Dataset:
        """The dataset with the task's targets; of a run its own files in its own division.

        Raises:
            DataError: the data is missing or unsuitable, or not what the run was made of.
        """
        if not self.options.resume:
            new: Dataset = self.task.label(load(self.recipe.data, self.options.data_dir), None)
            return new
        run = self.folder
        record, data_dir = read_record(run.path), self.options.data_dir or run.data_dir()
        if self.options.other_data:
            labels = (record.labels if record else run.labels()) if self.task.closed_set else None
            other: Dataset = self.task.label(load_other(self.recipe.data, data_dir, labels, record), run.path)
            return other
        data: Dataset = self.task.label(load(self.recipe.data, data_dir, record), run.path)
        if fingerprint := record.fingerprint if record else _fingerprint(run):
            check_fingerprint(run.path, data.info, fingerprint, files=bool(record and record.parts))
        if record is None and self.task.closed_set and (run / METRICS).is_file():
            check_labels(run.path, data.info, run.labels())
        return data

    @functools.cached_property
    def model(self) -> keras.Model:
        """The run's best weights, for inference."""
        return load_model(self.folder.path)

    @functools.cached_property
    def predictions(self) -> Any:
        """The task's predictions for the test split."""
        return self.task.predict(self.model, self.data.test)

    @property
    def headline(self) -> dict[str, str]:
        """The main metrics, name to text: of the test split, or before `evaluate` of the best validation."""
        if self.metrics:
            headline: dict[str, str] = self.task.headline(self.metrics)
            return headline
        if self.progress is None:
            return {}
        best = self.progress.history[self.progress.best]
        return {name: f"{value:g}" for name, value in best.items() if name == "epoch" or name.startswith("val")}

    @property
    def sample(self) -> Path | None:
        """A test image in the folder to try the exported file with; None before `plot`."""
        return next(iter(sorted((self.folder / "samples").glob("*.png"))), None)

    def run(self) -> Experiment:
        """Run the recipe: load, fit, evaluate, plot, export, report.

        Raises:
            InputError: the recipe, the data or the folder cannot be used; nothing is changed.
            LockedError: another process writes into the folder.
            Interrupted: Ctrl-C; the run can be resumed.
            TrainingDivergedError: the loss is not finite.
            OutOfMemoryError: a step requires more memory than there is.
            ParityError: the exported file and Keras give different outputs.
            LostProcessError: another process of the training has ended.
        """
        started = time.perf_counter()
        if not self.options.devices.writes:
            hide()
        with self._writing(), report_out_of_memory(self.recipe, self.folder.path):
            self.load()
            self.complete = self.options.resume and is_complete(self.folder, self.recipe)
            try:
                if not self.complete or self.options.devices.processes > 1:
                    self.fit()
                if self.complete:
                    log.info("%s", describe_complete(self.folder, self.recipe))
                    self.metrics = self.folder.read_json(METRICS)
                elif self.options.devices.writes and not self.options.train_only:
                    self.finish()
            except KeyboardInterrupt:
                raise Interrupted(_describe_interruption(self.folder)) from None
        self.seconds = time.perf_counter() - started
        return self

    def load(self) -> None:
        """Load the data, build and compile the model; nothing is written.

        Raises:
            InputError: the data does not suit the recipe, or the processes of a training do not agree.
        """
        self._refuse_other_data("trained on")
        options = self.options
        if options.resume:
            check_backend(self.folder)
        data = self.data
        if options.devices.processes > 1:
            checkpoint = _digest(self.folder / "last.npz") if options.resume else ""
            agree({"recipe": to_json(self.recipe), "data": data.info.fingerprint, "checkpoint in the run folder": checkpoint})
        if isinstance(self.task, TrainedTask):
            self._training = prepare(self.task, data, options.devices)

    def fit(self) -> None:
        """Train into the run folder, which is created; of several processes only the first writes.

        Raises:
            InputError: the folder exists already, or its checkpoint does not match the model.
            LockedError: another process writes into it.
        """
        if self._training is None and isinstance(self.task, TrainedTask):
            self.load()
        with self._writing():
            self._fit()

    def _fit(self) -> None:
        devices, resume = self.options.devices, self.options.resume
        if devices.writes:
            self._start()
        with self.folder.log_file() if devices.writes else contextlib.nullcontext():
            if self._training:
                self._log_start(self._training)
                monitors = self.options.monitors.callbacks(self.folder) if devices.writes else []
                self.progress = train(self._training, self.folder, resume=resume, monitors=monitors)
            elif isinstance(self.task, FittedTask):
                self._log_start()
                self.progress = _fit(self.task, self.data, self.folder)
        if devices.processes > 1:
            leave()

    def _writing(self) -> contextlib.AbstractContextManager[Any]:
        """Within it no other process may write into the folder, which is created for a new run."""
        if not self.options.devices.writes:
            return contextlib.nullcontext()
        return self.folder.lock() if self.options.resume else Run.claim(self.folder.path)

    def _refuse_other_data(self, what: str) -> None:
        if self.options.other_data:
            raise InputError(f"other data than the run's is measured, not {what}: open the run with its own data")

    def _start(self) -> None:
        """Create the folder, or clean up the one that is resumed."""
        if self.options.resume:
            self.folder.tidy()
            self.folder.record_resume()
            return
        data_dir, devices = self.options.data_dir, self.options.devices
        self.folder = Run.create(self.folder.path, self.recipe)
        self.folder.write_json(
            "environment.json",
            {
                **describe_environment(),
                "backend": keras.backend.backend(),
                "devices": devices.local,
                "processes": devices.processes,
                "data_dir": str(data_dir.resolve()) if data_dir else None,
            },
        )
        self.folder.write_text(FILE, to_record(self.data))
        for name, text in self.task.files(self.data).items():
            self.folder.write_text(name, text)

    def _log_start(self, training: Training | None = None) -> None:
        info = self.data.info
        log.info("%s: %s", self.recipe.name, self.recipe.description)
        sizes = ", ".join(f"{count:,} {name}" for name, count in info.sizes.items())
        shape = "×".join(map(str, info.image_shape))
        log.info("data: %s, %d %s, %s images of %s", info.source, len(info.labels), self.task.targets, sizes, shape)
        if training:
            log.info("%s with %s trainable parameters", training.task.recipe.model, f"{_trainable(training.model):,}")
            log.info("%s", describe_choice(training.task.recipe, self.options.devices))
        if self.options.resume:
            log.info("resuming %s", self.folder.path)

    @_locked
    def finish(self, seconds_before: float = 0.0) -> None:
        """Evaluate, plot, export and report a trained model; after a training on several devices or processes in a process of its own.

        Args:
            seconds_before: duration of the command before this process started.
        """
        self._refuse_other_data("recorded")
        if keras.distribution.distribution() is not None:
            _finish_on_tensorflow(self.folder)
            self.metrics = self.folder.read_json(METRICS)
            return
        if self.progress is None:
            self.progress = read_progress(self.folder / "last.npz")
        with self.folder.log_file():
            best, last = self.progress.history[self.progress.best], self.progress.history[-1]
            log.info("evaluating the best weights (epoch %g of %d)", best["epoch"], last["epoch"])
            earlier = self._test_evaluations()
            self.evaluate()
            seconds = seconds_before + seconds_since_start()
            self.folder.write_json(
                METRICS,
                {
                    **self.metrics,
                    "headline": self.headline,
                    "best_epoch": best["epoch"],
                    "epochs": last["epoch"],
                    "best": best,
                    "last": last,
                    "test_evaluations": earlier + 1,
                    "seconds_since_start": round(seconds, 1),
                    "training_seconds": round(sum(row["seconds"] for row in self.progress.history), 1),
                    "trainable_parameters": _trainable(self.model),
                    "data": dataclasses.asdict(self.data.info),
                },
            )
            record_current(self.folder.path, METRICS)
            self.plot()
            if self.recipe.export.enabled:
                self.export()
            self.report()
            if line := describe_result(self.metrics["test"], self.recipe):
                log.info("%s", line)
            if names := outdated(self.folder.path):
                log.info("made from earlier weights, so make them again: %s", ", ".join(names))

    def _test_evaluations(self) -> int:
        """How often the run's weights have been evaluated on the test split; older versions did not count."""
        if not (self.folder / METRICS).is_file():
            return 0
        return int(self.folder.read_json(METRICS).get("test_evaluations", 1))

    def evaluate(self) -> dict[str, Any]:
        """Metrics of the best weights on each split (see `kerascv_course.tasks.base.Task.evaluate`); nothing is written."""
        with Wait("measuring", sum(len(split) for _, split in self.data.items())):
            self.metrics = self.task.evaluate(self)
        return self.metrics

    @_locked
    def plot(self) -> None:
        """Write plots/: learning curves, the task's figures, activations and filters; and samples/: a few test images."""
        self._refuse_other_data("plotted")
        with Wait("drawing figures"):
            figures = self._figures()
            for name, figure in figures.items():
                self.folder.write_figure(f"plots/{name}.png", figure)
        for name, image in self.task.samples(self.data, SAMPLES).items():
            with atomic_write(self.folder / f"samples/{name}.png") as path:
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)

    def _figures(self) -> dict[str, Figure]:
        """The task's figures, learning curves, activations and filters."""
        figures: dict[str, Figure] = self.task.figures(self)
        if progress := self.progress:
            history, curve = progress.history, self.task.curve
            if "loss" in history[0]:
                best = history[progress.best]["epoch"]
                figures["learning_curves"] = plots.learning_curves(history, curve, best, self.task.more_curves)
            if len(progress.steps):
                figures["step_curves"] = plots.step_curves(progress.steps[:, [0, 2]], history, curve)
        if not isinstance(self.task, FittedTask):
            figures |= first_and_last(self.model, self.data.test.images[0])
        return figures

    @_locked
    def export(self) -> Path:
        """Export the model, validate the file on the whole test split, and only then name it model.onnx.

        A file that fails is kept as model.rejected.onnx; parity.json records the differences in either case.

        Raises:
            InputError: the run has not been evaluated since its weights changed.
            ParityError: the file and Keras give different outputs, or Keras another accuracy than metrics.json has; model.onnx is
                unchanged.
        """
        self._refuse_other_data("exported on")
        if not self.metrics:
            self.metrics = self.folder.read_json(METRICS)
            if not is_current(self.folder.path, METRICS):
                raise InputError(
                    f"{self.folder.path} was trained further after its evaluation: evaluate it first, python -m "
                    f"kerascv_course.train --resume {shell_word(self.folder.path)}"
                )
        log.info("exporting, and validating the file on all %d test images", len(self.data.test))
        path, rejected = self.folder / "model.onnx", self.folder / "model.rejected.onnx"
        gate: GateOptions = {**self._gate(), "predictions": self.task.outputs(self.predictions)}
        serving, images = self.serving_graph(), self.data.test.images
        try:
            with quiet_stderr():
                report = export.export_validated(serving, path, images, gate=gate, rejected=rejected, **self._export_options())
                plain, histograms, summary = report.to_plain(), report.histograms(), report.summary()
        except export.ParityError as error:
            self.folder.write_json("parity.json", error.report.to_plain())
            self.report()
            raise
        self.folder.write_json("parity.json", plain)
        record_current(self.folder.path, path.name)
        figure = plots.difference_histogram(histograms, report.decades, self.recipe.export.tolerance)
        self.folder.write_figure("plots/parity.png", figure)
        log.info("%s", summary)
        return path

    def serving_graph(self) -> keras.Model:
        """The Keras model that the exported file must agree with."""
        graph: keras.Model = self.task.serving_graph(self.model, self.data.info)
        return graph

    def labels(self) -> list[str]:
        """Labels of the exported file; a file of embeddings has none."""
        return list(self.task.labels(self.data.info))

    def validate(self, path: Path | None = None, **options: Unpack[GateOptions]) -> ParityReport:
        """Validate an exported file against the best weights on the whole test split; nothing is written.

        Args:
            path: the file; None: the run's model.onnx.
            **options: of `export.check_parity`, in the place of those that follow from the run.

        Raises:
            ParityError: the file and Keras give different outputs, or its contract does not state what the run has.
        """
        graph, images, path = self.serving_graph(), self.data.test.images, path or self.folder / "model.onnx"
        gate: GateOptions = {**self._gate(), "labels": self.labels()}
        if self.metrics and not self.options.other_data:
            gate["contract"] = export.expected_contract(graph, **self._export_options())
        gate.update(options)
        return export.check_parity(graph, path, images, **gate)

    def _export_options(self) -> dict[str, Any]:
        """Options of `export.export_model`: what the recipe asks for, and what the contract says of data, metrics and origin."""
        recipe, info = self.recipe, self.data.info
        return {
            "name": recipe.name,
            "recipe": dataclasses.asdict(recipe),
            "opset": recipe.export.opset,
            "resize": recipe.data.resize,
            "data": {"source": info.source, "fingerprint": info.fingerprint, "citation": info.citation},
            "versions": package_versions(),
            "commit": source_commit(),
            "license": recipe.export.license,
            "layout": recipe.export.layout,
            "task": recipe.task,
            "preprocessing": (recipe.data.normalize_mean, recipe.data.normalize_std),
            **self.task.describe(self),
        }

    def _gate(self) -> GateOptions:
        """Options of the parity gate."""
        return {
            "targets": self.data.test.targets,
            "accuracy": self.task.gate_accuracy(self.metrics) if self.metrics and not self.options.other_data else None,
            "answer": self.task.answer,
            "tolerance": self.recipe.export.tolerance,
            "relative": self.recipe.export.relative,
            "provider": self.recipe.export.provider,
            "batch_sizes": self.task.batch_sizes,
        }

    @_locked
    def report(self) -> Path:
        """Write report.html from the files of the folder."""
        write_run_page(self.folder)
        return self.folder / "report.html"


def _fit(task: FittedTask[Any], data: Dataset, run: Run) -> Progress:
    """Fit a task without gradients into the run folder; a resumed run finds its long computations in the cache."""
    keras.utils.set_random_seed(task.recipe.seed)
    model, history, best = task.fit(data)
    with atomic_write(run / "best.keras") as path:
        save_model(model, path)
    write_history(run, history)
    for row in history:
        log.info("%s", "  ".join(f"{key} {value:g}" for key, value in row.items() if key != "epoch"))
    return Progress(data.info.fingerprint, history, best)


def _finish_on_tensorflow(run: Run) -> None:
    """`Experiment.finish` in a process where Keras runs on TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-m", "kerascv_course.finish", str(run.path), str(seconds_since_start())],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        check=False,
    )
    if done.returncode:
        raise CourseError(
            "the training is done, but evaluating and exporting on TensorFlow failed, see above; then resume with: "
            f"python -m kerascv_course.train --resume {shell_word(run.path)}"
        )


def _describe_interruption(run: Run) -> str:
    """What is kept of a run that was interrupted, and how it continues."""
    if not (run / "recipe.json").is_file():
        return "interrupted before anything was written"
    kept = "all completed validations are kept" if (run / "last.npz").is_file() else "there is no finished validation yet"
    return f"interrupted; {kept}. Resume with: python -m kerascv_course.train --resume {shell_word(run.path)}"


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(run: Run) -> str:
    """Fingerprint of the data of a run without a record: of the evaluation, else of the checkpoint; empty: there is neither."""
    checkpoint = run / "last.npz"
    return run.fingerprint() or (read_progress(checkpoint).fingerprint if checkpoint.is_file() else "")


def _trainable(model: keras.Model) -> int:
    """Number of trainable parameters."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def configure_logging(stream: TextIO | None = None) -> None:
    """Print this package's log to a stream, a plain line each, and no longer to another; None: stdout."""
    log.handlers[:] = [one for one in log.handlers if not isinstance(one, LogHandler)]
    handler = LogHandler(stream or sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl, which comes with TensorFlow, prints at the root once more
