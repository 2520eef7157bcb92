from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import (
    Fraction,
    OddKernel,
    PositiveInts,
    Range,
    check_fields,
    convert,
    describe,
    from_json,
    parse_words,
    to_json,
    to_words,
)


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
def test_json_round_trip(whole):
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
        ('{"name": "x", "anything": NaN}', "a number is not finite"),
        ('{"name": "x", "anything": [1e999]}', "a number is not finite"),
        ('{"name": "x", "anything": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('{"name": "x", "parts": [{"kind": "a", "share": 1' + "0" * 400 + "}]}", "must be a number below 1.8e308"),
        ('{"name": "x", "name": "y"}', "duplicate key"),
        ('{"name": "\\ud83d"}', "a lone surrogate"),
        ('{"name": "x", "anything": {"\\ud83d": 1}}', "a lone surrogate"),
    ],
)
def test_parse_json_refuses_what_only_python_reads(text, message):
    with pytest.raises(InputError, match=message):
        from_json(Whole, text, what="it")


def test_from_json_allows_nan_on_request():
    assert from_json(Whole, '{"name": "x", "anything": NaN}', what="it", allow_nan=True).anything != 0


@pytest.mark.parametrize("key", ["name", "parts", "kind", "x" * 100_000])
def test_error_messages_stay_short(key):
    plain = {"name": "x", key: ["y" * 100_000] * 3}
    if key == "kind":
        plain = {"name": "x", "parts": [{"kind": "y" * 100_000}]}
    with pytest.raises(InputError) as caught:
        from_json(Whole, json.dumps(plain), what="it")
    assert len(str(caught.value)) < 500


@given(json_values)
def test_convert_accepts_or_refuses_any_json(value):
    with contextlib.suppress(InputError):
        convert(Whole, value, what="it")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"name": "x", "nane": 1}, "unknown field 'nane'; did you mean 'name'"),
        ({}, "is missing the field 'name'"),
        ({"name": 3}, "name must be a string; received 3"),
        ({"name": "x", "size": [1]}, "size must be a list of 2"),
        ({"name": "x", "size": [1, True]}, r"size\[1\] must be an integer"),
        ({"name": "x", "parts": [{"kind": "c"}]}, r"parts\[0\]: kind must be one of 'a', 'b'; received 'c'"),
        ({"name": "x", "parts": [{"kind": "a", "share": "1"}]}, "share must be a number"),
        ([], "it must be an object"),
    ],
)
def test_from_json_names_wrong_fields(plain, message):
    with pytest.raises(InputError, match=message):
        from_json(Whole, json.dumps(plain), what="it")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_from_json_refuses_other_text(text):
    with pytest.raises(InputError, match="it is not valid JSON"):
        from_json(Whole, text, what="it")


def test_to_json_refuses_nan():
    with pytest.raises(ValueError, match="Out of range float"):
        to_json(Part("a", float("nan")))


# --- Python values ---


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (bool, [True], [1, "True", None]),
        (int, [1], [True, 1.0, "1"]),
        (float, [1, 0.5], [True, "1"]),
        (str, ["a"], [1]),
        (Path, [Path("a"), "a"], [1]),
        (Literal["a", 3], ["a", 3], ["b", True, 3.0]),
        (Fraction, [0, 0.5], [1, -0.1, float("nan"), "0.5"]),
        (Annotated[float, Range(above=0)], [0.1], [0, float("inf")]),
        (OddKernel, [1, 15], [2, 17, 0]),
        (int | None, [None, 2], ["2"]),
        (PositiveInts, [(1, 2), [3]], [(), (0,), 3, "12"]),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3)]),
        (dict[str, int | str], [{"a": 1}], [{"a": 1.5}, {1: 1}, []]),
        (Any, [object()], []),
    ],
)
def test_convert_checks_types_and_bounds(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        convert(kind, value, what="it")
    for value in bad:
        with pytest.raises(InputError, match=r"it.* must be .*; received"):
            convert(kind, value, what="it")


def test_convert_keeps_integers_where_floats_are_allowed_too() -> None:
    assert [type(convert(float | int, value, what="it")) for value in (1, 1.0)] == [int, float]
    assert type(convert(float | None, 1, what="it")) is float


@dataclass(frozen=True)
class Checked:
    rate: Annotated[float, Range(above=0)] = 0.1
    mode: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        check_fields(self, "checked")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0}, r"checked.rate must be a number \(above 0\); received 0"),
        ({"mode": "fats"}, "checked.mode must be one of 'fast', 'slow'; received 'fats': did you mean 'fast'"),
    ],
)
def test_check_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Checked(**fields)


