"""Check that a refactoring changes no result: record what the commands compute in one checkout, and compare two such records.

``python scripts/unchanged.py record FILE.json``
``python scripts/unchanged.py compare OLD.json NEW.json [--renamed MAP.json]``

`record` runs the command lines of the package that Python finds (PYTHONPATH, or the installed one) in a temporary folder:
``lenet5-digits`` with seed 0 to its end, one short run of each task on small generated data with export and gate, and ``report all
--quick``. The record holds the SHA-256 of each run's weights, its metrics, the contract in model.onnx and the SHA-256 of its
initializers, and the numbers on the report pages; no times, versions, commits or paths. `compare` prints every difference and exits
with 1 if there is one that MAP.json does not explain.

Only command lines are used and only files are read, so that the same script works before and after modules move. MAP.json has
three parts, each of them optional::

    {"words": {"old": "new"},             # in keys and in texts, as whole words
     "paths": {"old/path": "new/path"},   # of entries, with all below them; null: removed on purpose
     "added": ["new/path"]}               # new on purpose, with all below them

Paths are as `compare` prints them; ``*`` stands for any one part. Paths of "paths" are old ones, after "words".
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

TRAIN = "kerascv_course.train"
REPORT = "kerascv_course.report"

#: Options whose spelling differs between trees, under the name that RUNS uses. The first one that ``--help`` knows is taken.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "--help": ("--help-all", "--help"),
    "--views": ("--classification.tta", "--views"),
    "--scenes.words": ("--scenes.words", "--scenes.vocabulary-size", "--scenes.visual-words"),
    "--scenes.compress": ("--scenes.compress", "--scenes.pca"),
    "--retrieve.rerank": ("--retrieval.rerank", "--retrieve.rerank"),
    "--retrieve.images-per-identity": ("--retrieval.images-per-identity", "--retrieve.images-per-identity"),
    "--colorize.colors": ("--colorization.colors", "--colorize.colors"),
}

#: The runs: name, generated data ("" for embedded), recipe and options.
RUNS: dict[str, tuple[str, str]] = {
    "lenet5-digits": ("", "lenet5-digits --seed 0"),
    "classification": (
        "classes",
        "fastnet-cifar10-small --data.source folder --data.validation-share 0.2 --model-options width 8 --epochs 1 --batch-size 20 "
        "--precision float32",
    ),
    "classification-sgd": (
        "classes",
        "folder-classify --model tdt4265_base --data.image-size 16 16 --epochs 1 --batch-size 16",
    ),
    "retrieval": (
        "identities",
        "hkust-triplet-best --data.image-size 16 16 --epochs 1 --batch-size 16 --precision float32",
    ),
    "colorization": (
        "photos",
        "csc413-unet --data.source folder --data.only class0 class1 class2 --data.validation-share 0.2 --epochs 1 --batch-size 16 "
        "--colorize.colors 6",
    ),
    "scenes": ("classes", "ntu-fisher-svm --data.image-size 32 32 --scenes.words 4 --scenes.compress 8"),
    "scenes-knn": ("classes", "ntu-bag-of-sift-step3 --data.image-size 32 32 --scenes.words 10"),
}

#: Keys that say when or how fast, with which versions, or of which commit.
SKIPPED = re.compile(r"second|time$|version|commit|started|speed")

#: Columns of tables on the report pages that do so.
SKIPPED_COLUMNS = re.compile(r"second|minute|hour|time|, s\b|^s$|commit|date|speed|images/s", re.IGNORECASE)

#: A number that is not part of an identifier.
NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python scripts/unchanged.py", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record_parser = commands.add_parser("record", help="run the commands and write what they compute")
    record_parser.add_argument("file", type=Path)
    record_parser.add_argument(
        "--only", default="", help="regular expression: of the runs and 'reports', those that it matches"
    )
    record_parser.add_argument(
        "--folder", type=Path, help="keep the runs here, and use those that are finished (default: a temporary folder)"
    )
    compare_parser = commands.add_parser("compare", help="print what differs between two records")
    compare_parser.add_argument("old", type=Path)
    compare_parser.add_argument("new", type=Path)
    compare_parser.add_argument("--renamed", type=Path, help="JSON file with the names that were changed on purpose")
    arguments = parser.parse_args()
    if arguments.command == "record":
        if arguments.folder:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            found = record(arguments.folder, arguments.only)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = record(Path(folder), arguments.only)
        arguments.file.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    read = [json.loads(path.read_text(encoding="utf-8")) for path in (arguments.old, arguments.new)]
    renamed = json.loads(arguments.renamed.read_text(encoding="utf-8")) if arguments.renamed else {}
    differences = compare(*read, renamed)
    print("\n".join(differences) or "no difference")
    return 1 if differences else 0


# Recording


def record(folder: Path, only: str = "") -> dict[str, Any]:
    """Run everything in `folder` and gather the results."""
    found: dict[str, Any] = {"runs": {}}
    for name, (data, words) in RUNS.items():
        if not re.search(only, name):
            continue
        options = [*spelled(words.split()), "--run-dir", str(folder / "runs" / name)]
        if data:
            options += ["--data-dir", str(write_images(folder / "images" / data, data))]
        if not (folder / "runs" / name / "report.html").is_file():
            run(TRAIN, *options, log=folder / f"{name}.txt")
        found["runs"][name] = read_run(folder / "runs" / name)
    if re.search(only, "reports"):
        reports = folder / "reports"
        if not (reports / "index.html").is_file():
            run(REPORT, "all", "--quick", "--output", str(reports), log=folder / "reports.txt")
        for path in sorted((reports / "quick").glob("*/metrics.json")):
            found["runs"][f"quick {path.parent.name}"] = read_run(path.parent)
        found["reports"] = {path.parent.name: page_numbers(path) for path in sorted(reports.glob("*/README.md"))}
    return found


def run(module: str, *words: str, log: Path) -> None:
    """Run a command of the package, its output to `log`; stop everything if it fails."""
    print("python -m", module, *words, flush=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", module, *words], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"ended with {done.returncode}:\n{log.read_text(encoding='utf-8')[-3000:]}")


def spelled(words: list[str]) -> list[str]:
    """A recipe and its options, as the command line of this tree spells them."""
    if not any(word in SPELLINGS for word in words):
        return words
    text = ""
    for option in SPELLINGS["--help"]:
        command = [sys.executable, "-m", TRAIN, words[0], option]
        text += subprocess.run(command, capture_output=True, text=True, check=False).stdout
    known = set(re.findall(r"--[a-z][\w.-]*", text))
    return [next((one for one in SPELLINGS.get(word, ()) if one in known), word) for word in words]


def write_images(folder: Path, kind: str) -> Path:
    """Small generated images: a stripe pattern a class with noise, gray for classes and colored otherwise; the same every time."""
    if folder.is_dir():
        return folder
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    splits = {"classes": ("train", "test"), "identities": ("train", "val"), "photos": ("train", "test")}[kind]
    for split in splits:
        for label in range(4):
            pattern = label + (0.5 if split == "val" else 0)
            for number in range(25 if split == "train" else 10):
                shift = rng.uniform(0, 6)
                wave = 127 + 90 * np.sin((np.cos(pattern) * rows + np.sin(pattern) * columns) * (0.4 + 0.2 * pattern) + shift)
                tint = 1.0 if kind == "classes" else 0.4 + 0.6 * np.abs(np.sin(pattern + np.arange(3)))
                pixels = wave[..., None] * tint + rng.normal(0, 12, (32, 32, 1 if kind == "classes" else 3))
                # the identities to find are others
                name = f"class{label + (4 if kind == 'identities' and split == 'val' else 0)}"
                path = folder / split / name / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).squeeze()).save(path)
    return folder


def read_run(folder: Path) -> dict[str, Any]:
    """What a run folder holds, but for times, versions, commits and paths."""
    found: dict[str, Any] = {"metrics": cleaned(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))}
    if (folder / "best.keras").is_file():
        arrays = keras_arrays(folder / "best.keras")
        found["weights"] = digest(array for name, array in arrays.items() if not name.startswith("optimizer"))
        found["optimizer"] = digest(array for name, array in arrays.items() if name.startswith("optimizer"))
    if (folder / "model.onnx").is_file():
        model = onnx.load(str(folder / "model.onnx"))
        found["initializers"] = digest(numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
        found["operators"] = dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
        found["contract"] = cleaned(contract(model))
    return found


def keras_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a .keras file's weights, by its path in the HDF5 file."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
        file.visititems(keep)
    return found


def digest(arrays: Iterable[np.ndarray]) -> dict[str, Any]:
    """SHA-256 of arrays by content, whatever their names and order: of the sorted SHA-256 of each one's type, shape and bytes."""
    hashes = []
    for array in map(np.ascontiguousarray, arrays):
        head = f"{array.dtype.str} {array.shape} ".encode()
        hashes.append(hashlib.sha256(head + array.tobytes()).hexdigest())
    return {"arrays": len(hashes), "sha256": hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()}


