"""Figures of the theory's studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kerascv_course.plots.base import BEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from kerascv_course.theory.chaos import ChaosStudy, NetworkStudy
    from kerascv_course.theory.counterexample import CounterExample
    from kerascv_course.theory.decay import DecayStudy
    from kerascv_course.theory.hypergradient import HypergradientStudy, MemoryStudy
    from kerascv_course.theory.least_squares import Descent, LeastSquaresStudy
    from kerascv_course.theory.unrolled import ComputationGraph, ComputationNode

__all__ = [
    "agreement",
    "bifurcation",
    "decay_differences",
    "descents",
    "draw_graph",
    "epsilon_ends",
    "loss_against_rate",
    "memory_growth",
    "network_rates",
    "plane_paths",
    "row_space_fractions",
]

#: Distinguishable for color-blind readers (after Paul Tol).
COLORS = ("#0077bb", "#ee7733", "#228833", "#aa3377", "#cc3311", "#555555")
#: Legend of optimizers that stay in the row space, leave it, or may do either.
GROUPS = {True: "adds multiples of gradients", False: "scales single coordinates", None: "other"}
#: Drawn for zero on a logarithmic axis.
ZERO = 1e-17


def descents(study: LeastSquaresStudy) -> Figure:
    """Distance to the minimum-norm solution, and the component outside the row space, against the step, logarithmic."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for run in study.runs:
        color, words = _group(run)
        steps = np.unique(np.round(np.linspace(0, len(run.losses) - 1, 300)).astype(int))
        for axes, values in ((left, run.distances), (right, run.outside)):
            axes.plot(steps, np.maximum(values[steps], ZERO), color=color, linewidth=1, alpha=0.8, label=words)
    left.set(yscale="log", xlabel="step", ylabel="Euclidean norm", title="Distance to the minimum-norm solution, ‖w − w*‖")
    right.set(xlabel="step", title="Component of w outside the row space of X")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    handles, words = left.get_legend_handles_labels()
    left.legend(
        *zip(*dict(zip(words, zip(handles, words, strict=True), strict=True)).values(), strict=True), loc="center right"
    )
    return figure


def row_space_fractions(study: LeastSquaresStudy) -> Figure:
    """Fraction of the last w outside the row space for each optimizer, as logarithmic bars."""
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(study.runs)), layout="constrained")
    axes = figure.subplots()
    shares = [max(float(run.outside[-1] / max(run.norms[-1], 1e-300)), ZERO) for run in study.runs]
    bars = axes.barh(range(len(shares)), shares, color=[_group(run)[0] for run in study.runs])
    axes.bar_label(bars, [f"{share:.2g}" for share in shares], padding=3, fontsize=8)
    axes.set_yticks(range(len(shares)), [run.name for run in study.runs])
    axes.invert_yaxis()
    steps = len(study.runs[0].losses) - 1
    axes.set(
        xscale="log", xlim=(ZERO, 30), xlabel=f"‖component of w outside the row space‖ / ‖w‖ after {steps:,} steps (no unit)"
    )
    axes.set_title(f"Keras's optimizers, {study.problem.rows}×{study.problem.columns} data, mini-batches of {study.batch_size}")
    axes.grid(axis="x", alpha=0.3)
    for color, words in dict.fromkeys(map(_group, study.runs)):
        axes.plot([], [], "s", color=color, markersize=9, label=words)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def _group(run: Descent) -> tuple[str, str]:
    return {True: TRAIN, False: VALIDATION, None: BEST}[run.stays], GROUPS[run.stays]


