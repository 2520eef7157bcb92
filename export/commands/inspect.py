"""``inspect`` and ``schema``: the contract of a file, and the JSON Schema of contracts."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.commands.paths import model_file
from export.contract import Contract
from export.contract_schema import contract_schema
from export.untrusted.guard import guarded, limit_memory
from export.untrusted.screen import read_contract
from kerascv_course.core.errors import InputError
from kerascv_course.core.output import printable
from kerascv_course.core.schema import to_json

if TYPE_CHECKING:
    import onnx

__all__ = ["add_inspect", "add_schema"]

#: Labels that are printed.
SHOWN = 12

#: Widest column of titles, characters; the names of outputs come from the file.
WIDTH = 24


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Options of ``inspect``."""
    parser.add_argument("model", type=Path, help="exported ONNX file, or run folder with one")
    parser.add_argument("--json", action="store_true", help="print the complete contract as JSON")
    parser.set_defaults(call=_inspect)


def add_schema(parser: argparse.ArgumentParser) -> None:
    """Options of ``schema``."""
    parser.set_defaults(call=lambda _: print(json.dumps(contract_schema(), indent=2, ensure_ascii=False)))


@guarded()
def _inspect(arguments: argparse.Namespace) -> None:
    model = model_file(arguments.model)
    limit_memory(model)
    contract = read_contract(model)
    if arguments.json:
        print(printable(to_json(contract), lines=True), end="")
        return
    lines = {**describe_contract(contract), "file": f"{model.stat().st_size:,} bytes"}
    lines |= _describe_graph(model)
    width = min(max(map(len, lines)), WIDTH)
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")


def _describe_graph(path: Path) -> dict[str, str]:
    """The size of the graph, and the operators that a runtime must know to run it."""
    if importlib.util.find_spec("onnx") is None:
        return {"graph": "install onnx to see a summary"}
    import onnx

    from kerascv_course.analysis import summarize

    model = onnx.load(path, load_external_data=False)
    nodes = [node for node in _nodes(model.graph) if node.op_type != "Constant"]
    used = collections.Counter(f"{printable(node.domain)}.{node.op_type}".lstrip(".") for node in nodes)
    versions = {one.domain or "ai.onnx": one.version for one in model.opset_import}
    sets = ", ".join(f"{printable(domain)} {version}" for domain, version in sorted(versions.items()))
    try:
        summary = summarize(path)
        known = (("parameters", summary.parameters), ("multiply-accumulates an image", summary.macs))
        counts = "".join(f", {'an unknown number of' if n is None else f'{n:,}'} {name}" for name, n in known)
    except InputError:  # open axes: the counts depend on the image
        counts = ""
    return {
        "graph": f"{len(nodes):,} nodes{counts}",
        "needs": f"opset {sets}; IR version {model.ir_version}",
        "operators": ", ".join(f"{name} {count}" if count > 1 else name for name, count in sorted(used.items())),
    }


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def describe_contract(contract: Contract) -> dict[str, str]:
    """The contract as lines by their titles; untrusted texts have their control characters escaped."""
    lines = {"name": printable(contract.name), "task": contract.task}
    lines |= {"input": _describe_input(contract), "preprocessing": _describe_preprocessing(contract)}
    for output in contract.outputs:
        shape = "×".join(["batch", *("any" if n is None else str(n) for n in output.shape)])
        meaning = "" if output.meaning == output.name else f"{output.meaning} "
        activation = "" if output.activation == "none" else f" ({output.activation})"
        lines[f"output {printable(output.name)}"] = f"{meaning}{shape}{activation}"
    known = tuple(dict.fromkeys(contract.gallery))
    optional = {
        "labels": contract.labels and f"{len(contract.labels)}: {_shorten(contract.labels)}",
        "gallery": known and f"{len(contract.gallery)} images of {len(known)}: {_shorten(known)}",
        "measured": ", ".join(f"{printable(m.split)} {printable(m.name)} {m.value:.4f}" for m in contract.metrics),
        "parity": _describe_parity(contract),
        "precision": _describe_precision(contract),
        "data": ", ".join(f"{printable(key)} {printable(value)}" for key, value in contract.data.items()),
    }
    lines |= {name: str(text) for name, text in optional.items() if text}
    lines["made by"] = ", ".join(f"{printable(name)} {printable(version)}" for name, version in contract.versions.items())
    if contract.git_commit:
        lines["commit"] = printable(contract.git_commit)
    lines["license"] = printable(contract.license) or "not stated"
    return lines


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(map(printable, names[:SHOWN])) + (" …" if len(names) > SHOWN else "")


def _describe_input(contract: Contract) -> str:
    spec = contract.input
    size = {"N": "batch", "H": spec.height or "height", "W": spec.width or "width", "C": spec.channels}
    shape = "×".join(str(size[axis]) for axis in spec.layout)
    low, high = spec.range
    text = f"{printable(spec.name)}: {spec.dtype} {shape} ({spec.layout}), {spec.color}, {low:g}–{high:g}"
    return f"{text}; other sizes by {spec.resize} resampling"


def _describe_preprocessing(contract: Contract) -> str:
    steps = contract.preprocessing
    text = "in the graph: feed raw pixels" if steps.where == "graph" else "in the caller: before the graph"
    if steps.mean is not None:
        factor = steps.scale
        scaled = (
            "pixel"
            if factor == 1
            else "pixel / 255"
            if math.isclose(factor, 1 / 255, rel_tol=1e-6)
            else f"pixel · {factor:.6g}"
        )
        text += f"; ({scaled} − {_numbers(steps.mean)}) / {_numbers(steps.std or ())}"
    return text + (", channels reversed to BGR" if steps.channels == "BGR" else "")


def _numbers(values: tuple[float, ...]) -> str:
    """One number as it is, several as a list."""
    text = ", ".join(f"{value:.6g}" for value in values)
    return text if len(values) == 1 else f"[{text}]"


def _describe_parity(contract: Contract) -> str:
    parity = contract.parity
    if parity is None:
        return "not validated"
    answers = "" if parity.agreement is None else f", {parity.agreement:.2%} equal answers"
    return f"validated on {parity.images:,} images, largest difference {parity.largest_difference:.1e}{answers}"


def _describe_precision(contract: Contract) -> str:
    low = contract.precision
    if low is None:
        return ""
    speedups = zip(low.batch_sizes, low.speedups, strict=True)
    return (
        f"{low.kind}: accuracy {low.accuracy:.4f} (float32: {low.accuracy_float32:.4f}) on {low.images:,} "
        f"{printable(low.split)} images; "
        + ", ".join(f"{factor:.2f} times as fast at batch {size}" for size, factor in speedups)
        + f" on {printable(low.machine)}"
        + "".join(f"; NOT worth keeping: {printable(reason)}" for reason in low.refused)
    )
