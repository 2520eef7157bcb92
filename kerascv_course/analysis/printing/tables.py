"""A summary as a table of text, Markdown, CSV or JSON, and the check of its size against a limit."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kerascv_course.analysis.receptive import ReceptiveField
from kerascv_course.analysis.summary import Row, Summary
from kerascv_course.core.errors import InputError

__all__ = ["SizeCheck", "check_size", "field_text", "shape_text", "to_csv", "to_json", "to_markdown", "to_table", "totals_text"]

MB = 2**20
_HEAD = (
    "#",
    "type",
    "name",
    "output",
    "window",
    "parameters",
    "neurons",
    "connections",
    "MACs",
    "KiB",
    "field",
    "jump",
    "start",
)
_LEFT = (1, 2, 3, 4)


@dataclass(frozen=True)
class SizeCheck:
    """A network's parameters against a limit, in MB of 2²⁰ bytes (torchsummary's MB).

    Attributes:
        parameter_mb: parameters as float32, moving statistics of batch norms included, as a saved file holds them.
        limit_mb: the limit.
        file_mb: of the ONNX file that was analysed; None for a Keras model.
    """

    parameter_mb: float
    limit_mb: float
    file_mb: float | None

    @property
    def fits(self) -> bool:
        """Neither the parameters nor the file are above the limit."""
        return max(self.parameter_mb, self.file_mb or 0.0) <= self.limit_mb

    def __str__(self) -> str:
        file = f", file {self.file_mb:.2f} MB" if self.file_mb is not None else ""
        verdict = "within" if self.fits else "ABOVE"
        return f"size: parameters {self.parameter_mb:.2f} MB{file}: {verdict} the limit of {self.limit_mb:g} MB"


def check_size(summary: Summary, limit_mb: float = 80.0) -> SizeCheck:
    """Compare a network with a size limit; 80 MB is the one of report 002.

    Raises:
        InputError: a limit of 0 or below.
    """
    if limit_mb <= 0:
        raise InputError(f"the size limit is above 0 MB; received {limit_mb:g}")
    file = summary.graph.file_bytes
    return SizeCheck(summary.parameter_bytes / MB, limit_mb, None if file is None else file / MB)


def shape_text(shape: Sequence[int] | None) -> str:
    """``32×32×3``, or — where it is not known."""
    return "—" if shape is None else "×".join(map(str, shape)) or "1"


def window_text(row: Row) -> str:
    """``3×3 /2 p1 d2 g32``: kernel, then stride, padding, dilation and groups where they are not the usual ones."""
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


def field_text(found: ReceptiveField | None) -> tuple[str, str, str]:
    """Size, jump and start of a receptive field; ``all`` marks the field that all units of a layer share."""
    if found is None:
        return "", "", ""
    if found.size is None:
        return "—", "—", "—"
    size = shape_text(found.size)
    if found.jump is None or found.start is None:
        return (f"{size} all", "", "") if found.whole else (f"≤{size}", "—", "—")
    starts = tuple(f"{s:g}" for s in found.start)
    return size, _joined(found.jump), _joined(starts)


def _joined(values: Sequence[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))


def _number(value: int | None) -> str:
    return "—" if value is None else f"{value:,}"


def _cells(row: Row) -> tuple[str, ...]:
    memory = "—" if row.activation_bytes is None else f"{row.activation_bytes / 1024:,.1f}"
    return (
        str(row.index), row.type, row.name, shape_text(row.output_shape), window_text(row), _number(row.parameters),
        _number(row.neurons), _number(row.connections), _number(row.macs), memory, *field_text(row.receptive_field),
    )  # fmt: skip


def _total_cells(summary: Summary) -> tuple[str, ...]:
    memory = "—" if summary.activation_bytes is None else f"{summary.activation_bytes / 1024:,.1f}"
    return (
        "", "total", summary.name, "", "", _number(summary.parameters), _number(summary.neurons), _number(summary.connections),
        _number(summary.macs), memory, "", "", "",
    )  # fmt: skip


def to_table(summary: Summary) -> str:
    """Aligned columns, the totals below them, and what they leave open."""
    rows = [_HEAD, *(_cells(r) for r in summary.rows), _total_cells(summary)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(c.ljust(w) if i in _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    ]
    rule = "─" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", totals_text(summary)])


def to_markdown(summary: Summary) -> str:
    """A Markdown table, with the totals as its last row and a list below."""
    rows = [_HEAD, *(_cells(r) for r in summary.rows), _total_cells(summary)]
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in rows]
    lines.insert(1, "|" + "|".join(" --- " if i in _LEFT else " ---: " for i in range(len(_HEAD))) + "|")
    return "\n".join([*lines, "", *(f"- {line.strip()}" for line in totals_text(summary).splitlines())])


def to_csv(summary: Summary) -> str:
    """Comma-separated values, one line a row, numbers without separators, empty where not known; no line of totals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("index", "type", "name", "output_shape", "trainable", "frozen", "neurons", "connections", "macs", "activation_bytes",
         "kernel", "stride", "padding", "dilation", "groups", "field", "field_jump", "field_start", "field_note")
    )  # fmt: skip
    for r in summary.rows:
        f = r.receptive_field
        padding = ",".join(f"{a}:{b}" for a, b in r.padding)
        note = "" if f is None else "all units alike" if f.whole else f.note
        parts = [_list(r.output_shape), r.trainable, r.frozen, r.neurons, r.connections, r.macs, r.activation_bytes]
        parts += [_list(r.kernel), _list(r.stride), padding, _list(r.dilation), r.groups]
        parts += [_list(f.size), _list(f.jump), _list(f.start), note] if f else ["", "", "", ""]
        writer.writerow([r.index, r.type, r.name, *("" if p is None else p for p in parts)])
    return out.getvalue()