def plane_paths(study: CounterExample) -> Figure:
    """Paths in the plane of (w₁, w₂) with the report's settings and with small rates; residuals against the step."""
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (name, path), color in zip(study.settings.items(), COLORS, strict=False):
        left.plot(*path[:4].T, color=color, marker="o", markersize=4, linewidth=1, label=f"RMSProp, {name}")
        middle.plot(path[:60] @ [2, 1] - 2, color=color, marker="o", markersize=2.5, linewidth=1, label=f"RMSProp, {name}")
    left.plot(*(float(v) for v in study.misprinted.weights), "X", color="black", markersize=9, label="printed: (5/7, 4/7)")
    middle.set(xlabel="step", ylabel="residual 2w₁ + w₂ − 2", title="More steps of the same")
    middle.grid(alpha=0.3)
    middle.legend(fontsize=8, loc="lower right")
    # the adaptive methods overlap: wide lines below narrow ones
    looks = zip(study.paths.items(), ("#555555", *COLORS), (1.5, 9, 6.5, 4, 1.5), strict=False)
    for (name, path), color, width in looks:
        right.plot(*path.T, color=color, linewidth=width, label=name, solid_capstyle="butt")
    right.plot(2 / 3, 2 / 3, "D", color="black", markersize=9, fillstyle="none", label="(2/3, 2/3)")
    for axes, title in ((left, "β = 0.91, ε = 0.2: three steps from (0, 0)"), (right, "Small rates, ε = 1e-12")):
        line = np.array([0.45, 1.05])
        axes.plot(line, 2 - 2 * line, color=BEST, linestyle=":", linewidth=1.5, label="solutions: 2w₁ + w₂ = 2")
        axes.plot(*study.minimum_norm, "*", color="black", markersize=13, label="minimum norm: (4/5, 2/5)")
        axes.set(xlabel="w₁", ylabel="w₂", title=title, xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), aspect="equal")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left")
    return figure


