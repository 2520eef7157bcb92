"""Run the commands behind docs/results.md and keep a small record of each finished run in results/.

``python scripts/reproduce.py [--only PATTERN] [--hours H]`` runs what RUNS lists, one command after the other at low priority. A run
whose folder is there is resumed; one that has a record is skipped. ``python scripts/reproduce.py --record RUN [--name NAME]``
only writes the record of a finished run folder.

A record, ``results/NAME/seed-N/``, holds recipe.json, environment.json, metrics.json, parity.json, history.csv, steps.csv (at most 500
rows), confusion.csv (of the test split), log.txt, and record.json: the command and the SHA-256 of the weights. It has no weights
and no paths of a machine, and is smaller than 200 kB.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

#: Limits of a record.
MAX_BYTES, MAX_STEPS = 200_000, 500

#: What the short flavors of report 002's and 003's networks change: Muon with a linear schedule, no cutout, test-time flip.
MUON = (
    "--batch-size 500 --optimizer.name muon --optimizer.learning-rate 0.2 --optimizer.momentum 0.6 --optimizer.norm-rate 0.1 "
    "--optimizer.head-rate 0.05 --schedule.name linear --schedule.warmup-epochs 0.2 --augmentation.cutout 0 --classification.tta flip"
)

#: What the runs on 279 pedestrians change; they are 64 pixels wide and 128 high.
MARKET = "--data.image-size 128 64 --epochs 16 --precision auto --fused --data-dir $MARKET279_DIR"

#: What the runs from ImageNet's weights change besides; the file holds ResNet-18 under torchvision's names.
IMAGENET = (
    "--weights $RESNET18_IMAGENET --data.normalize-mean 0.485 0.456 0.406 --data.normalize-std 0.229 0.224 0.225 "
    "--schedule.name cosine"
)


@dataclass(frozen=True)
class Entry:
    """A run for each seed; the name is its folder in results/."""

    name: str
    command: str
    seeds: tuple[int, ...] = (0,)


#: What is run, cheapest first. CIFAR-10 is found by TFDS_DATA_DIR; a command that names an unset variable is skipped.
RUNS = [
    Entry("lenet5-digits", "lenet5-digits"),
    Entry("fastnet-cifar10-small", "fastnet-cifar10-small", (0, 1, 2)),
    Entry("tdt4265-base", "tdt4265-base", (0, 1, 2)),
    Entry("ntu-lenet", "ntu-lenet"),
    Entry("hkust-id-market279", f"hkust-id {MARKET}", (0, 1, 2)),
    Entry("hkust-triplet-market279", f"hkust-triplet {MARKET}", (0, 1, 2)),
    Entry("hkust-id-market279-imagenet", f"hkust-id {MARKET} {IMAGENET}"),
    Entry("hkust-triplet-market279-imagenet", f"hkust-triplet {MARKET} {IMAGENET}"),
    Entry("tdt4265-base-best", "tdt4265-base-best"),
    Entry("tdt4265-model1", "tdt4265-model1", (0, 1, 2)),
    Entry("fastnet-cifar10", "fastnet-cifar10", (0, 1, 2)),
    Entry("tdt4265-model1-best", "tdt4265-model1-best"),
    Entry("tdt4265-model2-best", "tdt4265-model2-best"),
    Entry("tdt4265-model2", "tdt4265-model2"),
    Entry("ntu-resnet18-short", f"ntu-resnet18-best --epochs 6 {MUON}"),
    Entry("ntu-vgg16-short", f"ntu-vgg16-best --epochs 8 {MUON}"),
    Entry("ntu-mynet-short", f"ntu-mynet-best --epochs 5 {MUON}"),
    Entry("ntu-vgg19-short", f"ntu-vgg16-best --model vgg19 --epochs 8 {MUON}"),
    Entry("ntu-vgg16-wide-short", f"ntu-vgg16-best --model vgg16_wide --epochs 8 {MUON}"),
    Entry("ntu-alexnet", "ntu-alexnet"),
    Entry("cose474-vgg16-short", f"cose474-vgg16-best --epochs 8 {MUON}"),
    Entry("cose474-resnet50-short", f"cose474-resnet50-best --epochs 12 {MUON}"),
]


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python scripts/reproduce.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression that a name must match")
    parser.add_argument("--hours", type=float, help="stop after so many hours; the run in progress is resumed next time")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="folder of the run folders")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument("--list", action="store_true", help="print the commands and what is done")
    parser.add_argument(
        "--record", type=Path, metavar="RUN", help="write the record of this finished run folder, and run nothing"
    )
    parser.add_argument("--name", help="with --record: name in results/ (default: the recipe's)")
    arguments = parser.parse_args()
    if arguments.record:
        print(record(arguments.record, arguments.results, arguments.name))
        return 0
    chosen = [entry for entry in RUNS if re.search(arguments.only, entry.name)]
    if arguments.list:
        for entry in chosen:
            for seed in entry.seeds:
                done = "done" if is_recorded(arguments.results, entry.name, seed) else "    "
                print(f"{done}  {entry.name} seed {seed}: {' '.join(command(entry, seed))}")
        return 0
    if hasattr(os, "nice"):
        os.nice(19)
    return reproduce(chosen, arguments.runs, arguments.results, arguments.hours)


def reproduce(entries: Sequence[Entry], runs: Path, results: Path, hours: float | None = None) -> int:
    """Run what has no record yet, and record it; 1 if a command failed."""
    end = None if hours is None else time.monotonic() + 3600 * hours
    failed = []
    for entry in entries:
        for seed in entry.seeds:
            if is_recorded(results, entry.name, seed):
                continue
            words = command(entry, seed)
            if unset := re.findall(r"\$\w+", " ".join(words)):
                print(f"{entry.name} seed {seed}: skipped, set {', '.join(unset)}", flush=True)
                continue
            folder = runs / f"{entry.name}-seed{seed}"
            if not is_finished(folder):
                code = train(words, folder, end)
                if code is None:
                    print("the time is over; the same command goes on", flush=True)
                    return 0
                if code:
                    failed.append(f"{entry.name} seed {seed}: exit code {code}")
                    print(failed[-1], flush=True)
                    continue
            print(record(folder, results, entry.name), flush=True)
    return 1 if failed else 0


def command(entry: Entry, seed: int) -> list[str]:
    """The words of an entry's command, its environment variables filled in."""
    return [os.path.expandvars(word) for word in [*entry.command.split(), "--seed", str(seed)]]


