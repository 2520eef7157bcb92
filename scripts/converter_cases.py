"""Small models of every layer and every function of Keras, for `scripts/converter_coverage.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

IMAGE, SEQUENCE, VECTOR = (8, 8, 4), (6, 4), (4,)

#: Arguments of layers that need some.
ARGUMENTS: dict[str, Any] = {
    "Activation": ("relu",),
    "ActivityRegularization": (0.1,),
    "AlphaDropout": (0.3,),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"), (2,)),
    "CategoryEncoding": (5,),
    "CenterCrop": (5, 4),
    "Dense": (5,),
    "DepthwiseConv1D": (3,),
    "DepthwiseConv2D": (3,),
    "Discretization": ([-0.5, 0.0, 0.5],),
    "Dot": (2,),
    "Dropout": (0.3,),
    "EinsumDense": ("abc,cd->abd", (None, 5)),
    "Embedding": (5, 4),
    "GaussianDropout": (0.3,),
    "GaussianNoise": (0.3,),
    "GroupNormalization": (2,),
    "GroupQueryAttention": (4, 4, 2),
    "HashedCrossing": (5,),
    "Hashing": (5,),
    "MaxNumBoundingBoxes": (5,),
    "MultiHeadAttention": (2, 4),
    "Permute": ((2, 1),),
    "RandomBrightness": (0.2,),
    "RandomColorDegeneration": (0.2,),
    "RandomContrast": (0.2,),
    "RandomCrop": (5, 4),
    "RandomHue": (0.2,),
    "RandomPosterization": (4,),
    "RandomRotation": (0.2,),
    "RandomSaturation": (0.2,),
    "RandomSharpness": (0.2,),
    "RandomShear": (0.2,),
    "RandomTranslation": (0.2, 0.2),
    "RandomZoom": (0.2,),
    "RepeatVector": (3,),
    "Rescaling": (0.5,),
    "Reshape": ((-1,),),
    "Resizing": (5, 4),
    "ReversibleEmbedding": (5, 4),
    "SpatialDropout1D": (0.3,),
    "SpatialDropout2D": (0.3,),
    "SpatialDropout3D": (0.3,),
}
KEYWORDS: dict[str, dict[str, Any]] = {
    "IntegerLookup": {"vocabulary": [1, 2, 3]},
    "Normalization": {"mean": 0.1, "variance": 2.0},
    "STFTSpectrogram": {"mode": "log", "frame_length": 16, "frame_step": 8, "fft_length": 16},
    "MelSpectrogram": {"fft_length": 16, "sequence_stride": 8, "num_mel_bins": 4, "sampling_rate": 400, "max_freq": 200},
}
SPECIAL: dict[str, Callable[[], keras.Layer]] = {
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(3)),
    "Lambda": lambda: layers.Lambda(lambda x: x * 2),
    "Pipeline": lambda: layers.Pipeline([layers.Rescaling(0.5), layers.RandomFlip()]),
    "RNN": lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(3)),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(3)),
}
#: Layers that stand for no computation of their own.
NO_LAYERS = {
    "InputSpec": "a description, not a layer",
    "Layer": "what custom layers derive from: they are traced",
    "Wrapper": "what wrappers derive from: they are traced",
    "InputLayer": "",
    **dict.fromkeys(("LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"), ""),
    **dict.fromkeys(("StringLookup", "TextVectorization"), "strings: turn them into numbers before the model"),
    **dict.fromkeys(("JaxLayer", "FlaxLayer", "TFSMLayer", "TorchModuleWrapper"), "another library's model"),
    "Equalization": "equalization of an image by the backend's functions: do it before the model",
}


def layer_model(name: str) -> tuple[keras.Model, list[np.ndarray]]:
    """A model of one layer, and inputs of it."""
    kind: Any = getattr(layers, name)
    number = next((int(c) for c in name if c in "123" and f"{c}D" in name), None)
    shape: tuple[int, ...] = IMAGE
    if "LSTM" in name and number:
        shape = (3, *IMAGE[:1] * number, 4)
    elif number:
        shape = (*IMAGE[:1] * number, 4)
    elif name in ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "TimeDistributed", "Masking", "EinsumDense", "Permute"):
        shape = SEQUENCE
    elif name in ("RepeatVector", "Discretization", "SpectralNormalization"):
        shape = VECTOR
    elif "Spectrogram" in name:
        shape = (64,) if name.startswith("Mel") else (64, 1)
    elif "Random" in name or name in ("AugMix", "CutMix", "MixUp", "RandAugment", "AutoContrast", "Solarization"):
        shape = (8, 8, 3)
    integers = name in ("Embedding", "ReversibleEmbedding", "CategoryEncoding", "Hashing", "IntegerLookup", "HashedCrossing")
    arguments = ARGUMENTS.get(name, ())
    if number and not arguments and ("Conv" in name):
        arguments = (3, 3)
    if not arguments and name.startswith("Adaptive"):
        arguments = (2,)
    if name in ("LSTM", "GRU", "SimpleRNN"):
        arguments = (4,)
    layer = SPECIAL[name]() if name in SPECIAL else kind(*arguments, **KEYWORDS.get(name, {}))
    count = 2 if issubclass(kind, layers.Add.__mro__[1]) or "Attention" in name or name in ("HashedCrossing", "Dot") else 1
    shape = (
        (SEQUENCE if "Attention" in name or name == "Dot" else VECTOR if integers else shape)
        if count == 2 or integers
        else shape
    )
    shape = (1,) if name == "HashedCrossing" else shape
    inputs = [keras.Input(shape, dtype="int32" if integers else "float32") for _ in range(count)]
    both = name in ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention")
    outputs = layer(*inputs) if both else layer(inputs if count > 1 else inputs[0])
    return keras.Model(inputs, outputs), [_values(tensor, 5) for tensor in inputs]


def _values(tensor: Any, below: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = (3, *tensor.shape[1:])
    if "float" in tensor.dtype:
        return generator.uniform(low, high, shape).astype(tensor.dtype)
    return generator.integers(0, below, shape).astype(tensor.dtype)


F = ((6, 4),)
FF = ((6, 4), (6, 4))
I = ((7, 6, 3),)  # noqa: E741
SQUARE = ((4, 4),)
ONES = np.ones


class Case:
    """A function of tensors of given shapes: of float32 within bounds, or of other dtypes."""

    def __init__(self, function: Any, shapes: Any = F, low: float = -1.0, high: float = 1.0, dtypes: Any = None) -> None:
        self.function, self.shapes, self.low, self.high = function, shapes, low, high
        self.dtypes = dtypes or ["float32"] * len(shapes)

    def model(self) -> tuple[keras.Model, list[np.ndarray]]:
        """A model of the function, and inputs of it."""
        inputs = [keras.Input(shape, dtype=dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]
        outputs = self.function(*inputs)
        outputs = list(outputs) if isinstance(outputs, tuple) else outputs
        return keras.Model(inputs, outputs), [_values(tensor, 4, self.low, self.high) for tensor in inputs]


def each(names: tuple[str, ...], case: Callable[[Any], Case]) -> dict[str, Case]:
    """The same case for several functions."""
    return {name: case(getattr(ops, name)) for name in names}


INTEGERS = {"shapes": FF, "dtypes": ["int32", "int32"]}

#: Calls of functions that one tensor, or two, do not make a fair example of.
CALLS: dict[str, Case] = {
    **{
        name: Case(getattr(ops, name), low=0.1, high=0.9)
        for name in ("log", "log10", "log1p", "log2", "sqrt", "rsqrt", "erfinv")
    },
    **{name: Case(getattr(ops, name), low=-0.9, high=0.9) for name in ("arccos", "arcsin", "arctanh")},
    "arccosh": Case(ops.arccosh, low=1.1, high=3.0),
    **{
        name: Case(getattr(ops, name), **INTEGERS)
        for name in (
            *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"),
            *("left_shift", "right_shift", "gcd", "lcm"),
        )
    },
    **{name: Case(getattr(ops, name), dtypes=["int32"]) for name in ("bitwise_not", "bitwise_invert")},
    **{
        name: Case(getattr(ops, name), SQUARE)
        for name in ("cholesky", "cholesky_inverse", "det", "inv", "qr", "svd", "eigh", "eig", "logdet", "slogdet", "lu_factor")
    },
    **{name: Case(getattr(ops, name), SQUARE) for name in ("pinv", "matrix_rank")},
    **{name: Case(getattr(ops, name), ((4, 4), (4, 2))) for name in ("solve", "solve_triangular")},
    **each(("bartlett", "blackman", "hamming", "hanning"), lambda f: Case(lambda x: x * f(4))),
    **each(("ones", "zeros", "empty"), lambda f: Case(lambda x: x * f((4,)))),
    **each(("geomspace", "linspace", "logspace"), lambda f: Case(lambda x: x * f(1.0, 2.0, 4))),
    **each(("expand_dims",), lambda f: Case(lambda x: f(x, 1))),
    **each(("split", "array_split", "repeat"), lambda f: Case(lambda x: f(x, 2, axis=1))),
    **each(("hsplit", "dsplit", "top_k"), lambda f: Case(lambda x: f(x, 2))),
    **each(("concatenate", "stack", "hstack", "vstack", "dstack"), lambda f: Case(lambda a, b: f([a, b]), FF)),
    **each(("median", "cumsum", "cumprod", "nancumprod", "argsort", "sort"), lambda f: Case(lambda x: f(x, axis=1), F)),
    **each(("quantile", "nanquantile"), lambda f: Case(lambda x: f(x, 0.3, axis=1))),
    **each(("percentile", "nanpercentile"), lambda f: Case(lambda x: f(x, 30, axis=1))),
    **each(("fft", "fft2", "ifft2", "irfft"), lambda f: Case(lambda x, y: f((x, y)), FF)),
    **each(
        ("segment_max", "segment_min", "segment_prod", "segment_sum"),
        lambda f: Case(lambda x, i: f(x[0], i[0], 4), ((6,), (6,)), dtypes=["float32", "int32"]),
    ),
    **each(("adaptive_average_pool",), lambda f: Case(lambda x: f(x, (2, 2), data_format="channels_last"), I)),
    **each(("adaptive_max_pool",), lambda f: Case(lambda x: f(x, (2, 2), data_format="channels_last"), I)),
    **each(("average_pool", "max_pool"), lambda f: Case(lambda x: f(x, 2, padding="same"), I)),
    "append": Case(lambda x, y: ops.append(x, y, axis=1), FF),
    "arange": Case(lambda x: x + ops.cast(ops.arange(4), "float32")),
    "argpartition": Case(lambda x: ops.argpartition(x, 2, axis=-1)),
    "associative_scan": Case(lambda x: ops.associative_scan(lambda a, b: a + b, x, axis=1)),
    "batch_normalization": Case(lambda x: ops.batch_normalization(x, ONES(4, "float32"), ONES(4, "float32"), -1)),
    "binary_crossentropy": Case(ops.binary_crossentropy, FF, 0.1, 0.9),
    "bincount": Case(lambda x: ops.bincount(x, minlength=8), ((6,),), dtypes=["int32"]),
    "broadcast_to": Case(lambda x: ops.broadcast_to(ops.max(x, axis=0), (3, 6, 4))),
    "cast": Case(lambda x: ops.cast(x * 5, "int32")),
    "categorical_crossentropy": Case(ops.categorical_crossentropy, FF, 0.1, 0.9),
    "clip": Case(lambda x: ops.clip(x, -0.3, 0.5)),
    "cond": Case(lambda x: ops.cond(ops.max(x) > 0, lambda: x + 1, lambda: x - 1)),
    "conv": Case(lambda x: ops.conv(x, ONES((3, 3, 3, 2), "float32")), I),
    "conv_transpose": Case(  # in a layer: Keras's own operation mixes up its arguments
        lambda x: layers.Lambda(lambda x: ops.conv_transpose(x, ONES((3, 3, 2, 3), "float32"), 2, data_format="channels_last"))(
            x
        ),
        I,
    ),
    "correlate": Case(lambda x: ops.correlate(x[0], ONES(2, "float32"), mode="valid"), ((6,),)),
    "cross": Case(ops.cross, ((6, 3), (6, 3))),
    "ctc_decode": Case(lambda x: ops.ctc_decode(x, np.full(3, 6))[0]),
    "depth_to_space": Case(lambda x: ops.depth_to_space(x, 2), ((4, 4, 8),)),
    "depthwise_conv": Case(lambda x: ops.depthwise_conv(x, ONES((3, 3, 3, 2), "float32")), I),
    "diag": Case(lambda x: ops.diag(x[0]), ((4,),)),
    "diagflat": Case(lambda x: ops.diagflat(x[0]), ((4,),)),
    "diagonal": Case(lambda x: ops.diagonal(x, axis1=1, axis2=2), SQUARE),
    "digitize": Case(lambda x: ops.digitize(x, np.array([-0.5, 0.0, 0.5], "float32"))),
    "dot": Case(lambda x: ops.dot(x, ONES((4, 3), "float32"))),
    "dot_product_attention": Case(ops.dot_product_attention, ((6, 2, 4),) * 3),
    "einsum": Case(lambda x, y: ops.einsum("bij,bkj->bik", x, y), FF),
    "extract_sequences": Case(lambda x: ops.extract_sequences(x, 4, 2), ((16,),)),
    "eye": Case(lambda x: ops.matmul(x, ops.eye(4))),
    "fold": Case(lambda x: ops.fold(x, (4, 4), 2, stride=2), ((12, 4),)),
    "fori_loop": Case(lambda x: ops.fori_loop(0, 3, lambda i, t: t * 2, x)),
    "full": Case(lambda x: x + ops.full((4,), 2.0)),
    "full_like": Case(lambda x: ops.full_like(x, 2.5)),
    "get_item": Case(lambda x: ops.get_item(x, (slice(None), 1))),
    "histogram": Case(lambda x: ops.histogram(x, 5, (-1.0, 1.0))),
    "identity": Case(lambda x: ops.matmul(x, ops.identity(4))),
    "image.affine_transform": Case(lambda x: ops.image.affine_transform(x, ONES((1, 8), "float32") * 0.1), I),
    "image.crop_images": Case(lambda x: ops.image.crop_images(x, 1, 1, target_height=4, target_width=3), I),
    "image.extract_patches": Case(lambda x: ops.image.extract_patches(x, (2, 2)), ((6, 6, 3),)),
    "image.extract_patches_3d": Case(lambda x: ops.image.extract_patches_3d(x, (2, 2, 2)), ((4, 4, 4, 3),)),
    "image.map_coordinates": Case(lambda x: ops.image.map_coordinates(x, ONES((3, 2), "float32"), 1), ((5, 4),)),
    "image.pad_images": Case(lambda x: ops.image.pad_images(x, 1, 1, target_height=9, target_width=9), I),
    "image.perspective_transform": Case(
        lambda x: ops.image.perspective_transform(x, ONES((1, 4, 2), "float32"), ONES((1, 4, 2), "float32")), I
    ),
    "image.resize": Case(lambda x: ops.image.resize(x, (5, 4)), I),
    "image.scale_and_translate": Case(
        lambda x: ops.image.scale_and_translate(x, (3, 5, 4, 3), ONES(2, "float32"), ONES(2, "float32"), (1, 2), "linear"), I
    ),
    "image.ssim": Case(lambda x, y: ops.image.ssim(x, y, 1.0), ((16, 16, 3), (16, 16, 3))),
    "in_top_k": Case(lambda t, x: ops.in_top_k(t[:, 0], x, 2), ((1,), (4,)), dtypes=["int32", "float32"]),
    "inner": Case(lambda x: ops.inner(x, ONES((5, 4), "float32"))),
    "isin": Case(lambda x: ops.isin(x, np.array([1, 2], "int32")), dtypes=["int32"]),
    "istft": Case(lambda x, y: ops.istft((x, y), 8, 4, 8), ((7, 5), (7, 5))),
    "kaiser": Case(lambda x: x * ops.kaiser(4, 2.0)),
    "kron": Case(lambda x: ops.kron(x[0], ONES((2, 2), "float32"))),
    "layer_normalization": Case(lambda x: ops.layer_normalization(x, ONES(4, "float32"), ONES(4, "float32"))),
    "ldexp": Case(ops.ldexp, FF, dtypes=["float32", "int32"]),
    "lstsq": Case(lambda x, y: ops.lstsq(x[0], y[0]), ((6, 4), (6,))),
    "map": Case(lambda x: ops.map(lambda t: t * 2, x)),
    "matmul": Case(ops.matmul, ((6, 4), (4, 5))),
    "meshgrid": Case(lambda x, y: ops.meshgrid(x[0], y[0]), ((4,), (5,))),
    "moments": Case(lambda x: ops.moments(x, axes=(1,))),
    "moveaxis": Case(lambda x: ops.moveaxis(x, 1, 2)),
    "multi_hot": Case(lambda x: ops.multi_hot(x, 8), ((6,),), dtypes=["int32"]),
    "norm": Case(lambda x: ops.norm(x, axis=1)),
    "one_hot": Case(lambda x: ops.one_hot(x, 8), ((6,),), dtypes=["int32"]),
    "outer": Case(lambda x: ops.outer(x[0], ONES(3, "float32"))),
    "pad": Case(lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1)), mode="reflect")),
    "psnr": Case(lambda x, y: ops.psnr(x, y, 1.0), FF),
    "rearrange": Case(lambda x: ops.rearrange(x, "b h c -> b c h")),
    "reshape": Case(lambda x: ops.reshape(x, (-1, 8))),
    "rfft": Case(ops.rfft, ((8,),)),
    "rms_normalization": Case(lambda x: ops.rms_normalization(x, ONES(4, "float32"))),
    "roll": Case(lambda x: ops.roll(x, 1, axis=1)),
    "saturate_cast": Case(lambda x: ops.saturate_cast(x * 500, "uint8")),
    "scan": Case(lambda x: ops.scan(lambda c, t: (c + t, c), ops.zeros((6, 4)), x)),
    "scatter": Case(lambda i, x: ops.scatter(i, x[:, 0], (8,)), ((1,), (1,)), dtypes=["int32", "float32"]),
    "scatter_update": Case(lambda x: ops.scatter_update(x, np.array([[0, 1, 1]]), np.array([5.0], "float32"))),
    "searchsorted": Case(lambda x: ops.searchsorted(np.array([-0.5, 0.0, 0.5], "float32"), x[0, 0])),
    "select": Case(lambda x: ops.select([x > 0.5, x > 0], [x, x * 2], 0.0)),
    "separable_conv": Case(lambda x: ops.separable_conv(x, ONES((3, 3, 3, 2), "float32"), ONES((1, 1, 6, 2), "float32")), I),
    "slice": Case(lambda x: ops.slice(x, (0, 1, 1), (2, 2, 2))),
    "slice_update": Case(lambda x: ops.slice_update(x, (0, 1, 1), ops.ones((2, 2, 2)))),
    "space_to_depth": Case(lambda x: ops.space_to_depth(x, 2), ((4, 4, 8),)),
    "sparse_categorical_crossentropy": Case(
        ops.sparse_categorical_crossentropy, ((6,), (6, 4)), 0.1, 0.9, ["int32", "float32"]
    ),
    "squeeze": Case(lambda x: ops.squeeze(x[:, :1], 1)),
    "stft": Case(lambda x: ops.stft(x, 8, 4, 8), ((32,),)),
    "swapaxes": Case(lambda x: ops.swapaxes(x, 1, 2)),
    "switch": Case(lambda x: ops.switch(1, [lambda t: t + 1, lambda t: t - 1], x)),
    "take": Case(lambda x: ops.take(x, [0, 2], axis=1)),
    "take_along_axis": Case(lambda x, i: ops.take_along_axis(x, i, axis=1), FF, dtypes=["float32", "int32"]),
    "tensordot": Case(lambda x: ops.tensordot(x, ONES((4, 3), "float32"), 1)),
    "threshold": Case(lambda x: ops.threshold(x, 0.3, 2.0)),
    "tile": Case(lambda x: ops.tile(x, (1, 2, 1))),
    "trace": Case(lambda x: ops.trace(x, axis1=1, axis2=2), SQUARE),
    "tri": Case(lambda x: x * ops.tri(6, 4)),
    "unfold": Case(lambda x: ops.unfold(x, 2, stride=2), ((3, 4, 4),)),
    "unravel_index": Case(lambda x: ops.unravel_index(x, (3, 4)), ((6,),), dtypes=["int32"]),
    "unstack": Case(lambda x: ops.unstack(x, axis=1)),
    "vander": Case(lambda x: ops.vander(x[0], 3), ((4,),)),
    "vdot": Case(lambda x: ops.vdot(x[0], x[1])),
    "vectorized_map": Case(lambda x: ops.vectorized_map(lambda t: t * 2, x)),
    "view": Case(lambda x: ops.view(x, "int32")),
    "view_as_complex": Case(ops.view_as_complex, ((4, 2),)),
    "vsplit": Case(lambda x: ops.vsplit(ops.transpose(x, (1, 0, 2)), 2)),
    "where": Case(lambda x: ops.where(x > 0, x, 0.0)),
}
#: Functions that are no operations on the tensors of a model.
NO_FUNCTIONS = {
    **dict.fromkeys(("is_tensor", "dtype", "shape", "ndim"), ""),
    "convert_to_numpy": "it needs values",
    "custom_gradient": "of training",
    "jvp": "a derivative",
    "vectorize": "of functions of NumPy",
    "while_loop": "a loop whose number of turns depends on the values",
    "ctc_loss": "of training",
    "unravel_index": "what TensorFlow makes of it is not what the others make",
    "view_as_real": "complex numbers",
}
