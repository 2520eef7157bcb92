"""Frozen dataclasses to JSON and back, with every type checked on the way in; standard library only.

Recipes, contracts and reports are plain dataclasses of numbers, strings, booleans, tuples, lists, dicts and other dataclasses. What
comes out of a file may be anybody's, so reading is strict: unknown, missing and mistyped fields are refused and named.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from kerascv_course.core.errors import InputError

__all__ = ["from_json", "from_plain", "parse_json", "to_json"]

T = TypeVar("T")

#: Lists and objects within each other.
MAX_DEPTH = 64


def to_json(value: Any) -> str:
    """JSON text of a dataclass; any language's characters stand as themselves.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(dataclasses.asdict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, what: str, allow_nan: bool = False) -> T:
    """Read a dataclass from JSON text.

    Args:
        kind: the dataclass.
        text: JSON text.
        what: how an error calls the text, such as a file's name.
        allow_nan: read Python's ``NaN`` and ``Infinity``, which JSON does not have.

    Raises:
        InputError: not JSON, or a field is unknown, missing or of the wrong type.
    """
    return from_plain(kind, parse_json(text, what=what, allow_nan=allow_nan), what=what)


def parse_json(text: str | bytes, *, what: str, allow_nan: bool = False) -> Any:
    """Dicts, lists and scalars from JSON text that may be anybody's; the arguments are `from_json`'s.

    Raises:
        InputError: not JSON; a key twice in one object; nested deeper than `MAX_DEPTH`; half a character of UTF-16; or a number that
            is not finite.
    """
    try:
        plain = json.loads(text, object_pairs_hook=_object)
        if problem := _problem(plain, allow_nan):
            raise ValueError(problem)
        return plain
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {_short(error)}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _problem(plain: Any, allow_nan: bool) -> str | None:
    """What is wrong with values that Python's reader takes and no other does."""
    todo = [(plain, 0)]
    while todo:
        value, depth = todo.pop()
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        if isinstance(value, float) and not math.isfinite(value) and not allow_nan:
            return "a number that is not finite"
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "half a character"
        if isinstance(value, dict):
            todo += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            todo += [(item, depth + 1) for item in value]
    return None


def _short(value: Any, limit: int = 120) -> str:
    """A value in an error, which must not be as long as its author likes."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]} …"


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
        raise InputError(f"{path} is one of {', '.join(map(repr, args))}; received {_short(repr(value))}")
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin is list:
        return list(_convert_tuple((args[0], ...), value, path))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, path)
        return {_convert(args[0], k, path): _convert(args[1], v, f"{path}.{_short(k)}") for k, v in value.items()}
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, path)
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{path} is a number below 1.8e308; received {_short(value)}") from None
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), "a whole number", value, path)
        return value
    _expect(isinstance(value, kind), {str: "a text", bool: "true or false"}.get(kind, str(kind)), value, path)
    return value


def _expect(ok: bool, rule: str, value: Any, path: str) -> None:
    if not ok:
        raise InputError(f"{path} is {rule}; received {_short(value, 80)!r}")


def _convert_dataclass(kind: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, path)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise InputError(f"{path} has the unknown field {_short(unknown[0])!r}; known: {', '.join(fields)}")
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
