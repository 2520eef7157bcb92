"""CIFAR-10 in minutes without a GPU: `fastnet`, Muon, bfloat16 where the processor has it.

After Jordan's airbench94_muon ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024), with smaller batches, as two cores do not
need large ones. The rates are that source's, which are per image of a batch, times the batch size where it has them so.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe

_FAST = ClassificationRecipe(
    name="fastnet-cifar10",
    description="94 % on CIFAR-10 in minutes on two CPU cores: whitened patches, six convolutions, Muon",
    expect="test accuracy 0.940 ± 0.001 over seeds 0, 1, 2; 9.4 minutes of training on two CPU cores with bfloat16, no GPU",
    model="fastnet",
    data=Data(
        "cifar10",
        validation_share=0.02,
        normalize_mean=(0.4914, 0.4822, 0.4465),
        normalize_std=(0.2470, 0.2435, 0.2616),
    ),
    augmentation=Augmentation(alternating_flip=True, translate=2, border="reflect"),
    optimizer=Optimizer(
        "muon", learning_rate=0.24, momentum=0.6, nesterov=True, norm_rate=53.0, head_rate=0.01, weight_decay=0.055
    ),
    schedule=Schedule("linear"),
    classification=Classification(label_smoothing=0.2, tta="flip-translate"),
    epochs=10,
    batch_size=1000,
    monitor="last",
    precision="auto",
    fused=True,
)

RECIPES = [
    _FAST,
    replace(
        _FAST,
        name="fastnet-cifar10-small",
        description="90 % on CIFAR-10 in two minutes on two CPU cores: fastnet at half the width",
        expect="test accuracy 0.908 ± 0.002 over seeds 0, 1, 2; 2 minutes of training on two CPU cores with bfloat16, no GPU",
        model_options={"width": 32},
        optimizer=replace(_FAST.optimizer, norm_rate=26.0, head_rate=0.02, weight_decay=0.0275),
        epochs=6,
        batch_size=500,
    ),
]
