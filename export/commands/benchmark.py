"""``benchmark``: exported files beside other inference engines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from export.benchmark.benchmark import benchmark
from export.commands.paths import model_file
from export.untrusted.guard import guarded, limit_memory
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import atomic_write, write_text

__all__ = ["add_benchmark"]


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """Options of ``benchmark``."""
    parser.description = (
        "Time exported files with our predictor and with a bare onnxruntime session, beside other engines: each in a process of its "
        "own, in turns, on uint8 noise."
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help="exported ONNX files of one input shape, or run folders with one"
    )
    parser.add_argument(
        "--against",
        default="",
        metavar="ENGINES",
        help="other engines, comma-separated: openvino; of the Keras model: keras (model.predict), tf.function, xla, torch",
    )
    parser.add_argument("--run", type=Path, help="run folder with the Keras model (default: the first file's folder)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime provider (default: cpu)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="batch sizes (default: 1 8 64)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="approximate time for each engine and batch size (default: 2)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the latencies")
    parser.set_defaults(call=_benchmark)


@guarded(always=False)
def _benchmark(arguments: argparse.Namespace) -> None:
    if not arguments.seconds > 0:
        raise InputError(f"--seconds must be above 0; received {arguments.seconds}")
    if arguments.plot and arguments.plot.suffix.lower() != ".png":
        raise InputError(f"--plot must end in .png; received {arguments.plot}")
    models = [model_file(path) for path in arguments.models]
    if arguments.provider == "cpu":
        limit_memory(*models)
    keras_file = (arguments.run or models[0].parent) / "best.keras"
    if arguments.run and not keras_file.is_file():
        raise InputError(f"{arguments.run} is not a finished run: it has no best.keras")
    report = benchmark(
        models,
        against=[name.strip() for name in arguments.against.split(",") if name.strip()],
        keras=keras_file if keras_file.is_file() else None,
        provider=arguments.provider,
        batch_sizes=arguments.batch,
        seconds=arguments.seconds,
    )
    print(report)
    if arguments.json:
        write_text(arguments.json, json.dumps(report.to_plain(), indent=2, ensure_ascii=False) + "\n")
    if arguments.plot:
        from kerascv_course.plots import engine_latencies

        latencies = {row.name: [speed.p50_ms for speed in row.speeds] for row in report.rows}
        figure = engine_latencies(latencies, arguments.batch, title=f"Median latency, {report.machine}")
        with atomic_write(arguments.plot) as path:
            figure.savefig(path, dpi=110)
