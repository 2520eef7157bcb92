"""The topics of the theory: each computes a study, and says what to print, to draw and to write.

A report may take the `Findings` of a topic and lay them out by itself; `pages.write_findings` makes a folder of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kerascv_course.theory.claims import number
from kerascv_course.theory.pages import Drawing, Findings, Table
from kerascv_course.theory.problem import random_problem, read_problem

__all__ = ["TOPICS", "chaos", "decay", "graph", "hypergradient", "least_squares", "memory", "rmsprop"]


def least_squares(
    *,
    rows: int = 10,
    columns: int = 30,
    rank: int | None = None,
    data: Path | None = None,
    batch_size: int = 4,
    steps: int = 4000,
    optimizers: Sequence[str] = (),
    rate: float | None = None,
    seed: int = 0,
) -> Findings:
    """Mini-batch descent and the minimum norm (1.1.1, 1.2.2); see `study_least_squares`.

    Args:
        rows: n of random data.
        columns: d.
        rank: of random data that are rank-deficient.
        data: a CSV file in place of random data, the target last.
        batch_size: rows a step.
        steps: of each descent.
        optimizers: which; none: all.
        rate: learning rate of all.
        seed: of data and mini-batches.
    """
    from kerascv_course.theory.least_squares import LEAVE, STAY, study_least_squares

    problem = read_problem(data) if data is not None else random_problem(rows, columns, rank=rank, seed=seed)
    names = tuple(optimizers) or (*STAY, *LEAVE)
    study = study_least_squares(problem, names, batch_size=batch_size, steps=steps, rate=rate, seed=seed)

    from kerascv_course.plots import theory as plots

    table = Table(
        f"after {steps:,} steps",
        ("optimiser", "loss", "‖w − w*‖", "outside the row space", "‖w‖"),
        tuple(
            (run.name, *(f"{v[-1]:.2e}" for v in (run.losses, run.distances, run.outside)), f"{run.norms[-1]:.6f}")
            for run in study.runs
        ),
    )
    norm = float((study.minimum_norm**2).sum() ** 0.5)
    return Findings(
        "least-squares",
        "Least squares by mini-batch descent from zero",
        "Every mini-batch gradient is a combination of rows of X. What adds multiples of gradients stays in the row space and ends at "
        f"w* = Xᵀ(XXᵀ)⁻¹t, the solution of least norm (here ‖w*‖ = {norm:.6f}); what scales single coordinates ends elsewhere. "
        "All optimisers are Keras's own, in float64.",
        {
            "rows": problem.rows,
            "columns": problem.columns,
            "batch size": batch_size,
            "steps": steps,
            "seed": seed,
            **({"data": data.name} if data is not None else {}),
            **({"learning rate": rate} if rate is not None else {}),
        },
        study.claims(),
        (table,),
        (
            Drawing(
                "descents",
                "Distance to the minimum-norm solution, and the part of w outside the row space, step by step; zeros "
                "are drawn at 1e-17.",
                lambda: plots.descents(study),
            ),
            Drawing(
                "row_space", "Which of Keras's optimisers leave the row space of X.", lambda: plots.row_space_shares(study)
            ),
        ),
        {},
        study,
    )


def rmsprop(
    *, rate: float | None = None, beta: float | None = None, epsilon: float | None = None, steps: int = 200, keras: bool = True
) -> Findings:
    """The counter-example (1.2.1); see `study_counterexample`.

    Args:
        rate: η of a path of your own; None: the report's, as for the others.
        beta: β.
        epsilon: ε.
        steps: of the paths.
        keras: Keras's optimisers beside the textbook's.
    """
    from kerascv_course.theory.counterexample import REPORTED, study_counterexample

    chosen = {"rate": rate, "beta": beta, "epsilon": epsilon}
    given = {name: value if value is not None else float(getattr(REPORTED, name)) for name, value in chosen.items()}
    study = study_counterexample(**given, steps=steps, keras=keras)

    from kerascv_course.plots import theory as plots

    rows = []
    named = {f"RMSProp, {name}": path for name, path in study.settings.items()}
    named |= {f"{name}, small rate": path for name, path in study.paths.items()}
    for name, path in named.items():
        residual = path @ [2, 1] - 2
        rows.append((name, *(f"{v:.8g}" for v in (*path[1], residual[1] ** 2, *path[-1])), f"{residual[-1]:.1e}"))
    return Findings(
        "rmsprop",
        "RMSProp's counter-example",
        "One row x = (2, 1), target 2, from zero: RMSProp reaches a solution that has not the least norm. With the right gradient "
        "(−8, −4) the report's settings overshoot and never come to rest; η = 91/410 lands on a solution in one step.",
        {
            "x": "(2, 1)",
            "t": 2,
            "η": number(given["rate"]),
            "β": number(given["beta"]),
            "ε": number(given["epsilon"]),
            "steps": steps,
        },
        study.claims(),
        (
            Table(
                "paths",
                ("method", "w₁, step 1", "w₂, step 1", "loss, step 1", "last w₁", "last w₂", "last residual"),
                tuple(rows),
            ),
        ),
        (
            Drawing(
                "paths",
                "The plane of (w₁, w₂) with the line of solutions: the report's settings, the same going on, and small rates "
                "of several methods, whose adaptive ones all walk along (1, 1).",
                lambda: plots.plane_paths(study),
            ),
            Drawing(
                "epsilon",
                "Where RMSProp ends at small rates, against ε, beside the root as in the textbook and under it as in Keras.",
                lambda: plots.epsilon_ends(study),
            ),
        ),
        {},
        study,
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
) -> Findings:
    """Derivatives of the loss after t steps by rate and decay (2.2); see `study_hypergradients`, whose arguments these are.

    Args:
        rows: n.
        columns: d.
        steps: t.
        rate: η; None: 0.3 of the largest stable one.
        decay: λ̃.
        seed: of data and start.
        keras: TensorFlow's tape too.
    """
    from kerascv_course.theory.hypergradient import study_hypergradients

    study = study_hypergradients(rows=rows, columns=columns, steps=steps, rate=rate, decay=decay, seed=seed, tape=keras)

    from kerascv_course.plots import theory as plots

    ways = Table(
        f"loss on held-out rows after {steps} steps, and its derivatives",
        ("way", "L(w_t)", "dL/dη", "dL/dλ̃"),
        tuple((name, *(f"{v:.12g}" for v in (way.loss, way.rate, way.decay))) for name, way in study.ways.items()),
    )
    best = study.best
    rate_table = Table(
        "one step without decay: the best rate",
        ("data", "η*", "L(w₀)", "L(w₁)", "d²L/dη²"),
        tuple(
            (name, *map(number, (b.rate, b.before, b.after, b.curvature)))
            for name, b in ((f"{rows}×{columns}, random", best), ("X = diag(1, 2), t = (1, 1), w₀ = 0", study.textbook))
        ),
    )
    return Findings(
        "hypergradient",
        "The gradient of a trained loss by the learning rate and the decay",
        "Gradient descent is unrolled, and the loss after t steps differentiated by η and λ̃: in reverse mode, with checkpoints, in "
        "forward mode, by TensorFlow's tape, and for one step in closed form, all beside finite differences.",
        {"rows": rows, "columns": columns, "t": steps, "η": number(study.run.rate), "λ̃": number(decay), "seed": seed},
        study.claims(),
        (ways, rate_table),
        (
            Drawing(
                "agreement",
                "Finite differences against their step: too large a step bends, too small a one rounds; the exact ways "
                "agree to rounding.",
                lambda: plots.agreement(study),
            ),
            Drawing(
                "learning_rate",
                "L(w_t) against η: a parabola after one step, convex after any number of steps without decay, and a "
                "decay under which it is not.",
                lambda: plots.loss_against_rate(study),
            ),
        ),
        {},
        study,
    )


def memory(*, times: Sequence[int] = (16, 64, 144, 256, 400, 625, 900), columns: int = 4000) -> Findings:
    """Memory against t (2.1.2); see `measure_memory`, whose arguments these are.

    Args:
        times: t.
        columns: d.
    """
    from kerascv_course.theory.memory import measure_memory

    study = measure_memory(times, columns=columns)

    from kerascv_course.plots import theory as plots

    rows = tuple((way, *(f"{v:,.1f}" for v in study.vectors(way))) for way in study.peaks)
    return Findings(
        "memory",
        "Memory of a hypergradient",
        "Peak of what Python and NumPy allocate beyond the data, measured by tracemalloc: reverse mode keeps all t weights, "
        "checkpoints about 2√t, forward mode and the run alone none.",
        {"columns": columns, "bytes of a vector of weights": 8 * columns},
        study.claims(),
        (Table("peak, in vectors of weights", ("way", *(f"t = {t}" for t in study.steps)), rows),),
        (
            Drawing(
                "memory",
                "Measured peak memory against the number of steps, both axes logarithmic.",
                lambda: plots.memory_growth(study),
            ),
        ),
        {},
        study,
    )


def chaos(*, points: int = 1000, times: Sequence[int] = (5, 20, 80), start: float = 0.5, keras: bool = True) -> Findings:
    """Large rates (2.1.3); see `study_chaos` and `study_network`.

    Args:
        points: rates of the map.
        times: t of its curves.
        start: u₀.
        keras: a small network too, by TensorFlow's tape.
    """
    from kerascv_course.theory.chaos import study_chaos
    from kerascv_course.theory.network import study_network

    study = study_chaos(points=points, times=times, start=start)
    network = study_network() if keras else None

    from kerascv_course.plots import theory as plots

    drawings = [
        Drawing(
            "chaos",
            "Against the learning rate: what |u| goes on visiting, the loss after t steps, its derivative by the rate, and the "
            "Lyapunov exponent (below 0: settles; above: chaos).",
            lambda: plots.bifurcation(study),
        )
    ]
    differences = [("u·u", *each) for each in study.differences]
    claims = study.claims()
    if network is not None:
        drawings.append(
            Drawing(
                "network",
                "A small network's cross-entropy after t steps, and its derivative by the learning rate: smooth below a rate of 2, "
                "noise above.",
                lambda: plots.network_rates(network),
            )
        )
        differences += [("network", *each) for each in network.differences]
        claims += network.claims()
    rows = tuple((name, number(r), str(t), f"{slope:.6g}", f"{other:.6g}") for name, r, t, slope, other in differences)
    return Findings(
        "chaos",
        "Large learning rates: an exact gradient of no use",
        "Gradient descent on (u² − 1)²/4 settles below η = 1, then doubles its period, then becomes chaotic. There the loss after t "
        "steps is as rough in η as a random number, and dL/dη, exact as it is, grows like e to the Lyapunov exponent times t. A small "
        "network does the same.",
        {"rates": points, "u₀": number(start)},
        claims,
        (
            Table(
                "derivative and finite difference (η a millionth more and less)",
                ("", "η", "t", "dL/dη", "finite difference"),
                rows,
            ),
        ),
        tuple(drawings),
        {},
        (study, network),
    )


def graph(*, steps: int = 2) -> Findings:
    """The computation graph (2.1.1); see `computation_graph`, whose argument this is.

    Args:
        steps: t.
    """
    from kerascv_course.theory.graph import computation_graph

    study = computation_graph(steps)

    from kerascv_course.plots import theory as plots

    rows = tuple(
        (node.name, node.kind, ", ".join(edge.source for edge in study.edges if edge.target == node.name) or "–")
        for node in study.nodes
    )
    return Findings(
        "graph",
        f"The computation graph of {steps} step{'s' * (steps > 1)}",
        "Each value and what it is computed from. The value of an earlier loss is needed by nothing; its gradient is.",
        {"steps": steps},
        study.claims(),
        (Table("values", ("value", "kind", "computed from"), rows),),
        (
            Drawing(
                "graph",
                "w: weights, L̃: penalised loss, η: learning rate, λ̃: decay. An arrow leads to what is computed.",
                lambda: plots.draw_graph(study),
            ),
        ),
        {"graph.dot": study.to_dot()},
        study,
    )


def decay(
    *,
    rate: float = 0.05,
    decay: float = 0.01,
    steps: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
    keras: bool = True,
) -> Findings:
    """L2 penalty against weight decay (2.3); see `study_decay`, whose arguments these are.

    Args:
        rate: η.
        decay: λ.
        steps: of each run.
        batch_size: rows a step; None: all.
        seed: of data, start and mini-batches.
        keras: Keras's optimisers too.
    """
    from kerascv_course.theory.decay import study_decay

    study = study_decay(rate=rate, decay=decay, steps=steps, batch_size=batch_size, seed=seed, keras=keras)

    from kerascv_course.plots import theory as plots

    norms = tuple(
        (
            pair.name,
            f"{pair.differences.max():.2e}",
            f"{pair.differences[-1]:.2e}",
            *(f"{float((path[-1] ** 2).sum() ** 0.5):.6f}" for path in (pair.penalised, pair.decayed)),
        )
        for pair in study.pairs
    )
    return Findings(
        "decay",
        "L2 penalty against weight decay",
        "λ̃ = λ/(2η) makes them one under plain gradient descent, for any number of steps and any mini-batches; not under momentum, "
        "RMSProp or Adam. Keras: L2(λ̃) adds λ̃‖w‖² to the loss, and weight_decay is multiplied by the rate, λ = η · weight_decay.",
        {
            "η": number(rate),
            "λ": number(decay),
            "λ̃": number(study.penalty),
            "steps": steps,
            "batch size": batch_size or "all",
            "seed": seed,
        },
        study.claims(),
        (Table("penalty against decay", ("optimiser", "largest difference", "last", "‖w‖, penalty", "‖w‖, decay"), norms),),
        (
            Drawing(
                "decay",
                "Left: how far the weights are apart (zeros are drawn at 1e-17); right: their norms, the penalty solid, the decay "
                "dashed.",
                lambda: plots.decay_differences(study),
            ),
        ),
        {},
        study,
    )


TOPICS: dict[str, Callable[..., Findings]] = {
    "least-squares": least_squares,
    "rmsprop": rmsprop,
    "graph": graph,
    "hypergradient": hypergradient,
    "memory": memory,
    "chaos": chaos,
    "decay": decay,
}
