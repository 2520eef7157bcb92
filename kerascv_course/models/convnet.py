"""The plain 5×5 CNNs of TDT4265 assignment 3 (report 001): a base network and two improved ones."""

from __future__ import annotations

from typing import Any

from kerascv_course.lazy import keras
from kerascv_course.registry import register_model


@register_model(
    input_shape=(32, 32, 3),
    parameters=390_410,
    source="TDT4265 assignment 3, task 2 (2,432+51,264+204,928+131,136+650; the report prints 148,810, which is wrong)",
    min_size=8,
)
def tdt4265_base(image: Any, num_classes: int) -> Any:
    """Base network, three times (5×5 convolution, ReLU, 2×2 max-pool) and two dense layers: (N, H, W, C) to logits.

    Args:
        image: float tensor (N, H, W, C); 32×32×3 in the assignment.
        num_classes: width of the output layer.
    """
    layers = keras.layers
    x = image
    # 32×32×3 -> 16×16×32 -> 8×8×64 -> 4×4×128
    for stage, filters in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(filters, 5, padding="same", name=f"stage{stage}_conv")(x)
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, name="fc1")(x)
    x = layers.ReLU(name="fc1_relu")(x)
    return layers.Dense(num_classes, name="logits")(x)
