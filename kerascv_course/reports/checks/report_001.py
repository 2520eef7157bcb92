"""Checks of report 001: CNNs on CIFAR-10."""

from __future__ import annotations

import math
import re

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output
from kerascv_course.analysis.convolution import SOBEL_X, convolve, correlate
from kerascv_course.config import TrainedRecipe
from kerascv_course.core.tables import format_percent
from kerascv_course.models import create_model, model_spec
from kerascv_course.recipes import get_recipe
from kerascv_course.reports.answers import IMAGE_001
from kerascv_course.reports.checks.evidence import check, network
from kerascv_course.reports.paper import count_layers, dense_parameters
from kerascv_course.reports.targets import erratum, printed, printed_numbers

_BASE = "conv5-32 pool2 conv5-64 pool2 conv5-128 pool2 fc64 fc10"
_TABLE_2 = "Task 3(b) Table 2"


def _row(values: object) -> str:
    return ", ".join(str(value) for value in values)  # type: ignore[attr-defined]


@check("E001-01", correlate, convolve)
def first_row() -> list[str]:
    """The first row recomputed, and a proof that no image gives the printed one."""
    got = [int(n) for n in printed("001", "Task 1(a)", "output row 1")[0].split()]
    # With zeros above, out[j] = S[j+1] − S[j−1], S the column sums 2·(first row) + (second row): two equations for S[3].
    from_third, from_fifth = got[2] + got[0], -got[4]
    return [
        f"correlation: {_row(correlate(IMAGE_001, SOBEL_X)[0])}; convolution: {_row(convolve(IMAGE_001, SOBEL_X)[0])}",
        f"printed: {_row(got)}; its first and third entry say that the fourth column, weighed 2 and 1, sums to {from_third}, its "
        f"fifth entry {from_fifth}; in the image it is {2 * IMAGE_001[0][3] + IMAGE_001[1][3]}; no image gives the printed row: "
        f"{from_third != from_fifth}",
    ]


@check("E001-02", convolve, correlate)
def all_signs() -> list[str]:
    """Convolution against correlation, entry by entry."""
    convolution, correlation = convolve(IMAGE_001, SOBEL_X), correlate(IMAGE_001, SOBEL_X)
    lines = [f"convolution, row {at}: {_row(row)}" for at, row in enumerate(convolution, start=1)]
    flipped = int((convolution == -correlation).sum())
    rest = [[int(n) for n in printed("001", "Task 1(a)", f"output row {at}")[0].split()] for at in (2, 3)]
    return [
        *lines,
        f"{flipped} of {convolution.size} entries are the correlation's with the other sign; the printed rows 2 and 3 equal the "
        f"correlation: {(correlation[1:] == rest).all()}; the convolution: {(convolution[1:] == rest).all()}",
    ]


