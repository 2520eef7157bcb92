"""Small images by hand and against SciPy's definition; average pooling as a convolution, with its counter-example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course.analysis.convolution import (
    SOBEL_X,
    average_pool,
    average_pooling_layer_as_convolution,
    check_average_pooling,
    convolve,
    correlate,
    parse_matrix,
    pooling_kernel,
    render_matrix,
)
from kerascv_course.core.errors import InputError
from kerascv_course.reports.answers import IMAGE_001, IMAGE_004, KERNEL_004

RIGHT_001 = [[2, -1, 11, -2, -13], [10, -4, 8, 2, -18], [14, -1, -5, 6, -9]]
RIGHT_004 = [[0, 0, -1, -1, -1], [-1, -2, 3, 2, 4], [4, 2, 1, 2, -2], [-2, 3, 1, 3, -1], [0, -2, 4, -2, 0]]


def test_report_001_task_1a():
    assert correlate(IMAGE_001, SOBEL_X).tolist() == RIGHT_001
    assert convolve(IMAGE_001, SOBEL_X).tolist() == (-np.array(RIGHT_001)).tolist()
    assert convolve(IMAGE_001, SOBEL_X, border="reflect").tolist() == [[0, 4, -16, 2, 0], [0, 4, -8, -2, 0], [0, 4, 0, -6, 0]]


def test_report_004_question_31():
    assert convolve(IMAGE_004, KERNEL_004).tolist() == RIGHT_004


matrices = st.integers(1, 6).flatmap(
    lambda w: st.lists(st.lists(st.integers(-9, 9), min_size=w, max_size=w), min_size=1, max_size=6)
)


@given(matrices, matrices, st.integers(0, 3), st.integers(1, 3))
def test_correlation_by_its_definition(image, kernel, padding, stride):
    padded = np.pad(np.array(image), padding)
    taps = np.array(kernel)
    h, w = (n - k + 1 for n, k in zip(padded.shape, taps.shape, strict=True))
    if h < 1 or w < 1:
        with pytest.raises(InputError, match="larger than the padded image"):
            correlate(image, kernel, padding, stride=stride)
        return
    by_hand = [
        [int((padded[i : i + taps.shape[0], j : j + taps.shape[1]] * taps).sum()) for j in range(0, w, stride)]
        for i in range(0, h, stride)
    ]
    assert correlate(image, kernel, padding, stride=stride).tolist() == by_hand


def test_convolution_is_numpys_in_one_dimension():
    signal, taps = [3, 1, 4, 1, 5], [1, 2, -1]
    assert convolve([signal], [taps], padding=0).tolist() == [np.convolve(signal, taps, "valid").tolist()]


def test_edge_border_repeats_and_a_constant_image_has_no_gradient():
    assert not convolve(np.full((4, 5), 7), SOBEL_X, border="edge").any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlate([[1, 2], [3]], SOBEL_X), "rows of equal length"),
        (lambda: correlate([[1]], SOBEL_X, padding=0), r"kernel \(3×3\) is larger than the padded image \(1×1\)"),
        (lambda: correlate([[1]], SOBEL_X, border="reflect"), "a reflected border must be smaller"),
        (lambda: correlate([[1]], [[1]], border="wrap"), "border must be one of zero, reflect, edge; received 'wrap'"),
        (lambda: correlate([[1]], [[1]], stride=0), "stride must be 1 or more"),
        (lambda: parse_matrix("1,a"), "integers"),
        (lambda: parse_matrix("1,2;3"), "equal length"),
        (lambda: check_average_pooling(4, size=3), "kernel must fit the map"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_matrices_as_text():
    assert parse_matrix("1,0,-2; 3 2 0") == [[1, 0, -2], [3, 2, 0]]
    assert render_matrix([[1, -10], [200, 3]]) == "  1  -10\n200    3"


@pytest.mark.parametrize(("kernel", "stride", "size"), [(8, 8, 8), (8, 1, 8), (2, 2, 8), (3, 2, 9)])
def test_average_pooling_is_the_depthwise_convolution_and_not_the_all_equal_one(kernel, stride, size):
    found = check_average_pooling(kernel, stride, channels=3, size=size)
    assert found.equal
    assert found.all_equal > 1  # E000-01: it sums over the channels
    assert found.all_equal_is_sum
    assert "NOT equal" in str(found)


def test_with_one_channel_all_three_are_equal():
    found = check_average_pooling(2, channels=1, size=4)
    assert found.equal and found.all_equal < 1e-9


def test_pooling_kernels():
    assert pooling_kernel(2, 3).shape == (2, 2, 3, 1)
    assert pooling_kernel(2, 3, depthwise=False)[0, 0].tolist() == (np.eye(3) / 4).tolist()
    assert average_pool(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_a_keras_layer_becomes_a_frozen_convolution():
    import keras

    image = keras.Input((8, 8, 3))
    layer = keras.layers.AveragePooling2D(3, strides=2)
    pooled = layer(image)
    conv = average_pooling_layer_as_convolution(layer)
    images = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    assert not conv.trainable_weights
    np.testing.assert_allclose(conv(images), keras.Model(image, pooled)(images), atol=1e-6)


def test_pooling_that_no_convolution_equals_is_rejected():
    import keras

    layer = keras.layers.AveragePooling2D(3, strides=1, padding="same")
    layer(keras.Input((8, 8, 3)))
    with pytest.raises(InputError, match="averages leave the padding out"):
        average_pooling_layer_as_convolution(layer)
    with pytest.raises(InputError, match="received MaxPooling2D"):
        average_pooling_layer_as_convolution(keras.layers.MaxPooling2D(2))
    with pytest.raises(InputError, match="has not been called"):
        average_pooling_layer_as_convolution(keras.layers.AveragePooling2D(2))
