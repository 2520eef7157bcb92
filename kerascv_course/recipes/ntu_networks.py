"""National Taiwan University, computer vision, homework 2, part 2 (report 002): the networks it compares on CIFAR-10.

As reported means the assignment's template: SGD with rate 0.01 and momentum 0.9, a tenth of it from epochs 16, 32 and 45 on, weight
decay 1e-6, 50 epochs, batch 32, ImageNet's mean and standard deviation, best checkpoint by validation accuracy. The course's images
are 20,000 for training and 5,000 for validation, which are not public; here they are CIFAR-10's 50,000, a tenth for validation.

The *best* flavours train the same networks as one does today: Nesterov momentum, warm-up and cosine, label smoothing, decay of
kernels only, random crops, mirror images, cutout.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.recipes.hours import not_run
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe

_TEMPLATE = ClassificationRecipe(
    name="ntu-mynet",
    description="report 002, MyNet: GoogLeNet with one stem convolution and a longer third branch (reported: 0.8898)",
    expect=not_run(images_a_second=31.8, epochs=50),
    model="mynet",
    data=Data("cifar10", normalize_mean=(0.485, 0.456, 0.406), normalize_std=(0.229, 0.224, 0.225)),
    optimizer=Optimizer("sgd", learning_rate=0.01, momentum=0.9, weight_decay=1e-5),
    schedule=Schedule("step", milestones=(16, 32, 45)),
    epochs=50,
    batch_size=32,
    monitor="val_accuracy",
    log_style="ntu",
)


def _reported(name: str, description: str, speed: float | None, model: str, **changes: object) -> ClassificationRecipe:
    expect = not_run(images_a_second=speed, epochs=_TEMPLATE.epochs)
    return replace(_TEMPLATE, name=name, description=description, expect=expect, model=model, **changes)  # type: ignore[arg-type]


def _best(recipe: ClassificationRecipe, speed: float, epochs: int = 100, **options: bool) -> ClassificationRecipe:
    """The same network at its best: after the settings that CIFAR-10's public figures share (batch 128, rate 0.1, cosine, crops)."""
    return replace(
        recipe,
        name=f"{recipe.name}-best",
        description=f"{recipe.model} trained at its best: Nesterov, one cycle, label smoothing, crops, cutout",
        expect=not_run(images_a_second=speed, epochs=epochs),
        model_options={**recipe.model_options, **options},
        optimizer=Optimizer("sgd", learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=5e-3, decay_norms=False),
        schedule=Schedule("cosine", warmup_epochs=0.1 * epochs),
        augmentation=Augmentation(flip=True, translate=4, border="reflect", cutout=8),
        classification=Classification(label_smoothing=0.1),
        epochs=epochs,
        batch_size=128,
        log_style="full",
        precision="auto",
        fused=True,
    )


_RESNET18 = _reported(
    "ntu-resnet18",
    "report 002, ResNet-18 with a 3×3 stem and no first pooling, pictures turned (reported: 0.8986 in training, 0.8918 by script)",
    91.0,
    "resnet18_cifar",
    augmentation=Augmentation(rotate=15),
)
_VGG16 = _reported("ntu-vgg16", "report 002, model comparison: VGG16 (reported: 0.825)", 172.7, "vgg16")
_WIDE = _reported(
    "ntu-vgg16-wide", "report 002: VGG16 with 96 channels for 64, dropout (reported: 0.8316)", 148.1, "vgg16_wide"
)
_DENSENET = _reported("ntu-densenet", "report 002, model comparison: DenseNet (reported: 0.876)", 56.1, "densenet_bc100")

RECIPES = [
    _TEMPLATE,
    _RESNET18,
    _VGG16,
    _WIDE,
    replace(
        _WIDE,
        name="ntu-vgg16-wide-flip",
        description="report 002: the same with mirrored pictures (reported: above 0.84, larger than 80 MB)",
        augmentation=Augmentation(flip=True),
    ),
    _reported("ntu-vgg19", "report 002, model comparison: VGG19 (reported: below VGG16)", 140.7, "vgg19"),
    replace(
        _reported("ntu-lenet", "report 002, model comparison: LeNet-5 (reported: below 0.84)", None, "lenet5"),
        expect="0.854 / 0.651 / 0.634 train / val / test with seed 0; 5 minutes on two CPU cores, no GPU",
    ),
    _reported(
        "ntu-alexnet",
        "report 002, model comparison: AlexNet with a stem for small pictures (reported: below 0.84)",
        None,
        "alexnet",
        model_options={"stem": "cifar"},
    ),
    _reported(
        "ntu-googlenet",
        "report 002, model comparison: GoogLeNet with a stem for small pictures (reported: 0.8898, printed for MyNet as well)",
        None,
        "googlenet",
        model_options={"stem": "cifar"},
    ),
    _DENSENET,
    _best(_TEMPLATE, 31.8),
    _best(_RESNET18, 91.0),
    _best(_VGG16, 172.7, batch_norm=True),
    _best(_DENSENET, 56.1),
]
