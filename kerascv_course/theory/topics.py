"""The topics of the theory: each function runs a study and returns a `Topic` to print, draw and write.

Reports lay out a `Topic` themselves; `pages.write_topic` writes it into a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kerascv_course.plots import theory as plots
from kerascv_course.theory.chaos import study_chaos, study_network
from kerascv_course.theory.counterexample import REPORTED, study_counterexample
from kerascv_course.theory.decay import study_decay
from kerascv_course.theory.descent import random_problem, read_problem
from kerascv_course.theory.hypergradient import measure_memory, study_hypergradients
from kerascv_course.theory.least_squares import LEAVE, STAY, study_least_squares
from kerascv_course.theory.pages import NumberTable, Topic, TopicFigure, number
from kerascv_course.theory.unrolled import computation_graph

__all__ = ["TOPICS", "chaos", "decay", "graph", "hypergradient", "least_squares", "memory", "rmsprop"]


def least_squares(
    *,
    data: Path | None = None,
    rows: int = 10,
    columns: int = 30,
    rank: int | None = None,
    optimizers: Sequence[str] = (),
    seed: int = 0,
    **descent: int | float | None,
) -> Topic:
    """Mini-batch descent and the minimum norm (1.1.1, 1.2.2).

    Args:
        data: a CSV file instead of random data, the target last.
        rows, columns, rank: of random data.
        optimizers: names; none: all.
        seed: of data and mini-batches.
        descent: batch_size, steps and rate of `study_least_squares`.
    """
    problem = read_problem(data) if data is not None else random_problem(rows, columns, rank=rank, seed=seed)
    study = study_least_squares(problem, tuple(optimizers) or (*STAY, *LEAVE), seed=seed, **descent)  # type: ignore[arg-type]
    steps = len(study.runs[0].losses) - 1
    settings: dict[str, object] = {
        "rows": problem.rows,
        "columns": problem.columns,
        "batch size": study.batch_size,
        "steps": steps,
        "seed": seed,
    }
    settings |= {"data": data.name} if data is not None else {}
    settings |= {"learning rate": descent["rate"]} if descent.get("rate") is not None else {}
    table = NumberTable(
        f"After {steps:,} steps",
        ("optimizer", "loss", "‖w − w*‖", "outside the row space", "‖w‖"),
        tuple(
            (run.name, *(f"{v[-1]:.2e}" for v in (run.losses, run.distances, run.outside)), f"{run.norms[-1]:.6f}")
            for run in study.runs
        ),
    )
    return Topic(
        "least-squares",
        "Least squares by mini-batch descent from zero",
        "Every mini-batch gradient is a combination of rows of X. Optimizers that add multiples of gradients stay in the row space and "
        f"end at w* = Xᵀ(XXᵀ)⁻¹t, the minimum-norm solution (here ‖w*‖ = {np.linalg.norm(study.minimum_norm):.6f}); optimizers that "
        "scale single coordinates end elsewhere. All optimizers are Keras's own, in float64.",
        settings,
        study,
        study.claims(),
        (table,),
        (
            TopicFigure(
                "descents",
                "Distance to the minimum-norm solution, and the component of w outside the row space, against the step; zeros are "
                "drawn at 1e-17.",
                lambda: plots.descents(study),
            ),
            TopicFigure(
                "row_space", "Which of Keras's optimizers leave the row space of X.", lambda: plots.row_space_fractions(study)
            ),
        ),
    )


def rmsprop(
    *, rate: float | None = None, beta: float | None = None, epsilon: float | None = None, steps: int = 200, keras: bool = True
) -> Topic:
    """The counter-example (1.2.1); see `study_counterexample`.

    Args:
        rate, beta, epsilon: η, β and ε of a path of your own; None: the report's.
        steps: of the paths.
        keras: run Keras's optimizers as well.
    """
    chosen = {"rate": rate, "beta": beta, "epsilon": epsilon}
    used = {name: value if value is not None else float(getattr(REPORTED, name)) for name, value in chosen.items()}
    study = study_counterexample(**used, steps=steps, keras=keras)
    paths = {f"RMSProp, {name}": path for name, path in study.settings.items()}
    paths |= {f"{name}, small rate": path for name, path in study.paths.items()}
    rows = []
    for name, path in paths.items():
        residual = path @ [2, 1] - 2
        rows.append((name, *(f"{v:.8g}" for v in (*path[1], residual[1] ** 2, *path[-1])), f"{residual[-1]:.1e}"))
    symbols = dict(zip(("η", "β", "ε"), map(number, used.values()), strict=True))
    return Topic(
        "rmsprop",
        "RMSProp's counter-example",
        "One row x = (2, 1), target 2, from zero: RMSProp reaches a solution that does not have the minimum norm. With the correct "
        "gradient (−8, −4) the report's settings overshoot and never come to rest; with η = 91/410 one step reaches a solution.",
        {"x": "(2, 1)", "t": 2, **symbols, "steps": steps},
        study,
        study.claims(),
        (
            NumberTable(
                "Paths",
                ("method", "w₁, step 1", "w₂, step 1", "loss, step 1", "last w₁", "last w₂", "last residual"),
                tuple(rows),
            ),
        ),
        (
            TopicFigure(
                "paths",
                "The plane of (w₁, w₂) with the line of solutions: three steps with the report's settings, their residuals over more "
                "steps, and several methods at small rates; the adaptive ones all move along (1, 1).",
                lambda: plots.plane_paths(study),
            ),
            TopicFigure(
                "epsilon",
                "Where RMSProp ends at small rates, against ε: added to the root as in the textbook, under the root as in Keras.",
                lambda: plots.epsilon_ends(study),
            ),
        ),
    )


def hypergradient(
    *,
    rows: int = 12,
    columns: int = 8,
    steps: int = 100,
    rate: float | None = None,
    decay: float = 0.01,
    seed: int = 0,
    keras: bool = True,
) -> Topic:
    """Derivatives of the loss after t steps by rate and decay (2.2); arguments of `study_hypergradients`.

    Args:
        rows, columns: n and d.
        steps: t.
        rate: η; None: 0.3 of the largest stable rate.
        decay: λ̃.
        seed: of data and start.
        keras: differentiate by TensorFlow's tape as well.
    """
    study = study_hypergradients(rows=rows, columns=columns, steps=steps, rate=rate, decay=decay, seed=seed, tape=keras)
    modes = NumberTable(
        f"Loss on held-out rows after {steps} steps, and its derivatives",
        ("method", "L(w_t)", "dL/dη", "dL/dλ̃"),
        tuple((name, *(f"{v:.12g}" for v in (one.loss, one.rate, one.decay))) for name, one in study.ways.items()),
    )
    known = ((f"{rows}×{columns}, random", study.best), ("X = diag(1, 2), t = (1, 1), w₀ = 0", study.textbook))
    rates = NumberTable(
        "The best learning rate of one step without decay",
        ("data", "η*", "L(w₀)", "L(w₁)", "d²L/dη²"),
        tuple((name, *map(number, (b.rate, b.before, b.after, b.curvature))) for name, b in known),
    )
    return Topic(
        "hypergradient",
        "The gradient of the trained loss by learning rate and decay",
        "Gradient descent is unrolled, and the loss after t steps is differentiated by η and λ̃: in reverse mode, with checkpoints, in "
        "forward mode, by TensorFlow's tape, and for one step in closed form, all compared with finite differences.",
        {"rows": rows, "columns": columns, "t": steps, "η": number(study.run.rate), "λ̃": number(decay), "seed": seed},
        study,
        study.claims(),
        (modes, rates),
        (
            TopicFigure(
                "agreement",
                "Error of finite differences against their step: truncation error for large steps, rounding error for small ones; "
                "the exact modes agree to rounding.",
                lambda: plots.agreement(study),
            ),
            TopicFigure(
                "learning_rate",
                "L(w_t) against η: a parabola after one step, convex after any number of steps without decay, and not convex with "
                "decay.",
                lambda: plots.loss_against_rate(study),
            ),
        ),
    )


def memory(*, times: Sequence[int] = (16, 64, 144, 256, 400, 625, 900), columns: int = 4000) -> Topic:
    """Memory against t (2.1.2); arguments of `measure_memory`.

    Args:
        times: t.
        columns: d.
    """
    study = measure_memory(times, columns=columns)
    rows = tuple((way, *(f"{v:,.1f}" for v in study.vectors(way))) for way in study.peaks)
    return Topic(
        "memory",
        "Memory of a hypergradient",
        "Peak of what Python and NumPy allocate beyond the data, measured by tracemalloc: reverse mode keeps all t weight vectors, "
        "checkpoints about 2√t, forward mode and the forward pass alone a constant number.",
        {"columns": columns, "bytes of a weight vector": 8 * columns},
        study,
        study.claims(),
        (NumberTable("Peak memory, in weight vectors", ("method", *(f"t = {t}" for t in study.steps)), rows),),
        (
            TopicFigure(
                "memory",
                "Measured peak memory against the number of steps, both axes logarithmic.",
                lambda: plots.memory_growth(study),
            ),
        ),
    )


def chaos(*, points: int = 1000, times: Sequence[int] = (5, 20, 80), start: float = 0.5, keras: bool = True) -> Topic:
    """Large learning rates (2.1.3); see `study_chaos` and `study_network`.

    Args:
        points: learning rates of the map.
        times: t of its curves.
        start: u₀.
        keras: a small network as well, by TensorFlow's tape.
    """
    study = study_chaos(points=points, times=times, start=start)
    network = study_network() if keras else None
    figures = [
        TopicFigure(
            "chaos",
            "Against the learning rate: the |u| visited in the long run, the loss after t steps, its derivative by the rate, and the "
            "Lyapunov exponent (negative: converges; positive: chaotic).",
            lambda: plots.bifurcation(study),
        )
    ]
    differences = [("u·u", *each) for each in study.differences]
    claims = study.claims()
    if network is not None:
        figures.append(
            TopicFigure(
                "network",
                "A small network's cross-entropy after t steps, and its derivative by the learning rate: smooth below a rate of 2, "
                "noise above.",
                lambda: plots.network_rates(network),
            )
        )
        differences += [("network", *each) for each in network.differences]
        claims += network.claims()
    rows = tuple((name, number(r), str(t), f"{slope:.6g}", f"{other:.6g}") for name, r, t, slope, other in differences)
    return Topic(
        "chaos",
        "Large learning rates: an exact but useless gradient",
        "Gradient descent on (u² − 1)²/4 converges below η = 1, then doubles its period, then becomes chaotic. There the loss after t "
        "steps is a rough function of η, and dL/dη, although exact, grows like e to the Lyapunov exponent times t. A small network "
        "behaves the same.",
        {"rates": points, "u₀": number(start)},
        (study, network),
        claims,
        (
            NumberTable(
                "Derivative and finite difference (η ± 1e-6)",
                ("model", "η", "t", "dL/dη", "finite difference"),
                rows,
            ),
        ),
        tuple(figures),
    )


def graph(*, steps: int = 2) -> Topic:
    """The computation graph (2.1.1) of `steps` steps; see `computation_graph`."""
    study = computation_graph(steps)
    rows = tuple(
        (node.name, node.kind, ", ".join(edge.source for edge in study.edges if edge.target == node.name) or "–")
        for node in study.nodes
    )
    return Topic(
        "graph",
        f"The computation graph of {steps} step{'s' * (steps > 1)}",
        "Each value and what it is computed from. No value depends on an earlier loss; the weights depend on its gradient.",
        {"steps": steps},
        study,
        study.claims(),
        (NumberTable("Values", ("value", "kind", "computed from"), rows),),
        (
            TopicFigure(
                "graph",
                "w: weights, L̃: penalized loss, η: learning rate, λ̃: decay. Arrows point to what is computed.",
                lambda: plots.draw_graph(study),
            ),
        ),
        {"graph.dot": study.to_dot()},
    )


def decay(
    *,
    rate: float = 0.05,
    decay: float = 0.01,
    steps: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
    keras: bool = True,
) -> Topic:
    """L2 penalty against weight decay (2.3); arguments of `study_decay`.

    Args:
        rate: η.
        decay: λ.
        steps: of each run.
        batch_size: rows per step; None: all.
        seed: of data, start and mini-batches.
        keras: run Keras's optimizers as well.
    """
    study = study_decay(rate=rate, decay=decay, steps=steps, batch_size=batch_size, seed=seed, keras=keras)
    norms = tuple(
        (
            pair.name,
            f"{pair.differences.max():.2e}",
            f"{pair.differences[-1]:.2e}",
            *(f"{np.linalg.norm(path[-1]):.6f}" for path in (pair.penalized, pair.decayed)),
        )
        for pair in study.pairs
    )
    symbols = dict(zip(("η", "λ", "λ̃"), map(number, (rate, decay, study.penalty)), strict=True))
    return Topic(
        "decay",
        "L2 penalty against weight decay",
        "With λ̃ = λ/(2η) they are the same under plain gradient descent, for any number of steps and any mini-batches; not under "
        "momentum, RMSProp or Adam. Keras: L2(λ̃) adds λ̃‖w‖² to the loss, and weight_decay is multiplied by the rate, "
        "λ = η · weight_decay.",
        {**symbols, "steps": steps, "batch size": batch_size or "all", "seed": seed},
        study,
        study.claims(),
        (
            NumberTable(
                "Penalty against decay", ("optimizer", "largest difference", "last", "‖w‖, penalty", "‖w‖, decay"), norms
            ),
        ),
        (
            TopicFigure(
                "decay",
                "Left: distance between the weights under penalty and decay (zeros are drawn at 1e-17); right: their norms, solid "
                "for the penalty, dashed for the decay.",
                lambda: plots.decay_differences(study),
            ),
        ),
    )


TOPICS: dict[str, Callable[..., Topic]] = {
    "least-squares": least_squares,
    "rmsprop": rmsprop,
    "graph": graph,
    "hypergradient": hypergradient,
    "memory": memory,
    "chaos": chaos,
    "decay": decay,
}
