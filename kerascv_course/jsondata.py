"""Frozen dataclasses to JSON and back, with every type checked on the way in; standard library only.

Recipes, contracts and reports are plain dataclasses of numbers, strings, booleans, tuples, lists, dicts and other dataclasses. What
comes out of a file may be anybody's, so reading is strict: unknown, missing and mistyped fields are refused and named.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from kerascv_course.errors import InputError

__all__ = ["from_json", "from_plain", "to_json"]

T = TypeVar("T")


def to_json(value: Any) -> str:
    """JSON text of a dataclass; any language's characters stand as themselves.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(dataclasses.asdict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, what: str) -> T:
    """Read a dataclass from JSON text.

    Args:
        kind: the dataclass.
        text: JSON text.
        what: how an error calls the text, such as a file's name.

    Raises:
        InputError: not JSON, or a field is unknown, missing or of the wrong type.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {error}") from None
    return from_plain(kind, plain, what=what)


def from_plain(kind: type[T], plain: Any, *, what: str) -> T:
    """Build a dataclass from dicts, lists and scalars.

    Raises:
        InputError: a field is unknown, missing or of the wrong type; the message gives its path.
    """
    return _convert(kind, plain, what)


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Annotated:
        return _convert(args[0], value, path)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, path)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        raise InputError(f"{path} is one of {', '.join(map(repr, args))}; received {value!r}")
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin is list:
        return list(_convert_tuple((args[0], ...), value, path))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, path)
        return {_convert(args[0], k, path): _convert(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, path)
        return float(value)
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), "a whole number", value, path)
        return value
    _expect(isinstance(value, kind), {str: "a text", bool: "true or false"}.get(kind, str(kind)), value, path)
    return value


def _expect(ok: bool, rule: str, value: Any, path: str) -> None:
    if not ok:
        raise InputError(f"{path} is {rule}; received {str(value)[:80]!r}")


def _convert_dataclass(kind: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, path)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise InputError(f"{path} has the unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{path} lacks the field {missing[0]!r}")
    return kind(**{name: _convert(hints[name], item, f"{path}: {name}") for name, item in value.items()})


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    # A whole number stays one where the union has both: try the exact types first.
    for arg in sorted(args, key=lambda arg: arg is not type(value)):
        try:
            return _convert(arg, value, path)
        except InputError as error:
            last = error
    raise last


def _convert_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list | tuple), "a list", value, path)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(args), f"a list of {len(args)}", value, path)
    return tuple(_convert(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))
