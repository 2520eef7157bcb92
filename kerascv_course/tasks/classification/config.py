"""Recipe of the task classify; no Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kerascv_course.config import TrainedRecipe
from kerascv_course.core.schema import Fraction, NonNegativeInt, check_fields

__all__ = ["RECIPE", "Classification", "ClassificationRecipe"]


@dataclass(frozen=True)
class Classification:
    """Image classification."""

    label_smoothing: Fraction = 0.0
    """Label smoothing, 0 to below 1."""
    tta: Literal["none", "flip", "flip-translate"] = "none"
    """Test-time augmentation: average over the image, its mirror image and, with translate, both shifted by a pixel. Part of the
    exported graph."""
    resize: NonNegativeInt = 0
    """Resize images to this side length before the network, inside the graph; 0 keeps their size."""

    def __post_init__(self) -> None:
        check_fields(self, "classification")


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(TrainedRecipe):
    """A recipe of the task classify."""

    task: str = field(default="classify", init=False)
    classification: Classification = field(default_factory=Classification)
    """Classification."""


RECIPE = ClassificationRecipe
