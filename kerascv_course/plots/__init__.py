"""Figures: arrays in, `matplotlib.figure.Figure` out; the only importer of matplotlib. No window is ever opened.

`base` (any task), `retrieval`, `scaling` (speed); `theory` is imported by name.
"""

from kerascv_course.plots.base import (
    ablation_metrics,
    accuracy_lines,
    class_accuracy,
    compare_curves,
    confusion_matrix,
    difference_histogram,
    filters_and_maps,
    image_grid,
    image_rows,
    learning_curves,
    palette_shares,
    step_curves,
)
from kerascv_course.plots.retrieval import (
    cmc_curves,
    confused_pairs,
    distance_histograms,
    embedding_map,
    rank_lists,
    triplet_grid,
)
from kerascv_course.plots.scaling import engine_latencies, scaling_curves

__all__ = [
    "ablation_metrics",
    "accuracy_lines",
    "class_accuracy",
    "cmc_curves",
    "compare_curves",
    "confused_pairs",
    "confusion_matrix",
    "difference_histogram",
    "distance_histograms",
    "embedding_map",
    "engine_latencies",
    "filters_and_maps",
    "image_grid",
    "image_rows",
    "learning_curves",
    "palette_shares",
    "rank_lists",
    "scaling_curves",
    "step_curves",
    "triplet_grid",
]
