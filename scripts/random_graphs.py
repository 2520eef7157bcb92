"""Build random functional models of layers and operations, convert them natively, and compare the files with Keras.

    python scripts/random_graphs.py --graphs 1000 --seed 0

prints how many graphs agree, which operations were refused, and the worst difference relative to the largest value; exit code 1 if a
file differs from Keras by more than 1e-4 of that, or if a refusal does not name its operation. Every graph is made from its number
alone: ``--only NUMBER`` builds it again and prints its layers. Operations that are not continuous (rounding, comparing, sorting) have
tests of their own: here the rounding of float32 would decide them.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnxruntime
from keras import layers, ops

from export.converter.exporter import NotConvertible, build

#: Largest difference, relative to the largest value.
TOLERANCE = 1e-4

Choose = Callable[[Sequence[Any]], Any]

ACTIVATIONS = [
    *(
        "relu",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "elu",
        "selu",
        "softplus",
        "softsign",
        "leaky_relu",
        "hard_sigmoid",
        "hard_silu",
    ),
    *("mish", "relu6", "celu", "exponential", "log_sigmoid", "softmax", "log_softmax", "squareplus", "tanh_shrink", "linear"),
]


def _activation(choose: Choose) -> str:
    return str(choose([name for name in ACTIVATIONS if name != "exponential"]))


#: What is made of an image (batch, height, width, channels).
IMAGES: dict[str, Callable[[Any, Choose], Any]] = {
    "conv": lambda x, c: layers.Conv2D(
        c([2, 4, 6]), c([1, 2, 3, (1, 3)]), strides=c([1, 1, 2]), padding=c(["same", "valid"]), activation=_activation(c)
    )(x),
    "dilated": lambda x, c: layers.Conv2D(4, 3, dilation_rate=2, padding=c(["same", "valid"]), use_bias=c([True, False]))(x),
    "groups": lambda x, c: layers.Conv2D(x.shape[-1] * 2, 3, groups=x.shape[-1], padding="same")(x),
    "depthwise": lambda x, c: layers.DepthwiseConv2D(3, strides=c([1, 2]), depth_multiplier=c([1, 2]), padding="same")(x),
    "separable": lambda x, c: layers.SeparableConv2D(c([3, 4]), 3, padding=c(["same", "valid"]), activation=_activation(c))(x),
    "transposed": lambda x, c: layers.Conv2DTranspose(c([2, 3]), c([2, 3]), strides=c([1, 2]), padding=c(["same", "valid"]))(x),
    "max pool": lambda x, c: layers.MaxPooling2D(c([2, 3]), strides=c([1, 2]), padding=c(["same", "valid"]))(x),
    "average pool": lambda x, c: layers.AveragePooling2D(c([2, 3]), strides=c([1, 2]), padding=c(["same", "valid"]))(x),
    "adaptive pool": lambda x, c: layers.AdaptiveAveragePooling2D(c([1, 2, 3]))(x),
    "global average": lambda x, c: layers.GlobalAveragePooling2D(keepdims=c([True, False]))(x),
    "global max": lambda x, c: layers.GlobalMaxPooling2D(keepdims=c([True, False]))(x),
    "upsampling": lambda x, c: layers.UpSampling2D(2, interpolation=c(["nearest", "bilinear"]))(x),
    "resizing": lambda x, c: layers.Resizing(c([3, 5, 8]), c([4, 7]), interpolation=c(["nearest", "bilinear"]))(x),
    "padding": lambda x, c: layers.ZeroPadding2D(((1, c([0, 2])), (0, 1)))(x),
    "cropping": lambda x, c: layers.Cropping2D(((1, 0), (0, 1)))(x),
    "group norm": lambda x, c: layers.GroupNormalization(c([1, -1]))(x),
    "squeeze and excite": lambda x, c: layers.Multiply()(
        [x, layers.Dense(x.shape[-1], activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))]
    ),
    "permute": lambda x, c: layers.Permute(c([(2, 1, 3), (3, 1, 2), (1, 3, 2)]))(x),
    "rows": lambda x, c: layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x),
    "tokens": lambda x, c: layers.Reshape((-1, x.shape[-1]))(x),
    "flatten": lambda x, c: layers.Flatten()(x),
    "slice": lambda x, c: x[:, c([0, 1]) :: c([1, 2]), : c([-1, 3])],
    "flip": lambda x, c: ops.flip(x, axis=c([1, 2, -1])),
    "roll": lambda x, c: ops.roll(x, c([1, -1]), axis=c([1, 2, 3])),
    "reflect": lambda x, c: ops.pad(
        x, ((0, 0), (1, 1), (1, 0), (0, 0)), mode=c(["reflect", "constant"]) if 1 not in x.shape[1:3] else "constant"
    ),
    "reduce": lambda x, c: c([ops.mean, ops.sum, ops.max, ops.std, ops.logsumexp])(x, axis=c([1, 2, 3, (1, 2)]), keepdims=True),
    "squeeze": lambda x, c: c([ops.mean, ops.min, ops.var])(x, axis=c([1, 2, 3])),
    "gram": lambda x, c: ops.einsum("bhwc,bhwd->bcd", x, x),
    "outer": lambda x, c: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "spectral": lambda x, c: layers.SpectralNormalization(layers.Conv2D(3, 2))(x),
}

#: What is made of a sequence (batch, steps, features).
SEQUENCES: dict[str, Callable[[Any, Choose], Any]] = {
    "conv": lambda x, c: layers.Conv1D(
        c([3, 4]), c([1, 2, 3]), padding=c(["same", "valid", "causal"]), activation=_activation(c)
    )(x),
    "separable": lambda x, c: layers.SeparableConv1D(4, 3, padding="same")(x),
    "transposed": lambda x, c: layers.Conv1DTranspose(3, c([2, 3]), strides=c([1, 2]), padding="same")(x),
    "recurrent": lambda x, c: c([layers.LSTM, layers.GRU, layers.SimpleRNN])(
        4, return_sequences=c([True, False]), go_backwards=c([True, False])
    )(x),
    "both ways": lambda x, c: layers.Bidirectional(c([layers.LSTM, layers.GRU])(3, return_sequences=True))(x),
    "masked": lambda x, c: layers.GRU(3, return_sequences=c([True, False]))(layers.Masking(0.5)(x)),
    "cells": lambda x, c: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=c([True, False]))(x),
    "heads": lambda x, c: layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=c([True, False])),
    "grouped heads": lambda x, c: layers.GroupQueryAttention(4, 4, 2)(x, x),
    "attention": lambda x, c: c([layers.Attention, layers.AdditiveAttention])()([x, x]),
    "einsum": lambda x, c: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", activation=_activation(c))(x),
    "pool": lambda x, c: c([layers.MaxPooling1D, layers.AveragePooling1D])(2, padding=c(["same", "valid"]))(x),
    "global": lambda x, c: c([layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D])()(x),
    "distributed": lambda x, c: layers.TimeDistributed(layers.Dense(4, activation=_activation(c)))(x),
    "upsampling": lambda x, c: layers.UpSampling1D(2)(x),
    "permute": lambda x, c: layers.Permute((2, 1))(x),
    "image": lambda x, c: ops.expand_dims(x, 2),
    "flatten": lambda x, c: layers.Flatten()(x),
    "last": lambda x, c: x[:, -1],
    "cumulative": lambda x, c: ops.cumsum(x, axis=1),
    "differences": lambda x, c: ops.diff(x, axis=1),
    "product": lambda x, c: ops.matmul(x, ops.swapaxes(x, 1, 2)),
    "token": lambda x, c: ops.concatenate([ops.zeros((ops.shape(x)[0], 1, x.shape[-1])), x], axis=1),
}

#: What is made of vectors (batch, features).
VECTORS: dict[str, Callable[[Any, Choose], Any]] = {
    "dense": lambda x, c: layers.Dense(c([3, 8]), activation=_activation(c), use_bias=c([True, False]))(x),
    "repeat": lambda x, c: layers.RepeatVector(c([2, 4]))(x),
    "image": lambda x, c: layers.Reshape((1, 1, x.shape[-1]))(x),
    "outer": lambda x, c: ops.expand_dims(x, 1) * ops.expand_dims(x, 2),
}

#: What is made of any tensor.
ANY: dict[str, Callable[[Any, Choose], Any]] = {
    "activation": lambda x, c: layers.Activation(c(ACTIVATIONS))(ops.clip(x, -20, 5)),
    "dense": lambda x, c: layers.Dense(c([2, 5]), activation=_activation(c))(x),
    "batch norm": lambda x, c: layers.BatchNormalization(axis=c([-1, 1]), scale=c([True, False]))(x),
    "layer norm": lambda x, c: layers.LayerNormalization(axis=c([-1] * (x.shape[-1] != 1) + [list(range(1, len(x.shape)))]))(x),
    "rms norm": lambda x, c: layers.RMSNormalization(epsilon=1e-3)(x),
    "rescaling": lambda x, c: layers.Rescaling(c([0.5, 1.0]), c([0.0, 0.25]))(x),
    "prelu": lambda x, c: layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None)(x),
    "relu": lambda x, c: layers.ReLU(c([None, 1.0]), c([0.0, 0.1]), c([0.0, 0.2]))(x),
    "dropout": lambda x, c: c([layers.Dropout, layers.GaussianNoise, layers.AlphaDropout])(0.3)(x),
    "softmax": lambda x, c: ops.softmax(x, axis=c([-1, 1])),
    "arithmetic": lambda x, c: 1.5 - x / (1.0 + ops.square(x)),
    "functions": lambda x, c: c([ops.sin, ops.arctan, ops.erf, ops.absolute, ops.square, ops.arcsinh, ops.sinc])(x),
    "roots": lambda x, c: ops.sqrt(ops.absolute(x) + 0.1) + ops.log1p(ops.absolute(x)),
    "where": lambda x, c: ops.where(ops.greater(x, 0.0), x, x * 0.3),
    "concatenate": lambda x, c: ops.concatenate([x, x * 0.5], axis=c([-1, 1])),
    "stack": lambda x, c: ops.sum(ops.stack([x, x * x, x + 1], axis=1), axis=1),
    "halves": lambda x, c: ops.subtract(*ops.split(ops.concatenate([x, x * 2], axis=-1), 2, axis=-1)),
    "take": lambda x, c: ops.take(x, [0, -1, 0], axis=c([-1, 1])),
    "tile": lambda x, c: ops.repeat(x, 2, axis=c([-1, 1])),
    "moments": lambda x, c: x - ops.moments(x, axes=[-1], keepdims=True)[0],
}


def random_model(choose: Choose, most: int = 8) -> keras.Model:
    """A functional model of 2 to `most` steps; `choose` draws one item of a list."""
    image = choose([True, True, False])
    open_size = image and choose([True] + [False] * 9)
    shape = (None, None, 3) if open_size else (choose([6, 9]), choose([5, 8]), choose([1, 3])) if image else (choose([4, 7]), 3)
    inputs = keras.Input(shape, name="input")
    pool = [inputs]
    for _ in range(choose(range(2, most + 1))):
        x = pool[-1] if choose([True, True, False]) else choose(pool)
        same = [y for y in pool if y.shape == x.shape and None not in x.shape[1:] and y is not x]
        if same and choose([True, False]):
            pool.append(
                choose([layers.Add, layers.Multiply, layers.Average, layers.Maximum, layers.Concatenate])()([x, choose(same)])
            )
            continue
        own = {2: VECTORS, 3: SEQUENCES, 4: IMAGES}.get(len(x.shape), {})
        table = choose([own, own, ANY]) or ANY
        try:
            y = table[choose(sorted(table))](x, choose)
        except Exception:  # Keras refuses it for this shape
            continue
        sizes = [12 if size is None else size for size in y.shape[1:]]
        if 0 not in sizes and np.prod(sizes) <= 6000:
            pool.append(y)
    used = [pool[-1], *(y for y in pool[1:-1] if choose([True, False, False, False]))]
    return keras.Model(inputs, used if len(used) > 1 else used[0])


def disturb(model: keras.Model, generator: np.random.Generator) -> None:
    """Weights that no layer has by accident."""
    for weight in model.weights:
        values = np.asarray(keras.ops.convert_to_numpy(weight))
        if "variance" in weight.name:
            weight.assign(generator.uniform(0.5, 1.5, values.shape))
        elif values.ndim < 2 and values.dtype.kind == "f":
            weight.assign(values + generator.normal(0, 0.1, values.shape))


def difference(model: keras.Model, seed: int) -> float:
    """The largest difference of the model's file from Keras, relative to the largest value.

    Raises:
        NotConvertible: an operation has no converter.
        AssertionError: shapes or dtypes differ.
    """
    generator = np.random.default_rng(seed)
    disturb(model, generator)
    shape = [3, *(11 if size is None else size for size in model.inputs[0].shape[1:])]
    pixels = generator.uniform(-1, 1, shape).astype(np.float32)
    proto = build(model, ["input"], 17)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = keras.tree.flatten(model(pixels, training=False))
    worst = 0.0
    for ours, tensor in zip(session.run(None, {"input": pixels}), expected, strict=True):
        theirs = np.asarray(keras.ops.convert_to_numpy(tensor))
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, (ours.shape, theirs.shape, ours.dtype, theirs.dtype)
        finite = np.isfinite(theirs)
        if theirs.size and finite.any():
            largest = max(float(np.abs(theirs[finite]).max()), 0.1)
            worst = max(worst, float(np.abs(ours[finite] - theirs[finite]).max()) / largest)
    return worst


def names_its_operation(error: NotConvertible) -> bool:
    """Whether a refusal says where, and what."""
    place, _, what = str(error).partition("\n")
    return "(" in place and bool(what)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one graph, which is shown")
    options = parser.parse_args()
    refused: collections.Counter[str] = collections.Counter()
    agree, wrong, worst, start = 0, [], (0.0, -1), time.time()
    numbers = range(options.graphs) if options.only is None else [options.only]
    for number in numbers:
        keras.backend.clear_session()
        model = random_model(random.Random(f"{options.seed}-{number}").choice)
        if options.only is not None:
            model.summary(line_length=120)
        try:
            found = difference(model, number)
        except NotConvertible as error:
            refused[str(error).rpartition("\n")[2]] += 1
            if not names_its_operation(error):
                wrong.append(f"{number}: refused without a name: {error}")
            continue
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {str(error)[:300]}")
            continue
        worst = max(worst, (found, number))
        agree += found <= TOLERANCE
        if found > TOLERANCE:
            wrong.append(f"{number}: differs by {found:.2e} of the largest value")
    print(
        f"{len(numbers)} graphs in {time.time() - start:.0f} s: {agree} agree, {sum(refused.values())} refused, {len(wrong)} wrong"
    )
    print(f"worst difference {worst[0]:.2e} of the largest value, in graph {worst[1]}")
    for reason, count in refused.most_common():
        print(f"refused {count} times: {reason}")
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
