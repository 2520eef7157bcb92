"""Timing in turns: what is compared meets the same spells of the machine. Standard library and NumPy."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = ["take_turns", "time_calls"]

Key = TypeVar("Key", bound=Hashable)

#: Calls in a row of one candidate last about so long, seconds: in shorter turns, two threads that the system has woken on one core
#: stay there, and a call takes twice as long in one turn as in the next.
TURN = 0.2

#: Most calls in a row.
MAX_CALLS = 1000


def time_calls(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` calls, after one and a quarter of them that are not counted.

    Until then the threads of whoever ran before may still be spinning, the caches hold what is theirs, and the system has not yet
    found a core for each thread.
    """
    for _ in range(1 + count // 4):
        call()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def take_turns(
    turns: Mapping[Key, Callable[[int], Sequence[float]]], *, seconds: float = 2.0, min_rounds: int = 5
) -> dict[Key, np.ndarray]:
    """Time candidates in turns, round after round.

    Args:
        turns: what is compared: makes so many calls in a row and gives the seconds of each, as `time_calls` does.
        seconds: how long to go on for each of them, about.
        min_rounds: turns of each, at least.

    Returns:
        Seconds of each call, float64 (calls,).
    """
    # the first turn allocates, and traces where there is a graph to trace
    repeats = {key: int(np.clip(TURN / min(turn(2)), 1, MAX_CALLS)) for key, turn in turns.items()}
    counted: dict[Key, list[float]] = {key: [] for key in turns}
    ends = time.perf_counter() + seconds * len(turns)
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < ends:
        for key, turn in turns.items():
            counted[key] += turn(repeats[key])
        rounds += 1
    return {key: np.array(times) for key, times in counted.items()}