@check("E001-03", correlate)
def small_shifts() -> list[str]:
    """Outputs of a convolution and of max pooling when one bright pixel moves by one."""
    size, same = 16, {"convolution": 0, "max-pool": 0}
    places = [(i, j) for i in range(4, size - 4) for j in range(4, size - 4)]
    moves = 0
    for i, j in places:
        before = np.zeros((size, size), int)
        before[i, j] = 1
        for axis in (0, 1):
            after = np.roll(before, 1, axis)
            kernel = np.arange(1, 10).reshape(3, 3)
            one, other = correlate(before, kernel), correlate(after, kernel)
            moves += int(np.array_equal(np.roll(one, 1, axis), other))
            same["convolution"] += int(np.array_equal(one, other))
            pooled = [image.reshape(size // 2, 2, size // 2, 2).max(axis=(1, 3)) for image in (before, after)]
            same["max-pool"] += int(np.array_equal(*pooled))
    trials = 2 * len(places)
    return [
        f"one bright pixel moved by one, {trials} times: the output of 2×2 max pooling is unchanged {same['max-pool']} times "
        f"({format_percent(same['max-pool'] / trials)}), the 3×3 convolution {same['convolution']} times",
        f"the convolution's output moves with the pixel {moves} times: it is equivariant, not less sensitive",
    ]


@check("E001-04", count_layers)
def second_layer() -> list[str]:
    """Parameters of the second convolution: its input is the first one's output, not the image."""
    return _convolution(1)


@check("E001-05", count_layers)
def third_layer() -> list[str]:
    """The same for the third convolution."""
    return _convolution(2)


def _convolution(index: int) -> list[str]:
    convs = [layer for layer in count_layers(_BASE, (32, 32, 3)).layers if layer.text.startswith("conv")]
    channels, filters = convs[index - 1].output[2], convs[index].output[2]
    return [
        f"layer {index} makes {channels} maps, so layer {index + 1} has (5·5·{channels} + 1)·{filters} = {convs[index].parameters:,} "
        f"parameters ({convs[index].weights:,} weights and {convs[index].biases} biases)",
        f"with the image's 3 channels for the {channels} maps it would be {dense_parameters(5 * 5 * 3, filters):,}, as printed",
    ]


@check("E001-06", count_layers)
def total_of_the_base_network() -> list[str]:
    """The sum over the layers, and the printed sum of wrong terms."""
    count = count_layers(_BASE, (32, 32, 3))
    terms = [layer.parameters for layer in count.layers if layer.parameters]
    wrong = printed_numbers("001", "Task 1(g)", "parameters")
    return [
        f"{' + '.join(f'{n:,}' for n in terms)} = {count.parameters:,}",
        f"the printed terms {' + '.join(f'{n:,.0f}' for n in wrong[:-1])} = {sum(wrong[:-1]):,.0f}, as printed "
        f"({wrong[-1]:,.0f}): the sum is right, two of its terms are not",
    ]


@check("E001-07")
def losses_that_are_accuracies() -> list[str]:
    """The three printed values read as accuracies and as losses."""
    train, validation, test = printed_numbers("001", "Task 2(b)")
    images = 10_000
    deviation = math.sqrt(test * (1 - test) / images)
    return [
        f"as accuracies: train {train}, validation {validation}, test {test}; validation and test, both of images not trained on, "
        f"differ by {abs(test - validation):.4f}, {abs(test - validation) / deviation:.1f} standard deviations of an accuracy on "
        f"{images:,} images; train is {100 * (train - validation):.1f} points higher, as it should be",
        f"as losses: train would be {train - test:.4f} ABOVE test; the truth would get a mean probability (geometric) of "
        f"{math.exp(-train):.3f} on the images that the network was trained on and of {math.exp(-test):.3f} on new ones",
    ]


@check("E001-08")
def threshold_of_table_1() -> list[str]:
    """Table 2's accuracies of this model against both thresholds."""
    values = dict(zip(("train", "validation", "test"), printed_numbers("001", _TABLE_2, model="model 1")[1:], strict=True))
    lines = []
    for percent in (75, 85):
        over = [f"{name} {value}" for name, value in values.items() if value > percent / 100]
        under = [f"{name} {value}" for name, value in values.items() if value <= percent / 100]
        lines.append(f"above {percent} %: {', '.join(over) or 'none'}; not above: {', '.join(under) or 'none'}")
    return lines


@check("E001-09", create_model)
def loss_with_a_penalty() -> list[str]:
    """Possible cross-entropy at that accuracy, and cross-entropy and penalty of an untrained model 1."""
    loss, accuracy = printed_numbers("001", _TABLE_2, model="model 1")[:2]
    miss, classes = 1 - accuracy, 10
    # A calibrated network is right as often as it is sure; the largest entropy at that is 1 − accuracy spread over the rest.
    largest = -accuracy * math.log(accuracy) - miss * math.log(miss / (classes - 1))
    floor = -math.log(math.e / (math.e + classes - 1))
    model = create_model("tdt4265_model1")
    penalty = float(sum(float(term) for term in model.losses))
    squares = penalty / model.get_layer("logits").kernel_regularizer.l2
    images = np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(model(images), np.float64)
    spread = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    entropy = float(spread.mean() - logits.mean())  # each class the truth in turn
    return [
        f"a calibrated network of {format_percent(accuracy, 2)} accuracy on {classes} classes has a cross-entropy "
        f"of at most {largest:.3f}; printed "
        f"is {loss}: at least {loss - largest:.3f} is something else",
        f"as a plain mean the wrong {format_percent(miss, 2)} would cost {loss / miss:.1f} each, even if the right ones cost nothing: "
        f"a probability of {math.exp(-loss / miss):.0e} for the truth",
        f"softmax applied twice cannot go below {floor:.4f}, above the printed {loss}: not the cause",
        f"an untrained model 1: cross-entropy {entropy:.1f} on noise (log {classes} = {math.log(classes):.1f}), L2 penalty "
        f"{penalty:.2f} with λ = {penalty / squares:.0e}, as Σw² = {squares:.0f}; that Σw² and λ = {(loss - largest) / squares:.1e} "
        f"would add the {loss - largest:.3f}",
    ]


@check("E001-10", get_recipe)
def learning_rate() -> list[str]:
    """The typed learning rate read literally, and in the usual notation."""
    found = re.search(r"(\d+)e\^\{(-?\d+)\}", erratum("E001-10").printed)
    if found is None:
        raise ValueError("the printed rate has another form")
    recipe = get_recipe("tdt4265-model2")
    if not isinstance(recipe, TrainedRecipe):
        raise TypeError(f"{recipe.name} has no optimizer")
    mantissa, exponent = map(int, found.groups())
    literal, meant = mantissa * math.exp(exponent), mantissa * 10.0**exponent
    return [
        f"{found.group()} read literally, with Euler's e: {literal:.4f}; as {mantissa}·10^{exponent}: {meant:g}; "
        f"{literal / meant:.0f} times less",
        f"the rate of our recipe tdt4265-model2, which trains: {recipe.optimizer.learning_rate:g}",
    ]


@check("E001-11", create_model, summarize)
def place_of_dropout() -> list[str]:
    """The last layers of model 2, and which of its layers have a number."""
    rows = [row for row in network("tdt4265_model2").rows if row.trainable or row.type == "Dropout"]
    order = [row.name for row in rows if row.kind != "norm"]
    weighted = [row.name for row in rows if row.kind in ("conv", "dense")]
    rate = model_spec("tdt4265_model2").options["dropout"]
    at = order.index("dropout")
    sizes = [row.output_shape[-1] for row in rows if row.kind == "dense" and row.output_shape]
    return [
        f"model 2 in order: {', '.join(order)}; Dropout({rate}) is between {order[at - 1]} ({sizes[0]} units) and "
        f"{order[at + 1]} ({sizes[1]} units)",
        f"{len(weighted)} layers have weights: {weighted[-1]} is number {len(weighted)}, dropout has no weights and no number",
    ]


@check("E001-12", create_model, summarize)
def unspecified_settings() -> list[str]:
    """Model 1 with other dropout and L2: nothing printed in the table changes."""
    counts = {}
    for dropout, l2 in ((0.0, 0.0), (0.2, 1e-4), (0.5, 1e-2)):
        counts[dropout, l2] = network("tdt4265_model1", dropout=dropout, l2=l2).trainable
    return [
        "parameters of model 1: " + "; ".join(f"dropout {d:g}, λ {l2:g}: {count:,}" for (d, l2), count in counts.items()),
        f"different counts: {len(set(counts.values()))}; the table fits every rate and coefficient, so it does not determine them",
    ]


@check("E001-13")
def gap_of_model_2() -> list[str]:
    """Train accuracy minus validation and test accuracy."""
    _, train, validation, test = printed_numbers("001", _TABLE_2, model="model 2")
    gaps = 100 * (train - validation), 100 * (train - test)
    ratio = (1 - test) / (1 - train)
    return [
        f"train {train} − validation {validation} = {gaps[0]:.1f} points; train − test {test} = {gaps[1]:.1f} points",
        f"its error rate on test images is {ratio:.1f} times that on training images",
    ]


@check("E001-14", conv_output)
def input_of_224() -> list[str]:
    """The last map of ResNet-18 for both input sizes: five halvings."""

    def last(size: int) -> int:
        for kernel, padding in ((7, 3), (3, 1), (3, 1), (3, 1), (3, 1)):
            size = conv_output(size, kernel, 2, padding).output
        return size

    given = [int(n) for n in re.findall(r"\d+", erratum("E001-14").printed)]
    square = [size for size in range(200, 260) if last(size) == 7]
    return [
        f"input {given[0]}×{given[0]}: the last map is {last(given[0])}×{last(given[0])}, as assignment 4(c) has it (512 maps of 7×7); "
        f"input {given[0]}×{given[1]}: {last(given[0])}×{last(given[1])}",
        f"sides that give 7: {square[0]} to {square[-1]}; {given[1]} is none of them: {given[1] not in square}",
    ]
