"""Checks of report 004: optimization theory (sections 1 and 2) in float64 and exact fractions; convolutions and colorization."""

from __future__ import annotations

import math
import re
import tracemalloc
from fractions import Fraction

import numpy as np

from kerascv_course.analysis import summarize
from kerascv_course.analysis.arithmetic import conv_output, field_of_chain, padding_trends, solve_padding
from kerascv_course.analysis.convolution import correlate
from kerascv_course.core.tables import format_percent
from kerascv_course.models import create_model
from kerascv_course.reports.checks.evidence import check, network
from kerascv_course.reports.paper import closed_form, count_layers, format_polynomial, fully_connected_equivalent
from kerascv_course.reports.targets import erratum

#: Samples, features and mini-batch of a random least-squares problem: more features than samples.
_N, _D, _B = 6, 10, 2


def _problem() -> tuple[np.ndarray, np.ndarray]:
    """X (n, d) and t (n,)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(_N, _D)), rng.normal(size=_N)


def _selection(rows: tuple[int, ...]) -> np.ndarray:
    """S (n, b): its columns pick the mini-batch's rows."""
    return np.eye(_N)[:, list(rows)]


def _product(*factors: np.ndarray) -> str:
    """The shape of a matrix product, or between which factors it fails."""
    shape = factors[0].shape
    for factor in factors[1:]:
        if shape[-1] != factor.shape[0]:
            return f"undefined ({'×'.join(map(str, shape))} by {'×'.join(map(str, factor.shape))})"
        shape = (*shape[:-1], *factor.shape[1:])
    return "×".join(map(str, shape))


@check("E004-01")
def sign_of_the_first_step() -> list[str]:
    """The first SGD step from zero, by a numerical gradient, against the formula with both signs."""
    x, t = _problem()
    batch, target, rate = x[:_B], t[:_B], 0.1

    def loss(w: np.ndarray) -> float:
        return float(((batch @ w - target) ** 2).mean())

    # central differences are exact for a quadratic, to rounding
    unit = np.eye(_D)
    gradient = np.array([(loss(e) - loss(-e)) / 2 for e in unit])
    step = -rate * gradient
    formula = 2 * rate / _B * target @ batch
    differences = {sign: float(np.abs(step - factor * formula).max()) for sign, factor in (("+", 1), ("-", -1))}
    right = min(differences, key=lambda sign: differences[sign])
    return [
        "w1 from w0 = 0 by a numerical gradient differs from "
        + ", ".join(f"{sign}(2 eta/b) t_B0^T B0 by {value:.1e}" for sign, value in differences.items()),
        f"the sign is {right}; loss {loss(np.zeros(_D)):.4f} at 0, {loss(formula):.4f} after the step with +, "
        f"{loss(-formula):.4f} with -",
    ]


@check("E004-02")
def shapes_of_the_batch_terms() -> list[str]:
    """Which products are defined, and that the correct two are equal."""
    x, t = _problem()
    rows = (1, 4)
    s, batch, target = _selection(rows), x[list(rows)], t[list(rows)]
    difference = float(np.abs(target @ batch - t @ s @ s.T @ x).max())
    return [
        f"n={_N}, d={_D}, b={_B}: t^T B is {_product(t[None], batch)}; t^T S^T X is {_product(t[None], s.T, x)}",
        f"t_B^T B is {_product(target[None], batch)}, t^T S S^T X is {_product(t[None], s, s.T, x)}; largest difference "
        f"{difference:.1e}",
    ]


@check("E004-03")
def shape_of_the_selection() -> list[str]:
    """S that picks b of the n rows is n×b; one of n×d does not give the mini-batch."""
    x, _ = _problem()
    rows = (1, 4)
    s, batch = _selection(rows), x[list(rows)]
    wide = np.zeros((_N, _D))
    return [
        f"S in R^{{n x b}} = {s.shape[0]}×{s.shape[1]}: S^T X is {_product(s.T, x)} and is the mini-batch B ({batch.shape[0]}×"
        f"{batch.shape[1]}): {np.array_equal(s.T @ x, batch)}",
        f"S in R^{{n x d}} = {wide.shape[0]}×{wide.shape[1]}: S^T X is {_product(wide.T, x)}, no mini-batch of {_B}",
    ]


