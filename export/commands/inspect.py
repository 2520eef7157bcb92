"""``inspect``: what a file promises and holds."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.commands import Commands

if TYPE_CHECKING:
    from export.contract import Contract


def add_parsers(commands: Commands) -> None:
    """The command ``inspect``."""
    inspect = commands.add_parser("inspect", help="print what an exported file promises and holds", allow_abbrev=False)
    inspect.add_argument("model", type=Path, help="exported ONNX file")
    inspect.add_argument("--json", action="store_true", help="the contract as JSON, whole")
    inspect.set_defaults(call=inspect_command)


def inspect_command(arguments: argparse.Namespace) -> int:
    """Print the contract, and the graph's summary where the package onnx is installed."""
    from export.untrusted.guard import limit_memory
    from export.untrusted.screen import read_contract
    from kerascv_course.core.schema import to_json

    limit_memory(arguments.model)
    contract = read_contract(arguments.model)
    if arguments.json:
        print(to_json(contract), end="")
        return 0
    for name, text in describe_contract(contract).items():
        print(f"{name:<14} {text}")
    print(f"{'file':<14} {arguments.model.stat().st_size:,} bytes")
    if importlib.util.find_spec("onnx") is None:
        print(f"{'graph':<14} install onnx to see its summary")
        return 0
    from kerascv_course.analysis import summarize

    summary = summarize(arguments.model)
    parameters, macs = ("an unknown number of" if n is None else f"{n:,}" for n in (summary.parameters, summary.macs))
    print(f"{'graph':<14} {len(summary.rows)} nodes, {parameters} parameters, {macs} multiply-accumulates an image")
    return 0


def describe_contract(contract: Contract) -> dict[str, str]:
    """The contract in lines, by their heads; texts of strangers are shown with control characters escaped."""
    spec, steps = contract.input, contract.preprocessing
    size = {"N": "batch", "H": spec.height or "height", "W": spec.width or "width", "C": spec.channels}
    shape = "×".join(str(size[axis]) for axis in spec.layout)
    lines = {
        "name": printable(contract.name),
        "task": contract.task,
        "input": f"{printable(spec.name)}: {spec.dtype} {shape} ({spec.layout}), {spec.color}, "
        f"{spec.range[0]:g}–{spec.range[1]:g}; other sizes by {spec.resize} resampling",
        "preprocessing": f"in the {'graph: feed raw pixels' if steps.where == 'graph' else 'caller: before the graph'}"
        + ("" if steps.mean is None else f"; (pixel · {steps.scale:.6g} − {list(steps.mean)}) / {list(steps.std or ())}")
        + (", channels reversed to BGR" if steps.channels == "BGR" else ""),
    }
    for output in contract.outputs:
        shape = "×".join(["batch", *("any" if n is None else str(n) for n in output.shape)])
        activation = "" if output.activation == "none" else f" ({output.activation})"
        lines[f"output {printable(output.name)}"] = f"{output.meaning}{activation} {shape}"
    if contract.labels:
        shown = ", ".join(map(printable, contract.labels[:SHOWN]))
        lines["labels"] = f"{len(contract.labels)}: {shown}" + (" …" if len(contract.labels) > SHOWN else "")
    if contract.gallery:
        known = list(dict.fromkeys(contract.gallery))
        shown = ", ".join(map(printable, known[:SHOWN])) + (" …" if len(known) > SHOWN else "")
        lines["gallery"] = f"{len(contract.gallery)} pictures of {len(known)}: {shown}"
    if contract.metrics:
        lines["measured"] = ", ".join(f"{m.split} {m.name} {m.value:.4f}" for m in contract.metrics)
    proof = contract.parity
    lines["parity"] = (
        "not proved"
        if proof is None
        else f"proved on {proof.images:,} images, largest difference {proof.largest_difference:.1e}"
        + ("" if proof.agreement is None else f", {proof.agreement:.2%} same answers")
    )
    if contract.precision is not None:
        low = contract.precision
        lines["precision"] = (
            f"{low.kind}: accuracy {low.accuracy:.4f} (float32: {low.accuracy_float32:.4f}) on {low.images:,} "
            f"{printable(low.split)} images; "
            + ", ".join(f"{f:.2f} times as fast at batch {n}" for n, f in zip(low.batch_sizes, low.speedups, strict=True))
            + f" on {printable(low.machine)}"
            + "".join(f"; NOT worth keeping: {printable(reason)}" for reason in low.refused)
        )
    if contract.data:
        lines["data"] = ", ".join(f"{key} {printable(value)}" for key, value in contract.data.items())
    lines["made by"] = ", ".join(f"{printable(name)} {printable(version)}" for name, version in contract.versions.items())
    if contract.git_commit:
        lines["commit"] = printable(contract.git_commit)
    lines["license"] = printable(contract.license) or "not stated"
    return lines


#: Labels that are printed.
SHOWN = 12


def printable(text: str) -> str:
    """A text without what would move a terminal's cursor or forge a line."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
