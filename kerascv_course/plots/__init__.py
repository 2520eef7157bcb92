"""Figures: arrays in, `matplotlib.figure.Figure` out. The only importer of matplotlib; no window is ever opened."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

__all__ = [
    "accuracy_lines",
    "class_accuracy",
    "cmc_curves",
    "compare_curves",
    "confusion_matrix",
    "difference_histogram",
    "distance_histograms",
    "embedding_map",
    "engine_latencies",
    "filters_and_maps",
    "learning_curves",
    "palette_shares",
    "picture_grid",
    "picture_rows",
    "rank_lists",
    "scaling_curves",
    "step_curves",
    "switch_figures",
]

TRAIN, VALIDATION, BEST = "#4477aa", "#cc6633", "#888888"


def learning_curves(history: Sequence[Mapping[str, float]], metric: str, best_epoch: float, more: Sequence[str] = ()) -> Figure:
    """Loss and a metric of train and validation against the epoch.

    Args:
        history: a mapping a validation, with ``epoch``, ``loss``, ``val_loss``, ``val_`` + the metric, and often the metric.
        metric: key of the metric, such as ``"accuracy"``.
        best_epoch: where a line marks the checkpoint that was kept.
        more: further metrics of the validation, drawn beside the metric.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    for axes, key in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        style = {"marker": marker, "markersize": 4}
        if key in history[0]:
            axes.plot(epochs, [row[key] for row in history], color=TRAIN, label="train (running mean)", **style)
        others = more if key == metric else ()
        label = f"validation {key}" if others else "validation"
        axes.plot(epochs, [row[f"val_{key}"] for row in history], color=VALIDATION, label=label, **style)
        for number, other in enumerate(others):
            values = [row[f"val_{other}"] for row in history]
            axes.plot(epochs, values, color=VALIDATION, alpha=0.6 - 0.25 * number, label=f"validation {other}", **style)
        axes.axvline(best_epoch, color=BEST, linestyle=":", label=f"best checkpoint (epoch {best_epoch:g})")
        axes.set(xlabel="epoch", ylabel=key, title=key.capitalize())
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def step_curves(steps: np.ndarray, history: Sequence[Mapping[str, float]], metric: str, *, group: int = 10) -> Figure:
    """Training loss of the steps and validation loss; beside them the validation's metric, all against the step.

    Args:
        steps: float (steps, 2 or more): number and loss of each training step.
        history: a mapping a validation, with ``step``, ``val_loss`` and ``val_`` + the metric.
        metric: key of the metric, such as ``"accuracy"``.
        group: steps that are drawn as one point: their mean, and a band of one standard deviation each way; the last ones, fewer
            than a group, are left out.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    group = min(group, len(steps))
    groups = steps[: len(steps) // group * group, :2].reshape(-1, group, 2)
    places, means, spreads = groups[:, -1, 0], groups[..., 1].mean(axis=1), groups[..., 1].std(axis=1)
    left.plot(places, means, color=TRAIN, linewidth=1, label=f"train, mean of {group} steps")
    left.fill_between(places, means - spreads, means + spreads, color=TRAIN, alpha=0.25, linewidth=0, label="± 1 sd")
    validations = [row["step"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    for axes, key in ((left, "loss"), (right, metric)):
        values = [row[f"val_{key}"] for row in history]
        axes.plot(validations, values, marker=marker, markersize=4, color=VALIDATION, label="validation")
        axes.set(xlabel="step", ylabel=key, title=key.capitalize() if key == "loss" else f"Validation {key}")
        axes.grid(alpha=0.3)
    left.legend()
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
    columns = min(columns, max(3, len(images)))
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


def picture_rows(rows: Mapping[str, np.ndarray], *, gap: int = 2) -> Figure:
    """Rows of pictures, one above the other, each row with its name.

    Args:
        rows: name to uint8 (N, height, width, 1 or 3), all of one N, height and width.
        gap: white pixels between pictures.
    """
    first = next(iter(rows.values()))
    count, height, width = first.shape[:3]
    sheet = np.full((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3), 255, np.uint8)
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = image
    # inches: pictures, names to their left, and a margin
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
    picture: np.ndarray, maps: np.ndarray, filters: np.ndarray | None, names: Sequence[str], *, title: str, columns: int = 10
) -> Figure:
    """A picture, and beside it the maps of some filters, each under its filter.

    Args:
        picture: uint8 (height, width, 1 or 3).
        maps: float (N, map height, map width), each drawn from its least value, dark, to its largest.
        filters: float (N, kernel height, kernel width, 1 or 3), each scaled by its largest weight, zero grey; None: not drawn.
        names: N names.
        title: above all.
        columns: filters side by side.
    """
    columns = min(columns, len(maps))
    high = 1 if filters is None else 2
    blocks = -(-len(maps) // columns)
    figure = Figure(figsize=(1.05 * (columns + 1), 1.2 * high * blocks + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(high * blocks, columns + 1, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    grid[high - 1, 0].imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
    for number, name in enumerate(names):
        row, column = high * (number // columns), number % columns + 1
        if filters is not None:
            weights = filters[number] / max(float(np.abs(filters[number]).max()), 1e-12)
            shown = (weights.squeeze(-1) if weights.shape[-1] == 1 else weights) / 2 + 0.5
            grid[row, column].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        grid[row + high - 1, column].imshow(maps[number], cmap="viridis", interpolation="nearest")
        grid[row, column].set_title(name, fontsize=8)
    return figure


def palette_shares(palette: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Two bars for every colour of a palette, in that colour: its share of the true and of the predicted pixels.

    Args:
        palette: uint8 (colours, 3).
        true: float (colours,), 0–1.
        predicted: likewise.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(palette))
    colors = palette / 255
    axes.bar(places - 0.21, true, 0.4, color=colors, edgecolor="black", linewidth=0.6)
    axes.bar(places + 0.21, predicted, 0.4, color=colors, edgecolor="black", linewidth=0.6, hatch="////")
    axes.set(
        xlabel="colour of the palette", ylabel="share of pixels", title="Palette", xticks=places[:: max(1, len(places) // 24)]
    )
    true_key = Patch(facecolor="white", edgecolor="black", label="true")
    axes.legend(handles=[true_key, Patch(facecolor="white", edgecolor="black", hatch="////", label="predicted")])
    return figure


def compare_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], panels: Sequence[str]) -> Figure:
    """One colour for each line of a comparison, one line for each of its runs, one panel for each figure of the history.

    Args:
        histories: name of a line to the histories of its runs (see `learning_curves`), which differ in their seeds.
        panels: figures, such as ``("loss", "val_loss")``; two that are joined by + share a panel, ``"loss+val_loss"``, in which
            training is dashed.
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
                    label = f"{name}, {_spoken(key)}" if len(keys) > 1 else name
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
        title = _spoken(keys[0]) if len(keys) == 1 else keys[0].removeprefix("val_")
        axes.set(xlabel="epoch", ylabel=keys[0].removeprefix("val_"), title=title[0].upper() + title[1:])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _spoken(key: str) -> str:
    return f"validation {key.removeprefix('val_')}" if key.startswith("val_") else f"train {key}"


