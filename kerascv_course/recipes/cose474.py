"""Korea University, COSE474, project 2 (report 003): VGG16 and a shortened ResNet-50 on CIFAR-10.

As reported: Adam with rate 1e-3, divided by three every 20 epochs, batch 100, random crops after padding by 4, random flips,
CIFAR-10's mean and standard deviation, cross-entropy; 250 and 285 epochs, then one more: ``--resume RUN --epochs 251``. The course
trains on all 50,000 images and monitors the test images; here 1,000 images are held out and the last checkpoint is used.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe

NOT_RUN = "not run yet; about {} hours on two CPU cores at the training speed in docs/models.md; use a GPU"

_VGG16 = ClassificationRecipe(
    name="cose474-vgg16",
    description="report 003: VGG16 with a small head (reported: 86.05 % after 250 + 1 epochs)",
    expect=NOT_RUN.format(17),
    model="vgg16_cose474",
    data=Data(
        "cifar10", validation_share=0.02, normalize_mean=(0.4914, 0.4822, 0.4465), normalize_std=(0.2023, 0.1994, 0.2010)
    ),
    augmentation=Augmentation(flip=True, translate=4),
    optimizer=Optimizer("adam", learning_rate=1e-3),
    schedule=Schedule("step", milestones=tuple(range(20, 300, 20)), factor=1 / 3),
    epochs=250,
    batch_size=100,
    monitor="last",
    log_style="cose474",
)
_RESNET50 = replace(
    _VGG16,
    name="cose474-resnet50",
    description="report 003: ResNet-50 without its last stage (reported: 82.78 % after 285 + 1 epochs)",
    expect=NOT_RUN.format(14),
    model="resnet50_cose474",
    epochs=285,
)


def _best(recipe: ClassificationRecipe, hours: float, epochs: int, **options: bool) -> ClassificationRecipe:
    return replace(
        recipe,
        name=f"{recipe.name}-best",
        description=f"{recipe.model} with better training: Nesterov, one cycle, label smoothing, cutout",
        expect=NOT_RUN.format(hours),
        model_options={**recipe.model_options, **options},
        augmentation=Augmentation(flip=True, translate=4, border="reflect", cutout=8),
        optimizer=Optimizer("sgd", learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-3, decay_norms=False),
        schedule=Schedule("cosine", warmup_epochs=0.1 * epochs),
        classification=Classification(label_smoothing=0.1),
        epochs=epochs,
        log_style="full",
        precision="auto",
        fused=True,
    )


RECIPES = [_VGG16, _RESNET50, _best(_VGG16, 6.7, 100, batch_norm=True), _best(_RESNET50, 7.6, 150)]
