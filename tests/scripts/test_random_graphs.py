"""Random functional models by the native converter: none differs from Keras, none is refused without a name."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.converter.exporter import NotConvertible

SCRIPT = SimpleNamespace(**runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "random_graphs.py")))


@settings(max_examples=100, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_random_graphs(data, seed):
    keras.backend.clear_session()
    model = SCRIPT.random_model(lambda items: data.draw(st.sampled_from(items)), most=5)
    try:
        found = SCRIPT.difference(model, seed)
    except NotConvertible as error:
        assert SCRIPT.names_its_operation(error), error
    else:
        assert found <= SCRIPT.TOLERANCE