def switch_figures(values: Mapping[str, Sequence[float]], base: str, label: str, *, title: str) -> Figure:
    """A figure of each switch of an ablation: a dot a seed, a bar at the mean, and the base's mean and spread behind all.

    Args:
        values: name of a switch to the figure of each of its runs; the base is among them.
        base: its name.
        label: the figure's name.
        title: above all.
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


def accuracy_lines(places: Sequence[str], lines: Mapping[str, Sequence[float]], label: str, title: str) -> Figure:
    """Accuracies of the variants of a sweep.

    Args:
        places: what stands below each place of the horizontal axis.
        lines: name of a line to its accuracies, 0–1, one a place.
        label: what was varied.
        title: above all.
    """
    figure = Figure(figsize=(max(5.0, 0.45 * len(places) + 2), 3.8), layout="constrained")
    axes = figure.subplots()
    colors = itertools.chain((VALIDATION, TRAIN, BEST), (f"C{number}" for number in itertools.count(3)))
    for (name, values), color in zip(lines.items(), colors, strict=False):
        axes.plot(range(len(places)), values, marker="o", markersize=4, color=color, label=name)
    crowded = len(places) > 12 or max(map(len, places)) > 6
    axes.set_xticks(range(len(places)), places, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.set(xlabel=label, ylabel="accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def engine_latencies(latencies: Mapping[str, Sequence[float]], batch_sizes: Sequence[int], *, title: str) -> Figure:
    """Horizontal bars on a logarithmic axis: one panel a batch size, one bar an engine.

    Args:
        latencies: name of an engine to its milliseconds a call, one for each batch size.
        batch_sizes: images a call.
        title: above all.
    """
    names = list(latencies)
    figure = Figure(figsize=(1.5 + 3.6 * len(batch_sizes), 1.4 + 0.34 * len(names)), layout="constrained")
    figure.suptitle(title)
    for number, (axes, size) in enumerate(
        zip(figure.subplots(1, len(batch_sizes), squeeze=False)[0], batch_sizes, strict=True)
    ):
        values = [latencies[name][number] for name in names]
        bars = axes.barh(range(len(names)), values, color=TRAIN)
        texts = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names), fontsize=8)
        axes.set(xscale="log", xlim=(min(values) / 2, max(values) * 6), ylim=(len(names) - 0.4, -0.6))
        axes.set(xlabel="milliseconds a call", title=f"batch {size}")
    return figure


def difference_histogram(counts: Mapping[str, Sequence[int]], decades: Sequence[float], tolerance: float) -> Figure:
    """How many values of each output differ by how much.

    Args:
        counts: by output: values that differ by exactly 0, by less than each of `decades`, and by more than the last.
        decades: bounds, rising.
        tolerance: where a line marks what is allowed.
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
    axes.axvline(allowed, color=BEST, linestyle=":", label=f"allowed: {tolerance:g}")
    axes.set_xticks(positions, names, rotation=30, ha="right")
    axes.set(xlabel="absolute difference between Keras and the file", ylabel="values, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


# --- retrieval --------------------------------------------------------------------------------------------------------

RIGHT, WRONG = "#228833", "#cc3311"


def rank_lists(queries: np.ndarray, results: Sequence[np.ndarray], matches: np.ndarray, captions: Sequence[str]) -> Figure:
    """A row a query: the picture that is looked for, then the nearest ones, framed by whether they are right.

    Args:
        queries: uint8 (N, height, width, 1 or 3).
        results: for each query uint8 (up to `matches`' columns, height, width, 1 or 3), nearest first.
        matches: bool (N, columns).
        captions: one a query.
    """
    columns = matches.shape[1] + 1
    figure = Figure(figsize=(1.15 * columns, 1.35 * len(queries)))
    # places by hand: the constrained layout takes seconds for so many
    spaces = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - 0.2 / len(queries), "wspace": 0.08, "hspace": 0.25}
    grid = figure.subplots(len(queries), columns, squeeze=False, gridspec_kw=spaces)
    for row, query, nearest, right, caption in zip(grid, queries, results, matches, captions, strict=True):
        for axes in row[len(nearest) + 1 :]:
            axes.set_axis_off()
        colors = ["black", *(RIGHT if one else WRONG for one in right)]
        for axes, image, color in zip(row, [query, *nearest], colors, strict=False):
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=color, linewidth=1 if color == "black" else 3)
        row[0].set_title(caption, fontsize=7)
    return figure


