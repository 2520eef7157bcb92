"""Speed and memory of the classical pipelines: ``python scripts/benchmark.py classical --data-dir DIR`` writes docs/scenes_speed.md."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmark_page import read_parts

from kerascv_course.environment import describe_machine, package_versions, start_tensorflow
from kerascv_course.files import write_beside

ROOT = Path(__file__).resolve().parent.parent

#: What each part measures, in the order of the page.
PARTS = ("descriptors", "stream", "recipe")

BIN, STEP, BATCH = 4, 4, 16


def classical(
    data_dir: Path,
    parts: tuple[str, ...] = PARTS,
    rounds: int = 7,
    images: int = 3000,
    output: Path = ROOT / "docs" / "scenes_speed.md",
) -> None:
    """Dense SIFT beside OpenCV's on the same grid; memory at a descriptor a pixel; the whole bag-of-SIFT recipe at step 3.

    Args:
        data_dir: folder of class folders with train/ and test/.
        parts: what to measure: descriptors, stream, recipe.
        rounds: times that each engine describes the images, in turns.
        images: at most so many are streamed.
        output: Markdown file; the lines of parts that are not measured stay.
    """
    measures = {"descriptors": _descriptors, "stream": _stream, "recipe": _recipe}
    found = read_parts(output)
    for part in parts:
        # A process for each: the largest memory of a process never falls again.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[part] = pool.submit(measures[part], data_dir, rounds, images).result()
        print(found[part], flush=True)
    machine, versions = describe_machine(), package_versions()
    text = "\n\n".join(
        [
            "# Classical vision, measured",
            f"Made by `python scripts/benchmark.py classical --data-dir DIR`: {machine['processor']}, {machine['cores']} cores, "
            f"{', '.join(machine['gpus']) or 'no GPU'}; tensorflow {versions['tensorflow']}, keras {versions['keras']}.",
            *(f"<!-- {part} -->\n{found[part]}" for part in PARTS if part in found),
        ]
    )
    with write_beside(output) as path:
        path.write_text(text + "\n", encoding="utf-8")


def _pictures(data_dir: Path, count: int) -> np.ndarray:
    from kerascv_course.images import read_image

    paths = sorted(data_dir.glob("*/*/*.jpg"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return np.stack([read_image(path, 200, 200, 1) for path in chosen])


def _descriptors(data_dir: Path, rounds: int, images: int) -> str:
    start_tensorflow()
    import cv2
    import keras
    import tensorflow as tf

    from export import export_model
    from export.runtime import open_session
    from kerascv_course.classical.sift import DenseSIFT, Grid

    pixels = _pictures(data_dir, BATCH)
    image = keras.Input((200, 200, 1), dtype="uint8", name="image")
    model = keras.Model(image, {"descriptors": DenseSIFT(STEP, (BIN,))(image)}, name="dense_sift")
    described = tf.function(model)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_model(model, Path(folder) / "sift.onnx", task="tensor"))
    grid = Grid(200, 200, STEP, BIN)
    middle = 1.5 * BIN
    keypoints = [cv2.KeyPoint(float(x + middle), float(y + middle), BIN / 1.5, 0.0) for y in grid.rows for x in grid.columns]
    sift = cv2.SIFT_create()
    tensor = tf.constant(pixels)
    engines: dict[str, Callable[[], Any]] = {
        "Keras layer in `tf.function`": lambda: described(tensor),
        "the same as ONNX, onnxruntime": lambda: session.run(None, {"image": pixels}),
        f"OpenCV {cv2.__version__} `SIFT.compute`": lambda: [sift.compute(one[..., 0], keypoints) for one in pixels],
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, call in engines.items():
            started = time.perf_counter()
            call()
            if turn:  # the first call traces and allocates
                seconds[name].append((time.perf_counter() - started) / len(pixels))
    medians = {name: median(values) for name, values in seconds.items()}
    slowest = medians[list(engines)[-1]]
    lines = [
        "## Dense SIFT",
        "",
        f"{len(keypoints):,} descriptors (step {STEP}, bins of {BIN} pixels) of each of {len(pixels)} pictures of 200×200, "
        f"{rounds} rounds in turns, medians, {datetime.now(UTC):%Y-%m-%d}. OpenCV also smooths each picture and builds its scale "
        "space.",
        "",
        "| engine | ms a picture | µs a descriptor | times as fast as OpenCV |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, value in medians.items():
        lines.append(f"| {name} | {1e3 * value:.2f} | {1e6 * value / len(keypoints):.2f} | {slowest / value:.1f} |")
    return "\n".join(lines)


def _stream(data_dir: Path, rounds: int, images: int) -> str:
    """Histograms with a descriptor at every pixel, in one call for all pictures."""
    start_tensorflow()
    import keras

    from kerascv_course.classical.by_image import by_image
    from kerascv_course.classical.encoders import BagOfWords
    from kerascv_course.classical.sift import DenseSIFT

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
    from kerascv_course.experiment import run_recipe
    from kerascv_course.recipes import get_recipe

    recipe = get_recipe("ntu-bag-of-sift-step3")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASCV_COURSE_CACHE"] = str(Path(folder) / "cache")
        result = run_recipe(recipe, Path(folder) / "run", data_dir=data_dir)
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
