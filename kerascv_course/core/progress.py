"""What is done of a wait, how much, and the time left of the whole; standard library only.

Everything that takes longer than two seconds shows itself here, on standard error: on a terminal as a bar, which is removed at the end;
in a file as a line every ten seconds at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TextIO, TypeVar

__all__ = ["LogHandler", "Wait", "hide", "track"]

#: Seconds before a wait is shown, between two pictures of the bar, and between two lines in a file.
PATIENCE, REFRESH, LINES = 2.0, 0.2, 10.0

#: Width of the bar in characters.
BAR = 20

#: Part of the whole that the first step may be without spoiling the time left: a longer one is counted like the others.
SMALL = 0.05

ItemT = TypeVar("ItemT")


class Wait:
    """A wait that is shown while the block runs. Within another one it takes that one's place.

    Args:
        what: what is done, such as ``reading images``; may be set again.
        total: number of units of the whole; None: unknown, so that only the time that has passed is shown.
        unit: their name, in the plural.
        done: units that were done before.

    Attributes:
        done: units that are done.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images", done: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._before = done
        self._started = 0.0
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        _display.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _display.remove(self)

    def advance(self, count: int = 1) -> None:
        """So many units more are done."""
        self.to(self.done + count)

    def to(self, done: int) -> None:
        """So many units are done in all."""
        self.done = done
        if self._first is None:
            self._first = (time.perf_counter(), done)

    def waited(self, now: float) -> float:
        """Seconds since the beginning."""
        return now - self._started

    def left(self, now: float) -> float | None:
        """Seconds left of the whole, by the mean pace since the first step, which often compiles something; None: not known yet."""
        if self.total is None or self._first is None:
            return None
        (since, done), whole = self._first, self.total - self._before
        if done - self._before > SMALL * whole:
            since, done = self._started, self._before
        return (now - since) / (self.done - done) * (self.total - self.done) if self.done > done else None

    def describe(self, now: float) -> str:
        """How much is done and the time left, such as ``53 %, 5,300 of 10,000 images, 0:12 left``."""
        if self.total is None:
            return clock(self.waited(now))
        share = self.done / max(self.total, 1)
        left = self.left(now)
        text = f"{int(100 * share):3d} %, {self.done:,} of {self.total:,} {self.unit}"
        return text if left is None else f"{text}, {clock(left)} left"

    def bar(self) -> str:
        """The bar, `BAR` characters; empty where the whole is not known."""
        if self.total is None:
            return ""
        full = min(BAR, int(BAR * self.done / max(self.total, 1)))
        return "█" * full + "░" * (BAR - full)


def clock(seconds: float) -> str:
    """A duration as ``0:05``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def track(items: Iterable[ItemT], what: str, unit: str = "images", total: int | None = None) -> Iterator[ItemT]:
    """Pass on items and show how many are done; `total`: their number, where `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Wait(what, total, unit) as wait:
        for item in items:
            yield item
            wait.advance()


class Display:
    """Draws the innermost of the waits, from a thread of its own, so that a wait within one step is shown as well.

    Args:
        stream: where to; None: standard error as it is at that time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._waits: list[Wait] = []
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._last_line = -LINES
        self._drawn = False
        self.hidden = False

    def add(self, wait: Wait) -> None:
        """A wait begins."""
        with self._lock:
            self._waits.append(wait)
            if self._thread is None and not self.hidden:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(self._stop,), name="progress", daemon=True)
                self._thread.start()

    def remove(self, wait: Wait) -> None:
        """A wait is over."""
        with self._lock:
            self.erase()
            self._waits.remove(wait)
            if not self._waits:
                self._stop.set()
                self._thread = None

    def erase(self) -> None:
        """Remove the bar from the terminal, so that a line can take its place; it is drawn again below."""
        with self._lock:
            if self._drawn:
                self._drawn = False
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    self._write("\r\x1b[K")

    def printing(self) -> threading.RLock:
        """The lock that keeps the bar away while something else is printed."""
        return self._lock

    def draw(self, now: float) -> None:
        """Show the innermost wait, if it has lasted long enough."""
        with self._lock:
            if not self._waits or self._waits[-1].waited(now) < PATIENCE:
                return
            wait, stream = self._waits[-1], self._stream or sys.stderr
            if stream.isatty() and os.environ.get("TERM") != "dumb":
                bar = f"{wait.bar()} " if (stream.encoding or "").lower().startswith("utf") else ""
                text = f"{wait.what}  {bar}{wait.describe(now)}"
                self._write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
                self._drawn = True
            elif now - self._last_line >= LINES:
                self._write(f"{wait.what}: {wait.describe(now).strip()}\n")
                self._last_line = now

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH):
            try:
                self.draw(time.perf_counter())
            except (OSError, ValueError, AttributeError):  # the stream is closed, or there is none: nobody watches
                self.hidden = True
                return

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(text)
        stream.flush()


_display = Display()


def hide() -> None:
    """Show nothing in this process, because another one does."""
    _display.hidden = True


class LogHandler(logging.StreamHandler[TextIO]):
    """Prints log records in place of the bar, which moves down."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        with _display.printing():
            _display.erase()
            super().emit(record)
