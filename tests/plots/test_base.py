"""Figures: what is drawn for given arrays."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course import plots


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.learning_curves(
            [{"epoch": 1.0, "loss": 1.0, "val_loss": 2.0, "accuracy": 0.1, "val_accuracy": 0.2}], "accuracy", 1.0
        ),
        lambda: plots.confusion_matrix(np.array([[1, 0], [0, 0]]), ["ä & <b>", "$x$"], 1.0),
        lambda: plots.confusion_matrix(np.eye(100, dtype=int), [str(i) for i in range(100)], 1.0),
        lambda: plots.class_accuracy([0.5, None], ["a", "b"]),
        lambda: plots.image_grid(np.zeros((7, 4, 4, 1), np.uint8), list("abcdefg"), title="t"),
    ],
    ids=["single_epoch", "class_without_images", "100_classes", "bars", "grid"],
)
def test_edge_cases_render(figure, tmp_path):
    figure().savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_step_curves_average_groups_of_steps():
    history = [{"step": 20.0, "val_loss": 1.5, "val_accuracy": 0.5}, {"step": 25.0, "val_loss": 1.2, "val_accuracy": 0.6}]
    left, right = plots.step_curves(np.stack([np.arange(1, 26), np.linspace(2, 1, 25)], 1), history, "accuracy").axes
    train, validation = left.lines
    assert train.get_xdata().tolist() == [10, 20] and validation.get_xdata().tolist() == [20, 25]
    assert train.get_ydata()[0] == pytest.approx(np.linspace(2, 1, 25)[:10].mean())
    assert right.lines[0].get_ydata().tolist() == [0.5, 0.6]
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["training loss, mean of 10 steps", "± 1 standard deviation", "validation loss"]
    plots.step_curves(np.ones((3, 2)), history, "accuracy")  # fewer steps than a group


def test_ticks_of_short_runs_are_whole_epochs_and_accuracies_end_at_1():
    history = [{"epoch": epoch, "loss": 1.2, "val_loss": 1.0, "accuracy": 0.4, "val_accuracy": 0.9996} for epoch in (1.0, 2.0)]
    figures = [
        plots.learning_curves(history, "accuracy", 2.0),
        plots.step_curves(np.ones((40, 2)), [{**row, "step": row["epoch"]} for row in history], "accuracy"),
        plots.compare_curves({"a": [history]}, ("loss", "val_accuracy")),
    ]
    for figure in figures:
        figure.canvas.draw()
        left, right = figure.axes
        assert all(tick == round(tick) for axes in (left, right) for tick in axes.get_xticks())
        assert right.get_ylim()[1] == 1 and left.get_ylim()[1] > 1
    assert plots.cmc_curves({"a": [0.5, 1.0]}).axes[0].get_ylim() == (0, 1)


def test_class_accuracy_is_in_fractions_throughout():
    (axes,) = plots.class_accuracy([1.0, 0.97, None], ["a", "b", "c"]).axes
    assert axes.get_xlim() == (0, 1)
    assert [text.get_text() for text in axes.texts] == ["1.0000", "0.9700", "no images"]
    (axes, _) = plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"], 0.9721).axes
    assert axes.get_title() == "Confusion matrix, test accuracy 0.9721"


def test_compare_curves_joins_columns_in_one_panel():
    history = [{"epoch": 1.0, "loss": 2.0, "val_loss": 2.5}, {"epoch": 2.0, "loss": 1.0, "val_loss": 2.0}]
    both, validation = plots.compare_curves({"a": [history, history], "b": [history]}, ("loss+val_loss", "val_loss")).axes
    assert [line.get_linestyle() for line in both.lines] == ["--", "-"] * 3 and len(validation.lines) == 3
    texts = [text.get_text() for text in both.get_legend().get_texts()]
    assert texts == ["a, train loss", "a, validation loss", "b, train loss", "b, validation loss"]
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["a", "b"]
    assert validation.get_title() == "Validation loss"


def test_ablation_metrics_marks_the_mean():
    (axes,) = plots.ablation_metrics({"base": [0.5, 0.6], "l2": [0.7]}, "base", "accuracy", title="t").axes
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"] == pytest.approx([0.55, 0.7])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "l2"]


def test_accuracy_lines_have_distinct_colors():
    lines = dict.fromkeys("abcdef", (0.1, 0.2))
    (axes,) = plots.accuracy_lines(("1", "2"), lines, "k", "a sweep").axes
    assert [line.get_label() for line in axes.lines] == list(lines)
    assert len({line.get_color() for line in axes.lines}) == 6


def test_retrieval_grids_caption_roles():
    images = np.zeros((6, 4, 4, 3), np.uint8)
    captions = [axes.get_title() for axes in plots.triplet_grid(images, list("aabccd"), np.arange(6.0)).axes]
    assert captions[:3] == ["anchor\na", "positive, distance 1.00\na", "negative, distance 2.00\nb"]
    captions = [axes.get_title() for axes in plots.confused_pairs(images, list("abcdef"), np.ones(3)).axes]
    assert captions[:2] == ["query\na", "nearest, distance 1.00\nb"]
