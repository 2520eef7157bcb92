"""The JSON Schema of the contract, made from its classes: `contract.schema.json` beside this file is its output.

``python -m export schema`` prints it. Other tools validate a contract with it; here `parse_contract` checks the same and more.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from export.contract import VERSION, Contract

__all__ = ["DIALECT", "contract_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def contract_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the contract's present version."""
    definitions: dict[str, Any] = {}
    schema = _of_class(Contract, definitions)
    schema["properties"]["version"] = {"const": VERSION, "description": schema["properties"]["version"]["description"]}
    schema["required"].append("version")
    return {
        "$schema": DIALECT,
        "title": f"kerascv_course ONNX contract, version {VERSION}",
        **schema,
        "$defs": dict(sorted(definitions.items())),
    }


def _of_class(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    texts = _attribute_texts(kind.__doc__)
    fields = dataclasses.fields(kind)
    properties = {
        field.name: {**_of_type(hints[field.name], definitions), "description": texts[field.name]} for field in fields
    }
    required = [
        field.name for field in fields if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {
        "description": kind.__doc__.split("\n")[0],
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _of_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        definitions[name] = _of_class(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of_type(arg, definitions) for arg in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(args[1], definitions)}
    if origin is tuple and args[1:] == (Ellipsis,):
        return {"type": "array", "items": _of_type(args[0], definitions)}
    if origin is tuple:
        return {
            "type": "array",
            "prefixItems": [_of_type(arg, definitions) for arg in args],
            "items": False,
            "minItems": len(args),
        }
    return {"type": _PLAIN[kind]}


def _attribute_texts(docstring: str) -> dict[str, str]:
    """What the section "Attributes" of a docstring says of each."""
    section = docstring.split("Attributes:\n", 1)[1]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12,}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}
