"""What is done of a wait, how much, and the time left of the whole; standard library only.

Everything that takes longer than two seconds shows itself here, on standard error: on a terminal as a bar, which is removed at the end;
in a file as a line every ten seconds at most. Of waits within each other the outermost is shown, and behind it the innermost.
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

__all__ = ["LogHandler", "Wait", "hide", "part_of", "say", "shown_on", "track"]

#: Seconds before a wait is shown, between two pictures of the bar, and between two lines in a file.
PATIENCE, REFRESH, LINES = 2.0, 0.2, 10.0

#: Width of the bar in characters.
BAR = 20

#: Part of the whole that the first step may be without spoiling the time left: a longer one is counted like the others.
SMALL = 0.05

ItemT = TypeVar("ItemT")


class Wait:
    """A wait that is shown while the block runs.

    Args:
        what: what is done, such as ``reading images``.
        total: number of units of the whole; None: unknown, so that only the time that has passed is shown.
        unit: their name, in the plural.
        done: units that were done before.

    Attributes:
        what: may be set again.
        total: may be set again.
        done: units that are done.
        note: shown in place of the number of units, where they are none that a user counts in.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images", done: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.note = ""
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

    def begin(self, total: int, done: int = 0) -> None:
        """The whole is known now, and what of it was done before; the clock starts."""
        self.total, self.done, self._before = total, done, done
        self._started, self._first = time.perf_counter(), None

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
        return (now - since) / (self.done - done) * max(self.total - self.done, 0) if self.done > done else None

    def describe(self, now: float) -> str:
        """How much is done and the time left, such as ``53 %, 5,300 of 10,000 images, 0:12 left``."""
        if self.total is None:
            return clock(self.waited(now))
        left = self.left(now)
        text = f"{int(100 * self._share()):3d} %, {self.note or f'{self.done:,} of {self.total:,} {self.unit}'}"
        return text if left is None else f"{text}, {clock(left)} left"

    def _share(self) -> float:
        return min(1.0, self.done / max(self.total or 0, 1))

    def bar(self, width: int = BAR) -> str:
        """The bar, so many characters; empty where the whole is not known."""
        if self.total is None:
            return ""
        full = int(width * self._share())
        return "█" * full + "░" * (width - full)


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


@contextlib.contextmanager
def part_of(what: str, total: int | None = None, unit: str = "images") -> Iterator[Wait]:
    """The wait of that name in which this one is, so that it is part of that whole, or one of its own."""
    enclosing = _display.innermost()
    if enclosing is not None and enclosing.what == what:
        yield enclosing
    else:
        with Wait(what, total, unit) as wait:
            yield wait


class Display:
    """Draws the waits, from a thread of its own, so that a wait within one step is shown as well.

    Args:
        stream: where to; None: standard error as it is at that time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream
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

    def innermost(self) -> Wait | None:
        """The wait that began last; None: there is none."""
        with self._lock:
            return self._waits[-1] if self._waits else None

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
        """Show the outermost and the innermost of the waits that have lasted long enough."""
        with self._lock:
            waits = [wait for wait in self._waits if wait.waited(now) >= PATIENCE]
            if not waits:
                return
            wait, stream = waits[0], self.stream or sys.stderr
            inner = f"; {waits[-1].what}: {waits[-1].describe(now).strip()}" if len(waits) > 1 else ""
            if stream.isatty() and os.environ.get("TERM") != "dumb":
                columns, text = shutil.get_terminal_size().columns - 1, f"{wait.describe(now)}{inner}"
                # on a narrow terminal the bar gives way to the numbers
                width = min(BAR, (columns - len(f"{wait.what}   {text}")) // 5 * 5)
                drawable = width > 0 and (stream.encoding or "").lower().startswith("utf")
                bar = f"{wait.bar(width)} " if drawable and wait.total is not None else ""
                self._write(f"\r{f'{wait.what}  {bar}{text}'[:columns]}\x1b[K")
                self._drawn = True
            elif now - self._last_line >= LINES:
                self._write(f"{wait.what}: {wait.describe(now).strip()}{inner}\n")
                self._last_line = now

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH):
            try:
                self.draw(time.perf_counter())
            except (OSError, ValueError, AttributeError):  # the stream is closed, or there is none: nobody watches
                self.hidden = True
                return

    def _write(self, text: str) -> None:
        stream = self.stream or sys.stderr
        stream.write(text)
        stream.flush()


_display = Display()


def hide() -> None:
    """Show nothing in this process, because another one does."""
    _display.hidden = True


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line in place of the bar, which moves down; `stream`: None is standard output."""
    with _display.printing():
        _display.erase()
        print(text, file=stream, flush=True)


@contextlib.contextmanager
def shown_on(descriptor: int) -> Iterator[None]:
    """Context in which waits are shown on a copy of this file, because the descriptor of standard error is taken by others."""
    if _display.stream is not None or not _is_standard_error():
        yield
        return
    with os.fdopen(os.dup(descriptor), "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        with _display.printing():
            _display.stream = stream
        try:
            yield
        finally:
            with _display.printing():
                _display.erase()
                _display.stream = None


def _is_standard_error() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


class LogHandler(logging.StreamHandler[TextIO]):
    """Prints log records in place of the bar, which moves down."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        with _display.printing():
            _display.erase()
            super().emit(record)
