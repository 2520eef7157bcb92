"""The native converter: every network of the registry, layers, operations and heads against Keras, on images with disturbed weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from against_keras import compare, disturb, images
from keras import layers, ops

import kerascv_course as kcc
from export.converter.exporter import NotConvertible, build

SMALL_NETWORKS = [
    "conv_transpose_net",
    "fastnet",
    "lenet5",
    "pool_upsample_net",
    "resnet18_cifar",
    "tdt4265_base",
    "unet_colorizer",
]


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_networks_have_no_transpose_but_that_of_the_image(name):
    model = kcc.create_model(name)
    disturb(model)
    proto = compare(model, images(2, *model.input_shape[1:]))
    kinds = [node.op_type for node in proto.graph.node]
    ends = len(model.outputs[0].shape) == 4  # an image leaves as it came
    assert kinds.count("Transpose") <= 1 + ends
    assert "BatchNormalization" not in kinds or name != "resnet18_cifar", "folded into the convolutions"


LAYERS: dict[str, Any] = {
    "conv same strides": layers.Conv2D(5, 3, strides=2, padding="same", activation="relu"),
    "conv even kernel": layers.Conv2D(5, 4, padding="same"),
    "conv groups": layers.Conv2D(6, 3, groups=2),
    "conv dilated": layers.Conv2D(5, 3, dilation_rate=2, padding="same"),
    "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"),
    "separable": layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same", activation="gelu"),
    "transposed valid": layers.Conv2DTranspose(5, 3, strides=2),
    "transposed same": layers.Conv2DTranspose(5, 4, strides=3, padding="same"),
    "transposed short kernel": layers.Conv2DTranspose(5, 2, strides=3, padding="same"),
    "transposed output padding": layers.Conv2DTranspose(5, 3, strides=2, padding="same", output_padding=1),
    "transposed dilated": layers.Conv2DTranspose(5, 3, dilation_rate=2),
    "max pool": layers.MaxPooling2D(3, 2, padding="same"),
    "average pool": layers.AveragePooling2D(3, 2, padding="same"),
    "adaptive pool": layers.AdaptiveAveragePooling2D(3),
    "global": layers.GlobalAveragePooling2D(keepdims=True),
    "group norm": layers.GroupNormalization(2),
    "layer norm": layers.LayerNormalization(),
    "rms norm": layers.RMSNormalization(),
    "unit norm": layers.UnitNormalization(),
    "batch norm": layers.BatchNormalization(),
    "prelu": layers.PReLU(shared_axes=[1, 2]),
    "relu": layers.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.1),
    "softmax": layers.Softmax(axis=(1, 2)),
    "upsampling": layers.UpSampling2D((2, 3)),
    "upsampling bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "upsampling bicubic": layers.UpSampling2D(2, interpolation="bicubic"),
    "upsampling lanczos": layers.UpSampling2D(2, interpolation="lanczos3"),
    "resizing": layers.Resizing(5, 11),
    "resizing nearest": layers.Resizing(5, 11, interpolation="nearest"),
    "resizing antialias": layers.Resizing(3, 4, antialias=True),
    "resizing crop": layers.Resizing(5, 3, crop_to_aspect_ratio=True),
    "resizing pad": layers.Resizing(5, 3, pad_to_aspect_ratio=True),
    "rescaling": layers.Rescaling(2.0, 0.5),
    "normalization": layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1, 2, 3, 4]),
    "center crop": layers.CenterCrop(4, 5),
    "padding": layers.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping": layers.Cropping2D(((1, 2), (0, 3))),
    "permute": layers.Permute((3, 1, 2)),
    "reshape": layers.Reshape((-1, 6)),
    "random": layers.RandomFlip(),
    "dropout": layers.Dropout(0.5),
    "dense": layers.Dense(3),
    "einsum": layers.EinsumDense("abcd,de->abce", (None, None, 5)),
    "exact gelu": layers.Activation("gelu"),
    "mish": layers.Activation("mish"),
    "hard silu": layers.Activation("hard_silu"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case):
    image = keras.Input((9, 7, 4))
    layer = type(LAYERS[case]).from_config(LAYERS[case].get_config())
    first = layers.Conv2D(4, 2)(image)  # so that the layer gets channels first
    model = keras.Model(image, [layers.Activation("tanh")(layer(first)), layer(image)])
    disturb(model)
    compare(model, images(3, 9, 7, 4))


OPERATIONS = {
    "flip": lambda x: ops.flip(x, axis=-1) * 2 + ops.roll(x, 1, axis=1),
    "slices": lambda x: x[:, 1::2, -3:, 0] + x[:, 1:-1:2, 2:5, 1],
    "reduce": lambda x: ops.std(x, axis=(1, 3)) + ops.logsumexp(x, axis=[1, 3]),
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "top k": lambda x: ops.top_k(ops.reshape(x, (-1, 9 * 7 * 4)), 3)[0],
    "where": lambda x: ops.where(x > 0.1, ops.sqrt(ops.absolute(x)), ops.log1p(ops.square(x))),
    "einsum": lambda x: ops.einsum("bhwc,bhwd->bcd", x, x),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "split": lambda x: ops.concatenate(ops.split(x, [1, 3], axis=-1)[::-1], axis=-1),
    "stack": lambda x: ops.stack([x, x + 1], axis=2),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0), (2, 0)), mode="reflect"),
    "integers": lambda x: ops.floor_divide(ops.cast(x * 50, "int32"), 7) % 3,
    "mean": lambda x: x - ops.mean(x, axis=-1, keepdims=True),
    "one hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 4),
    "small": lambda x: ops.log1p(x * 1e-5) * 1e5 + ops.expm1(x * 1e-5) * 1e5,
    "quantiles": lambda x: ops.median(x, axis=1) + ops.quantile(x, 0.3, axis=1),
    "products": lambda x: ops.cumprod(x, axis=2) + ops.prod(x, axis=2, keepdims=True),
    "missing": lambda x: ops.nanmean(ops.where(x > 0, x, float("nan")), axis=2) + ops.nanmax(x, axis=2),
    "gathered": lambda x: ops.take_along_axis(x, ops.argsort(x, axis=2)[:, :, :1], axis=2),
    "scattered": lambda x: ops.scatter_update(x, np.array([[0, 1, 1, 2]]), np.array([5.0], np.float32)),
    "last of all": lambda x: ops.argmax(x) + ops.size(x),
    "sparsemax": lambda x: ops.sparsemax(x, axis=2),
    "repeats": lambda x: ops.repeat(x, [1, 2, 0, 3], axis=-1),
    "maximum": lambda x: ops.maximum(x, 0.2) ** 2.0 / (1.5 - ops.minimum(x, 0.5)),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations(case):
    image = keras.Input((9, 7, 4))
    features = layers.Conv2D(4, 3, padding="same")(image)
    model = keras.Model(image, [OPERATIONS[case](image), OPERATIONS[case](features)])
    disturb(model)
    compare(model, images(3, 9, 7, 4))


class ClassToken(keras.layers.Layer):
    """A layer that nobody told the converter of: it reads the batch size, holds a weight and calls another layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6, activation="relu")

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="ones", name="token")
        self.inner.build((None, None, shape[-1]))

    def call(self, x):
        batch = ops.shape(x)[0]
        x = ops.reshape(x, (batch, -1, x.shape[-1]))
        x = ops.concatenate([ops.broadcast_to(self.token, (batch, 1, x.shape[-1])), x], axis=1)
        return self.inner(x) + ops.zeros((batch, 1, 1))


