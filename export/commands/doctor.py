"""``doctor``: what is wrong with a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.commands import Commands
from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Pictures that are looked at, at most.
LIMIT = 500


def add_parsers(commands: Commands) -> None:
    """The command ``doctor``."""
    doctor = commands.add_parser(
        "doctor",
        help="find out why a file answers otherwise than its Keras model, or worse than it should",
        description="Tries the usual suspects, then compares layer by layer. Exit code 0: healthy, 1: something was found, 2: bad "
        "input.",
        allow_abbrev=False,
    )
    doctor.add_argument("model", type=Path, help="ONNX file")
    doctor.add_argument(
        "--against",
        type=Path,
        required=True,
        help="run folder, .keras file, or folder of labelled pictures (one folder a class)",
    )
    doctor.add_argument(
        "--images",
        type=Path,
        help="folder of pictures to compare on (with a run: in place of its test split; may have classes)",
    )
    doctor.add_argument("--data-dir", type=Path, help="where a run's data stands, if it has moved since the training")
    doctor.add_argument(
        "--preprocessing",
        metavar="MODE",
        help="of a .keras model that takes floating point: pixels, tf, torch or caffe (default: what the file's contract says)",
    )
    doctor.add_argument("--limit", type=int, default=LIMIT, help=f"pictures at most (default: {LIMIT})")
    doctor.add_argument("--tolerance", type=float, default=1e-4, help="largest difference that is none (default: 1e-4)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(call=doctor_command)


def doctor_command(arguments: argparse.Namespace) -> int:
    """Diagnose and print."""
    against: Path = arguments.against
    if not arguments.model.is_file():
        raise InputError(f"no such file: {arguments.model}")
    if arguments.limit < 1:
        raise InputError(f"--limit is 1 or more; received {arguments.limit}")
    if not against.exists():
        raise InputError(f"no such run folder, .keras file or folder of pictures: {against}")
    if (against / "recipe.json").is_file():
        given = _from_run(arguments)
    elif against.suffix == ".keras":
        given = _from_keras(arguments)
    elif against.is_dir():
        images, targets, labels = _read_pictures(against, arguments.limit)
        if targets is None:
            raise InputError(f"{against} is no run folder (it has no recipe.json), nor has it one folder of pictures a class")
        given = {"model": None, "images": images, "targets": targets, "labels": labels}
    else:
        raise InputError(f"--against takes a run folder, a .keras file or a folder of labelled pictures; received {against}")
    from export.diagnostics.doctor import diagnose

    diagnosis = diagnose(arguments.model, **given, tolerance=arguments.tolerance)
    print(json.dumps(diagnosis.to_plain(), indent=2, ensure_ascii=False) if arguments.json else diagnosis)
    return 0 if diagnosis.healthy else 1


def _from_run(arguments: argparse.Namespace) -> dict[str, Any]:
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.training.run_dir import Run

    run = Run.open(arguments.against)
    start_tensorflow()
    from kerascv_course.experiment import Experiment

    experiment = Experiment.open(run.path, arguments.data_dir)
    recipe, labels, test = experiment.recipe, experiment.labels(), experiment.data.test
    given: dict[str, Any] = {
        "model": experiment.serving_graph(),
        "task": recipe.task,
        "labels": labels,
        "resize": recipe.data.resize,
    }
    if arguments.images:
        images, targets, names = _read_pictures(arguments.images, arguments.limit)
        known = targets is not None and set(names) <= set(labels)
        numbers = _renumber(targets, names, labels) if known and recipe.task == "classify" else None
        return {**given, "images": images, "targets": numbers}
    chosen = _spread(len(test), arguments.limit)
    return {**given, "images": test.images[chosen], "targets": test.targets[chosen]}


def _renumber(targets: np.ndarray | None, labels: tuple[str, ...], order: list[str]) -> np.ndarray:
    import numpy as np

    assert targets is not None  # asked before
    return np.array([order.index(label) for label in labels])[targets]


def _from_keras(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.images:
        raise InputError("--against model.keras needs pictures to compare on: give --images FOLDER")
    images, _, _ = _read_pictures(arguments.images, arguments.limit)
    from kerascv_course.core.environment import start_tensorflow

    start_tensorflow()
    from kerascv_course.core.keras_file import load_keras

    return {"model": load_keras(arguments.against), "images": images, "preprocessing": arguments.preprocessing}


def _read_pictures(folder: Path, limit: int) -> tuple[list[np.ndarray], np.ndarray | None, tuple[str, ...]]:
    """Pictures of a folder in their own sizes, RGB or grey, with classes where it has class folders."""
    import numpy as np

    from export.predictor import expand_paths
    from kerascv_course.core.images import read_image

    if not folder.is_dir():
        raise InputError(f"no such folder of pictures: {folder}")
    paths = [path for path in expand_paths([folder]) if not path.name.startswith(".")]
    paths = [paths[i] for i in _spread(len(paths), limit)]
    classes = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    labels = tuple(sorted(set(classes)))
    images = [read_image(path, None, None, 3) for path in paths]
    if "" in labels or len(labels) < 2:
        return images, None, ()
    return images, np.array([labels.index(name) for name in classes]), labels


def _spread(count: int, limit: int) -> list[int]:
    """At most so many numbers below `count`, evenly spread."""
    taken = min(count, limit)
    return [i * count // taken for i in range(taken)]
