"""Kills predict-many in the middle, starts it again, and compares what comes of it with the single machine's predictor.

``python scripts/kill_and_predict.py --model RUN/model.onnx --folder /tmp/many [--workers 2] [--kills 2] [--split test]``

The pictures are CIFAR-10's (``TFDS_DATA_DIR``), written as PNG files of one folder a class. Each kill is a SIGKILL for the command, its
workers and every process of its Ray, once its share of the shards is done. The last command loses one worker by SIGKILL, and has to end
well all the same. A damaged file, an empty one and one that is no picture lie among the pictures.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from kerascv_course.core.errors import CourseError, InputError, run_cli


def kill_and_predict(
    model: Path, folder: Path, workers: int = 2, shard: int = 1000, kills: int = 2, split: str = "test"
) -> None:
    """Predict, be killed, go on, compare.

    Args:
        model: an exported classifier.
        folder: new folder for pictures and results; pictures that an earlier call has written are used again.
        workers: processes of predict-many.
        shard: pictures a shard.
        kills: how often all is killed, 1 or more.
        split: of CIFAR-10: train or test.
    """
    pictures, output = folder / "pictures", folder / "output"
    if output.exists():
        raise InputError(f"{output} exists already: name a new folder, or remove it")
    if not pictures.exists():
        write_pictures(pictures, split)
    command = [
        sys.executable,
        "-m",
        "export",
        "predict-many",
        str(model),
        str(pictures),
        "--output",
        str(output),
        "--top",
        "10",
    ]
    command += ["--workers", str(workers), "--shard", str(shard)]
    killed: list[dict[str, Any]] = []
    share = sum(1 for path in pictures.rglob("*") if path.is_file()) // shard // (kills + 1)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        before = finished(output)
        while finished(output) < before + share:
            if process.poll() is not None:
                raise CourseError(f"the command ended by itself with {process.returncode} before it was killed")
            time.sleep(0.02)
        ended = kill_family(process)
        left = [path.name for path in output.rglob(".partial-*")]
        killed.append({"shards_done": finished(output), "processes_killed": ended, "half_written_files": left})
        print(json.dumps(killed[-1]), flush=True)
    done = {path: path.stat().st_mtime_ns for path in output.glob("predictions/part-*.parquet")}
    start = time.perf_counter()
    process = subprocess.Popen(command)
    while finished(output) < len(done) + 2 and process.poll() is None:
        time.sleep(0.02)
    lost = [pid for pid in family(process.pid) if b"ShardPredictor" in Path(f"/proc/{pid}/cmdline").read_bytes()][:1]
    for pid in lost:
        os.kill(pid, signal.SIGKILL)
    if process.wait():
        raise CourseError(f"the last command ended with {process.returncode}")
    seconds = time.perf_counter() - start
    if any(path.stat().st_mtime_ns != moment for path, moment in done.items()):
        raise CourseError("a shard that was done has been done again")
    report = {
        "kills": killed,
        "shards_kept": len(done),
        "workers_killed_in_the_last_command": len(lost),
        "seconds_of_last_command": round(seconds, 1),
        "half_written_files_after": [path.name for path in output.rglob(".partial-*")],
        **compare(model, pictures, output),
        "summary": json.loads((output / "summary.json").read_text()),
    }
    print(json.dumps(report, indent=2))


def write_pictures(folder: Path, split: str) -> None:
    """CIFAR-10 as PNG files of one folder a class, and three files that are none."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10")
    names = builder.info.features["label"].names
    for name in names:
        (folder / name).mkdir(parents=True)
    stored = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    for number, example in enumerate(tfds.as_numpy(stored)):
        (folder / names[example["label"]] / f"{number:05d}.png").write_bytes(example["image"])  # they are stored as PNG
    whole = next((folder / names[0]).iterdir()).read_bytes()
    (folder / names[0] / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / names[3] / "empty.png").write_bytes(b"")
    (folder / names[9] / "text.jpg").write_text("no picture")


def finished(output: Path) -> int:
    return len(list(output.glob("predictions/part-*.parquet")))


def kill_family(process: subprocess.Popen) -> int:
    """SIGKILL for a process and all that descends from it; how many there were."""
    members = family(process.pid)
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # Ray's processes end with the one that started them
            continue
    process.wait()
    return len(members)


def family(pid: int) -> list[int]:
    """A process and all that descends from it, the oldest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    members = [pid]
    for member in members:
        members += children.get(member, [])
    return members


def compare(model: Path, pictures: Path, output: Path) -> dict[str, Any]:
    """What predict-many wrote beside `OnnxModel.predict` on the same files, in this process."""
    import pyarrow.parquet

    from export.predictor import OnnxModel, expand_paths
    from kerascv_course.core.images import ImageError

    rows = pyarrow.parquet.read_table(output / "predictions").to_pylist()
    apart = pyarrow.parquet.read_table(output / "unreadable").to_pylist()
    single = OnnxModel(model)
    names, loaded, unreadable = [], [], []
    for path in expand_paths([pictures]):
        name = path.relative_to(pictures).as_posix()
        try:
            loaded.append(single.load(path))
            names.append(name)
        except ImageError as error:
            unreadable.append((name, str(error)))
    expected = single.predict(np.stack(loaded))
    order = list(single.contract.labels)
    scores = np.array([[row["scores"][row["labels"].index(label)] for label in order] for row in rows], np.float32)
    differ = [row["path"] for row, label in zip(rows, expected.labels, strict=True) if row["label"] != label]
    return {
        "pictures": len(names),
        "same_names_in_the_same_order": [row["path"] for row in rows] == names,
        "labels_that_differ": len(differ),
        "largest_difference_of_a_score": float(np.abs(scores - expected.scores).max()),
        "scores_equal_to_the_bit": float((scores == expected.scores).mean()),
        "unreadable_and_reasons_the_same": [(row["path"], row["reason"]) for row in apart] == unreadable,
        "unreadable": [row["path"] for row in apart],
        "accuracy": float(np.mean([row["label"] == row["path"].split("/")[0] for row in rows])),
    }


if __name__ == "__main__":
    run_cli(lambda: tyro.cli(kill_and_predict))
