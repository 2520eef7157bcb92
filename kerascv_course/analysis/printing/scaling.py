"""Scaling curves and tables of networks as Markdown. Objects in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kerascv_course.analysis.scaling import Cluster, Curve, Workload

__all__ = ["curve_table", "network_table", "step_text"]


def step_text(work: Workload, optimizer: str, images: int) -> str:
    """FLOPs and bytes of a network's training, with the arithmetic."""
    ratio = work.training_macs / work.forward_macs if work.forward_macs else 0.0
    return "\n".join(
        [
            f"{work.name}: {work.parameters:,} parameters, {work.trainable:,} of them trained",
            f"FLOPs        an image, forward 2 × {work.forward_macs:,} MACs = {2 * work.forward_macs / 1e9:.4g} GFLOP; forward and "
            f"backward {work.training_flops / 1e9:.4g} GFLOP ({ratio:.2f} × forward)",
            f"gradients    4 × {work.trainable:,} = {work.gradient_bytes:,} bytes; n devices send 2(n − 1)/n times as many each",
            f"checkpoint   {work.checkpoint_bytes(optimizer):,} bytes of variables with {optimizer}",
            f"memory       {work.memory_bytes(images, optimizer) / 2**30:.3g} GiB for {images} images on a device: the checkpoint's, "
            f"gradients, and {work.activation_bytes:,} bytes of activations an image, none of them freed",
        ]
    )


def curve_table(curve: Curve) -> str:
    """One row a number of devices; the first of two figures without overlap, the second with as much as can be."""
    what = "one batch, divided" if curve.kind == "strong" else "a batch a device"
    rows = [
        ("devices", "batch", "compute ms", "sent MB", "all-reduce ms", "step ms", "images/s", "speed-up", "efficiency", "limit")
    ]
    for p in curve.points:
        both = (False, True)
        rows.append(
            (
                f"{p.devices}",
                f"{p.batch:,}",
                _short(1e3 * p.compute),
                _short(p.sent / 1e6),
                _short(1e3 * p.all_reduce),
                _pair(1e3 * p.seconds(overlap=o) for o in both),
                _pair(p.images_per_second(overlap=o) for o in both),
                _pair(curve.speed_up(p, overlap=o) for o in both),
                _pair(curve.efficiency(p, overlap=o) for o in both),
                p.limit,
            )
        )
    return f"{curve.kind} scaling ({what}); without overlap, and with all that there can be\n\n" + _table(rows, left=(9,))


def network_table(works: Sequence[Workload], cluster: Cluster, devices: int, optimizer: str) -> str:
    """One row a network: what its training takes, and the batch a device from which on computing takes longer than adding up."""
    head = ("network", "trained", "GFLOP an image", "gradients MB", f"sent by each of {devices}, MB", "all-reduce ms")
    rows = [(*head, "images a device as long", f"checkpoint MB, {optimizer}", "activations MB an image")]
    for work in works:
        sent = work.sent_bytes(devices)
        seconds = cluster.all_reduce_seconds(sent, devices)
        image = work.training_flops / (cluster.peak * cluster.utilisation)
        rows.append(
            (
                f"`{work.name}`",
                f"{work.trainable:,}",
                _short(work.training_flops / 1e9),
                f"{work.gradient_bytes / 1e6:,.2f}",
                f"{sent / 1e6:,.2f}",
                _short(1e3 * seconds),
                f"{seconds / image:,.0f}" if image else "—",
                f"{work.checkpoint_bytes(optimizer) / 1e6:,.2f}",
                f"{work.activation_bytes / 1e6:,.2f}",
            )
        )
    return _table(rows, left=(0,))


def _short(value: float) -> str:
    """Three significant digits or more, with separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pair(values: Iterable[float]) -> str:
    first, second = map(_short, values)
    return first if first == second else f"{first} / {second}"


def _table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(" --- " if i in left else " ---: " for i in range(len(rows[0]))) + "|")
    return "\n".join(lines)
