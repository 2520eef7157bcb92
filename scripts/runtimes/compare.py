"""Do other runtimes give the same answers? ``python scripts/runtimes/compare.py MODEL.onnx …`` says it in docs/runtimes.md.

The test pictures of each file's own recipe are written as PNG files; every runtime's example program beside this one reads those and
the .onnx file, nothing else; its answers are held against those of `OnnxModel` (onnxruntime in Python).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from export.contract import Contract
from export.predictor import OnnxModel
from export.web.page import find_runtime
from kerascv_course.core.environment import describe_machine, package_versions, start_tensorflow
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.io import atomic_write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

#: Pictures a call: onnxruntime 1.30.0 (its library, from C as from Node) ends with a segmentation fault in a process whose command
#: line is long (30 kB; 20 kB is well).
CALL = 1000


@dataclass(frozen=True)
class Row:
    """One runtime's answers to one file.

    Attributes:
        runtime: what it calls itself.
        images: pictures answered.
        same: of these, the same best class.
        closest: where the best class differs: the largest lead, in probability, that the class has which Python prefers; 0: nowhere.
        logits: largest difference.
        probabilities: largest difference.
        accuracy: share of right answers; None where targets are not known.
        seconds: in all, with reading pictures.
    """

    runtime: str
    images: int
    same: int
    closest: float
    logits: float
    probabilities: float
    accuracy: float | None
    seconds: float


def build_commands(arguments: argparse.Namespace) -> dict[str, Callable[[], list[str]]]:
    """Name of each runtime to what makes its command line, or says what is missing."""
    return {
        "node": lambda: [_found("node"), str(HERE / "classify_node.mjs")],
        "browser": lambda: (find_runtime(), [sys.executable, str(HERE / "classify_browser.py")])[1],
        "openvino": lambda: [sys.executable, str(HERE / "classify_openvino.py")],
        "cpp": lambda: [str(arguments.compiled.resolve(strict=True))],
        "reference": lambda: [sys.executable, str(HERE / "classify_reference.py")],
    }


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise InputError(f"{program} is not installed here")
    return path


def write_pictures(contract: Contract, limit: int, folder: Path) -> tuple[list[str], np.ndarray]:
    """The test pictures of a file's recipe as PNG files: their names, and the targets."""
    start_tensorflow()
    from kerascv_course.config import recipe_from_plain
    from kerascv_course.data import load

    split = load(recipe_from_plain(contract.recipe, what="the recipe in the file").data).test
    names = []
    for i, image in enumerate(split.images[:limit]):
        names.append(f"{i:05}.png")
        Image.fromarray(image.squeeze()).save(folder / names[-1])
    return names, split.targets[:limit]


def compare(model: OnnxModel, command: list[str], folder: Path, names: list[str], targets: np.ndarray, cwd: Path) -> Row:
    """Run one program over the pictures."""
    environment = {**os.environ, "NODE_PATH": str(cwd / "node_modules")}
    start = time.perf_counter()
    runtime, lines = "", []
    for i in range(0, len(names), CALL):
        words = [*command, str(model.path.resolve()), *names[i : i + CALL]]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{command[-1]} failed (exit code {done.returncode}): {done.stderr.strip()[-500:]}")
        first, *rest = map(json.loads, done.stdout.splitlines())
        runtime = first["runtime"]
        lines += rest
    seconds = time.perf_counter() - start
    if [line["file"] for line in lines] != names:
        raise InputError(f"{command[-1]} answered {len(lines)} of {len(names)} pictures")
    ours = model.run([folder / name for name in names])
    theirs = {name: np.array([line[name] for line in lines], np.float32) for name in ("logits", "probabilities")}
    scores = ours["probabilities"]
    rows, labels = np.arange(len(names)), list(model.contract.labels)
    answers = np.array([labels.index(line["label"]) for line in lines])
    leads = scores.max(1) - scores[rows, answers]
    return Row(
        runtime=runtime,
        images=len(names),
        same=int((answers == scores.argmax(1)).sum()),
        closest=float(leads.max()),
        logits=float(np.abs(theirs["logits"] - ours["logits"]).max()),
        probabilities=float(np.abs(theirs["probabilities"] - scores).max()),
        accuracy=float((answers == targets).mean()),
        seconds=seconds,
    )


