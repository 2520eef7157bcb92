"""Blocks shared by the network families: functions on tensors, every layer named.

Padding is PyTorch's: zeros on all four sides, then windows that fit inside. Keras's ``"same"`` pads unevenly with stride 2, so it
is used only where both agree (stride 1, odd kernels). Batch norm has PyTorch's constants: epsilon 1e-5, and momentum 0.9, which is
0.1 there.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Unpack

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras

__all__ = [
    "Activation",
    "ConvOptions",
    "Initializer",
    "KernelOptions",
    "activate",
    "batch_norm",
    "classifier",
    "conv",
    "conv_bn_relu",
    "flatten",
    "initializer",
    "max_pool",
    "transposed_conv",
    "upsample_nearest",
]

#: Activations of the networks' options.
Activation = Literal["relu", "leaky_relu", "elu", "selu", "silu", "tanh", "sigmoid", "softplus", "linear"]

#: ``he``: normal, variance 2/fan-out; ``he_in``: 2/fan-in (He et al. 2015, section 2.2; ``he_in`` where widths change a lot, so
#: that maps do not grow before batch norm has learned their scale). ``glorot``: uniform (Glorot and Bengio 2010, equation 16).
#: ``lecun``: uniform, variance 1/(3·fan-in), PyTorch's default.
Initializer = Literal["he", "he_in", "glorot", "lecun"]

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9


class KernelOptions(TypedDict, total=False):
    """Options of a convolution's weights: with a bias (default: no), initializer (``"he"``), weight of an L2 penalty (0)."""

    bias: bool
    init: Initializer
    l2: float


class ConvOptions(KernelOptions, total=False):
    """`KernelOptions`, and stride and padding as in `conv`."""

    stride: int
    padding: int | None


def initializer(kind: Initializer) -> Any:
    """A Keras initializer by name; every layer needs its own, because an initializer returns the same numbers at every call."""
    if kind == "glorot":
        return keras.initializers.GlorotUniform()
    scale, mode, distribution = {
        "he": (2.0, "fan_out", "untruncated_normal"),
        "he_in": (2.0, "fan_in", "untruncated_normal"),
        "lecun": (1 / 3, "fan_in", "uniform"),
    }[kind]
    return keras.initializers.VarianceScaling(scale, mode, distribution)


def _require_window(x: Any, window: int, stride: int, padding: int, name: str) -> None:
    """Reject a window that does not fit its map, and a stride with nothing left to downsample; a size that is open is not checked."""
    height, width = x.shape[1:3]
    small = min((size for size in (height, width) if size is not None), default=None)
    if small is None:
        return
    if small + 2 * padding < window or (stride > 1 and small < 2):
        raise InputError(
            f"layer {name} (window {window}×{window}, stride {stride}) needs a larger map than {height}×{width}: the image is too "
            "small for this network; use larger images or less downsampling"
        )


def _pad(x: Any, zeros: int, name: str) -> Any:
    return keras.layers.ZeroPadding2D(zeros, name=f"{name}_pad")(x) if zeros else x


# --- convolutions -----------------------------------------------------------------------------------------------------


def conv(
    x: Any,
    filters: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    **options: Unpack[KernelOptions],
) -> Any:
    """Convolution with PyTorch's padding: (N, H, W, C) to (N, ⌊(H + 2·padding − kernel)/stride⌋ + 1, …, filters).

    Args:
        x: float tensor (N, H, W, C).
        filters: output channels.
        kernel: height and width of the window.
        name: of the layer; an explicit padding layer is ``<name>_pad``.
        stride: in both directions.
        padding: zeros on each side; None: ⌊(kernel − 1)/2⌋, plus one after if stride is 1 and the kernel even, which keeps the
            size (with stride 2 an even size is halved).
        options: of the weights.

    Raises:
        InputError: the map is too small for the window or the stride.
    """
    half = (kernel - 1) // 2
    same = stride == 1 and (padding is None or (kernel % 2 == 1 and padding == half))
    if not same:
        zeros = half if padding is None else padding
        _require_window(x, kernel, stride, zeros, name)
        x = _pad(x, zeros, name)
    l2 = options.get("l2", 0.0)
    return keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same" if same else "valid",
        use_bias=options.get("bias", False),
        kernel_initializer=initializer(options.get("init", "he")),
        kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
        name=name,
    )(x)


