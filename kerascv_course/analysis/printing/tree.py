"""The module tree, in the manner of PyTorch's ``print(model)``: layers that share the first parts of their names are nested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kerascv_course.analysis.printing.tables import shape_text
from kerascv_course.analysis.summary import Row, Summary

__all__ = ["module_tree"]


def module_tree(summary: Summary) -> str:
    """The layers as a tree, with what each of them is."""
    rows = [row for row in summary.rows if row.kind != "input"]
    names = {_parts(row.name) for row in rows}
    root: dict[str, Any] = {}
    for row in rows:
        parts = _parts(row.name)
        # a layer is no branch: conv1_bn stands beside conv1, not inside
        cut = next((n for n in range(1, len(parts)) if parts[:n] in names), len(parts)) - 1
        branch = root
        for part in parts[:cut]:
            branch = branch.setdefault(part, {})
        branch.setdefault("_".join(parts[cut:]), {})[row.index] = row
    return "\n".join([f"{summary.name}(", *_lines(root, "  "), ")"])


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[_/]", name) if part) or (name,)


def _lines(branch: dict[Any, Any], indent: str) -> Iterator[str]:
    for name, below in branch.items():
        if isinstance(below, Row):
            continue
        path = [str(name)]
        while len(below) == 1 and not isinstance(next(iter(below.values())), Row):  # a part that one layer alone has
            part, below = next(iter(below.items()))
            path.append(str(part))
        label = "_".join(path)
        for row in (value for value in below.values() if isinstance(value, Row)):
            yield f"{indent}({label}): {_describe(row)}"
        inner = {key: value for key, value in below.items() if not isinstance(value, Row)}
        if inner:
            yield f"{indent}({label}): ("
            yield from _lines(inner, indent + "  ")
            yield f"{indent})"


def _describe(row: Row) -> str:
    parts: list[str] = []
    if row.kind in ("conv", "conv_transpose", "dense") and row.input_shapes:
        parts.append(f"{shape_text(row.input_shapes[0])} → {shape_text(row.output_shape)}")
    if row.kernel:
        parts.append(f"kernel_size={row.kernel}")
        parts.append(f"stride={row.stride}")
        if any(map(any, row.padding)):
            same = all(a == b for a, b in row.padding)
            parts.append(f"padding={tuple(a for a, _ in row.padding) if same else row.padding}")
        if set(row.dilation) != {1}:
            parts.append(f"dilation={row.dilation}")
        if row.groups != 1:
            parts.append(f"groups={row.groups}")
    if row.parameters:
        parts.append(f"{row.parameters:,} parameters")
    return f"{row.type}({', '.join(parts)})"
