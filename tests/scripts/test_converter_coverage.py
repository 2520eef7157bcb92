"""The table of the native converter's coverage has every layer and every function of the installed Keras, each once."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "converter_coverage.py"


@pytest.fixture
def script(monkeypatch):
    """The script's functions."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_the_table_has_every_name_once(script):
    text = script.PAGE.read_text(encoding="utf-8").partition(script.BEGIN)[2].partition(script.END)[0]
    of_layers, of_functions = text.split("**keras.ops**")
    for part, names in ((of_layers, script.layer_names()), (of_functions, script.function_names())):
        found = [
            name
            for line in part.splitlines()
            if line.startswith(("Native: ", "Traced: ", "| `"))
            for name in re.findall(r"`([\w.]+)`", line.split(" | ")[0])
        ]
        assert sorted(found) == names


@pytest.mark.parametrize(("name", "kind"), [("Conv2D", "native"), ("Flatten", "traced"), ("Hashing", "refused")])
def test_layers(script, name, kind):
    assert script.of_layer(name)[0] == kind


@pytest.mark.parametrize(("name", "kind"), [("median", "native"), ("arange", "native"), ("svd", "refused")])
def test_functions(script, name, kind):
    assert script.of_function(name)[0] == kind
