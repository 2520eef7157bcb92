"""Predict images with one `export.OnnxModel` for as long as a service does, and watch its memory.

    python scripts/long_service.py RUN/model.onnx [--predictions 100000] [--threads 4] [--isolated]

Files of several formats and sizes, arrays and damaged files come in turn. The resident memory is printed after every tenth part; exit
code 1 if it grew by more than `MAX_GROWTH` after the first tenth. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from export.predictor import OnnxModel
from kerascv_course.core.errors import CourseError, InputError, run_cli

#: Most bytes that the memory may grow by: what allocators keep, and less than 100 bytes a prediction of 100,000.
MAX_GROWTH = 8 * 2**20

#: Sizes of the images, height × width.
SIZES = ((16, 16), (32, 48), (64, 64), (200, 100), (480, 640))


def resident(process: str = "self") -> int:
    """Resident memory of a process, bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * mmap.PAGESIZE


def requests(folder: Path) -> list[Path | np.ndarray]:
    """What is asked, in turns: files in `folder`, arrays, and files that are cut short."""
    rng, made = np.random.default_rng(0), []
    for size, suffix in itertools.product(SIZES, ("png", "jpg", "bmp", "webp")):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        path, cut = folder / f"{size[0]}x{size[1]}.{suffix}", folder / f"cut{size[0]}x{size[1]}.{suffix}"
        Image.fromarray(pixels).save(path)
        cut.write_bytes(path.read_bytes()[:100])
        made += [path, pixels, cut]
    return made


def serve(model: OnnxModel, asked: list[Path | np.ndarray], count: int, threads: int) -> int:
    """Predict `count` times; how often an image was answered."""

    def predict(number: int) -> bool:
        try:
            model.predict(asked[number % len(asked)])
        except CourseError:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(predict, range(count)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="exported classifier")
    parser.add_argument("--predictions", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--threads", type=int, default=4, help="default: 4")
    parser.add_argument("--isolated", action="store_true", help="in a process of its own, whose memory counts as well")
    arguments = parser.parse_args()
    if arguments.predictions < 10:
        raise InputError(f"--predictions must be 10 or more; received {arguments.predictions}")
    model = OnnxModel(arguments.model, isolated=arguments.isolated)
    started, sizes = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        asked = requests(Path(folder))
        for part in range(1, 11):
            answered = serve(model, asked, arguments.predictions // 10, arguments.threads)
            children = Path("/proc/self/task").glob("*/children")
            pids = ["self", *(pid for path in children for pid in path.read_text().split())]
            sizes.append(sum(map(resident, pids)))
            print(
                f"{part * arguments.predictions // 10:,} predictions, {time.perf_counter() - started:.0f} s: "
                f"{sizes[-1] / 2**20:.1f} MiB, {answered:,} of the last {arguments.predictions // 10:,} answered",
                flush=True,
            )
    growth = max(sizes) - sizes[0]
    print(f"grown by {growth / 2**20:.1f} MiB at most after the first tenth (allowed: {MAX_GROWTH / 2**20:g})")
    return 0 if growth <= MAX_GROWTH else 1


if __name__ == "__main__":
    run_cli(main)
