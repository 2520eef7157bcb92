"""``doctor``: what is wrong with a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from export.commands.images import read_folder, spread
from export.commands.paths import containing_run, model_file, run_folder
from export.diagnostics.doctor import diagnose
from export.untrusted.guard import guarded
from kerascv_course.core.environment import start_keras, start_tensorflow
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import read_image
from kerascv_course.core.keras_file import check_format, load_keras
from kerascv_course.core.progress import Wait

__all__ = ["add_doctor"]

#: Most images to compare on.
LIMIT = 500


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Options of ``doctor``."""
    parser.description = (
        "Tests the usual mistakes, then compares layer by layer. Exit code 0: healthy, 1: something was found, 2: bad input."
    )
    parser.add_argument("model", type=Path, help="ONNX file, or run folder with one")
    parser.add_argument(
        "--against",
        type=Path,
        help="run folder, .keras file, or folder of labeled images, one folder a class (default: the run that the file is in)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of images to compare on, with or without class folders (with a run: not its test split)",
    )
    parser.add_argument("--data-dir", type=Path, help="run: folder of the dataset, if it has moved since the training")
    parser.add_argument(
        "--other-data", action="store_true", help="--data-dir holds other data: compare on its test images, or all"
    )
    parser.add_argument(
        "--preprocessing",
        metavar="MODE",
        help="of a .keras model with floating-point input: pixels, tf, torch or caffe (default: the contract's)",
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"most images (default: {LIMIT})")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference that counts as equal (default: 1e-4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_doctor)


@guarded(always=False)
def _doctor(arguments: argparse.Namespace) -> int:
    model = model_file(arguments.model)
    against = _reference_of(model, arguments)
    if arguments.limit < 1:
        raise InputError(f"--limit must be 1 or more; received {arguments.limit}")
    if against.is_dir() and containing_run(against):
        given = _from_run(against, arguments)
    elif against.suffix == ".keras":
        given = _from_keras(against, arguments)
    elif against.is_dir():
        check_format(against)
        images, targets, labels = _read_images(against, arguments.limit)
        if targets is None:
            raise InputError(
                f"{against} is neither a run folder (no recipe.json) nor a folder with one folder of images a class"
            )
        given = {"model": None, "images": images, "targets": targets, "labels": labels}
    else:
        if against.suffix != ".onnx":
            check_format(against)
        raise InputError(f"--against must be a run folder, a .keras file or a folder of labeled images; received {against}")
    with Wait("diagnosing"):
        diagnosis = diagnose(model, **given, tolerance=arguments.tolerance)
    print(json.dumps(diagnosis.to_plain(), indent=2, ensure_ascii=False) if arguments.json else diagnosis)
    return 0 if diagnosis.healthy else 1


def _reference_of(model: Path, arguments: argparse.Namespace) -> Path:
    """What a file is compared with: as given, or the run that the file is in; a file in a run folder means that run.

    Raises:
        InputError: nothing is given and the file is in no run, or there is nothing at the path.
    """
    given: Path | None = arguments.against
    if given is None:
        return run_folder(model, "give --against RUN, MODEL.keras or a folder of labeled images")
    if not given.exists():
        raise InputError(f"no such run folder, .keras file or folder of images: {given}")
    if given.is_file() and (given.suffix != ".keras" or not arguments.images):
        return containing_run(given) or given
    return given


def _from_run(run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    start_tensorflow()
    from kerascv_course.experiment import Experiment, configure_logging

    configure_logging(sys.stderr)
    experiment = Experiment.open(run, arguments.data_dir, other_data=arguments.other_data)
    recipe, labels = experiment.recipe, experiment.labels()
    given = {"model": experiment.serving_graph(), "task": recipe.task, "labels": labels, "resize": recipe.data.resize}
    if arguments.images:
        images, targets, names = _read_images(arguments.images, arguments.limit)
        if targets is not None and recipe.task == "classify" and set(names) <= set(labels):
            targets = np.array([labels.index(name) for name in names])[targets]
        else:
            targets = None
        return {**given, "images": images, "targets": targets}
    test = experiment.data.test
    chosen = spread(len(test), arguments.limit)
    return {**given, "images": test.images[chosen], "targets": test.targets[chosen]}


def _from_keras(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.images:
        raise InputError("--against model.keras needs images to compare on: give --images FOLDER")
    images, _, _ = _read_images(arguments.images, arguments.limit)
    start_keras()
    return {"model": load_keras(path), "images": images, "preprocessing": arguments.preprocessing}


def _read_images(folder: Path, limit: int) -> tuple[list[np.ndarray], np.ndarray | None, tuple[str, ...]]:
    """Images in their own sizes, RGB, with targets and labels where there are class folders."""
    images, classes = read_folder(folder, lambda path: read_image(path, None, None, 3), limit=limit)
    labels = tuple(sorted(set(classes)))
    if "" in labels or len(labels) < 2:
        return images, None, ()
    return images, np.array([labels.index(name) for name in classes]), labels
