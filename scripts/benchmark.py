"""Benchmarks. ``python scripts/benchmark.py models`` writes docs/models.md, ``engines`` the table of docs/export.md, ``classical``
docs/scenes_speed.md, ``analysis`` docs/analysis_speed.md, ``pipeline`` and ``train`` docs/training_speed.md, ``export``
docs/export_speed.md; ``folder`` prints figures for docs/data.md, ``export-large`` for docs/export.md.

What is compared is timed in turns, round after round, so that a slow spell of the machine meets all alike; medians are reported,
with the machine named.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro
from benchmark_analysis import analysis
from benchmark_classical import classical
from benchmark_export import export, export_large
from benchmark_pipeline import folder, pipeline
from benchmark_train import train

from kerascv_course.core.environment import describe_machine, package_versions, start_tensorflow
from kerascv_course.core.io import atomic_write

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Measured:
    """One network; `seconds` has the median seconds a call of each part."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    training_batch: int
    seconds: dict[str, float]


def models(pattern: str = "*", rounds: int = 3, output: Path = ROOT / "docs" / "models.md") -> None:
    """Parameters, MACs, training images/s and ONNX latency of every network, at its default input.

    Args:
        pattern: shell pattern of the names.
        rounds: times that each part is measured, after one call that is not.
        output: Markdown file.
    """
    from kerascv_course import list_models

    candidates = []
    # A process for each: what TensorFlow and the largest networks leave behind does not fit into 24 GiB together.
    for name in list_models(pattern):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            candidates.append(pool.submit(_measure, name, rounds).result())
        print(candidates[-1], flush=True)
    text = _table(candidates, rounds)
    with atomic_write(output) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def _measure(name: str, rounds: int) -> Measured:
    start_tensorflow()
    import keras

    from export import export_model
    from export.predictor import open_session
    from kerascv_course import create_model
    from kerascv_course.analysis import summarize
    from kerascv_course.models import model_spec

    shape = model_spec(name).input_shape
    model = create_model(name)
    summary = summarize(model)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_model(model, Path(folder) / "model.onnx"))

    # As a trainer would: a compiled step over a batch that is in memory, large inputs in smaller batches.
    batch = 64 if max(shape[:2]) <= 64 else 8
    rng = np.random.default_rng(0)
    pixels = {size: rng.integers(0, 256, (size, *shape), np.uint8) for size in (1, 64)}
    images = keras.ops.convert_to_tensor(rng.random((batch, *shape), np.float32))
    targets = keras.ops.zeros((batch, *model.output_shape[1:-1]), "int32")
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts: dict[str, Callable[[], Any]] = {
        "train": lambda: model.train_on_batch(images, targets),
        "batch 1": lambda: session.run(None, {"image": pixels[1]}),
        "batch 64": lambda: session.run(None, {"image": pixels[64]}),
    }
    seconds: dict[str, list[float]] = {part: [] for part in parts}
    for round_number in range(rounds + 1):
        for part, call in parts.items():
            started = time.perf_counter()
            call()
            if round_number:  # the first call traces and allocates
                seconds[part].append(time.perf_counter() - started)
    medians = {part: median(values) for part, values in seconds.items()}
    return Measured(name, shape, summary.trainable, summary.macs or 0, batch, medians)


