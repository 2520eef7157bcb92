"""Speed, memory and size of exported files beside other inference engines, measured in turns."""

from __future__ import annotations

import dataclasses
import json
import math
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
from scipy.special import softmax

from export.benchmark.engines import ENGINES, FROM_KERAS, FROM_ONNX, TIMING, EngineSpec, take_turns
from export.predictor import PROVIDERS, OnnxModel, Provider
from export.untrusted.guard import running
from kerascv_course.core.environment import core_count, package_versions, processor_name
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError
from kerascv_course.core.progress import Wait
from kerascv_course.core.tables import text_table

__all__ = ["BatchSpeed", "BenchmarkReport", "EngineError", "EngineProcess", "EngineRow", "benchmark"]

#: Engines that every file is measured with.
ALWAYS = ("predictor", "onnxruntime")

#: Height and width for a file of any size whose recipe names none, pixels.
SIDE = 224


class EngineError(CourseError):
    """An engine failed."""


@dataclass(frozen=True)
class BatchSpeed:
    """Speed at one batch size.

    Attributes:
        batch_size: images a call.
        p50_ms: median time of a call, milliseconds.
        p95_ms: 95th percentile, milliseconds.
        images_per_second: at the median.
        calls: number of timed calls.
    """

    batch_size: int
    p50_ms: float
    p95_ms: float
    images_per_second: float
    calls: int

    @classmethod
    def of(cls, batch_size: int, seconds: np.ndarray) -> BatchSpeed:
        """Summarize the seconds of each call."""
        p50, p95 = (1e3 * float(value) for value in np.percentile(seconds, (50, 95)))
        return cls(batch_size, p50, p95, 1e3 * batch_size / p50, len(seconds))


@dataclass(frozen=True)
class EngineRow:
    """One engine on one file.

    Attributes:
        engine: its name.
        file: the file it ran.
        bytes: size of the file.
        load_seconds: imports and opening.
        first_seconds: from the start of the process to the first answer.
        peak_bytes: peak resident memory of the process; None where the system does not tell.
        difference: largest difference of a probability from the first row, over eight images; None without probabilities.
        speeds: one entry a batch size.
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
        """Engine and file name."""
        return f"{self.engine}, {Path(self.file).name}"

    def cells(self) -> list[str]:
        """The row of the printed table."""
        speeds = [text for s in self.speeds for text in (f"{s.p50_ms:.3f} / {s.p95_ms:.3f}", f"{s.images_per_second:,.0f}")]
        peak = "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f}"
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        seconds = (f"{self.load_seconds:.2f}", f"{self.first_seconds:.2f}")
        return [self.name, *speeds, *seconds, peak, f"{self.bytes / 1e6:.2f}", difference]


@dataclass(frozen=True)
class BenchmarkReport:
    """All measurements.

    Attributes:
        rows: one row an engine and file.
        image_shape: (height, width, channels) of the uint8 noise that was fed.
        machine: processor and cores.
        providers: onnxruntime's providers, as its session states them.
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
        """JSON-serializable form."""
        return dataclasses.asdict(self)

    def speed(self, engine: str, batch_size: int, file: str | None = None) -> BatchSpeed:
        """Speed of an engine at a batch size."""
        row = next(row for row in self.rows if row.engine == engine and file in (None, row.file))
        return next(speed for speed in row.speeds if speed.batch_size == batch_size)

    def __str__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        speeds = [head for speed in self.rows[0].speeds for head in (f"batch {speed.batch_size}", "images/s")]
        head = ["", *speeds, "load s", "first s", "peak MB", "file MB", "max |Δp|"]
        return (
            f"{self.machine}; onnxruntime with {', '.join(self.providers)}; uint8 {shape}; milliseconds a call, p50 / p95\n\n"
            + text_table(head, [row.cells() for row in self.rows])
        )


