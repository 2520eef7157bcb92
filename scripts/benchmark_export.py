"""The native converter beside tf2onnx: time, memory, nodes and latency of the files. Commands of scripts/benchmark.py."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from converter_backends import disturb
from PIL import Image

from kerascv_course.core.environment import describe_machine, package_versions, start_tensorflow
from kerascv_course.core.io import atomic_write

#: From so many parameters on a network is compared at 32×32 with 10 classes: tf2onnx needs more than 24 GiB for it at 224×224.
LARGE = 100_000_000

ROOT = Path(__file__).resolve().parent.parent

ConverterName = Literal["native", "tf2onnx"]


def export(pattern: str = "*", rounds: int = 9, output: Path = ROOT / "docs" / "export_speed.md") -> None:
    """Conversion by both converters, a process each, in turns, and the latency of their files, in turns.

    Args:
        pattern: shell pattern of the networks' names.
        rounds: times that each file is measured at each batch size, in each of three sessions.
        output: Markdown file.
    """
    from kerascv_course import list_models

    rows = []
    for name in list_models(pattern):
        with tempfile.TemporaryDirectory() as folder:
            files: dict[ConverterName, Path] = {
                "native": Path(folder) / "native.onnx",
                "tf2onnx": Path(folder) / "tf2onnx.onnx",
            }
            made = {converter: _alone(_convert, name, converter, file) for converter, file in files.items()}
            rows.append({"name": name, **made, "latency": _alone(_latency, files, rounds)})
        print(rows[-1], flush=True)
    text = "\n".join(_table(rows, rounds)) + "\n"
    with atomic_write(output) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def export_large(name: str = "vgg16") -> None:
    """Time and memory of the native converter for what tf2onnx cannot convert in 24 GiB.

    Prints them for a network at its default input, and for a .keras file of 2.2 GB that the command line exports, validates on noise
    and predicts with; memory is that of the command's largest process.

    Args:
        name: of the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        print(name, _alone(_convert, name, "native", Path(folder) / "x.onnx", True), flush=True)
        file, image = Path(folder) / "big.keras", Path(folder) / "image.png"
        _alone(_save_beyond_2_gb, file)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)).save(image)
        for words in ((file.name, "--noise"), ("predict", "big.onnx", image.name)):
            print(f"{file.stat().st_size:,} bytes:", *words, _alone(_command, Path(folder), *words), flush=True)


