"""Preparing a model for training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.training.trainer import prepare


def test_prepare_refuses_unsuitable_recipes(tiny_recipe, digits):
    def refused(**changes):
        prepare(ClassificationTask(dataclasses.replace(tiny_recipe, **changes)), digits)

    with pytest.raises(InputError, match=r"1150 training images make 0 batches of 2000: use a smaller --batch-size"):
        refused(batch_size=2000)
    with pytest.raises(UnknownNameError, match="did you mean 'lenet5'"):
        refused(model="lenet")
    with pytest.raises(UnknownNameError, match="unknown option of lenet5 'dropuot'"):
        refused(model_options={"dropuot": 0.1})


def test_prepared_model_normalizes_raw_pixels(tiny_recipe, digits):
    model = prepare(ClassificationTask(tiny_recipe), digits).model
    assert model.inputs[0].dtype == "uint8"
    pixels = np.zeros((1, 32, 32, 1), np.uint8) + np.arange(32, dtype=np.uint8)[None, :, None, None] * 8
    normalized = model.get_layer("normalize")(pixels).numpy()
    np.testing.assert_allclose(normalized, (pixels / 255 - 0.5) / 0.25, rtol=0, atol=1e-6)