def epsilon_ends(study: CounterExample) -> Figure:
    """‖w‖² where small-rate RMSProp ends, against ε, added to the root and under it."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = ("added to the root, η g/(√v + ε) (textbook)", "under the root, η g/√(v + ε) (Keras)")
    for ends, name, color in zip(study.ends, names, COLORS, strict=False):
        axes.plot(study.epsilons, (ends**2).sum(axis=1), marker="o", markersize=4, color=color, label=f"ε {name}")
    axes.axhline(8 / 9, color=BEST, linestyle="--", label="(2/3, 2/3): 8/9")
    axes.axhline(4 / 5, color=BEST, linestyle=":", label="minimum norm: 4/5")
    axes.set(xscale="log", xlabel="ε (unit of the gradient; its square under the root)", ylabel="‖w‖² at the end")
    axes.set_title("RMSProp at small rates: ε decides which solution is reached")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def loss_against_rate(study: HypergradientStudy) -> Figure:
    """L(w_t) against η: one step with η*, several steps, and a decay under which it is not convex."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    one, best = study.curves[0], study.best
    left.plot(one.rates, one.losses, color=TRAIN, label="L(w₁)")
    left.axhline(best.before, color=BEST, linestyle=":", label="L(w₀)")
    left.plot(best.rate, best.after, "*", color=VALIDATION, markersize=13, label=f"η* = {best.rate:.4g}")
    left.set(title="One step: a parabola (2.2.2, 2.2.3)")
    for curve, color in zip(study.curves, COLORS, strict=False):
        inside = curve.rates <= study.run.problem.largest_rate
        middle.plot(curve.rates[inside], curve.losses[inside], color=color, label=f"t = {curve.steps}")
    middle.axvline(study.run.problem.largest_rate, color=BEST, linestyle=":", label="largest stable η")
    middle.set(title="More steps, no decay: still convex")
    bent = study.bent
    right.plot(bent.rates, bent.losses, color=TRAIN, label="L(w₂)")
    right.fill_between(
        bent.rates, 0, 1, where=list(bent.curvatures < 0), transform=right.get_xaxis_transform(), color=VALIDATION, alpha=0.2,
        linewidth=0, label="d²L/dη² < 0",
    )  # fmt: skip
    right.set(title=f"One weight, w₀ = 2, λ̃ = {bent.decay:g}: not convex")
    for axes in (left, middle, right):
        axes.set(xlabel="learning rate η", ylabel="loss, mean squared error")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def agreement(study: HypergradientStudy) -> Figure:
    """Error of finite differences against their step, and the other methods' differences from reverse mode, logarithmic."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(study.shifts, np.maximum(study.errors, ZERO), color=BEST, marker="o", markersize=3, label="finite differences")
    exact = study.ways["reverse mode"]
    ways = [name for name in study.ways if name not in ("finite differences", "reverse mode")]
    for name, color, style in zip(ways, COLORS, ("-", "--", "-."), strict=False):
        error = max(abs(study.ways[name].rate - exact.rate) / max(1.0, abs(exact.rate)), ZERO)
        axes.axhline(error, color=color, linestyle=style, label=f"{name}: {'equal' if error <= ZERO else f'{error:.0e}'}")
    axes.axhline(1e-6, color="black", linestyle=":", linewidth=1, label="tolerance: 1e-6")
    axes.set(xscale="log", yscale="log", ylim=(ZERO / 2, 1), xlabel="change of η in the finite difference, relative to η")
    axes.set(ylabel="difference from reverse mode, relative", title=f"dL(w_t)/dη after {study.run.steps} steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def memory_growth(study: MemoryStudy) -> Figure:
    """Peak memory against t, in weight vectors, both logarithmic."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for way, color, marker in zip(study.peaks, (BEST, *COLORS), "Dsv o".replace(" ", "^"), strict=False):
        axes.plot(study.steps, study.vectors(way), color=color, marker=marker, markersize=5, label=way)
    times = np.array(study.steps)
    axes.plot(times, times, color="black", linestyle=":", linewidth=1, label="t")
    axes.plot(times, 2 * np.sqrt(times), color="black", linestyle="--", linewidth=1, label="2√t")
    axes.set(xscale="log", yscale="log", xlabel="steps t", title="Memory of a hypergradient, measured")
    axes.set_ylabel(f"peak, weight vectors ({8 * study.columns / 1000:g} kB each)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure


def bifurcation(study: ChaosStudy) -> Figure:
    """Long-run |u|, L(u_t), |dL(u_t)/dη| and the Lyapunov exponent against the rate."""
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    visits, losses, slopes, exponents = figure.subplots(4, 1, sharex=True)
    tail = np.abs(study.tail[-40:])
    visits.plot(np.tile(study.rates, len(tail)), tail.ravel(), ",", color=TRAIN, alpha=0.5)
    visits.set(ylabel="|u| visited, steps 961–1,000", title="Gradient descent on L(u) = (u² − 1)²/4")
    # few steps above many: the chaotic curve would cover the smooth ones
    for place, (t, color) in enumerate(zip(study.losses, ("#222222", "#ee7733", "#77bbee", *COLORS), strict=False)):
        looks = {"color": color, "linewidth": 0.9, "label": f"t = {t}", "zorder": 3 - 0.1 * place}
        losses.plot(study.rates, study.losses[t], **looks)
        slopes.plot(study.rates, np.maximum(np.abs(study.slopes[t]), ZERO), **looks)
    losses.set(ylabel="loss L(u_t)")
    slopes.set(ylabel="|dL(u_t)/dη|", yscale="log", ylim=(1e-12, None))
    exponents.plot(study.rates, np.maximum(study.exponents, -4), color=TRAIN, linewidth=0.9)
    exponents.axhline(0, color="black", linewidth=0.8)
    exponents.set(ylabel="Lyapunov exponent, 1/step", xlabel="learning rate η")
    for axes in (losses, slopes):
        axes.legend(fontsize=8, loc="upper left")
    for axes in (visits, losses, slopes, exponents):
        axes.axvline(study.converges_below, color=BEST, linestyle=":")
        axes.grid(alpha=0.3)
    return figure


def network_rates(study: NetworkStudy) -> Figure:
    """The trained loss of the network and its derivative against the rate, all logarithmic."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    losses, slopes = figure.subplots(2, 1, sharex=True)
    for place, (t, color) in enumerate(zip(study.losses, ("#222222", "#ee7733", "#77bbee", *COLORS), strict=False)):
        looks = {"color": color, "linewidth": 1, "label": f"t = {t}", "zorder": 3 - 0.1 * place}
        losses.plot(study.rates, study.losses[t], **looks)
        slopes.plot(study.rates, np.maximum(np.abs(study.slopes[t]), ZERO), **looks)
    losses.set(yscale="log", ylabel="loss after t steps, nats", title="A network of 16 hidden units, trained at 0.03 to 100")
    slopes.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="|dL/dη| by TensorFlow's tape")
    for axes in (losses, slopes):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left")
    return figure


def draw_graph(graph: ComputationGraph) -> Figure:
    """The computation graph, one column per step: η above, λ̃ below, weights in the middle; beyond two steps η and λ̃ at every step."""
    figure = Figure(figsize=(1.2 + 3.1 * graph.steps + 1.4, 4.4), layout="constrained")
    axes = figure.subplots()
    nodes = {node.name: node for node in graph.nodes}
    colors = {"weights": "#cfe3f3", "loss": "#e6e6e6", "gradient": "#f7d9c4", "hyperparameter": "#ffffff"}
    drawn = set()
    for edge in graph.edges:
        source, target = nodes[edge.source], nodes[edge.target]
        hyper = source.kind == "hyperparameter"
        start, end = _place(source, graph.steps, target), _place(target, graph.steps)
        axes.annotate(
            "", xy=end, xytext=start,
            arrowprops={
                "arrowstyle": "-|>", "color": COLORS[1] if edge.source == "η" else COLORS[2] if hyper else "#555555",
                "shrinkA": 19, "shrinkB": 19, "linewidth": 1.3, "alpha": 0.8 if hyper else 1,
            },
        )  # fmt: skip
        drawn |= {(start, source), (end, target)}
    for place, node in drawn:
        shape = "round" if node.kind in ("weights", "hyperparameter") else "square"
        axes.text(
            *place, _math(node), ha="center", va="center", fontsize=14,
            bbox={"boxstyle": f"{shape},pad=0.45", "facecolor": colors[node.kind], "edgecolor": "black"},
        )  # fmt: skip
    axes.set(xlim=(-0.5, 2.2 * graph.steps + 0.6), ylim=(-1.75, 1.75))
    axes.set_axis_off()
    axes.set_title(f"{graph.steps} step{'s' * (graph.steps > 1)} of w ← w − η∇L̃(w), L̃(w) = L(w) + λ̃‖w‖²", fontsize=11)
    return figure


def _place(node: ComputationNode, steps: int, used_by: ComputationNode | None = None) -> tuple[float, float]:
    across = 2.2 * node.step
    if node.kind == "hyperparameter":
        height = 1.5 if node.name == "η" else -1.5
        if steps <= 2 or used_by is None:
            return 1.1 * steps, height
        return 2.2 * used_by.step + (0 if node.name == "η" or used_by.step == steps else 0.55), height
    return {"weights": (across, 0.45), "loss": (across, -0.6), "gradient": (across + 1.1, -0.25)}[node.kind]


def _math(node: ComputationNode) -> str:
    """A node's name in TeX, which places the tilde above its letter."""
    text = {"weights": r"w", "loss": r"\tilde{L}", "gradient": r"\nabla\tilde{L}"}.get(node.kind)
    return f"${text}_{{{node.step}}}$" if text else (r"$\eta$" if node.name == "η" else r"$\tilde{\lambda}$")


def decay_differences(study: DecayStudy) -> Figure:
    """Distance between the weights under penalty and decay, logarithmic, and their norms."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for pair, color in zip(study.pairs, COLORS, strict=False):
        left.plot(np.maximum(pair.differences, ZERO), color=color, label=pair.name)
        for path, style in ((pair.penalized, "-"), (pair.decayed, "--")):
            right.plot(np.linalg.norm(path, axis=1), color=color, linestyle=style, linewidth=1.2)
    left.set(
        yscale="log",
        ylim=(ZERO / 2, 10),
        ylabel="‖w with penalty − w with decay‖",
        title="Distance between penalty and decay",
    )
    left.legend(fontsize=8)
    right.plot([], [], color="black", label="L2 penalty λ̃ = λ/(2η)")
    right.plot([], [], color="black", linestyle="--", label=f"weight decay λ = {study.decay:g}")
    right.set(ylabel="‖w‖", title="Norm of the weights, same colors")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set(xlabel="step")
        axes.grid(alpha=0.3)
    return figure
