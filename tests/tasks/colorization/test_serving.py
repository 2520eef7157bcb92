"""The served colorizer: decoding by hand, reach of a pixel."""

from __future__ import annotations

import keras
import numpy as np

from kerascv_course.tasks.colorization.serving import Decode, reach


def test_decode_computed_by_hand():
    logits, palette = np.array([[[[1.0, 0.0]]]], np.float32), [[0, 100, 200], [200, 100, 0]]
    image = np.full((1, 1, 1, 3), 130, np.uint8)
    classes, shown = Decode(palette, "argmax", 1.0, False)(logits, image)
    assert classes.numpy().tolist() == [[[0]]] and shown.numpy().tolist() == [[[[0, 100, 200]]]]
    p = np.exp(2) / (np.exp(2) + 1)
    _, mean = Decode(palette, "annealed-mean", 0.5, False)(logits, image)
    assert mean.numpy()[0, 0, 0].tolist() == [round(200 * (1 - p)), 100, round(200 * p)]
    _, kept = Decode(palette, "argmax", 1.0, True)(logits, image)
    assert kept.numpy()[0, 0, 0].tolist() == [30, 130, 230], "the mean of the channels is the input's"


def test_reach_bounds_the_effect_of_a_changed_pixel():
    keras.utils.set_random_seed(0)
    from kerascv_course.models import create_model

    for name, kernel in (("pool_upsample_net", 3), ("conv_transpose_net", 4), ("unet_colorizer", 5)):
        network = create_model(name, 4, (64, 64, 1), kernel=kernel)
        distance = reach(network)
        # positive weights, so that no ReLU blocks a path
        network.set_weights([np.abs(weight) + 0.01 for weight in network.get_weights()])
        image = np.ones((1, 64, 64, 1), np.float32)
        changed = image.copy()
        changed[0, 30, 30] += 1.0
        seen = np.argwhere(np.abs(network(changed) - network(image)).max(-1)[0] > 0)
        assert np.abs(seen - 30).max() <= distance
        assert np.abs(seen - 30).max() >= distance - 3, "tight up to alignment"
