"""Checks of report 002: scene recognition, MyNet and ResNet-18."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output
from kerascv_course.analysis.convolution import correlate
from kerascv_course.analysis.torchsummary import MB, STYLES, torch_rows, torch_summary
from kerascv_course.core.tables import format_percent
from kerascv_course.models import create_model
from kerascv_course.reports.checks.evidence import check, network
from kerascv_course.reports.paper import count_layers
from kerascv_course.reports.targets import printed, printed_numbers
from kerascv_course.tasks.scenes.config import Scenes


@check("E002-01", create_model, summarize, torch_rows)
def dropout_was_not_called() -> list[str]:
    """The size of the forward and backward pass with and without a row for dropout, against the printed one."""
    style = STYLES["mynet"]
    size = printed("002", "2.2 torchsummary", "forward/backward", "myNet")[0]
    lines = []
    for dropout in (False, True):
        rows = torch_rows(network("mynet"), dataclasses.replace(style, dropout=dropout))
        # that package counts 4 bytes an output, once forward and once backward
        megabytes = 2 * 4 * sum(math.prod(row.shape) for row in rows) / MB
        lines.append(
            f"{'with' if dropout else 'without'} a dropout row: {len(rows)} rows, {megabytes:.5f} MB, printed as {megabytes:.2f}; the "
            f"report prints {size}: {'the same' if f'{megabytes:.2f}' == size else 'another'}"
        )
    return lines


@check("E002-02")
def two_accuracies_of_one_model() -> list[str]:
    """The two accuracies of each network as numbers of the 5,000 validation images."""
    images, lines = 5000, []
    for model in ("resnet18", "myNet"):
        table, script = (
            printed_numbers("002", "2.1 Table 5", metric, model)[0]
            for metric in ("validation accuracy", "evaluation-script accuracy")
        )
        right = round(table * images), round(script * images)
        verdict = f"{abs(right[0] - right[1])} images apart" if right[0] != right[1] else "the same"
        lines.append(f"{model}: {table:.5f} is {right[0]} of {images:,}, {script:.4f} is {right[1]} of {images:,}: {verdict}")
    return lines


@check("E002-03")
def gain_that_is_not_shown() -> list[str]:
    """GoogLeNet's accuracy against the final MyNet's."""
    before = printed_numbers("002", "2.4", "accuracy", "GoogLeNet")[0]
    dense = printed_numbers("002", "2.4", "accuracy", "DenseNet")[0]
    after = printed_numbers("002", "2.1 Table 5", "validation accuracy", "myNet")[0]
    return [
        f"GoogLeNet before customising {before}, MyNet after it {after}: a gain of {100 * (after - before):.2f} points",
        f"GoogLeNet over DenseNet ({dense}): {100 * (before - dense):.2f} points",
    ]


@check("E002-04", conv_output, correlate, count_layers)
def padding_left_over() -> list[str]:
    """The maps with padding 3 and 1, and the outputs that see padding only."""
    lines = []
    for padding in (3, 1):
        sizes = [conv_output(32, 3, 1, padding).output]
        for _ in range(3):
            sizes.append(conv_output(sizes[-1], 3, 2, 1).output)
        seen = correlate(np.ones((32, 32), int), np.ones((3, 3), int), padding)
        stem = count_layers(f"conv3-64s1p{padding}", (32, 32, 3), biases=False)
        lines.append(
            f"padding {padding}: maps {'/'.join(map(str, sizes))}; {int((seen == 0).sum())} of {seen.size:,} outputs of the first "
            f"convolution see padding only; {stem.parameters:,} parameters"
        )
    seven = [p for p in range(8) if conv_output(32, 7, 1, p).output == 32]
    return [*lines, f"a 7×7 kernel of stride 1 keeps 32 with padding {seven[0]}: the origin of the 3"]


@check("E002-05", conv_output)
def step_of_k_means() -> list[str]:
    """The settings of k-means, and those of the scenes that have a step."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    settings = {*inspect.signature(KMeans).parameters, *inspect.signature(kmeans_plusplus).parameters}
    steps = [name for name in settings if "step" in name]
    fields = {field.name: field.default for field in dataclasses.fields(Scenes)}
    size, span = 256, 16
    counts = [f"{step}: {conv_output(size, span, step).output ** 2:,}" for step in (1, 3, 5)]
    return [
        f"of the {len(settings)} settings of scikit-learn's k-means {len(steps)} are called step; its tunable is n_clusters: "
        f"{'n_clusters' in settings}",
        f"here the vocabulary is {fields['words']} words; the step ({fields['step']} pixels by default) is dense "
        f"SIFT's: it sets how many descriptors a {size}×{size} image has ({span}-pixel windows, step {', '.join(counts)})",
    ]


