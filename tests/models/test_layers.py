"""The shared blocks: cases worked by hand, and PyTorch for every window, stride and padding."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.models import layers


def apply(build: Any, images: np.ndarray) -> tuple[Any, np.ndarray]:
    import keras

    image = keras.Input(images.shape[1:])
    model = keras.Model(image, build(image))
    return model, np.asarray(model(images))


def square(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)[None, :, :, None]


# --- by hand --------------------------------------------------------------------------------------------------------------------


def test_padding_is_on_both_sides() -> None:
    """Stride 2 over 4×4 ones with a 3×3 kernel of ones and padding 1: the corner sees 4 ones, edges 6, the rest 9."""
    model, _ = apply(lambda x: layers.conv(x, 1, 3, stride=2, padding=1, name="c"), np.ones((1, 4, 4, 1), np.float32))
    model.get_layer("c").set_weights([np.ones((3, 3, 1, 1), np.float32)])
    np.testing.assert_array_equal(np.asarray(model(np.ones((1, 4, 4, 1), np.float32)))[0, :, :, 0], [[4, 6], [6, 9]])


def test_transposed_convolution_of_one_pixel() -> None:
    """A 3×3 kernel at the origin loses its first row and column to the padding of 1."""
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    model, _ = apply(lambda x: layers.transposed_conv(x, 1, 3, bias=False, name="t"), np.ones((1, 1, 1, 1), np.float32))
    model.get_layer("t").set_weights([kernel])
    np.testing.assert_array_equal(np.asarray(model(np.ones((1, 1, 1, 1), np.float32)))[0, :, :, 0], [[4, 5], [7, 8]])


def test_pool_rounds_up_on_request() -> None:
    image = square([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16])
    _, down = apply(lambda x: layers.max_pool(x, 3, name="p"), image)
    _, up = apply(lambda x: layers.max_pool(x, 3, ceil=True, name="p"), image)
    np.testing.assert_array_equal(down[0, :, :, 0], [[11]])
    np.testing.assert_array_equal(up[0, :, :, 0], [[11, 12], [15, 16]])


def test_nearest() -> None:
    _, up = apply(lambda x: layers.upsample_nearest(x, name="u"), square([1, 2], [3, 4]))
    np.testing.assert_array_equal(up[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_classifier() -> None:
    model, _ = apply(lambda x: layers.classifier(x, 2, dropout=0.5), np.zeros((1, 2, 2, 3), np.float32))
    assert [layer.name for layer in model.layers[1:]] == ["pool", "dropout", "logits"]
    _, features = apply(lambda x: layers.classifier(x, 2, include_top=False), square([1, 2], [3, 6]))
    np.testing.assert_array_equal(features, [[3]])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (lambda x: layers.max_pool(x, 3, name="p"), "layer p .window 3×3, stride 2. needs a larger map than 2×2"),
        (lambda x: layers.conv(x, 1, 7, stride=2, padding=1, name="c"), "layer c .*the image is too small for this network"),
    ],
)
def test_maps_too_small(block: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply(block, np.zeros((1, 2, 2, 1), np.float32))


def test_nothing_left_to_halve() -> None:
    with pytest.raises(InputError, match="larger map than 1×1"):
        apply(lambda x: layers.conv(x, 1, 3, stride=2, padding=1, name="c"), np.zeros((1, 1, 1, 1), np.float32))


def test_initial_scales() -> None:
    """Standard deviations: He by fan-out and by fan-in, PyTorch's uniform 1/√(3·fan-in), Glorot."""
    fan_in, fan_out = 9 * 16, 9 * 64
    expected = {
        "he": (2 / fan_out) ** 0.5,
        "he_in": (2 / fan_in) ** 0.5,
        "lecun": (1 / (3 * fan_in)) ** 0.5,
        "glorot": (2 / (fan_in + fan_out)) ** 0.5,
    }
    for kind, deviation in expected.items():
        model, _ = apply(
            lambda x, kind=kind: layers.conv(x, 64, 3, init=kind, name="c"),  # type: ignore[misc]
            np.zeros((1, 4, 4, 16), np.float32),
        )
        assert model.get_layer("c").kernel.numpy().std() == pytest.approx(deviation, rel=0.05)


# --- against PyTorch ------------------------------------------------------------------------------------------------------------


def test_max_pool_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [compare])")
    rng = np.random.default_rng(0)
    compared = 0
    for n, size, stride, padding, ceil in product((4, 5, 6, 7), (2, 3), (1, 2, 3), (0, 1), (False, True)):
        if padding > size // 2:
            continue
        image = rng.random((1, n, n + 1, 2), dtype=np.float32)
        _, got = apply(
            lambda x, a=(size, stride, padding, ceil): layers.max_pool(x, a[0], stride=a[1], padding=a[2], ceil=a[3], name="p"),
            image,
        )
        expected = torch.nn.functional.max_pool2d(torch.from_numpy(image.transpose(0, 3, 1, 2)), size, stride, padding, 1, ceil)
        np.testing.assert_array_equal(
            got, expected.numpy().transpose(0, 2, 3, 1), err_msg=f"{n} {size} {stride} {padding} {ceil}"
        )
        compared += 1
    assert compared == 96


def test_convolution_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [compare])")
    rng = np.random.default_rng(0)
    for n, kernel, stride, padding in product((7, 8), (1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2)):
        image = rng.random((1, n, n + 1, 2), dtype=np.float32)
        build = lambda x, a=(kernel, stride, padding): layers.conv(x, 3, a[0], stride=a[1], padding=a[2], name="c")  # noqa: E731
        model, got = apply(build, image)
        weight = model.get_layer("c").kernel.numpy().transpose(3, 2, 0, 1)
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(image.transpose(0, 3, 1, 2)), torch.from_numpy(weight.copy()), None, stride, padding
        )
        np.testing.assert_allclose(
            got, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5, err_msg=f"{n} {kernel} {stride} {padding}"
        )
