"""Blocks that the network families share: tensors in, tensors out, every layer named.

Padding is PyTorch's: a number of zeros on all four sides, then a window that stays inside. Keras's ``"same"`` pads unevenly
when the stride is 2, so it is used only where both agree (stride 1, odd kernels). Batch norm has PyTorch's constants: epsilon
1e-5, and momentum 0.1 there is 0.9 here.
"""

from __future__ import annotations

from typing import Any, Literal

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras

__all__ = [
    "Activation",
    "Initializer",
    "activate",
    "batch_norm",
    "classifier",
    "conv",
    "conv_bn_relu",
    "initializer",
    "max_pool",
    "transposed_conv",
    "upsample_nearest",
]

#: Activations that Keras, TensorFlow and tf2onnx all know (exact GELU is left out: tf2onnx has no Erfc).
Activation = Literal["relu", "leaky_relu", "elu", "selu", "silu", "tanh", "sigmoid", "softplus", "linear"]

#: ``he``: normal, variance 2/fan-out, ``he_in``: 2/fan-in (He et al. 2015, section 2.2: either keeps the scale; the second where
#: widths change much, lest the maps grow before batch norm has learnt their size). ``glorot``: uniform (Glorot and Bengio 2010,
#: equation 16). ``lecun``: uniform, variance 1/(3·fan-in), which is what PyTorch gives a new layer.
Initializer = Literal["he", "he_in", "glorot", "lecun"]

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9


def initializer(kind: Initializer) -> Any:
    """Keras's initialiser of a name: a new object a layer, for Keras returns the same numbers each time one object is asked."""
    scaling = keras.initializers.VarianceScaling
    if kind == "he_in":
        return scaling(2.0, "fan_in", "untruncated_normal")
    if kind == "he":
        return scaling(2.0, "fan_out", "untruncated_normal")
    if kind == "lecun":
        return scaling(1 / 3, "fan_in", "uniform")
    return keras.initializers.GlorotUniform()


def _require_window(x: Any, window: int, stride: int, padding: int, name: str) -> None:
    """Refuse a window that does not fit its map, and a stride with nothing left to reduce."""
    height, width = x.shape[1:3]
    small = min(height, width)
    if small + 2 * padding < window or (stride > 1 and small < 2):
        raise InputError(
            f"layer {name} (window {window}×{window}, stride {stride}) needs a larger map than the {height}×{width} left for "
            f"it: the image is too small for this network; use larger images or fewer reductions"
        )


def _pad(x: Any, zeros: int, name: str) -> Any:
    return keras.layers.ZeroPadding2D(zeros, name=f"{name}_pad")(x) if zeros else x


# --- convolutions -----------------------------------------------------------------------------------------------------


def conv(
    x: Any,
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    init: Initializer = "he",
    l2: float = 0.0,
    name: str,
) -> Any:
    """Convolution with PyTorch's padding: (N, H, W, C) to (N, ⌊(H + 2·padding − kernel)/stride⌋ + 1, …, filters).

    Args:
        x: float tensor (N, H, W, C).
        filters: output channels.
        kernel: height and width of the window.
        stride: step in both directions.
        padding: zeros on each side; None: ⌊(kernel − 1)/2⌋, and at stride 1 one more after where the kernel is even, which
            keeps the size (stride 2 halves an even size without it).
        bias: with a bias or without.
        init: how the kernel starts.
        l2: weight of the kernel's L2 penalty in the loss.
        name: of the layer; an explicit padding layer is ``<name>_pad``.

    Raises:
        InputError: the map is too small for the window or the stride.
    """
    half = (kernel - 1) // 2
    same = stride == 1 and (padding is None or (kernel % 2 == 1 and padding == half))
    if not same:
        zeros = half if padding is None else padding
        _require_window(x, kernel, stride, zeros, name)
        x = _pad(x, zeros, name)
    return keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same" if same else "valid",
        use_bias=bias,
        kernel_initializer=initializer(init),
        kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
        name=name,
    )(x)


def batch_norm(x: Any, *, epsilon: float = BN_EPSILON, name: str) -> Any:
    """Batch normalisation over all axes but the last, with PyTorch's constants."""
    return keras.layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=epsilon, name=name)(x)


def activate(x: Any, activation: str = "relu", *, name: str) -> Any:
    """An activation as a layer of its own."""
    layer = keras.layers.ReLU(name=name) if activation == "relu" else keras.layers.Activation(activation, name=name)
    return layer(x)