def benchmark(
    files: Sequence[str | Path],
    *,
    against: Sequence[str] = (),
    keras: str | Path | None = None,
    provider: Provider = "cpu",
    batch_sizes: Sequence[int] = (1, 8, 64),
    seconds: float = 2.0,
) -> BenchmarkReport:
    """Measure exported files, with our predictor and with a bare onnxruntime session, beside other engines.

    Each engine has a process of its own; while one is timed, the others wait. They take turns, round after round.

    Args:
        files: exported files of one input shape.
        against: further engines: those that read ONNX run every file, those that run a Keras model run `keras`.
        keras: the .keras file that the files were exported from, for engines that need it.
        provider: onnxruntime's provider.
        batch_sizes: images a call.
        seconds: approximate time for each engine and batch size.

    Raises:
        InputError: no files, files of several shapes, an engine that is unknown, not installed or lacks its Keras model.
        ProviderError: the provider is not available.
        EngineError: an engine failed.
    """
    for name in against:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
    if provider not in PROVIDERS:
        raise InputError(f"provider must be {' or '.join(PROVIDERS)}; received {provider!r}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes must be 1 or more; received {list(batch_sizes)}")
    if not files:
        raise InputError("benchmark needs one exported file or more")
    models = [OnnxModel(file, provider=provider) for file in files]  # fails here if the provider is not available
    shape, *others = map(_image_shape, models)
    if any(other != shape for other in others):
        raise InputError(f"files to compare must have one input shape; received {[shape, *others]}")
    specs = [
        EngineSpec(engine, str(file), None, provider, shape[0])
        for file in files
        for engine in dict.fromkeys((*ALWAYS, *against))
        if engine in FROM_ONNX
    ]
    specs += [
        EngineSpec(engine, str(files[0]), str(keras) if keras else None, provider, shape[0])
        for engine in dict.fromkeys(against)
        if engine in FROM_KERAS
    ]
    whole = math.ceil(seconds * len(specs) * len(batch_sizes))
    with ExitStack() as stack, Wait(TIMING, whole, "seconds"):
        processes = [stack.enter_context(EngineProcess(spec)) for spec in specs]
        times = {
            size: take_turns({n: partial(p.turn, batch_size=size) for n, p in enumerate(processes)}, seconds=seconds)
            for size in batch_sizes
        }
    rows = tuple(
        EngineRow(
            engine=process.spec.engine,
            file=process.file,
            bytes=Path(process.file).stat().st_size,
            load_seconds=process.load,
            first_seconds=process.first,
            peak_bytes=process.peak,
            difference=_difference(processes[0].scores, process.scores) if models[0].contract.classifies else None,
            speeds=tuple(BatchSpeed.of(size, times[size][number]) for size in batch_sizes),
        )
        for number, process in enumerate(processes)
    )
    return BenchmarkReport(
        rows=rows,
        image_shape=shape,
        machine=f"{processor_name()}, {core_count()} cores",
        providers=tuple(models[0].session.get_providers()),
        versions=package_versions(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class EngineProcess:
    """A process with one open engine (`export.benchmark.engines`).

    Args:
        spec: what it opens.

    Raises:
        InputError: the engine is not available.
        EngineError: it failed.

    Attributes:
        load: seconds to an opened engine.
        first: seconds from the start of the process to the first answer.
        scores: float64 (8, values), of eight images.
        peak: peak memory so far, bytes.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.file = spec.keras if spec.engine in FROM_KERAS and spec.keras else spec.onnx
        self.peak: int | None = None
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed by close()
        started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "export.benchmark.engines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            answer = self._ask(dataclasses.asdict(spec))
        except BaseException:
            self.close()
            raise
        self.load: float = answer["load"]
        self.first: float = answer["first"] - started
        self.scores = np.array(answer["scores"])

    def turn(self, count: int, *, batch_size: int) -> list[float]:
        """Seconds of each of `count` calls."""
        answer = self._ask({"batch": batch_size, "calls": count})
        self.peak = answer["peak"]
        return list(answer["seconds"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # readline returns nothing then
        with running():
            line = self.process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read()[-500:].strip()
            raise EngineError(f"the process of engine {self.spec.engine!r} ended: {last or 'without a message'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = InputError if answer["exit_code"] == InputError.exit_code else EngineError
            raise kind(f"engine {self.spec.engine!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self._errors.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _image_shape(model: OnnxModel) -> tuple[int, int, int]:
    spec = model.contract.input
    data = model.contract.recipe.get("data")
    sizes = data.get("image_size") if isinstance(data, dict) else None
    side = sizes[0] if isinstance(sizes, list | tuple) and sizes and isinstance(sizes[0], int) else SIDE
    return spec.height or side, spec.width or side, spec.channels


def _difference(first: np.ndarray, scores: np.ndarray) -> float | None:
    """Largest difference of probabilities; scores that are logits are made probabilities first."""
    if first.shape != scores.shape:
        return None
    ours, theirs = (
        values if values.min() >= 0 and np.allclose(values.sum(axis=-1), 1, atol=1e-3) else softmax(values, axis=-1)
        for values in (first, scores)
    )
    return float(np.abs(ours - theirs).max())
