"""Report 004, sections 3 to 5 (convolutions, colourisation): its errata, computed. Sections 1 and 2: `findings_004_theory`."""

from __future__ import annotations

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output, field_of_chain, padding_trends, solve_padding
from kerascv_course.analysis.images import correlate
from kerascv_course.models.registry import create_model
from kerascv_course.reports.closed_forms import closed_form
from kerascv_course.reports.errata import erratum
from kerascv_course.reports.evidence import finding, network
from kerascv_course.reports.paper import count_layers, fully_connected_equivalent


@finding("E004-09", field_of_chain, correlate)
def nine_neurons() -> list[str]:
    """What one output of two 3×3 layers sees, by the formula and by counting."""
    import numpy as np

    kernel = np.ones((3, 3), int)
    pixel = np.zeros((9, 9), int)
    pixel[4, 4] = 1
    first = correlate(pixel, kernel)
    second = correlate(first, kernel)
    rows, columns = (len(set(places)) for places in np.nonzero(second))
    field = field_of_chain([(3,), (3,)]).size
    return [
        f"one output of a 3×3 layer joins {int((first > 0).sum())} neurons of the layer before",
        f"receptive field of two: {field}×{field} by the formula; counted on a map with one bright pixel: {rows}×{columns}, "
        f"{int((second > 0).sum())} pixels",
    ]


@finding("E004-10", count_layers, fully_connected_equivalent)
def no_convolution_in_it() -> list[str]:
    """A slip of the pen: the nearest that can be computed are the kinds of layers of the network that is meant."""
    words = ("fully", "connected", "neural", "network")
    layers = fully_connected_equivalent("conv3-32 pool2 conv3-64 pool2 conv3-3", (32, 32, 3)).layers
    dense, conv = (sum(layer.text.startswith(kind) for layer in layers) for kind in ("fc", "conv"))
    return [
        f"the first letters of “{' '.join(words)}”: {''.join(word[0] for word in words).upper()}; "
        f"printed: {erratum('E004-10').printed}",
        f"the network that is meant has {dense} fully connected layers and {conv} convolutions, "
        f"{sum(layer.parameters for layer in layers):,} parameters",
    ]


@finding("E004-11", create_model, summarize, closed_form)
def equal_parameters() -> list[str]:
    """Parameters of both networks, from their graphs and in closed form; and what nearest up-sampling repeats."""
    import numpy as np

    names = ("pool_upsample_net", "conv_transpose_net")
    forms = [closed_form(name).weights for name in names]
    lines = [
        f"{name}: {network(name).trainable:,} trainable parameters, weights without biases {form} = "
        f"{closed_form(name).evaluate()[0]:,}"
        for name, form in zip(names, forms, strict=True)
    ]
    maps = np.random.default_rng(0).normal(size=(4, 4))
    nearest = maps.repeat(2, axis=0).repeat(2, axis=1)
    inside = float(np.isin(nearest, maps).mean())
    return [
        *lines,
        f"the closed forms are equal for every k, NIC, NF and NC: {forms[0] == forms[1]}",
        f"nearest up-sampling of a {maps.shape[0]}×{maps.shape[1]} map: {inside:.0%} of the {nearest.size} values are values of the "
        f"map, each {nearest.size // maps.size} times; height {nearest.shape[0]} and width {nearest.shape[1]}",
    ]


@finding("E004-12", conv_output, solve_padding)
def padding_of_five() -> list[str]:
    """Every total padding with which a 5×5 convolution of stride 2 halves 32."""
    kernel = 5
    totals = [t for t in range(12) if conv_output(32, kernel, 2, (t // 2, t - t // 2)).output == 16]
    found = solve_padding(32, 16, kernel, 2).symmetric
    fours = [t for t in range(12) if conv_output(32, 4, 2, (t // 2, t - t // 2)).output == 16]
    return [
        f"k={kernel}, stride 2, 32 → 16: 2p in {{{','.join(map(str, totals))}}}, so p = {' or '.join(str(p) for p, _ in found)} is the "
        f"only integer; {conv_output(32, kernel, 2, found[0][0])}",
        f"k=4: 2p in {{{','.join(map(str, fours))}}}: p = {' or '.join(str(t // 2) for t in fours if t % 2 == 0)} and not "
        f"{max(fours) / 2:g} rounded up, {-(-max(fours) // 2)}",
    ]


@finding("E004-13", conv_output, padding_trends)
def no_symmetric_padding() -> list[str]:
    """What the last convolution gives with k = 4 for each padding."""
    kernel = 4
    last = padding_trends((kernel,))[0][2]
    tried = {padding: conv_output(32, kernel, 1, padding).output for padding in range(4)}
    before, after = last.asymmetric or (0, 0)
    return [
        f"k={kernel}: " + ", ".join(f"p={padding} -> {size}" for padding, size in tried.items()) + f"; symmetric paddings that "
        f"give 32: {len(last.symmetric)}",
        f"{before}+{after} asymmetric gives {conv_output(32, kernel, 1, (before, after)).output}",
    ]


@finding("E004-14", closed_form)
def outputs_without_norms() -> list[str]:
    """Outputs with and without batch norm, at both sizes."""
    lines = []
    for size in (32, 64):
        with_norms, without = closed_form("pool_upsample_net", size), closed_form("pool_upsample_net", size, norms=False)
        lines.append(
            f"{size}×{size}: without batch norm {without.outputs} = {without.evaluate()[1]:,} outputs; with it {with_norms.outputs} = "
            f"{with_norms.evaluate()[1]:,}; connections {without.evaluate()[2]:,} either way: "
            f"{without.connections == with_norms.connections}"
        )
    return lines
