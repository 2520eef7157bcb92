"""Recipe of the task colorize; no Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from kerascv_course.config import TrainedRecipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import NonNegativeInt, Probability, Range, check_fields

__all__ = ["RECIPE", "Colorization", "ColorizationRecipe"]


@dataclass(frozen=True)
class Colorization:
    """Colorization: palette, input, loss and decoding."""

    palette: str | None = None
    """Palette file, .npy or CSV, with rows of red, green, blue, 0-255; by default k-means on the training pixels."""
    colors: Annotated[int, Range(2, 256)] = 24
    """Number of k-means colors."""
    palette_seed: NonNegativeInt = 0
    """Random seed of k-means, separate from the recipe's seed so that runs with different seeds share their palette."""
    input: Literal["gray", "small"] = "gray"
    """gray: grayscale image; small: downscaled color image, for super-resolution."""
    shrink: Literal[2, 4, 8] = 4
    """Downscaling factor of the input small."""
    rebalance: Probability = 0.0
    """Loss weight of rare colors, from 0 (by pixel) to 1 (by color): 1 - lambda in Zhang et al. 2016, equation 4."""
    decode: Literal["argmax", "annealed-mean"] = "argmax"
    """Color of a pixel: the most likely one, or the annealed mean (Zhang et al. 2016, equation 5)."""
    temperature: Annotated[float, Range(above=0, most=1)] = 0.38
    """Temperature of the annealed mean, above 0 and at most 1."""
    keep_gray: bool = False
    """Shift each predicted color so that its gray level equals the input's."""

    def __post_init__(self) -> None:
        check_fields(self, "colorization")
        if self.keep_gray and self.input != "gray":
            raise InputError(f"colorization.keep_gray requires the input gray; received it for {self.input}: omit it")


@dataclass(frozen=True, kw_only=True)
class ColorizationRecipe(TrainedRecipe):
    """A recipe of the task colorize."""

    task: str = field(default="colorize", init=False)
    colorization: Colorization = field(default_factory=Colorization)
    """Colorization."""


RECIPE = ColorizationRecipe
