"""Derivatives of unrolled runs against finite differences and known cases; memory, chaos, the computation graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.theory.chaos import study_chaos, study_network, tied_run
from kerascv_course.theory.descent import DivergenceError, LeastSquares, random_problem
from kerascv_course.theory.hypergradient import loss_curve, measure_memory, optimal_rate, study_hypergradients
from kerascv_course.theory.unrolled import (
    Unrolled,
    checkpointed,
    computation_graph,
    finite_differences,
    forward_mode,
    one_step,
    reverse_mode,
)


def unrolled(rows, columns, steps, share, decay, seed, held_out=True):
    """A run at a share of the largest stable rate, without decay."""
    problem = random_problem(rows, columns, seed=seed)
    held = random_problem(rows, columns, seed=seed + 1) if held_out else None
    start = np.random.default_rng(seed).normal(size=columns)
    return Unrolled(problem, start, steps, share * problem.largest_rate, decay, held)


def moderate(*arguments):
    """The same at a rate of 0.3 at most, which stays stable with the decay where inputs are tiny."""
    run = unrolled(*arguments)
    return replace(run, rate=min(run.rate, 0.3))


runs = st.builds(
    moderate,
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 30),
    st.floats(0.05, 0.8),
    st.sampled_from([0.0, 0.01, 0.1]),
    st.integers(0, 99),
    st.booleans(),
)


@given(runs, st.integers(1, 40))
@settings(max_examples=60)
def test_all_modes_agree(run, every):
    exact = reverse_mode(run)
    for other in (forward_mode(run), checkpointed(run), checkpointed(run, every)):
        assert other.difference(exact) < 1e-10 and other.loss == pytest.approx(exact.loss, rel=1e-12)


@given(runs)
@settings(max_examples=30)
def test_reverse_mode_matches_finite_differences(run):
    # a stable rate, and data of one size: rounding and curvature stay below the bound
    exact, measured = reverse_mode(run), finite_differences(run, step=1e-6)
    scale = 1 + abs(exact.rate) + abs(exact.decay)
    assert abs(measured.rate - exact.rate) / scale < 1e-5 and abs(measured.decay - exact.decay) / scale < 1e-5


@given(runs)
@settings(max_examples=30)
def test_one_step_in_closed_form(run):
    single = replace(run, steps=1)
    assert one_step(single).difference(reverse_mode(single)) < 1e-11


def test_optimal_rate_of_a_known_case():
    best = optimal_rate(LeastSquares(np.diag([1.0, 2.0]), np.ones(2)), np.zeros(2))
    assert (best.rate, best.before, best.after) == pytest.approx((5 / 17, 1, 9 / 34), abs=1e-15)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.floats(0, 3))
@settings(max_examples=30)
def test_optimal_rate_is_a_minimum(rows, columns, seed, factor):
    problem = random_problem(rows, columns, seed=seed)
    start = np.zeros(columns)
    best = optimal_rate(problem, start)
    w = start - factor * best.rate * problem.gradient(start)
    assert problem.loss(w) >= best.after - 1e-12 * best.before
    assert problem.loss(w) == pytest.approx(best.after + best.curvature / 2 * ((factor - 1) * best.rate) ** 2, abs=1e-9)


def test_second_derivatives_and_convexity():
    problem, start = random_problem(5, 4, seed=3), np.ones(4)
    rates = np.linspace(0.01, problem.largest_rate, 400)
    for steps, decay in ((1, 0.0), (3, 0.0), (3, 0.2)):
        curve = loss_curve(problem, start, rates, steps, decay=decay)
        inner = slice(1, -1)
        assert np.gradient(curve.losses, rates)[inner] == pytest.approx(curve.slopes[inner], rel=2e-2, abs=2e-2)
        assert np.gradient(curve.slopes, rates)[inner] == pytest.approx(curve.curvatures[inner], rel=2e-2, abs=2e-1)
        if not decay:
            assert curve.curvatures.min() > 0
        run = Unrolled(problem, start, steps, float(rates[50]), decay)
        assert forward_mode(run).rate == pytest.approx(curve.slopes[50], rel=1e-12)


def test_hypergradient_claims_hold_with_the_tape():
    study = study_hypergradients(steps=30)
    assert "TensorFlow's tape" in study.ways
    assert [claim.text for claim in study.claims() if not claim.holds] == []


def test_memory_grows_as_claimed():
    study = measure_memory((16, 64, 144), columns=2000)
    assert [claim.text for claim in study.claims() if not claim.holds] == []
    reverse, checkpoints = study.vectors("reverse mode"), study.vectors("reverse mode, √t checkpoints")
    assert (reverse > checkpoints).all() and checkpoints[-1] < 35 < reverse[-1]


def test_chaos_begins_at_one():
    study = study_chaos(points=400)
    assert [claim.text for claim in study.claims() if not claim.holds] == []
    # at η = 1/2 the map's derivative at its fixed point is 0
    u, _ = tied_run(np.array([0.5]), 8)
    assert abs(u[-1, 0] - 1) < 1e-12


def test_network_claims_hold():
    study = study_network(points=5, times=(5, 50))
    assert len(study.claims()) == 3 and [claim.text for claim in study.claims() if not claim.holds] == []
    assert study.losses[50][1] < study.losses[5][1] < np.log(2)


def test_the_tangent_of_one_step_by_hand():
    u, tangent = tied_run(np.array([0.2]), 1, start=0.5)
    assert u[1, 0] == pytest.approx(0.5 + 0.2 * 0.375) and tangent[1, 0] == pytest.approx(0.375)


def test_the_graph_of_two_steps():
    graph = computation_graph()
    assert [node.name for node in graph.nodes] == ["η", "λ̃", "w₀", "L̃₀", "∇L̃₀", "w₁", "L̃₁", "∇L̃₁", "w₂", "L̃₂"]
    assert graph.ancestors("L̃₂") == {"η", "λ̃", "w₀", "∇L̃₀", "w₁", "∇L̃₁", "w₂"}
    assert graph.ancestors("w₁") == {"η", "λ̃", "w₀", "∇L̃₀"}
    assert all(claim.holds for claim in graph.claims())
    assert '"w₀" -> "w₁";' in graph.to_dot()


@given(st.integers(1, 9))
def test_claims_of_longer_graphs(steps):
    assert all(claim.holds for claim in computation_graph(steps).claims())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unrolled(3, 2, 0, 0.3, 0, 0), r"1 step or more; received 0"),
        (lambda: unrolled(3, 2, 5, -0.3, 0, 0), r"learning rate must be above 0"),
        (lambda: unrolled(3, 2, 5, 0.3, -1, 0), r"decay must be 0 or more and finite; received -1"),
        (lambda: Unrolled(random_problem(3, 2), np.zeros(3), 1, 0.1), r"one weight per column, shape \(2,\); received \(3,\)"),
        (
            lambda: Unrolled(random_problem(3, 2), np.zeros(2), 1, 0.1, 0, random_problem(3, 4)),
            r"held-out rows must have 2 columns; received 4",
        ),
        (lambda: checkpointed(unrolled(3, 2, 5, 0.3, 0, 0), 0), r"1 or more steps apart; received 0"),
        (lambda: one_step(unrolled(3, 2, 5, 0.3, 0, 0)), r"for 1 step; received 5"),
        (lambda: optimal_rate(LeastSquares([[1.0]], [0.0]), np.zeros(1)), r"gradient at the start is zero"),
        (lambda: measure_memory((4, 2)), r"1 or more and increase; received 4 2"),
        (lambda: measure_memory(()), r"received none"),
        (lambda: measure_memory(columns=10), r"1,000 columns or more.*received 10"),
        (lambda: study_chaos(points=5), r"100 rates or more; received 5"),
        (lambda: study_chaos(times=(0, 5)), r"each 1 to 500.*received 0 5"),
        (lambda: study_chaos(times=(5, 501)), r"each 1 to 500.*received 5 501"),
        (lambda: study_chaos(shift=0.0), r"change of η must be above 0"),
        (lambda: study_chaos(start=1.6), r"bounded from starts within"),
        (lambda: study_network(points=1), r"2 rates or more; received 1"),
        (lambda: study_network(times=(201,)), r"1 to 200; received 201"),
        (lambda: tied_run(np.array([2.5]), 3), r"rates above 0 and up to 2; received 2.5"),
        (lambda: computation_graph(0), r"1 to 9 steps; received 0"),
    ],
)
def test_invalid_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_divergence_reports_the_step():
    run = unrolled(4, 3, 500, 1.5, 0.01, 0)
    for way in (reverse_mode, checkpointed, forward_mode):
        with pytest.raises(DivergenceError, match=r"passed 1e\+30 at step \d+ of 500 .* needs a rate below"):
            way(run)


def test_unknown_node():
    with pytest.raises(UnknownNameError, match="unknown node 'w₃'"):
        computation_graph().ancestors("w₃")
