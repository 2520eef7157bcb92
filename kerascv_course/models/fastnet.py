"""FastNet: a small network that learns CIFAR-10 in minutes.

The network of Jordan: "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv 2404.00498), section 3 and listing 3, itself a
descendant of Page's ResNet-9 and of Tysam's hlb-CIFAR10: a frozen convolution that whitens patches, then three groups of two
convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction, PositiveInt
from kerascv_course.models.layers import activate, initializer
from kerascv_course.models.registry import register_model

#: Added to the patches' variances before taking the square root (listing 3).
WHITENING_EPSILON = 5e-4


@dataclass(frozen=True)
class FastNet:
    """Options of FastNet.

    Attributes:
        width: channels of the first group.
        expansion: factor for the channels of the second and third group.
        activation: after each batch norm.
        whiten: freeze the first layer, for `whiten_first_layer`; False: initialize and train it like the others.
        identity: initialize the first filters of the other convolutions as the identity of a channel.
        norm_momentum: of batch norm's moving statistics; low, because a training has only a few hundred steps.
        include_top: False: the pooled vector, without the dense layer.
    """

    width: PositiveInt = 64
    expansion: PositiveInt = 4
    activation: Literal["relu", "silu"] = "silu"
    whiten: bool = True
    identity: bool = True
    norm_momentum: Fraction = 0.6
    include_top: bool = True


def whiten_first_layer(model: Any, images: np.ndarray) -> None:
    """Set the frozen first convolution to whiten the images' patches (section 3.2; Page 2019).

    Its filters are the eigenvectors of the covariance of all 2×2 patches, divided by the square root of their variance, and the
    negatives of these.

    Args:
        model: a `fastnet`, modified in place; unchanged if built with ``whiten=False``.
        images: float (N, H, W, C), as the network gets them.
    """
    if all(layer.name != "whiten" for layer in model.layers):
        return
    layer = model.get_layer("whiten")
    size, _, channels, filters = layer.kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (size, size), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels)
    variances, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    half = (vectors / np.sqrt(variances + WHITENING_EPSILON))[:, ::-1].reshape(size, size, channels, -1)
    # eigenvectors are defined up to their sign: fix it, to be the same on every machine
    half = half * np.sign(half.sum(axis=(0, 1, 2)) + 1e-12)
    layer.kernel.assign(np.concatenate([half, -half], axis=-1)[..., :filters].astype(np.float32))


@register_model(
    FastNet(),
    input_shape=(32, 32, 3),
    parameters=1_971_328,
    source="Jordan 2024, listing 3, with a bias-free whitening layer and batch norm's biases only",
    min_size=9,
    adapt=whiten_first_layer,
)
def fastnet(image: Any, num_classes: int, options: FastNet) -> Any:
    """FastNet: (N, H, W, C) to logits (N, num_classes); 32×32×3 in the paper.

    Departures from the paper: the whitening layer has no bias (trained for three epochs there), and SiLU replaces GELU, which not
    all ONNX converters support.
    """
    layers = keras.layers
    # 32×32×3 -> 31×31×24: both signs of each of the 12 eigenvectors
    first = "whiten" if options.whiten else "stem"
    filters, start = 8 * image.shape[-1], initializer("lecun")
    x = layers.Conv2D(filters, 2, use_bias=False, kernel_initializer=start, trainable=not options.whiten, name=first)(image)
    x = activate(x, options.activation, name=f"{first}_{options.activation}")
    # -> 15×15×64 -> 7×7×256 -> 3×3×256
    wide = options.expansion * options.width
    for group, channels in enumerate((options.width, wide, wide), start=1):
        for index in (1, 2):
            name = f"group{group}_conv{index}"
            x = _convolution(x, channels, options.identity, name)
            if index == 1:
                x = layers.MaxPooling2D(2, name=f"group{group}_pool")(x)
            x = layers.BatchNormalization(momentum=options.norm_momentum, epsilon=1e-5, scale=False, name=f"{name}_bn")(x)
            x = activate(x, options.activation, name=f"{name}_{options.activation}")
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    if not options.include_top:
        return x
    # the scale of listing 3's last line
    small = keras.initializers.VarianceScaling(1 / x.shape[-1], "fan_in", "untruncated_normal")
    return layers.Dense(num_classes, use_bias=False, kernel_initializer=small, name="logits")(x)


def _convolution(x: Any, filters: int, identity: bool, name: str) -> Any:
    """3×3 convolution with PyTorch's initialization; with `identity` its first filters are the identity of a channel (section 3.3)."""
    layer = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=initializer("lecun"), name=name)
    y = layer(x)
    if not identity:
        return y
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
    same = min(kernel.shape[2:])
    kernel[..., :same] = 0
    kernel[1, 1, range(same), range(same)] = 1
    layer.kernel.assign(kernel)
    return y
