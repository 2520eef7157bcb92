"""Recipe of the task scenes; no Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import NonNegative, NonNegativeInt, Positive, PositiveInt, Range, check_fields

__all__ = ["RECIPE", "SceneRecipe", "Scenes"]


@dataclass(frozen=True)
class Scenes:
    """Scene recognition without a network: image features and a classifier."""

    feature: Literal["tiny", "bag", "vlad", "fisher"] = "bag"
    """tiny: pixels at data.image_size; bag: histogram of SIFT words; vlad: VLAD; fisher: Fisher vector."""
    center: bool = True
    """tiny: subtract the mean of the image."""
    tiny_norm: Literal["none", "l1", "l2"] = "l1"
    """tiny: normalization of the pixels."""
    step: PositiveInt = 4
    """SIFT: distance between descriptors, pixels."""
    bin_sizes: Annotated[tuple[Annotated[int, Range(1, 14)], ...], Range(1)] = (4,)
    """SIFT: side length of a spatial bin for each scale, pixels; a descriptor has 4x4 bins."""
    window: Literal["triangular", "gaussian"] = "triangular"
    """SIFT: weighting of the pixels around the center of a bin."""
    smooth: NonNegativeInt = 0
    """SIFT: number of smoothing passes over the image, each adding a variance of half a pixel."""
    contrast: NonNegative = 0.0
    """SIFT: zero descriptors with less contrast than this, in gray levels per pixel."""
    color: Literal["gray", "rgb", "opponent"] = "gray"
    """SIFT of RGB images: on luma, on each channel, or on opponent colors."""
    samples: PositiveInt = 100_000
    """Number of descriptors to learn the vocabulary from."""
    words: PositiveInt = 400
    """Vocabulary size; for fisher, number of mixture components."""
    vocabulary_seed: NonNegativeInt = 0
    """Random seed of sampling and k-means, separate from the recipe's seed so that runs share their vocabulary."""
    compress: NonNegativeInt = 0
    """Reduce RootSIFT descriptors to this many dimensions by PCA; 0 disables it."""
    soft: NonNegative = 0.0
    """bag: Gaussian width of soft assignment (descriptors have norm 512); 0 assigns to the nearest word."""
    levels: Annotated[int, Range(1, 4)] = 1
    """Levels of the spatial pyramid, 1 to 4; 1 is the whole image."""
    pyramid_weights: bool = True
    """Weight the levels of the pyramid as Lazebnik et al. do."""
    norm: Literal["none", "l1", "l2", "hellinger", "power"] = "l1"
    """Normalization of each pyramid cell; hellinger: square root of L1; power: signed square root, then L2."""
    normalize_whole: bool = False
    """Normalize all cells by the sum of the whole image."""
    classifier: Literal["knn", "linear"] = "knn"
    """k nearest neighbors, or linear support vector machines."""
    k: PositiveInt = 1
    """knn: number of neighbors."""
    distance: Literal["euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection"] = "cityblock"
    """knn: distance."""
    power: Positive = 3.0
    """knn: p of the Minkowski distance."""
    vote: Literal["mode", "nearest", "distance"] = "mode"
    """knn: majority vote with ties to the first class (mode) or the nearest neighbor, or votes weighted by 1/distance."""
    kernel: Literal["linear", "intersection", "chi2"] = "linear"
    """linear: kernel, approximated by a feature map unless linear."""
    penalties: Annotated[tuple[Positive, ...], Range(1)] = (1.0,)
    """linear: values of C to choose from on the validation split."""
    refit: bool = True
    """Fit the final classifier to training and validation images together."""

    def __post_init__(self) -> None:
        check_fields(self, "scenes")
        if self.kernel != "linear" and (self.feature != "bag" or self.norm not in ("l1", "none")):
            raise InputError(
                f"scenes.kernel {self.kernel} compares histograms and requires the feature bag with norm l1 or none; received "
                f"{self.feature} with {self.norm}"
            )
        if self.soft and self.feature != "bag":
            raise InputError(f"scenes.soft requires the feature bag; received it for {self.feature}: leave it 0")
        signed = self.feature in ("vlad", "fisher")
        if signed and self.norm in ("l1", "hellinger"):
            raise InputError(
                f"scenes.norm of {self.feature} must be none, l2 or power, because its values are signed; received {self.norm}"
            )
        if (signed or self.feature == "tiny") and self.classifier == "knn" and self.distance in ("chi2", "intersection"):
            raise InputError(f"scenes.distance {self.distance} compares histograms; received it for {self.feature}")


@dataclass(frozen=True, kw_only=True)
class SceneRecipe(Recipe):
    """A recipe of the task scenes, which has no network."""

    task: str = field(default="scenes", init=False)
    scenes: Scenes = field(default_factory=Scenes)
    """Scene recognition."""


RECIPE = SceneRecipe
