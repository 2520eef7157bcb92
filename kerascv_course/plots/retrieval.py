"""Figures of image retrieval: rank lists, CMC curves, distances, embeddings, triplets and confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from kerascv_course.plots.base import BEST, TRAIN, VALIDATION, draw_image, image_grid, whole_ticks

__all__ = ["cmc_curves", "confused_pairs", "distance_histograms", "embedding_map", "rank_lists", "triplet_grid"]

CORRECT, WRONG = "#228833", "#cc3311"


def rank_lists(queries: np.ndarray, results: Sequence[np.ndarray], matches: np.ndarray, captions: Sequence[str]) -> Figure:
    """One row per query: the query and its nearest gallery images, framed green (same identity) or red.

    Args:
        queries: uint8 (N, height, width, 1 or 3).
        results: for each query uint8 (up to `columns` images, height, width, 1 or 3), nearest first.
        matches: bool (N, columns), whether a result has the identity of its query.
        captions: a text above each query.
    """
    columns = matches.shape[1] + 1
    figure = Figure(figsize=(1.15 * columns, 1.35 * len(queries)))
    # fixed margins: the constrained layout takes seconds for this many axes
    spaces = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - 0.2 / len(queries), "wspace": 0.08, "hspace": 0.25}
    grid = figure.subplots(len(queries), columns, squeeze=False, gridspec_kw=spaces)
    for row, query, nearest, correct, caption in zip(grid, queries, results, matches, captions, strict=True):
        for axes in row[len(nearest) + 1 :]:
            axes.set_axis_off()
        colors = ["black", *(CORRECT if match else WRONG for match in correct)]
        for axes, image, color in zip(row, [query, *nearest], colors, strict=False):
            draw_image(axes, image)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=color, linewidth=1 if color == "black" else 3)
        row[0].set_title(caption, fontsize=7)
    return figure


def cmc_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Cumulative matching characteristic: fraction of queries with a match among the k nearest images, against k.

    Args:
        curves: name to fractions, 0–1, for k = 1, 2, …
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, fractions), color in zip(curves.items(), (TRAIN, VALIDATION, BEST), strict=False):
        axes.plot(range(1, len(fractions) + 1), fractions, color=color, marker="o", markersize=3, label=name, clip_on=False)
    axes.set(xlabel="k", ylabel="fraction of queries with a match", title="Cumulative matching characteristic", ylim=(0, 1))
    whole_ticks(axes)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def distance_histograms(same: np.ndarray, different: np.ndarray) -> Figure:
    """Densities of the distances between images of one identity and of different identities."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(1e-6, *(float(values.max()) for values in (same, different) if len(values))), 60)
    for values, label, color in ((same, "same identity", TRAIN), (different, "different identities", VALIDATION)):
        if len(values):
            axes.hist(values, bins.tolist(), density=True, alpha=0.6, color=color, label=f"{label}: {len(values):,} pairs")
    axes.set(xlabel="distance", ylabel="density", title="Pairwise distances")
    axes.legend()
    return figure


def embedding_map(places: np.ndarray, identities: np.ndarray, colored: int = 20) -> Figure:
    """Scatter plot of embeddings in the plane, one color per identity, the remaining identities gray.

    Args:
        places: float (N, 2), the position of each image in the plane.
        identities: int (N,), the identity of each image.
        colored: identities with a color of their own, at most 20.
    """
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    axes = figure.subplots()
    names = np.unique(identities)[:colored]
    rest = ~np.isin(identities, names)
    axes.scatter(places[rest, 0], places[rest, 1], s=10, color="#cccccc")
    axes.scatter(
        places[~rest, 0], places[~rest, 1], s=16, c=np.searchsorted(names, identities[~rest]), cmap="tab20", vmin=0, vmax=19
    )
    axes.set(
        xticks=[], yticks=[], title=f"{len(places)} images; colors: {len(names)} of {len(np.unique(identities))} identities"
    )
    return figure


def triplet_grid(images: np.ndarray, names: Sequence[str], distances: np.ndarray) -> Figure:
    """Anchor, positive and negative of some triplets, two triplets per row.

    Args:
        images: uint8 (3·N, height, width, 1 or 3): anchor, positive, negative of the first triplet, and so on.
        names: identity of each image.
        distances: float (3·N,), of each image to its anchor.
    """
    captions = []
    for i, (name, distance) in enumerate(zip(names, distances, strict=True)):
        role = ("anchor", "positive", "negative")[i % 3]
        captions.append(f"{role}\n{name}" if i % 3 == 0 else f"{role}, distance {distance:.2f}\n{name}")
    return image_grid(images, captions, title="Triplets of the first batch")


def confused_pairs(images: np.ndarray, names: Sequence[str], distances: np.ndarray) -> Figure:
    """Queries whose nearest image has another identity, each beside that image, three pairs per row.

    Args:
        images: uint8 (2·N, height, width, 1 or 3): query and nearest image of the first pair, and so on.
        names: identity of each image.
        distances: float (N,), between the images of each pair.
    """
    captions = []
    for i, name in enumerate(names):
        captions.append(f"nearest, distance {distances[i // 2]:.2f}\n{name}" if i % 2 else f"query\n{name}")
    return image_grid(images, captions, title="Worst confusions of the test split")
