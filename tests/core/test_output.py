"""What is printed, whatever a file says and whatever the terminal takes."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from kerascv_course.core.output import PrintableStream, printable

#: Clear the screen (C0 and C1), reverse the direction, a line of its own, half a character (a byte of a file name).
HOSTILE = "a\x1b[2Jb\x9b2Jc\u202ed\ne\rf\udcff\x7f"


def test_characters_that_steer_a_terminal_are_escaped_as_in_json() -> None:
    text = printable(HOSTILE)
    assert text == "a\\u001b[2Jb\\u009b2Jc\\u202ed\\ne\\rf\\udcff\\u007f"
    assert json.loads(f'"{text}"') == HOSTILE
    assert printable(HOSTILE, lines=True).count("\n") == 1
    assert printable("Katze 犬 🐈 é") == "Katze 犬 🐈 é"


def test_json_text_means_the_same_afterwards() -> None:
    value = {HOSTILE: [HOSTILE, "犬"]}
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


def test_a_stream_keeps_lines_tabs_and_progress_lines() -> None:
    stream = io.StringIO()
    print(f"\r50 %\x1b[K\ta\n{HOSTILE}", file=PrintableStream(stream))
    assert stream.getvalue() == "\r50 %\x1b[K\ta\na\\u001b[2Jb\\u009b2Jc\\u202ed\ne\rf\\udcff\\u007f\n"


CODE = """
import sys
from kerascv_course.core.errors import InputError, run_cli
def main():
    print("\\xe9 \\u72ac \\x1b[2J")
    if sys.argv[1:] == ["error"]:
        raise InputError("no such image: a\\nerror: all your files are gone\\x9b2J")
    if sys.argv[1:] == ["open"]:
        open("x" * 300)
run_cli(main)
"""


def run(how: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `CODE` by a shell, with these redirections."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {" ".join(words)} {how}', sys.executable, CODE],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="runs a shell")
@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_any_terminal_takes_any_text(environment: dict[str, str]) -> None:
    done = run("", **environment)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.endswith("\\u001b[2J\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses /dev/full")
@pytest.mark.parametrize(
    ("how", "words", "code", "error"),
    [
        (">/dev/full", (), 1, "error: cannot write to standard output: No space left on device\n"),
        (">&-", (), 2, "error: standard output is closed: redirect it to a file, or to /dev/null\n"),
        ("2>&-", (), 0, ""),
        ("<&-", (), 0, ""),
        ("", ("error",), 2, "error: no such image: a\n  error: all your files are gone\\u009b2J\n"),
        ("", ("open",), 2, f"error: {'x' * 200} …: File name too long\n"),
    ],
)
def test_what_cannot_be_written_or_opened_is_one_line(how: str, words: tuple[str, ...], code: int, error: str) -> None:
    done = run(how, *words)
    assert (done.returncode, done.stderr) == (code, error)
