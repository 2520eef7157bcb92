"""``run`` and ``check``: export a run, or any Keras model, and prove the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.commands import Commands
from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import keras

#: Images of noise for a model that comes without pictures.
NOISE_IMAGES = 64

#: File of a run that holds a gallery.
RETRIEVER = "retriever.onnx"

#: Options of ``run`` that go with a .keras file only, a run's recipe says the same.
MODEL_OPTIONS = (
    "output",
    "labels",
    "images",
    "noise",
    "preprocessing",
    "resize",
    "input_dtype",
    "layout",
    "opset",
    "task",
    "tolerance",
)


def add_parsers(commands: Commands) -> None:
    """The commands ``run`` and ``check``."""
    run = commands.add_parser(
        "run",
        help="export a run, or a .keras file (the word may be left out: python -m export RUN|MODEL.keras)",
        allow_abbrev=False,
    )
    run.add_argument(
        "run",
        type=Path,
        help="run folder, whose model.onnx is replaced once the new file has passed the gate; or a .keras file; or, with --gallery or "
        "--add, an .onnx file",
    )
    run.add_argument("--data-dir", type=Path, help="run: where the data stands, if it has moved since the training")
    retriever = run.add_argument_group("a gallery within the file (a run of the task retrieve, or its model.onnx)")
    retriever.add_argument(
        "--gallery", type=Path, metavar="FOLDER", help="one folder an identity: write a file that names the nearest of them"
    )
    retriever.add_argument("--nearest", type=int, help="with --gallery: how many it names (default: 10)")
    retriever.add_argument(
        "--add", type=Path, metavar="FOLDER", help="add these to the gallery of such a file, without training"
    )
    model = run.add_argument_group("for a .keras file (a run knows all this)")
    model.add_argument("-o", "--output", type=Path, help="the file to write (default: the model's name with .onnx)")
    model.add_argument("--labels", help="class names: a text file with one a line, or names with commas between")
    model.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="pictures for the parity gate; with one folder a class, named as the labels, the accuracy is compared too",
    )
    model.add_argument(
        "--noise", action="store_true", default=None, help="no pictures are at hand: run the gate on random pixels instead"
    )
    model.add_argument(
        "--preprocessing",
        nargs="+",
        metavar=("MODE", "MEAN STD"),
        help="as it was trained: pixels (0–255), tf, torch or caffe (modes of keras.applications), or mean and std after pixels/255",
    )
    model.add_argument("--resize", choices=("nearest", "bilinear", "bicubic", "lanczos"), help="filter (default: bilinear)")
    model.add_argument("--input-dtype", choices=("uint8", "float32"), help="of the file (default: uint8, preprocessing inside)")
    model.add_argument("--layout", choices=("NHWC", "NCHW"), help="of the file's input (default: NHWC)")
    model.add_argument("--opset", type=int, help="ONNX operator set, 15 to 23 (default: 17)")
    model.add_argument("--task", choices=("classify", "embed", "tensor"), help="(default: by the shape of the output)")
    model.add_argument(
        "--tolerance", type=float, help="largest difference of any output (default: 1e-4; more where outputs are far beyond 10)"
    )
    run.set_defaults(call=export_command)

    check = commands.add_parser(
        "check", help="check a run's model.onnx against its Keras model on the whole test split", allow_abbrev=False
    )
    check.add_argument("run", type=Path, help="run folder")
    check.add_argument("--file", type=Path, help="another ONNX file than the run's model.onnx")
    check.add_argument("--data-dir", type=Path, help="where the data stands, if it has moved since the training")
    check.set_defaults(call=check_command)


def export_command(arguments: argparse.Namespace) -> int:
    """Export and prove the file."""
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.training.run_dir import Run

    if arguments.gallery or arguments.add:
        return retriever_command(arguments)
    if arguments.nearest is not None:
        raise InputError("--nearest goes with --gallery: give the folder of the gallery")
    if arguments.run.suffix in (".keras", ".h5"):
        return export_keras_file(arguments)
    if given := [name for name in MODEL_OPTIONS if getattr(arguments, name) is not None]:
        raise InputError(
            f"--{given[0].replace('_', '-')} goes with a .keras file; {arguments.run} is a run, its recipe says it"
        )
    run = Run.open(arguments.run)
    start_tensorflow()
    from kerascv_course.experiment import Experiment, configure_logging

    configure_logging()
    experiment = Experiment.open(run.path, arguments.data_dir)
    print(experiment.export())
    experiment.report()
    return 0


def retriever_command(arguments: argparse.Namespace) -> int:
    """Write a retriever, or add pictures to one; TensorFlow is not needed."""
    from export.gallery.retriever import NEAREST, build_retriever, enrol

    given = [name for name in (*MODEL_OPTIONS, "data_dir") if name != "output" and getattr(arguments, name) is not None]
    if given or (arguments.gallery and arguments.add):
        other = f"--{given[0].replace('_', '-')}" if given else "--add"
        raise InputError(
            f"{'--gallery' if arguments.gallery else '--add'} goes with -o alone (and --nearest); received {other} too"
        )
    source: Path = arguments.run
    if arguments.add:
        if arguments.nearest is not None:
            raise InputError("--nearest goes with --gallery: it is decided when the file is made")
        source = source / RETRIEVER if source.is_dir() else source
        added, new = enrol(source, arguments.add, arguments.output)
        print(f"added {added} picture{'s' if added != 1 else ''}, {new} new name{'s' if new != 1 else ''}")
        print(arguments.output or source)
        return 0
    if source.is_dir():
        output, source = arguments.output or source / RETRIEVER, source / "model.onnx"
    else:
        output = arguments.output or source.with_name(RETRIEVER)
    count = NEAREST if arguments.nearest is None else arguments.nearest
    print(build_retriever(source, arguments.gallery, output, count=count))
    return 0


def export_keras_file(arguments: argparse.Namespace) -> int:
    """Export a .keras file and prove the ONNX file; one that fails is kept as NAME.rejected.onnx."""
    from kerascv_course.core.environment import start_tensorflow

    if (arguments.images is None) == (arguments.noise is None):
        raise InputError(
            "the parity gate needs pictures: give --images FOLDER with pictures like those the model is for, "
            "or --noise where there are none (but not both)"
        )
    if arguments.tolerance is not None and not arguments.tolerance > 0:
        raise InputError(f"--tolerance is above 0; received {arguments.tolerance:g}")
    labels = read_labels(arguments.labels)
    preprocessing = read_preprocessing(arguments.preprocessing)
    start_tensorflow()
    from export.converter.convert import export_model
    from export.files import replace_model
    from export.validation import ParityError, certify, check_parity
    from kerascv_course.core.keras_file import load_keras

    model = load_keras(arguments.run)
    output = arguments.output or arguments.run.with_suffix(".onnx")
    candidate = output.with_name(f"{output.stem}.rejected.onnx")
    options = {name: getattr(arguments, name) for name in ("resize", "input_dtype", "layout", "opset", "task")}
    images, targets = gate_images(arguments, model, labels)
    export_model(
        model,
        candidate,
        labels=labels,
        preprocessing=preprocessing,
        name=arguments.run.stem,
        **{name: value for name, value in options.items() if value is not None},
    )
    try:
        report = check_parity(
            model, candidate, images, targets=targets, labels=labels or None, tolerance=arguments.tolerance or 1e-4
        )
    except ParityError as error:
        print(error.report.table())  # the error names what differs
        raise
    certify(candidate, report)
    replace_model(candidate, output)
    print(report.table())
    print(report.summary() + (" on random pixels" if arguments.noise else ""))
    print(output)
    return 0


def read_labels(given: str | None) -> list[str]:
    """Class names from ``a,b,c`` or from a text file with one a line."""
    if given is None:
        return []
    path = Path(given)
    if not path.is_file():
        if "," not in given:
            raise InputError(
                f"--labels is a text file with one name a line, or names with commas between; no such file: {given}"
            )
        return [name.strip() for name in given.split(",")]
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels is a UTF-8 text file; cannot read {path}: {error}") from None


def read_preprocessing(given: list[str] | None) -> Any:
    """What `export.export_model` takes, from a mode, or from means and standard deviations (1 or 3 of each)."""
    if given is None or len(given) == 1:
        return given[0] if given else None
    try:
        values = [float(word) for word in given]
    except ValueError:
        values = []
    if len(values) not in (2, 6):
        raise InputError(
            f"--preprocessing is a mode, a mean and a std, or three means and three stds; received {' '.join(given)}"
        )
    half = len(values) // 2
    return values[:half], values[half:]


def gate_images(arguments: argparse.Namespace, model: keras.Model, labels: list[str]) -> tuple[Any, Any]:
    """Pictures for the gate (uint8) and their classes where the folder tells them."""
    import numpy as np

    _, height, width, channels = model.inputs[0].shape
    height, width = height or 224, width or 224  # a model for any size: a usual one
    if arguments.noise:
        return np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, height, width, channels), np.uint8), None
    from export.predictor import expand_paths
    from kerascv_course.core.images import read_image

    paths = expand_paths([arguments.images])
    images = np.stack([read_image(path, height, width, channels, arguments.resize or "bilinear") for path in paths])
    classes = [path.parent.name for path in paths]
    known = bool(labels) and all(name in labels for name in classes)
    return images, np.array([labels.index(name) for name in classes]) if known else None


def check_command(arguments: argparse.Namespace) -> int:
    """Check a file against a run and print the table."""
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.training.run_dir import Run

    run = Run.open(arguments.run)
    start_tensorflow()
    from export.validation import ParityError
    from kerascv_course.experiment import Experiment

    try:
        print(Experiment.open(run.path, arguments.data_dir).validate(arguments.file))
    except ParityError as error:
        print(error.report.table())  # the error names what differs
        raise
    return 0