def contract(model: onnx.ModelProto) -> dict[str, Any]:
    """The JSON objects in a file's metadata."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        try:
            value = json.loads(entry.value)
        except ValueError:
            continue
        if isinstance(value, dict):
            found[entry.key] = value
    return found


def cleaned(value: Any) -> Any:
    """A JSON value without what differs from one run of the same code to the next."""
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items() if not SKIPPED.search(key)}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value


def page_numbers(path: Path) -> dict[str, int]:
    """How often each number stands on a page, times and commits left out."""
    counts: Counter[str] = Counter()
    skipped: set[int] = set()
    previous: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            previous = []
            if not re.search(r"\b(seconds|minutes|hours|commit)\b", line):
                counts.update(NUMBER.findall(line))
            continue
        cells = line.strip("|").split("|")
        if not previous:
            skipped = {number for number, cell in enumerate(cells) if SKIPPED_COLUMNS.search(cell.strip())}
        previous = cells
        for number, cell in enumerate(cells):
            if number not in skipped:
                counts.update(NUMBER.findall(cell))
    return dict(sorted(counts.items()))


# Comparing


def compare(old: Any, new: Any, renamed: dict[str, Any]) -> list[str]:
    """A line for each difference that `renamed` does not explain."""
    words, paths, added = renamed.get("words", {}), renamed.get("paths", {}), renamed.get("added", [])
    before: dict[str, Any] = {}
    for path, value in flat(old):
        path = "/".join(translated(part, words) for part in path.split("/"))
        value = translated(value, words) if isinstance(value, str) else value
        target = moved(path, paths)
        if target is not None:
            before[target] = value
    after = {path: value for path, value in flat(new) if not any(below(path, one) for one in added)}
    lines = [f"missing: {path} = {before[path]!r}" for path in sorted(before.keys() - after.keys())]
    lines += [f"new: {path} = {after[path]!r}" for path in sorted(after.keys() - before.keys())]
    for path in sorted(before.keys() & after.keys()):
        if before[path] != after[path]:
            lines.append(f"differs: {path}: {before[path]!r} -> {after[path]!r}")
    return lines


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and leaves of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        yield path, value
    for key, item in items:
        yield from flat(item, f"{path}/{key}" if path else str(key))


def translated(text: str, words: dict[str, str]) -> str:
    """A text with its old words replaced."""
    for old, new in words.items():
        text = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", lambda _, new=new: new, text)
    return text


def moved(path: str, paths: dict[str, str | None]) -> str | None:
    """The new path of an old one; None: it was removed on purpose."""
    for old, new in paths.items():
        if below(path, old):
            if new is None:
                return None
            # a * of the new path keeps what stood there
            kept, parts = path.split("/"), new.split("/")
            head = [kept[number] if part == "*" else part for number, part in enumerate(parts)]
            return "/".join([*head, *kept[len(old.split("/")) :]])
    return path


def below(path: str, prefix: str) -> bool:
    """Whether a path is `prefix`, or below it."""
    parts, wanted = path.split("/"), prefix.split("/")
    return len(parts) >= len(wanted) and all(one in ("*", part) for part, one in zip(parts, wanted, strict=False))


if __name__ == "__main__":
    sys.exit(main())
