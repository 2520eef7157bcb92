"""Type-checked values for dataclasses: from JSON, from command-line words and from Python; standard library only.

Recipes, contracts and reports are dataclasses of numbers, strings, booleans, paths, tuples, lists, dicts and other dataclasses. An
annotation says what is allowed, bounds included: ``dropout: Fraction = 0.5``, ``order: Literal["a", "b"]``, ``size: tuple[int, int]``.
Files may come from strangers, so reading is strict: unknown, missing and mistyped fields are refused by name.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from kerascv_course.core.errors import InputError, suggest

__all__ = [
    "Fraction",
    "Kernel",
    "NonNegative",
    "NonNegativeInt",
    "OddKernel",
    "Positive",
    "PositiveInt",
    "PositiveInts",
    "Probability",
    "ProperFraction",
    "Range",
    "WordFormat",
    "check_fields",
    "convert",
    "describe",
    "from_json",
    "parse_json",
    "parse_words",
    "to_json",
    "to_words",
]

T = TypeVar("T")

#: Deepest nesting of lists and objects in a JSON text.
MAX_DEPTH = 64

_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    None: "None",
    types.NoneType: "None",
}


# --- Bounds ---


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for ``Annotated[int, Range(1)]``, or of the length of a tuple; infinities and NaN are outside.

    Attributes:
        least: smallest value; None: no bound.
        most: largest value.
        above: the value is greater than this.
        below: the value is less than this.
        odd: only odd numbers.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    odd: bool = False

    def __contains__(self, value: float | Sequence[Any]) -> bool:
        value = len(value) if isinstance(value, Sequence) else value
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and not (self.odd and value % 2 == 0)
        )

    def __str__(self) -> str:
        low = f"{self.least:g}" if self.least is not None else f"above {self.above:g}" if self.above is not None else ""
        high = f"{self.most:g}" if self.most is not None else f"below {self.below:g}" if self.below is not None else ""
        text = f"{low} to {high}" if low and high else high or (low if self.least is None else f"{low} or more")
        return f"{text}, odd" if self.odd else text


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1)]
#: From 0 to below 1, such as a dropout rate.
Fraction = Annotated[float, Range(0, below=1)]
#: Between 0 and 1, both excluded.
ProperFraction = Annotated[float, Range(above=0, below=1)]
#: One or more, such as the channels of consecutive layers.
PositiveInts = Annotated[tuple[PositiveInt, ...], Range(1)]
#: Height and width of a window, pixels.
Kernel = Annotated[int, Range(2, 7)]
#: Height and width of a window with a center pixel.
OddKernel = Annotated[int, Range(1, 15, odd=True)]


# --- JSON ---


def to_json(value: Any) -> str:
    """JSON text of a dataclass, not escaped to ASCII.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(dataclasses.asdict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, what: str, allow_nan: bool = False) -> T:
    """Read a dataclass from JSON text.

    Args:
        kind: the dataclass.
        text: JSON text.
        what: name of the text in error messages, such as the file's name.
        allow_nan: accept Python's ``NaN`` and ``Infinity``, which are not JSON.

    Raises:
        InputError: not JSON, or a field is unknown, missing or of the wrong type.
    """
    made: T = convert(kind, parse_json(text, what=what, allow_nan=allow_nan), what=what)
    return made


def parse_json(text: str | bytes, *, what: str, allow_nan: bool = False) -> Any:
    """Dicts, lists and scalars from untrusted JSON text; the arguments are those of `from_json`.

    Raises:
        InputError: not JSON, a duplicate key, nesting deeper than `MAX_DEPTH`, a lone surrogate, or a non-finite number.
    """
    try:
        plain = json.loads(text, object_pairs_hook=_unique_keys)
        for value, depth in _walk(plain):
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
            if isinstance(value, float) and not math.isfinite(value) and not allow_nan:
                raise ValueError("a number is not finite")
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise ValueError("a lone surrogate")
        return plain
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {_short(error)}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has a duplicate key")
    return made


def _walk(plain: Any) -> Iterator[tuple[Any, int]]:
    """All keys and values with their depth, without recursion."""
    todo = [(plain, 0)]
    while todo:
        value, depth = todo.pop()
        yield value, depth
        if isinstance(value, dict):
            todo += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            todo += [(item, depth + 1) for item in value]


# --- Python values ---


def check_fields(instance: Any, what: str = "") -> None:
    """Check all fields of a dataclass instance against their annotations; for ``__post_init__``.

    Args:
        instance: the dataclass instance.
        what: prefix of the field names in messages, such as ``"optimizer"``.

    Raises:
        InputError: the first field of the wrong type or out of bounds.
    """
    hints = _hints(instance.__class__)
    for field in dataclasses.fields(instance):
        convert(hints[field.name], getattr(instance, field.name), what=f"{what}.{field.name}" if what else field.name)


