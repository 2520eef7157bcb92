"""National Taiwan University, computer vision, homework 2 (report 002): scenes without a network, and networks on CIFAR-10.

The scene recipes need --data-dir with train/ and test/, each with a folder per class.

The networks are trained as the assignment's template says: SGD with rate 0.01 and momentum 0.9, divided by ten at epochs 16, 32 and
45, weight decay 1e-6, 50 epochs, batch 32, ImageNet's mean and standard deviation, best checkpoint by validation accuracy. The
course's 20,000 training and 5,000 validation images are not public; these recipes use the 50,000 of CIFAR-10, a tenth of them for
validation. The *best* recipes train the same networks with current methods: Nesterov momentum, warmup and cosine decay, label
smoothing, weight decay of kernels only, random crops, flips and cutout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kerascv_course.config import Augmentation, Data, Optimizer, Recipe, Schedule
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes

NOT_RUN = "not run yet; about {} hours on two CPU cores at the training speed in docs/models.md; use a GPU"

_TEMPLATE = ClassificationRecipe(
    name="ntu-mynet",
    description="report 002, MyNet: GoogLeNet with one stem convolution and a longer third branch (reported: 0.8898)",
    expect=NOT_RUN.format(20),
    model="mynet",
    data=Data("cifar10", normalize_mean=(0.485, 0.456, 0.406), normalize_std=(0.229, 0.224, 0.225)),
    optimizer=Optimizer("sgd", learning_rate=0.01, momentum=0.9, weight_decay=1e-5),
    schedule=Schedule("step", milestones=(16, 32, 45)),
    epochs=50,
    batch_size=32,
    monitor="val_accuracy",
    log_style="ntu",
)


def _reported(name: str, description: str, hours: float | None, model: str, **changes: Any) -> ClassificationRecipe:
    expect = NOT_RUN.format(hours) if hours else "not run yet; use a GPU"
    return replace(_TEMPLATE, name=name, description=description, expect=expect, model=model, **changes)


def _best(recipe: ClassificationRecipe, hours: float, epochs: int = 100, **options: bool) -> ClassificationRecipe:
    """The same network with the settings that public CIFAR-10 results share (batch 128, rate 0.1, cosine, crops)."""
    return replace(
        recipe,
        name=f"{recipe.name}-best",
        description=f"{recipe.model} with better training: Nesterov, one cycle, label smoothing, crops, cutout",
        expect=NOT_RUN.format(hours),
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
    "report 002, ResNet-18 with a 3×3 stem and no first pooling, rotated images (reported: 0.8986 in training, 0.8918 by script)",
    6.9,
    "resnet18_cifar",
    augmentation=Augmentation(rotate=15),
)
_VGG16 = _reported("ntu-vgg16", "report 002, model comparison: VGG16 (reported: 0.825)", 3.6, "vgg16")
_WIDE = _reported(
    "ntu-vgg16-wide", "report 002: VGG16 with 96 channels instead of 64, and dropout (reported: 0.8316)", 4.2, "vgg16_wide"
)
_DENSENET = _reported("ntu-densenet", "report 002, model comparison: DenseNet (reported: 0.876)", 11, "densenet_bc100")

_NETWORKS = [
    _TEMPLATE,
    _RESNET18,
    _VGG16,
    _WIDE,
    replace(
        _WIDE,
        name="ntu-vgg16-wide-flip",
        description="report 002: ntu-vgg16-wide with random flips (reported: above 0.84, larger than 80 MB)",
        augmentation=Augmentation(flip=True),
    ),
    _reported("ntu-vgg19", "report 002, model comparison: VGG19 (reported: below VGG16)", 4.4, "vgg19"),
    replace(
        _reported("ntu-lenet", "report 002, model comparison: LeNet-5 (reported: below 0.84)", None, "lenet5"),
        expect="0.854 / 0.651 / 0.634 train / val / test with seed 0; 5 minutes on two CPU cores",
    ),
    _reported(
        "ntu-alexnet",
        "report 002, model comparison: AlexNet with a stem for small images (reported: below 0.84)",
        None,
        "alexnet",
        model_options={"stem": "cifar"},
    ),
    _reported(
        "ntu-googlenet",
        "report 002, model comparison: GoogLeNet with a stem for small images (reported: 0.8898, printed for MyNet as well)",
        None,
        "googlenet",
        model_options={"stem": "cifar"},
    ),
    _DENSENET,
    _best(_TEMPLATE, 39),
    _best(_RESNET18, 14),
    _best(_VGG16, 7.2, batch_norm=True),
    _best(_DENSENET, 22),
]

_IMAGES = Data("folder", image_size=(200, 200), channels=1, validation_share=0.2)
_SCALES = (4, 8, 12)


def _scenes(name: str, description: str, expect: str, scenes: Scenes, data: Data = _IMAGES) -> SceneRecipe:
    return SceneRecipe(name=name, description=description, expect=expect, data=data, scenes=scenes)


RECIPES: list[Recipe] = [
    *_NETWORKS,
    _scenes(
        "ntu-tiny-knn",
        "fifteen scenes by 16×16 pixels and the nearest neighbor (report 002, table 2)",
        "test accuracy 0.2227",
        Scenes(feature="tiny", k=1),
        Data("folder", image_size=(16, 16), channels=1, resize="lanczos", validation_share=0.2),
    ),
    _scenes(
        "ntu-tiny-knn-best",
        "fifteen scenes by 12×12 pixels and 9 neighbors, weighted by distance",
        "test accuracy 0.2287",
        Scenes(feature="tiny", tiny_norm="l2", k=9, vote="distance"),
        Data("folder", image_size=(12, 12), channels=1, resize="lanczos", validation_share=0.2),
    ),
    _scenes(
        "ntu-bag-of-sift",
        "fifteen scenes by histograms of 400 SIFT words, one per pixel, and 8 neighbors (report 002, table 3)",
        "test accuracy 0.6047; 606 s on two busy CPU cores, with part of the features cached",
        Scenes(step=1, bin_sizes=(8,), k=8),
    ),
    _scenes(
        "ntu-bag-of-sift-step3",
        "ntu-bag-of-sift with a descriptor at every third pixel (report 002, table 4)",
        "test accuracy 0.6073; 57 s on two CPU cores",
        Scenes(step=3, bin_sizes=(8,), k=8),
    ),
    _scenes(
        "ntu-bag-of-sift-best",
        "fifteen scenes by histograms of 400 SIFT words at three scales and 20 neighbors, weighted by distance",
        "test accuracy 0.6393; 2 minutes on two busy CPU cores",
        Scenes(bin_sizes=_SCALES, norm="hellinger", k=20, vote="distance"),
    ),
    _scenes(
        "ntu-pyramid-knn",
        "fifteen scenes by a spatial pyramid of SIFT words at three scales and 9 neighbors",
        "test accuracy 0.6933; 9 minutes on two busy CPU cores",
        Scenes(bin_sizes=_SCALES, levels=3, norm="hellinger", normalize_whole=True, k=9, distance="cosine"),
    ),
    _scenes(
        "ntu-bag-svm",
        "fifteen scenes by histograms of SIFT words at three scales and linear SVMs (Lazebnik et al. 2006, level 0)",
        "test accuracy 0.7420",
        Scenes(bin_sizes=_SCALES, classifier="linear", kernel="intersection", penalties=(0.3, 1.0, 3.0, 10.0)),
    ),
    _scenes(
        "ntu-pyramid-svm",
        "fifteen scenes by a spatial pyramid of 1,000 SIFT words and linear SVMs (Lazebnik et al. 2006)",
        "test accuracy 0.8073",
        Scenes(
            bin_sizes=_SCALES,
            words=1000,
            levels=3,
            normalize_whole=True,
            classifier="linear",
            kernel="intersection",
            penalties=(1.0, 3.0, 10.0, 30.0),
        ),
    ),
    _scenes(
        "ntu-fisher-svm",
        "fifteen scenes by Fisher vectors of SIFT at four scales, of the image and its quarters, and linear SVMs",
        "test accuracy 0.8567",
        Scenes(
            feature="fisher",
            step=5,
            bin_sizes=(4, 6, 8, 10),
            words=64,
            compress=64,
            levels=2,
            norm="power",
            classifier="linear",
            penalties=(1.0, 10.0, 100.0),
        ),
    ),
]
