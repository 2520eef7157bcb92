"""Inference engines to compare, each in a process of its own, and timing in turns.

``python -m export.benchmark.engines`` is such a process: it reads its engine from standard input, opens it, answers once, then makes
as many calls as it is asked for, one line of JSON each way. Alone in a process, an engine has its own threads and its own memory.
The packages of an engine are imported when it is opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np

from export.untrusted.guard import bound_memory, die_with_parent, free_memory
from export.untrusted.screen import read_contract
from kerascv_course.core.environment import peak_memory
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.keras_file import load_keras
from kerascv_course.core.progress import part_of

__all__ = [
    "ENGINES",
    "FROM_KERAS",
    "FROM_ONNX",
    "TIMING",
    "Engine",
    "EngineSpec",
    "random_pixels",
    "serve",
    "take_turns",
    "time_calls",
]

#: An opened engine: uint8 pixels (N, height, width, channels) to scores, NumPy in and NumPy out.
Engine = Callable[[np.ndarray], np.ndarray]

Key = TypeVar("Key", bound=Hashable)

#: Target duration of one turn, seconds. In shorter turns, two threads that the system woke on one core stay there, and a call takes
#: twice as long in one turn as in the next.
TURN = 0.2

#: What is shown of the timing.
TIMING = "timing"

#: Times the memory of one image that a process of an ONNX file may need: for large batches of large images.
MEMORY_FACTOR = 4

#: Most calls in a turn.
MAX_CALLS = 1000


@dataclass(frozen=True)
class EngineSpec:
    """What a process has to open.

    Attributes:
        engine: name, one of `ENGINES`.
        onnx: exported file, which also defines the input.
        keras: the .keras file, for engines that run it.
        provider: onnxruntime's provider.
        side: height and width for a file of any size, pixels.
    """

    engine: str
    onnx: str
    keras: str | None
    provider: str
    side: int


# --- timing -----------------------------------------------------------------------------------------------------------


def time_calls(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls, after one plus a quarter as many warm-up calls.

    Until then, the threads of the previous candidate may still be spinning, the caches hold its data, and the system has not yet
    found a core for each thread.
    """
    for _ in range(1 + count // 4):
        call()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def take_turns(
    turns: Mapping[Key, Callable[[int], Sequence[float]]], *, seconds: float = 2.0, min_rounds: int = 5
) -> dict[Key, np.ndarray]:
    """Time candidates in turns, round after round, so that all meet the same slow spells of the machine.

    Args:
        turns: candidate to a function that makes a number of calls and returns the seconds of each, as `time_calls` does.
        seconds: approximate time for each candidate.
        min_rounds: fewest turns of each.

    Returns:
        Seconds of each call, float64 (calls,).
    """
    # the first turn allocates, and traces where there is a graph to trace
    repeats = {key: int(np.clip(TURN / min(turn(2)), 1, MAX_CALLS)) for key, turn in turns.items()}
    counted: dict[Key, list[float]] = {key: [] for key in turns}
    started, whole, rounds = time.perf_counter(), seconds * len(turns), 0
    with part_of(TIMING, math.ceil(whole), "seconds") as wait:
        before = wait.done
        while rounds < min_rounds or time.perf_counter() < started + whole:
            for key, turn in turns.items():
                counted[key] += turn(repeats[key])
            rounds += 1
            wait.to(before + int(min(time.perf_counter() - started, whole)))
    return {key: np.array(times) for key, times in counted.items()}


# --- engines ----------------------------------------------------------------------------------------------------------


def _open_file(spec: EngineSpec) -> Any:
    from export.predictor import OnnxModel

    return OnnxModel(spec.onnx, provider=spec.provider)  # type: ignore[arg-type]


def open_predictor(spec: EngineSpec) -> Engine:
    """Our predictor, `export.OnnxModel`."""
    model = _open_file(spec)
    if model.contract.classifies:
        return lambda pixels: model.predict(pixels, batch_size=len(pixels)).scores
    last = model.contract.outputs[-1].name
    return lambda pixels: model.run_batch(pixels)[last]


def open_onnxruntime(spec: EngineSpec) -> Engine:
    """A bare onnxruntime session: all outputs, input in its layout."""
    model = _open_file(spec)
    session, name, feed = model.session, model.contract.input.name, model.feed
    return lambda pixels: session.run(None, {name: feed(pixels)})[-1]


def open_openvino(spec: EngineSpec) -> Engine:
    """OpenVINO on the CPU in float32 (its default is bfloat16 where the processor has it)."""
    import openvino

    feed = _open_file(spec).feed
    compiled = openvino.Core().compile_model(
        spec.onnx, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    return lambda pixels: compiled(feed(pixels))[len(compiled.outputs) - 1]


def open_keras(spec: EngineSpec) -> Engine:
    """``model.predict``."""
    model = _load_model(spec)
    return lambda pixels: model.predict(pixels, batch_size=len(pixels), verbose=0)


def open_tf_function(spec: EngineSpec, *, xla: bool = False) -> Engine:
    """The Keras model as a ``tf.function``."""
    model = _load_model(spec)
    import tensorflow as tf

    function = tf.function(lambda pixels: model(pixels, training=False), jit_compile=xla)
    return lambda pixels: function(tf.constant(pixels)).numpy()


def open_torch(spec: EngineSpec) -> Engine:
    """The Keras model on Keras's PyTorch backend, traced and frozen: PyTorch's own operators, no Keras between them."""
    os.environ["KERAS_BACKEND"] = "torch"
    model = _load_model(spec)
    import torch

    traced: dict[int, Any] = {}  # a trace has the shape as a constant

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            values = torch.from_numpy(pixels)
            if len(pixels) not in traced:
                trace: Any = torch.jit.trace
                traced[len(pixels)] = torch.jit.freeze(trace(model.eval(), values, check_trace=False))
            return np.asarray(traced[len(pixels)](values))

    return call


#: Engines that run an ONNX file, and those that run the Keras model it was exported from.
FROM_ONNX: dict[str, Callable[[EngineSpec], Engine]] = {
    "predictor": open_predictor,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
FROM_KERAS: dict[str, Callable[[EngineSpec], Engine]] = {
    "keras": open_keras,
    "tf.function": open_tf_function,
    "xla": partial(open_tf_function, xla=True),
    "torch": open_torch,
}
ENGINES = {**FROM_ONNX, **FROM_KERAS}


def _load_model(spec: EngineSpec) -> Any:
    if spec.keras is None:
        raise InputError(f"engine {spec.engine!r} runs the Keras model: give --run RUN, the run folder of the file")
    return load_keras(spec.keras)


def _open(spec: EngineSpec) -> Engine:
    try:
        return ENGINES[spec.engine](spec)
    except ModuleNotFoundError as error:
        raise InputError(
            f"engine {spec.engine!r} needs the package {error.name!r}: install it (the extra kerascv_course[compare] has all of "
            "them), or leave the engine out"
        ) from error


def random_pixels(spec: EngineSpec, count: int) -> np.ndarray:
    """Uint8 noise (count, height, width, channels), the same in every process; content does not change the cost of a call."""
    image = read_contract(spec.onnx).input
    shape = (count, image.height or spec.side, image.width or spec.side, image.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# --- the process ------------------------------------------------------------------------------------------------------


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer request lines until there are no more.

    The first line is an `EngineSpec` as JSON, answered with ``load`` (seconds to an opened engine), ``first`` (time of the first
    answer) and ``scores`` of eight images. Each further line is ``{"batch": images a call, "calls": number}``, answered with
    ``seconds`` of each call and ``peak`` memory. Errors are answered with ``error`` and ``exit_code``.
    """

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        started = time.perf_counter()
        spec = EngineSpec(**json.loads(requests.readline()))
        free_memory()
        if spec.keras is None and spec.provider == "cpu":
            bound_memory(Path(spec.onnx), images=MEMORY_FACTOR)
        engine = _open(spec)
        load = time.perf_counter() - started
        pixels = random_pixels(spec, 8)
        engine(pixels[:1])
        answer(load=load, first=time.time(), scores=np.asarray(engine(pixels), np.float64).reshape(8, -1).tolist())
        batches: dict[int, np.ndarray] = {}
        for line in requests:
            request = json.loads(line)
            size = request["batch"]
            if size not in batches:
                batches[size] = random_pixels(spec, size)
            seconds = time_calls(partial(engine, batches[size]), request["calls"])
            answer(seconds=seconds, peak=peak_memory())
    except CourseError as error:
        answer(error=str(error), exit_code=error.exit_code)
    except Exception as error:  # engines raise many kinds
        answer(error=f"{type(error).__name__}: {str(error)[:500]}", exit_code=1)


def main() -> None:
    """Serve on standard input and output, with everything that engines print moved to standard error."""
    die_with_parent(os.getppid())
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
