"""Command lines made from dataclasses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from kerascv_course.cli import COMMANDS, EXPORT_COMMANDS
from kerascv_course.core.cli import Parser, add_options, apply_options, field_docs
from kerascv_course.core.errors import InputError


@dataclass(frozen=True)
class Inner:
    """Inner settings."""

    rate: float = 0.1
    """Rate of change."""
    verbose: bool = True
    """Print more."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise InputError(f"inner.rate must be above 0; received {self.rate}")


@dataclass(frozen=True)
class Base:
    """Settings."""

    name: str = "a"
    """Name."""
    kind: Literal["x", "y"] = "x"
    """Kind of thing,
    on two lines."""


@dataclass(frozen=True)
class Outer(Base):
    """More settings."""

    size: tuple[int, int] = (1, 2)
    """Height and width."""
    names: tuple[str, ...] = ()
    """Any names."""
    folder: Path | None = None
    """A folder; 50 % of them exist."""
    fast: bool = False
    """Be fast."""
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Pairs."""
    inner: Inner = field(default_factory=Inner)
    """Inner."""


def parse(*words: str, default: Outer = Outer()) -> Outer:
    parser = Parser(prog="test")
    add_options(parser, default)
    return apply_options(default, parser.parse_args(words))


def test_field_docs_include_those_of_bases():
    assert field_docs(Outer) == {
        "name": "Name.", "kind": "Kind of thing, on two lines.", "size": "Height and width.", "names": "Any names.",
        "folder": "A folder; 50 % of them exist.", "fast": "Be fast.", "options": "Pairs.", "inner": "Inner.",
    }  # fmt: skip


def test_without_options_the_default_comes_back():
    default = Outer(name="b", inner=Inner(0.5))
    assert parse(default=default) is default


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--kind", "y", "--size", "3", "4"], Outer(kind="y", size=(3, 4))),
        (["--names", "cat", "dog", "--folder", "data"], Outer(names=("cat", "dog"), folder=Path("data"))),
        (["--fast"], Outer(fast=True)),
        (["--inner.no-verbose", "--inner.rate", "2"], Outer(inner=Inner(2.0, False))),
        (["--options", "dropout", "0.5", "norm", "True"], Outer(options={"dropout": 0.5, "norm": True})),
        (["--name=-1"], Outer(name="-1")),
    ],
)  # fmt: skip
def test_options_by_type(words, expected):
    assert parse(*words) == expected


def test_a_flag_can_be_given_in_both_forms():
    assert parse("--no-fast", default=Outer(fast=True)) == Outer()
    assert parse("--fast", default=Outer(fast=True)) == Outer(fast=True)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--size", "3", "x"], "--size"),
        (["--inner.rate", "many"], "--inner.rate must be .*number; received"),
        (["--inner.rate", "-1"], "inner.rate must be above 0; received -1"),
        (["--kind", "z"], "--kind must be one of"),
        (["--options", "dropout"], "pairs of NAME and VALUE"),
    ],
)
def test_wrong_values_name_the_option_and_the_rule(words, match):
    with pytest.raises(InputError, match=match):
        parse(*words)


def test_a_mistyped_option_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--iner.rate", "1")
    assert stop.value.code == 2
    assert "did you mean --inner.rate" in capsys.readouterr().err


def test_skipped_fields_are_no_options():
    parser = Parser(prog="test")
    add_options(parser, Outer(), skip=("name",))
    assert "--name NAME" not in parser.format_help() and "--names" in parser.format_help()


def test_brief_help_has_a_line_for_each_option():
    parser = Parser(prog="test", usage="test [options]")
    add_options(parser, Outer(), brief=True)
    lines = parser.format_help().splitlines()
    assert len(lines) < 25 and any("50 % of them" in line for line in lines)
    assert any("--inner.no-verbose" in line and "Do not print more" in line for line in lines)


def kerascv(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'kerascv'; from kerascv_course.cli import console_script; console_script()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


def test_kerascv_lists_every_command():
    done = kerascv("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in [*COMMANDS, *EXPORT_COMMANDS])


def test_kerascv_without_a_command_shows_the_help_and_ends_with_2():
    done = kerascv()
    assert done.returncode == 2 and "commands:" in done.stdout


def test_kerascv_answers_a_mistyped_command_with_the_nearest():
    done = kerascv("trian")
    assert done.returncode == 2 and "did you mean train?" in done.stderr and "Traceback" not in done.stderr


def test_kerascv_version():
    done = kerascv("--version")
    assert done.returncode == 0 and done.stdout.startswith("kerascv_course 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_kerascv_prints_a_completion_script(shell):
    pytest.importorskip("shtab", reason="the extra [completion] is not installed")
    done = kerascv("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "learning-rate" in done.stdout and "predict-many" in done.stdout


def test_usage_names_the_console_script_that_was_called():
    done = kerascv("evaluate", "--help")
    assert done.returncode == 0 and "usage: kerascv evaluate " in done.stdout
    done = kerascv("train", "--help")
    assert "usage: kerascv train [RECIPE] [options]" in done.stdout and "--help-all shows each option in full" in done.stdout


def test_python_m_kerascv_course_is_the_console_script():
    done = subprocess.run([sys.executable, "-m", "kerascv_course", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("kerascv_course 0.")


def test_hidden_options_are_not_suggested(capsys):
    with pytest.raises(SystemExit):
        parse("--fats")
    assert "--no-fast" not in capsys.readouterr().err
