"""Receptive fields: which input pixels a unit can see, through branches, upsampling and transposed convolutions.

Two descriptions are computed along every axis:

* the **regular** one of Dumoulin and Visin (2016) and Araujo, Norris and Sim (Distill, 2019): size r, jump j and the first
  pixel l of the first unit, unclipped, with r ← r + (k−1)·d·j, l ← l − p·j, j ← j·s. Where branches of equal jump meet, the
  field is the smallest box around them. It is undefined once neighboring units no longer step evenly: after upsampling,
  strided transposed convolutions, and branches of different jumps; the note says which.
* the **exact** one, which is always defined: first and last pixel of every single unit, clipped to the image.

A field is a bounding box: a dilated kernel may skip pixels inside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from kerascv_course.analysis.graph import Graph, GraphNode, Window

__all__ = ["AxisField", "Field", "ReceptiveField", "Span", "receptive_field", "receptive_fields"]

#: First and last pixel, or None for a unit that sees only padding.
Span = tuple[int, int] | None


@dataclass(frozen=True)
class AxisField:
    """What the units along one tensor axis see of one axis of the image.

    Attributes:
        source: axis of the input tensor.
        axis: axis of this tensor; None: all units see the same.
        spans: exact field of every unit, clipped to the image.
        first, size, jump: the regular description; undefined if jump is None.
        whole: the units were mixed by a dense layer, flattening or global pooling.
        note: why there is no regular description.
        lost: behind an unknown operator; nothing is known.
    """

    source: int
    axis: int | None
    spans: tuple[Span, ...]
    first: int = 0
    size: int = 1
    jump: int | None = 1
    whole: bool = False
    note: str = ""
    lost: bool = False

    def irregular(self, note: str) -> AxisField:
        """A copy without a regular description."""
        return replace(self, jump=None, note=self.note or note)

    def mixed(self) -> AxisField:
        """A single field for all units: what any of them saw."""
        return replace(self, axis=None, spans=(_hull(self.spans),), jump=None, whole=True)


Field = tuple[AxisField, ...]


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of a layer's units in input pixels: (height, width).

    Attributes:
        size: pixels; if units differ (see `note`), of the largest one, clipped to the image. None: not known.
        jump: pixels between the fields of neighboring units; None if they do not step evenly or all units share one field.
        start: center of the first unit's field, where 0 is the center of the first pixel (padding makes it negative); None like
            `jump`.
        whole: all units share one field (flattening, dense layers, global pooling).
        note: why there is no jump.
    """

    size: tuple[int, ...] | None
    jump: tuple[int, ...] | None
    start: tuple[float, ...] | None
    whole: bool = False
    note: str = ""


def receptive_field(field: Field, sources: Sequence[int]) -> ReceptiveField | None:
    """The field of a tensor along the image's spatial axes; None if there are none."""
    found = sorted((f for f in field if f.source in sources), key=lambda f: f.source)
    if not found:
        return None
    if any(f.lost for f in found):
        return ReceptiveField(None, None, None, note=next(f.note for f in found if f.lost))
    regular = all(f.jump is not None for f in found)
    sizes = tuple(f.size if regular else max((s[1] - s[0] + 1 for s in f.spans if s), default=0) for f in found)
    if not regular:
        whole = all(f.whole for f in found)
        note = "" if whole else next((f.note for f in found if f.note and not f.whole), "")
        return ReceptiveField(sizes, None, None, whole, note)
    jumps = tuple(f.jump or 0 for f in found)
    return ReceptiveField(sizes, jumps, tuple(f.first + (f.size - 1) / 2 for f in found))


def receptive_fields(graph: Graph) -> tuple[dict[str, Field], tuple[int, ...]]:
    """The field of every tensor of a network with one input, and the input's spatial axes.

    Spatial are the axes that the first window, pooling or resizing layer works on. Networks with several inputs have no fields.
    """
    inputs = [node for node in graph.nodes if node.kind == "input"]
    if len(inputs) != 1:
        return {}, ()
    key = inputs[0].outputs[0]
    shape = graph.tensors[key].shape
    start = tuple(AxisField(a, a, tuple((i, i) for i in range(shape[a]))) for a in range(1, len(shape)))
    fields: dict[str, Field] = {key: start}
    sources: tuple[int, ...] = ()
    for node in graph.nodes:
        if node.kind == "input" or not node.inputs:
            continue
        before = [fields[k] for k in node.inputs if k in fields]
        if not before:
            continue
        axes = node.window.axes if node.window else node.axes if node.kind in ("global_pool", "resize") else ()
        if axes and not sources:
            # an unknown operator before it is assumed to have kept the axes in place
            sources = tuple(f.source for f in before[0] if (f.source if f.lost else f.axis) in axes)
        after = _step(graph, node, before)
        for name in node.outputs:
            same = graph.tensors[name].shape == graph.out(node).shape
            fields[name] = after if same else _lose(after, node)
    return fields, sources


