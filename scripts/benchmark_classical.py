"""Speed and memory of the classical pipelines: ``python scripts/benchmark.py classical --data-dir DIR`` writes docs/scenes_speed.md."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from benchmark_page import machine, read_parts, write_page

from kerascv_course.core.environment import start_tensorflow

ROOT = Path(__file__).resolve().parent.parent

#: What each part measures, in the order of the page.
PARTS = ("descriptors", "breakdown", "stream", "recipe", "files")

BIN, STEP, BATCH = 4, 4, 16

#: Encoders and classifiers whose every combination is made a file of, with few and small descriptors.
ENCODERS: dict[str, dict[str, Any]] = {
    "tiny images": {"feature": "tiny"},
    "histogram of words": {},
    "histogram, soft, two levels": {"soft": 90.0, "levels": 2},
    "roots of shares, three levels": {"norm": "hellinger", "levels": 3, "normalize_whole": True},
    "VLAD": {"feature": "vlad", "norm": "power", "words": 16},
    "Fisher vector, two levels": {"feature": "fisher", "norm": "power", "words": 8, "compress": 32, "levels": 2},
}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "neighbours": {"k": 9, "distance": "cosine", "vote": "distance"},
    "support vectors": {"classifier": "linear"},
    "support vectors, intersection kernel": {"classifier": "linear", "kernel": "intersection"},
}

#: What is run where NumPy, onnxruntime and Pillow are alone: a file's answers to the test pictures of a folder.
ASK = """
import importlib.util, json, pathlib, sys
from export import OnnxModel
if found := [name for name in ("tensorflow", "keras", "sklearn", "onnx") if importlib.util.find_spec(name)]:
    sys.exit(f"this environment has {found}")
paths = sorted(pathlib.Path(sys.argv[2]).glob("test/*/*.jpg"))
print(json.dumps(OnnxModel(sys.argv[1]).predict(paths).labels))
"""


def classical(
    data_dir: Path,
    parts: tuple[str, ...] = PARTS,
    rounds: int = 7,
    images: int = 3000,
    bare: Path | None = None,
    output: Path = ROOT / "docs" / "scenes_speed.md",
) -> None:
    """Dense SIFT beside OpenCV's on the same grid; memory at a descriptor a pixel; the whole recipe at step 3; every file's answers.

    Args:
        data_dir: folder of class folders with train/ and test/.
        parts: what to measure: descriptors, breakdown, stream, recipe, files.
        rounds: times that each engine describes the images, in turns.
        images: at most so many are streamed.
        bare: Python of an environment with numpy, onnxruntime and pillow alone, where files are asked as well.
        output: Markdown file; the lines of parts that are not measured stay.
    """
    measures = {
        "descriptors": _descriptors,
        "breakdown": _breakdown,
        "stream": _stream,
        "recipe": _recipe,
        "files": functools.partial(_files, bare=bare),
    }
    found = read_parts(output)
    for part in parts:
        # A process for each: the largest memory of a process never falls again.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[part] = pool.submit(measures[part], data_dir, rounds, images).result()
        print(found[part], flush=True)
    head = f"# Classical vision, measured\n\nMade by `python scripts/benchmark.py classical --data-dir DIR`: {machine()}."
    write_page(output, head, found, PARTS)


def _pictures(data_dir: Path, count: int) -> np.ndarray:
    from kerascv_course.core.images import read_image

    paths = sorted(data_dir.glob("*/*/*.jpg"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return np.stack([read_image(path, 200, 200, 1) for path in chosen])


def _descriptors(data_dir: Path, rounds: int, images: int) -> str:
    start_tensorflow()
    import cv2
    import keras
    import tensorflow as tf

    from export import export_model
    from export.predictor import open_session
    from kerascv_course.tasks.scenes.features import DenseSIFT, Grid

    pixels = _pictures(data_dir, BATCH)
    image = keras.Input((200, 200, 1), dtype="uint8", name="image")
    model = keras.Model(image, {"descriptors": DenseSIFT(STEP, (BIN,))(image)}, name="dense_sift")
    described = tf.function(model)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_model(model, Path(folder) / "sift.onnx", task="tensor"))
    tensor = tf.constant(pixels)
    engines: dict[str, Callable[[], Any]] = {
        "Keras layer in `tf.function`": lambda: described(tensor),
        "the same as ONNX, onnxruntime": lambda: session.run(None, {"image": pixels}),
        f"OpenCV {cv2.__version__} `SIFT.compute`": _opencv(pixels),
    }
    medians = _in_turns(engines, rounds, time.perf_counter)
    slowest = medians[list(engines)[-1]]
    descriptors = len(Grid(200, 200, STEP, BIN).centers)
    lines = [
        "## Dense SIFT",
        "",
        f"{descriptors:,} descriptors (step {STEP}, bins of {BIN} pixels) of each of {len(pixels)} pictures of 200×200, "
        f"{rounds} rounds in turns, medians, {datetime.now(UTC):%Y-%m-%d}. OpenCV also smooths each picture and builds its scale "
        "space.",
        "",
        "| engine | ms a picture | µs a descriptor | times as fast as OpenCV |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, value in medians.items():
        lines.append(f"| {name} | {1e3 * value:.2f} | {1e6 * value / descriptors:.2f} | {slowest / value:.1f} |")
    return "\n".join(lines)


def _opencv(pixels: np.ndarray) -> Callable[[], Any]:
    """OpenCV's descriptors of pictures at the places of the grid."""
    import cv2

    from kerascv_course.tasks.scenes.features import Grid

    grid, middle = Grid(200, 200, STEP, BIN), 1.5 * BIN
    keypoints = [cv2.KeyPoint(float(x + middle), float(y + middle), BIN / 1.5, 0.0) for y in grid.rows for x in grid.columns]
    sift = cv2.SIFT_create()
    return lambda: [sift.compute(one[..., 0], keypoints) for one in pixels]


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds a picture of each call, which describes `BATCH` pictures."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = clock()
            call()
            if turn:  # the first call traces and allocates
                seconds[name].append((clock() - started) / BATCH)
    return {name: median(values) for name, values in seconds.items()}


