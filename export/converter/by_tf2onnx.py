"""Conversion by tf2onnx, on TensorFlow: a second opinion, and for layers that call TensorFlow itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import onnx
import onnx.version_converter

from export.contract import Input
from kerascv_course.core.errors import CourseError

__all__ = ["BATCH", "MAX_OPSET", "MIN_OPSET", "ExportError", "tf2onnx_model"]

#: Name of the batch dimension.
BATCH = "batch"

#: Operator sets; tf2onnx writes up to `TF2ONNX_OPSET`, ONNX's version converter makes the higher ones.
MIN_OPSET, TF2ONNX_OPSET, MAX_OPSET = 15, 18, 23

#: Operators that cannot be converted, and what to use in the model instead.
WORKAROUNDS = {
    "Erfc": "the exact GELU: use keras.activations.gelu with approximate=True, or 0.5 * x * (1 + ops.erf(x / 2**0.5))",
    "ScaleAndTranslate": "antialiased resizing: use Resizing(antialias=False) in the model, or resize before it",
    "StatelessRandom": "random layers: leave augmentation out of the exported model, or put it into the data pipeline",
    "ImageProjectiveTransform": "random rotation, zoom or translation: leave augmentation out of the exported model",
}


class ExportError(CourseError):
    """The model cannot be written as an ONNX file that runs; nothing was written."""


def tf2onnx_model(serving: keras.Model, spec: Input, opset: int) -> onnx.ModelProto:
    """Convert a serving graph.

    Args:
        serving: one image input, a dict of named outputs.
        spec: the input as the file is to have it.
        opset: `MIN_OPSET` to `MAX_OPSET`.

    Raises:
        ExportError: an operator that cannot be converted.
    """
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, spec.height, spec.width, spec.channels), spec.dtype, name=spec.name)]
    channels_first = [spec.name] if spec.layout == "NCHW" else None
    try:
        with _logged_errors() as errors:
            proto, _ = tf2onnx.convert.from_keras(
                serving, signature, opset=min(opset, TF2ONNX_OPSET), inputs_as_nchw=channels_first
            )
    except Exception as error:  # the converter raises many kinds
        raise _not_converted(serving, f"{type(error).__name__}: {error}") from error
    if errors:
        raise _not_converted(serving, "; ".join(errors))
    _name_outputs_and_sizes(proto, sorted(serving.output), spec)
    outputs = {value.name: value for value in proto.graph.output}
    in_order = [outputs[name] for name in serving.output]
    del proto.graph.output[:]
    proto.graph.output.extend(in_order)
    if opset <= TF2ONNX_OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises many kinds
        raise ExportError(
            f"{serving.name} cannot be raised to opset {opset}: {error}: use an opset of {MIN_OPSET} to {TF2ONNX_OPSET}"
        ) from error


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect the errors that tf2onnx only logs, such as operators that it left out of the graph; nothing is printed."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            messages.append(record.getMessage())
        return False

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] == "tf2onnx"]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def _not_converted(serving: keras.Model, why: str) -> ExportError:
    known = [f"{operator} is {remedy}" for operator, remedy in WORKAROUNDS.items() if operator in why]
    advice = f" ({'; '.join(known)})" if known else ""
    return ExportError(f"{serving.name} cannot be converted to ONNX: {why[:500]}{advice}")


def _name_outputs_and_sizes(proto: onnx.ModelProto, names: list[str], spec: Input) -> None:
    """Name the outputs (in alphabetical order of the Keras names), the batch dimension, and open heights and widths."""
    graph = proto.graph
    renamed = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = renamed[value.name]
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = BATCH
        first = 2 if spec.layout == "NCHW" and value.name == spec.name else 1
        if spec.height is None and len(dims) >= first + 2:
            for dim, name in zip(dims[first : first + 2], ("height", "width"), strict=True):
                if not dim.HasField("dim_value"):
                    dim.dim_param = name
    del graph.value_info[:]