def _step(graph: Graph, node: GraphNode, before: list[Field]) -> Field:
    shape, out = graph.inp(node).shape, graph.out(node).shape
    kind, field = node.kind, before[0]
    if kind in ("identity", "affine") or (kind in ("activation", "norm") and not node.axes):
        return field if shape == out else _lose(field, node)
    if kind in ("activation", "norm", "global_pool"):
        mixed = tuple(f.mixed() if f.axis in node.axes else f for f in field)
        return _shifted(mixed, node.axes) if kind == "global_pool" and len(out) < len(shape) else mixed
    if kind in ("conv", "pool", "conv_transpose"):
        assert node.window is not None
        return tuple(_windowed(f, node, node.window, out) for f in field)
    if kind == "dense":
        return tuple(f.mixed() if f.axis == len(shape) - 1 else f for f in field)
    if kind == "matmul":
        return tuple(f.mixed() for f in _join(before, [graph.tensors[k].shape for k in node.inputs], out))
    if kind in ("merge", "concat"):
        shapes = [graph.tensors[k].shape for k in node.inputs]
        return _concat(before, node.axes[0]) if kind == "concat" else _join(before, shapes, out)
    if kind == "resize":
        return tuple(_resized(f, node, out[f.axis]) if f.axis in node.axes and f.axis is not None else f for f in field)
    if kind in ("pad", "crop"):
        return tuple(_padded(f, *node.pads[f.axis], node.mode) if f.axis is not None else f for f in field)
    if kind == "transpose":
        return tuple(f if f.axis is None else replace(f, axis=node.perm.index(f.axis)) for f in field)
    if kind == "reshape":
        return _reshaped(field, shape, out)
    return _lose(field, node)


def _lose(field: Field, node: GraphNode) -> Field:
    note = f"not known: {node.type} ({node.name}) may move or mix pixels"
    return tuple(replace(f, axis=None, spans=(None,), jump=None, lost=True, note=f.note if f.lost else note) for f in field)


def _hull(spans: Sequence[Span]) -> Span:
    found = [s for s in spans if s is not None]
    return (min(s[0] for s in found), max(s[1] for s in found)) if found else None


