"""Speed, memory and size of exported files, beside the engines that could have been used instead, measured in turns."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.benchmark.engines import ENGINES, FROM_KERAS, FROM_ONNX, Job
from export.benchmark.timing import take_turns
from export.predictor import PROVIDERS, OnnxModel, Provider
from kerascv_course.core.environment import core_count, package_versions, processor_name
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError

__all__ = ["BatchSpeed", "BenchmarkReport", "EngineError", "EngineRow", "benchmark"]

#: What every file is measured with.
ALWAYS = ("predictor", "onnxruntime")

#: Side of the pictures for a file that takes any size, where its recipe names none.
SIDE = 224


class EngineError(CourseError):
    """An engine could not be opened, or failed."""


@dataclass(frozen=True)
class BatchSpeed:
    """Speed at one batch size.

    Attributes:
        batch_size: images a call.
        p50_ms: median milliseconds a call.
        p95_ms: 95 % of the calls took no longer.
        images_per_second: at the median.
        calls: how many were timed.
    """

    batch_size: int
    p50_ms: float
    p95_ms: float
    images_per_second: float
    calls: int


@dataclass(frozen=True)
class EngineRow:
    """One engine on one file.

    Attributes:
        engine: its name.
        file: what it ran.
        bytes: size of that.
        load_seconds: imports and opening.
        first_seconds: from the start of the process to the first answer.
        peak_bytes: most memory the process has held; None where the system does not tell.
        difference: largest difference in a probability from the first row's, over eight pictures; None where there are none.
        speeds: a row a batch size.
    """

    engine: str
    file: str
    bytes: int
    load_seconds: float
    first_seconds: float
    peak_bytes: int | None
    difference: float | None
    speeds: tuple[BatchSpeed, ...]

    @property
    def name(self) -> str:
        """Engine and file."""
        return f"{self.engine}, {Path(self.file).name}"


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, and where.

    Attributes:
        rows: a row an engine and file.
        image_shape: (height, width, channels) of what was fed: uint8 noise.
        machine: processor and cores.
        providers: of onnxruntime, as its session tells them.
        versions: of the packages.
        measured: date and time.
    """

    rows: tuple[EngineRow, ...]
    image_shape: tuple[int, int, int]
    machine: str
    providers: tuple[str, ...]
    versions: dict[str, str]
    measured: str

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def speed(self, engine: str, batch_size: int, file: str | None = None) -> BatchSpeed:
        """A row's speed at a batch size."""
        row = next(row for row in self.rows if row.engine == engine and file in (None, row.file))
        return next(speed for speed in row.speeds if speed.batch_size == batch_size)

    def __str__(self) -> str:
        sizes = [speed.batch_size for speed in self.rows[0].speeds]
        width = max(len(row.name) for row in self.rows) + 2
        shape = "×".join(map(str, self.image_shape))
        lines = [
            f"{self.machine}; onnxruntime with {', '.join(self.providers)}; uint8 {shape}; milliseconds a call, p50 / p95",
            "",
        ]
        head = "".join(f"{f'batch {size}':>20}{'images/s':>10}" for size in sizes)
        lines.append(f"{'':<{width}}{head}{'load s':>9}{'first s':>9}{'peak MB':>9}{'file MB':>9}{'max |Δp|':>10}")
        for row in self.rows:
            cells = "".join(
                f"{f'{speed.p50_ms:.3f} / {speed.p95_ms:.3f}':>20}{speed.images_per_second:>10,.0f}" for speed in row.speeds
            )
            peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
            difference = "" if row.difference is None else f"{row.difference:.1e}"
            lines.append(
                f"{row.name:<{width}}{cells}{row.load_seconds:>9.2f}{row.first_seconds:>9.2f}{peak:>9}{row.bytes / 1e6:>9.2f}"
                f"{difference:>10}"
            )
        return "\n".join(lines)


