"""``benchmark``: exported files beside other engines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from export.commands import Commands
from kerascv_course.core.errors import InputError


def add_parsers(commands: Commands) -> None:
    """The command ``benchmark``."""
    benchmark = commands.add_parser(
        "benchmark",
        help="latency, throughput, memory, size and load time of exported files beside other engines",
        description="Time exported files with our predictor and with a bare onnxruntime session, beside other engines: each in a "
        "process of its own, in turns, on uint8 noise.",
        allow_abbrev=False,
    )
    benchmark.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="exported ONNX files of one input shape")
    benchmark.add_argument(
        "--against",
        default="",
        metavar="ENGINES",
        help="other engines, by comma: openvino; of the Keras model: keras (model.predict), tf.function, xla, torch",
    )
    benchmark.add_argument(
        "--run", type=Path, help="run folder with the Keras model (default: the first file's folder, if it is one)"
    )
    benchmark.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="of onnxruntime (default: cpu)")
    benchmark.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="batch sizes (default: 1 8 64)")
    benchmark.add_argument(
        "--seconds", type=float, default=2.0, help="how long each engine is timed at a batch size, about (default: 2)"
    )
    benchmark.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    benchmark.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
    benchmark.set_defaults(call=benchmark_command)


def benchmark_command(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    from export.benchmark.benchmark import benchmark
    from kerascv_course.core.io import atomic_write

    if not arguments.seconds > 0:
        raise InputError(f"--seconds is above 0; received {arguments.seconds}")
    if arguments.plot and arguments.plot.suffix.lower() != ".png":
        raise InputError(f"--plot ends in .png; received {arguments.plot}")
    keras = (arguments.run or arguments.models[0].parent) / "best.keras"
    if arguments.run and not keras.is_file():
        raise InputError(f"{arguments.run} is no finished run folder: it has no best.keras")
    report = benchmark(
        arguments.models,
        against=[name.strip() for name in arguments.against.split(",") if name.strip()],
        keras=keras if keras.is_file() else None,
        provider=arguments.provider,
        batch_sizes=arguments.batch,
        seconds=arguments.seconds,
    )
    print(report)
    if arguments.json:
        with atomic_write(arguments.json) as path:
            path.write_text(json.dumps(report.to_plain(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.plot:
        from kerascv_course.plots import engine_latencies

        names = {row.name: [speed.p50_ms for speed in row.speeds] for row in report.rows}
        sizes = [speed.batch_size for speed in report.rows[0].speeds]
        with atomic_write(arguments.plot) as path:
            engine_latencies(names, sizes, title=f"Median latency, {report.machine}").savefig(path, dpi=110)
    return 0
