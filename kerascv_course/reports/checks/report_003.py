"""Checks of report 003: VGG16 and a shortened ResNet-50."""

from __future__ import annotations

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output
from kerascv_course.analysis.graph import segments
from kerascv_course.models import create_model
from kerascv_course.reports.checks.evidence import check, network
from kerascv_course.reports.targets import printed_numbers


@check("E003-01")
def running_means() -> list[str]:
    """The loss of each hundred steps from the printed running means, and a synthetic loss with its running mean."""
    lines = []
    for model in ("VGG16", "ResNet50_layer4"):
        means = np.array(printed_numbers("003", "1 epoch", "running mean", model))
        # the mean of block n is n·mean_n − (n − 1)·mean_{n−1}
        blocks = np.diff(means * np.arange(1, len(means) + 1), prepend=0.0)
        lines.append(
            f"{model}: printed running means {', '.join(f'{n:.4f}' for n in means)}; the hundreds of steps themselves "
            f"{', '.join(f'{n:.4f}' for n in blocks)}, a range {np.ptp(blocks) / np.ptp(means):.1f} times as wide"
        )
    steps, jump = 500, 400
    loss = np.where(np.arange(steps) < jump, 0.2, 0.1)
    running = loss.cumsum() / np.arange(1, steps + 1)
    lines.append(
        f"a synthetic loss that drops by half at step {jump}: {loss[0]:.4f} to {loss[-1]:.4f} a step, the running mean at step {steps} "
        f"still {running[-1]:.4f}"
    )
    # gradient descent on w²/2 at its minimum, with noise: the loss that is left grows with the rate
    noise = np.random.default_rng(0).normal(size=20_000)
    left = []
    for rate in (0.05, 0.2, 0.8):
        w, total = 0.0, 0.0
        for push in noise:
            w -= rate * (w + push)
            total += w * w / 2
        left.append(f"{rate:g}: {total / len(noise):.4f}")
    lines.append(f"converged noisy gradient descent, mean loss by learning rate: {', '.join(left)}: a larger rate increases it")
    return lines


@check("E003-02", create_model, summarize, segments)
def weighted_layers() -> list[str]:
    """Blocks and layers with weights on the main path, counted in the network's graph."""
    summary = network("resnet50_cose474")
    blocks = [segment for segment in segments(summary.graph) if segment.kind == "residual"]
    convs = [row for row in summary.rows if row.kind == "conv"]
    side = [row for row in convs if row.name.endswith("_shortcut")]
    dense = [row for row in summary.rows if row.kind == "dense"]
    main = len(convs) - len(side)
    inside = (main - 1) // len(blocks)
    paper = (3, 4, 6, 3)
    stages = sorted({row.name.split("_")[0] for row in side})
    depths = [sum(row.name.startswith(stage) for row in side) for stage in stages]
    return [
        f"1 + {inside}·{len(blocks)} = {main} convolutions on the main path ({len(side)} more on shortcuts) and {len(dense)} FC: "
        f"{main + len(dense)} weighted layers",
        f"stages of {', '.join(map(str, depths))} blocks; ResNet-50 has {', '.join(map(str, paper))}: "
        f"1 + {inside}·{sum(paper)} + 1 = {2 + inside * sum(paper)}; "
        f"{len(paper) - len(depths)} stage, conv{len(depths) + 2}, is absent",
    ]


@check("E003-03", conv_output)
def half_of_an_odd_size() -> list[str]:
    """The output of a 1×1 convolution of stride 2 for even and odd sizes."""
    sizes = range(1, 33)
    out = {size: conv_output(size, 1, 2).output for size in sizes}
    even = [size for size in sizes if out[size] * 2 == size]
    odd = [size for size in sizes if out[size] * 2 == size + 1]
    return [
        f"H/2 holds for {len(even)} of the sizes 1 to {sizes[-1]}, all even: {all(n % 2 == 0 for n in even)}; (H+1)/2 for the other "
        f"{len(odd)}, all odd: {all(n % 2 == 1 for n in odd)}",
        "such as " + ", ".join(f"{size} → {out[size]}" for size in (8, 7, 4, 5)),
    ]
