"""Time of a training step on one core, and on two cores by one process, by one process with two devices and by two processes.

    python scripts/benchmark_distributed.py --data-dir DIR --rounds 2

Each variant trains ``tdt4265-base`` on CIFAR-10's cats and dogs on Keras's JAX backend, pinned to its cores, in turn; a time is the
median of the periods between validations after the first, which compiles. For Linux.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kerascv_course.core.environment import package_versions, processor_name

#: Name, what is added to the command, and the cores of each process.
VARIANTS: list[tuple[str, list[str], list[set[int]]]] = [
    ("1 process, 1 core", [], [{0}]),
    ("1 process, 2 cores", [], [{0, 1}]),
    ("1 process, 2 devices, 2 cores", ["--devices", "2"], [{0, 1}]),
    ("2 processes, 1 core each", [], [{0}, {1}]),
]

PERIODS = 4


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared CIFAR-10")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name, *_ in VARIANTS}
    for _ in range(arguments.rounds):
        for name, options, cores in VARIANTS:
            times[name] += measure(options, cores, arguments.data_dir, arguments.batch_size)
            print(f"{name}: {1000 * statistics.median(times[name]):.0f} ms a step", file=sys.stderr)
    versions = package_versions()
    first = statistics.median(times[VARIANTS[0][0]])
    print(f"{processor_name()}; keras {versions['keras']}, jax {versions['jax']}; batches of {arguments.batch_size}\n")
    print("| | ms a step, median | images/s | times one core |\n| --- | ---: | ---: | ---: |")
    for name, values in times.items():
        seconds = statistics.median(values)
        print(f"| {name} | {1000 * seconds:.0f} | {arguments.batch_size / seconds:.0f} | {first / seconds:.2f} |")


def measure(options: list[str], cores: list[set[int]], data_dir: Path, batch_size: int) -> list[float]:
    """Seconds a step of each period but the first."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "kerascv_course.train",
            "tdt4265-base",
            "--run-dir",
            str(run),
            "--train-only",
            "--epochs",
            "1",
        ]
        command += ["--data-dir", str(data_dir), "--data.only", "cat", "dog", "--data.validation-share", "0.02"]
        command += ["--batch-size", str(batch_size), "--validations-per-epoch", str(PERIODS), *options]
        if len(cores) > 1:
            command += ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", str(len(cores))]
        processes = [
            subprocess.Popen(
                [*command, *(["--process-id", str(number)] if len(cores) > 1 else [])],
                env={**os.environ, "KERAS_BACKEND": "jax"},
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda own=own: os.sched_setaffinity(0, own),
            )
            for number, own in enumerate(cores)
        ]
        if any(process.wait() for process in processes):
            raise SystemExit("a training has failed")
        with (run / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
    steps = float(rows[0]["step"])
    return [float(row["seconds"]) / steps for row in rows[1:]]


if __name__ == "__main__":
    main()
