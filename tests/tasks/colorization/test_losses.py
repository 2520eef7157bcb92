"""Weights of rare colors."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.tasks.colorization.losses import color_weights


def test_color_weights_computed_by_hand():
    targets = np.array([0] * 90 + [1] * 10)
    assert color_weights(targets, 2, 0.0) is None
    inverse = color_weights(targets, 2, 1.0)
    assert inverse[1] / inverse[0] == pytest.approx(9, rel=1e-5) and 0.9 * inverse[0] + 0.1 * inverse[1] == pytest.approx(1)
    half = color_weights(targets, 2, 0.5)  # Zhang et al., equation 4: 1/(0.5 p + 0.5/2)
    assert half[1] / half[0] == pytest.approx((0.45 + 0.25) / (0.05 + 0.25), rel=1e-5)
