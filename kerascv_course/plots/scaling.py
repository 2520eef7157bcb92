"""Figures of speed: engines side by side, and data-parallel training on many devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from kerascv_course.plots.base import BEST, TRAIN, VALIDATION

__all__ = ["engine_latencies", "scaling_curves"]


def engine_latencies(latencies: Mapping[str, Sequence[float]], batch_sizes: Sequence[int], *, title: str) -> Figure:
    """Latency of inference engines as horizontal bars on a logarithmic axis, one panel per batch size.

    Args:
        latencies: name of an engine to its milliseconds per call, one for each batch size.
        batch_sizes: number of images per call of each panel.
        title: text above the figure.
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
        axes.set(xlabel="milliseconds per call", title=f"batch {size}")
    return figure


def scaling_curves(curves: Mapping[str, Sequence[tuple[int, float, float]]], name: str) -> Figure:
    """Computed speed-up against the number of devices, a panel per title; the band is what overlapping communication can gain.

    Args:
        curves: title to (devices, speed-up without overlap, with full overlap).
        name: name of the network, for the titles.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        devices, least, most = zip(*points, strict=True)
        axes.plot(devices, devices, color=BEST, linestyle=":", label="linear")
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
