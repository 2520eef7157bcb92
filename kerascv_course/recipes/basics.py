"""Recipes that belong to no course report: the default, CIFAR-10 in minutes on a CPU, and your own images.

`fastnet` follows Jordan's airbench94_muon ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024) with smaller batches, which suit
two CPU cores. Its rates per image are multiplied by the batch size here.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe

_FASTNET = ClassificationRecipe(
    name="fastnet-cifar10",
    description="94 % on CIFAR-10 in minutes on two CPU cores: whitened patches, six convolutions, Muon",
    expect="test accuracy 0.940 ± 0.001 over seeds 0, 1, 2; 9.4 minutes of training on two CPU cores with bfloat16",
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
    ClassificationRecipe(
        name="lenet5-digits",
        description="LeNet-5 on the 1,797 handwritten digits that come with scikit-learn",
        expect="test accuracy 0.997 with seed 0 (0.997 to 1.0 over seeds 0 to 3 in a trial); 13 s of training on two CPU cores",
        model="lenet5",
        data=Data("digits", channels=1, validation_share=0.2, test_share=0.2),
        model_options={"dropout": 0.3},
        augmentation=Augmentation(translate=3),
        classification=Classification(label_smoothing=0.1),
        optimizer=Optimizer("adam", learning_rate=3e-3),
        schedule=Schedule("cosine"),
        epochs=100,
        batch_size=32,
    ),
    _FASTNET,
    replace(
        _FASTNET,
        name="fastnet-cifar10-small",
        description="90 % on CIFAR-10 in two minutes on two CPU cores: fastnet at half the width",
        expect="test accuracy 0.908 ± 0.002 over seeds 0, 1, 2; 2 minutes of training on two CPU cores with bfloat16",
        model_options={"width": 32},
        optimizer=replace(_FASTNET.optimizer, norm_rate=26.0, head_rate=0.02, weight_decay=0.0275),
        epochs=6,
        batch_size=500,
    ),
    ClassificationRecipe(
        name="folder-classify",
        description="your own images: --data-dir FOLDER with a folder per class, or train/, val/ and test/ with such folders",
        expect="depends on the images",
        model="tdt4265_base",
        data=Data("folder", image_size=(64, 64)),
        augmentation=Augmentation(flip=True, translate=6),
        optimizer=Optimizer("adam", learning_rate=1e-3),
        schedule=Schedule("cosine"),
        epochs=40,
        batch_size=32,
    ),
]