def convert(kind: Any, value: Any, *, what: str) -> Any:
    """A value checked against an annotation, and converted where JSON has no such type.

    Lists become tuples, integers become floats, strings become paths, and dicts become dataclasses where the annotation says so.

    Args:
        kind: Any, None, bool, int, float, str, Path, a dataclass, another class, or Literal, Annotated (with `Range`),
            Union, tuple, list and dict of these.
        value: the value received.
        what: name of the value in error messages.

    Raises:
        InputError: wrong type or out of bounds; the message gives the rule, the value and the nearest spelling.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        made = convert(args[0], value, what=what)
        return made if _within(made, args) else _refuse(kind, value, what)
    if origin is Literal:  # True is no 1
        return value if (type(value), value) in zip(map(type, args), args, strict=True) else _refuse(kind, value, what)
    if origin in (Union, types.UnionType):
        return _convert_union(kind, value, what)
    if origin in (tuple, list):
        return origin(_convert_items(kind, value, what))
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            _refuse(kind, value, what)
        return {convert(args[0], k, what=what): convert(args[1], v, what=f"{what}.{_short(k)}") for k, v in value.items()}
    if dataclasses.is_dataclass(kind) and not isinstance(value, typing.cast("type", kind)):
        return _convert_dataclass(kind, value, what)
    return _convert_scalar(kind, value, what)


def _convert_scalar(kind: Any, value: Any, what: str) -> Any:
    if kind is None:
        kind = types.NoneType
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, bool) and kind in (int, float):
        _refuse(kind, value, what)
    if kind is float and isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{what} must be a number below 1.8e308; received {_short(value)}") from None
    return value if isinstance(value, kind) else _refuse(kind, value, what)


def _convert_union(kind: Any, value: Any, what: str) -> Any:
    error = None
    # the exact type first, so that an integer stays one where a float is allowed too
    for part in sorted(get_args(kind), key=lambda part: part is not type(value)):
        try:
            return convert(part, value, what=what)
        except InputError as refused:
            error = refused
    if error and isinstance(value, dict | list):  # the message about what is inside says more
        raise error
    return _refuse(kind, value, what)


def _convert_items(kind: Any, value: Any, what: str) -> list[Any]:
    args = get_args(kind)
    if not isinstance(value, list | tuple):
        _refuse(kind, value, what)
    kinds = [args[0]] * len(value) if _is_variadic(kind) else args
    if len(value) != len(kinds):
        _refuse(kind, value, what)
    return [convert(part, item, what=f"{what}[{i}]") for i, (part, item) in enumerate(zip(kinds, value, strict=True))]


def _convert_dataclass(kind: Any, value: Any, what: str) -> Any:
    if not isinstance(value, dict):
        _refuse(kind, value, what)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if unknown := sorted(set(value) - set(fields)):
        raise InputError(f"{what} has the unknown field {_short(unknown[0])!r}; {suggest(unknown[0], fields)}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{what} is missing the field {name!r}")
    hints = _hints(kind)
    return kind(**{name: convert(hints[name], item, what=f"{what}: {name}") for name, item in value.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _within(value: Any, args: Sequence[Any]) -> bool:
    """Whether a value is within all bounds of an Annotated."""
    return all(value in bounds for bounds in args[1:] if isinstance(bounds, Range))


def _is_variadic(kind: Any) -> bool:
    return get_origin(kind) is list or get_args(kind)[-1] is ...


# --- Command-line words ---


@dataclass(frozen=True)
class WordFormat:
    """How a value is written on a command line.

    Attributes:
        nargs: number of words as argparse counts them: None (one), a number, or ``"*"``, ``"+"``.
        metavar: placeholder of one word, such as ``"INT"``, ``"{adam,sgd}"``, ``"PATH|None"``; for pairs ``"NAME VALUE"``.
        choices: literal words among the allowed ones, for completion.
    """

    nargs: int | Literal["*", "+"] | None
    metavar: str
    choices: tuple[str, ...] = ()


def describe(kind: Any) -> WordFormat:
    """The command-line format of an annotation that `parse_words` accepts."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(args[0])
    if origin is Literal:
        choices = tuple(map(str, args))
        return WordFormat(None, "{" + ",".join(choices) + "}", choices)
    if origin in (Union, types.UnionType):
        parts = [describe(part) for part in args]
        nargs = parts[0].nargs if len({part.nargs for part in parts}) == 1 else "+"
        # a set of one choice reads better without braces
        metavars = [part.choices[0] if len(part.choices) == 1 else part.metavar for part in parts]
        return WordFormat(nargs, "|".join(metavars), tuple(choice for part in parts for choice in part.choices))
    if origin in (tuple, list):
        item = describe(args[0])
        return WordFormat("*" if _is_variadic(kind) else len(args), item.metavar, item.choices)
    if origin in (dict, collections.abc.Mapping):
        return WordFormat("*", "NAME VALUE")
    if kind in (None, types.NoneType):
        return WordFormat(None, "None", ("None",))
    if kind is bool:
        return WordFormat(None, "{True,False}", ("True", "False"))
    return WordFormat(None, {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}[kind])


