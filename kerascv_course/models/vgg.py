"""VGG, and two variants from course reports.

Simonyan, Zisserman: "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1, columns D
(VGG-16) and E (VGG-19). Counts: table 2 gives 138 and 144 million; exactly, 138,357,544 and 143,667,240.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction, PositiveInts
from kerascv_course.models.layers import batch_norm, conv_bn_relu, flatten, max_pool
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class VGG:
    """Options of a VGG network. The default head is the paper's; ``head=(512,)`` is common for CIFAR.

    Attributes:
        batch_norm: batch norm between each convolution and its ReLU (not in the paper; the convolutions keep their biases).
        head: widths of the hidden dense layers.
        head_norm: batch norm between each hidden dense layer and its ReLU.
        dropout: fraction set to zero in training, once per hidden dense layer.
        dropout_at: ``"after"`` each hidden layer (the paper), or ``"before"`` the first and after each.
        include_top: False: the flattened last map, without the dense layers.
    """

    batch_norm: bool = False
    head: PositiveInts = (4096, 4096)
    head_norm: bool = False
    dropout: Fraction = 0.5
    dropout_at: Literal["after", "before"] = "after"
    include_top: bool = True


def vgg(image: Any, num_classes: int, options: VGG, *, widths: tuple[tuple[int, ...], ...]) -> Any:
    """VGG: (N, H, W, C) to logits (N, num_classes), for images of 32×32 pixels or more.

    The first dense layer takes the last map whatever its size: 7×7 at 224×224 (25,088 values), 1×1 at 32×32 (512 values).

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        options: of the network.
        widths: filters of each convolution, a tuple per stage; each stage ends in 2×2 max pooling.
    """
    layers = keras.layers
    x = image
    # 224×224 -> 112×112×64 -> 56×56×128 -> 28×28×256 -> 14×14×512 -> 7×7×512
    for stage, filters in enumerate(widths, start=1):
        for index, width in enumerate(filters, start=1):
            x = conv_bn_relu(x, width, 3, bias=True, norm=options.batch_norm, name=f"stage{stage}_conv{index}")
        x = max_pool(x, 2, name=f"stage{stage}_pool")
    x = flatten(x)
    if not options.include_top:
        return x

    if options.dropout and options.dropout_at == "before":
        x = layers.Dropout(options.dropout, name="flatten_dropout")(x)
    for index, units in enumerate(options.head, start=1):
        x = _hidden(x, units, norm=options.head_norm, dropout=options.dropout, name=f"fc{index}")
    return layers.Dense(num_classes, name="logits")(x)


def _hidden(x: Any, units: int, *, norm: bool, dropout: float, name: str) -> Any:
    layers = keras.layers
    x = layers.Dense(units, kernel_initializer="he_normal", name=name)(x)
    if norm:
        x = batch_norm(x, name=f"{name}_bn")
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x


def _torch_names(model: Any) -> dict[str, tuple[str, ...]]:
    """``features.N`` counts convolutions, norms, ReLUs and pooling; ``classifier.N`` dense layers, norms, ReLUs and dropout."""
    names: dict[str, tuple[str, ...]] = {}
    counts = {"features": 0, "classifier": 0}
    part = "features"
    hidden = [layer.name for layer in model.layers if layer.name.startswith("fc") and layer.name[2:].isdigit()]
    dropout = any(layer.name.endswith("dropout") for layer in model.layers)
    for layer in model.layers:
        if layer.name == "image":
            continue
        if layer.name == "flatten":
            part = "classifier"
            continue
        if part == "classifier" and not dropout and layer.name in (*hidden[1:], "logits"):
            counts[part] += 1  # checkpoints count dropout even where the model has none
        index = counts[part]
        counts[part] += 1
        if layer.weights:
            names[layer.name] = (f"{part}.{index}",)
    # timm's names of the same layers, as convolutions
    for index, name in enumerate(hidden, start=1):
        names[name] += (f"pre_logits.fc{index}",)
    if "logits" in names:
        names["logits"] += ("head.fc",)
    return names


_D = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
_E = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def _register(
    name: str, parameters: int, source: str, options: VGG, widths: tuple[tuple[int, ...], ...], *, imagenet: bool = False
) -> Any:
    return register_model(
        options,
        name,
        input_shape=(224, 224, 3) if imagenet else (32, 32, 3),
        num_classes=1000 if imagenet else 10,
        parameters=parameters,
        source=source,
        min_size=32,
        torch_names=_torch_names,
    )(partial(vgg, widths=widths))


_PAPER = "Simonyan and Zisserman 2015, table 2, and table 1 column"
vgg16 = _register("vgg16", 138_357_544, f"{_PAPER} D", VGG(), _D, imagenet=True)
vgg19 = _register("vgg19", 143_667_240, f"{_PAPER} E", VGG(), _E, imagenet=True)
vgg16_wide = _register(
    "vgg16_wide",
    33_722_090,
    "report 002 section 2.4 (first two convolutions 96 wide, dropout, at 32×32), which prints no count; "
    "by hand: 14,798,560 in convolutions + 18,923,530 in dense layers",
    VGG(),
    ((96, 96), *_D[1:]),
)
vgg16_cose474 = _register(
    "vgg16_cose474",
    14_983_498,
    "COSE474 project 2 (report 003), starter code: 13 convolutions, dropout, 512→512 with batch norm, dropout, 512→10",
    VGG(head=(512,), head_norm=True, dropout_at="before"),
    _D,
)
