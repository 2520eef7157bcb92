"""``schema``: the JSON Schema of the contract."""

from __future__ import annotations

import argparse
import json

from export.commands import Commands


def add_parsers(commands: Commands) -> None:
    """The command ``schema``."""
    schema = commands.add_parser("schema", help="print the JSON Schema of the contract", allow_abbrev=False)
    schema.set_defaults(call=schema_command)


def schema_command(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    from export.contract_schema import contract_schema

    print(json.dumps(contract_schema(), indent=2, ensure_ascii=False))
    return 0
