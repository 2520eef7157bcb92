"""``predict``: classify or colour pictures, find who is most like them, or print their vectors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.commands import Commands
from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from export.predictor import OnnxModel


def add_parsers(commands: Commands) -> None:
    """The command ``predict``."""
    predict = commands.add_parser(
        "predict",
        help="classify or colour pictures, find the nearest of a gallery, or print vectors, with an exported file",
        allow_abbrev=False,
    )
    predict.add_argument("model", type=Path, help="exported ONNX file")
    predict.add_argument(
        "images",
        nargs="+",
        help="pictures, folders of them, or patterns such as 'photos/*.jpg'; -: a list on stdin, one a line",
    )
    predict.add_argument("--top", type=int, default=3, help="how many classes, or entries of a gallery, to show (default: 3)")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument(
        "--output",
        type=Path,
        help="colouriser: file or folder of the coloured pictures (default: NAME_colorized.png beside each)",
    )
    predict.add_argument(
        "--colors-at",
        type=int,
        metavar="PIXELS",
        help="colouriser: take the colours from a copy whose longer side has so many pixels, and keep the picture's own grey",
    )
    predict.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    predict.set_defaults(call=predict_command)


def predict_command(arguments: argparse.Namespace) -> int:
    """Answer for each picture by the file's task."""
    from export.predictor import OnnxModel, expand_paths
    from export.untrusted.guard import limit_memory

    if arguments.top < 1:
        raise InputError(f"--top is 1 or more; received {arguments.top}")
    if arguments.provider == "cpu":
        limit_memory(arguments.model)
    model = OnnxModel(arguments.model, provider=arguments.provider)
    paths = expand_paths(word for given in arguments.images for word in (stdin_lines() if given == "-" else [given]))
    if not paths:
        raise InputError("no pictures to predict: the list on stdin is empty")
    if model.contract.task == "colorize":
        return colorize_pictures(model, paths, arguments)
    if arguments.output or arguments.colors_at:
        raise InputError(
            f"--output and --colors-at go with a colouriser; {arguments.model} has the task {model.contract.task!r}"
        )
    answer = {"rank": find_nearest, "embed": print_vectors}.get(model.contract.task, classify_pictures)
    return answer(model, paths, arguments)


def stdin_lines() -> list[str]:
    """The paths on stdin, one a line; empty lines are left out."""
    return [line for line in sys.stdin.read().splitlines() if line]


class Progress:
    """How many of how many are done, on stderr; nothing where that is no terminal, or for what is done at once."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.shown = total > BATCH and sys.stderr.isatty()

    def tell(self, done: int) -> None:
        """Show the number, and clear the line at the end."""
        if self.shown:
            text = f"{done:,} of {self.total:,} pictures"
            print(f"\r{text}" if done < self.total else "\r" + " " * len(text) + "\r", end="", file=sys.stderr, flush=True)


def classify_pictures(model: OnnxModel, paths: list[Path], arguments: argparse.Namespace) -> int:
    """Print the best classes of each picture; those that cannot be read are told at the end."""
    from export.commands.inspect import printable

    width = max(len(str(path)) for path in paths)
    for pictures in loaded_batches(model, paths):
        predictions = model.predict(list(pictures.values()))
        labels = model.contract.labels or [str(number) for number in range(predictions.scores.shape[1])]
        for path, best in zip(pictures, predictions.top(arguments.top), strict=True):
            if arguments.json:
                scores = [{"label": labels[number], "score": round(score, 6)} for number, score in best]
                print(json.dumps({"file": str(path), "label": scores[0]["label"], "scores": scores}, ensure_ascii=False))
            else:
                print(f"{path!s:<{width}}  " + "   ".join(f"{printable(labels[number])} {score:.1%}" for number, score in best))
    return 0


def find_nearest(model: OnnxModel, paths: list[Path], arguments: argparse.Namespace) -> int:
    """Print names and distances of the nearest gallery entries of each picture."""
    from export.commands.inspect import printable

    width = max(len(str(path)) for path in paths)
    for pictures in loaded_batches(model, paths):
        found = model.nearest(list(pictures.values()))
        for path, names, distances, numbers in zip(pictures, found.names, found.distances, found.numbers, strict=True):
            rows = list(zip(names, distances.tolist(), numbers.tolist(), strict=True))[: arguments.top]
            if arguments.json:
                entries = [{"name": name, "distance": round(distance, 6), "entry": number} for name, distance, number in rows]
                print(json.dumps({"file": str(path), "name": rows[0][0], "nearest": entries}, ensure_ascii=False))
            else:
                print(f"{path!s:<{width}}  " + "   ".join(f"{printable(name)} {distance:.3f}" for name, distance, _ in rows))
    return 0


def print_vectors(model: OnnxModel, paths: list[Path], arguments: argparse.Namespace) -> int:
    """Print each picture's vector: all of it as JSON, else its beginning."""
    width = max(len(str(path)) for path in paths)
    output = next(output.name for output in model.contract.outputs if output.meaning == "embedding")
    for pictures in loaded_batches(model, paths):
        for path, vector in zip(pictures, model.run(list(pictures.values()))[output].tolist(), strict=True):
            if arguments.json:
                print(json.dumps({"file": str(path), "embedding": vector}, ensure_ascii=False))
            else:
                more = f" … ({len(vector)} numbers; all: --json)" if len(vector) > SHOWN else ""
                print(f"{path!s:<{width}}  " + " ".join(f"{value:+.3f}" for value in vector[:SHOWN]) + more)
    return 0


