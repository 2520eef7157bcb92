"""Engines that a benchmark compares, each in a process of its own: ``python -m export.benchmark.engines`` is that process.

A process is told its engine on its standard input, opens it, answers once, and then makes as many calls as it is asked for, a line
of JSON each way. Alone in a process an engine has its own threads, and the memory is its own. What an engine needs is imported
when it is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import numpy as np

from export.benchmark.timing import time_calls
from kerascv_course.core.environment import peak_memory
from kerascv_course.core.errors import CourseError, InputError

__all__ = ["ENGINES", "FROM_KERAS", "FROM_ONNX", "Job", "open_engine", "random_pixels", "serve"]

#: An opened engine: uint8 pixels (N, height, width, channels) to the scores, NumPy in and NumPy out.
Engine = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Job:
    """What a process has to open.

    Attributes:
        engine: name.
        onnx: the exported file, which says what is fed.
        keras: the Keras model, for engines that run it.
        provider: of onnxruntime.
        side: height and width for a file of open sizes, pixels.
    """

    engine: str
    onnx: str
    keras: str | None
    provider: str
    side: int


def open_predictor(job: Job) -> Engine:
    """Our predictor: `export.OnnxModel`."""
    from export.predictor import OnnxModel

    model = OnnxModel(job.onnx, provider=job.provider)  # type: ignore[arg-type]
    if model.contract.classifies:
        return lambda pixels: model.predict(pixels, batch_size=len(pixels)).scores
    last = model.contract.outputs[-1].name
    return lambda pixels: model.run_batch(pixels)[last]


def open_onnxruntime(job: Job) -> Engine:
    """A bare session of onnxruntime: all outputs, the input as its layout wants it."""
    from export.predictor import OnnxModel

    model = OnnxModel(job.onnx, provider=job.provider)  # type: ignore[arg-type]
    session, name, feed = model.session, model.contract.input.name, model.feed
    del model
    return lambda pixels: session.run(None, {name: feed(pixels)})[-1]


def open_openvino(job: Job) -> Engine:
    """OpenVINO on the CPU, told to keep float32 (by itself it computes in bfloat16 where the processor has it)."""
    import openvino

    feed = _feed(job)
    compiled = openvino.Core().compile_model(
        job.onnx, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    return lambda pixels: compiled(feed(pixels))[len(compiled.outputs) - 1]


def open_keras(job: Job) -> Engine:
    """``model.predict``."""
    model = _load_keras(job)
    return lambda pixels: model.predict(pixels, batch_size=len(pixels), verbose=0)


def open_tf_function(job: Job, *, xla: bool = False) -> Engine:
    """The Keras model as a ``tf.function``."""
    model = _load_keras(job)
    import tensorflow as tf

    function = tf.function(lambda pixels: model(pixels, training=False), jit_compile=xla)
    return lambda pixels: function(tf.constant(pixels)).numpy()


def open_torch(job: Job) -> Engine:
    """The Keras model on Keras's PyTorch backend, traced and frozen: PyTorch's own operators, no Keras between them."""
    os.environ["KERAS_BACKEND"] = "torch"
    model = _load_keras(job)
    import torch

    traced: dict[int, Any] = {}  # Keras's shapes are constants of a trace

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            values = torch.from_numpy(pixels)
            if len(pixels) not in traced:
                traced[len(pixels)] = torch.jit.freeze(torch.jit.trace(model.eval(), values, check_trace=False))
            return traced[len(pixels)](values).numpy()

    return call


#: Engines that run an ONNX file, and those that run the Keras model it was made from.
FROM_ONNX: dict[str, Callable[[Job], Engine]] = {
    "predictor": open_predictor,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
FROM_KERAS: dict[str, Callable[[Job], Engine]] = {
    "keras": open_keras,
    "tf.function": open_tf_function,
    "xla": partial(open_tf_function, xla=True),
    "torch": open_torch,
}
ENGINES = {**FROM_ONNX, **FROM_KERAS}


def open_engine(job: Job) -> Engine:
    """Open the engine of a job.

    Raises:
        InputError: its package is not installed.
    """
    try:
        return ENGINES[job.engine](job)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the engine {job.engine!r} needs the package {error.name!r}: install it (kerascv_course[compare] has those that are "
            "compared with), or leave the engine out"
        ) from error


def random_pixels(job: Job, count: int) -> np.ndarray:
    """Pictures of noise, the same in every process: what a call costs does not depend on what is in them."""
    from export.contract import read_contract

    spec = read_contract(job.onnx).input
    shape = (count, spec.height or job.side, spec.width or job.side, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _feed(job: Job) -> Callable[[np.ndarray], np.ndarray]:
    from export.predictor import OnnxModel

    return OnnxModel(job.onnx).feed


def _load_keras(job: Job) -> Any:
    if job.keras is None:
        raise InputError(f"the engine {job.engine!r} runs the Keras model: give --run RUN, the run folder that the file is of")
    import keras

    import kerascv_course.models.layers  # noqa: F401  registers the layers

    try:
        return keras.saving.load_model(job.keras, compile=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{job.keras} cannot be loaded: {str(error)[:300]}") from None


def serve(requests: TextIO, answers: TextIO) -> None:
    """Do what the lines of `requests` say until there are no more.

    The first is a `Job` as JSON; its answer has ``load`` (seconds from here to an opened engine), ``scores`` of a first call,
    ``providers``. Each other one is ``{"batch": images a call, "calls": number}``; its answer has ``seconds`` of each call and
    ``peak`` memory. An error of ours is answered with ``error``.
    """

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        started = time.perf_counter()
        job = Job(**json.loads(requests.readline()))
        engine = open_engine(job)
        load = time.perf_counter() - started
        pixels = random_pixels(job, 8)
        engine(pixels[:1])
        answer(load=load, first=time.time(), scores=np.asarray(engine(pixels), np.float64).reshape(8, -1).tolist())
        batches: dict[int, np.ndarray] = {}
        for line in requests:
            request = json.loads(line)
            size = request["batch"]
            if size not in batches:
                batches[size] = random_pixels(job, size)
            seconds = time_calls(partial(engine, batches[size]), request["calls"])
            answer(seconds=seconds, peak=peak_memory())
    except CourseError as error:
        answer(error=str(error), exit_code=error.exit_code)
    except Exception as error:  # of an engine: there are many kinds
        answer(error=f"{type(error).__name__}: {str(error)[:500]}", exit_code=1)


def main() -> None:
    """The process: what engines print must not come between the answers."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