@check("E004-04")
def one_batch_is_not_enough() -> list[str]:
    """A counter-example for one mini-batch; SGD over all of them reaches the minimum-norm solution."""
    x, t = _problem()
    gram = x @ x.T
    rows = (1, 4)
    s = _selection(rows)
    # a solves the mini-batch's equations alone: a = S (Sᵀ X Xᵀ S)⁻¹ Sᵀ t
    a = s @ np.linalg.solve(s.T @ gram @ s, s.T @ t)
    rest = gram @ a - t
    null = _N - np.linalg.matrix_rank(s)

    rng = np.random.default_rng(1)
    w = np.zeros(_D)
    rate = 1 / np.linalg.norm(x, 2) ** 2
    for _ in range(4000):
        for batch in rng.permutation(_N).reshape(-1, _B):
            w -= rate * 2 / _B * x[batch].T @ (x[batch] @ w - t[batch])
    minimum = x.T @ np.linalg.solve(gram, t)
    return [
        f"n={_N}, b={_B}, a counter-example: largest |(a^T XX^T - t^T) S| {np.abs(rest @ s).max():.1e}, but largest "
        f"|a^T XX^T - t^T| {np.abs(rest).max():.3f}; r^T S = 0 leaves r {null} dimensions",
        f"for all mini-batches together: [S_1 … S_{_N // _B}] has rank "
        f"{np.linalg.matrix_rank(np.hstack([_selection(tuple(range(i, i + _B))) for i in range(0, _N, _B)]))}: r = 0",
        f"SGD over all mini-batches from 0: largest |X w - t| {np.abs(x @ w - t).max():.0e}, largest |w - X^T (XX^T)^-1 t| "
        f"{np.abs(w - minimum).max():.0e}",
    ]


#: The counter-example of 1.2.1: one sample and its target.
_X, _T = (Fraction(2), Fraction(1)), Fraction(2)


