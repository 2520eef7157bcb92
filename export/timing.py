"""Timing in turns: what is compared meets the same spells of the machine. Standard library and NumPy."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

__all__ = ["take_turns"]

Key = TypeVar("Key", bound=Hashable)

#: Calls in a row of one candidate last about so long, seconds; the first of them is not counted: until then the threads of the
#: candidate before may still be spinning, and the caches hold what is its.
TURN = 0.02

#: Most calls in a row.
MAX_CALLS = 20


def take_turns(calls: Mapping[Key, Callable[[], Any]], *, seconds: float = 2.0, min_rounds: int = 7) -> dict[Key, np.ndarray]:
    """Time calls in turns, round after round.

    Args:
        calls: what is compared.
        seconds: how long to go on for each of them, about.
        min_rounds: turns of each, at least.

    Returns:
        Seconds of each call that was counted, float64 (calls,).
    """
    repeats = {}
    for key, call in calls.items():
        call()  # allocates, and traces where there is a graph to trace
        started = time.perf_counter()
        call()
        repeats[key] = int(np.clip(TURN / (time.perf_counter() - started), 1, MAX_CALLS))
    counted: dict[Key, list[float]] = {key: [] for key in calls}
    ends = time.perf_counter() + seconds * len(calls)
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < ends:
        for key, call in calls.items():
            call()
            for _ in range(repeats[key]):
                started = time.perf_counter()
                call()
                counted[key].append(time.perf_counter() - started)
        rounds += 1
    return {key: np.array(times) for key, times in counted.items()}