def table(rows: list[Row]) -> Iterator[str]:
    yield "| runtime | images | same top-1 | largest \\|Δ logit\\| | largest \\|Δ probability\\| | accuracy | seconds |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        same = f"{row.same:,}" + (f" (lead lost ≤ {row.closest:.1e})" if row.same < row.images else "")
        yield (
            f"| {row.runtime} | {row.images:,} | {same} | {row.logits:.1e} | {row.probabilities:.1e} | {row.accuracy:.4f} | "
            f"{row.seconds:.0f} |"
        )


def section(model: OnnxModel, rows: list[Row]) -> str:
    """What is written of one file."""
    contract, machine = model.contract, describe_machine()
    versions = [f"{name} {version}" for name, version in package_versions().items() if re.match("onnx|numpy|pillow", name)]
    path = "/".join(model.path.resolve().parts[-2:])  # in its run folder, wherever that stands
    return "\n".join(
        [
            f"## {contract.recipe['model']}, {contract.precision.kind if contract.precision else 'float32'}",
            "",
            f"Recipe {contract.name}, {model.path.stat().st_size:,} bytes. "
            f"Made by `python scripts/runtimes/compare.py {path}` on {datetime.now(UTC).date()}: {machine['processor']}, "
            f"{machine['cores']} cores, {machine['system'].split('-')[0]}; Python's side: {', '.join(versions)}.",
            "",
            *table(rows),
            "",
        ]
    )


def merge(existing: str, new: list[str]) -> str:
    """The document with new sections: those of the same heading are replaced, the rest stays."""
    first, *old = existing.split("\n## ")
    sections = {text.split("\n")[0]: f"## {text.rstrip()}\n" for text in old}
    sections |= {text.removeprefix("## ").split("\n")[0]: text for text in new}
    return "\n".join([first.rstrip() + "\n", *sections.values()])


def main() -> int:
    parser = argparse.ArgumentParser(description=f"{__doc__}".split("\n")[0], allow_abbrev=False)
    parser.add_argument("models", type=Path, nargs="+", help="exported classifiers")
    parser.add_argument("--images", type=int, default=10_000, help="test pictures at most (default: 10,000)")
    parser.add_argument("--reference-images", type=int, default=1000, help="for the reference evaluator, which is slow")
    parser.add_argument("--runtimes", nargs="+", metavar="NAME", default=["node", "browser", "openvino", "cpp", "reference"])
    parser.add_argument("--compiled", type=Path, default=Path("classify"), help="the program made of classify.cpp")
    parser.add_argument(
        "--node-dir", type=Path, default=Path(), help="folder with node_modules: onnxruntime-node, -web and pngjs"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "runtimes.md")
    arguments = parser.parse_args()
    node = arguments.node_dir.resolve()
    os.environ.setdefault("ORT_WEB_DIR", str(node / "node_modules" / "onnxruntime-web"))
    commands = build_commands(arguments)
    if unknown := set(arguments.runtimes) - set(commands):
        raise InputError(f"unknown runtimes: {', '.join(sorted(unknown))}; known: {', '.join(commands)}")
    lines = {name: commands[name]() for name in arguments.runtimes}  # what is missing is told before anything runs
    existing = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else "# The file in other runtimes\n"
    sections: list[str] = []
    for path in arguments.models:
        model = OnnxModel(path)
        with tempfile.TemporaryDirectory() as folder:
            names, targets = write_pictures(model.contract, arguments.images, Path(folder))
            rows: list[Row] = []
            for name, command in lines.items():
                limit = arguments.reference_images if name == "reference" else len(names)
                rows.append(compare(model, command, Path(folder), names[:limit], targets[:limit], node))
                print(rows[-1], flush=True)
        sections.append(section(model, rows))
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(merge(existing, sections), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_cli(main)
