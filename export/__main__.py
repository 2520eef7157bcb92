"""Export Keras models to ONNX; validate, inspect and use the files."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from export.commands import COMMANDS
from export.untrusted.guard import Command, add_trust, guarding
from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, nearest_names, run_cli


def build_parser(command: str | None = None) -> Parser:
    """The parser of all commands, with the options of one of them."""
    parser = Parser(prog="python -m export", description=f"{__doc__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:
            add = getattr(importlib.import_module(f"export.commands.{module}"), f"add_{name.replace('-', '_')}")
            add(subparser)
            if hasattr(subparser.get_default("call"), "guarded"):
                add_trust(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; a first word that is not a command is a run folder or a .keras file, and so is a single word that names a run
    folder. Without words the commands are listed.

    Raises:
        InputError: the first word is neither a command nor a path that exists.
    """
    return _call(argv, lambda command: command)


def guarded_main(argv: Sequence[str] | None = None) -> int:
    """`main`, in a child process where the command opens untrusted files (`export.untrusted.guard.guarded`)."""
    return _call(argv, guarding)


def _call(argv: Sequence[str] | None, wrap: Callable[[Command], Command]) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        build_parser().print_help()
        return 2
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        if not Path(words[0]).exists():
            raise InputError(f"no such file or folder: {words[0]}{_suggest(words[0])}")
        words = ["run", *words]
    elif len(words) == 1 and (Path(words[0]) / "recipe.json").is_file():  # a run that is called like a command
        words = ["run", *words]
    arguments: argparse.Namespace = build_parser(words[0]).parse_args(words)
    return wrap(arguments.call)(arguments) or 0


def _suggest(word: str) -> str:
    """The commands that a word may mean; none for one that can only be a path."""
    if len(Path(word).parts) > 1 or Path(word).suffix:
        return ""
    near = nearest_names(word, COMMANDS)
    return f"; did you mean the command {' or '.join(near)}?" if near else f"; commands: {', '.join(COMMANDS)}"


if __name__ == "__main__":
    run_cli(guarded_main)
