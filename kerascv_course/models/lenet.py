"""LeNet-5.

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86(11), 1998,
section II.B and figure 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction
from kerascv_course.models.layers import Activation, flatten
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class LeNet:
    """Options of LeNet-5.

    Attributes:
        activation: after each convolution and dense layer; the paper's is ``"tanh"``.
        pooling: ``"max"``, or ``"average"`` as in the paper.
        dropout: fraction of F6's outputs set to zero in training.
        include_top: False: the flattened last map, without the dense layers.
    """

    activation: Activation = "relu"
    pooling: Literal["max", "average"] = "max"
    dropout: Fraction = 0.0
    include_top: bool = True


@register_model(
    LeNet(),
    input_shape=(32, 32, 1),
    parameters=61_706,
    source="LeCun et al. 1998, figure 2, with C3 connected to all of S2 and a dense output layer",
    min_size=16,
)
def lenet5(image: Any, num_classes: int, options: LeNet) -> Any:
    """LeNet-5: (N, H, W, C) to logits (N, num_classes); 32×32×1 in the paper.

    Departures from the paper, as usual today: C3 sees every map of S2 (the paper connects a subset, table I), pooling has no
    weights, ReLU instead of scaled tanh, softmax instead of RBF units.
    """
    layers = keras.layers
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[options.pooling]
    activation = options.activation

    # C1, S2: 32×32 -> 28×28×6 -> 14×14×6
    x = layers.Conv2D(6, 5, activation=activation, name="c1")(image)
    x = pool(2, name="s2")(x)
    # C3, S4: 10×10×16 -> 5×5×16
    x = layers.Conv2D(16, 5, activation=activation, name="c3")(x)
    x = pool(2, name="s4")(x)
    # C5 is a convolution over the whole 5×5 map, i.e. a dense layer: 120
    x = flatten(x)
    if not options.include_top:
        return x
    x = layers.Dense(120, activation=activation, name="c5")(x)
    # F6: 84
    x = layers.Dense(84, activation=activation, name="f6")(x)
    if options.dropout:
        x = layers.Dropout(options.dropout, name="dropout")(x)
    return layers.Dense(num_classes, name="logits")(x)
