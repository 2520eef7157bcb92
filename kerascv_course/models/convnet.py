"""The plain 5×5 CNNs of TDT4265 assignment 3 (report 001): a base network, two improved ones, and the ablation's switches.

Models 1 and 2 are the report's tables 1 and 3. Its ablation (task 3c) tries more filters, batch norm, L2, dropout, other filter
sizes, and strides instead of pooling: each is an option of all three networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction, NonNegative, OddKernel, PositiveInt, PositiveInts, Range
from kerascv_course.models.layers import Activation, Initializer, activate, batch_norm, conv, flatten, initializer, max_pool
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class ConvNet:
    """Options of the TDT4265 networks.

    Attributes:
        filters: channels of each stage; every stage halves the size.
        width: factor for `filters`, rounded, at least 1 filter.
        filter_size: height and width of the convolutions, odd; padding keeps the size.
        activation: after each convolution and the hidden dense layer.
        norm: batch norm in each stage.
        order: position of the batch norm: ``"conv-pool-norm"`` is convolution, activation, pooling, norm, as in the report's
            tables; ``"conv-norm-pool"`` is convolution, norm, activation, pooling. The parameter count is the same.
        downsampling: 2×2 ``"max_pool"``, or ``"strided_conv"``: stride 2 in the stage's last convolution.
        hidden: width of the hidden dense layer.
        hidden_norm: batch norm after it.
        dropout: fraction of its outputs set to zero in training.
        l2: weight λ of an L2 penalty λ·Σw² on every kernel, added to the loss.
        convs: convolutions per stage.
        init: initializer of every kernel; the assignment's PyTorch code has ``"lecun"``.
        include_top: False: the flattened last map, without the dense layers.
    """

    filters: PositiveInts = (32, 64, 128)
    width: Annotated[float, Range(1 / 16, 16)] = 1.0
    filter_size: OddKernel = 5
    activation: Activation = "relu"
    norm: bool = False
    order: Literal["conv-pool-norm", "conv-norm-pool"] = "conv-pool-norm"
    downsampling: Literal["max_pool", "strided_conv"] = "max_pool"
    hidden: PositiveInt = 64
    hidden_norm: bool = False
    dropout: Fraction = 0.0
    l2: NonNegative = 0.0
    convs: Annotated[int, Range(1, 4)] = 1
    init: Initializer = "glorot"
    include_top: bool = True


def tdt4265(image: Any, num_classes: int, options: ConvNet) -> Any:
    """Stages of convolution, activation and downsampling, then two dense layers: (N, H, W, C) to logits (N, num_classes)."""
    layers = keras.layers
    x = image
    # 32×32×3 -> 16×16×32 -> 8×8×64 -> 4×4×128 with the base network's filters
    for stage, count in enumerate(options.filters, start=1):
        x = _stage(x, max(1, round(count * options.width)), options, f"stage{stage}")
    x = flatten(x)
    if not options.include_top:
        return x
    x = _dense(x, options.hidden, options, "fc1")
    x = activate(x, options.activation, name=f"fc1_{options.activation}")
    if options.hidden_norm:
        x = batch_norm(x, name="fc1_norm")
    if options.dropout:
        x = layers.Dropout(options.dropout, name="dropout")(x)
    return _dense(x, num_classes, options, "logits")


def _stage(x: Any, filters: int, options: ConvNet, name: str) -> Any:
    strided = options.downsampling == "strided_conv"
    norm_first = options.norm and options.order == "conv-norm-pool"
    for index in range(1, options.convs + 1):
        suffix = f"{index}" if options.convs > 1 else ""
        stride = 2 if strided and index == options.convs else 1
        x = conv(
            x,
            filters,
            options.filter_size,
            stride=stride,
            bias=True,
            init=options.init,
            l2=options.l2,
            name=f"{name}_conv{suffix}",
        )
        if norm_first:
            x = batch_norm(x, name=f"{name}_norm{suffix}")
        x = activate(x, options.activation, name=f"{name}_{options.activation}{suffix}")
    if not strided:
        x = max_pool(x, 2, name=f"{name}_pool")
    return batch_norm(x, name=f"{name}_norm") if options.norm and not norm_first else x


def _dense(x: Any, units: int, options: ConvNet, name: str) -> Any:
    l2 = keras.regularizers.L2(options.l2) if options.l2 else None
    return keras.layers.Dense(units, kernel_initializer=initializer(options.init), kernel_regularizer=l2, name=name)(x)


def _smallest(options: ConvNet) -> int:
    # pooling rounds down and a strided convolution up; both need a map of at least 2
    stages = len(options.filters)
    return 1 << stages if options.downsampling == "max_pool" else (1 << stages - 1) + 1


def _register(name: str, parameters: int, source: str, options: ConvNet) -> Any:
    return register_model(
        options,
        name,
        input_shape=(32, 32, 3),
        parameters=parameters,
        source=f"TDT4265 assignment 3, {source}",
        min_size=_smallest,
    )(tdt4265)


tdt4265_base = _register(
    "tdt4265_base",
    390_410,
    "task 2 (2,432+51,264+204,928+131,136+650; the report prints 148,810, which is wrong)",
    ConvNet(),
)
tdt4265_model1 = _register(
    "tdt4265_model1",
    1_293_130,
    "table 1; the place of the 20 % dropout (before the last layer) and λ = 1e-4 are our reading",
    ConvNet(filters=(64, 128, 256), norm=True, hidden_norm=True, dropout=0.2, l2=1e-4),
)
tdt4265_model2 = _register("tdt4265_model2", 4_633_290, "table 3", ConvNet(filters=(128, 256, 512), norm=True, dropout=0.6))
