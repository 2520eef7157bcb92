"""AlexNet, the one-column version.

Krizhevsky: "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, 2014, footnote 1; the parameter count
is that of torchvision's implementation (61,100,840 in its table of weights). The network of Krizhevsky, Sutskever and Hinton 2012
(figure 2, 60,965,224) differs: grouped convolutions for two GPUs, 96/256/384/384/256 filters, local response normalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction
from kerascv_course.models.layers import conv_bn_relu, flatten, max_pool
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class AlexNet:
    """Options of AlexNet.

    Attributes:
        stem: ``"imagenet"``: 11×11 stride 4, and 3×3 pooling; ``"cifar"``, for small images (15×15 pixels or more): 3×3 stride 2,
            3×3 in the second convolution, and 2×2 pooling.
        dropout: fraction set to zero before each of the two hidden dense layers in training.
        include_top: False: the flattened last map, without the dense layers.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    dropout: Fraction = 0.5
    include_top: bool = True


def _torch_names(_model: Any) -> dict[str, tuple[str, ...]]:
    convs: dict[str, tuple[str, ...]] = {f"stage{i}_conv": (f"features.{n}",) for i, n in enumerate((0, 3, 6, 8, 10), start=1)}
    return convs | {"fc6": ("classifier.1",), "fc7": ("classifier.4",), "logits": ("classifier.6",)}


@register_model(
    AlexNet(),
    input_shape=(224, 224, 3),
    num_classes=1000,
    parameters=61_100_840,
    source="Krizhevsky 2014, footnote 1; count: torchvision's AlexNet",
    min_size=lambda options: 63 if options.stem == "imagenet" else 15,
    torch_names=_torch_names,
)
def alexnet(image: Any, num_classes: int, options: AlexNet) -> Any:
    """AlexNet: (N, H, W, C) to logits (N, num_classes).

    The dense layers take the last map whatever its size: 6×6 at 224×224, 2×2 at 32×32 with the CIFAR stem.
    """
    layers = keras.layers
    small = options.stem == "cifar"
    window = 2 if small else 3

    # 224×224 -> 55×55×64 -> 27×27
    kernel, stride, padding = (3, 2, 1) if small else (11, 4, 2)
    x = conv_bn_relu(image, 64, kernel, stride=stride, padding=padding, norm=False, bias=True, name="stage1_conv")
    x = max_pool(x, window, name="stage1_pool")
    # 27×27×192 -> 13×13
    x = conv_bn_relu(x, 192, 3 if small else 5, norm=False, bias=True, name="stage2_conv")
    x = max_pool(x, window, name="stage2_pool")
    # 13×13×384 -> 256 -> 256 -> 6×6
    for stage, filters in enumerate((384, 256, 256), start=3):
        x = conv_bn_relu(x, filters, 3, norm=False, bias=True, name=f"stage{stage}_conv")
    x = max_pool(x, window, name="stage5_pool")

    x = flatten(x)
    if not options.include_top:
        return x
    for name in ("fc6", "fc7"):
        if options.dropout:
            x = layers.Dropout(options.dropout, name=f"{name}_dropout")(x)
        x = layers.Dense(4096, activation="relu", name=name)(x)
    return layers.Dense(num_classes, name="logits")(x)