def _list(values: Sequence[Any] | None) -> str:
    return "" if values is None else ",".join(f"{v:g}" for v in values)


def to_json(summary: Summary) -> str:
    """All rows and totals as JSON; null where not known."""
    totals = {
        f.name: getattr(summary, f.name)
        for f in dataclasses.fields(summary)
        if f.name not in ("rows", "graph", "fields", "spatial")
    }
    totals["parameters"] = summary.parameters
    totals["file_bytes"] = summary.graph.file_bytes
    rows = [{**dataclasses.asdict(r), "parameters": r.parameters} for r in summary.rows]
    return json.dumps({**totals, "rows": rows}, ensure_ascii=False, indent=1)


def totals_text(summary: Summary) -> str:
    """The totals, one a line, and a statement of everything that is not known."""
    lines = [
        f"parameters   {summary.parameters:,} ({summary.trainable:,} trainable, {summary.frozen:,} frozen), "
        f"{summary.parameter_bytes / MB:.2f} MB; {_number(summary.inference_parameters)} with batch norms folded",
        f"neurons      {_number(summary.neurons)}",
        f"connections  {_number(summary.connections)}",
        f"MACs         {_number(summary.macs)}",
    ]
    if summary.activation_bytes is not None and summary.peak_bytes is not None:
        lines.append(
            f"activations  {summary.activation_bytes / MB:.2f} MB in all, {summary.peak_bytes / MB:.2f} MB at once, one image"
        )
    found = summary.receptive_field
    if found is not None and found.size is not None:
        alike = ", the same for all outputs" if found.whole else ""
        lines.append(f"field        {shape_text(found.size)} pixels of the input at the output{alike}")
    notes = dict.fromkeys(r.receptive_field.note for r in summary.rows if r.receptive_field and r.receptive_field.note)
    lines += [f"field note   {note}" for note in notes]
    if summary.unknown:
        names = [f"{r.type} ({r.name})" for r in summary.rows if r.kind == "unknown"]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        lines.append(f"NOT KNOWN    {', '.join(names[:5])}{more}: no counts are claimed for them, so totals with — are open")
    return "\n".join(lines)
