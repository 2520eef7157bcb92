"""Scenes without a network: report 002, part 1, and what classical vision can do beyond it.

All read a folder of class folders: --data-dir with train/ and test/, a folder a class.
"""

from __future__ import annotations

from kerascv_course.config import Data
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes

_PICTURES = Data("folder", image_size=(200, 200), channels=1, validation_share=0.2)
_SCALES = (4, 8, 12)


def _recipe(name: str, description: str, expect: str, scenes: Scenes, data: Data = _PICTURES) -> SceneRecipe:
    return SceneRecipe(name=name, description=description, expect=expect, data=data, scenes=scenes)


RECIPES = [
    _recipe(
        "ntu-tiny-knn",
        "fifteen scenes from pictures of 16×16 pixels and the nearest neighbour (report 002, table 2)",
        "test accuracy 0.2227",
        Scenes(feature="tiny", k=1),
        Data("folder", image_size=(16, 16), channels=1, resize="lanczos", validation_share=0.2),
    ),
    _recipe(
        "ntu-tiny-knn-best",
        "fifteen scenes from pictures of 12×12 pixels and 9 neighbours whose votes count by distance",
        "test accuracy 0.2287",
        Scenes(feature="tiny", tiny_norm="l2", k=9, vote="distance"),
        Data("folder", image_size=(12, 12), channels=1, resize="lanczos", validation_share=0.2),
    ),
    _recipe(
        "ntu-bag-of-sift",
        "fifteen scenes from histograms of 400 SIFT words, one at every pixel, and 8 neighbours (report 002, table 3)",
        "test accuracy 0.6047; 606 s on two busy CPU cores, the vectors of the pictures in the cache in part",
        Scenes(step=1, bin_sizes=(8,), k=8),
    ),
    _recipe(
        "ntu-bag-of-sift-step3",
        "the same with a descriptor at every third pixel each way (report 002, table 4)",
        "test accuracy 0.6073; 57 s in all on two CPU cores, no GPU",
        Scenes(step=3, bin_sizes=(8,), k=8),
    ),
    _recipe(
        "ntu-bag-of-sift-best",
        "fifteen scenes from histograms of 400 SIFT words at three scales and 20 neighbours whose votes count by distance",
        "test accuracy 0.6393; 2 minutes on two busy CPU cores",
        Scenes(bin_sizes=_SCALES, norm="hellinger", k=20, vote="distance"),
    ),
    _recipe(
        "ntu-pyramid-knn",
        "fifteen scenes from a spatial pyramid of SIFT words at three scales and 9 neighbours",
        "test accuracy 0.6933; 9 minutes on two busy CPU cores",
        Scenes(bin_sizes=_SCALES, levels=3, norm="hellinger", normalize_whole=True, k=9, distance="cosine"),
    ),
    _recipe(
        "ntu-bag-svm",
        "fifteen scenes from histograms of SIFT words at three scales and support vector machines (Lazebnik et al. 2006, level 0)",
        "test accuracy 0.7420",
        Scenes(bin_sizes=_SCALES, classifier="linear", kernel="intersection", penalties=(0.3, 1.0, 3.0, 10.0)),
    ),
    _recipe(
        "ntu-pyramid-svm",
        "fifteen scenes from a spatial pyramid of 1,000 SIFT words and support vector machines (Lazebnik et al. 2006)",
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
    _recipe(
        "ntu-fisher-svm",
        "fifteen scenes from Fisher vectors of SIFT at four scales, whole and in quarters, and support vector machines",
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
