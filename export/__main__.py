"""Export Keras models to ONNX; validate, inspect and use the files."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from export.commands import COMMANDS
from export.untrusted.guard import run_guarded
from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import run_cli

#: Commands that open untrusted files without TensorFlow; they run in a child process with limits.
GUARDED = ("predict", "inspect", "embed")


def build_parser(command: str | None = None) -> Parser:
    """The parser of all commands, with the options of one of them."""
    parser = Parser(prog="python -m export", description=f"{__doc__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:
            add = getattr(importlib.import_module(f"export.commands.{module}"), f"add_{name.replace('-', '_')}")
            add(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; a first word that is not a command is a run folder or a .keras file."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        misspelled = not Path(words[0]).exists() and difflib.get_close_matches(words[0], COMMANDS, cutoff=0.7)
        words = words if misspelled else ["run", *words]
    arguments = build_parser(words[0] if words else None).parse_args(words)
    code: int | None = arguments.call(arguments)
    return code or 0


def guarded_main(argv: Sequence[str] | None = None) -> int:
    """`main`, in a child process where the command opens untrusted files."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(functools.partial(main, words)) if words[:1] and words[0] in GUARDED else main(words)


if __name__ == "__main__":
    run_cli(guarded_main)
