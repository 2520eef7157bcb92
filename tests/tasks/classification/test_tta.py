"""Test-time augmentation against NumPy, and in the exported file."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerascv_course.tasks.classification.tta import mean_over_views


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 5, 3), dtype="uint8", name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="small")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def by_hand(classifier, images, views):
    def answer(pictures):
        return (classifier.predict(pictures, verbose=0) + classifier.predict(pictures[:, :, ::-1], verbose=0)) / 2

    if views == "flip":
        return answer(images)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return answer(images) / 2 + answer(padded[:, :-2, :-2]) / 4 + answer(padded[:, 2:, 2:]) / 4


@pytest.mark.parametrize("views", ["flip", "flip-translate"])
def test_scores_are_means_over_the_views(classifier, images, views):
    found = mean_over_views(classifier, views).predict(images, verbose=0)
    np.testing.assert_allclose(found, by_hand(classifier, images, views), rtol=1e-5, atol=1e-6)


def test_without_views_the_model_is_its_own(classifier):
    assert mean_over_views(classifier, "none") is classifier


def test_the_file_answers_by_all_views(classifier, images, tmp_path):
    from export import check_parity, export_model
    from export.converter.serving_graph import serving_classifier

    answering = serving_classifier(mean_over_views(classifier, "flip-translate"))
    path = export_model(answering, tmp_path / "views.onnx", task="classify", labels=list("abc"), name="views")
    report = check_parity(answering, path, images, targets=np.arange(7) % 3, answer="logits", labels=list("abc"))
    assert report.ok and report.images == 7
