"""``inspect``: what a file promises and holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.commands import Commands


def add_parsers(commands: Commands) -> None:
    """The command ``inspect``."""
    inspect = commands.add_parser("inspect", help="print the contract of an exported file", allow_abbrev=False)
    inspect.add_argument("model", type=Path, help="exported ONNX file")
    inspect.set_defaults(call=inspect_command)


def inspect_command(arguments: argparse.Namespace) -> int:
    """Print the contract as JSON."""
    from export.contract import read_contract
    from kerascv_course.jsondata import to_json

    print(to_json(read_contract(arguments.model)), end="")
    return 0
