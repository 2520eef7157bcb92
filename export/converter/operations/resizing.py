"""Images in another size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast
from export.converter.operations.images import channels_to_front, is_last, space_of
from export.converter.trace import NotConvertible, Size, Step

__all__: list[str] = []


@operation("Resize")
def _resize(c: Converter, step: Step, x: Operand) -> Any:
    if step.crop_to_aspect_ratio or step.pad_to_aspect_ratio:
        return _with_aspect_ratio(c, step, x)
    size = [n if isinstance(n, Size) else int(n) for n in step.size]
    return resize(c, x, size, step.interpolation, antialias=step.antialias, last=is_last(step.data_format))


def resize(
    c: Converter, x: Operand, size: Sequence[int | Size], interpolation: str, *, antialias: bool, last: bool
) -> GraphTensor:
    """Images (batch, height, width, channels), or one without a batch, in another size; half-pixel centers, as in TensorFlow."""
    dtype = c.graph.result.dtype
    x = c.graph.as_tensor(x)
    if x.rank == 3:
        x = c.graph.node("Unsqueeze", [c.graph.plain(x), c.graph.ints([0])], shape=(1, *x.shape), dtype=x.dtype)
        x = resize(c, x, size, interpolation, antialias=antialias, last=last)
        return c.graph.node("Squeeze", [c.graph.plain(x), c.graph.ints([0])])
    rows, columns = (1, 2) if last else (2, 3)
    if (x.shape[rows], x.shape[columns]) == tuple(size):
        return c.graph.as_tensor(cast(c, x, dtype))
    working = (
        x if interpolation == "nearest" else c.graph.as_tensor(cast(c, x, "float32" if "float" not in x.dtype else x.dtype))
    )
    shape = tuple(size[(rows, columns).index(axis)] if axis in (rows, columns) else n for axis, n in enumerate(x.shape))
    shrinks = any(_shrinks(x.shape[axis], n) for axis, n in zip((rows, columns), size, strict=True))
    still = not any(isinstance(n, Size) for n in (*x.shape[rows : columns + 1], *size))
    exact = interpolation == "bicubic" and (still or shrinks)
    exact |= interpolation == "bilinear" and still and _has_other_orders(c, working, last=last)
    if interpolation.startswith("lanczos") or exact or (antialias and shrinks and interpolation != "nearest"):
        result = _by_matrices(c, working, size, interpolation, antialias=antialias, last=last)
    else:
        first = channels_to_front(c, working, last=last)
        modes: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel"}
        kinds: dict[str, dict[str, Any]] = {
            "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
            "bilinear": {"mode": "linear"},
            "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
        }
        modes |= kinds[interpolation]
        head = (
            c.graph.emit("Shape", [first], 1, {"end": 2})[0]
            if isinstance(first.shape[0], Size)
            else c.graph.ints(
                [first.shape[0], first.shape[3 if last else 1]]  # type: ignore[list-item]
            )
        )
        sizes = c.graph.emit("Concat", [head, c.graph.sizes(size)], 1, {"axis": 0})[0]
        result = c.graph.node("Resize", [first, None, None, sizes], shape=shape, dtype=working.dtype, axes=first.axes, **modes)
    if "float" not in dtype and dtype != result.dtype:
        result = c.graph.node("Round", [result], shape=shape, dtype=result.dtype, axes=result.axes)
        limits = np.iinfo(dtype)
        bounds = [GraphConstant(np.asarray(bound, np.float32)) for bound in (limits.min, limits.max)]
        result = c.graph.node("Clip", [result, *bounds], shape=shape, dtype=result.dtype, axes=result.axes)
    return c.graph.as_tensor(cast(c, result, dtype))


def _has_other_orders(c: Converter, x: GraphTensor, *, last: bool) -> bool:
    """Whether a Transpose before turns an image otherwise than its channels to the front.

    onnxruntime moves it behind the Resize, which then fails for these orders (bicubic: for all).
    """
    channels_to_front(c, x, last=last)
    orders = [node.attributes["perm"].as_ints() for node in c.graph.ir if node.op_type == "Transpose"]
    return any(len(order) == 4 and tuple(order) != (0, 3, 1, 2) for order in orders)


def _shrinks(before: int | Size, after: int | Size) -> bool:
    """Whether an axis gets shorter, for some image at least."""
    if isinstance(before, Size) and isinstance(after, Size):
        return any(b < a for a, b in zip(before.trials, after.trials, strict=True))
    return isinstance(before, Size) or (isinstance(after, int) and after < before)


def _by_matrices(
    c: Converter, x: GraphTensor, size: Sequence[int | Size], kind: str, *, antialias: bool, last: bool
) -> GraphTensor:
    """Resizing as a product with a matrix for the rows and one for the columns."""
    x = channels_to_front(c, x, last=last)
    height, width = space_of(x, last=last)
    if any(isinstance(n, Size) for n in (height, width, *size)):
        raise NotConvertible(f"resizing images of any size with {kind} and antialias={antialias}")
    channels = x.shape[-1] if last else x.shape[1]
    shape = (x.shape[0], size[0], size[1], channels) if last else (x.shape[0], channels, *size)
    left = GraphConstant(interpolation_matrix(height, size[0], kind, antialias=antialias))
    right = GraphConstant(interpolation_matrix(width, size[1], kind, antialias=antialias).T)
    middle = c.graph.node("MatMul", [left, x], shape=shape, dtype=x.dtype, axes=x.axes)
    return c.graph.node("MatMul", [middle, right], shape=shape, dtype=x.dtype, axes=x.axes)


def interpolation_matrix(before: Any, after: Any, kind: str, *, antialias: bool) -> np.ndarray:
    """Weights with which each new pixel adds up the old ones, float32 (after, before): half-pixel centers, weights that sum to 1."""
    scale = before / after
    stretch = max(scale, 1.0) if antialias else 1.0
    centers = (np.arange(after) + 0.5) * scale
    distance = np.abs((np.arange(before) + 0.5)[None, :] - centers[:, None]) / stretch
    if kind == "bilinear":
        weights = np.maximum(1 - distance, 0)
    elif kind == "bicubic":  # Keys' kernel, a = −0.5
        if not antialias and keras.backend.backend() == "tensorflow":  # which reads it from a table
            distance = np.round(distance * 1024) / 1024
        inner = (1.5 * distance - 2.5) * distance**2 + 1
        outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = np.where(distance <= 1, inner, np.where(distance < 2, outer, 0))
    else:
        radius = float(kind[-1])
        weights = np.where(distance < radius, np.sinc(distance) * np.sinc(distance / radius), 0)
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(np.abs(total) > 1e-6, total, 1), np.float32)


def _with_aspect_ratio(c: Converter, step: Step, x: Operand) -> Any:
    """A crop before resizing, or a pad, so that nothing is distorted."""
    last = is_last(step.data_format)
    height, width = (x.shape[-3], x.shape[-2]) if last else (x.shape[-2], x.shape[-1])
    if isinstance(height, Size) or isinstance(width, Size):
        raise NotConvertible("resizing that keeps the aspect ratio of images of any size")
    target_height, target_width = (int(n) for n in step.size)
    other = {"interpolation": step.interpolation, "antialias": step.antialias, "data_format": step.data_format}
    ops = keras.ops
    wide, tall = int(float(height * target_width) / target_height), int(float(width * target_height) / target_width)
    if step.crop_to_aspect_ratio:
        new_height, new_width = min(height, tall), min(width, wide)
        top, left = int(float(height - new_height) / 2), int(float(width - new_width) / 2)
        rows, columns = slice(top, top + new_height), slice(left, left + new_width)
        key = (..., rows, columns, slice(None)) if last else (..., rows, columns)
        return c.call(lambda x: ops.image.resize(x[key], (target_height, target_width), **other), x)
    new_height, new_width = max(height, tall), max(width, wide)
    top, left = int(float(new_height - height) / 2), int(float(new_width - width) / 2)
    pads = [(top, top), (left, left)]  # one row less than asked for where that is odd, as Keras has it
    pads = [(0, 0)] * (x.rank - 3) + ([*pads, (0, 0)] if last else [(0, 0), *pads])
    return c.call(
        lambda x: ops.image.resize(ops.pad(x, pads, constant_values=step.fill_value), (target_height, target_width), **other),
        x,
    )
