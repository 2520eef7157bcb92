"""Convolution and correlation of small images, exactly in integers, with zeros, reflection or edges around the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SOBEL_X", "Border", "convolve", "correlate", "parse_matrix", "render_matrix"]

#: What stands beyond the border: 0; the image mirrored about its outermost row; its outermost row again and again.
Border = Literal["zero", "reflect", "edge"]
_NUMPY_MODE = {"zero": "constant", "reflect": "reflect", "edge": "edge"}

#: Horizontal Sobel kernel.
SOBEL_X = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))


def correlate(
    image: Sequence[Sequence[int]] | np.ndarray,
    kernel: Sequence[Sequence[int]] | np.ndarray,
    padding: int | None = None,
    border: Border = "zero",
    stride: int = 1,
) -> np.ndarray:
    """Cross-correlation, which deep-learning libraries call convolution: the kernel is laid on as it is.

    Args:
        image: (H, W) numbers.
        kernel: (k, l) numbers.
        padding: rows and columns added on every side; None: ⌊k/2⌋ and ⌊l/2⌋, which keeps the size for odd kernels.
        border: what is added.
        stride: step in both directions.

    Returns:
        (⌊(H + 2p − k)/s⌋ + 1, …) numbers; integers stay integers.

    Raises:
        InputError: not a matrix, a kernel larger than the padded image, a reflection wider than the image allows.
    """
    import numpy as np

    pixels, taps = _array(image, "image"), _array(kernel, "kernel")
    pads = tuple(n // 2 for n in taps.shape) if padding is None else (padding, padding)
    if border not in _NUMPY_MODE:
        raise InputError(f"border is one of {', '.join(_NUMPY_MODE)}; received {border!r}")
    if stride < 1 or min(pads) < 0:
        raise InputError(f"stride is 1 or more and padding 0 or more; received stride {stride} and padding {min(pads)}")
    if border == "reflect" and any(p >= n for p, n in zip(pads, pixels.shape, strict=True)):
        raise InputError(f"reflection needs more rows and columns than padding ({max(pads)}); the image is {_size(pixels)}")
    padded = np.pad(pixels, [(p, p) for p in pads], mode=_NUMPY_MODE[border])  # type: ignore[call-overload]
    if any(k > n for k, n in zip(taps.shape, padded.shape, strict=True)):
        raise InputError(f"the kernel ({_size(taps)}) is larger than the padded image ({_size(padded)})")
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape)[::stride, ::stride]
    return np.einsum("ijkl,kl->ij", windows, taps)


def convolve(
    image: Sequence[Sequence[int]] | np.ndarray,
    kernel: Sequence[Sequence[int]] | np.ndarray,
    padding: int | None = None,
    border: Border = "zero",
    stride: int = 1,
) -> np.ndarray:
    """Convolution as signal processing means it: correlation with the kernel turned by 180°. See `correlate`."""
    return correlate(image, _array(kernel, "kernel")[::-1, ::-1], padding, border, stride)


def _array(matrix: Sequence[Sequence[int]] | np.ndarray, name: str) -> np.ndarray:
    import numpy as np

    try:
        array: np.ndarray = np.asarray(matrix)
    except ValueError:  # rows of different lengths
        array = np.zeros(())
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf":
        raise InputError(f"the {name} is a matrix of numbers, all rows equally long; received {str(matrix)[:60]!r}")
    return array


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"


def parse_matrix(text: str) -> list[list[int]]:
    """A matrix from text: rows parted by ``;`` or ``/``, numbers by commas or blanks: ``"1,0,2; 3,2,0"``.

    Raises:
        InputError: something else than whole numbers, or rows of different lengths.
    """
    rows = [row.replace(",", " ").split() for row in text.replace("/", ";").split(";") if row.strip()]
    try:
        matrix = [[int(n) for n in row] for row in rows]
    except ValueError:
        matrix = []
    if not matrix or len({len(row) for row in matrix}) != 1:
        raise InputError(f'a matrix is written as "1,0,2; 3,2,0", whole numbers and rows equally long; received {text!r}')
    return matrix


def render_matrix(matrix: Sequence[Sequence[int]] | np.ndarray) -> str:
    """A matrix as aligned rows of text."""
    cells = [[str(n) for n in row] for row in matrix]
    width = max(len(c) for row in cells for c in row)
    return "\n".join("  ".join(c.rjust(width) for c in row) for row in cells)
