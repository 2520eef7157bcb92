"""``quantize``: int8 or float16 with a verdict."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.commands import Commands
from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    from export.predictor import OnnxModel
    from export.quantization.quantize import LabeledImages
    from export.quantization.report import PrecisionReport
    from kerascv_course.training.run_dir import Run

#: Report of a run's files of lower precision: an object for each kind.
REPORT = "quantize.json"


def add_parsers(commands: Commands) -> None:
    """The command ``quantize``."""
    quantize = commands.add_parser(
        "quantize",
        help="write an int8 or float16 file, kept only if it is as accurate and faster here",
        description="Write an int8 or float16 file beside an exported one. It is kept only if accuracy falls by at most 0.5 points "
        "and it is faster here; otherwise the reason is told and the exit status is 1.",
        allow_abbrev=False,
    )
    quantize.add_argument("source", type=Path, help="run folder (its model.onnx, its data), or an exported ONNX file")
    quantize.add_argument("--kind", choices=("int8", "float16"), default="int8", help="precision (default: int8)")
    quantize.add_argument("--force", action="store_true", help="keep the file whatever the verdict; its contract says it")
    quantize.add_argument("-o", "--output", type=Path, help="the new file (default: NAME.KIND.onnx beside the float32 file)")
    quantize.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it is measured (default: cpu)")
    quantize.add_argument(
        "--batch", type=int, nargs="+", default=[1, 64], help="batch sizes that it has to be faster at (default: 1 64)"
    )
    quantize.add_argument(
        "--calibration-images", type=int, default=512, metavar="N", help="training images that give the ranges (default: 512)"
    )
    quantize.add_argument("--data-dir", type=Path, help="run: where the data stands, if it has moved since the training")
    quantize.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="ONNX file: pictures like those it was trained on, for the ranges"
    )
    quantize.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="ONNX file: other pictures in one folder a label; half of them choose, the other half give the verdict",
    )
    quantize.set_defaults(call=quantize_command)


def quantize_command(arguments: argparse.Namespace) -> int:
    """Convert, print what was measured, keep or refuse."""
    source: Path = arguments.source
    if not source.exists():
        raise InputError(f"no such run folder or ONNX file: {source}")
    if arguments.calibration_images < 1:
        raise InputError(f"--calibration-images is 1 or more; received {arguments.calibration_images}")
    folders = (arguments.calibration, arguments.images)
    if source.is_dir():
        if any(folders):
            raise InputError("--calibration and --images go with an ONNX file; a run has its own training and test images")
        return _quantize_run(arguments)
    if not all(folders):
        raise InputError(
            f"{source} alone does not say what it was trained on: give --calibration FOLDER (training pictures) and --images FOLDER "
            "(labelled pictures), or its run folder"
        )
    if arguments.data_dir:
        raise InputError("--data-dir goes with a run folder")
    from export.predictor import OnnxModel

    model = OnnxModel(source)
    target = arguments.output or source.with_suffix(f".{arguments.kind}.onnx")
    validation, test = read_labeled(model, arguments.images)
    print(_convert(arguments, source, target, _read_some(model, arguments), validation, test, None))
    print(f"written: {target}")
    return 0


def _quantize_run(arguments: argparse.Namespace) -> int:
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.training.run_dir import Run

    run = Run.open(arguments.source)
    source = run / "model.onnx"
    if not source.is_file():
        raise InputError(f"{source} is missing: export the run first, python -m export {run.path}")
    start_tensorflow()
    import numpy as np

    from export.quantization.quantize import LabeledImages
    from export.quantization.report import RefusedError
    from kerascv_course.experiment import Experiment

    experiment = Experiment.open(run.path, arguments.data_dir)
    data = experiment.data
    chosen = np.random.default_rng(0).permutation(len(data.train))[: arguments.calibration_images]
    validation, test = (
        LabeledImages(name, split.images, split.targets)
        for name, split in (("validation", data.validation), ("test", data.test))
    )
    usual = run / f"model.{arguments.kind}.onnx"
    target = arguments.output or usual
    try:
        images = data.train.images[np.sort(chosen)]
        report = _convert(arguments, source, target, images, validation, test, experiment.task.answer)
    except RefusedError as error:
        usual.unlink(missing_ok=True)  # of an earlier call, which this one takes back
        _record(run, error.report)
        raise
    print(report)
    _record(run, report)
    print(f"written: {target}")
    return 0


def _convert(
    arguments: argparse.Namespace,
    source: Path,
    target: Path,
    calibration: Any,
    validation: LabeledImages,
    test: LabeledImages,
    answer: str | None,
) -> PrecisionReport:
    from export.quantization.quantize import quantize_model
    from export.quantization.report import RefusedError

    try:
        return quantize_model(
            source,
            target,
            kind=arguments.kind,
            calibration=calibration,
            validation=validation,
            test=test,
            answer=answer,
            provider=arguments.provider,
            batch_sizes=arguments.batch,
            force=arguments.force,
        )
    except RefusedError as error:
        print(error.report)
        raise


def _record(run: Run, report: PrecisionReport) -> None:
    """Put a report into the run, beside those of other kinds, and on its page."""
    from kerascv_course.run_page import write_run_page

    reports: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        reports = run.read_json(REPORT)
    run.write_json(REPORT, {**reports, report.kind: report.to_plain()})
    write_run_page(run)


def _read_some(model: OnnxModel, arguments: argparse.Namespace) -> Any:
    """Evenly spread pictures of the calibration folder."""
    import numpy as np

    from export.predictor import expand_paths

    paths = expand_paths([arguments.calibration])
    count = min(len(paths), arguments.calibration_images)
    return np.stack([model.load(paths[i * len(paths) // count]) for i in range(count)])


def read_labeled(model: OnnxModel, folder: Path) -> tuple[LabeledImages, LabeledImages]:
    """Pictures in one folder a label: every other one of a label chooses, the rest give the verdict.

    Raises:
        InputError: folders that are no labels of the file, or none.
    """
    import numpy as np

    from export.predictor import expand_paths
    from export.quantization.quantize import LabeledImages

    labels = model.contract.labels
    if not folder.is_dir():
        raise InputError(f"no such folder of labelled pictures: {folder}")
    if not model.contract.classifies or not labels:
        raise InputError(f"folders are labels of a classifier; {model.path} has none: quantise its run folder")
    halves: tuple[list[tuple[Any, int]], ...] = ([], [])
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if inside.name not in labels:
            raise InputError(f"{inside} is none of the file's labels: {', '.join(labels[:20])}")
        for number, path in enumerate(expand_paths([inside])):
            halves[number % 2].append((model.load(path), labels.index(inside.name)))
    if not halves[1]:
        raise InputError(f"{folder} holds one folder of pictures a label, two pictures or more each")
    parts = []
    for name, half in zip(("validation", "test"), halves, strict=True):
        images, targets = zip(*half, strict=True)
        parts.append(LabeledImages(f"{name} (half of {folder.name})", np.stack(images), np.array(targets)))
    return parts[0], parts[1]
