"""Memory of the three ways to differentiate an unrolled run, measured (report 004, 2.1.2)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.claims import Claim
from kerascv_course.theory.hypergradient import Hypergradient, Unrolled, checkpointed, forward_mode, reverse_mode
from kerascv_course.theory.problem import random_problem

__all__ = ["WAYS", "MemoryStudy", "measure_memory"]

PASS = "the run alone"
#: Name of a way to what is measured; the first is the forward pass on its own.
WAYS: dict[str, Callable[[Unrolled], np.ndarray | Hypergradient]] = {
    PASS: Unrolled.end,
    "forward mode": forward_mode,
    "reverse mode, √t checkpoints": checkpointed,
    "reverse mode": reverse_mode,
}


@dataclass(frozen=True, eq=False)
class MemoryStudy:
    """Peaks of memory.

    Attributes:
        steps: the t that were measured.
        columns: d; one vector of weights has 8 d bytes.
        peaks: name of a way to the bytes that it held at most beyond data and start, one for each t.
    """

    steps: tuple[int, ...]
    columns: int
    peaks: dict[str, tuple[int, ...]]

    def vectors(self, way: str) -> np.ndarray:
        """Peaks in vectors of weights, float64 (times,)."""
        return np.array(self.peaks[way]) / (8 * self.columns)

    def claims(self) -> tuple[Claim, ...]:
        """How each way grows from the first t to the last."""
        first, last = self.steps[0], self.steps[-1]
        found = []
        for way in self.peaks:
            growth = self.vectors(way)[-1] - self.vectors(way)[0]
            text = f"{way}: vectors of weights held more at t = {last} than at t = {first}"
            erratum = "E004-07" if way == PASS else ""
            if way == "reverse mode":
                found.append(Claim("2.1.2", text, growth, "=", last - first, 0.05 * (last - first)))
            elif way in (PASS, "forward mode"):
                found.append(Claim("2.1.2", text, growth, "<", 2, erratum=erratum))
            else:
                found.append(Claim("2.1.2", text, growth, "=", 2 * (last**0.5 - first**0.5), 0.2 * last**0.5))
        return tuple(found)


def measure_memory(
    times: Sequence[int] = (16, 64, 144, 256, 400, 625, 900), *, columns: int = 4_000, rows: int = 2, seed: int = 0
) -> MemoryStudy:
    """Peak of what Python and NumPy allocate (by tracemalloc) while each way differentiates a run of t steps.

    Args:
        times: the t, rising.
        columns: d, so large that vectors of weights outweigh everything else.
        rows: n.
        seed: of the data.

    Raises:
        InputError: no t, one below 1, or not rising; fewer than 1,000 columns.
    """
    times = tuple(times)
    if not times or times[0] < 1 or any(a >= b for a, b in pairwise(times)):
        raise InputError(f"the numbers of steps are 1 or more and rise; received {' '.join(map(str, times)) or 'none'}")
    if columns < 1000:
        raise InputError(
            f"memory is measured with 1,000 columns or more, so that the weights outweigh the rest; received {columns}"
        )
    problem = random_problem(rows, columns, seed=seed)
    start = np.zeros(columns)
    rate = 0.3 * problem.largest_rate
    peaks: dict[str, tuple[int, ...]] = {}
    for way, differentiate in WAYS.items():
        peaks[way] = tuple(_peak(differentiate, Unrolled(problem, start, t, rate, 0.01)) for t in times)
    return MemoryStudy(times, columns, peaks)


def _peak(differentiate: Callable[[Unrolled], np.ndarray | Hypergradient], run: Unrolled) -> int:
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        differentiate(run)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if ours:
            tracemalloc.stop()