def _breakdown(data_dir: Path, rounds: int, images: int) -> str:
    """Processor time of dense SIFT, step by step: what other programs do meanwhile counts less than in time by the clock."""
    start_tensorflow()
    import tensorflow as tf

    from kerascv_course.tasks.scenes import features

    pixels = _pictures(data_dir, BATCH)
    layer, tensor = features.DenseSIFT(STEP, (BIN,)), tf.constant(pixels)
    (grid,) = layer.grids(200, 200)
    calls: dict[str, Callable[[], Any]] = {}
    values: Any = (tf.cast(tensor[..., 0], tf.float32),)
    steps: dict[str, Callable[..., Any]] = {
        "gradients": layer._gradients,
        "shares of eight orientations": lambda vertical, horizontal: features._orientation_maps(vertical, horizontal, 512),
        "windows, at the bin centres": lambda maps: layer._windows(maps, grid, BIN),
        "a row of bins for each descriptor": lambda binned: layer._collect(binned, grid, BIN),
        "weigh, normalise, clip, normalise, round": lambda bins: layer._normalize(bins, 1.0),
    }
    for name, step in steps.items():
        traced = tf.function(step)
        calls[name] = functools.partial(traced, *values)
        values = traced(*values)
        values = values if isinstance(values, tuple) else (values,)
    double = tf.function(lambda descriptors: descriptors * 2.0)
    calls["for comparison: read and write the descriptors once"] = functools.partial(double, *values)
    calls["the whole layer"] = functools.partial(tf.function(layer), tensor)
    calls["OpenCV's `SIFT.compute`"] = _opencv(pixels)
    return "\n".join(
        [
            "## Where the time goes",
            "",
            f"Processor time of all threads, {rounds} rounds in turns, medians, {datetime.now(UTC):%Y-%m-%d}.",
            "",
            "| step | ms a picture |",
            "| --- | ---: |",
            *(f"| {name} | {1e3 * value:.2f} |" for name, value in _in_turns(calls, rounds, time.process_time).items()),
        ]
    )


