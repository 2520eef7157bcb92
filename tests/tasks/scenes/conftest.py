"""Fixtures of the scenes tests: a cache of their own, a small dataset and a small recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kerascv_course.data import Split
from kerascv_course.data.splits import make_dataset
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KERASCV_COURSE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def stripes():
    """A dataset of three classes of 48×48 images: stripes across, stripes along, spots."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]

    def images_of(count: int) -> Split:
        targets = np.arange(count) % 3
        images = np.empty((count, 48, 48, 1), np.uint8)
        for image, target in zip(images, targets, strict=True):
            width, shift = rng.uniform(1.5, 3), rng.uniform(0, 6, 2)
            wave = [np.sin(rows / width + shift[0]), np.sin(columns / width + shift[0])]
            wave.append(wave[0] * np.sin(columns / width + shift[1]))
            image[..., 0] = np.clip(128 + 60 * wave[target] + rng.normal(0, 12, (48, 48)), 0, 255)
        return Split(images, targets)

    return make_dataset("stripes", ("across", "along", "spots"), "made here", images_of(30), images_of(9), images_of(12))


@pytest.fixture(scope="session")
def scene_recipe() -> Callable[..., SceneRecipe]:
    """A small bag of words, with settings changed by keyword."""

    def recipe(**settings: Any) -> SceneRecipe:
        small = {"step": 6, "words": 6, "samples": 600, "k": 3}
        return dataclasses.replace(get_recipe("ntu-bag-of-sift"), scenes=dataclasses.replace(Scenes(), **{**small, **settings}))

    return recipe
