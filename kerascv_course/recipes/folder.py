"""Your own pictures: a folder of class folders."""

from __future__ import annotations

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.classification.config import ClassificationRecipe

RECIPES = [
    ClassificationRecipe(
        name="folder-classify",
        description="your own pictures: --data-dir FOLDER with one folder a class (or train/, val/ and test/ of such folders)",
        expect="depends on the pictures",
        model="tdt4265_base",
        data=Data("folder", image_size=(64, 64)),
        augmentation=Augmentation(flip=True, translate=6),
        optimizer=Optimizer("adam", learning_rate=1e-3),
        schedule=Schedule("cosine"),
        epochs=40,
        batch_size=32,
    ),
]