#: What goes into the weights of the convolution or matrix product before it, as the last step of a model.
FOLDED: dict[str, Any] = {
    "factor": lambda x: layers.Rescaling(0.7)(x),
    "factor and offset": lambda x: layers.Rescaling(0.7, 0.1)(x),
    "batch norm": lambda x: layers.BatchNormalization()(x),
    "offset": lambda x: x + 1.5,
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("case", FOLDED)
def test_what_is_folded_may_be_the_output(case, flat, named):
    image = keras.Input((6, 7, 3), name="image")
    x = layers.Dense(3)(layers.Flatten()(image)) if flat else layers.Conv2D(3, 3)(image)
    x = FOLDED[case](x)
    model = keras.Model(image, {"values": layers.Identity(name="values")(x)} if named else x)
    disturb(model)
    proto = compare(model, images(2, 6, 7, 3))
    onnx.checker.check_model(proto, full_check=True)
    kinds = [node.op_type for node in proto.graph.node]
    assert not {"Mul", "Add", "BatchNormalization"} & set(kinds)


def test_custom_layers_are_traced():
    image = keras.Input((4, 5, 3))
    x = ClassToken(name="tokens")(layers.Conv2D(8, 1)(image))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(image, layers.Dense(2, name="head")(x[:, 0]))
    disturb(model)
    for batch in (1, 2, 5):
        proto = compare(model, images(batch, 4, 5, 3))
    assert {"head/kernel", "head/bias", "attention/query/kernel"} <= {tensor.name for tensor in proto.graph.initializer}


@pytest.mark.parametrize("size", [(33, 48), (70, 91), (301, 280)])
def test_images_of_any_size(size):
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Lambda(lambda x: ops.pad(x, ((0, 0), (0, -ops.shape(x)[1] % 16), (0, 0), (0, 0))))(x)
    x = layers.UpSampling2D(2)(layers.Cropping2D(1)(x))
    model = keras.Model(image, {"whole": x, "corner": x[:, :64, :64]})
    disturb(model)
    found = build(model, ["image"], 17)
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = images(2, *size, 3)
    expected = model(pixels, training=False)
    for output, value in zip(session.get_outputs(), session.run(None, {"image": pixels}), strict=True):
        np.testing.assert_allclose(value, expected[output.name], atol=1e-5)


@pytest.mark.parametrize("opset", [15, 18, 21, 23])
def test_opsets_are_written_directly(opset):
    image = keras.Input((8, 8, 3))
    x = layers.Activation("gelu")(layers.Conv2D(4, 3)(image))
    model = keras.Model(image, layers.Softmax()(layers.GlobalMaxPooling2D()(x)))
    assert compare(model, images(2, 8, 8, 3), opset=opset).opset_import[0].version == opset


def test_padding_with_zeros_stays_zero_before_a_max_pool():
    """onnxruntime would fuse the two and pad with −∞."""
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(image)))
    compare(model, -np.abs(images(2, 6, 6, 2)) - 1)


