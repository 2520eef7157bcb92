"""Write the table of what the native converter covers into docs/export.md: every layer and every function of the installed Keras.

    python scripts/converter_coverage.py            # try them all, compare with Keras, write the table
    python scripts/converter_coverage.py NAME …     # try some, and print what comes of them

Each is tried in a small model. *Native* has a converter of its own; *traced* becomes what its call makes of `keras.ops`; *refused* is
refused, with the reason. Exit code 1 where a file differs from Keras.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
from converter_cases import CALLS, NO_FUNCTIONS, NO_LAYERS, Case, layer_model
from keras import layers, ops

from export.converter.exporter import NotConvertible, build
from export.converter.native import OPERATIONS, converter_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "export.md"
BEGIN, END = "<!-- coverage: scripts/converter_coverage.py -->", "<!-- end of coverage -->"

Found = tuple[str, str]


def layer_names() -> list[str]:
    """Every class of keras.layers, once where several names are one class."""
    found: dict[int, str] = {}
    for name in sorted(vars(layers), key=lambda name: (name != getattr(vars(layers)[name], "__name__", ""), name)):
        if isinstance(vars(layers)[name], type):
            found.setdefault(id(vars(layers)[name]), name)
    return sorted(found.values())


def function_names() -> list[str]:
    """Every function of keras.ops, under its shortest name; those of images as ``image.…``."""
    names = [name for name, value in vars(ops).items() if inspect.isfunction(value)]
    names += [f"image.{name}" for name, value in vars(ops.image).items() if inspect.isfunction(value)]
    return sorted(names)


def difference(model: keras.Model, inputs: list[np.ndarray]) -> float:
    """The largest difference of the model's file from Keras, relative to the largest value.

    Raises:
        NotConvertible: something has no converter.
    """
    names = [f"input_{i}" for i in range(len(inputs))]
    proto = build(model, names, 18)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = session.run(None, dict(zip(names, inputs, strict=True)))
    theirs = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    worst = 0.0
    for a, tensor in zip(ours, theirs, strict=True):
        b = np.asarray(keras.ops.convert_to_numpy(tensor))
        assert a.shape == b.shape, (a.shape, b.shape)
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        assert np.array_equal(np.isfinite(a), np.isfinite(b))
        if finite.any():
            worst = max(worst, float(np.abs(a - b)[finite].max() / max(1.0, np.abs(b[finite]).max())))
    return worst


def tried(make: Any, native: bool | None) -> Found:
    """What becomes of a model: a kind, and the reason where it is refused; `native`: None where the model's operations tell."""
    keras.backend.clear_session()
    try:
        model, inputs = make()
    except Exception as error:
        return "refused", f"Keras makes no model of it: {_line(error)}"
    try:
        worst = difference(model, inputs)
    except NotConvertible as error:
        reason = str(error).rpartition("\n")[2]
        return "refused", "no converter" if "has no converter" in reason else reason
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {_line(error)}"
    if native is None:
        native = any(type(operation).__name__ in OPERATIONS for operation in model.operations)
    return ("native" if native else "traced", "") if worst <= 1e-4 else ("wrong", f"differs by {worst:.1e}")


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120]


def of_layer(name: str) -> Found:
    """What becomes of a layer."""
    if name in NO_LAYERS:
        return ("refused" if NO_LAYERS[name] else "traced"), NO_LAYERS[name]
    return tried(lambda: layer_model(name), converter_of(getattr(layers, name)) is not None)


def of_function(name: str) -> Found:
    """What becomes of a function."""
    if name in NO_FUNCTIONS:
        return ("refused" if NO_FUNCTIONS[name] else "traced"), NO_FUNCTIONS[name]
    function: Any = getattr(ops.image, name.partition(".")[2]) if name.startswith("image.") else getattr(ops, name)
    case = CALLS.get(name)
    if case is None:
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        shape = (8, 8, 3) if name.startswith("image.") else (6, 4)
        case = Case(function, (shape,) * max(1, len(needed)), *((0.2, 2.0) if len(needed) > 1 else (-0.9, 0.9)))
    return tried(case.model, None)


def table(title: str, found: dict[str, Found]) -> list[str]:
    """The lines of one registry."""
    kinds: dict[str, list[str]] = {kind: [name for name, (k, _) in found.items() if k == kind] for kind in ("native", "traced")}
    refused = {name: reason for name, (kind, reason) in found.items() if kind in ("refused", "wrong")}
    lines = [
        f"**{title}** ({len(found)}): {len(kinds['native'])} native, {len(kinds['traced'])} traced, {len(refused)} refused.",
        "",
    ]
    for kind, names in kinds.items():
        lines += [f"{kind.capitalize()}: {', '.join(f'`{name}`' for name in names)}.", ""]
    lines += ["| refused | reason |", "| --- | --- |"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason.replace("|", "/"), []).append(name)
    lines += [f"| {', '.join(f'`{name}`' for name in names)} | {reason} |" for reason, names in by_reason.items()]
    return [*lines, ""]


def main() -> int:
    """Run the command."""
    if names := sys.argv[1:]:
        for name in names:
            print(name, *(of_layer(name) if hasattr(layers, name) else of_function(name)))
        return 0
    of_layers = {name: of_layer(name) for name in layer_names()}
    of_functions = {name: of_function(name) for name in function_names()}
    text = "\n".join([*table("keras.layers", of_layers), *table("keras.ops", of_functions)])
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    wrong = {name: reason for part in (of_layers, of_functions) for name, (kind, reason) in part.items() if kind == "wrong"}
    for name, reason in wrong.items():
        print(f"{name}: {reason}")
    print(*(line for line in text.split("\n") if line.startswith("**")), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
