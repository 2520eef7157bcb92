"""Kill commands by ``kill -9`` at random moments, run each again, and look for what is lost or half-written.

    python scripts/kill_anything.py RUN --folder /tmp/killed --kills 200 [--only export page]

RUN is a finished run of a classifier; a copy of it is used. Commands whose packages are missing are left out and named. After each kill
every file with its final name must be whole, and nothing may be called rejected; after the command has run again, nothing half-written
may be left. Exit code 1 with the first breach.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.untrusted.screen import screen
from kerascv_course.core.errors import CourseError, InputError, run_cli
from kerascv_course.core.keras_file import check_archive


@dataclass(frozen=True)
class Killed:
    """A command that is killed.

    Attributes:
        words: after ``python -m``.
        folder: where it writes.
        needs: packages.
    """

    words: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()


def commands(run: Path, folder: Path) -> dict[str, Killed]:
    """The commands on a run, by name."""
    images, model, vectors = str(run / "samples"), str(run / "model.onnx"), str(folder / "vectors" / "v.npy")
    (folder / "vectors").mkdir()
    np.save(vectors, np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32))
    out = {name: folder / name for name in ("many", "page", "index")}
    return {
        "export": Killed(("export", str(run)), run),
        "quantize": Killed(("export", "quantize", str(run), "--force", "--batch", "1", "--calibration-images", "32"), run),
        "predict-many": Killed(
            ("export", "predict-many", model, images, "--output", str(out["many"]), "--shard", "2", "--workers", "1"),
            out["many"],
            ("ray", "pyarrow"),
        ),
        "report": Killed(("kerascv_course.evaluate", str(run)), run),
        "page": Killed(("export", "page", model, "-o", str(out["page"]), "--force"), out["page"]),
        "index": Killed(
            ("export", "index", vectors, "--output", str(out["index"] / "i.npz"), "--cells", "32"), out["index"], ("faiss",)
        ),
    }


def read_html(path: Path) -> None:
    """Check that a page has its end."""
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise InputError(f"{path} has no end")


#: How a file is read to see that it is whole, by its suffix.
READERS: dict[str, Callable[[Path], object]] = {
    ".onnx": screen,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".html": read_html,
    ".keras": check_archive,
    ".npz": check_archive,
    ".npy": lambda path: np.load(path, mmap_mode="r"),
}


def check(folder: Path, *, ended: bool) -> None:
    """Check the files of a folder.

    Args:
        folder: where a command writes.
        ended: the command has ended by itself, so that nothing half-written may be left.

    Raises:
        CourseError: a file with its final name is not whole, is called rejected, or is left half-written.
    """
    for path in sorted(folder.rglob("*")) if folder.exists() else []:
        partial = any(part.startswith(".partial-") for part in path.relative_to(folder).parts)
        if "rejected" in path.name and not partial:
            raise CourseError(f"{path} is called rejected")
        if ended and partial:
            raise CourseError(f"{path} is left")
        if path.is_file() and not partial and path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except (InputError, ValueError, OSError) as error:
                raise CourseError(f"{path} is not whole: {error}") from error


def run_whole(command: Killed, log: Path) -> float:
    """Run a command to its end: seconds.

    Raises:
        CourseError: it failed.
    """
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", *command.words], stdout=file, stderr=file, check=False)
    if done.returncode:
        raise CourseError(f"python -m {' '.join(command.words)} ended with {done.returncode}: see {log}")
    check(command.folder, ended=True)
    return time.monotonic() - started


def kill_at(command: Killed, delay: float, log: Path) -> bool:
    """Run a command and kill it after so many seconds; False: it had ended."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-m", *command.words], stdout=file, stderr=file)
        try:
            process.wait(delay)
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="finished run of a classifier; it is copied")
    parser.add_argument("--folder", type=Path, required=True, help="new folder to work in")
    parser.add_argument("--kills", type=int, default=200, help="kills in all, shared evenly by the commands (default: 200)")
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="these commands alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        raise InputError(f"{arguments.folder} exists already: name a new folder")
    arguments.folder.mkdir(parents=True)
    run = Path(shutil.copytree(arguments.run, arguments.folder / "run"))
    known = commands(run, arguments.folder)
    chosen = {name: known[name] for name in (arguments.only or known) if name in known}
    rng, done = random.Random(arguments.seed), 0
    for name, command in chosen.items():
        if missing := [package for package in command.needs if importlib.util.find_spec(package) is None]:
            print(f"{name}: left out, it needs {', '.join(missing)}")
            continue
        log = arguments.folder / f"{name}.log"
        seconds, killed = run_whole(command, log), 0
        for _ in range(-(-arguments.kills // len(chosen))):
            killed += kill_at(command, rng.uniform(0, seconds), log)
            check(command.folder, ended=False)
            run_whole(command, log)
        print(f"{name}: killed {killed} times within {seconds:.1f} s, whole after each and after running again", flush=True)
        done += killed
    print(f"{done} kills, nothing lost, nothing half-written")
    return 0


if __name__ == "__main__":
    run_cli(main)
