"""What is shown of a wait; the clock is the test's."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading

import pytest

from kerascv_course.core import progress
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.progress import Display, LogHandler, Wait, clock, part_of, say, track


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch):
    """The time, in a list of one; nothing is drawn but by the test."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: time[0])
    return time


@pytest.fixture(params=[io.StringIO, Terminal], ids=["file", "terminal"])
def display(request, monkeypatch, now):
    shown = Display(request.param())
    shown.hidden = True  # no thread
    monkeypatch.setattr(progress, "_display", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def shown(display, now, at):
    """What is written at that time."""
    now[0] = at
    before = len(display.stream.getvalue())
    display.draw(at)
    return display.stream.getvalue()[before:]


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 5, 65, 3723.6)] == ["0:00", "0:05", "1:05", "1:02:04"]


def test_time_left_is_by_the_pace_since_a_slow_first_step(now):
    wait = Wait("training", 1000, "steps")
    wait.__enter__()
    assert wait.left(100.0) is None
    now[0] = 130.0  # compiles
    wait.advance()
    assert wait.left(130.0) is None, "one step tells nothing yet"
    now[0] = 140.0
    wait.to(101)
    assert wait.left(140.0) == pytest.approx(89.9)
    assert wait.describe(140.0) == " 10 %, 101 of 1,000 steps, 1:30 left"
    wait.__exit__(None, None, None)


def test_time_left_of_few_units_counts_the_first(now):
    with Wait("reports", 5, "reports") as wait:
        now[0] = 110.0
        wait.advance()
        assert wait.left(110.0) == pytest.approx(40)


def test_time_left_does_not_count_what_was_done_before(now):
    with Wait("training", 100, "steps", done=50) as wait:
        now[0] = 110.0
        wait.to(60)
        assert wait.left(110.0) == pytest.approx(40)
        assert wait.describe(110.0).startswith(" 60 %, 60 of 100 steps")


def test_nothing_is_shown_of_a_short_wait(display, now):
    with Wait("reading", 10) as wait:
        wait.advance(3)
        assert shown(display, now, 101.9) == ""
    assert display.stream.getvalue() == ""


def test_a_wait_is_shown(display, now):
    with Wait("reading", 10) as wait:
        now[0] = 103.0
        wait.advance(5)
        text = shown(display, now, 103.0)
        again = shown(display, now, 103.2)
        later = shown(display, now, 113.0)
    if isinstance(display.stream, Terminal):
        assert text == "\rreading  " + "█" * 10 + "░" * 10 + "  50 %, 5 of 10 images, 0:03 left\x1b[K"
        assert again and later
        assert display.stream.getvalue().endswith("\r\x1b[K"), "removed at the end"
    else:
        assert text == "reading: 50 %, 5 of 10 images, 0:03 left\n"
        assert again == "", "a line every ten seconds"
        assert later == "reading: 50 %, 5 of 10 images, 0:13 left\n"


def test_on_a_narrow_terminal_the_bar_gives_way_to_the_numbers(display, now, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    with Wait("reading", 10) as wait:
        now[0] = 103.0
        wait.advance(5)
        text = shown(display, now, 103.0).strip("\r\n").removesuffix("\x1b[K")
    assert text.endswith("50 %, 5 of 10 images, 0:03 left")
    if isinstance(display.stream, Terminal):
        assert len(text) <= 49 and "█" in text


def test_a_wait_of_unknown_length_shows_its_time(display, now):
    with Wait("converting"):
        assert "converting" in (text := shown(display, now, 104.0)) and "0:04" in text


def test_the_outermost_and_the_innermost_wait_are_shown(display, now):
    with Wait("outer", 10) as outer:
        outer.note = "epoch 1"
        with Wait("middle", 4):
            assert "inner" not in shown(display, now, 101.0)
            with Wait("inner", 4):
                text = shown(display, now, 105.0)
                assert "0 %, epoch 1; inner: 0 %, 0 of 4 images" in text and "outer" in text and "middle" not in text
        assert "inner" not in shown(display, now, 116.0)


def test_part_of_a_whole_is_counted_there(now):
    with Wait("measuring", 10) as whole:
        with part_of("measuring", 4) as part:
            part.advance(4)
        with part_of("embedding", 6) as other:
            other.advance(6)
        assert (whole.done, other.done, other.total) == (4, 6, 6)


def test_a_whole_that_becomes_known(now):
    with Wait("predicting") as wait:
        now[0] = 130.0
        wait.begin(100, done=40)
        now[0] = 140.0
        wait.to(60)
        assert wait.left(140.0) == pytest.approx(20)
        wait.to(120)  # more than was promised
        assert wait.left(141.0) == 0 and wait.bar() == "█" * 20 and wait.describe(141.0).startswith("100 %")


def test_lines_are_said_in_place_of_the_bar(display, now, capsys):
    with Wait("reading", 10):
        shown(display, now, 103.0)
        say("one page")
        assert capsys.readouterr().out == "one page\n"
        if isinstance(display.stream, Terminal):
            assert display.stream.getvalue().endswith("\r\x1b[K")


def test_an_error_takes_the_place_of_the_bar(display, now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", display.stream)

    def command():
        with Wait("reading", 10):
            shown(display, now, 103.0)
            raise InputError("no such file")

    with pytest.raises(SystemExit):
        run_cli(command)
    text = display.stream.getvalue()
    assert text.endswith("\r\x1b[Kerror: no such file\n" if isinstance(display.stream, Terminal) else "error: no such file\n")


def test_waits_are_shown_where_libraries_are_silenced(tmp_path):
    program = (
        "import os, time; from kerascv_course.core import progress; from kerascv_course.core.environment import quiet_stderr\n"
        "progress.PATIENCE = 0\n"
        "with quiet_stderr(), quiet_stderr(), progress.Wait('converting', 3):\n"
        "    os.write(2, b'library'); progress._display.draw(time.perf_counter())\n"
        "with progress.Wait('reading', 3): progress._display.draw(time.perf_counter() + 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "converting: 0 %, 0 of 3 images\nreading: 0 %, 0 of 3 images\n"


def test_log_lines_take_the_place_of_the_bar(display, now):
    with Wait("reading", 10):
        shown(display, now, 103.0)
        LogHandler(display.stream).emit(logging.LogRecord("x", logging.INFO, "", 0, "epoch 1", None, None))
    text = display.stream.getvalue()
    assert text.endswith("\r\x1b[Kepoch 1\n" if isinstance(display.stream, Terminal) else "epoch 1\n")


def test_track_counts_items(now, monkeypatch):
    seen = []
    monkeypatch.setattr(Wait, "to", lambda self, done: seen.append((done, self.total)) or setattr(self, "done", done))
    assert list(track("abc", "spelling", "letters")) == ["a", "b", "c"]
    assert list(track(iter("ab"), "spelling", total=2)) == ["a", "b"]
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]


def test_a_closed_stream_ends_the_picture_only(now):
    display = Display(io.StringIO())
    display.hidden = True
    with Wait("reading", 10) as wait:
        display.add(wait)
        display.stream.close()
        now[0] = 200.0
        display.hidden = False
        display._run(threading.Event())  # does not raise, and ends
        assert display.hidden
        display.remove(wait)