def _table(candidates: list[Measured], rounds: int) -> str:
    machine = describe_machine()
    versions = package_versions()
    lines = [
        "# The networks, measured",
        "",
        "Trainable parameters and multiply-accumulates of one image, training speed (`train_on_batch`, float32, SGD) and latency of",
        "the exported file (onnxruntime, uint8 in, one call of 1 and of 64 images), each network at its default input.",
        "",
        f"Made by `python scripts/benchmark.py models` on {datetime.now(UTC):%Y-%m-%d}: {machine['processor']}, "
        f"{machine['cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}; "
        f"tensorflow {versions['tensorflow']}, keras {versions['keras']}, onnxruntime "
        f"{versions.get('onnxruntime-gpu') or versions.get('onnxruntime')}; random weights, medians of {rounds} rounds.",
        "",
        "| network | input | parameters | MACs | training images/s (batch) | ONNX batch 1, ms | ONNX batch 64, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in candidates:
        seconds = one.seconds
        lines.append(
            f"| `{one.name}` | {'×'.join(map(str, one.shape))} | {one.parameters:,} | {one.macs / 1e6:,.1f} M "
            f"| {one.training_batch / seconds['train']:,.1f} ({one.training_batch}) "
            f"| {1e3 * seconds['batch 1']:,.2f} | {1e3 * seconds['batch 64']:,.1f} |"
        )
    return "\n".join(lines) + "\n"


def untrained(name: str, folder: Path) -> None:
    """A network of the registry with random weights, its Keras model and its exported file, to be timed by python -m export benchmark.

    Args:
        name: of the network, taken for 10 classes of 32×32.
        folder: gets best.keras and model.onnx.
    """
    start_tensorflow()
    from export import export_model
    from export.converter.serving_graph import serving_classifier
    from export.serving import normalized
    from kerascv_course import create_model
    from kerascv_course.models import model_spec

    channels = model_spec(name).input_shape[-1]
    model = normalized(create_model(name, 10, (32, 32, channels)), (0.5,), (0.25,))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "best.keras")
    export_model(serving_classifier(model), folder / "model.onnx", name=name, task="classify", preprocessing=((0.5,), (0.25,)))


def engines(
    reports: tuple[Path, ...], output: Path | None = None, plot: Path = ROOT / "docs" / "images" / "engines.png"
) -> None:
    """Tables and a picture of what python -m export benchmark --json has measured.

    Args:
        reports: its JSON files, one a network; the file's name names the network.
        output: Markdown file; None: print it.
        plot: PNG file.
    """
    from kerascv_course.plots import engine_latencies

    plain = {path.stem: json.loads(path.read_bytes()) for path in reports}
    first = next(iter(plain.values()))
    sizes = [speed["batch_size"] for speed in first["rows"][0]["speeds"]]
    lines = [
        "| network | engine | "
        + " | ".join(f"batch {size}: p50 / p95 ms | images/s" for size in sizes)
        + " | load s | first answer s | peak MB | file MB |",
        "| --- | --- | " + "---: | " * (2 * len(sizes) + 4),
    ]
    for network, report in plain.items():
        for row in report["rows"]:
            cells = [f"{s['p50_ms']:.3f} / {s['p95_ms']:.3f} | {s['images_per_second']:,.0f}" for s in row["speeds"]]
            cells += [f"{row['load_seconds']:.2f}", f"{row['first_seconds']:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}"]
            lines.append(f"| `{network}` | {_engine(row)} | {' | '.join(cells)} | {row['bytes'] / 1e6:.2f} |")
    lines += ["", f"Batch {sizes[0]}, medians, as ratios:", ""]
    lines += [
        "| network | predictor / bare session | `model.predict` / predictor | `tf.function` / predictor | float32 / int8 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for network, report in plain.items():
        ms = {_engine(row): row["speeds"][0]["p50_ms"] for row in report["rows"]}
        ours = ms["predictor"]
        int8 = f"{ours / ms['predictor, int8']:.1f}" if "predictor, int8" in ms else ""
        lines.append(
            f"| `{network}` | {ours / ms['onnxruntime']:.3f} | {ms['keras'] / ours:.1f} | {ms['tf.function'] / ours:.1f} | {int8} |"
        )
    machine = f"{first['machine']}; {first['measured'][:10]}"
    latencies = {
        f"{network}, {_engine(row)}": [speed["p50_ms"] for speed in row["speeds"]]
        for network, report in plain.items()
        for row in report["rows"]
    }
    with atomic_write(plot) as path:
        engine_latencies(latencies, sizes, title=f"Median milliseconds a call; {machine}").savefig(path, dpi=80)
    text = "\n".join(lines) + "\n"
    if output is not None:
        with atomic_write(output) as path:
            path.write_text(text, encoding="utf-8")
    print(text)


def _engine(row: dict[str, Any]) -> str:
    return row["engine"] + (", int8" if row["file"].endswith(".int8.onnx") else "")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {
            "models": models,
            "engines": engines,
            "untrained": untrained,
            "classical": classical,
            "analysis": analysis,
            "pipeline": pipeline,
            "folder": folder,
            "train": train,
            "export": export,
            "export-large": export_large,
        },
        prog="python scripts/benchmark.py",
    )
