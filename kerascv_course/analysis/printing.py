"""Summaries as text: table, Markdown, CSV, JSON, module tree; and the check of a network's size against a limit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kerascv_course.analysis.receptive import ReceptiveField
from kerascv_course.analysis.summary import LayerSummary, Summary
from kerascv_course.core.errors import InputError
from kerascv_course.core.tables import csv_table, format_number, markdown_table, text_table

__all__ = [
    "SizeCheck",
    "check_size",
    "module_tree",
    "shape_text",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_table",
    "totals_text",
]

MB = 2**20
_HEAD = (
    "#", "type", "name", "output", "window", "parameters", "neurons", "connections", "MACs", "KiB", "field", "jump", "start"
)  # fmt: skip
_ALIGN = "rllllrrrrrrrr"
_CSV_HEAD = """index type name output_shape trainable frozen neurons connections macs activation_bytes kernel stride padding dilation
    groups field field_jump field_start field_note"""


@dataclass(frozen=True)
class SizeCheck:
    """A network's size compared with a limit, in MB of 2²⁰ bytes (as torchsummary).

    Attributes:
        parameter_mb: all parameters in float32, including moving statistics.
        limit_mb: the largest size allowed.
        file_mb: size of the ONNX file; None for a Keras model.
    """

    parameter_mb: float
    limit_mb: float
    file_mb: float | None

    @property
    def fits(self) -> bool:
        """Neither the parameters nor the file exceed the limit."""
        return max(self.parameter_mb, self.file_mb or 0.0) <= self.limit_mb

    def __str__(self) -> str:
        file = f", file {self.file_mb:.2f} MB" if self.file_mb is not None else ""
        verdict = "within" if self.fits else "ABOVE"
        return f"size: parameters {self.parameter_mb:.2f} MB{file}: {verdict} the limit of {self.limit_mb:g} MB"


def check_size(summary: Summary, limit_mb: float = 80.0) -> SizeCheck:
    """Compare a network with a size limit; the default is that of report 002.

    Raises:
        InputError: the limit is not positive.
    """
    if limit_mb <= 0:
        raise InputError(f"the size limit must be above 0 MB; received {limit_mb:g}")
    file = summary.graph.file_bytes
    return SizeCheck(summary.parameter_bytes / MB, limit_mb, None if file is None else file / MB)


def to_table(summary: Summary) -> str:
    """Aligned columns, a row of totals, and `totals_text` below."""
    lines = text_table(_HEAD, _rows(summary), align=_ALIGN).splitlines()
    return "\n".join([*lines[:-1], lines[1], lines[-1], "", totals_text(summary)])


def to_markdown(summary: Summary) -> str:
    """A Markdown table with a row of totals, and `totals_text` as a list below."""
    table = markdown_table(_HEAD, _rows(summary), align=_ALIGN)
    return "\n".join([table, "", *(f"- {line.strip()}" for line in totals_text(summary).splitlines())])


def _rows(summary: Summary) -> list[tuple[str, ...]]:
    rows = [
        (str(row.index), row.type, row.name, shape_text(row.output_shape), _window_text(row), *_numbers(row),
         *_field_text(row.receptive_field))
        for row in summary.rows
    ]  # fmt: skip
    return [*rows, ("", "total", summary.name, "", "", *_numbers(summary), "", "", "")]


def _numbers(counted: LayerSummary | Summary) -> tuple[str, ...]:
    """Parameters, neurons, connections, MACs and KiB."""
    memory = "—" if counted.activation_bytes is None else f"{counted.activation_bytes / 1024:,.1f}"
    counts = (counted.parameters, counted.neurons, counted.connections, counted.macs)
    return (*map(format_number, counts), memory)


def shape_text(shape: Sequence[int] | None) -> str:
    """``32×32×3``, or — if unknown."""
    return "—" if shape is None else "×".join(map(str, shape)) or "1"


def _window_text(row: LayerSummary) -> str:
    """``3×3 /2 p1 d2 g32``: kernel, then stride, padding, dilation and groups unless they are the defaults."""
    if not row.kernel:
        return ""
    text = shape_text(row.kernel)
    if set(row.stride) != {1}:
        text += f" /{_joined(row.stride)}"
    if any(map(any, row.padding)):
        sides = {p for pair in row.padding for p in pair}
        text += f" p{sides.pop()}" if len(sides) == 1 else " p" + ",".join(f"{a}:{b}" for a, b in dict.fromkeys(row.padding))
    if set(row.dilation) != {1}:
        text += f" d{_joined(row.dilation)}"
    return text + (f" g{row.groups}" if row.groups != 1 else "")


def _field_text(found: ReceptiveField | None) -> tuple[str, str, str]:
    """Size, jump and start of a receptive field; ``all`` marks a field shared by all units of a layer."""
    if found is None:
        return "", "", ""
    if found.size is None:
        return "—", "—", "—"
    size = shape_text(found.size)
    if found.jump is None or found.start is None:
        return (f"{size} all", "", "") if found.whole else (f"≤{size}", "—", "—")
    return size, _joined(found.jump), _joined([f"{start:g}" for start in found.start])


def _joined(values: Sequence[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))


def totals_text(summary: Summary) -> str:
    """The totals, one per line, and everything that is not known."""
    lines = [
        f"parameters   {summary.parameters:,} ({summary.trainable:,} trainable, {summary.frozen:,} frozen), "
        f"{summary.parameter_bytes / MB:.2f} MB; {format_number(summary.inference_parameters)} with batch norms folded",
        f"neurons      {format_number(summary.neurons)}",
        f"connections  {format_number(summary.connections)}",
        f"MACs         {format_number(summary.macs)}",
    ]
    if summary.activation_bytes is not None and summary.peak_bytes is not None:
        total, peak = summary.activation_bytes / MB, summary.peak_bytes / MB
        lines.append(f"activations  {total:.2f} MB in total, at most {peak:.2f} MB at a time, for one image")
    found = summary.receptive_field
    if found is not None and found.size is not None:
        shared = ", shared by all outputs" if found.whole else ""
        lines.append(f"field        {shape_text(found.size)} input pixels per output{shared}")
    notes = dict.fromkeys(r.receptive_field.note for r in summary.rows if r.receptive_field and r.receptive_field.note)
    lines += [f"field note   {note}" for note in notes]
    if summary.unknown:
        names = [f"{r.type} ({r.name})" for r in summary.rows if r.kind == "unknown"]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        lines.append(f"UNKNOWN      {', '.join(names[:5])}{more}: they are not counted, so totals shown as — are open")
    return "\n".join(lines)


def to_csv(summary: Summary) -> str:
    """Comma-separated values, one line per layer, unformatted numbers, empty if not known; no totals."""
    rows = []
    for r in summary.rows:
        f = r.receptive_field
        padding = ",".join(f"{a}:{b}" for a, b in r.padding)
        field = (_list(f.size), _list(f.jump), _list(f.start), "all units alike" if f.whole else f.note) if f else ("",) * 4
        rows.append(
            (r.index, r.type, r.name, _list(r.output_shape), r.trainable, r.frozen, r.neurons, r.connections, r.macs,
             r.activation_bytes, _list(r.kernel), _list(r.stride), padding, _list(r.dilation), r.groups, *field)
        )  # fmt: skip
    return csv_table(_CSV_HEAD.split(), rows)


def _list(values: Sequence[Any] | None) -> str:
    return "" if values is None else ",".join(f"{v:g}" for v in values)


def to_json(summary: Summary) -> str:
    """All rows and totals as JSON; null if not known."""
    hidden = ("rows", "graph", "fields", "spatial")
    totals = {f.name: getattr(summary, f.name) for f in dataclasses.fields(summary) if f.name not in hidden}
    totals |= {"parameters": summary.parameters, "file_bytes": summary.graph.file_bytes}
    rows = [{**dataclasses.asdict(r), "parameters": r.parameters} for r in summary.rows]
    return json.dumps({**totals, "rows": rows}, ensure_ascii=False, indent=1)


# --- module tree ------------------------------------------------------------------------------------------------------


def module_tree(summary: Summary) -> str:
    """The layers as a tree like PyTorch's ``print(model)``, nested by the parts of their names."""
    rows = [row for row in summary.rows if row.kind != "input"]
    names = {_parts(row.name) for row in rows}
    root: dict[str, Any] = {}
    for row in rows:
        parts = _parts(row.name)
        # a layer is not a branch: conv1_bn is a sibling of conv1
        cut = next((n for n in range(1, len(parts)) if parts[:n] in names), len(parts)) - 1
        branch = root
        for part in parts[:cut]:
            branch = branch.setdefault(part, {})
        branch.setdefault("_".join(parts[cut:]), {})[row.index] = row
    return "\n".join([f"{summary.name}(", *_tree_lines(root, "  "), ")"])


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[_/]", name) if part) or (name,)


def _tree_lines(branch: dict[Any, Any], indent: str) -> Iterator[str]:
    for name, below in branch.items():
        if isinstance(below, LayerSummary):
            continue
        path = [str(name)]
        while len(below) == 1 and not isinstance(next(iter(below.values())), LayerSummary):  # a part with a single layer
            part, below = next(iter(below.items()))
            path.append(str(part))
        label = "_".join(path)
        for row in (value for value in below.values() if isinstance(value, LayerSummary)):
            yield f"{indent}({label}): {_describe(row)}"
        inner = {key: value for key, value in below.items() if not isinstance(value, LayerSummary)}
        if inner:
            yield f"{indent}({label}): ("
            yield from _tree_lines(inner, indent + "  ")
            yield f"{indent})"


def _describe(row: LayerSummary) -> str:
    parts: list[str] = []
    if row.kind in ("conv", "conv_transpose", "dense") and row.input_shapes:
        parts.append(f"{shape_text(row.input_shapes[0])} → {shape_text(row.output_shape)}")
    if row.kernel:
        parts += [f"kernel_size={row.kernel}", f"stride={row.stride}"]
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
