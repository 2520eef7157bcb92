"""The command ``kerascv``: every command of the package by its name, as ``kerascv train lenet5-digits``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import export.commands
from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import run_cli

__all__ = ["COMMANDS", "console_script", "main"]

#: Commands: the module whose `main` takes the remaining words, and a line of help.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("kerascv_course.train", "train a recipe: evaluate, plot, export and validate it"),
    "evaluate": ("kerascv_course.evaluate", "evaluate a run again"),
    "compare": ("kerascv_course.compare", "compare runs: table and curves"),
    "ablate": ("kerascv_course.ablate", "train a recipe with its switches changed one by one"),
    "scenes": ("kerascv_course.scenes", "sweeps and repeats of scene recipes"),
    "look": ("kerascv_course.look", "draw filters and feature maps of a network"),
    "analyze": ("kerascv_course.analyze", "parameters, MACs, memory and receptive field of a network or ONNX file"),
    "calc": ("kerascv_course.calc", "convolution calculators and the reports' answers"),
    "theory": ("kerascv_course.theory.__main__", "report 004's theory, computed"),
    "report": ("kerascv_course.report", "build the course reports as pages"),
    "export": ("export.__main__", "export a run or a .keras file to ONNX and validate the file"),
}

#: Commands of the export layer that need no word in front; ``run`` is ``kerascv export``.
EXPORT_COMMANDS = {name: text for name, (_, text) in export.commands.COMMANDS.items() if name != "run"}


def build_parser() -> Parser:
    """The parser of the first word."""
    parser = Parser(prog="kerascv", description="Train, evaluate, explain and export the networks of five vision courses.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    for name, text in EXPORT_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("completion", help="print a completion script for bash, zsh or tcsh", add_help=False)
    return parser


def _full_parser() -> Parser:
    """The parser with every command's own options, for shell completion."""
    parser = Parser(prog="kerascv")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    children = {name: importlib.import_module(module).build_parser() for name, (module, _) in COMMANDS.items()}
    for name in EXPORT_COMMANDS:
        every = importlib.import_module("export.__main__").build_parser(name)
        children[name] = next(a for a in every._actions if isinstance(a, argparse._SubParsersAction)).choices[name]
    helps = {**{name: text for name, (_, text) in COMMANDS.items()}, **EXPORT_COMMANDS}
    for name, child in children.items():
        commands.add_parser(name, help=helps[name], parents=[child], add_help=False, conflict_handler="resolve")
    return parser


def _print_completion(words: Sequence[str]) -> int:
    parser = Parser(prog="kerascv completion", description="Print a completion script (needs the package shtab).")
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shell = parser.parse_args(words).shell
    import shtab  # an extra package, for this command alone

    print(shtab.complete(_full_parser(), shell))
    return 0


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a command by its name; the words after it are the command's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help()
        return 2
    if words[0] == "completion":
        return _print_completion(words[1:])
    command = parser.parse_known_args(words[:1])[0].command
    if command is None:
        parser.error(f"a command comes first; received {words[0]!r}")
    module, rest = COMMANDS.get(command, ("export.__main__", ""))[0], words[1:]
    if command in EXPORT_COMMANDS:
        rest = words
    imported = importlib.import_module(module)
    # commands of the export layer that open untrusted files run in a child process with limits
    code: int | None = getattr(imported, "guarded_main", imported.main)(rest)
    return code


def console_script() -> None:
    """Entry point of the console script."""
    run_cli(main)