def _stream(data_dir: Path, rounds: int, images: int) -> str:
    """Histograms with a descriptor at every pixel, in one call for all pictures."""
    start_tensorflow()
    import keras

    from kerascv_course.tasks.scenes.encoders import BagOfWords
    from kerascv_course.tasks.scenes.features import DenseSIFT, by_image

    pixels = _pictures(data_dir, images)
    image = keras.Input((200, 200, 1), batch_size=1, dtype="uint8", name="image")
    descriptors = DenseSIFT(1, (8,))(image)
    bag = BagOfWords([descriptors.shape[1]], 400, 128)
    words = np.random.default_rng(0).integers(0, 60, (400, 128)).astype(np.float32)
    model = keras.Model(image, bag(descriptors))
    bag.set_weights([np.arange(descriptors.shape[1], dtype=np.int32), words])
    streamed = by_image(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    for start in range(0, len(pixels), 100):
        streamed.predict_on_batch(pixels[start : start + 100])
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "\n".join(
        [
            "## A descriptor at every pixel",
            "",
            f"{descriptors.shape[1]:,} descriptors a picture and a histogram of 400 words, {len(pixels):,} pictures, "
            f"{datetime.now(UTC):%Y-%m-%d}: {seconds:.0f} s, {1e3 * seconds / len(pixels):.0f} ms a picture; largest memory of the "
            f"process {after / 2**20:.2f} GiB, of which {before / 2**20:.2f} GiB stood before (TensorFlow and the pictures).",
        ]
    )


def _recipe(data_dir: Path, rounds: int, images: int) -> str:
    """The whole recipe with an empty cache."""
    start_tensorflow()
    from kerascv_course.experiment import Experiment, Options
    from kerascv_course.recipes import get_recipe

    recipe = get_recipe("ntu-bag-of-sift-step3")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASCV_COURSE_CACHE"] = str(Path(folder) / "cache")
        result = Experiment(recipe, Path(folder) / "run", Options(data_dir=data_dir)).run()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return "\n".join(
        [
            "## The whole recipe",
            "",
            f"`{recipe.name}` with an empty cache, {datetime.now(UTC):%Y-%m-%d}: words, encoding, neighbours, figures, export and "
            f"the gate on all test pictures in {result.seconds:.0f} s; test accuracy {result.headline['test accuracy']}; largest "
            f"memory of the process {memory:.2f} GiB.",
        ]
    )


def _files(data_dir: Path, rounds: int, images: int, bare: Path | None) -> str:
    """Every encoder with every classifier as a file, on all test pictures."""
    start_tensorflow()
    from export import check_parity, export_model
    from kerascv_course.config import Data
    from kerascv_course.core.errors import InputError
    from kerascv_course.data import load
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.scenes.config import Scenes
    from kerascv_course.tasks.scenes.task import SceneTask

    lines = [
        "## Every encoder with every classifier",
        "",
        "",
        "| encoder | classifier | test | Keras and file differ by | same answers | in the bare environment |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    base = get_recipe("ntu-bag-of-sift")
    loaded = {}
    for side in (16, 100):
        data = Data("folder", image_size=(side, side), channels=1, validation_share=0.2)
        loaded[side] = data, load(data, data_dir)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASCV_COURSE_CACHE"] = str(Path(folder) / "cache")
        for encoder, classifier in ((e, c) for e in ENCODERS for c in CLASSIFIERS):
            small = {"step": 8, "bin_sizes": (8,), "words": 50, "samples": 20_000}
            try:
                scenes = Scenes(**{**small, **ENCODERS[encoder], **CLASSIFIERS[classifier]})
            except InputError:
                continue  # these do not go together
            config, data = loaded[16 if scenes.feature == "tiny" else 100]
            splits, info = data, data.info
            task = SceneTask(dataclasses.replace(base, scenes=scenes, data=config))
            model, _, _ = task.fit(data)
            trained = SimpleNamespace(model=model, data=data, predictions=task.predict(model, data.test), metrics={})
            trained.metrics = metrics = task.evaluate(trained)
            serving = task.serving_graph(model, info)
            path = export_model(serving, Path(folder) / "scene.onnx", task="scenes", **task.describe(trained))
            report = check_parity(
                serving, path, splits.test.images, targets=splits.test.targets, answer=task.answer, batch_sizes=(7,)
            )
            largest = max(row.max_absolute for row in report.rows)
            same = min(row.agreement for row in report.rows if row.agreement is not None)
            answers = [info.labels[answer] for answer in trained.predictions]
            alone = f"{_same_alone(bare, path, data_dir, answers):.2%}" if bare else "–"
            cells = [encoder, classifier, f"{metrics['test']['accuracy']:.4f}", f"{largest:.1e}", f"{same:.2%}", alone]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    lines[1] = (
        f"\nThin pipelines (tiny images of 16×16; else pictures of 100×100, step 8, bins of 8 pixels, 50 words or fewer), "
        f"{datetime.now(UTC):%Y-%m-%d}: each "
        f"file's answers to all {len(splits.test):,} test pictures beside those of the Keras graph, the whole gate; and where there "
        "is nothing but NumPy, onnxruntime and Pillow. Test accuracies are those of these thin pipelines; nothing is chosen by them."
    )
    return "\n".join(lines)


def _same_alone(python: Path, model: Path, data_dir: Path, answers: list[str]) -> float:
    """Share of the test pictures for which another environment's Python gives the same answers."""
    done = subprocess.run(
        [python, "-c", ASK, model, data_dir.resolve()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(np.mean([one == other for one, other in zip(json.loads(done.stdout), answers, strict=True)]))
