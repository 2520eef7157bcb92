"""Rewrites of exported graphs: fewer nodes, the same numbers to the bit, and nothing else touched."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import kerascv_course as kcc
from export.converter.passes import collapse_nearest_upsampling, fold_crops, optimize_graph


def convert(model: Any, opset: int = 17) -> onnx.ModelProto:
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
    return tf2onnx.convert.from_keras(model, signature, opset=opset)[0]


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def changed(model: onnx.ModelProto, graph_pass: Any) -> onnx.ModelProto:
    """A copy after a pass."""
    result = copy.deepcopy(model)
    graph_pass(result)
    return result


def disturb(model: Any) -> Any:
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            size = layer.gamma.shape
            layer.set_weights([rng.uniform(0.5, 1.5, size), *rng.normal(0, 0.3, (2, *size)), rng.uniform(0.5, 1.5, size)])
    return model


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_pool_upsample_net(opset: int) -> None:
    """Two up-samplings are two Resize nodes, and one Transpose is left, at the output."""
    model = disturb(kcc.create_model("pool_upsample_net", 5, (12, 16, 3), filters=4))
    before = convert(model, opset)
    collapsed, after = changed(before, collapse_nearest_upsampling), optimize_graph(copy.deepcopy(before))

    assert operators(before)["Tile"] == 4
    for graph in (collapsed, after):
        assert operators(graph)["Resize"] == 2
        assert not {"Tile", "Unsqueeze", "Shape", "Slice", "Cast", "Concat"} & set(operators(graph))
    assert operators(after)["Transpose"] == 2  # NHWC in, NHWC out
    assert len(after.graph.node) < len(before.graph.node) - 30
    assert [i.SerializeToString() for i in after.graph.input] == [i.SerializeToString() for i in before.graph.input]
    assert [o.SerializeToString() for o in after.graph.output] == [o.SerializeToString() for o in before.graph.output]

    for batch in (1, 3):
        images = np.random.default_rng(batch).random((batch, 12, 16, 3), dtype=np.float32)
        expected = run(before, images)
        np.testing.assert_array_equal(run(collapsed, images), expected)
        np.testing.assert_array_equal(run(after, images), expected)
        np.testing.assert_allclose(model.predict_on_batch(images), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, (2, 3), (1, 4)])
def test_any_whole_factor_alone(factor: Any) -> None:
    """Without convolutions around it, whatever comes in and goes out in NHWC."""
    import keras

    image = keras.Input((4, 5, 2))
    model = keras.Model(image, keras.layers.UpSampling2D(factor)(image))
    before = convert(model)
    after = changed(before, collapse_nearest_upsampling)
    assert operators(after)["Resize"] == 1 and operators(after)["Tile"] == 0
    images = np.arange(80, dtype=np.float32).reshape(2, 4, 5, 2)
    np.testing.assert_array_equal(run(after, images), run(before, images))
    np.testing.assert_array_equal(run(after, images), model.predict_on_batch(images))


def test_two_in_a_row_and_a_branch() -> None:
    """A result that something else reads as well is kept."""
    import keras

    layers = keras.layers
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, padding="same")(image)
    up = layers.UpSampling2D(2)(x)
    both = layers.Concatenate()([layers.MaxPooling2D(2)(layers.UpSampling2D(2)(up)), layers.ReLU()(up)])
    model = keras.Model(image, layers.Conv2D(2, 3)(both))
    before = convert(model)
    after = optimize_graph(copy.deepcopy(before))
    assert operators(after)["Tile"] == 0 and operators(after)["Resize"] in (2, 3)
    images = np.random.default_rng(0).random((2, 4, 4, 2), dtype=np.float32)
    np.testing.assert_array_equal(run(after, images), run(before, images))


@pytest.mark.parametrize("kernel", range(2, 8))
def test_crops_become_padding(kernel: int) -> None:
    """Odd kernels lose one row more before than after, even ones as many; kernel 2 loses none."""
    model = disturb(kcc.create_model("unet_colorizer", 5, (12, 16, 3), filters=4, kernel=kernel))
    before = convert(model)
    after = changed(before, fold_crops)
    assert operators(before)["Slice"] == (0 if kernel == 2 else 2)
    assert operators(after)["Slice"] == 0
    for node in after.graph.node:
        if node.op_type == "ConvTranspose":
            pads = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "pads")
            assert pads == [(kernel - 1) // 2, (kernel - 1) // 2, (kernel - 2) // 2, (kernel - 2) // 2]
    images = np.random.default_rng(0).random((3, 12, 16, 3), dtype=np.float32)
    np.testing.assert_allclose(run(after, images), run(before, images), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        run(optimize_graph(copy.deepcopy(before)), images), model.predict_on_batch(images), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([0, 1], [4, 4], [2, 3], [1, 1]),  # a fixed end: how much it cuts depends on the size
        ([-3, 0], [2**31 - 1, 2**31 - 1], [2, 3], [1, 1]),
        ([1, 0], [2**31 - 1, 2**31 - 1], [1, 3], [1, 1]),  # channels
        ([1, 0], [2**31 - 1, 2**31 - 1], [2, 3], [2, 1]),
    ],
)
def test_other_slices_stay(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    arguments = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    graph = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["image", "w"], ["up"], strides=[2, 2]),
            helper.make_node("Slice", ["up", *arguments], ["out"]),
        ],
        "slice",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 2, 3, 3])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w"),
            *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in arguments.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert fold_crops(model) == 0 and operators(model)["Slice"] == 1


@pytest.mark.parametrize("repeats", [[1, 1, 2, 2], [2, 1, 1, 1]])
def test_tiling_is_no_upsampling(repeats: list[int]) -> None:
    """Tile alone puts copies side by side (0 1 0 1), not values beside themselves (0 0 1 1)."""
    graph = helper.make_graph(
        [helper.make_node("Tile", ["image", "repeats"], ["tiled"]), helper.make_node("Relu", ["tiled"], ["out"])],
        "tile",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 2, 3, 3])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(repeats, np.int64), "repeats")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert collapse_nearest_upsampling(model) == 0 and operators(model) == {"Tile": 1, "Relu": 1}


def test_nothing_to_do() -> None:
    before = convert(kcc.create_model("lenet5", 3, (16, 16, 1)))
    untouched = before.SerializeToString()
    assert collapse_nearest_upsampling(before) == 0
    assert optimize_graph(before) is before and before.SerializeToString() == untouched


def flattened_network(*, height=4, shared=False, keep=False):
    """Two dense layers, or one, over a flattened convolution."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((height, 5, 3))
    features = keras.layers.Conv2D(2, 2, bias_initializer="normal")(image)
    flat = keras.layers.Flatten()(features)
    outputs = [keras.layers.Dense(4, name="first")(flat)]
    if shared:
        outputs.append(keras.layers.Dense(3, name="second")(flat))
    if keep:
        outputs.append(flat)
    return keras.Model(image, outputs)


@pytest.mark.parametrize(("options", "transposes"), [({}, 0), ({"shared": True}, 1), ({"keep": True}, 1)])
def test_flattening_goes_into_the_dense_kernel(tmp_path, options, transposes):
    from export import check_parity, export_model

    model = flattened_network(**options)
    path = export_model(model, tmp_path / "x.onnx", layout="NCHW", task="tensor")
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert counts["Transpose"] == transposes
    check_parity(model, path, np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), np.uint8), tolerance=1e-6)
