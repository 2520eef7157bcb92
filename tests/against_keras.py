"""Comparison of files by the native converter with Keras, for several tests."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from export.converter.exporter import build


def disturb(model: keras.Model) -> None:
    """Weights that no layer has by accident: statistics and biases other than those of a new network."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if "variance" in weight.name:
            weight.assign(generator.uniform(0.5, 1.5, values.shape))
        elif values.ndim < 2 and values.dtype.kind == "f":
            weight.assign(values + generator.normal(0, 0.1, values.shape))


def compare(model: keras.Model, *inputs: np.ndarray, opset: int = 17, tolerance: float = 2e-5) -> onnx.ModelProto:
    """Assert that the file gives what Keras gives, relative to the largest value; returns the ONNX model."""
    names = [f"input_{i}" for i in range(len(inputs))]
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    proto = build(model, names, opset)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before, "the model is left as it was"
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, dict(zip(names, inputs, strict=True)))
    try:
        expected = keras.tree.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    except Exception as error:
        if "CPU implementations do not yet support dilation" in str(error):  # of Conv2DTranspose, without oneDNN
            pytest.skip("TensorFlow cannot compute this layer on this processor: TF_ENABLE_ONEDNN_OPTS=1 lets it")
        raise
    for ours, theirs in zip(found, expected, strict=True):
        theirs = keras.ops.convert_to_numpy(theirs)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
    return proto


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