def conv_bn_relu(
    x: Any,
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    norm: bool = True,
    epsilon: float = BN_EPSILON,
    relu: bool = True,
    init: Initializer = "he",
    name: str,
) -> Any:
    """Convolution ``<name>``, then batch norm ``<name>_bn`` and ReLU ``<name>_relu`` where the switches ask for them."""
    x = conv(x, filters, kernel, stride=stride, padding=padding, bias=bias, init=init, name=name)
    if norm:
        x = batch_norm(x, epsilon=epsilon, name=f"{name}_bn")
    return activate(x, name=f"{name}_relu") if relu else x


def transposed_conv(x: Any, filters: int, kernel: int, *, bias: bool = True, init: Initializer = "lecun", name: str) -> Any:
    """Transposed convolution with stride 2 that doubles height and width, for kernels from 2 up.

    The full result has 2·(H − 1) + kernel rows. PyTorch cuts ``padding`` off both ends and puts ``output_padding`` back at the
    far end; 2H rows are left when padding = ⌈(kernel − 2)/2⌉ and output_padding = kernel mod 2. The same cut is a cropping
    layer here (Keras's ``"same"`` cuts the other end when the kernel is odd).

    Args:
        x: float tensor (N, H, W, C).
        filters: output channels.
        kernel: height and width of the window, 2 or more.
        bias: with a bias or without.
        init: how the kernel starts.
        name: of the layer; the cropping layer is ``<name>_crop``.
    """
    before = (kernel - 1) // 2
    after = kernel - 2 - before
    x = keras.layers.Conv2DTranspose(
        filters, kernel, strides=2, padding="valid", use_bias=bias, kernel_initializer=initializer(init), name=name
    )(x)
    if before or after:
        x = keras.layers.Cropping2D(((before, after), (before, after)), name=f"{name}_crop")(x)
    return x


# --- resampling -------------------------------------------------------------------------------------------------------


def max_pool(x: Any, size: int, *, stride: int = 2, padding: int = 0, ceil: bool = False, name: str) -> Any:
    """Max-pooling with PyTorch's padding, for maps that are nowhere negative (after a ReLU): padding is with zeros.

    Args:
        x: float tensor (N, H, W, C), no value below 0 where the window needs padding.
        size: height and width of the window.
        stride: step in both directions.
        padding: positions added on each side.
        ceil: round the output size up: a last window may hang over the far end.
        name: of the layer; an explicit padding layer is ``<name>_pad``.

    Raises:
        InputError: the map is too small for the window or the stride.
    """
    if stride == 1 and size == 2 * padding + 1:
        return keras.layers.MaxPooling2D(size, strides=1, padding="same", name=name)(x)
    # With `ceil` a window may hang over, so it only has to begin inside.
    _require_window(x, min(size, 2) if ceil else size, stride, padding, name)
    over = [_overhang(n, size, stride, padding) if ceil else 0 for n in x.shape[1:3]]
    if padding or any(over):
        pads = tuple((padding, padding + extra) for extra in over)
        x = keras.layers.ZeroPadding2D(pads, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(size, strides=stride, padding="valid", name=name)(x)


def _overhang(n: int, size: int, stride: int, padding: int) -> int:
    room = n + 2 * padding - size
    windows = -(-room // stride) + 1
    if (windows - 1) * stride >= n + padding:  # PyTorch drops a window that would begin in the far padding
        windows -= 1
    return max(0, (windows - 1) * stride - room)


def upsample_nearest(x: Any, factor: int = 2, *, name: str) -> Any:
    """Nearest-neighbour up-sampling by a whole factor: each value fills factor×factor positions.

    TensorFlow's repeat exports as 27 ONNX nodes; `export.converter.optimize.collapse_nearest_upsampling` makes them one Resize. (A
    Resizing layer would export as one node at once, but in a mode that ONNX dropped with opset 13 and runtimes disagree about.)
    """
    return keras.layers.UpSampling2D(factor, interpolation="nearest", name=name)(x)


# --- heads ------------------------------------------------------------------------------------------------------------


def classifier(x: Any, num_classes: int, *, dropout: float = 0.0, include_top: bool = True) -> Any:
    """Global average pool, and on top of it dropout and one dense layer of logits.

    Returns:
        Logits (N, num_classes), or with ``include_top=False`` the pooled vector (N, C).
    """
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if not include_top:
        return x
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.layers.Dense(num_classes, name="logits")(x)
