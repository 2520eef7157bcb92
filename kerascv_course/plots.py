"""Figures: arrays in, `matplotlib.figure.Figure` out. The only importer of matplotlib; no window is ever opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

__all__ = ["class_accuracy", "confusion_matrix", "learning_curves", "picture_grid"]

TRAIN, VALIDATION, BEST = "#4477aa", "#cc6633", "#888888"


def learning_curves(history: Sequence[Mapping[str, float]], metric: str, best_epoch: float) -> Figure:
    """Loss and a metric of train and validation against the epoch.

    Args:
        history: a mapping a validation, with ``epoch``, ``loss``, ``val_loss``, the metric and ``val_`` + the metric.
        metric: key of the metric, such as ``"accuracy"``.
        best_epoch: where a line marks the checkpoint that was kept.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    for axes, key in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        axes.plot(epochs, [row[key] for row in history], marker=marker, markersize=4, color=TRAIN, label="train (running mean)")
        axes.plot(
            epochs, [row[f"val_{key}"] for row in history], marker=marker, markersize=4, color=VALIDATION, label="validation"
        )
        axes.axvline(best_epoch, color=BEST, linestyle=":", label=f"best checkpoint (epoch {best_epoch:g})")
        axes.set(xlabel="epoch", ylabel=key, title=key.capitalize())
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_matrix(counts: np.ndarray, labels: Sequence[str], accuracy: float) -> Figure:
    """Row-normalised confusion matrix.

    Args:
        counts: int (classes, classes); rows are true classes, columns predicted ones.
        labels: class names.
        accuracy: for the title, 0–1.
    """
    classes = len(labels)
    size = min(max(5.0, 0.62 * classes + 1.5), 20.0)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion matrix, test accuracy {accuracy:.2%}")
    if classes <= 30:
        axes.set_xticks(range(classes), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), labels)
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            axes.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 0.5 else "black",
            )
    return figure


def class_accuracy(accuracies: Sequence[float | None], labels: Sequence[str]) -> Figure:
    """Horizontal bars: the share of each true class that was recognised, 0–1; None for a class without images."""
    figure = Figure(figsize=(7, min(max(2.5, 0.32 * len(labels) + 1), 40)), layout="constrained")
    axes = figure.subplots()
    values = [value if value is not None else 0.0 for value in accuracies]
    bars = axes.barh(range(len(labels)), values, color=TRAIN)
    texts = [f"{value:.1%}" if value is not None else "no images" for value in accuracies]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel="share recognised", title="Accuracy by class, test split")
    return figure


def picture_grid(images: np.ndarray, captions: Sequence[str], *, title: str, columns: int = 6) -> Figure:
    """Pictures with captions.

    Args:
        images: uint8 (N, height, width, 1 or 3).
        captions: one for each.
        title: above all.
        columns: pictures a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.35 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=8)
    return figure
