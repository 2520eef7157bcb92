"""Scenes without a network and CIFAR-10 networks: report 002."""

from __future__ import annotations

from kerascv_course.recipe import Data, Recipe, Scenes

RECIPES = [
    Recipe(
        name="ntu-tiny-knn",
        description="fifteen scenes from pictures of 16×16 pixels and the nearest neighbour (report 002, table 2); --data-dir scene15",
        expect="to be measured",
        model="",
        task="scenes",
        data=Data("folder", image_size=(16, 16), channels=1, resize="lanczos", validation_share=0.2),
        scenes=Scenes(feature="tiny", k=1),
        monitor="val_accuracy",
    ),
]
