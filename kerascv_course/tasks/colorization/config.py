"""Recipe of the task colorize; no Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kerascv_course.config import TrainedRecipe, require
from kerascv_course.core.errors import InputError

__all__ = ["RECIPE", "Colorization", "ColorizationRecipe"]


@dataclass(frozen=True)
class Colorization:
    """Colorization: palette, input, loss and decoding."""

    palette: str | None = None
    """Palette file, .npy or CSV, with rows of red, green, blue, 0-255; by default k-means on the training pixels."""
    colors: int = 24
    """Number of k-means colors."""
    palette_seed: int = 0
    """Random seed of k-means, separate from the recipe's seed so that runs with different seeds share their palette."""
    input: Literal["gray", "small"] = "gray"
    """gray: grayscale image; small: downscaled color image, for super-resolution."""
    shrink: Literal[2, 4, 8] = 4
    """Downscaling factor of the input small."""
    rebalance: float = 0.0
    """Loss weight of rare colors, from 0 (by pixel) to 1 (by color): 1 - lambda in Zhang et al. 2016, equation 4."""
    decode: Literal["argmax", "annealed-mean"] = "argmax"
    """Color of a pixel: the most likely one, or the annealed mean (Zhang et al. 2016, equation 5)."""
    temperature: float = 0.38
    """Temperature of the annealed mean, above 0 and at most 1."""
    keep_gray: bool = False
    """Shift each predicted color so that its gray level equals the input's."""

    def __post_init__(self) -> None:
        require(2 <= self.colors <= 256, "colorization.colors must be 2 to 256", self.colors)
        require(0 <= self.rebalance <= 1, "colorization.rebalance must be 0 to 1", self.rebalance)
        require(0 < self.temperature <= 1, "colorization.temperature must be above 0 and at most 1", self.temperature)
        require(self.palette_seed >= 0, "colorization.palette_seed must be 0 or more", self.palette_seed)
        if self.keep_gray and self.input != "gray":
            raise InputError(f"colorization.keep_gray requires the input gray; received it for {self.input}: omit it")


@dataclass(frozen=True, kw_only=True)
class ColorizationRecipe(TrainedRecipe):
    """A recipe of the task colorize."""

    task: str = field(default="colorize", init=False)
    colorization: Colorization = field(default_factory=Colorization)
    """Colorization."""


RECIPE = ColorizationRecipe
