from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.contract import KEY, Contract, ContractError, Input, Metric, Output, Preprocessing, dump_contract, parse_contract
from kerascv_course.core.schema import to_json

CONTRACT = Contract(
    task="classify",
    name="x",
    input=Input("image", "uint8", "NHWC", 32, 32, 3, "RGB"),
    preprocessing=Preprocessing("graph", mean=(0.5,), std=(0.25,)),
    outputs=(Output("logits", "logits", (2,)), Output("probabilities", "probabilities", (2,))),
    labels=("Katze", "犬"),
)


def parse(**changes):
    plain = {**json.loads(to_json(CONTRACT)), **changes}
    return parse_contract({KEY: json.dumps(plain)}, what="x.onnx")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.lists(TEXT, min_size=2, max_size=2),
    st.lists(st.builds(Metric, TEXT, TEXT, st.floats(allow_nan=False, allow_infinity=False))).map(tuple),
)
def test_labels_of_any_characters_survive(labels, metrics):
    contract = dataclasses.replace(CONTRACT, labels=tuple(labels), metrics=metrics)
    assert parse_contract({KEY: dump_contract(contract)}, what="x") == contract


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("half a character \ud800", "b")}, "cannot be written as JSON: .*surrogates"),
        ({"recipe": {"rate": float("nan")}}, "cannot be written as JSON"),
        ({"data": {"images": 3}}, "a contract has texts for name, license, labels, gallery and data"),
        ({"labels": (1, 2)}, "a contract has texts for"),
    ],
)
def test_what_json_cannot_hold_is_refused_when_written(changes, message):
    with pytest.raises(ContractError, match=message):
        dump_contract(dataclasses.replace(CONTRACT, **changes))


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused_by_our_own_error(text):
    with pytest.raises(ContractError):
        parse_contract({KEY: text}, what="x.onnx")


@given(st.data())
def test_a_contract_with_a_field_changed_is_read_or_refused_by_our_own_error(data):
    plain = json.loads(to_json(CONTRACT))
    target = data.draw(st.sampled_from([plain, plain["input"], plain["preprocessing"], plain["outputs"][0]]))
    key = data.draw(st.sampled_from(sorted(target)))
    value = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    target[key] = data.draw(value | st.lists(value, max_size=2) | st.dictionaries(st.text(), value, max_size=2))
    with contextlib.suppress(ContractError):
        parse_contract({KEY: json.dumps(plain)}, what="x.onnx")


def test_a_file_without_a_contract_is_refused():
    with pytest.raises(ContractError, match=r"x\.onnx has no contract .* export the model with export_model"):
        parse_contract({}, what="x.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "has version 1; this reader knows version 2: export the model again"),
        ({"version": 3}, "has version 3; this reader knows version 2: update the reader"),
        ({"labels": ["a"]}, "one label a class"),
        ({"task": "fly"}, "task must be one of 'classify', 'scenes', 'colorize', 'embed', 'rank', 'tensor'"),
        ({"outputs": []}, "one output or more"),
        ({"outputs": [{"name": "logits", "meaning": "logits", "shape": [2]}]}, "an output of probabilities"),
        ({"preprocessing": {"where": "graph", "mean": [0.1, 0.2], "std": [1.0]}}, "1 or 3 values of mean, not 2"),
        ({"preprocessing": {"where": "graph", "mean": [0.1], "std": [0.0]}}, "std above 0"),
        ({"preprocessing": {"where": "caller", "mean": None, "std": None}}, "both mean and std"),
        ({"input": {**dataclasses.asdict(CONTRACT.input), "channels": 1}}, "3 channels for RGB, not 1"),
        ({"input": {**dataclasses.asdict(CONTRACT.input), "height": 0}}, "height and width of 1 to 16384, or neither, not 0"),
        ({"input": {**dataclasses.asdict(CONTRACT.input), "height": 10**9}}, "not 1000000000"),
        ({"preprocessing": {"where": "caller"}}, "preprocessing in the graph for uint8 input"),
        ({"metrics": [{"name": "accuracy", "split": "test", "value": float("inf")}]}, "a number is not finite"),
        ({"parity": {"images": 1, "tolerance": 1e-4, "largest_difference": 0.0, "agreement": 2}}, "agreement of 0 to 1, not 2"),
        ({"task": "embed"}, "an output of embedding for the task embed"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_contracts_that_do_not_hold_together_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        parse(**changes)


def test_a_contract_of_endless_length_is_refused(monkeypatch):
    monkeypatch.setattr("export.contract.MAX_CHARACTERS", 100)
    with pytest.raises(ContractError, match="at most 100 are read"):
        parse()


def test_an_input_of_gigabytes_is_refused():
    with pytest.raises(ContractError, match="an input of at most 16,777,216 pixels, not 16000×16000"):
        parse(input={**dataclasses.asdict(CONTRACT.input), "height": 16_000, "width": 16_000})


def test_another_version_is_told_before_its_fields():
    with pytest.raises(ContractError, match=r"has version 1; .*export the model again"):
        parse(version=1, metrics={"test_accuracy": 0.5})
    with pytest.raises(ContractError, match=r"has version 3; .*update the reader"):
        parse(version=3, news=1)


def test_errors_of_a_contract_are_short():
    with pytest.raises(ContractError) as caught:
        parse(preprocessing={"where": "graph", "mean": [1e308] * 5000, "std": [-1.0] * 5000})
    assert len(str(caught.value)) < 1000
