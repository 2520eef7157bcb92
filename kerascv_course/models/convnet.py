"""The plain 5×5 CNNs of TDT4265 assignment 3 (report 001): a base network, two improved ones, and the ablation's switches.

Model 1 and model 2 are the report's tables 1 and 3. Its ablation (task 3c) tried more filters, batch norm, L2, dropout, other
filter sizes, and strides for pooling: each is a switch of all three networks.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Count, Counts, OddKernel, Range, Share, Weight
from kerascv_course.models.layers import Activation, Initializer, activate, batch_norm, conv, initializer, max_pool
from kerascv_course.models.registry import register_model


def tdt4265(
    image: Any,
    num_classes: int,
    *,
    filters: Counts = (32, 64, 128),
    width: Annotated[float, Range(1 / 16, 16)] = 1.0,
    filter_size: OddKernel = 5,
    activation: Activation = "relu",
    norm: bool = False,
    order: Literal["conv-pool-norm", "conv-norm-pool"] = "conv-pool-norm",
    downsampling: Literal["max_pool", "strided_conv"] = "max_pool",
    hidden: Count = 64,
    hidden_norm: bool = False,
    dropout: Share = 0.0,
    l2: Weight = 0.0,
    convs: Annotated[int, Range(1, 4)] = 1,
    init: Initializer = "glorot",
    include_top: bool = True,
) -> Any:
    """Stages of convolution, activation and halving, then two dense layers: (N, H, W, C) to logits (N, num_classes).

    Args:
        image: float tensor (N, H, W, C); 32×32×3 in the assignment.
        num_classes: width of the output layer.
        filters: channels of each stage; their number is the number of halvings.
        width: what `filters` are multiplied by, rounded, at least 1.
        filter_size: height and width of the convolutions, odd; the size is kept (padding ⌊filter_size/2⌋).
        activation: after each convolution and the hidden dense layer.
        norm: batch norm in each stage.
        order: where it stands: ``"conv-pool-norm"`` is convolution, activation, pool, norm, as the report's tables have it;
            ``"conv-norm-pool"`` is convolution, norm, activation, pool. The count is the same.
        downsampling: ``"max_pool"`` 2×2, or ``"strided_conv"``: the stage's last convolution has stride 2 and nothing is
            pooled.
        hidden: width of the dense layer before the last.
        hidden_norm: batch norm after it.
        dropout: share of its outputs set to zero while training.
        l2: weight of the L2 penalty on every kernel (λ·Σw², added to the loss by Keras).
        convs: convolutions in a stage.
        init: how every kernel starts; ``"lecun"`` is what the assignment's PyTorch does.
        include_top: False: the flattened last map, without the dense layers.
    """
    layers = keras.layers
    strided = downsampling == "strided_conv"
    x = image
    # 32×32×3 -> 16×16×32 -> 8×8×64 -> 4×4×128 with the base network's filters
    for stage, channels in enumerate((max(1, round(count * width)) for count in filters), start=1):
        for index in range(1, convs + 1):
            suffix = f"{index}" if convs > 1 else ""
            last = index == convs
            x = conv(
                x,
                channels,
                filter_size,
                stride=2 if strided and last else 1,
                bias=True,
                init=init,
                l2=l2,
                name=f"stage{stage}_conv{suffix}",
            )
            if norm and order == "conv-norm-pool":
                x = batch_norm(x, name=f"stage{stage}_norm{suffix}")
            x = activate(x, activation, name=f"stage{stage}_{activation}{suffix}")
        if not strided:
            x = max_pool(x, 2, name=f"stage{stage}_pool")
        if norm and order == "conv-pool-norm":
            x = batch_norm(x, name=f"stage{stage}_norm")
    x = layers.Flatten(name="flatten")(x)
    if not include_top:
        return x
    x = _dense(x, hidden, l2, init, "fc1")
    x = activate(x, activation, name=f"fc1_{activation}")
    if hidden_norm:
        x = batch_norm(x, name="fc1_norm")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return _dense(x, num_classes, l2, init, "logits")


def _dense(x: Any, units: int, l2: float, init: Initializer, name: str) -> Any:
    regularizer = keras.regularizers.L2(l2) if l2 else None
    return keras.layers.Dense(units, kernel_initializer=initializer(init), kernel_regularizer=regularizer, name=name)(x)


def _smallest(*, filters: tuple[int, ...], downsampling: str, **_: Any) -> int:
    # A pool rounds down and a strided convolution up; either needs a map of 2 or more.
    return 2 ** len(filters) if downsampling == "max_pool" else 2 ** (len(filters) - 1) + 1


def _register(name: str, parameters: int, source: str, **switches: Any) -> Any:
    return register_model(
        name=name,
        input_shape=(32, 32, 3),
        parameters=parameters,
        source=f"TDT4265 assignment 3, {source}",
        min_size=_smallest,
    )(partial(tdt4265, **switches))


tdt4265_base = _register(
    "tdt4265_base",
    390_410,
    "task 2 (2,432+51,264+204,928+131,136+650; the report prints 148,810, which is wrong)",
)
tdt4265_model1 = _register(
    "tdt4265_model1",
    1_293_130,
    "table 1; the place of the 20 % dropout (before the last layer) and λ = 1e-4 are our reading",
    filters=(64, 128, 256),
    norm=True,
    hidden_norm=True,
    dropout=0.2,
    l2=1e-4,
)
tdt4265_model2 = _register(
    "tdt4265_model2",
    4_633_290,
    "table 3",
    filters=(128, 256, 512),
    norm=True,
    dropout=0.6,
)