@pytest.mark.parametrize("opset", [15, 17])
@pytest.mark.parametrize("kind", ["LayerNormalization", "GroupNormalization", "UnitNormalization", "RMSNormalization"])
def test_normalizations_are_exact_where_the_mean_is_far_above_the_deviation(kind, opset):
    """onnxruntime's LayerNormalization alone would be off by 25 here, where the largest value is 2."""
    settings = {"groups": 2} if kind == "GroupNormalization" else {}
    image = keras.Input((6, 6, 8))
    model = keras.Model(image, getattr(layers, kind)(**settings)(image))
    pixels = 1000 + images(2, 6, 6, 8)
    proto = build(model, ["image"], opset)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": pixels})
    x = pixels.astype(np.float64)
    if kind == "LayerNormalization":
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    elif kind == "GroupNormalization":
        parts = x.reshape(2, 36, 2, 4)
        parts = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + 1e-3)
        expected = parts.reshape(x.shape)
    elif kind == "RMSNormalization":
        expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    else:
        expected = x / np.sqrt((x**2).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_mixed_precision_leaves_as_float32():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, dtype="mixed_bfloat16", activation="relu")(image)
    model = keras.Model(image, layers.Dense(2, dtype="float32")(layers.Flatten(dtype="mixed_bfloat16")(x)))
    proto = build(model, ["image"], 17)
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: ops.linalg.inv(x[..., 0]), r"(?s)here \(Inv|Lambda.*Inv of keras.ops has no converter"),
        (lambda x: x + keras.random.normal((1, 8, 8, 3)), "random numbers"),
        (lambda x: ops.sum(x) if ops.shape(x)[0] == 2 else ops.mean(x), "depend on the size of the batch"),
    ],
)
def test_what_cannot_be_converted_is_named(function, match):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Lambda(function, output_shape=(), name="here")(image))
    with pytest.raises(NotConvertible, match=match):
        build(model, ["image"], 17)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_every_16_bit_policy_leaves_as_float32(policy):
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, activation="relu", dtype=policy)(image)
    x = layers.LayerNormalization(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.Reshape((-1, 8), dtype=policy)(layers.MaxPooling2D(3, dtype=policy)(x))
    x = layers.Bidirectional(layers.LSTM(3, dtype=policy), dtype=policy)(layers.MultiHeadAttention(2, 4, dtype=policy)(x, x))
    model = keras.Model(image, layers.Dense(3, activation="softmax", dtype="float32")(x))
    disturb(model)
    proto = compare(model, images(2, 12, 12, 3), tolerance=5e-3)
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_quantized_layers_are_refused_by_name():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="first"), layers.Dense(4)])
    model.quantize("int8")
    with pytest.raises(NotConvertible, match=r"(?s)first \(Dense\).*quantized by Keras"):
        build(model, ["input"], 17)


class Scored(layers.Layer):
    """A layer that returns a score beside its tensor only where it is asked for one, and states its output for one argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, x, scored=False, training=None):
        y = self.dense(x)
        return y, ops.mean(y, axis=-1) if scored else None

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 4)), None


class Scorer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = [Scored(), Scored()]

    def build(self, shape):
        for layer in self.inner:
            layer.dense.build(shape)
            layer.built = True
            shape = (*shape[:-1], 4)

    def call(self, x, training=None):
        for layer in self.inner:
            x, score = layer(x, training=training)
            assert score is None
        return x


def test_layers_inside_others_may_return_more_than_tensors():
    image = keras.Input((5, 3))
    model = keras.Model(image, Scorer()(image))
    disturb(model)
    compare(model, images(2, 5, 3))


def test_a_model_that_declares_open_sizes_and_takes_one_is_told_what_to_do():
    class OneSize(layers.Layer):
        def build(self, shape):
            self.position = self.add_weight((1, 8, 8, 3))

        def call(self, x):
            return x + self.position

        def compute_output_shape(self, shape):
            return shape

    image = keras.Input((None, None, 3))
    model = keras.Model(image, OneSize(name="position")(image))
    with pytest.raises(NotConvertible, match=r"(?s)position.*images of one size only.*keras\.Input\(\(H, W, C\)\)"):
        build(model, ["image"], 17)
    fixed = keras.Input((8, 8, 3))
    compare(keras.Model(fixed, model(fixed)), images(2, 8, 8, 3))
