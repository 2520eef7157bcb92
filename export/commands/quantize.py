"""``quantize``: an int8 or float16 file with a verdict."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from export.commands.images import read_folder
from export.commands.paths import MODEL, check_exists, containing_run, model_file, run_folder
from export.predictor import OnnxModel
from export.quantization.quantize import LabeledImages, quantize_model
from export.quantization.report import PrecisionReport, RefusedError
from export.untrusted.guard import guarded
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import CourseError, InputError, shell_word
from kerascv_course.core.lock import sole_writer
from kerascv_course.core.provenance import is_current, record_copy

__all__ = ["add_quantize"]

#: File of a run with the reports of its reduced-precision files, one object a kind.
REPORT = "quantize.json"


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Options of ``quantize``."""
    parser.description = (
        "Write an int8 or float16 file beside an exported one. It is kept only if accuracy falls by at most 0.5 points and it is "
        "faster here; otherwise the reason is printed and the exit code is 1."
    )
    parser.add_argument(
        "source",
        type=Path,
        help="run folder with its model.onnx, or an exported ONNX file; model.onnx in a run folder means that run",
    )
    parser.add_argument("--kind", choices=("int8", "float16"), default="int8", help="precision (default: int8)")
    parser.add_argument("--force", action="store_true", help="keep the file whatever the verdict, which its contract states")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: NAME.KIND.onnx beside the float32 file)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime provider (default: cpu)")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 64], help="batch sizes at which it must be faster (default: 1 64)"
    )
    parser.add_argument(
        "--calibration-images", type=int, default=512, metavar="N", help="training images for the ranges (default: 512)"
    )
    parser.add_argument("--data-dir", type=Path, help="run: folder of the dataset, if it has moved since the training")
    parser.add_argument("--calibration", type=Path, metavar="FOLDER", help="ONNX file: training images, for the ranges")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="ONNX file: other images in one folder a label; one half chooses, the other half gives the verdict",
    )
    parser.set_defaults(call=_quantize)


@guarded(always=False)
def _quantize(arguments: argparse.Namespace) -> None:
    try:
        _convert_source(arguments)
    except RefusedError as error:  # its report is printed, which has the reasons
        raise CourseError(f"not kept: {error.report.path} (--force keeps a file whatever the verdict)") from error


def _convert_source(arguments: argparse.Namespace) -> None:
    """Convert a run's model.onnx on the run's own images, or another file on those in `arguments`."""
    source: Path = arguments.source
    check_exists(source)
    if arguments.calibration_images < 1:
        raise InputError(f"--calibration-images must be 1 or more; received {arguments.calibration_images}")
    folders = (arguments.calibration, arguments.images)
    if source.is_dir() and any(folders):
        raise InputError("--calibration and --images are for an ONNX file; a run has its own training and test images")
    if source.is_dir() or (source.name == MODEL and containing_run(source) and not any(folders)):
        with sole_writer(run_folder(source, "")) as run:
            _quantize_run(run, arguments)
        return
    if not all(folders):
        raise InputError(
            f"{source} alone does not have its training data: give --calibration FOLDER (training images) and --images FOLDER "
            "(labeled images), or its run folder"
        )
    if arguments.data_dir:
        raise InputError("--data-dir is for a run folder")
    target = arguments.output or source.with_suffix(f".{arguments.kind}.onnx")
    with sole_writer(target.parent):
        model = OnnxModel(source)
        calibration, _ = read_folder(arguments.calibration, model.load, limit=arguments.calibration_images)
        validation, test = _read_halves(model, arguments.images)
        print(_convert(arguments, source, target, calibration=np.stack(calibration), validation=validation, test=test))
        record_copy(source, target)
    print(f"written: {target}")


def _quantize_run(path: Path, arguments: argparse.Namespace) -> None:
    source = model_file(path)
    if not is_current(path, source.name):
        raise InputError(f"{source} was made from earlier weights: export the run again, python -m export {shell_word(path)}")
    start_tensorflow()
    from kerascv_course.experiment import Experiment, configure_logging

    configure_logging()
    experiment = Experiment.open(path, arguments.data_dir)
    data, run = experiment.data, experiment.folder
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train))[: arguments.calibration_images])
    images = {
        "calibration": data.train.images[chosen],
        "validation": LabeledImages("validation", data.validation.images, data.validation.targets),
        "test": LabeledImages("test", data.test.images, data.test.targets),
    }
    usual = run / f"model.{arguments.kind}.onnx"
    target = arguments.output or usual

    def record(report: PrecisionReport) -> None:
        reports: dict[str, Any] = {}
        with contextlib.suppress(InputError):
            reports = run.read_json(REPORT)
        run.write_json(REPORT, {**reports, report.kind: report.to_plain()})
        record_copy(source, run / f"{REPORT}:{report.kind}")
        record_copy(source, target)
        experiment.report()

    try:
        report = _convert(arguments, source, target, answer=experiment.task.answer, **images)
    except RefusedError as error:
        usual.unlink(missing_ok=True)  # of an earlier call, whose verdict no longer holds
        record(error.report)
        raise
    print(report)
    record(report)
    print(f"written: {target}")


def _convert(arguments: argparse.Namespace, source: Path, target: Path, **images: Any) -> PrecisionReport:
    """Convert a file; the report of one that is not kept is printed."""
    options = {name: getattr(arguments, name) for name in ("kind", "provider", "force")}
    try:
        return quantize_model(source, target, batch_sizes=arguments.batch, **options, **images)
    except RefusedError as error:
        print(error.report)
        raise


def _read_halves(model: OnnxModel, folder: Path) -> tuple[LabeledImages, LabeledImages]:
    """Images in one folder a label: every other one for choosing, the rest for the verdict.

    Raises:
        InputError: folders that are not labels of the file, or none.
    """
    labels = model.contract.labels
    if not model.contract.classifies or not labels:
        raise InputError(f"folders are labels of a classifier; {model.path} has none: quantize its run folder")
    images, classes = read_folder(folder, model.load)
    if unknown := next((name for name in classes if name not in labels), None):
        raise InputError(f"{folder / unknown} is not one of the file's labels: {', '.join(labels[:20])}")
    positions: dict[str, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for number, name in enumerate(classes):
        positions[name] = positions.get(name, 0) + 1
        halves[(positions[name] - 1) % 2].append(number)
    if not halves[1] or "" in classes:
        raise InputError(f"{folder} must have one folder of images a label, with two images or more each")
    validation, test = (
        LabeledImages(
            f"{name} (half of {folder.name})",
            np.stack([images[i] for i in half]),
            np.array([labels.index(classes[i]) for i in half]),
        )
        for name, half in zip(("validation", "test"), halves, strict=True)
    )
    return validation, test
