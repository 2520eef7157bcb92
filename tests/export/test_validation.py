"""The parity gate's arithmetic, messages and options, on a small network."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from export import OnnxModel, ParityError, check_parity, export_model
from kerascv_course.core.errors import InputError

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5, name="logits")])


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.fixture
def path(network, tmp_path):
    return export_model(network, tmp_path / "x.onnx")


@pytest.fixture
def shift_batches_of_7(monkeypatch):
    """Every class is answered as the next one, in batches of 7 only."""
    run = OnnxModel.run

    def changed(self, images, *, batch_size=64):
        outputs = run(self, images, batch_size=batch_size)
        return {name: np.roll(values, 1, axis=-1) for name, values in outputs.items()} if batch_size == 7 else outputs

    monkeypatch.setattr(OnnxModel, "run", changed)


def test_differences_that_are_not_finite_count_in_the_last_bin():
    from export.validation import _Tally

    tally = _Tally(None)
    tally.add(np.zeros((1, 5)), np.array([[0.0, 5e-4, 2.0, np.nan, np.inf]]), None)
    histogram = tally.row("logits", 1, "optimized").histogram
    assert (histogram[0], histogram[-1], sum(histogram)) == (1, 3, 5)


def test_the_variant_whose_accuracy_is_off_is_named_with_its_accuracy(network, path, noise, shift_batches_of_7):
    answers = network.predict(noise / 255, verbose=0).argmax(axis=1)
    targets = (answers + 1) % 5  # Keras is never right; the shifted answers always are
    with pytest.raises(ParityError) as caught:
        check_parity(network, path, noise, targets=targets)
    expected = "the accuracy is 0 with Keras and 1 with the file (batch size 7, graph optimized)"
    assert expected in caught.value.report.failures


def test_too_few_equal_predictions_are_told_by_their_number(network, path, noise, shift_batches_of_7):
    with pytest.raises(ParityError, match=re.escape("0 of 20 predictions agree (0.0000%); at least 99.99% are required")):
        check_parity(network, path, noise)
    from export.validation import ParityRow, Tolerances, _judge

    row = ParityRow("logits", 1, "optimized", 0.0, 0.0, agreement=9_998 / 10_000)
    (failure,) = _judge(row, Tolerances(1e-4, 0), 0.9999, 10_000)
    assert failure.endswith("9,998 of 10,000 predictions agree (99.9800%); at least 99.99% are required")


def test_the_gate_leaves_the_session_of_the_file_as_it_was(network, path, noise):
    from export.validation import _Gate

    file = OnnxModel(path)
    session = file.session
    assert _Gate(network, file, noise, {}).compare(path).ok
    assert file.session is session


def test_a_wrong_shape_is_told_as_it_should_be(network, path, noise):
    with pytest.raises(InputError, match=re.escape("images (N, 8, 8, 3), one or more; received uint8 (20, 8, 8, 1)")):
        check_parity(network, path, noise[..., :1])


def test_every_option_of_the_gate_is_documented_with_its_default(network, path, noise):
    from export.validation import GATE_DEFAULTS, GateOptions

    assert GATE_DEFAULTS.keys() == GateOptions.__annotations__.keys()
    for name, default in GATE_DEFAULTS.items():
        shown = {1e-4: "1e-4"}.get(default, str(default)) if isinstance(default, float) else str(default)
        assert re.search(rf"^ +{name} +{re.escape(shown)} +\w", inspect.getdoc(check_parity), re.MULTILINE), name
    with pytest.raises(TypeError, match="tolerence"):
        check_parity(network, path, noise, tolerence=1)


def test_an_accuracy_far_from_the_one_measured_before_fails(network, path, noise):
    answers = network.predict(noise / 255, verbose=0).argmax(axis=1)
    assert check_parity(network, path, noise, targets=answers, accuracy=1.0).ok
    assert check_parity(network, path, noise, targets=answers, accuracy=0.95).ok, "one answer of twenty"
    rule = "the accuracy of Keras is 1 and was 0.9 when it was measured: the images, their targets or the weights are not those"
    with pytest.raises(ParityError, match=rule):
        check_parity(network, path, noise, targets=answers, accuracy=0.9)
    many = np.repeat(noise, 100, axis=0)
    assert check_parity(network, path, many, targets=np.repeat(answers, 100), accuracy=0.999, batch_sizes=(64,)).ok
    with pytest.raises(ParityError, match=r"is 1 and was 0\.998 when"):
        check_parity(network, path, many, targets=np.repeat(answers, 100), accuracy=0.998, batch_sizes=(64,))


def test_a_file_that_fails_by_its_accuracy_is_not_written(network, noise, tmp_path):
    from export import export_validated

    answers = network.predict(noise / 255, verbose=0).argmax(axis=1)
    with pytest.raises(ParityError, match="accuracy of Keras is 0 and was 1"):
        export_validated(network, tmp_path / "x.onnx", noise, gate={"targets": (answers + 1) % 5, "accuracy": 1.0})
    assert not (tmp_path / "x.onnx").exists()