def cmc_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Share of queries with a right entry among the k nearest, against k.

    Args:
        curves: name to shares for k of 1, 2 …
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, shares), color in zip(curves.items(), (TRAIN, VALIDATION, BEST), strict=False):
        axes.plot(range(1, len(shares) + 1), shares, color=color, marker="o", markersize=3, label=name)
    axes.set(xlabel="k", ylabel="share of queries found", title="Cumulative matching characteristic", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def distance_histograms(same: np.ndarray, different: np.ndarray) -> Figure:
    """Distances of pairs of one identity beside those of pairs of two, each as a density."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(1e-6, *(float(values.max()) for values in (same, different) if len(values))), 60)
    for values, label, color in ((same, "the same identity", TRAIN), (different, "two identities", VALIDATION)):
        if len(values):
            axes.hist(values, bins.tolist(), density=True, alpha=0.6, color=color, label=f"{label}: {len(values):,} pairs")
    axes.set(xlabel="distance", ylabel="density", title="Distances of pairs")
    axes.legend()
    return figure


def embedding_map(places: np.ndarray, groups: np.ndarray, shown: int = 20) -> Figure:
    """Points in a plane, the first groups in colours of their own, the others grey.

    Args:
        places: float (N, 2).
        groups: int (N,).
        shown: groups with a colour, at most 20.
    """
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    axes = figure.subplots()
    names = np.unique(groups)[:shown]
    rest = ~np.isin(groups, names)
    axes.scatter(places[rest, 0], places[rest, 1], s=10, color="#cccccc")
    axes.scatter(
        places[~rest, 0], places[~rest, 1], s=16, c=np.searchsorted(names, groups[~rest]), cmap="tab20", vmin=0, vmax=19
    )
    axes.set(
        xticks=[], yticks=[], title=f"{len(places)} pictures; colours: {len(names)} of {len(np.unique(groups))} identities"
    )
    return figure


def scaling_curves(curves: Mapping[str, Sequence[tuple[int, float, float]]], name: str) -> Figure:
    """Speed-up against the number of devices, side by side; between the two lines of each lies what overlap may bring.

    Args:
        curves: title to (devices, speed-up without overlap, with full overlap).
        name: of the network.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        devices, least, most = zip(*points, strict=True)
        axes.plot(devices, devices, color=BEST, linestyle=":", label="as many times as devices")
        axes.plot(devices, most, color=TRAIN, marker="o", markersize=4, label="full overlap")
        axes.plot(devices, least, color=VALIDATION, marker="o", markersize=4, label="no overlap")
        axes.fill_between(devices, least, most, color=TRAIN, alpha=0.15, linewidth=0)
        axes.set(xlabel="devices", ylabel="speed-up (computed)", title=f"{name}: {title}")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(devices, [str(n) for n in devices])
        axes.set_yticks(devices, [str(n) for n in devices])
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