def _command(folder: Path, *words: str) -> dict[str, float]:
    """Seconds of a command of ``python -m export``, and bytes of its largest process; in a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "export", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "largest process": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}


def _save_beyond_2_gb(path: Path) -> None:
    start_tensorflow()
    import keras

    image = keras.Input((224, 224, 3))
    x = keras.layers.MaxPooling2D(2)(keras.layers.Conv2D(32, 3, strides=2, activation="relu")(image))
    x = keras.layers.Dense(5700, activation="relu")(keras.layers.Flatten()(x))
    keras.Model(image, keras.layers.Dense(10, activation="softmax")(x)).save(path)


def _alone(work: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _convert(name: str, converter: ConverterName, file: Path, whole: bool = False) -> dict[str, float]:
    """Seconds and bytes above the loaded model for the conversion in this process, and the nodes of the file."""
    start_tensorflow()
    import onnx

    from export import export_model
    from kerascv_course import create_model
    from kerascv_course.models import model_spec

    spec = model_spec(name)
    shape, classes = (spec.input_shape, spec.num_classes) if whole or spec.parameters < LARGE else ((32, 32, 3), 10)
    model = create_model(name, classes, shape)
    disturb(model, name)  # a new network's statistics are 0 and 1, of which tf2onnx leaves operations out
    weights = sum(4 * int(np.prod(weight.shape)) for weight in model.weights)
    export_model(create_model("lenet5"), file, converter=converter)  # loads and traces what any conversion needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    export_model(model, file, converter=converter)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    operators = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    return {
        "seconds": seconds,
        "peak": peak,
        "weights": weights,
        "nodes": len(operators),
        "transposes": operators.count("Transpose"),
    }


def _latency(files: dict[ConverterName, Path], rounds: int) -> dict[int, dict[ConverterName, float]]:
    """Median seconds a call at batch sizes 1 and 64, the files in turns, loaded afresh three times: where a session's weights
    come to lie in memory alone makes 10 % and more."""
    from export import OnnxModel

    found: dict[int, dict[ConverterName, list[float]]] = {batch: {converter: [] for converter in files} for batch in (1, 64)}
    rng = np.random.default_rng(0)
    for _ in range(3):
        models = {converter: OnnxModel(file) for converter, file in files.items()}
        spec = models["native"].contract.input
        for batch, seconds in found.items():
            count = 8 if batch > 1 and (spec.height or 0) > 64 else batch
            pixels = rng.integers(0, 256, (count, spec.height or 32, spec.width or 32, spec.channels), np.uint8)
            for number in range(rounds + 1):
                order = list(models.items())
                for converter, model in order if number % 2 else order[::-1]:
                    repeats, started = 0, time.perf_counter()
                    while time.perf_counter() - started < 0.05 or not repeats:
                        model.run_batch(pixels)
                        repeats += 1
                    if number:
                        seconds[converter].append((time.perf_counter() - started) / repeats)
    return {batch: {converter: median(values) for converter, values in seconds.items()} for batch, seconds in found.items()}


def _table(rows: list[dict[str, Any]], rounds: int) -> list[str]:
    machine, versions = describe_machine(), package_versions()
    speeds = [row["tf2onnx"]["seconds"] / row["native"]["seconds"] for row in rows]
    ratios = [pair["native"] / pair["tf2onnx"] for row in rows for pair in row["latency"].values()]
    lines = [
        "# The converter, measured",
        "",
        "Every network converted by the native converter and by tf2onnx, a process each, in turns, with disturbed weights at its",
        f"default input (those of over {LARGE // 10**6} million parameters at 32×32 with 10 classes): seconds of `export_model`, most",
        "memory above the loaded model, nodes (and Transposes) of the file, and milliseconds a call of `OnnxModel.run_batch`, the two",
        "files in turns, loaded three times (batch 8 in the place of 64 for images above 64 pixels).",
        "",
        f"Made by `python scripts/benchmark.py export` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{machine['processor']}, {machine['cores']} cores,",
        f"{', '.join(machine['gpus']) or 'no GPU'}; keras {versions['keras']}, tf2onnx {versions['tf2onnx']}, onnxruntime "
        f"{versions.get('onnxruntime-gpu') or versions.get('onnxruntime')}; medians of 3 × {rounds} rounds.",
        "",
        f"In the median the native converter is {median(speeds):.1f} times as fast "
        f"({min(speeds):.1f} to {max(speeds):.1f}); its files take "
        f"{median(ratios):.3f} of the time of tf2onnx's ({min(ratios):.3f} to {max(ratios):.3f}).",
        "",
        "| network | native, s | tf2onnx, s | times | native, MiB | tf2onnx, MiB "
        "| native, nodes | tf2onnx, nodes | batch 1, ms | batch 64, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ours, theirs = row["native"], row["tf2onnx"]
        calls = [
            f"{1e3 * pair['native']:.3f} / {1e3 * pair['tf2onnx']:.3f}: {pair['native'] / pair['tf2onnx']:.2f}"
            for pair in row["latency"].values()
        ]
        cells = [
            *(f"`{row['name']}`", f"{ours['seconds']:.2f}", f"{theirs['seconds']:.2f}"),
            f"{theirs['seconds'] / ours['seconds']:.1f}",
            *(f"{one['peak'] / 2**20:,.0f}" for one in (ours, theirs)),
            *(f"{one['nodes']} ({one['transposes']})" for one in (ours, theirs)),
            *calls,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
