"""``predict`` and ``predict-many``: predict images with an exported file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from export.batch.cluster import predict_many
from export.commands.images import SkippedImages, find_images, load_batches
from export.commands.paths import model_file
from export.predictor import OnnxModel
from export.untrusted.guard import add_trust, alive, guarded, limit_memory
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.output import printable
from kerascv_course.core.progress import Wait, say, track

__all__ = ["add_predict", "add_predict_many"]

#: Numbers of an embedding that are printed.
SHOWN = 6

#: End of the name of a colorized image.
COLORIZED = "_colorized"

#: An answer: path of the image, JSON-serializable form, and text.
Answer: TypeAlias = tuple[Path, dict[str, Any], str]


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Options of ``predict``."""
    parser.add_argument("model", type=Path, help="exported ONNX file, or run folder with one")
    parser.add_argument(
        "images", nargs="+", help="images, folders, or patterns such as 'photos/*.jpg'; -: a list on standard input, one a line"
    )
    parser.add_argument("--top", type=int, default=3, help="number of classes or gallery entries to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--output", type=Path, help="colorizer: file or folder to write (default: NAME_colorized.png beside each image)"
    )
    parser.add_argument(
        "--colors-at",
        type=int,
        metavar="PIXELS",
        help="colorizer: take the colors from a copy with this longer side, and the lightness from the image itself",
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime provider (default: cpu)")
    parser.set_defaults(call=_predict)


@guarded()
def _predict(arguments: argparse.Namespace) -> None:
    if arguments.top < 1:
        raise InputError(f"--top must be 1 or more; received {arguments.top}")
    file = model_file(arguments.model)
    if arguments.provider == "cpu":
        limit_memory(file)
    model = OnnxModel(file, provider=arguments.provider)
    task, paths = model.contract.task, find_images(arguments.images)
    if task != "colorize" and (arguments.output or arguments.colors_at):
        raise InputError(f"--output and --colors-at are for colorizers; {file} has the task {task!r}")
    if task == "colorize":
        answers = _colorize(model, paths, arguments)
    else:
        answer = {"rank": _nearest, "embed": _embeddings}.get(task, _classes)
        answers = (one for images in load_batches(model, paths) for one in answer(model, images, arguments.top))
    width = max(len(printable(str(path))) for path in paths)
    for path, plain, text in answers:
        if arguments.json:
            say(printable(json.dumps({"file": str(path), **plain}, ensure_ascii=False)))
        else:
            say(f"{printable(str(path)):<{width}}  {text}")


def _classes(model: OnnxModel, images: dict[Path, np.ndarray], top: int) -> Iterator[Answer]:
    predictions = model.predict(list(images.values()))
    labels = model.contract.labels or [str(number) for number in range(predictions.scores.shape[1])]
    for path, best in zip(images, predictions.top(top), strict=True):
        scores = [{"label": labels[number], "score": round(score, 6)} for number, score in best]
        text = "   ".join(f"{printable(labels[number])} {score:.1%}" for number, score in best)
        yield path, {"label": scores[0]["label"], "scores": scores}, text


def _nearest(model: OnnxModel, images: dict[Path, np.ndarray], top: int) -> Iterator[Answer]:
    found = model.nearest(list(images.values()))
    for path, names, distances, numbers in zip(images, found.names, found.distances, found.numbers, strict=True):
        rows = list(zip(names, distances.tolist(), numbers.tolist(), strict=True))[:top]
        entries = [{"name": name, "distance": round(distance, 6), "entry": number} for name, distance, number in rows]
        text = "   ".join(f"{printable(name)} {distance:.3f}" for name, distance, _ in rows)
        yield path, {"name": rows[0][0], "nearest": entries}, text


def _embeddings(model: OnnxModel, images: dict[Path, np.ndarray], _: int) -> Iterator[Answer]:
    output = next(output.name for output in model.contract.outputs if output.meaning == "embedding")
    for path, vector in zip(images, model.run(list(images.values()))[output].tolist(), strict=True):
        more = f" … ({len(vector)} numbers; all: --json)" if len(vector) > SHOWN else ""
        yield path, {"embedding": vector}, " ".join(f"{value:+.3f}" for value in vector[:SHOWN]) + more


def _colorize(model: OnnxModel, paths: list[Path], arguments: argparse.Namespace) -> Iterator[Answer]:
    """Write each image in color."""
    given = set(map(str, arguments.images))
    # results of an earlier call in a folder are not colorized again
    paths = [path for path in paths if str(path) in given or not path.stem.endswith(COLORIZED)]
    targets = _targets(paths, arguments.output)
    skipped = SkippedImages(len(targets))
    for path, target in track(targets.items(), "colorizing"):
        alive()
        colored = skipped.load(lambda path: model.colorize(path, colors_at=arguments.colors_at), path)
        if colored is None:
            continue
        options: dict[str, Any] = {"quality": 95} if target.suffix.lower() in (".jpg", ".jpeg") else {}
        with atomic_write(target) as temporary:
            Image.fromarray(colored).save(temporary, **options)
        yield (
            path,
            {"output": str(target), "height": colored.shape[0], "width": colored.shape[1]},
            f"->  {printable(str(target))}",
        )
    skipped.check()


def _targets(paths: list[Path], output: Path | None) -> dict[Path, Path]:
    """The file to write for each image; no two are the same, and none is the image itself."""
    single = output is not None and not output.is_dir() and bool(output.suffix)
    if single and output is not None:
        if len(paths) > 1:
            raise InputError(f"--output must be a folder for several images; received the file {output} for {len(paths)}")
        if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
            raise InputError(f"--output must end like an image, such as .png or .jpg; received {output}")
    targets: dict[Path, Path] = {}
    for path in paths:
        target = output if single and output else (output or path.parent) / f"{path.stem}{COLORIZED}.png"
        if target in targets.values():
            raise InputError(f"two images would both be written to {target}: use two commands")
        if target.resolve() == path.resolve():
            raise InputError(f"--output must not be the image itself; received {target}")
        targets[path] = target
    return targets


def add_predict_many(parser: argparse.ArgumentParser) -> None:
    """Options of ``predict-many``."""
    parser.description = "Predict many images into Parquet files; run it again to resume. Needs the extra [cluster]."
    parser.add_argument("model", type=Path, help="exported ONNX file that classifies, ranks or embeds, or run folder with one")
    parser.add_argument("source", type=Path, help="folder of images, or a .csv or .parquet table of their names")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results: a new one, or that of the same job")
    parser.add_argument("--column", default="path", help="column of the table with the names (default: path)")
    parser.add_argument("--root", type=Path, help="folder that the table's names are relative to (default: the table's)")
    parser.add_argument("--top", type=int, default=3, help="number of classes or gallery entries to keep (default: 3)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime provider (default: cpu)")
    parser.add_argument("--shard", type=int, default=1000, help="images that are saved, or repeated, together (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a call (default: 64)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one for each free core or GPU)")
    parser.add_argument("--cpus", type=int, default=1, help="cores of each worker (default: 1)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each worker; 0.5: two workers share one (default: 0)")
    parser.add_argument("--address", help="address of a Ray cluster (default: RAY_ADDRESS, else this machine)")
    parser.add_argument("--strict", action="store_true", help="exit code 2 if any image cannot be used, as for predict")
    add_trust(parser)
    parser.set_defaults(call=_predict_many)


def _predict_many(arguments: argparse.Namespace) -> None:
    names = ("column", "root", "top", "provider", "shard", "batch_size", "workers", "cpus", "gpus", "address", "trust")
    options: Any = {name: getattr(arguments, name) for name in names}
    with Wait("predicting") as wait:

        def show(done: int, total: int) -> None:
            wait.to(done) if wait.total else wait.begin(total, done)

        summary = predict_many(model_file(arguments.model), arguments.source, arguments.output, progress=show, **options)
    resumed = f", {summary.done_before} of them done before" if summary.done_before else ""
    shards = f"{summary.shards:,} shard{'s' if summary.shards != 1 else ''}"
    print(f"{summary.predicted:,} of {summary.pictures:,} images predicted in {shards}{resumed}")
    print(f"  answers     {arguments.output / 'predictions'}")
    if summary.unreadable:
        message = f"{summary.unreadable:,} images could not be used; reasons: {arguments.output / 'unreadable'}"
        if arguments.strict:
            raise InputError(message)
        print(f"  unreadable  {message}")
