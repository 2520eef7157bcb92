"""``run`` and ``check``: export a run or any Keras model, and validate the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.commands.images import read_folder
from export.commands.paths import check_exists, containing_run, model_file, run_folder
from export.gallery.retriever import NEAREST, build_retriever, enroll
from export.untrusted.guard import guarded
from kerascv_course.core.environment import package_versions, quiet_stderr, source_commit, start_keras, start_tensorflow
from kerascv_course.core.errors import InputError, shell_word
from kerascv_course.core.images import read_image
from kerascv_course.core.keras_file import check_format, load_keras
from kerascv_course.core.lock import sole_writer
from kerascv_course.core.provenance import record_copy

if TYPE_CHECKING:
    from export.validation import GateOptions

__all__ = ["add_check", "add_run"]

#: Noise images for a model without images.
NOISE_IMAGES = 64

#: Their height and width for a model of any size, pixels.
NOISE_SIZE = 224

#: File of a run with a gallery inside.
RETRIEVER = "retriever.onnx"

#: Options for a .keras file only; a run has them in its recipe.
MODEL_OPTIONS = (
    *("output", "labels", "images", "noise", "preprocessing", "resize"),
    *("input_dtype", "layout", "opset", "task", "converter", "tolerance", "relative"),
)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``."""
    parser.add_argument(
        "run",
        type=Path,
        help="run folder, whose model.onnx is replaced once the new file is validated; or a .keras file; or, with --gallery or --add, "
        "an .onnx file",
    )
    parser.add_argument("--data-dir", type=Path, help="run: folder of the dataset, if it has moved since the training")
    retriever = parser.add_argument_group("gallery inside the file (a run of a retrieval recipe, or its model.onnx)")
    retriever.add_argument(
        "--gallery", type=Path, metavar="FOLDER", help="one folder an identity: write a file that names the nearest of them"
    )
    retriever.add_argument("--nearest", type=int, help=f"with --gallery: number of names in an answer (default: {NEAREST})")
    retriever.add_argument("--add", type=Path, metavar="FOLDER", help="add these to such a file, without training")
    model = parser.add_argument_group("options for a .keras file (a run has them in its recipe)")
    model.add_argument("-o", "--output", type=Path, help="file to write (default: the model's name with .onnx)")
    model.add_argument("--labels", help="class names: a text file with one a line, or names separated by commas")
    model.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="images to validate on; with one folder a class, named like the labels, the accuracy is compared too",
    )
    model.add_argument(
        "--noise", action="store_true", default=None, help="validate on random pixels, where there are no images"
    )
    model.add_argument(
        "--preprocessing",
        nargs="+",
        metavar=("MODE", "MEAN STD"),
        help="of the training: pixels (0–255), tf, torch or caffe (modes of keras.applications), or mean and std after pixels/255",
    )
    model.add_argument("--resize", choices=("nearest", "bilinear", "bicubic", "lanczos"), help="filter (default: bilinear)")
    model.add_argument("--input-dtype", choices=("uint8", "float32"), help="(default: uint8, with preprocessing inside)")
    model.add_argument("--layout", choices=("NHWC", "NCHW"), help="layout of the file's input (default: NHWC)")
    model.add_argument("--opset", type=int, help="ONNX operator set, 15 to 23 (default: 17)")
    model.add_argument("--task", choices=("classify", "embed", "tensor"), help="(default: by the shape of the output)")
    model.add_argument("--converter", choices=("native", "tf2onnx"), help="(default: native, else tf2onnx)")
    _add_tolerances(model, "1e-4", "1e-5")
    parser.set_defaults(call=_run)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Options of ``check``."""
    parser.add_argument("run", type=Path, help="run folder; or an ONNX file in one, which is validated")
    parser.add_argument("--file", type=Path, help="ONNX file to validate instead of the run's model.onnx")
    parser.add_argument("--data-dir", type=Path, help="folder of the dataset, if it has moved since the training")
    parser.add_argument(
        "--other-data", action="store_true", help="--data-dir holds other data: validate on its test images, or all"
    )
    parser.add_argument(
        "--provider",
        choices=("cpu", "cuda"),
        help="where the file runs (default: the run's; on CUDA with --tolerance 1e-2, for TF32)",
    )
    _add_tolerances(parser, "the run's")
    parser.set_defaults(call=_check)


def _add_tolerances(parser: argparse._ActionsContainer, tolerance: str, relative: str = "") -> None:
    """Options of the gate; the texts are the defaults."""
    parser.add_argument("--tolerance", type=float, help=f"largest absolute difference of any output (default: {tolerance})")
    parser.add_argument(
        "--relative",
        type=float,
        help=f"added to it: this times the largest absolute value of the output (default: {relative or tolerance})",
    )


def _tolerances(arguments: argparse.Namespace) -> GateOptions:
    """Those options of the gate that were given."""
    if arguments.tolerance is not None and not arguments.tolerance > 0:
        raise InputError(f"--tolerance must be above 0; received {arguments.tolerance:g}")
    if arguments.relative is not None and not arguments.relative >= 0:
        raise InputError(f"--relative must be 0 or above; received {arguments.relative:g}")
    given: GateOptions = {}
    if arguments.tolerance is not None:
        given["tolerance"] = arguments.tolerance
    if arguments.relative is not None:
        given["relative"] = arguments.relative
    return given


@guarded(always=False)
def _run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.run)
    given = [name for name in MODEL_OPTIONS if getattr(arguments, name) is not None]
    if arguments.gallery or arguments.add:
        _build_or_extend_retriever(arguments, given)
    elif arguments.nearest is not None:
        raise InputError("--nearest is for --gallery: give the folder of the gallery")
    elif arguments.run.suffix == ".keras" and arguments.run.is_file():
        _export_keras_file(arguments)
    elif not arguments.run.is_dir():
        if run := containing_run(arguments.run):
            remedy = f"python -m export {shell_word(run)} exports its run again"
            raise InputError(f"{arguments.run} is not a .keras file: {remedy}")
        check_format(arguments.run)
        raise InputError(f"{arguments.run} is neither a file nor a run folder")
    elif given:
        raise InputError(f"{_flag(given[0])} is for a .keras file; {arguments.run} is a run, which has it in its recipe")
    else:
        with sole_writer(run_folder(arguments.run, "")):
            start_tensorflow()
            from kerascv_course.experiment import Experiment, configure_logging

            configure_logging()
            experiment = Experiment.open(arguments.run, arguments.data_dir)
            print(experiment.export())
            experiment.report()


@guarded(always=False)
def _check(arguments: argparse.Namespace) -> None:
    given: Path = arguments.run
    run = run_folder(given, f"name the run that it was made from, python -m export check RUN --file {shell_word(given)}")
    file = model_file(arguments.file or (given if given.suffix == ".onnx" else run))
    gate = _tolerances(arguments)
    if arguments.provider is not None:
        gate["provider"] = arguments.provider
    start_tensorflow()
    from export.validation import ParityError
    from kerascv_course.experiment import Experiment, configure_logging

    configure_logging()
    experiment = Experiment.open(run, arguments.data_dir, other_data=arguments.other_data)
    try:
        print(experiment.validate(file, **gate))
    except ParityError as error:
        print(error.report.table())
        raise


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _build_or_extend_retriever(arguments: argparse.Namespace, given: list[str]) -> None:
    """Write a file with a gallery, or add images to one; TensorFlow is not needed."""
    other = next((_flag(name) for name in given if name != "output"), "--data-dir" if arguments.data_dir else "")
    if other or (arguments.gallery and arguments.add):
        option = "--gallery" if arguments.gallery else "--add"
        raise InputError(f"{option} takes only -o (and --nearest) beside it; received {other or '--add'} too")
    source: Path = arguments.run
    if arguments.add:
        if arguments.nearest is not None:
            raise InputError("--nearest is for --gallery: it is fixed when the file is made")
        source = source / RETRIEVER if source.is_dir() else source
        with sole_writer((arguments.output or source).parent):
            added, new = enroll(source, arguments.add, arguments.output)
            if arguments.output:
                record_copy(source, arguments.output)
        print(f"added {added} image{'s' if added != 1 else ''}, {new} new name{'s' if new != 1 else ''}")
        print(arguments.output or source)
        return
    embedder = model_file(source)
    output = arguments.output or embedder.with_name(RETRIEVER)
    count = NEAREST if arguments.nearest is None else arguments.nearest
    with sole_writer(output.parent):
        built = build_retriever(embedder, arguments.gallery, output, count=count)
        record_copy(embedder, built)
    print(built)


def _export_keras_file(arguments: argparse.Namespace) -> None:
    """Export and validate a .keras file; an ONNX file that fails is kept as NAME.rejected.onnx."""
    if (arguments.images is None) == (arguments.noise is None):
        raise InputError(
            "the parity gate needs images: give --images FOLDER with images like those the model is for, or --noise where there are "
            "none (but not both)"
        )
    tolerances = _tolerances(arguments)
    labels, preprocessing = _read_labels(arguments.labels), _read_preprocessing(arguments.preprocessing)
    start_keras()
    from export.validation import ParityError, export_validated

    model = load_keras(arguments.run)
    images, targets = _gate_images(arguments, tuple(model.inputs[0].shape[1:]), labels)
    output = arguments.output or arguments.run.with_suffix(".onnx")
    options = {name: getattr(arguments, name) for name in ("resize", "input_dtype", "layout", "opset", "task", "converter")}
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"labels": labels, "preprocessing": preprocessing, "name": arguments.run.stem}
    options |= {"versions": package_versions(), "commit": source_commit()}
    gate: GateOptions = {"targets": targets, "labels": labels or None, **tolerances}
    rejected = output.with_name(f"{output.stem}.rejected.onnx")
    try:
        with quiet_stderr():
            report = export_validated(model, output, images, gate=gate, rejected=rejected, **options)
    except ParityError as error:
        print(error.report.table())
        raise
    print(report.table())
    print(report.summary() + (" on random pixels" if arguments.noise else ""))
    print(output)


def _read_labels(given: str | None) -> list[str]:
    """Class names from ``a,b,c`` or from a text file with one a line."""
    if given is None:
        return []
    path = Path(given)
    if not path.is_file():
        if "," not in given:
            raise InputError(
                f"--labels must be a text file with one name a line, or names separated by commas; no such file: {given}"
            )
        return [name.strip() for name in given.split(",")]
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels must be a UTF-8 text file; cannot read {path}: {error}") from None
    if "" in lines:
        raise InputError(f"--labels must be a text file with one name a line; line {lines.index('') + 1} of {path} is empty")
    return lines


def _read_preprocessing(given: list[str] | None) -> Any:
    """The argument of `export.export_model`: a mode, or 1 or 3 means and as many standard deviations."""
    if given is None or len(given) == 1:
        return given[0] if given else None
    try:
        values = [float(word) for word in given]
    except ValueError:
        values = []
    if len(values) not in (2, 6):
        raise InputError(
            f"--preprocessing must be a mode, a mean and a std, or three means and three stds; received {' '.join(given)}"
        )
    half = len(values) // 2
    return values[:half], values[half:]


def _gate_images(
    arguments: argparse.Namespace, shape: tuple[int | None, ...], labels: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images for the parity gate, uint8, and their targets where all class folders are labels."""
    height, width, channels = shape[0] or NOISE_SIZE, shape[1] or NOISE_SIZE, shape[2] or 3
    if arguments.noise:
        return np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, height, width, channels), np.uint8), None
    images, classes = read_folder(
        arguments.images, lambda path: read_image(path, height, width, channels, arguments.resize or "bilinear")
    )
    known = bool(labels) and set(classes) <= set(labels)
    return np.stack(images), np.array([labels.index(name) for name in classes]) if known else None
