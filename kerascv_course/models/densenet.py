"""Densely connected networks.

Huang, Liu, van der Maaten, Weinberger: "Densely connected convolutional networks", CVPR 2017. DenseNet-121: table 1, k = 32; 7,978,856
parameters in the authors' and torchvision's implementations. DenseNet-BC (L = 100, k = 12): section 3 and table 2, which prints 0.8
million; exactly 769,162.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction
from kerascv_course.models.layers import activate, batch_norm, classifier, conv, conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class DenseNet:
    """Options of a DenseNet.

    Attributes:
        stem: ``"imagenet"``: 7×7 stride 2 with batch norm, and 3×3 max pooling stride 2; ``"cifar"``: one 3×3 at full size.
        dropout: fraction of each dense layer's new maps set to zero in training (the paper: 0.2 without augmentation).
        include_top: False: the pooled feature vector, without the dense layer.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    dropout: Fraction = 0.0
    include_top: bool = True


def _norm_relu_conv(x: Any, filters: int, kernel: int, name: str) -> Any:
    x = batch_norm(x, name=f"{name}_bn")
    x = activate(x, name=f"{name}_relu")
    return conv(x, filters, kernel, init="he_in", name=name)


def dense_layer(x: Any, growth: int, *, dropout: float = 0.0, name: str) -> Any:
    """Bottleneck layer (section 3): (N, H, W, C) to (N, H, W, C + growth).

    Norm, ReLU, 1×1 to 4·growth, norm, ReLU, 3×3 to growth, concatenated with the input.
    """
    new = _norm_relu_conv(x, 4 * growth, 1, f"{name}_conv1")
    new = _norm_relu_conv(new, growth, 3, f"{name}_conv2")
    if dropout:
        new = keras.layers.Dropout(dropout, name=f"{name}_dropout")(new)
    return keras.layers.Concatenate(name=f"{name}_concat")([x, new])


def densenet(image: Any, num_classes: int, options: DenseNet, *, depths: tuple[int, ...], growth: int) -> Any:
    """DenseNet-BC with compression 0.5: (N, H, W, C) to logits (N, num_classes).

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        options: of the network.
        depths: number of dense layers in each block.
        growth: channels that each dense layer adds.
    """
    if options.stem == "cifar":
        x = conv(image, 2 * growth, 3, name="stem_conv")
    else:
        # 224×224 -> 112×112 -> 56×56
        x = conv_bn_relu(image, 2 * growth, 7, stride=2, padding=3, name="stem_conv")
        x = max_pool(x, 3, padding=1, name="stem_pool")
    # k = 32: 56×56×256 -> 28×28×512 -> 14×14×1024 -> 7×7×1024, transitions halve size and channels
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            x = dense_layer(x, growth, dropout=options.dropout, name=f"stage{stage}_block{block}")
        if stage < len(depths):
            x = _norm_relu_conv(x, x.shape[-1] // 2, 1, f"transition{stage}_conv")
            x = keras.layers.AveragePooling2D(2, name=f"transition{stage}_pool")(x)
    x = batch_norm(x, name="final_bn")
    x = activate(x, name="final_relu")
    return classifier(x, num_classes, include_top=options.include_top)


def _torch_names(model: Any) -> dict[str, tuple[str, ...]]:
    """torchvision's and timm's: ``features.denseblock1.denselayer2.norm1``, ``features.transition1.conv``, ``classifier``."""
    names: dict[str, tuple[str, ...]] = {
        "stem_conv": ("features.conv0",),
        "stem_conv_bn": ("features.norm0",),
        "logits": ("classifier",),
    }
    for layer in model.layers:
        if match := re.fullmatch(r"stage(\d)_block(\d+)_conv(\d)(_bn)?", layer.name):
            stage, block, index, norm = match.groups()
            part = f"{'norm' if norm else 'conv'}{index}"
            names[layer.name] = (f"features.denseblock{stage}.denselayer{block}.{part}",)
        elif match := re.fullmatch(r"transition(\d)_conv(_bn)?", layer.name):
            names[layer.name] = (f"features.transition{match[1]}.{'norm' if match[2] else 'conv'}",)
        elif layer.name == "final_bn":
            blocks = sum(1 for other in model.layers if re.fullmatch(r"transition\d_conv", other.name)) + 1
            # DenseNet-121's last norm is norm5; implementations with three blocks call it norm_final or norm5
            names[layer.name] = (f"features.norm{blocks + 1}", "features.norm5", "features.norm_final")
    return names


def _register(
    name: str, parameters: int, source: str, options: DenseNet, depths: tuple[int, ...], growth: int, **defaults: Any
) -> Any:
    last = 2 ** (len(depths) - 1)
    return register_model(
        options,
        name,
        parameters=parameters,
        source=source,
        min_size=lambda chosen: 4 * (last - 1) + 1 if chosen.stem == "imagenet" else last,
        torch_names=_torch_names,
        **defaults,
    )(partial(densenet, depths=depths, growth=growth))


densenet121 = _register(
    "densenet121",
    7_978_856,
    "Huang et al. 2017, table 1; count: torchvision's",
    DenseNet(),
    (6, 12, 24, 16),
    32,
    input_shape=(224, 224, 3),
    num_classes=1000,
)
densenet_bc100 = _register(
    "densenet_bc100",
    769_162,
    "Huang et al. 2017, table 2, DenseNet-BC (L = 100, k = 12), 0.8 M",
    DenseNet(stem="cifar"),
    (16, 16, 16),
    12,
    input_shape=(32, 32, 3),
)
