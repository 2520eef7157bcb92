"""Colorization metrics, and baselines without a network.

* pixel accuracy: fraction of pixels assigned the class of their nearest palette color (CSC413 assignment 2);
* balanced accuracy: mean recall of the classes that occur (Brodersen et al., ICPR 2010);
* PSNR: 10·log₁₀(255²/MSE) in dB over the pixels and channels of an image, averaged over images;
* SSIM: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004: 11×11 Gaussian window of σ 1.5, K₁ 0.01, K₂ 0.03, mean of the channels;
* ΔE: mean over pixels of the distance ΔE*ab (CIE 1976) in CIELAB; ab-RMSE: root mean square error of a and b over pixels and both
  channels (after Deshpande, Rock, Forsyth, ICCV 2015);
* CIELAB: from sRGB (IEC 61966-2-1) with white D65, 2° observer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix

__all__ = ["PixelReport", "baselines", "entropy", "rgb_to_lab"]

#: Matrix from linear sRGB (IEC 61966-2-1) to XYZ, and its white.
SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = SRGB_TO_XYZ.sum(1)

#: PSNR of identical images, infinite by definition.
MAX_PSNR = 99.0

#: Window of SSIM; it is undefined for smaller images.
SSIM_WINDOW = 11

#: Nearest-neighbor baseline: pixels sampled per split, neighbors, sides of the squares whose mean gray levels are compared.
KNN_PIXELS, KNN_NEIGHBORS, KNN_SQUARES = 20_000, 15, (1, 3, 5)


def rgb_to_lab(images: np.ndarray) -> np.ndarray:
    """Convert sRGB to CIELAB (CIE 15:2004): uint8 (…, 3) to float32 (…, 3): L 0–100, a, b."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    ratios = linear.astype(np.float32)[images] @ (SRGB_TO_XYZ / WHITE[:, None]).T.astype(np.float32)
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios * np.float32((29 / 6) ** 2 / 3) + np.float32(4 / 29))
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@dataclass
class PixelReport:
    """Metrics accumulated over batches.

    Attributes:
        colors: number of color classes.
    """

    colors: int
    images: int = 0
    loss: float = 0.0
    psnr: float = 0.0
    ssim: float = 0.0
    delta_e: float = 0.0
    ab_squares: float = 0.0
    confusion: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.colors, self.colors), np.int64)

    def add(
        self, logits: np.ndarray | None, classes: np.ndarray, targets: np.ndarray, shown: np.ndarray, true: np.ndarray
    ) -> None:
        """Add a batch.

        Args:
            logits: float (N, height, width, colors); None: without loss.
            classes: integers (N, height, width), predicted.
            targets: integers (N, height, width), true.
            shown: uint8 (N, height, width, 3), colorized images.
            true: uint8 (N, height, width, 3), original images.
        """
        self.confusion += confusion_matrix(targets.ravel(), classes.ravel(), labels=np.arange(self.colors))
        self.images += len(true)
        if logits is not None:
            chosen = np.take_along_axis(log_softmax(logits, axis=-1), targets[..., None].astype(np.int64), -1)
            self.loss -= float(chosen.sum(dtype=np.float64))
        squares = ((shown.astype(np.float32) - true.astype(np.float32)) ** 2).mean((1, 2, 3))
        with np.errstate(divide="ignore"):
            self.psnr += float(np.minimum(10 * np.log10(255.0**2 / squares), MAX_PSNR).sum(dtype=np.float64))
        if min(true.shape[1:3]) >= SSIM_WINDOW:
            self.ssim += float(tf.reduce_sum(tf.image.ssim(shown, true, 255)))
        difference = rgb_to_lab(shown) - rgb_to_lab(true)
        self.delta_e += float(np.sqrt((difference**2).sum(-1)).sum(dtype=np.float64))
        self.ab_squares += float((difference[..., 1:] ** 2).sum(dtype=np.float64))

    def result(self, *, loss: bool = True) -> dict[str, Any]:
        """The metrics.

        Returns:
            ``images``, ``loss`` (nats per pixel), ``accuracy``, ``balanced_accuracy``, ``psnr`` (dB), ``ssim``, ``delta_e`` and
            ``ab_rmse``; ``ssim`` is 0 for images smaller than its window.
        """
        pixels = int(self.confusion.sum())
        return {
            "images": self.images,
            **({"loss": self.loss / pixels} if loss else {}),
            "accuracy": float(np.trace(self.confusion) / pixels),
            "balanced_accuracy": balanced_accuracy(self.confusion),
            "psnr": self.psnr / self.images,
            "ssim": self.ssim / self.images,
            "delta_e": self.delta_e / pixels,
            "ab_rmse": float(np.sqrt(self.ab_squares / (2 * pixels))),
        }


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall of the classes that occur; rows of `confusion` are true classes."""
    totals = confusion.sum(1)
    return float((np.diag(confusion)[totals > 0] / totals[totals > 0]).mean())


def entropy(counts: np.ndarray) -> float:
    """Entropy of a distribution given as counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def baselines(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], colors: int, seed: int = 0
) -> dict[str, float]:
    """Baselines from the distribution of classes and from gray levels alone.

    Args:
        train: uint8 images (N, height, width, 3) and their classes (N, height, width).
        test: uint8 images (M, height, width, 3) and their classes (M, height, width).
        colors: number of color classes.
        seed: of the pixels sampled for kNN.

    Returns:
        ``entropy`` of the training classes, nats: the loss of a constant prediction that knows their frequencies;
        ``entropy_bits``: the same in bits; ``majority_accuracy``: test accuracy of the most frequent class;
        ``lookup_accuracy`` and ``lookup_loss``: of the most frequent class, and of the class frequencies, at each gray level;
        ``knn_accuracy``: of the 15 nearest of 20,000 training pixels by the gray level of the pixel and the mean gray levels of the
        3×3 and the 5×5 pixels around it, on 20,000 test pixels.
    """
    (images, targets), (test_images, test_targets) = train, test
    counts = np.bincount(targets.ravel(), minlength=colors)
    levels, test_levels = _gray_levels(images), _gray_levels(test_images)
    table = np.bincount(levels.ravel() * colors + targets.ravel(), minlength=256 * colors).reshape(256, colors)
    # gray levels absent from training use the overall frequencies
    seen = np.where(table.sum(1, keepdims=True) > 0, table, counts)
    frequencies = (seen + counts / counts.sum()) / (seen.sum(1, keepdims=True) + 1)
    chosen = frequencies[test_levels.ravel(), test_targets.ravel()]
    return {
        "entropy": entropy(counts),
        "entropy_bits": entropy(counts) / float(np.log(2)),
        "majority_accuracy": float(np.mean(test_targets == counts.argmax())),
        "lookup_accuracy": float(np.mean(seen.argmax(1)[test_levels] == test_targets)),
        "lookup_loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
        "knn_accuracy": _knn_accuracy(train, test, seed),
    }


def _gray_levels(images: np.ndarray) -> np.ndarray:
    levels: np.ndarray = (images.astype(np.int64).sum(-1) + 1) // 3
    return levels


def _knn_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(seed)
    features, labels = _surroundings(*train, rng)
    knn = KNeighborsClassifier(min(KNN_NEIGHBORS, len(labels))).fit(features, labels)
    return float(knn.score(*_surroundings(*test, rng)))


def _surroundings(images: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean gray levels of squares around random pixels, border replicated, (pixels, squares), and the classes of the pixels."""
    total = targets.size
    chosen = np.sort(rng.choice(total, min(KNN_PIXELS, total), replace=False))
    image, row, column = np.unravel_index(chosen, targets.shape)
    height, width = targets.shape[1:]
    means = []
    for side in KNN_SQUARES:
        reach = range(-(side // 2), side // 2 + 1)
        grays = [
            images[image, np.clip(row + y, 0, height - 1), np.clip(column + x, 0, width - 1)].mean(-1)
            for y in reach
            for x in reach
        ]
        means.append(np.mean(grays, 0))
    return np.stack(means, -1), targets.ravel()[chosen]