def parse_words(kind: Any, words: Sequence[str], *, what: str) -> Any:
    """A value from command-line words.

    Args:
        kind: bool, int, float, str, Path, None or Literal; tuples and lists of these; dicts with string keys, written as NAME VALUE
            pairs; unions and Annotated of all of them. A union tries None and literals first and strings last.
        words: the words.
        what: name of the option in error messages.

    Raises:
        InputError: the words do not fit; the message gives the rule, the words and the nearest spelling.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = parse_words(args[0], words, what=what)
        return value if _within(value, args) else _refuse(kind, " ".join(words), what)
    if origin in (Union, types.UnionType):
        for part in sorted(args, key=_parse_order):
            try:
                return parse_words(part, words, what=what)
            except InputError:
                continue
        return _refuse(kind, " ".join(words), what)
    if origin in (tuple, list):
        kinds = [args[0]] * len(words) if _is_variadic(kind) else args
        if len(words) != len(kinds):
            _refuse(kind, " ".join(words), what)
        return origin(parse_words(part, [word], what=what) for part, word in zip(kinds, words, strict=True))
    if origin in (dict, collections.abc.Mapping):
        if len(words) % 2:
            raise InputError(f"{what} must be pairs of NAME and VALUE; received {_short(' '.join(words))}")
        return {
            name: parse_words(args[1], [word], what=f"{what} {name}")
            for name, word in zip(words[::2], words[1::2], strict=True)
        }
    return _parse_word(kind, words[0], what) if len(words) == 1 else _refuse(kind, " ".join(words), what)


def _parse_order(kind: Any) -> int:
    if kind in (None, types.NoneType) or get_origin(kind) is Literal:
        return 0
    return 2 if kind in (str, Path) else 1


def _parse_word(kind: Any, word: str, what: str) -> Any:
    if get_origin(kind) is Literal:
        found = [choice for choice in get_args(kind) if str(choice) == word]
    elif kind in (None, types.NoneType):
        return None if word == "None" else _refuse(None, word, what)
    elif kind is bool:
        found = [value for value in (True, False) if str(value).lower() == word.lower()]
    elif kind in (int, float):
        try:
            found = [value for value in [kind(word)] if math.isfinite(value)]
        except (ValueError, OverflowError):
            found = []
    elif kind in (str, Path):
        found = [kind(word)]
    else:
        raise TypeError(f"{kind} has no command-line format")
    return found[0] if found else _refuse(kind, word, what)


def to_words(value: Any) -> list[str]:
    """The words that `parse_words` turns into the value."""
    if isinstance(value, dict):
        return [str(word) for pair in value.items() for word in pair]
    return list(map(str, value)) if isinstance(value, tuple | list) else [str(value)]


# --- Messages ---


def _refuse(kind: Any, value: Any, what: str) -> typing.NoReturn:
    raise InputError(f"{what} must be {_rule(kind)}; received {_short(repr(value))}{_did_you_mean(kind, value)}")


def _rule(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args)) if len(args) > 1 else repr(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_rule, args))
    if origin is Annotated:
        rule, bounds = _rule(args[0]), " ".join(str(part) for part in args[1:] if isinstance(part, Range))
        listed = get_origin(args[0]) in (tuple, list)
        return rule.replace("a list", f"a list of {bounds}", 1) if listed else f"{rule} ({bounds})" if bounds else rule
    if origin in (tuple, list):
        count = "" if _is_variadic(kind) else f" of {len(args)}"
        return f"a list{count}, each {_rule(args[0])}"
    if origin in (dict, collections.abc.Mapping) or dataclasses.is_dataclass(kind):
        return "an object"
    return _NAMES.get(kind) or str(getattr(kind, "__name__", kind))


def _did_you_mean(kind: Any, value: Any) -> str:
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    choices = [c for part in parts if get_origin(part) is Literal for c in get_args(part) if isinstance(c, str)]
    hint = suggest(value, choices) if isinstance(value, str) else ""
    return f": {hint}" if hint.startswith("did you mean") else ""


def _short(value: Any, limit: int = 120) -> str:
    """A value in an error message, cut to a length that its author cannot choose."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]} …"
