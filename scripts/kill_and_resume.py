"""Kills a training again and again, and compares what comes of it with one that was left alone, bit for bit.

``python scripts/kill_and_resume.py --kills 20 --folder /tmp/killed [--recipe NAME] [options of the recipe]``
"""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from kerascv_course.core.errors import CourseError, InputError, run_cli

#: Columns of history.csv that say how long something took.
TIMES = ("seconds",)

#: From when on a moment is drawn: name, and the text that the log has then.
MOMENTS = {"the command's start": "", "the training's start": "trainable parameters", "the first epoch": "best weights|  loss "}


def kill_and_resume(
    folder: Path,
    options: tyro.conf.Positional[tuple[str, ...]] = (),
    recipe: str = "lenet5-digits",
    kills: int = 20,
    seed: int = 0,
) -> None:
    """Train a recipe once undisturbed and once killed by SIGKILL at random moments and resumed, and compare.

    Args:
        folder: new folder for the two runs, ``whole`` and ``killed``.
        options: further options of ``python -m kerascv_course.train``, after ``--``.
        recipe: what is trained.
        kills: how often the process is killed, at least; it is left to end after that.
        seed: of the moments.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: name a new folder")
    whole, killed = folder / "whole", folder / "killed"
    folder.mkdir(parents=True)
    begin, seconds = train([recipe, *options, "--run-dir", str(whole)], folder / "whole.log", whole / "history.csv")
    training = sum(float(row["seconds"]) for row in rows(whole / "history.csv"))
    print(f"undisturbed: {seconds:.0f} s, of which {training:.0f} s of training after {begin:.0f} s", flush=True)

    rng = random.Random(seed)
    done, moments = 0, []
    while done < kills:
        command = (
            ["--resume", str(killed)] if (killed / "recipe.json").exists() else [recipe, *options, "--run-dir", str(killed)]
        )
        before = progress(killed)
        # while it starts, while it traces its first step, and in or after later epochs; on average not so late that it ends too soon
        when, line = rng.choices(list(MOMENTS.items()), (1, 1, 3))[0]
        delay = rng.uniform(0, begin / 2 if not line else 1.6 * training / kills)
        if not kill_after(command, delay, folder / "killed.log", line):
            print("  ended before it could be killed", flush=True)
            break
        done += 1
        check_whole(killed)
        moments.append((delay, progress(killed)))
        print(f"  kill {done:>2}, {delay:4.1f} s after {when}: validations kept {before} -> {moments[-1][1]}", flush=True)
    train(["--resume", str(killed)], folder / "killed.log", killed / "history.csv")
    problems = compare(whole, killed)
    fruitful = sum(a[1] != b[1] for a, b in zip(moments, [(0.0, 0), *moments], strict=False))
    print(f"killed {done} times, {fruitful} times with new validations kept; ended with {progress(killed)} validations")
    if problems:
        raise CourseError("; ".join(problems))
    if done < kills:
        raise CourseError(f"the run ended after {done} kills of {kills}: give it more --epochs")
    print("history.csv (but for the seconds), steps.csv, last.npz and the weights of best.keras are the same, bit for bit")


def train(words: Sequence[str], log: Path, first: Path) -> tuple[float, float]:
    """Run the command to its end; seconds until the file `first` appeared, and in all."""
    started, begin = time.monotonic(), 0.0
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-m", "kerascv_course.train", *words], stdout=file, stderr=file)
        while process.poll() is None:
            if not begin and first.exists():
                begin = time.monotonic() - started
            time.sleep(0.05)
    if process.returncode:
        raise CourseError(f"python -m kerascv_course.train {' '.join(words)} ended with {process.returncode}: see {log}")
    return begin, time.monotonic() - started


def kill_after(words: Sequence[str], delay: float, log: Path, line: str) -> bool:
    """Run the command and kill it so many seconds after it has printed one of these texts (joined by |); False: it ended by itself."""
    with log.open("a+", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "kerascv_course.train", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while line and (printed := process.stdout.readline()):
            file.write(printed)
            if any(word in printed for word in line.split("|")):
                break
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        file.write(process.stdout.read())
    if process.returncode > 0:
        raise CourseError(f"python -m kerascv_course.train {' '.join(words)} ended with {process.returncode}: see {log}")
    return process.returncode < 0


def check_whole(run: Path) -> None:
    """Read every file that a kill may have met: whole, or not there.

    Raises:
        CourseError: a file cannot be read.
    """
    for name, read in READERS.items():
        path = run / name
        try:
            if path.exists():
                read(path)
        except Exception as error:
            raise CourseError(f"half a file: {path}: {error}") from error


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    if any(None in row or None in row.values() for row in found):
        raise ValueError("a row has not as many values as the head")
    return found


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def weights(path: Path) -> list[np.ndarray]:
    """The weights of a .keras file."""
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.core.keras_file import load_keras

    start_tensorflow()
    return load_keras(path).get_weights()


READERS: dict[str, Any] = {
    "recipe.json": lambda path: json.loads(path.read_bytes()),
    "environment.json": lambda path: json.loads(path.read_bytes()),
    "history.csv": rows,
    "steps.csv": rows,
    "last.npz": arrays,
    "best.keras": weights,
    "metrics.json": lambda path: json.loads(path.read_bytes()),
}


def progress(run: Path) -> int:
    """Validations that a run has kept."""
    path = run / "last.npz"
    return len(json.loads(str(arrays(path)["progress"]))["history"]) if path.exists() else 0


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between two runs but for times: nothing, if resuming is exact."""
    problems = []
    histories = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in rows(run / "history.csv")] for run in (whole, killed)
    ]
    if histories[0] != histories[1]:
        problems.append("history.csv differs")
    if (whole / "steps.csv").read_bytes() != (killed / "steps.csv").read_bytes():
        problems.append("steps.csv differs")
    states = [{k: v for k, v in arrays(run / "last.npz").items() if k != "progress"} for run in (whole, killed)]
    if states[0].keys() != states[1].keys() or any(not np.array_equal(v, states[1][k]) for k, v in states[0].items()):
        problems.append("last.npz differs")
    best = [weights(run / "best.keras") for run in (whole, killed)]
    if len(best[0]) != len(best[1]) or not all(map(np.array_equal, *best)):
        problems.append("best.keras differs")
    if left := [path.name for path in killed.iterdir() if path.name.startswith((".partial", "best.0"))]:
        problems.append(f"the kills have left {', '.join(left)} behind")
    return problems


if __name__ == "__main__":
    run_cli(lambda: tyro.cli(kill_and_resume, prog="python scripts/kill_and_resume.py"))
