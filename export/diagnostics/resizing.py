"""Pictures of any size brought to one: as training does it, and in the ways that other programs do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from kerascv_course.core.errors import InputError
from kerascv_course.core.images import COLORS, Filter, convert_image, resize_image

__all__ = ["fit", "resize_all", "ways_to_resize"]

FILTERS: tuple[Filter, ...] = ("nearest", "bilinear", "bicubic", "lanczos")


def fit(
    images: np.ndarray | Sequence[np.ndarray],
    first: Sequence[int | None],
    second: Sequence[int | None],
    filter: Filter,
) -> np.ndarray:
    """Pictures as both sides take them: uint8 (N, height, width, channels).

    Args:
        images: uint8 pictures (height, width, channels).
        first: (height, width, channels) that one side takes, None where open.
        second: that the other takes.
        filter: for pictures of other sizes.

    Raises:
        InputError: pictures of another type or shape.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in COLORS.values() or not image.size:
            raise InputError(f"pictures are uint8 (height, width, 1 or 3); received {image.dtype} {image.shape}")
    height, width = (a if a is not None else b for a, b in zip(first[:2], second[:2], strict=True))
    if height is None or width is None:
        height, width = images[0].shape[:2]
    return resize_all(images, height, width, first[2] or 3, filter)


def resize_all(
    images: np.ndarray | Sequence[np.ndarray], height: int, width: int, channels: int | None, filter: Filter
) -> np.ndarray:
    """Each picture as `kerascv_course.core.images.read_image` brings it to the size."""
    if isinstance(images, np.ndarray) and images.shape[1:] == (height, width, channels):
        return images
    pictures = (convert_image(_picture(image), channels or 3) for image in images)
    return np.stack([resize_image(picture, height, width, filter) for picture in pictures])


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def ways_to_resize(images: Sequence[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
    """The pictures resized in every way that is met, float64 (N, height, width, channels) of 0–255, by its name."""
    ways: dict[str, list[np.ndarray]] = {}
    for image in images:
        for name, resized in _ways(image, height, width):
            ways.setdefault(name, []).append(resized)
    return {name: np.stack(resized) for name, resized in ways.items()}


def _ways(image: np.ndarray, height: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    for filter in FILTERS:
        resampling = Image.Resampling[filter.upper()]
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in image.transpose(2, 0, 1)]
        exact = np.stack([np.asarray(plane.resize((width, height), resampling), np.float64) for plane in planes], axis=-1)
        yield f"{filter}, antialiased, rounded", np.asarray(resize_image(_picture(image), height, width, filter), np.float64)
        if filter != "nearest":
            yield f"{filter}, antialiased, not rounded", exact
            yield f"{filter}, antialiased, cut to whole numbers", np.floor(exact.clip(0, 255))
    for name, centre in CENTRES.items():
        rows, columns = (_weights(size, wanted, centre) for size, wanted in zip(image.shape[:2], (height, width), strict=True))
        linear = np.einsum("ij,jkc,lk->ilc", rows, image.astype(np.float64), columns)
        yield f"linear, not antialiased, {name}", linear
        yield f"linear, not antialiased, {name}, rounded", np.rint(linear)
    top, left = (np.arange(wanted) * size // wanted for size, wanted in zip(image.shape[:2], (height, width), strict=True))
    yield "nearest, from the upper left corner", image[top][:, left].astype(np.float64)


#: Where a pixel of the result lies among those of the source, given their numbers: ONNX's coordinate transformations.
CENTRES = {
    "half-pixel centres": lambda x, size, wanted: (x + 0.5) * size / wanted - 0.5,
    "asymmetric": lambda x, size, wanted: x * size / wanted,
    "corners aligned": lambda x, size, wanted: x * (size - 1) / max(wanted - 1, 1),
}


def _weights(size: int, wanted: int, centre: object) -> np.ndarray:
    """Weights of linear interpolation, (wanted, size)."""
    assert callable(centre)
    places = np.clip(centre(np.arange(wanted), size, wanted), 0, size - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((wanted, size))
    np.add.at(weights, (np.arange(wanted), low), 1 - (places - low))
    np.add.at(weights, (np.arange(wanted), high), places - low)
    return weights
