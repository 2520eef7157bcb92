"""The published schema of the contract, against the classes and against real contracts."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import export.contract_schema
from export.contract import KEY, Contract, ContractError, dump_contract, parse_contract
from export.contract_schema import contract_schema
from export.untrusted.screen import read_contract

SCHEMA = contract_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_published_file_is_the_schema_of_the_classes():
    published = Path(export.contract_schema.__file__).with_name("contract.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == SCHEMA, "run: python -m export schema > export/contract.schema.json"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_field_is_described():
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        assert all(prop["description"] for prop in part["properties"].values())


def test_what_a_run_writes_holds_to_the_schema(tiny_run):
    VALIDATOR.validate(json.loads(dump_contract(read_contract(tiny_run / "model.onnx"))))


PLAIN = {
    "task": "classify",
    "name": "x",
    "input": {"name": "image", "dtype": "uint8", "layout": "NHWC", "height": 2, "width": 2, "channels": 3, "color": "RGB"},
    "preprocessing": {"where": "graph"},
    "outputs": [{"name": "probabilities", "meaning": "probabilities", "shape": [2]}],
    "metrics": [{"name": "accuracy", "split": "test", "value": 0.5}],
    "tiling": None,
    "version": 2,
}


@given(st.data())
def test_what_the_schema_refuses_the_reader_refuses(data):
    plain = copy.deepcopy(PLAIN)
    target = data.draw(
        st.sampled_from([plain, plain["input"], plain["preprocessing"], plain["outputs"][0], plain["metrics"][0]])
    )
    value = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
    value = value | st.lists(value, max_size=2) | st.dictionaries(st.text(max_size=3), value, max_size=2)
    if data.draw(st.booleans()):
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(value)
    else:
        del target[data.draw(st.sampled_from(sorted(target)))]
    if not VALIDATOR.is_valid(plain):
        if "version" not in plain:  # may be left out for the reader, which then takes it for the present one
            return
        with pytest.raises(ContractError):
            parse_contract({KEY: json.dumps(plain)}, what="x.onnx")


def test_a_minimal_contract_is_valid_and_read():
    VALIDATOR.validate(PLAIN)
    assert isinstance(parse_contract({KEY: json.dumps(PLAIN)}, what="x.onnx"), Contract)
