"""Checks of report 000: identity retrieval with a modified ResNet-18."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output
from kerascv_course.analysis.convolution import average_pool, check_average_pooling, pooling_kernel
from kerascv_course.analysis.diagram import block_diagram
from kerascv_course.analysis.torchsummary import torch_rows
from kerascv_course.core.tables import format_percent
from kerascv_course.models import create_model, load_weights, model_spec
from kerascv_course.reports.checks.evidence import check, network
from kerascv_course.reports.paper import count_triplets
from kerascv_course.reports.targets import erratum

#: Training set of the report: identities, and images of each.
_IDENTITIES, _IMAGES = 230, 10


@check("E000-01", check_average_pooling, average_pool, pooling_kernel)
def dense_kernel_is_no_pool() -> list[str]:
    """A dense convolution with equal weights sums over the channels; only the depthwise one is average pooling."""
    kernel, channels = 8, 2
    maps = np.random.default_rng(0).uniform(0, 1, (1, kernel, kernel, channels)) * [1, 3]
    pool = average_pool(maps, kernel).ravel()
    depthwise = np.einsum("nhwc,hwco->c", maps, pooling_kernel(kernel, channels))
    dense = np.einsum("nhwc,hwco->o", maps, np.full((kernel, kernel, channels, channels), 1 / kernel**2))
    check = check_average_pooling(kernel, 1, channels, kernel)
    return [
        f"average pooling of two random 8×8 channels: {pool[0]:.4f} and {pool[1]:.4f}; depthwise kernel 1/{kernel**2}: "
        f"{depthwise[0]:.4f} and {depthwise[1]:.4f}",
        f"dense all-equal kernel 1/{kernel**2}: {dense[0]:.4f} and {dense[1]:.4f}; the sum of the pooled channels: {pool.sum():.4f}",
        f"on random integer maps, largest difference from average pooling: depthwise {check.depthwise:.1e}, dense with zeros between "
        f"channels {check.diagonal:.1e}, dense all-equal {check.all_equal:.4g}; the last is the sum over the channels: "
        f"{check.all_equal_is_sum}",
    ]


@check("E000-02", conv_output, check_average_pooling)
def stride_of_the_pool() -> list[str]:
    """On an 8×8 map any stride gives one position; on larger maps the strides differ."""
    kernel = 8
    positions = {conv_output(kernel, kernel, stride).output for stride in range(1, kernel + 1)}
    larger = 2 * kernel
    one, eight = conv_output(larger, kernel, 1).output, conv_output(larger, kernel, kernel).output
    return [
        f"{kernel}×{kernel} window on an {kernel}×{kernel} map, strides 1 to {kernel}: "
        + " or ".join(f"{n}×{n}" for n in sorted(positions)),
        f"on a {larger}×{larger} map: {one}×{one} with stride 1, {eight}×{eight} with stride {kernel}: different outputs",
        f"pooling and convolution with stride 1 on {larger}×{larger} are equal: "
        f"{check_average_pooling(kernel, 1, size=larger).equal}",
    ]


@check("E000-03", create_model, load_weights)
def every_layer_loads() -> list[str]:
    """Load a checkpoint with the entries of an ImageNet ResNet-18 into the modified network without head."""
    in_torch = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    in_torch |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    standard = create_model("resnet18")
    names = model_spec("resnet18").torch_names
    prefixes = names(standard) if names else {}
    arrays = {}
    for layer in standard.layers:
        for variable in layer.weights:
            # channels first, as in PyTorch: (out, in, h, w) and (out, in); only names and shapes matter here
            axes = (3, 2, 0, 1) if len(variable.shape) == 4 else tuple(reversed(range(len(variable.shape))))
            shape = tuple(variable.shape[axis] for axis in axes)
            arrays[f"{prefixes[layer.name][0]}.{in_torch[variable.name]}"] = np.zeros(shape, np.float32)
    modified = create_model("resnet18_reid", include_top=False)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "resnet18.npz", **arrays)  # type: ignore[arg-type]
        report = load_weights(modified, Path(folder) / "resnet18.npz", strict=False)
    unused = sum(arrays[entry].size for entry in report.unexpected)
    trainable = summarize(standard).trainable
    return [
        f"{len(arrays)} entries with the names and shapes of an ImageNet ResNet-18: {len(report.loaded)} loaded, "
        f"{len(report.missing)} variables of the modified network missing, {len(report.mismatched)} of another shape",
        f"unused: {' and '.join(sorted(report.unexpected, reverse=True))}, {unused:,} parameters",
        f"{trainable:,} − {unused:,} = {trainable - unused:,}; the modified network's "
        f"{len(torch_rows(summary := network('resnet18_reid', include_top=False)))} rows sum to {summary.trainable:,}",
    ]


@check("E000-04", create_model, summarize, torch_rows, block_diagram)
def block_with_a_projection() -> list[str]:
    """The first 512-channel block: its shortcut, its stride, and its name in the diagram."""
    summary = network("resnet18_reid", include_top=False)
    convs = [row for row in summary.rows if row.name.endswith("_shortcut")]
    last = convs[-1]
    rows = torch_rows(summary)
    at = next(i for i, row in enumerate(rows) if row.parameters == last.parameters and row.shape[0] == 512)
    boxes = [str(box) for box in block_diagram(summary) if box.kind == "block"]
    before, after = last.input_shapes[0], last.output_shape or ()
    return [
        f"rows {rows[at].index} and {rows[at + 1].index}: a {last.kernel[0]}×{last.kernel[1]} convolution of stride {last.stride[0]} "
        f"with {rows[at].parameters:,} parameters and a batch norm with {rows[at + 1].parameters:,}",
        f"it maps {'×'.join(map(str, before))} to {'×'.join(map(str, after))}; the other {len(convs) - 1} projections have "
        f"stride {' and '.join(sorted({str(row.stride[0]) for row in convs[:-1]}))}",
        f"blocks of the diagram, -D where the map shrinks: {', '.join(boxes)}",
    ]


@check("E000-05")
def curves_of_question_8() -> list[str]:
    """The training losses named in the sentence, and the two series of one training."""
    return _curves("E000-05")


@check("E000-06")
def curves_of_question_11() -> list[str]:
    """The same for the sentence of question 11."""
    return _curves("E000-06")


def _curves(identifier: str) -> list[str]:
    text = erratum(identifier).printed
    epochs, batch = 5, 64
    steps = -(-_IDENTITIES * _IMAGES // batch)
    rng = np.random.default_rng(0)
    loss = np.exp(-np.arange(epochs * steps) / steps) * rng.uniform(0.8, 1.2, epochs * steps)
    means = loss.reshape(epochs, steps).mean(axis=1)
    falls = [float((np.diff(series) < 0).mean()) for series in (loss, means)]
    return [
        f"losses named in the sentence: per iteration {text.count('per iteration')}, per epoch {text.count('per epoch')}; one "
        "training has one of each:",
        f"a synthetic loss over {epochs} epochs of {_IDENTITIES * _IMAGES:,} images in batches of {batch}: {len(loss)} points per "
        f"iteration, {len(means)} points per epoch, each the mean of {steps}",
        f"both decrease ({loss[0]:.3f} to {loss[-1]:.3f}, {means[0]:.3f} to {means[-1]:.3f}); from one point to the next the loss "
        f"per iteration decreases in {format_percent(falls[0])} of cases, "
        f"the loss per epoch in {format_percent(falls[1])}: two curves, not one",
    ]


@check("E000-07", count_triplets)
def ordered_triplets() -> list[str]:
    """The report's product, and the count of unordered pairs of anchor and positive."""
    count, small = count_triplets(_IDENTITIES, _IMAGES), count_triplets(3, 3)
    images = [(identity, image) for identity in range(3) for image in range(3)]
    listed = [t for t in itertools.product(images, repeat=3) if t[0] != t[1] and t[0][0] == t[1][0] != t[2][0]]
    unordered = {(frozenset(t[:2]), t[2]) for t in listed}
    return [
        f"ordered (anchor, positive): {count.ordered:,}; unordered: {count.unordered:,}",
        f"all triplets of 3 identities with 3 images enumerated: {len(listed)} ordered, {len(unordered)} unordered; "
        f"the formula: {small.ordered} and {small.unordered}",
    ]
