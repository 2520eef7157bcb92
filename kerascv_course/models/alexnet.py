"""AlexNet, the one-column version.

Krizhevsky: "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, 2014, footnote 1; the count is
that of the reference implementation in torchvision (61,100,840 in its table of weights). The network of Krizhevsky, Sutskever
and Hinton 2012 (figure 2, 60,965,224) differs: grouped convolutions for two GPUs, 96/256/384/384/256 filters, response
normalisation.
"""

from __future__ import annotations

from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Share
from kerascv_course.models.layers import conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model


def _torch_names(_model: Any) -> dict[str, tuple[str, ...]]:
    convs: dict[str, tuple[str, ...]] = {f"stage{i}_conv": (f"features.{n}",) for i, n in enumerate((0, 3, 6, 8, 10), start=1)}
    return convs | {"fc6": ("classifier.1",), "fc7": ("classifier.4",), "logits": ("classifier.6",)}


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    parameters=61_100_840,
    source="Krizhevsky 2014, footnote 1; count: torchvision's AlexNet",
    min_size=lambda *, stem, **_: 63 if stem == "imagenet" else 15,
    torch_names=_torch_names,
)
def alexnet(
    image: Any,
    num_classes: int,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    dropout: Share = 0.5,
    include_top: bool = True,
) -> Any:
    """AlexNet: (N, H, W, C) to logits (N, num_classes).

    The dense layers take whatever map the last pool leaves: 6×6 at 224×224, 2×2 at 32×32 with the CIFAR stem.

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        stem: ``"imagenet"``: 11×11 stride 4, and pools of 3×3; ``"cifar"`` for small images (15×15 pixels or more):
            3×3 stride 2, 3×3 for the second convolution, and pools of 2×2.
        dropout: share set to zero before each of the two hidden dense layers while training.
        include_top: False: the flattened last map, without the dense layers.
    """
    layers = keras.layers
    small = stem == "cifar"
    window = 2 if small else 3
    relu: dict[str, Any] = {"bias": True, "norm": False}

    # 224×224 -> 55×55×64 -> 27×27
    first: dict[str, Any] = {"stride": 2, "padding": 1} if small else {"stride": 4, "padding": 2}
    x = conv_bn_relu(image, 64, 3 if small else 11, **first, **relu, name="stage1_conv")
    x = max_pool(x, window, name="stage1_pool")
    # 27×27×192 -> 13×13
    x = conv_bn_relu(x, 192, 3 if small else 5, **relu, name="stage2_conv")
    x = max_pool(x, window, name="stage2_pool")
    # 13×13×384 -> 256 -> 256 -> 6×6
    for stage, filters in enumerate((384, 256, 256), start=3):
        x = conv_bn_relu(x, filters, 3, **relu, name=f"stage{stage}_conv")
    x = max_pool(x, window, name="stage5_pool")

    x = layers.Flatten(name="flatten")(x)
    if not include_top:
        return x
    for name in ("fc6", "fc7"):
        if dropout:
            x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
        x = layers.Dense(4096, activation="relu", name=name)(x)
    return layers.Dense(num_classes, name="logits")(x)
