"""The embedded default: real handwritten digits, no download, done in a minute."""

from __future__ import annotations

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe

RECIPES = [
    ClassificationRecipe(
        name="lenet5-digits",
        description="LeNet-5 on the 1,797 handwritten digits that come with scikit-learn",
        expect="test accuracy 0.997 with seed 0 (0.997 to 1.0 over seeds 0 to 3 in a trial); 13 s of training on two CPU cores, no GPU",
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
]
