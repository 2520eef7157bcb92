"""Every network of the registry through the export gate and beside tf2onnx, with disturbed statistics: a folding error shows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from small_inputs import SMALL, slim

import kerascv_course as kcc
from export import OnnxModel, check_parity, export_model
from kerascv_course.analysis import compare, summarize

keras = pytest.importorskip("keras")

#: Networks with more parameters go through with an eighth of their channels: what their weight adds is seconds.
LARGE = 5_000_000

#: Transpose nodes left in each graph: one turns the uint8 NHWC input to NCHW, one more restores the order that a flatten of a map
#: larger than 1×1, or an output map, demands. None may grow unnoticed; a network that is missing fails.
TRANSPOSES = {
    "alexnet": 1,
    "conv_transpose_net": 1,
    "densenet121": 1,
    "densenet_bc100": 1,
    "fastnet": 1,
    "googlenet": 1,
    "lenet5": 0,
    "mynet": 1,
    "pool_upsample_net": 1,
    "resnet18": 1,
    "resnet18_cifar": 1,
    "resnet18_reid": 1,
    "resnet34": 1,
    "resnet50": 1,
    "resnet50_cose474": 1,
    "tdt4265_base": 1,
    "tdt4265_model1": 1,
    "tdt4265_model2": 1,
    "unet_colorizer": 1,
    "vgg16": 1,
    "vgg16_cose474": 1,
    "vgg16_wide": 1,
    "vgg19": 1,
}


def disturb(model, rng):
    """Batch-norm statistics and biases away from 0 and 1, outputs kept at a usual scale."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.beta.shape
            scale = [rng.uniform(0.7, 1.2, shape)] if layer.scale else []
            layer.set_weights([*scale, *(rng.normal(0, 0.1, (2, *shape))), rng.uniform(0.8, 1.5, shape)])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))


@pytest.fixture(autouse=True)
def free_memory():
    """What TensorFlow keeps of 22 networks would be gigabytes."""
    yield
    keras.backend.clear_session()


@pytest.mark.parametrize("name", kcc.list_models())
def test_every_network_passes_the_gate_and_equals_the_file_of_tf2onnx_in_no_more_nodes(name, tmp_path):
    shape, options = SMALL[name]
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = kcc.create_model(name, num_classes=5, input_shape=shape, **options)
    if model.count_params() > LARGE:
        model = slim(model)
    disturb(model, rng)
    images = rng.integers(0, 256, (9, *shape), np.uint8)
    path = export_model(model, tmp_path / "x.onnx", preprocessing=((0.5,), (0.25,)))
    scale = max(1.0, float(np.abs(model.predict((images / 255 - 0.5) / 0.25, verbose=0)).max()))
    report = check_parity(model, path, images, batch_sizes=(1, 7), tolerance=1e-5 * scale, reference_images=0)
    assert report.ok
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert compare(summarize(model), summarize(path)).agrees
    print(f"{name}: {sum(operators.values())} nodes, {operators['Transpose']} Transpose")
    assert operators["Transpose"] <= TRANSPOSES[name], "a new Transpose: look where it comes from"
    assert operators["Tile"] == operators["Loop"] == 0
    if name == "pool_upsample_net":
        assert operators["Resize"] == 2
    # tf2onnx, the second opinion
    other = export_model(model, tmp_path / "other.onnx", converter="tf2onnx", preprocessing=((0.5,), (0.25,)))
    ours, theirs = (OnnxModel(file).run_batch(images) for file in (path, other))
    assert ours.keys() == theirs.keys()
    for output, values in ours.items():
        np.testing.assert_allclose(values, theirs[output], rtol=0, atol=1e-5 * scale)
    assert sum(operators.values()) <= len(onnx.load(other).graph.node)
