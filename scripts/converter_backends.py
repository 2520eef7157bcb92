"""Export every network on every backend of Keras: the files must be the same to the byte, and each must pass the gate there.

    python scripts/converter_backends.py [--networks PATTERN] [--backends tensorflow,jax,torch]

goes over the networks of this package at their default inputs and those of keras.applications at the smallest that they take, with
disturbed weights that are the same on each backend, prints what it finds, and writes the table of docs/export.md where it went over all
of them; exit code 1 where a file fails the gate or two backends' files differ.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")

#: The smallest input that networks of keras.applications take, where that is not 32 × 32.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}

PAGE = Path(__file__).resolve().parent.parent / "docs" / "export.md"
BEGIN, END = "<!-- backends: scripts/converter_backends.py -->", "<!-- end of backends -->"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/converter_backends.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", default="*", metavar="PATTERN", help="shell pattern of the names")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="separated by commas")
    parser.add_argument("--here", action="store_true", help="print a line of JSON a network on the backend of KERAS_BACKEND")
    arguments = parser.parse_args()
    if arguments.here:
        return report_networks(arguments.networks)
    backends = arguments.backends.split(",")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for backend in backends:
        command = [sys.executable, __file__, "--here", "--networks", arguments.networks]
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                found.setdefault(row["name"], {})[backend] = row
                print(backend, line.strip(), flush=True)
        if process.returncode:
            print(f"{backend}: exit code {process.returncode}")
            return 1
    wrong = [name for name, rows in found.items() if any("error" in row for row in rows.values())]
    different = [name for name, rows in found.items() if len(hashes(rows)) > 1]
    print(f"{len(found)} networks, {len(wrong)} wrong {wrong}, {len(different)} different {different}")
    if arguments.networks == "*" and set(backends) == set(BACKENDS):
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        text = "\n".join(table(found, backends))
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(bool(wrong or different))


def hashes(rows: dict[str, dict[str, Any]]) -> set[str | None]:
    """The files of the backends that Keras has the network for."""
    return {row.get("sha256") for row in rows.values() if "absent" not in row}


def table(found: dict[str, dict[str, dict[str, Any]]], backends: list[str]) -> list[str]:
    """The lines of docs/export.md."""
    cells = {
        "difference": lambda row: f"{row['difference']:.1e}",
        "error": lambda row: row["error"],
        "absent": lambda _: "none in Keras",
    }
    lines = [
        f"| network | parameters | nodes | {' | '.join(f'{backend}: difference' for backend in backends)} | files |",
        f"| --- | ---: | ---: | {'---: | ' * len(backends)}--- |",
    ]
    for name, rows in found.items():
        differences = [next(show(row) for key, show in cells.items() if key in row) for row in rows.values()]
        one = next(row for row in rows.values() if "absent" not in row)
        same = "equal" if len(hashes(rows)) == 1 else "**different**"
        lines.append(f"| `{name}` | {one['parameters']:,} | {one.get('nodes', '–')} | {' | '.join(differences)} | {same} |")
    return lines


def networks() -> dict[str, Callable[[], Any]]:
    """Makers of the networks by name."""
    from kerascv_course import create_model, list_models

    made: dict[str, Callable[[], Any]] = {name: (lambda name=name: create_model(name)) for name in list_models()}
    for name, function in applications().items():
        size = SIZES.get(name, 32)
        made[f"keras.applications.{name}"] = lambda function=function, size=size: function(
            weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"
        )
    return made


def applications() -> dict[str, Callable[..., Any]]:
    """The networks of keras.applications by the names of their functions."""
    import keras

    return {
        name: function
        for name, function in sorted(vars(keras.applications).items())
        if inspect.isfunction(function) and "input_shape" in inspect.signature(function).parameters
    }


def disturb(model: Any, name: str) -> None:
    """The same weights on every backend: kernels of He's variance, and statistics and biases other than a new network's."""
    generator = np.random.default_rng(0)
    # Normalization reads its statistics when it is built: what is assigned later counts on PyTorch alone
    fixed = {id(weight) for one in model.layers if type(one).__name__ == "Normalization" for weight in one.weights}
    for weight in model.weights:
        if id(weight) in fixed:
            continue
        values = np.asarray(weight.shape)
        if "variance" in weight.name:
            new = generator.uniform(0.5, 1.5, weight.shape)
        elif len(weight.shape) < 2:
            gain = 0.5 if weight.name == "gamma" and "EfficientNetV2" in name else 1.0
            new = (weight.name in ("gamma", "scale")) + generator.normal(0, 0.1, weight.shape)
            new *= gain
        else:
            inputs = values[0] if len(values) == 2 else int(np.prod(values[:-1]))
            new = generator.normal(0, np.sqrt(2 / inputs), weight.shape)
        weight.assign(new.astype(weight.dtype))


def report_networks(pattern: str) -> int:
    """Print what becomes of each network on this backend, a line of JSON each."""
    import keras
    import onnx

    from export import check_parity, export_model

    for name, make in networks().items():
        if not fnmatch.fnmatch(name, pattern):
            continue
        keras.backend.clear_session()
        started = time.perf_counter()
        try:
            model = make()
        except ValueError as error:  # as NASNetMobile on PyTorch, by Keras's own message
            print(json.dumps({"name": name, "absent": str(error)}), flush=True)
            continue
        row: dict[str, Any] = {"name": name, "parameters": model.count_params()}
        try:
            disturb(model, name)
            shape = [32 if size is None else size for size in model.inputs[0].shape[1:]]
            images = np.random.default_rng(1).integers(0, 256, (2, *shape), np.uint8)
            with tempfile.TemporaryDirectory() as folder:
                path = export_model(
                    model, Path(folder) / "x.onnx", task="tensor", converter="native", versions={}, commit="", name=name
                )
                row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                row["nodes"] = len(onnx.load(path, load_external_data=False).graph.node)
                report = check_parity(model, path, images, batch_sizes=(1, 2), reference_images=0)
                row["difference"] = max(one.max_relative for one in report.rows)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:500]
        row["seconds"] = round(time.perf_counter() - started, 1)
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