#: Numbers of a vector that are printed.
SHOWN = 6


def loaded_batches(model: OnnxModel, paths: list[Path]) -> Iterator[dict[Path, np.ndarray]]:
    """Pictures by their paths, some at a time; those that cannot be read are told at the end."""
    from export.untrusted.guard import alive

    skipped, progress = Skipped(len(paths)), Progress(len(paths))
    for start in range(0, len(paths), BATCH):
        progress.tell(start)
        alive()
        pictures = {
            path: picture
            for path in paths[start : start + BATCH]
            if (picture := skipped.unless_read(model.load, path)) is not None
        }
        if pictures:
            yield pictures
    progress.tell(len(paths))
    skipped.tell()


#: Pictures read and answered at once.
BATCH = 64


class Skipped:
    """Pictures that could not be used: the others are answered first, then these are named.

    Args:
        total: pictures in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: list[str] = []

    def unless_read(self, call: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | None:
        """What a call makes of a picture, or None where the picture is at fault."""
        from kerascv_course.core.images import ImageError

        try:
            return call(path)
        except ImageError as error:
            self.reasons.append(str(error))
            return None

    def tell(self) -> None:
        """Name what was skipped.

        Raises:
            InputError: anything was.
        """
        if self.reasons:
            raise InputError(f"{len(self.reasons)} of {self.total} pictures were skipped:\n  " + "\n  ".join(self.reasons))


#: Ends the name of a coloured picture.
COLORIZED = "_colorized"


def colorize_pictures(model: OnnxModel, paths: list[Path], arguments: argparse.Namespace) -> int:
    """Write each picture coloured, and print its path."""
    from PIL import Image

    from export.untrusted.guard import alive
    from kerascv_course.core.io import atomic_write

    given = set(map(str, arguments.images))
    # what an earlier call has left in a folder is not coloured again
    paths = [path for path in paths if str(path) in given or not path.stem.endswith(COLORIZED)]
    output: Path | None = arguments.output
    single = output is not None and not output.is_dir() and bool(output.suffix)
    if single and output is not None:
        if len(paths) > 1:
            raise InputError(f"--output is a folder for several pictures; received the file {output} for {len(paths)}")
        if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
            raise InputError(f"--output ends like a picture, such as .png or .jpg; received {output}")
    targets: dict[Path, Path] = {}
    for path in paths:
        target = output if single and output else (output or path.parent) / f"{path.stem}{COLORIZED}.png"
        if target in targets.values():
            raise InputError(f"two pictures would both be written to {target}: colour them by two commands")
        if target.resolve() == path.resolve():
            raise InputError(f"--output is another file than the picture itself; received {target}")
        targets[path] = target
    skipped, progress = Skipped(len(targets)), Progress(len(targets))
    for done, (path, target) in enumerate(targets.items()):
        progress.tell(done)
        alive()
        colored = skipped.unless_read(lambda path: model.colorize(path, colors_at=arguments.colors_at), path)
        if colored is None:
            continue
        with atomic_write(target) as temporary:
            if target.suffix.lower() in (".jpg", ".jpeg"):
                Image.fromarray(colored).save(temporary, quality=95)
            else:
                Image.fromarray(colored).save(temporary)
        if arguments.json:
            size = {"height": colored.shape[0], "width": colored.shape[1]}
            print(json.dumps({"file": str(path), "output": str(target), **size}, ensure_ascii=False))
        else:
            print(f"{path}  ->  {target}")
    progress.tell(len(targets))
    skipped.tell()
    return 0