def _gradient(w: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Of (w·x − t)²."""
    residual = sum(a * b for a, b in zip(w, _X, strict=True)) - _T
    return tuple(2 * residual * a for a in _X)


def _loss(w: tuple[Fraction, ...]) -> Fraction:
    return (sum((a * b for a, b in zip(w, _X, strict=True)), Fraction(0)) - _T) ** 2


def _root(value: Fraction) -> Fraction:
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root**2 != value:
        raise ValueError(f"{value} has no rational root")
    return root


def _rmsprop(gradient: tuple[Fraction, ...], rate: Fraction) -> tuple[Fraction, ...]:
    """The first step from 0 with β = 0.91 and ε = 0.2 added to the root."""
    decay, epsilon = Fraction(91, 100), Fraction(1, 5)
    return tuple(-rate * g / (_root((1 - decay) * g**2) + epsilon) for g in gradient)


def _pair(values: tuple[Fraction, ...]) -> str:
    return ",".join(str(value) for value in values)


@check("E004-05")
def gradient_at_zero() -> list[str]:
    """The gradient by its formula and by differences, exactly."""
    zero = (Fraction(0), Fraction(0))
    half = Fraction(1, 2)
    differences = (_loss((half, zero[1])) - _loss((-half, zero[1])), _loss((zero[0], half)) - _loss((zero[0], -half)))
    gradient = _gradient(zero)
    given = [int(n) for n in re.findall(r"-?\d+", erratum("E004-05").printed)[:2]]
    ratios = {g / n for g, n in zip(gradient, given, strict=True)}
    return [
        f"2·(0 − {_T})·x at w = 0, x = [{_pair(_X)}], t = {_T}: [{', '.join(map(str, gradient))}]; by central differences: "
        f"[{', '.join(map(str, differences))}]",
        f"it is {' or '.join(map(str, ratios))} times the printed {given}",
    ]


@check("E004-06")
def rmsprop_counter_example() -> list[str]:
    """RMSProp's first step in fractions: with the printed and the correct gradient, and with the rate that reaches a solution."""
    zero = (Fraction(0), Fraction(0))
    gradient, rate = _gradient(zero), Fraction(2, 7)
    wrong = _rmsprop(tuple(g / 4 for g in gradient), rate)
    given = _rmsprop(gradient, rate)
    # the step is linear in the rate, so the rate that reaches x·w = t is t over the reach of rate 1
    right_rate = _T / sum((a * b for a, b in zip(_rmsprop(gradient, Fraction(1)), _X, strict=True)), Fraction(0))
    reached = _rmsprop(gradient, right_rate)
    minimum = tuple(_T * a / sum(b**2 for b in _X) for a in _X)
    norms = [sum((a**2 for a in w), Fraction(0)) for w in (reached, minimum)]
    return [
        f"with the printed gradient and eta={rate}: w=({_pair(wrong)}), loss {_loss(wrong)}",
        f"with the correct gradient: w=({float(given[0]):.5f},{float(given[1]):.5f}), loss {float(_loss(given)):.5f}",
        f"eta={right_rate}: w=({_pair(reached)}), loss {_loss(reached)}, gradient [{_pair(_gradient(reached))}], so it stays there; "
        f"norm^2 {float(norms[0]):.4f} > {float(norms[1])} of the minimum-norm solution ({_pair(minimum)}): {norms[0] > norms[1]}",
    ]


@check("E004-07")
def memory_of_the_forward_pass() -> list[str]:
    """Bytes held by t steps of gradient descent that keep the current w only, and by t steps that store every w."""
    size = 20_000
    curvature = np.linspace(0.5, 1.5, size)

    def peak(steps: int, store: bool) -> float:
        tracemalloc.start()
        try:
            w, kept = np.ones(size), []
            for _ in range(steps):
                if store:
                    kept.append(w.copy())
                w -= 0.1 * curvature * w
            return tracemalloc.get_traced_memory()[1] / (w.itemsize * size)
        finally:
            tracemalloc.stop()

    times = (10, 20, 40)
    forward, stored = ([peak(steps, store) for steps in times] for store in (False, True))
    return [
        f"largest memory in copies of w, for t = {', '.join(map(str, times))} steps: forward alone "
        f"{', '.join(f'{n:.0f}' for n in forward)}: O({'1' if max(forward) < 1.5 * min(forward) else 't'})",
        f"with every w_i stored for back-propagation {', '.join(f'{n:.0f}' for n in stored)}: "
        f"{(stored[2] - stored[1]) / (times[2] - times[1]):.1f} more for each step: "
        f"O({'t' if stored[2] - stored[1] > 0.5 * (times[2] - times[1]) else '1'})",
    ]


@check("E004-08")
def unregularized_loss() -> list[str]:
    """The formula of 2.2.1 is the loss without a penalty, L; the regularized one differs."""
    x, t = _problem()
    w, rate, weight = np.linspace(-1, 1, _D), 0.02, 0.1
    a = x @ w - t
    after = w - 2 * rate / _N * x.T @ a
    formula = float(((a - 2 * rate / _N * x @ x.T @ a) ** 2).mean())
    plain = float(((x @ after - t) ** 2).mean())
    penalised = plain + weight * float(after @ after)
    return [
        f"(1/n)‖a − (2η/n) X X^T a‖² = {formula:.6f}; L(w1) = {plain:.6f} (difference {abs(formula - plain):.0e}); with the penalty "
        f"{weight:g}·‖w1‖² the loss L-tilde is {penalised:.6f}: the formula is L's",
    ]


# --- sections 3 to 5: convolutions, colorization ---


@check("E004-09", field_of_chain, correlate)
def nine_neurons() -> list[str]:
    """Receptive field of two 3×3 layers, by the formula and by counting."""
    kernel = np.ones((3, 3), int)
    pixel = np.zeros((9, 9), int)
    pixel[4, 4] = 1
    first = correlate(pixel, kernel)
    second = correlate(first, kernel)
    rows, columns = (len(set(places)) for places in np.nonzero(second))
    field = field_of_chain([(3,), (3,)]).size
    return [
        f"one output of a 3×3 layer connects {int((first > 0).sum())} neurons of the layer before",
        f"receptive field of two: {field}×{field} by the formula; counted on a map with one bright pixel: {rows}×{columns}, "
        f"{int((second > 0).sum())} pixels",
    ]


@check("E004-10", count_layers, fully_connected_equivalent)
def no_convolution_in_it() -> list[str]:
    """A slip of the pen: computed are the kinds of layers of the intended network."""
    words = ("fully", "connected", "neural", "network")
    layers = fully_connected_equivalent("conv3-32 pool2 conv3-64 pool2 conv3-3", (32, 32, 3)).layers
    dense, conv = (sum(layer.text.startswith(kind) for layer in layers) for kind in ("fc", "conv"))
    return [
        f"the first letters of “{' '.join(words)}”: {''.join(word[0] for word in words).upper()}; "
        f"printed: {erratum('E004-10').printed}",
        f"the intended network has {dense} fully connected layers and {conv} convolutions, "
        f"{sum(layer.parameters for layer in layers):,} parameters",
    ]


@check("E004-11", create_model, summarize, closed_form)
def equal_parameters() -> list[str]:
    """Parameters of both networks, from their graphs and in closed form; and what nearest upsampling repeats."""
    names = ("pool_upsample_net", "conv_transpose_net")
    forms = [closed_form(name).weights for name in names]
    lines = [
        f"{name}: {network(name).trainable:,} trainable parameters, weights without biases {format_polynomial(form)} = "
        f"{closed_form(name).evaluate()[0]:,}"
        for name, form in zip(names, forms, strict=True)
    ]
    maps = np.random.default_rng(0).normal(size=(4, 4))
    nearest = maps.repeat(2, axis=0).repeat(2, axis=1)
    inside = float(np.isin(nearest, maps).mean())
    return [
        *lines,
        f"the closed forms are equal for every k, NIC, NF and NC: {forms[0] == forms[1]}",
        f"nearest upsampling of a {maps.shape[0]}×{maps.shape[1]} map: {format_percent(inside)} of the {nearest.size} "
        f"values are values of the "
        f"map, each {nearest.size // maps.size} times; height {nearest.shape[0]} and width {nearest.shape[1]}",
    ]


@check("E004-12", conv_output, solve_padding)
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


@check("E004-13", conv_output, padding_trends)
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


@check("E004-14", closed_form)
def outputs_without_norms() -> list[str]:
    """Outputs with and without batch norm, at both sizes."""
    lines = []
    for size in (32, 64):
        with_norms, without = closed_form("pool_upsample_net", size), closed_form("pool_upsample_net", size, norms=False)
        lines.append(
            f"{size}×{size}: without batch norm {format_polynomial(without.outputs)} = {without.evaluate()[1]:,} outputs; with it "
            f"{format_polynomial(with_norms.outputs)} = {with_norms.evaluate()[1]:,}; connections {without.evaluate()[2]:,} either "
            f"way: {without.connections == with_norms.connections}"
        )
    return lines