@check("E002-06")
def norm_of_a_matrix() -> list[str]:
    """NumPy's norm of order 1 of an image as a matrix and as a vector."""
    image = np.array([[1.0, -2.0, 3.0], [4.0, 0.0, -6.0]])
    lines = []
    for order, name in ((1, "L1"), (2, "L2")):
        matrix, vector = float(np.linalg.norm(image, ord=order)), float(np.linalg.norm(image.ravel(), ord=order))
        lines.append(f"{name} of the image {image.tolist()}: as a matrix {matrix:.4g}, flattened {vector:.4g}")
    sums = np.abs(image).sum(axis=0)
    return [
        *lines,
        f"the former L1 is its largest column sum, of {', '.join(f'{n:g}' for n in sums)}: "
        f"{float(np.linalg.norm(image, ord=1)) == sums.max()}; the latter the sum of all, {np.abs(image).sum():g}",
    ]


@check("E002-07")
def symmetry_and_accuracy() -> list[str]:
    """A symmetric confusion matrix of low accuracy, and an asymmetric one of high accuracy."""
    symmetric = np.array([[10, 45, 45], [45, 10, 45], [45, 45, 10]])
    lopsided = np.array([[80, 20, 0], [0, 80, 20], [20, 0, 80]])
    lines = []
    for name, counts in (("symmetric", symmetric), ("not symmetric", lopsided)):
        shares = counts / counts.sum(axis=1, keepdims=True)
        accuracy = counts.trace() / counts.sum()
        lines.append(
            f"{counts.tolist()}: largest |m_ij − m_ji| {np.abs(shares - shares.T).max():.2f} ({name}), "
            f"accuracy {format_percent(accuracy)}, "
            f"mean of the diagonal {format_percent(np.diag(shares).mean())}"
        )
    return lines


@check("E002-08")
def k_above_the_baseline() -> list[str]:
    """Table 2 against the baseline, k by k."""
    baseline = printed_numbers("002", "1.2.1", "baseline to pass")[0]
    accuracies = dict(enumerate(printed_numbers("002", "1.2.1 Table 2", "accuracy"), start=1))

    def which(rule: str) -> str:
        tests = {"above": lambda a: a > baseline, "equal": lambda a: a == baseline, "below": lambda a: a < baseline}
        return ",".join(str(k) for k, accuracy in accuracies.items() if tests[rule](accuracy))

    return [
        f"baseline {baseline}; above it: k={which('above')}; equal to it: k={which('equal')}; below it: k={which('below')}",
        f"best: k={max(accuracies, key=lambda k: accuracies[k])} with {max(accuracies.values())}",
    ]


@check("E002-09", create_model, summarize, torch_summary)
def line_numbers() -> list[str]:
    """Content of the damaged pages, recomputed: convolutions, totals, and lines of the tables."""
    lines = []
    for name, model in (("mynet", "myNet"), ("resnet18_cifar", "resnet18")):
        summary = network(name)
        convs = [row for row in summary.rows if row.kind == "conv"]
        fit = sum(
            row.trainable - math.prod(row.kernel) * row.input_shapes[0][-1] * (row.output_shape or (0,))[-1]
            in (0, (row.output_shape or (0,))[-1])
            for row in convs
        )
        table = torch_summary(summary).splitlines()
        rows = [at for at, line in enumerate(table, start=1) if "[-1, " in line]
        total = printed("002", "2.2 torchsummary", "trainable", model)[0]
        lines.append(
            f"{model}: {len(convs)} convolutions, {fit} with k²·C_in·C_out weights (and C_out biases or none), total "
            f"{summary.trainable:,}, printed {int(total):,}; its table has {len(rows)} rows on the lines {rows[0]} to {rows[-1]}"
        )
    return [
        *lines,
        "brackets lost in copying cannot be computed; the networks above are complete without them",
    ]
