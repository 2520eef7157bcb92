"""Operations that move values: shapes, axes, slices, padding, gathering, joining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand, channels_first, natural
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast, number
from export.converter.trace import NotConvertible, Size, Step

__all__ = ["concatenate", "enlarge", "flat_shape", "reshape"]

#: A bound beyond every axis.
END = 2**31 - 1


def reshape(c: Converter, x: Operand, shape: Sequence[int | Size]) -> GraphTensor:
    """The values in another shape."""
    shape = tuple(shape)
    if isinstance(x, GraphConstant) and not any(isinstance(size, Size) for size in shape):
        sizes = [int(size) for size in shape if isinstance(size, int)]
        return c.graph.as_tensor(GraphConstant(x.array.reshape(sizes), x.name))
    x = c.graph.as_tensor(x)
    if x.shape == shape and x.flattened is None:
        return x
    turned = not x.plain and x.flattened is None
    if turned and len(shape) == 2 and shape[0] == x.shape[0] and x.axes == channels_first(x.rank):
        space = x.shape[1:]
        if all(isinstance(size, int) for size in space):
            flat = c.graph.node("Flatten", [x.value], shape=shape, dtype=x.dtype, axis=1)
            if all(size == 1 for size in space[:-1]) or space[-1] == 1:
                return flat
            return GraphTensor(shape, x.dtype, flat.value, (0, 1), tuple(space))  # type: ignore[arg-type]
    x = c.graph.as_tensor(c.graph.plain(x))
    return c.graph.node("Reshape", [x, _target(c, x.shape, shape)], shape=shape, dtype=x.dtype)


def _target(c: Converter, before: tuple[int | Size, ...], shape: tuple[int | Size, ...]) -> Any:
    """The second input of Reshape: 0 keeps a dimension, -1 leaves one to be computed."""
    kept = [i < len(before) and isinstance(size, Size) and before[i] == size for i, size in enumerate(shape)]
    others = [i for i, size in enumerate(shape) if isinstance(size, Size) and not kept[i]]
    if len(others) > 1:
        return c.graph.sizes(shape)
    if not others and sum(kept) == 1 and 0 not in [s for s in shape if isinstance(s, int)]:
        return c.graph.ints([-1 if isinstance(size, Size) else size for size in shape])
    return c.graph.ints([0 if kept[i] else -1 if isinstance(size, Size) else size for i, size in enumerate(shape)])


def flat_shape(c: Converter, x: Operand) -> tuple[int | Size, ...]:
    """The shape of all values in one axis."""
    sizes = []
    for trial in range(c.trials):
        sizes.append(int(np.prod([size.at(trial) if isinstance(size, Size) else size for size in x.shape])))
    return (sizes[0] if len(set(sizes)) == 1 else Size(tuple(sizes)),)


@operation("Reshape", "Ravel")
def _reshape(c: Converter, step: Step, x: Operand) -> Any:
    return reshape(c, x, c.graph.result.shape)


@operation("ExpandDims", "Squeeze")
def _expand_dims(c: Converter, step: Step, x: Operand) -> Any:
    x, shape = c.graph.as_tensor(x), c.graph.result.shape
    if step.kind == "ExpandDims" or x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
        if step.kind == "ExpandDims":
            axes = step.axis if isinstance(step.axis, (list, tuple)) else [step.axis]
            return c.graph.node("Unsqueeze", [x, c.graph.ints([axis % len(shape) for axis in axes])])
    wanted = step.axis
    gone = [axis for axis, size in enumerate(x.shape) if size == 1] if wanted is None else np.atleast_1d(wanted).tolist()
    gone = [axis % x.rank for axis in gone]
    left = [axis for axis in x.axes if axis not in gone]
    axes = tuple(sorted(left).index(axis) for axis in left)
    return c.graph.node("Squeeze", [x, c.graph.ints(sorted(x.place(axis) for axis in gone))], axes=axes)


@operation("Transpose", "Swapaxes", "Moveaxis")
def _transpose(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    kind, order = step.kind, np.arange(x.rank)
    if kind == "Transpose":
        order = order[::-1] if step.axes is None else order[list(step.axes)]
    elif kind == "Swapaxes":
        order[[step.axis1, step.axis2]] = order[[step.axis2, step.axis1]]
    else:
        sources = {int(axis) % x.rank for axis in np.atleast_1d(step.source)}
        stay = [int(axis) for axis in order if axis not in sources]
        pairs = zip(np.atleast_1d(step.destination), np.atleast_1d(step.source), strict=True)
        for target, source in sorted((int(t) % x.rank, int(s) % x.rank) for t, s in pairs):
            stay.insert(target, source)
        order = np.asarray(stay)
    # Keras's new axis i is the old axis order[i]: the value stays, its axes get other names
    new = [int(axis) for axis in order]
    return GraphTensor(c.graph.result.shape, x.dtype, x.value, tuple(new.index(axis) for axis in x.axes))


@operation("Concatenate", "Append")
def _concatenate(c: Converter, step: Step, *items: Any) -> Any:
    parts = list(items[0]) if len(items) == 1 else list(items)
    axis, result = step.axis, c.graph.result
    parts = [cast(c, part, result.dtype) for part in parts]
    return concatenate(c, parts, axis)


def concatenate(c: Converter, parts: Sequence[Operand], axis: int) -> GraphTensor:
    """Tensors joined along an axis."""
    result = c.graph.result
    tensors = [part for part in parts if isinstance(part, GraphTensor)]
    turned = next((part for part in tensors if not part.plain and part.flattened is None), None)
    axes = natural(len(result.shape)) if turned is None else turned.axes
    inputs: list[Operand] = []
    for part in parts:
        if isinstance(part, GraphConstant):
            inputs.append(GraphConstant(part.array.transpose(axes), part.name))
        else:
            inputs.append(c.graph.ordered(part, axes))
    return c.graph.node("Concat", inputs, axes=axes, axis=axes.index(axis % len(result.shape)))


@operation("Stack")
def _stack(c: Converter, step: Step, items: Sequence[Operand]) -> Any:
    axis = step.axis % len(c.graph.result.shape)
    shape = c.graph.result.shape
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [c.graph.plain(c.graph.as_tensor(cast(c, item, c.graph.result.dtype))) for item in items]
    axes = c.graph.ints([axis])
    wide = [c.graph.node("Unsqueeze", [part, axes], shape=one) for part in parts]
    return c.graph.node("Concat", wide, axis=axis)


@operation("Vstack", "Hstack", "Dstack")
def _joined(c: Converter, step: Step, items: Sequence[Operand]) -> Any:
    axis = {"Vstack": 0, "Hstack": 1, "Dstack": 2}[step.kind]
    if any(item.rank <= axis for item in items):
        raise NotConvertible(f"{step.kind} of tensors of fewer axes: use concatenate")
    return concatenate(c, [cast(c, item, c.graph.result.dtype) for item in items], axis)


@operation("Append")
def _append(c: Converter, step: Step, x1: Operand, x2: Operand) -> Any:
    parts = [cast(c, x, c.graph.result.dtype) for x in (x1, x2)]
    if step.axis is None:
        parts = [reshape(c, x, flat_shape(c, x)) for x in parts]
    return concatenate(c, parts, 0 if step.axis is None else step.axis)


@operation("Split", "ArraySplit", "Unstack", "Vsplit", "Hsplit", "Dsplit")
def _split(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    axis = {"Vsplit": 0, "Hsplit": min(1, x.rank - 1), "Dsplit": 2}.get(step.kind)
    axis = step.axis % x.rank if axis is None else axis
    place = x.place(axis)
    if step.kind == "Unstack":
        number_of = len(step.outputs)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        left = [a for a in x.axes if a != axis]
        axes = tuple(sorted(left).index(a) for a in left)
        return [
            c.graph.node("Gather", [x, c.graph.constant(np.int64(i))], shape=shape, axes=axes, axis=place)
            for i in range(number_of)
        ]
    sizes = [output.shape[axis] for output in step.outputs]
    if any(isinstance(size, Size) for size in sizes):
        raise NotConvertible("a split along an open dimension")
    values = c.graph.emit("Split", [x, c.graph.ints(sizes)], len(sizes), {"axis": place})  # type: ignore[arg-type]
    return [c.graph.tensor(value, output.shape, x.dtype, x.axes) for value, output in zip(values, step.outputs, strict=True)]


@operation("GetItem")
def _get_item(c: Converter, step: Step, x: Operand, key: Any) -> Any:
    x = c.graph.as_tensor(x)
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(isinstance(part, (GraphTensor, GraphConstant)) for part in keys):
        raise NotConvertible("indexing by a tensor: use keras.ops.take")
    if not any(part is Ellipsis for part in keys):
        keys.append(Ellipsis)
    middle = next(i for i, part in enumerate(keys) if part is Ellipsis)
    used = sum(part is not None for part in keys) - 1
    keys[middle : middle + 1] = [slice(None)] * (x.rank - used)
    if x.flattened is not None and any(part != slice(None) for part in keys[1:]):
        x = c.graph.as_tensor(c.graph.plain(x))
    old = [part for part in keys if part is not None]
    x = _sliced(c, x, old)
    gone = [axis for axis, part in enumerate(old) if not isinstance(part, slice)]
    for axis in reversed(gone):
        index: Any = old[axis]
        place = x.place(axis)
        left = [a for a in x.axes if a != axis]
        axes = tuple(sorted(left).index(a) for a in left)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        position = c.graph.constant(np.int64(index)) if isinstance(index, int) else c.graph.size(index)
        x = c.graph.node("Gather", [x, position], shape=shape, dtype=x.dtype, axes=axes, axis=place)
    if None in keys:
        x = c.graph.as_tensor(c.graph.plain(x))
        kept: list[Any] = [part for part in keys if part is None or isinstance(part, slice)]
        new = [index for index, part in enumerate(kept) if part is None]
        x = c.graph.node("Unsqueeze", [x, c.graph.ints(new)], dtype=x.dtype)
    return x


def _sliced(c: Converter, x: GraphTensor, parts: Sequence[Any]) -> GraphTensor:
    """The tensor with a slice of each axis."""
    rows = []
    shape = list(x.shape)
    for axis, part in enumerate(parts):
        if not isinstance(part, slice) or part == slice(None):
            continue
        step = 1 if part.step is None else part.step
        start = (0 if step > 0 else END) if part.start is None else part.start
        stop = (END if step > 0 else -END) if part.stop is None else part.stop
        rows.append((axis, start, stop, step))
        bounds = [x.shape[axis], part.start, part.stop, part.step]
        shape[axis] = _slice_length(c, bounds)
    if not rows:
        return x
    axes, starts, stops, steps = zip(*rows, strict=True)
    places = [x.place(axis) for axis in axes]
    ends = [c.graph.sizes(list(values)) for values in (starts, stops)]
    inputs: list[Any] = [x, *ends, c.graph.ints(places), *([c.graph.ints(list(steps))] if set(steps) != {1} else [])]
    return c.graph.node("Slice", inputs, shape=tuple(shape), dtype=x.dtype, axes=x.axes)


def _slice_length(c: Converter, bounds: Sequence[Any]) -> int | Size:
    def at(value: Any, trial: int) -> Any:
        return value.at(trial) if isinstance(value, Size) else value

    lengths = []
    for trial in range(c.trials):
        size, start, stop, step = (at(value, trial) for value in bounds)
        lengths.append(len(range(*slice(start, stop, step).indices(size))))
    return lengths[0] if len(set(lengths)) == 1 else Size(tuple(lengths))


@operation("Slice")
def _slice(c: Converter, step: Step, x: Operand, start: Any) -> Any:
    starts = start.array.tolist() if isinstance(start, GraphConstant) else list(start)
    if any(isinstance(value, (GraphTensor, GraphConstant)) for value in starts):
        raise NotConvertible("a slice whose start is computed")
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    parts = [
        slice(None) if s == 0 and size == whole else slice(s, s + size)
        for s, size, whole in zip(starts, c.graph.result.shape, x.shape, strict=True)
    ]
    return _sliced(c, x, parts)


@operation("Flip", "Fliplr", "Flipud")
def _flip(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    kind = step.kind
    axis = {"Fliplr": 1, "Flipud": 0}.get(kind, step.axis if kind == "Flip" else 0)
    axes = list(range(x.rank)) if axis is None else [int(a) % x.rank for a in np.atleast_1d(axis)]
    places = [x.place(a) for a in axes]
    ends = [c.graph.ints([value] * len(axes)) for value in (-1, -END)]
    return c.graph.node("Slice", [x, *ends, c.graph.ints(places), c.graph.ints([-1] * len(axes))], axes=x.axes)


@operation("Pad")
def _pad(c: Converter, step: Step, x: Operand, constant_values: Any = None) -> Any:
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if step.mode not in modes or (step.mode == "wrap" and c.graph.opset < 19):
        raise NotConvertible(f"padding with mode={step.mode!r} (opset {c.graph.opset})")
    width = step.pad_width
    width = width.tolist() if hasattr(width, "tolist") else width
    if isinstance(width, (int, Size)):
        width = [(width, width)]
    rows = [tuple(row) if isinstance(row, (tuple, list)) else (row, row) for row in width]
    rows = rows * x.rank if len(rows) == 1 else rows
    rows = [rows[axis] for axis in x.axes]
    pads = c.graph.sizes([before for before, _ in rows] + [after for _, after in rows])
    value = 0 if constant_values is None else constant_values
    filler = value.array.item() if isinstance(value, GraphConstant) else value
    fill: list[Operand] = [number(filler, x.dtype)] if filler else []
    return c.graph.node("Pad", [x, pads, *fill], axes=x.axes, mode=None if step.mode == "constant" else step.mode)


def enlarge(c: Converter, x: Operand, times: Sequence[int]) -> GraphTensor:
    """Every value repeated along each axis, which all runtimes agree on: whole scales, asymmetric, rounded down.

    The Resize stands on a tensor with channels first, for which runtimes are fast.
    """
    x = c.graph.as_tensor(x)
    if x.flattened is not None or (x.plain and x.rank > 2 and times[-1] == 1):
        x = c.graph.first(x)
    scales = np.asarray([times[axis] for axis in x.axes], np.float32)
    modes: dict[str, Any] = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return c.graph.node("Resize", [x, None, c.graph.constant(scales)], axes=x.axes, **modes)


@operation("Repeat")
def _repeat(c: Converter, step: Step, x: Operand) -> Any:
    x, times, axis = c.graph.as_tensor(x), step.repeats, step.axis
    if axis is None:
        x, axis = reshape(c, x, flat_shape(c, x)), 0
    if not isinstance(times, (int, np.integer)):
        size = x.shape[axis]
        if isinstance(size, Size):
            raise NotConvertible("repeat with a number for each value of an open dimension")
        places = np.repeat(np.arange(size), np.asarray(times))
        return c.call(lambda x: keras.ops.take(x, places, axis=axis), x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    axis %= x.rank
    if "float" in x.dtype:
        return enlarge(c, x, [int(times) if a == axis else 1 for a in range(x.rank)])
    plain = c.graph.as_tensor(c.graph.plain(x))
    wide = (*plain.shape[: axis + 1], 1, *plain.shape[axis + 1 :])
    open_ = c.graph.node("Unsqueeze", [plain, c.graph.ints([axis + 1])], shape=wide)
    counts = [1] * (plain.rank + 1)
    counts[axis + 1] = int(times)
    tiled = c.graph.node("Tile", [open_, c.graph.ints(counts)], shape=(*wide[: axis + 1], int(times), *wide[axis + 2 :]))
    return reshape(c, tiled, c.graph.result.shape)


@operation("Tile")
def _tile(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    counts = [step.repeats] if isinstance(step.repeats, (int, Size)) else list(step.repeats)
    rank = len(c.graph.result.shape)
    if x.flattened is not None or x.rank < rank:
        x = reshape(c, c.graph.plain(x), (*(1,) * (rank - x.rank), *x.shape))
    counts = [1] * (rank - len(counts)) + counts
    return c.graph.node("Tile", [x, c.graph.sizes([counts[axis] for axis in x.axes])], axes=x.axes)


@operation("BroadcastTo")
def _broadcast_to(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.plain(x)
    return c.graph.node("Expand", [x, c.graph.sizes(c.graph.result.shape)])


@operation("Roll")
def _roll(c: Converter, step: Step, x: Operand) -> Any:
    if step.axis is None:
        return c.call(lambda x: keras.ops.reshape(keras.ops.roll(keras.ops.reshape(x, (-1,)), step.shift, axis=0), x.shape), x)
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    shifts, axes = np.atleast_1d(step.shift).tolist(), np.atleast_1d(step.axis).tolist()
    if len(shifts) == 1:
        shifts = shifts * len(axes)
    for shift, axis in zip(shifts, axes, strict=True):
        if shift == 0:
            continue
        size = x.shape[axis]
        shift = shift % size if isinstance(size, int) else shift
        if isinstance(size, Size) and abs(shift) >= min(size.trials):
            raise NotConvertible("a roll along an open dimension by more than its size")
        place = c.graph.ints([x.place(axis)])
        cut = c.graph.ints([-shift])
        tail = c.graph.emit("Slice", [x, cut, c.graph.ints([END]), place], 1, {})[0]
        head = c.graph.emit("Slice", [x, c.graph.ints([0]), cut, place], 1, {})[0]
        x = c.graph.node("Concat", [tail, head], axes=x.axes, axis=x.place(axis))
    return x


@operation("Triu", "Tril")
def _triangle(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.plain(x)
    upper = int(step.kind == "Triu")
    return c.graph.node("Trilu", [x, c.graph.constant(np.int64(step.k))], upper=upper)


@operation("DepthToSpace", "SpaceToDepth")
def _blocks(c: Converter, step: Step, x: Operand) -> Any:
    kind = step.kind
    last = step.data_format == "channels_last"
    x = c.graph.first(x) if last else c.graph.as_tensor(c.graph.plain(x))
    axes = channels_first(4) if last else natural(4)
    if kind == "DepthToSpace":
        return c.graph.node(kind, [x], axes=axes, blocksize=step.block_size, mode="DCR")
    return c.graph.node(kind, [x], axes=axes, blocksize=step.block_size)


@operation("Rot90")
def _rot90(c: Converter, step: Step, x: Operand) -> Any:
    one, other = step.axes
    turns = step.k % 4

    def compute(x: Any) -> Any:
        ops = keras.ops
        if turns == 2:
            return ops.flip(ops.flip(x, one), other)
        if turns == 1:
            return ops.flip(ops.swapaxes(x, one, other), one)
        return ops.swapaxes(ops.flip(x, one), one, other) if turns == 3 else x

    return c.call(compute, x)


@operation("Rearrange")
def _rearrange(c: Converter, step: Step, *args: Any, **kwargs: Any) -> Any:
    return c.call(step.operations[0].call, *args, **kwargs)