def batch_norm(x: Any, *, epsilon: float = BN_EPSILON, name: str) -> Any:
    """Batch normalization over all axes but the last, with PyTorch's constants."""
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
    name: str,
    norm: bool = True,
    relu: bool = True,
    epsilon: float = BN_EPSILON,
    **options: Unpack[ConvOptions],
) -> Any:
    """`conv` called ``<name>``, then batch norm ``<name>_bn`` if `norm`, and ReLU ``<name>_relu`` if `relu`."""
    x = conv(x, filters, kernel, name=name, **options)
    if norm:
        x = batch_norm(x, epsilon=epsilon, name=f"{name}_bn")
    return activate(x, name=f"{name}_relu") if relu else x


def transposed_conv(x: Any, filters: int, kernel: int, *, bias: bool = True, init: Initializer = "lecun", name: str) -> Any:
    """Transposed convolution with stride 2 that doubles height and width, for kernels of 2 or more.

    The full output has 2·(H − 1) + kernel rows. PyTorch crops ``padding`` from both ends and adds ``output_padding`` at the end,
    which leaves 2H rows if padding = ⌈(kernel − 2)/2⌉ and output_padding = kernel mod 2. A cropping layer does the same here
    (Keras's ``"same"`` crops the other end if the kernel is odd).

    Args:
        x: float tensor (N, H, W, C).
        filters: output channels.
        kernel: height and width of the window, 2 or more.
        bias: with a bias.
        init: initializer of the kernel.
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
    """Max pooling with PyTorch's padding, by zeros, so the maps must not be negative (as after a ReLU) if there is padding.

    Args:
        x: float tensor (N, H, W, C).
        size: height and width of the window.
        stride: in both directions.
        padding: rows and columns added on each side.
        ceil: round the output size up: the last window may extend beyond the end.
        name: of the layer; an explicit padding layer is ``<name>_pad``.

    Raises:
        InputError: the map is too small for the window or the stride.
    """
    if stride == 1 and size == 2 * padding + 1:
        return keras.layers.MaxPooling2D(size, strides=1, padding="same", name=name)(x)
    # with `ceil` a window only has to begin inside the map
    _require_window(x, min(size, 2) if ceil else size, stride, padding, name)
    over = [_overhang(n, size, stride, padding) if ceil else 0 for n in x.shape[1:3]]
    if padding or any(over):
        pads = tuple((padding, padding + extra) for extra in over)
        x = keras.layers.ZeroPadding2D(pads, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(size, strides=stride, padding="valid", name=name)(x)


def _overhang(n: int | None, size: int, stride: int, padding: int) -> int:
    """Rows beyond the end that the last window of a rounded-up size covers; for an open size the most that it may be."""
    if n is None:  # rows that no window reaches change nothing, with windows of at least the stride and no padding
        return stride - 1
    room = n + 2 * padding - size
    windows = -(-room // stride) + 1
    if (windows - 1) * stride >= n + padding:  # PyTorch drops a window that would begin in the far padding
        windows -= 1
    return max(0, (windows - 1) * stride - room)


def upsample_nearest(x: Any, factor: int = 2, *, name: str) -> Any:
    """Nearest-neighbor upsampling by an integer factor."""
    return keras.layers.UpSampling2D(factor, interpolation="nearest", name=name)(x)


# --- heads ------------------------------------------------------------------------------------------------------------


def flatten(x: Any) -> Any:
    """The layer ``flatten``: (N, H, W, C) to (N, H·W·C).

    Raises:
        InputError: height or width is open.
    """
    if None in x.shape[1:3]:
        raise InputError(
            "a network that flattens its last map needs images of one size; received an input_shape with None: give height and "
            "width, or use a network with global pooling, such as resnet18"
        )
    return keras.layers.Flatten(name="flatten")(x)


def classifier(x: Any, num_classes: int, *, dropout: float = 0.0, include_top: bool = True) -> Any:
    """Global average pooling, dropout and a dense layer of logits.

    Returns:
        Logits (N, num_classes), or with ``include_top=False`` the pooled vector (N, C).
    """
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if not include_top:
        return x
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.layers.Dense(num_classes, name="logits")(x)
