"""Types of a network's options, and the check of a value against one; standard library only.

A builder says ``dropout: Share = 0.5`` or ``order: Literal["a", "b"] = "a"``; the registry checks what a caller passes before
anything is built, so that a wrong value is told by its rule and not by a failure deep in Keras.
"""

from __future__ import annotations

import difflib
import math
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kerascv_course.core.errors import InputError

__all__ = ["Count", "Kernel", "OddKernel", "Range", "Share", "Weight", "check_option"]


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for ``Annotated[int, Range(1)]``.

    Attributes:
        least: smallest value.
        most: largest value; None: no bound.
        below: `most` itself is not allowed.
        odd: only odd numbers.
    """

    least: float
    most: float | None = None
    below: bool = False
    odd: bool = False

    def __contains__(self, value: float) -> bool:
        above = value >= self.least and not (self.odd and value % 2 == 0)
        return above and (self.most is None or (value < self.most if self.below else value <= self.most))

    def __str__(self) -> str:
        odd = ", odd" if self.odd else ""
        if self.most is None:
            return f"{self.least:g} or more{odd}"
        return f"{self.least:g} to {'below ' if self.below else ''}{self.most:g}{odd}"


#: Whole number of channels, units or layers.
Count = Annotated[int, Range(1)]
#: Share of values, as dropout takes it.
Share = Annotated[float, Range(0, 1, below=True)]
#: Weight of a penalty.
Weight = Annotated[float, Range(0)]
#: Height and width of a window.
Kernel = Annotated[int, Range(2, 7)]
#: Height and width of a window with a centre.
OddKernel = Annotated[int, Range(1, 15, odd=True)]


def check_option(what: str, kind: Any, value: Any) -> None:
    """Check a value against a type.

    Args:
        what: the option, as the message is to call it.
        kind: bool, int, float, str, None, Any, or Literal, Annotated with a `Range`, Union and ``tuple[...]`` of these.
        value: the value received.

    Raises:
        InputError: the value is of another type or out of range; the rule, the value and the nearest right spelling are told.
    """
    if not _fits(kind, value):
        raise InputError(f"{what} is {_rule(kind)}; received {value!r}{_near(kind, value)}")


def _fits(kind: Any, value: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in args)
    if origin is Annotated:
        return _fits(args[0], value) and all(value in bounds for bounds in args[1:] if isinstance(bounds, Range))
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if args[-1] is ...:
            return len(value) > 0 and all(_fits(args[0], part) for part in value)
        return len(value) == len(args) and all(map(_fits, args, value))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _rule(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args)) if len(args) > 1 else repr(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_rule, args))
    if origin is Annotated:
        return " ".join([_rule(args[0]), *(f"({bounds})" for bounds in args[1:] if isinstance(bounds, Range))])
    if origin is tuple:
        parts = "one or more" if args[-1] is ... else str(len(args))
        return f"a tuple of {parts}, each {_rule(args[0])}"
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", None: "None", type(None): "None"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _near(kind: Any, value: Any) -> str:
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    choices = [c for part in parts if get_origin(part) is Literal for c in get_args(part) if isinstance(c, str)]
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f": did you mean {near[0]!r}?" if near else ""
