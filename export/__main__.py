"""Command line of the export layer: Keras models to ONNX files, proved, examined, used.

argparse, for `predict` and `inspect` run where only NumPy, onnxruntime and Pillow are installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from export.commands import benchmark, doctor, inspect, page, predict, predict_many, quantize, run, schema, search
from export.untrusted.guard import run_guarded
from kerascv_course.core.errors import run_cli

PROG = "python -m export"


def build_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of all commands."""
    parser = argparse.ArgumentParser(prog=PROG, description=f"{__doc__}".split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (run, predict, predict_many, inspect, search, schema, doctor, page, quantize, benchmark):
        module.add_parsers(commands)
    return parser, list(commands.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; a first word that is no command is a run folder."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser, commands = build_parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        words = ["run", *words]
    arguments = parser.parse_args(words)
    return arguments.call(arguments)


#: Commands that open files of anybody's and need no TensorFlow.
GUARDED = ("predict", "inspect", "embed")


def guarded_main() -> int:
    """The command line, in a child process where it opens a file of anybody's."""
    return run_guarded(main) if sys.argv[1:2] and sys.argv[1] in GUARDED else main()


if __name__ == "__main__":
    run_cli(guarded_main)
