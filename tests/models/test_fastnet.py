"""FastNet's start: patches whitened, convolutions that pass their input on."""

from __future__ import annotations

import numpy as np

import kerascv_course as kcc
from kerascv_course.models.fastnet import whiten_first_layer


def test_the_first_layer_whitens_patches_and_has_both_signs():
    generator = np.random.default_rng(0)
    smooth = generator.normal(size=(40, 32, 32, 3)).astype(np.float32)
    smooth = smooth + np.roll(smooth, 1, axis=1) + np.roll(smooth, 1, axis=2)
    network = kcc.create_model("fastnet", width=4)
    whiten_first_layer(network, smooth)
    layer = network.get_layer("whiten")
    maps = np.asarray(layer(smooth)).reshape(-1, 24)
    np.testing.assert_allclose(maps[:, :12], -maps[:, 12:], atol=1e-5)
    np.testing.assert_allclose(maps[:, :12].T @ maps[:, :12] / len(maps), np.eye(12), atol=5e-3)
    assert not layer.trainable


def test_the_first_filters_start_as_the_identity():
    network = kcc.create_model("fastnet", width=8)
    kernel = network.get_layer("group1_conv2").get_weights()[0]
    maps = np.random.default_rng(1).normal(size=(1, 5, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(network.get_layer("group1_conv2")(maps)), maps, atol=1e-6)
    assert kernel.shape == (3, 3, 8, 8)
    wide = network.get_layer("group2_conv1").get_weights()[0]
    assert np.count_nonzero(wide[..., :8]) == 8 and np.abs(wide[..., 8:]).min() > 0