def train(words: Sequence[str], folder: Path, end: float | None) -> int | None:
    """Run or resume a training; its exit code, or None if the time was over."""
    started = (folder / "recipe.json").is_file()
    words = ["--resume", str(folder)] if started else [*words, "--run-dir", str(folder)]
    words = [sys.executable, "-m", "kerascv_course.train", *words]
    print(shlex.join(words), flush=True)
    process = subprocess.Popen(words)
    try:
        return process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        # as Ctrl-C: what has been validated is kept
        process.send_signal(signal.SIGINT)
        process.wait()
        return None


def is_finished(folder: Path) -> bool:
    """Whether a run has been measured and, where its recipe asks for it, exported."""
    return (folder / "report.html").is_file() and (folder / "metrics.json").is_file()


def is_recorded(results: Path, name: str, seed: int) -> bool:
    """Whether there is a record; record.json is written last."""
    return (results / name / f"seed-{seed}" / "record.json").is_file()


def record(run: Path, results: Path, name: str | None = None) -> Path:
    """Write the record of a finished run folder.

    Returns:
        Its folder.
    """
    if not is_finished(run):
        sys.exit(f"{run} is not a finished run: it has no metrics.json or no report.html")
    recipe = read_json(run / "recipe.json")
    environment = read_json(run / "environment.json")
    for one in (environment, *environment.get("resumes", [])):
        one["command"] = printed_command(one["command"])
    metrics = read_json(run / "metrics.json")
    folder = results / (name or recipe["name"]) / f"seed-{recipe['seed']}"
    texts = {
        "recipe.json": to_json(recipe),
        "environment.json": to_json(environment),
        "metrics.json": to_json(metrics),
        "log.txt": without_paths((run / "log.txt").read_text(encoding="utf-8")),
    }
    if (run / "parity.json").is_file():
        texts["parity.json"] = to_json(read_json(run / "parity.json"))
    for file in ("history.csv", "steps.csv"):
        if (run / file).is_file():
            texts[file] = thinned((run / file).read_text(encoding="utf-8"))
    if confusion := metrics["test"].get("confusion"):
        texts["confusion.csv"] = confusion_csv(confusion, metrics["data"].get("labels"))
    texts["record.json"] = to_json(
        {
            "name": folder.parent.name,
            "recipe": recipe["name"],
            "seed": recipe["seed"],
            "command": environment["command"],
            "commit": environment["commit"],
            "headline": metrics["headline"],
            "weights_sha256": weights_sha256(run / "best.keras"),
        }
    )
    size = sum(len(text.encode()) for text in texts.values())
    if size > MAX_BYTES:
        sizes = ", ".join(f"{file} {len(text.encode()):,}" for file, text in texts.items())
        sys.exit(f"the record of {run} has {size:,} bytes, more than {MAX_BYTES:,}: {sizes}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").unlink(missing_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def to_json(value: Any) -> str:
    """JSON without paths, lists of numbers on one line."""
    text = json.dumps(cleaned(value), indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def cleaned(value: Any) -> Any:
    """A JSON value whose texts have no paths."""
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return without_paths(value) if isinstance(value, str) else value


def without_paths(text: str) -> str:
    """A text in which the last part stands for each absolute path."""
    text = re.sub(r"(?<![\w./~-])[A-Za-z]:\\(?:[^\\\s'\"]+\\)*([^\\\s'\"]+)", r"\1", text)
    return re.sub(r"(?<![\w./~:-])~?/(?:[\w.+@~=-]+/)*([\w.+@~=-]+)/?", r"\1", text)


def printed_command(text: str) -> str:
    """A run's command as one would print it: without --run-dir, and of other paths the last part."""
    words, kept = iter(shlex.split(text)), []
    for word in words:
        if word == "--run-dir":
            next(words, None)
        elif not word.startswith("--run-dir="):
            kept.append(without_paths(word))
    return shlex.join(kept)


def thinned(text: str, limit: int = MAX_STEPS) -> str:
    """A CSV table of at most `limit` rows: evenly spaced ones, the last among them."""
    head, *rows = text.splitlines()
    every = -(-len(rows) // limit) or 1
    kept = rows[::-1][::every][::-1]
    return "\n".join([head, *kept]) + "\n"


def confusion_csv(confusion: Sequence[Sequence[float]], labels: Sequence[str] | None) -> str:
    """A confusion matrix as CSV: a row for each true class, a column for each predicted one."""
    names = list(labels) if labels and len(labels) == len(confusion) else list(map(str, range(len(confusion))))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion, strict=True))
    return file.getvalue()


def weights_sha256(path: Path) -> str:
    """SHA-256 of a .keras file's weights: the content of its arrays in the order of their names, without the optimizer's."""
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            array = item[()]
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())

    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
        file.visititems(add)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