# --- Command-line words ---

OptionValue = bool | int | float | str

WORD_KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text()),
    (Path, st.sampled_from([Path("a/b.c"), Path("/x y")])),
    (Literal["a", 3], st.sampled_from(["a", 3])),
    (int | None, st.none() | st.integers()),
    (Path | None, st.none() | st.just(Path("a"))),
    (int | Literal["all"] | None, st.sampled_from([None, 2, "all"])),
    (Fraction, st.floats(0, 0.99)),
    (PositiveInts, st.lists(st.integers(1), min_size=1).map(tuple)),
    (tuple[int, int], st.tuples(st.integers(), st.integers())),
    (tuple[int, int] | None, st.none() | st.tuples(st.integers(), st.integers())),
    (tuple[str, ...], st.lists(st.text()).map(tuple)),
    (dict[str, OptionValue], st.dictionaries(st.text(), st.booleans() | st.integers() | st.sampled_from(["a b", "1x", ""]))),
]


@pytest.mark.parametrize(("kind", "values"), WORD_KINDS, ids=lambda value: str(value)[:40])
def test_words_round_trip(kind: Any, values: st.SearchStrategy[Any]) -> None:
    @given(values)
    def check(value: Any) -> None:
        words = to_words(value)
        back = parse_words(kind, words, what="--x")
        assert back == value and type(back) is type(value)
        nargs = describe(kind).nargs
        assert nargs in ("*", len(words)) or (nargs == "+" and words) or (nargs is None and len(words) == 1)

    check()


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (int, ["1.5"], "--x must be an integer; received '1.5'"),
        (int, [], "--x must be an integer"),
        (int, ["1", "2"], "--x must be an integer; received '1 2'"),
        (float, ["nan"], "--x must be a number"),
        (bool, ["yes"], "--x must be true or false"),
        (Fraction, ["1"], r"--x must be a number \(0 to below 1\); received '1'"),
        (Literal["fast", "slow"], ["fats"], "--x must be one of 'fast', 'slow'; received 'fats': did you mean 'fast'"),
        (int | Literal["all"] | None, ["al"], "--x must be an integer or 'all' or None; .*did you mean 'all'"),
        (tuple[int, int], ["3"], "--x must be a list of 2, each an integer; received '3'"),
        (tuple[int, ...], ["3", "b"], "--x must be an integer; received 'b'"),
        (PositiveInts, [], "--x must be a list of 1 or more"),
        (dict[str, OptionValue], ["a"], "--x must be pairs of NAME and VALUE; received a"),
        (dict[str, int], ["a", "b"], "--x a must be an integer; received 'b'"),
    ],
)
def test_parse_words_refuses(kind: Any, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_words(kind, words, what="--x")


@pytest.mark.parametrize(
    ("kind", "nargs", "metavar", "choices"),
    [
        (int, None, "INT", ()),
        (Path | None, None, "PATH|None", ("None",)),
        (int | Literal["all"] | None, None, "INT|all|None", ("all", "None")),
        (Literal["a", "b"], None, "{a,b}", ("a", "b")),
        (tuple[int, int], 2, "INT", ()),
        (tuple[Literal["a", "b"], ...], "*", "{a,b}", ("a", "b")),
        (dict[str, OptionValue], "*", "NAME VALUE", ()),
    ],
)
def test_describe(kind: Any, nargs: Any, metavar: str, choices: tuple[str, ...]) -> None:
    found = describe(kind)
    assert (found.nargs, found.metavar, found.choices) == (nargs, metavar, choices)
