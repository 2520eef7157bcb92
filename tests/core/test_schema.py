from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import from_json, from_plain, to_json
from kerascv_course.recipes import all_recipes


@dataclass(frozen=True)
class Part:
    kind: Literal["a", "b"]
    share: float = 0.5


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...] = ()
    size: tuple[int, int] = (1, 2)
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    maybe: int | None = None
    anything: Any = None


scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
wholes = st.builds(
    Whole,
    name=st.text(),
    parts=st.lists(st.builds(Part, st.sampled_from("ab"), st.floats(allow_nan=False, allow_infinity=False))).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    options=st.dictionaries(st.text(), scalars),
    maybe=st.none() | st.integers(),
)


@given(wholes)
def test_what_goes_out_comes_back(whole):
    back = from_json(Whole, to_json(whole), what="it")
    assert back == whole
    assert [type(v) for v in back.options.values()] == [type(v) for v in whole.options.values()]


json_values = st.recursive(
    st.none() | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "x", "anything": ' + "[" * 200_000, "is not valid JSON"),
        ('{"name": "x", "anything": ' + "[" * 100 + "]" * 100 + "}", "nested deeper than 64"),
        ('{"name": "x", "anything": NaN}', "a number that is not finite"),
        ('{"name": "x", "anything": [1e999]}', "a number that is not finite"),
        ('{"name": "x", "anything": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('{"name": "x", "parts": [{"kind": "a", "share": 1' + "0" * 400 + "}]}", "is a number below 1.8e308"),
        ('{"name": "x", "name": "y"}', "a key stands twice"),
        ('{"name": "\\ud83d"}', "half a character"),
        ('{"name": "x", "anything": {"\\ud83d": 1}}', "half a character"),
    ],
)
def test_json_that_only_python_reads_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        from_json(Whole, text, what="it")


def test_nan_is_read_where_it_is_asked_for():
    assert from_json(Whole, '{"name": "x", "anything": NaN}', what="it", allow_nan=True).anything != 0


@pytest.mark.parametrize("key", ["name", "parts", "kind", "x" * 100_000])
def test_errors_are_not_as_long_as_a_stranger_likes(key):
    plain = {"name": "x", key: ["y" * 100_000] * 3}
    if key == "kind":
        plain = {"name": "x", "parts": [{"kind": "y" * 100_000}]}
    with pytest.raises(InputError) as caught:
        from_json(Whole, json.dumps(plain), what="it")
    assert len(str(caught.value)) < 500


@given(json_values)
def test_any_json_is_read_or_refused_by_our_own_error(value):
    with contextlib.suppress(InputError):
        from_plain(Whole, value, what="it")


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda recipe: recipe.name)
def test_recipes_survive(recipe):
    assert from_json(Recipe, to_json(recipe), what="recipe") == recipe


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"name": "x", "nane": 1}, "unknown field 'nane'"),
        ({}, "lacks the field 'name'"),
        ({"name": 3}, "name is a text; received '3'"),
        ({"name": "x", "size": [1]}, "size is a list of 2"),
        ({"name": "x", "size": [1, True]}, r"size\[1\] is a whole number"),
        ({"name": "x", "parts": [{"kind": "c"}]}, r"parts\[0\]: kind is one of 'a', 'b'; received 'c'"),
        ({"name": "x", "parts": [{"kind": "a", "share": "1"}]}, "share is a number"),
        ([], "it is an object"),
    ],
)
def test_wrong_fields_are_named(plain, message):
    with pytest.raises(InputError, match=message):
        from_json(Whole, json.dumps(plain), what="it")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(InputError, match="it is not valid JSON"):
        from_json(Whole, text, what="it")


def test_numbers_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="Out of range float"):
        to_json(Part("a", float("nan")))