def _windowed(f: AxisField, node: GraphNode, w: Window, out: tuple[int, ...]) -> AxisField:
    if f.axis is None:
        return f
    if f.axis not in w.axes:
        return f if node.kind == "pool" else f.mixed()  # a convolution mixes the channels
    at = w.axes.index(f.axis)
    k, s, d, (p, _), n = w.kernel[at], w.stride[at], w.dilation[at], w.padding[at], len(f.spans)
    reach = (k - 1) * d

    def pick(indices: Callable[[int], list[int]]) -> tuple[Span, ...]:
        return tuple(_hull([f.spans[i] for i in indices(o) if 0 <= i < n]) for o in range(out[f.axis or 0]))

    if node.kind != "conv_transpose":
        spans = pick(lambda o: [o * s - p + t * d for t in range(k)])
        if f.jump is None:
            return replace(f, spans=spans)
        return replace(f, spans=spans, first=f.first - p * f.jump, size=f.size + reach * f.jump, jump=f.jump * s)
    spans = pick(lambda o: [(o + p - t * d) // s for t in range(k) if (o + p - t * d) % s == 0])
    if s > 1:
        return replace(f, spans=spans).irregular(f"{node.name} upsamples by {s}: units differ in the inputs that reach them")
    if f.jump is None:
        return replace(f, spans=spans)
    return replace(f, spans=spans, first=f.first - (reach - p) * f.jump, size=f.size + reach * f.jump)


def _resized(f: AxisField, node: GraphNode, size: int) -> AxisField:
    n = len(f.spans)
    if size == n:
        return f
    if node.mode not in ("nearest", "linear"):
        note = f"not known: {node.type} ({node.name}) uses a resampling mode that is not supported"
        return replace(f, axis=None, spans=(None,), jump=None, lost=True, note=note)
    spans = []
    for o in range(size):
        if node.coordinates == "align_corners":
            x = Fraction(o * (n - 1), max(size - 1, 1))
        elif node.coordinates == "asymmetric":
            x = Fraction(o * n, size)
        else:
            x = (o + Fraction(1, 2)) * Fraction(n, size) - Fraction(1, 2)
        if node.mode == "linear":
            taps = {math.floor(x), math.ceil(x)}
        elif node.coordinates == "half_pixel":
            taps = {math.floor((o + Fraction(1, 2)) * Fraction(n, size))}
        else:
            taps = {math.floor(x)}
        spans.append(_hull([f.spans[min(max(i, 0), n - 1)] for i in taps]))
    return replace(f, spans=tuple(spans)).irregular(f"{node.name} resamples {n} to {size}: neighboring units share their field")


def _padded(f: AxisField, before: int, after: int, mode: str) -> AxisField:
    n = len(f.spans)
    spans: list[Span] = []
    for i in range(-before, n + after):
        if 0 <= i < n:
            spans.append(f.spans[i])
        elif mode == "reflect":
            spans.append(f.spans[-i if i < 0 else 2 * (n - 1) - i])
        elif mode == "edge":
            spans.append(f.spans[0 if i < 0 else n - 1])
        elif mode == "wrap":
            spans.append(f.spans[i % n])
        else:
            spans.append(None)
    if f.jump is None:
        return replace(f, spans=tuple(spans))
    return replace(f, spans=tuple(spans), first=f.first - before * f.jump)


def _union(a: AxisField, b: AxisField) -> AxisField:
    """The field of units that see what `a` and `b` see along the same axis."""
    if a.lost or b.lost:
        return a if a.lost else b
    spans = tuple(_hull(pair) for pair in zip(a.spans, b.spans, strict=True))
    note = a.note or b.note
    if a.jump is None or b.jump is None:
        return replace(a, spans=spans, jump=None, whole=a.whole or b.whole, note=note)
    if a.jump != b.jump:
        return replace(a, spans=spans).irregular(f"branches of jumps {a.jump} and {b.jump} meet")
    first = min(a.first, b.first)
    return replace(a, spans=spans, first=first, size=max(a.first + a.size, b.first + b.size) - first)


def _join(fields: list[Field], shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> Field:
    """Elementwise combination of tensors, with broadcasting."""
    joined: list[AxisField] = []
    for source in sorted({f.source for field in fields for f in field}):
        parts: list[AxisField] = []
        for field, shape in zip(fields, shapes, strict=False):
            shift = len(out) - len(shape)
            parts.extend(replace(f, axis=None if f.axis is None else f.axis + shift) for f in field if f.source == source)
        axes = {f.axis for f in parts if f.axis is not None and len(f.spans) == out[f.axis]}
        axis = axes.pop() if len(axes) == 1 else None
        spread = [_spread(f, axis, out[axis] if axis is not None else 1) for f in parts]
        union = spread[0]
        for part in spread[1:]:
            union = _union(union, part)
        joined.append(union)
    return tuple(joined)


def _spread(f: AxisField, axis: int | None, size: int) -> AxisField:
    """A field with `size` units along an axis: unchanged, or the same for all units."""
    if f.axis == axis and len(f.spans) == size:
        return f
    mixed = f.mixed()
    return replace(mixed, axis=axis, spans=mixed.spans * size)


def _concat(fields: list[Field], axis: int) -> Field:
    joined: list[AxisField] = []
    for parts in zip(*fields, strict=True):
        if all(f.axis == axis for f in parts):
            spans = tuple(s for f in parts for s in f.spans)
            joined.append(replace(parts[0], spans=spans).irregular("maps are concatenated along this axis"))
        elif len({f.axis for f in parts}) == 1:
            union = parts[0]
            for part in parts[1:]:
                union = _union(union, part)
            joined.append(union)
        else:
            mixed = [f.mixed() for f in parts]
            joined.append(
                replace(mixed[0], spans=(_hull([s for f in mixed for s in f.spans]),), lost=any(f.lost for f in parts))
            )
    return tuple(joined)


def _shifted(field: Field, removed: tuple[int, ...]) -> Field:
    """Renumber the axes after some were removed."""
    return tuple(
        f if f.axis is None else f.mixed() if f.axis in removed else replace(f, axis=f.axis - sum(a < f.axis for a in removed))
        for f in field
    )


def _reshaped(field: Field, shape: tuple[int, ...], out: tuple[int, ...]) -> Field:
    """An axis that keeps its size and position keeps its field; the others are mixed."""
    table: dict[int, int] = {}
    a = b = 0
    while a < len(shape) and b < len(out):
        old, new = [a], [b]
        left, right = shape[a], out[b]
        while left != right:
            if left < right and a + 1 < len(shape):
                a += 1
                old.append(a)
                left *= shape[a]
            elif b + 1 < len(out):
                b += 1
                new.append(b)
                right *= out[b]
            else:
                return tuple(f.mixed() for f in field)
        long, short = [i for i in old if shape[i] > 1], [i for i in new if out[i] > 1]
        if len(long) == len(short) == 1:
            table[long[0]] = short[0]
        a, b = a + 1, b + 1
    return tuple(replace(f, axis=table[f.axis]) if f.axis in table else f.mixed() for f in field)
