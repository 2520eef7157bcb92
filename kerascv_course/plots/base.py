"""Figures that any task draws: curves, matrices, bars, image grids."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

__all__ = [
    "ablation_metrics",
    "accuracy_lines",
    "class_accuracy",
    "compare_curves",
    "confusion_matrix",
    "difference_histogram",
    "filters_and_maps",
    "image_grid",
    "image_rows",
    "learning_curves",
    "palette_shares",
    "step_curves",
]

TRAIN, VALIDATION, BEST = "#4477aa", "#cc6633", "#888888"


def whole_ticks(axes: Axes) -> None:
    """Ticks at whole numbers only on the horizontal axis, of epochs or steps."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def end_at_one(axes: Axes) -> None:
    """Let the vertical axis end at 1 where the curves, fractions of 0 to 1, come so near that it would go beyond."""
    low, high = axes.get_ylim()
    if high > 1 >= max((float(np.max(line.get_ydata())) for line in axes.lines), default=0.0):
        axes.set_ylim(low, 1)
        for line in axes.lines:
            line.set_clip_on(False)  # markers at 1 are drawn whole


def learning_curves(history: Sequence[Mapping[str, float]], metric: str, best_epoch: float, more: Sequence[str] = ()) -> Figure:
    """Training and validation loss, and a metric, against the epoch.

    Args:
        history: one mapping per validation, with ``epoch``, ``loss``, ``val_loss``, ``val_METRIC`` and usually ``METRIC``.
        metric: name of the metric in the right panel, such as ``"accuracy"``.
        best_epoch: epoch of the checkpoint that was kept, marked by a line.
        more: further validation metrics, drawn in the metric's panel.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    for axes, key in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        style = {"marker": marker, "markersize": 4}
        if key in history[0]:
            axes.plot(epochs, [row[key] for row in history], color=TRAIN, label="train, mean over the epoch", **style)
        others = more if key == metric else ()
        label = f"validation {key}" if others else "validation"
        axes.plot(epochs, [row[f"val_{key}"] for row in history], color=VALIDATION, label=label, **style)
        for number, other in enumerate(others):
            values = [row[f"val_{other}"] for row in history]
            axes.plot(epochs, values, color=VALIDATION, alpha=0.6 - 0.25 * number, label=f"validation {other}", **style)
        if key == metric:
            end_at_one(axes)
        axes.axvline(best_epoch, color=BEST, linestyle=":", label=f"best checkpoint (epoch {best_epoch:g})")
        axes.set(xlabel="epoch", ylabel=key, title=key[0].upper() + key[1:])
        whole_ticks(axes)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def step_curves(steps: np.ndarray, history: Sequence[Mapping[str, float]], metric: str, *, group: int = 10) -> Figure:
    """Training and validation loss, and the validation metric, against the training step.

    Args:
        steps: float (steps, 2 or more): number and loss of each training step.
        history: one mapping per validation, with ``step``, ``val_loss`` and ``val_METRIC``.
        metric: name of the metric in the right panel, such as ``"accuracy"``.
        group: steps averaged into one point, with a band of ± one standard deviation; an incomplete last group is dropped.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    group = min(group, len(steps))
    groups = steps[: len(steps) // group * group, :2].reshape(-1, group, 2)
    places, means, spreads = groups[:, -1, 0], groups[..., 1].mean(axis=1), groups[..., 1].std(axis=1)
    left.plot(places, means, color=TRAIN, linewidth=1, label=f"training loss, mean of {group} steps")
    left.fill_between(
        places, means - spreads, means + spreads, color=TRAIN, alpha=0.25, linewidth=0, label="± 1 standard deviation"
    )
    validations = [row["step"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    for axes, key in ((left, "loss"), (right, metric)):
        values = [row[f"val_{key}"] for row in history]
        axes.plot(validations, values, marker=marker, markersize=4, color=VALIDATION, label=f"validation {key}")
        axes.set(xlabel="step", ylabel=key, title=key.capitalize() if key == "loss" else f"Validation {key}")
        axes.grid(alpha=0.3)
        whole_ticks(axes)
    end_at_one(right)
    left.legend()
    return figure


def compare_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], panels: Sequence[str]) -> Figure:
    """Learning curves of several runs: one color per group, one line per run, one panel per metric.

    Args:
        histories: name of a group to the histories of its runs (see `learning_curves`), which differ in the seed.
        panels: columns of the histories, such as ``("loss", "val_loss")``; columns joined by + (``"loss+val_loss"``) share a panel,
            in which training is dashed.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    many = max((len(history) for runs in histories.values() for history in runs), default=0) > 30
    for axes, panel in zip(grid, panels, strict=False):
        keys = panel.split("+")
        for number, (name, runs) in enumerate(histories.items()):
            for seed, history in enumerate(runs):
                for key in keys:
                    label = f"{name}, {_label(key)}" if len(keys) > 1 else name
                    axes.plot(
                        [row["epoch"] for row in history],
                        [row[key] for row in history],
                        color=f"C{number % 10}",
                        linestyle="--" if len(keys) > 1 and not key.startswith("val_") else "-",
                        marker="" if many else "o",
                        markersize=3,
                        linewidth=1 if len(runs) > 1 else 1.5,
                        label=label if seed == 0 else None,
                    )
        if not any(key.endswith("loss") for key in keys):
            end_at_one(axes)
        whole_ticks(axes)
        title = _label(keys[0]) if len(keys) == 1 else keys[0].removeprefix("val_")
        axes.set(xlabel="epoch", ylabel=keys[0].removeprefix("val_"), title=title[0].upper() + title[1:])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _label(key: str) -> str:
    return f"validation {key.removeprefix('val_')}" if key.startswith("val_") else f"train {key}"


def accuracy_lines(places: Sequence[str], lines: Mapping[str, Sequence[float]], label: str, title: str) -> Figure:
    """Accuracy of every variant of a sweep.

    Args:
        places: tick labels of the horizontal axis, one per variant.
        lines: name of a line to its accuracies, 0–1, one per variant.
        label: what was varied, the text below the horizontal axis.
        title: text above the figure.
    """
    figure = Figure(figsize=(max(5.0, 0.45 * len(places) + 2), 3.8), layout="constrained")
    axes = figure.subplots()
    colors = itertools.chain((VALIDATION, TRAIN, BEST), (f"C{number}" for number in itertools.count(3)))
    for (name, values), color in zip(lines.items(), colors, strict=False):
        axes.plot(range(len(places)), values, marker="o", markersize=4, color=color, label=name)
    crowded = len(places) > 12 or max(map(len, places)) > 6
    axes.set_xticks(range(len(places)), places, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.set(xlabel=label, ylabel="accuracy", title=title)
    end_at_one(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def ablation_metrics(values: Mapping[str, Sequence[float]], base: str, label: str, *, title: str) -> Figure:
    """A metric for every switch of an ablation: a dot per seed, a bar at the mean, the base's mean ± one standard deviation shaded.

    Args:
        values: name of a switch to the metric of each of its runs; includes the base.
        base: name of the base.
        label: name of the metric.
        title: text above the figure.
    """
    figure = Figure(figsize=(8, 1.4 + 0.38 * len(values)), layout="constrained")
    axes = figure.subplots()
    middle, spread = float(np.mean(values[base])), float(np.std(values[base], ddof=1)) if len(values[base]) > 1 else 0.0
    axes.axvspan(middle - spread, middle + spread, color=BEST, alpha=0.2, linewidth=0)
    axes.axvline(middle, color=BEST, linestyle=":")
    for place, (name, found) in enumerate(values.items()):
        color = BEST if name == base else TRAIN if np.mean(found) >= middle else VALIDATION
        axes.plot(found, [place] * len(found), "o", color=color, alpha=0.55, markersize=5)
        axes.plot([float(np.mean(found))], [place], "|", color=color, markersize=16, markeredgewidth=2.5)
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=label, title=title, ylim=(len(values) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    return figure


def confusion_matrix(counts: np.ndarray, labels: Sequence[str], accuracy: float) -> Figure:
    """Row-normalized confusion matrix.

    Args:
        counts: int (classes, classes); rows are true classes, columns predicted ones.
        labels: names of the classes, in the order of `counts`.
        accuracy: 0–1, for the title.
    """
    classes = len(labels)
    size = min(max(5.0, 0.62 * classes + 1.5), 20.0)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion matrix, test accuracy {accuracy:.4f}")
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
    """Accuracy of each class as horizontal bars.

    Args:
        accuracies: 0–1, or None for a class without images.
        labels: names of the classes.
    """
    figure = Figure(figsize=(7, min(max(2.5, 0.32 * len(labels) + 1), 40)), layout="constrained")
    axes = figure.subplots()
    values = [value if value is not None else 0.0 for value in accuracies]
    bars = axes.barh(range(len(labels)), values, color=TRAIN)
    texts = [f"{value:.4f}" if value is not None else "no images" for value in accuracies]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy", title="Accuracy per class, test split")
    axes.spines[["top", "right"]].set_visible(False)  # the texts of high bars stand beyond the axis
    return figure


def palette_shares(palette: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Fraction of true and of predicted pixels for every color of a palette, as bars in that color.

    Args:
        palette: uint8 (colors, 3), the RGB color of each class.
        true, predicted: float (colors,), 0–1, the fraction of pixels of each color.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(palette))
    colors = palette / 255
    axes.bar(places - 0.21, true, 0.4, color=colors, edgecolor="black", linewidth=0.6)
    axes.bar(places + 0.21, predicted, 0.4, color=colors, edgecolor="black", linewidth=0.6, hatch="////")
    axes.set(xlabel="palette color", ylabel="fraction of pixels", title="Palette", xticks=places[:: max(1, len(places) // 24)])
    true_key = Patch(facecolor="white", edgecolor="black", label="true")
    axes.legend(handles=[true_key, Patch(facecolor="white", edgecolor="black", hatch="////", label="predicted")])
    return figure


def difference_histogram(counts: Mapping[str, Sequence[int]], decades: Sequence[float], tolerance: float) -> Figure:
    """Absolute differences between Keras and an exported file, as a histogram per output.

    Args:
        counts: output to the number of values that differ by exactly 0, by less than each of `decades`, and by more.
        decades: upper bounds of the bins, increasing.
        tolerance: largest allowed difference, marked by a line.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    names = ["0", *(f"< {bound:.0e}" for bound in decades), f"≥ {decades[-1]:.0e}"]
    positions = np.arange(len(names))
    width = 0.8 / max(len(counts), 1)
    for i, (output, values) in enumerate(counts.items()):
        shares = np.asarray(values) / max(sum(values), 1)
        axes.bar(positions + (i - (len(counts) - 1) / 2) * width, 100 * shares, width, label=output)
    allowed = np.searchsorted(decades, tolerance) + 1.5
    axes.axvline(allowed, color=BEST, linestyle=":", label=f"tolerance: {tolerance:g}")
    axes.set_xticks(positions, names, rotation=30, ha="right")
    axes.set(xlabel="absolute difference between Keras and the file", ylabel="values, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """Draw a uint8 image (height, width, 1 or 3) into axes."""
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def image_grid(images: np.ndarray, captions: Sequence[str], *, title: str, columns: int = 6) -> Figure:
    """Images with captions.

    Args:
        images: uint8 (N, height, width, 1 or 3).
        captions: a text above each of the N images.
        title: text above the figure.
        columns: number of images per row.
    """
    columns = min(columns, max(3, len(images)))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.35 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        draw_image(axes, image)
        axes.set_title(caption, fontsize=8)
    return figure


def image_rows(rows: Mapping[str, np.ndarray], *, gap: int = 2) -> Figure:
    """Labeled rows of images.

    Args:
        rows: name to uint8 (N, height, width, 1 or 3), all of one N, height and width.
        gap: white pixels between images.
    """
    first = next(iter(rows.values()))
    count, height, width = first.shape[:3]
    sheet = np.full((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3), 255, np.uint8)
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = image
    # inches: the images, their names on the left, a margin
    across, names, margin = 10.0, 1.5, 0.1
    high = across * sheet.shape[0] / sheet.shape[1]
    wide, tall = across + names + margin, high + 2 * margin
    figure = Figure(figsize=(wide, tall))
    axes = figure.add_axes((names / wide, margin / tall, across / wide, high / tall))
    axes.imshow(sheet, interpolation="nearest")
    axes.set_yticks([row * (height + gap) + height / 2 for row in range(len(rows))], list(rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def filters_and_maps(
    image: np.ndarray, maps: np.ndarray, filters: np.ndarray | None, names: Sequence[str], *, title: str, columns: int = 10
) -> Figure:
    """An image and its feature maps, each below its filter.

    Args:
        image: uint8 (height, width, 1 or 3).
        maps: float (N, map height, map width), each scaled from its minimum (dark) to its maximum.
        filters: float (N, kernel height, kernel width, 1 or 3), each scaled by its largest absolute weight, gray at zero; None: not
            drawn.
        names: a text above each of the N filters or maps.
        title: text above the figure.
        columns: number of filters per row.
    """
    columns = min(columns, len(maps))
    high = 1 if filters is None else 2
    blocks = -(-len(maps) // columns)
    figure = Figure(figsize=(1.05 * (columns + 1), 1.2 * high * blocks + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(high * blocks, columns + 1, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    draw_image(grid[high - 1, 0], image)
    for number, name in enumerate(names):
        row, column = high * (number // columns), number % columns + 1
        if filters is not None:
            weights = filters[number] / max(float(np.abs(filters[number]).max()), 1e-12)
            shown = (weights.squeeze(-1) if weights.shape[-1] == 1 else weights) / 2 + 0.5
            grid[row, column].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        grid[row + high - 1, column].imshow(maps[number], cmap="viridis", interpolation="nearest")
        grid[row, column].set_title(name, fontsize=8)
    return figure
