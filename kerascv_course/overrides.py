"""Recipes for tyro, until the command line is made from `kerascv_course.config` without it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from tyro.conf import Fixed
from tyro.constructors import PrimitiveConstructorSpec

from kerascv_course.config import OptionValue, Recipe, TrainedRecipe, parse_options, with_base_options

__all__ = ["for_tyro", "from_tyro"]


class _Given(dict[str, OptionValue]):
    """Options that the command line names."""


def _given(words: Sequence[str]) -> _Given:
    return _Given(parse_options(words))


_PAIRS = PrimitiveConstructorSpec[Mapping[str, OptionValue]](
    nargs="*",
    metavar="NAME VALUE …",
    instance_from_str=_given,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda options: [str(word) for pair in options.items() for word in pair],
)


def for_tyro(recipe: Recipe) -> Any:
    """The recipe as an instance of a class with tyro's markers."""
    return _marked(type(recipe))(**_values(recipe))


@functools.cache
def _marked(kind: type[Recipe]) -> Any:
    annotations: list[Any] = [(name, Fixed[str]) for name in kind.fixed]
    if issubclass(kind, TrainedRecipe):
        annotations.append(("model_options", Annotated[dict[str, OptionValue], _PAIRS]))
    return dataclasses.make_dataclass(kind.__name__, annotations, bases=(kind,), frozen=True, kw_only=True)


def from_tyro(parsed: Any, base: Recipe) -> Recipe:
    """The recipe that was parsed, with `base`'s options of the network where the command line names none."""
    given = getattr(parsed, "model_options", {})
    recipe = type(base)(**_values(parsed))
    return with_base_options(recipe, base, given if isinstance(given, _Given) else {})


def _values(recipe: Recipe) -> dict[str, Any]:
    return {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe) if field.init}