def benchmark(
    files: Sequence[str | Path],
    *,
    against: Sequence[str] = (),
    keras: str | Path | None = None,
    provider: Provider = "cpu",
    batch_sizes: Sequence[int] = (1, 8, 64),
    seconds: float = 2.0,
) -> BenchmarkReport:
    """Measure exported files, each by our predictor and by a bare onnxruntime session, beside other engines.

    Every engine has a fresh process of its own, and while one is timed the others wait. They take turns, round after round.

    Args:
        files: exported, all of one input shape.
        against: further engines: those that read ONNX run every file, those that run a Keras model run `keras`.
        keras: the Keras model that the files were made from (.keras), for engines that need it.
        provider: of onnxruntime.
        batch_sizes: images a call.
        seconds: how long each engine is timed at a batch size, about.

    Raises:
        InputError: no files, files of several shapes, an engine that is not known, not installed or lacks its Keras model.
        ProviderError: the provider cannot be had.
        EngineError: an engine fails.
    """
    for name in against:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
    if provider not in PROVIDERS:
        raise InputError(f"provider is {' or '.join(PROVIDERS)}; received {provider!r}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes are 1 or more; received {list(batch_sizes)}")
    if not files:
        raise InputError("a benchmark takes one exported file or more")
    models = [OnnxModel(file, provider=provider) for file in files]  # tells of a provider that is not to be had
    shape, *others = (_shape(model) for model in models)
    if any(other != shape for other in others):
        raise InputError(f"files that are compared take pictures of one shape; received {[shape, *others]}")
    engines = [*ALWAYS, *(name for name in dict.fromkeys(against) if name in FROM_ONNX and name not in ALWAYS)]
    jobs = [Job(engine, str(file), None, provider, shape[0]) for file in files for engine in engines]
    jobs += [
        Job(engine, str(files[0]), str(keras) if keras else None, provider, shape[0])
        for engine in dict.fromkeys(against)
        if engine in FROM_KERAS
    ]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(job)) for job in jobs]
        times = _time(workers, batch_sizes, seconds)
    reference = workers[0].scores
    classifies = models[0].contract.classifies
    rows = tuple(
        EngineRow(
            engine=worker.job.engine,
            file=worker.file,
            bytes=Path(worker.file).stat().st_size,
            load_seconds=worker.load,
            first_seconds=worker.first,
            peak_bytes=worker.peak,
            difference=_difference(reference, worker.scores) if classifies else None,
            speeds=tuple(_speed(size, times[number, size]) for size in batch_sizes),
        )
        for number, worker in enumerate(workers)
    )
    return BenchmarkReport(
        rows=rows,
        image_shape=shape,
        machine=f"{processor_name()}, {core_count()} cores",
        providers=tuple(models[0].session.get_providers()),
        versions=package_versions(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class Worker:
    """A process with one engine, opened.

    Args:
        job: what it opens.

    Raises:
        InputError: the engine is not to be had.
        EngineError: it fails.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.file = job.keras if job.engine in FROM_KERAS and job.keras else job.onnx
        self.peak: int | None = None
        self.complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed by __exit__
        started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "export.benchmark.engines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        try:
            told = self._ask(dataclasses.asdict(job))
        except BaseException:
            self.close()
            raise
        self.load: float = told["load"]
        self.first: float = told["first"] - started
        self.scores = np.array(told["scores"])

    def turn(self, count: int, *, batch_size: int) -> list[float]:
        """Seconds of so many calls."""
        told = self._ask({"batch": batch_size, "calls": count})
        self.peak = told["peak"]
        return told["seconds"]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # told below
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            last = self.complaints.read()[-500:].strip()
            raise EngineError(f"the process of the engine {self.job.engine!r} has ended: {last or 'it says nothing'}")
        told = json.loads(line)
        if "error" in told:
            kind = InputError if told["exit_code"] == InputError.exit_code else EngineError
            raise kind(f"engine {self.job.engine!r}: {told['error']}")
        return told

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.complaints.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _time(workers: Sequence[Worker], batch_sizes: Sequence[int], seconds: float) -> dict[tuple[int, int], np.ndarray]:
    """Seconds of each call by (number of the worker, batch size)."""
    times = {}
    for size in batch_sizes:
        turns = {number: partial(worker.turn, batch_size=size) for number, worker in enumerate(workers)}
        for number, measured in take_turns(turns, seconds=seconds).items():
            times[number, size] = measured
    return times


def _speed(size: int, seconds: np.ndarray) -> BatchSpeed:
    p50, p95 = (1e3 * float(value) for value in np.percentile(seconds, (50, 95)))
    return BatchSpeed(size, p50, p95, 1e3 * size / p50, len(seconds))


def _shape(model: OnnxModel) -> tuple[int, int, int]:
    spec = model.contract.input
    side = SIDE
    if spec.height is None:
        given = model.contract.recipe.get("data")
        sizes = given.get("image_size") if isinstance(given, dict) else None
        side = sizes[0] if isinstance(sizes, list | tuple) and sizes and isinstance(sizes[0], int) else SIDE
    return spec.height or side, spec.width or side, spec.channels


def _difference(first: np.ndarray, scores: np.ndarray) -> float | None:
    if first.shape != scores.shape:
        return None
    return float(np.abs(_probabilities(first) - _probabilities(scores)).max())


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax of logits; probabilities as they are."""
    if scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1, atol=1e-3):
        return scores
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
