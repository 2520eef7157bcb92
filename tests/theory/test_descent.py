"""Least squares, the counter-example and weight decay: known answers, properties, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascv_course.core.errors import DataError, InputError, UnknownNameError
from kerascv_course.theory.counterexample import CORRECTED, REPORTED, Setting, exact_rmsprop_step, study_counterexample
from kerascv_course.theory.decay import EQUAL, equivalent_penalty, study_decay
from kerascv_course.theory.descent import (
    Adagrad,
    Adam,
    Adamax,
    DivergenceError,
    GradientDescent,
    LeastSquares,
    RMSProp,
    check_finite,
    descend,
    draw_batches,
    random_problem,
    read_problem,
)
from kerascv_course.theory.keras_side import keras_descend, keras_optimizer
from kerascv_course.theory.least_squares import measure_descent, study_least_squares


def descent(problem, method, batches, start=None):
    begin = np.zeros(problem.columns) if start is None else start
    return descend(lambda w, k: problem.gradient(w, batches[k - 1]), method, begin, len(batches))


@given(st.integers(1, 8), st.integers(0, 20), st.integers(1, 8), st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.9]))
@settings(max_examples=40)
def test_mini_batch_gradients_stay_in_the_row_space(rows, more, size, seed, momentum):
    problem = random_problem(rows, rows + more, seed=seed)
    batches = draw_batches(rows, min(size, rows), 30, seed)
    path = descent(problem, GradientDescent(0.2 / float((problem.inputs**2).sum(1).max()), momentum), batches)
    assert np.linalg.norm(problem.outside(path), axis=1).max() < 1e-12
    assert all(len(set(batch)) == len(batch) for batch in batches.tolist())


@pytest.mark.parametrize("size", [1, 3, 10])
def test_any_batch_reaches_the_pseudo_inverse_solution(size):
    problem = random_problem(10, 30)
    formula = problem.inputs.T @ np.linalg.inv(problem.inputs @ problem.inputs.T) @ problem.targets
    path = descent(problem, GradientDescent(0.02), draw_batches(10, size, 4000, 1))
    run = measure_descent("sgd", problem, path, problem.minimum_norm())
    assert np.abs(problem.minimum_norm() - formula).max() < 1e-14
    assert run.distances[-1] < 1e-12 and run.losses[-1] < 1e-24
    assert run.outside.max() < 1e-13


@pytest.mark.parametrize("method", [RMSProp(0.002), Adam(0.005), Adamax(0.01), Adagrad(0.1)])
def test_adaptive_methods_leave_the_row_space(method):
    problem = random_problem(10, 30)
    path = descent(problem, method, draw_batches(10, 4, 500, 0))
    assert np.linalg.norm(problem.outside(path[-1])) > 0.05


def test_component_outside_the_row_space_is_kept():
    problem = random_problem(3, 7)
    start = np.random.default_rng(5).normal(size=7)
    path = descent(problem, GradientDescent(0.02), draw_batches(3, 3, 3000, 0), start)
    assert np.abs(problem.outside(path[-1]) - problem.outside(start)).max() < 1e-12


def test_exact_rmsprop_step():
    found = exact_rmsprop_step(REPORTED)
    assert found.gradient == (-8, -4) and found.weights == (Fraction(80, 91), Fraction(40, 49))
    assert found.loss == (2 * Fraction(80, 91) + Fraction(40, 49) - 2) ** 2
    assert exact_rmsprop_step(REPORTED, (-2, -1)).weights == (Fraction(5, 7), Fraction(4, 7))
    right = exact_rmsprop_step(CORRECTED)
    assert right.weights == (Fraction(28, 41), Fraction(26, 41)) and right.loss == 0
    assert right.squared_norm == Fraction(1460, 1681) > Fraction(4, 5)


@given(st.fractions(Fraction(1, 100), 1), st.sampled_from([Fraction(91, 100), Fraction(3, 4), Fraction(0)]), st.fractions(0, 2))
def test_exact_and_floating_steps_agree(rate, beta, epsilon):
    exact = exact_rmsprop_step(Setting(rate, beta, epsilon))
    update, _ = RMSProp(float(rate), float(beta), float(epsilon)).update(np.array([-8.0, -4.0]), None, 1)
    assert update == pytest.approx([float(w) for w in exact.weights], rel=1e-12)


def test_counterexample_claims_hold():
    study = study_counterexample(0.1, 0.9, 0.5, keras=False)
    assert [claim.text for claim in study.claims() if not claim.holds] == []
    assert "chosen" in study.settings
    assert np.diff((study.ends[0] ** 2).sum(1)).max() < 0  # a larger ε bends the way towards the minimum norm


@pytest.mark.parametrize("epsilon", [1e-3, 0.2])
def test_place_of_epsilon_matters(epsilon):
    g = np.array([-8.0, -4.0])
    beside, under = (RMSProp(0.1, 0.91, epsilon, inside=inside).update(g, None, 1)[0] for inside in (False, True))
    assert beside == pytest.approx(0.1 * -g / (0.3 * -g + epsilon))
    assert under == pytest.approx(0.1 * -g / np.sqrt(0.09 * g**2 + epsilon))
    plain, hat = (Adam(0.1, epsilon=epsilon, hat=hat).update(g, None, 1)[0] for hat in (False, True))
    assert plain == pytest.approx(0.1 * -g / (-g + epsilon))
    assert (hat < plain).all()


@given(st.floats(0.001, 0.05), st.floats(0, 0.3), st.integers(1, 6), st.integers(0, 20))
@settings(max_examples=30)
def test_penalty_equals_decay_under_gradient_descent(rate, decay, size, seed):
    study = study_decay(rate=rate, decay=decay, steps=40, rows=6, columns=3, batch_size=size, seed=seed, keras=False)
    assert study.penalty == decay / (2 * rate)
    assert next(pair for pair in study.pairs if pair.name == EQUAL).differences.max() < 1e-12


def test_penalty_differs_from_decay_under_other_optimizers():
    study = study_decay(keras=False)
    assert len(study.pairs) == 4 and all(claim.holds for claim in study.claims())


def test_first_step_of_every_optimizer_by_hand():
    problem = LeastSquares([[2.0]], [2.0])  # at w = 1 the residual and the gradient are 0
    path = descend(lambda w, _: problem.gradient(w) + 2 * 0.5 * w, GradientDescent(0.1), np.ones(1), 1)
    decayed = descend(lambda w, _: problem.gradient(w), GradientDescent(0.1), np.ones(1), 1, decay=0.1)
    assert path[1] == pytest.approx([0.9]) and decayed[1] == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_batches(10, 11, 5, 0), r"takes 1 to 10 rows \(all\); received 11"),
        (lambda: draw_batches(10, 0, 5, 0), r"takes 1 to 10 rows.*received 0"),
        (lambda: draw_batches(10, 2, 0, 0), r"1 step or more; received 0"),
        (lambda: draw_batches(10, 2, 10**8, 0), r"at most 20,000,000 values.*use fewer steps"),
        (lambda: random_problem(0, 3), r"1 or more; received 0 and 3"),
        (lambda: random_problem(3, 5, rank=4), r"rank of 3 rows and 5 columns must be 1 to 3; received 4"),
        (lambda: random_problem(10**5, 10**5), r"inputs have at most 20,000,000 values"),
        (lambda: random_problem(5, 30, rank=3).minimum_norm(), r"the 5 rows of 30 columns have rank 3: drop dependent rows"),
        (lambda: random_problem(30, 5).minimum_norm(), r"use more columns than rows"),
        (lambda: LeastSquares([[1.0, np.nan]], [1.0]), r"must be finite; received NaN"),
        (lambda: LeastSquares([[1.0, 2.0]], [1.0, 2.0]), r"received \(1, 2\) and \(2,\)"),
        (lambda: descend(lambda w, _: w, GradientDescent(-0.1), np.ones(2), 3), r"must be above 0 and finite; received -0.1"),
        (lambda: descend(lambda w, _: w, GradientDescent(0.1), np.ones(2), 3, decay=1), r"below 1; received 1"),
        (lambda: study_least_squares(random_problem(), rate=-1), r"learning rate must be above 0.*received -1"),
        (lambda: study_least_squares(random_problem(), ()), r"one optimizer or more"),
        (lambda: study_least_squares(random_problem(), batch_size=11), r"received 11"),
        (lambda: exact_rmsprop_step(Setting(Fraction(2, 7), Fraction(9, 10))), r"square of a fraction.*received β = 9/10"),
        (lambda: exact_rmsprop_step(Setting(Fraction(-2, 7))), r"learning rate must be above 0"),
        (lambda: exact_rmsprop_step(Setting(Fraction(1), epsilon=Fraction(-1))), r"ε must be 0 or more; received -1"),
        (lambda: exact_rmsprop_step(REPORTED, (0, 1)), r"two components that are not 0"),
        (lambda: study_counterexample(beta=1.0, keras=False), r"β must be 0 or more and below 1; received 1"),
        (lambda: study_counterexample(rate=0.0, keras=False), r"learning rate must be above 0"),
        (lambda: equivalent_penalty(0.1, 0.0), r"learning rate must be above 0 and finite; received 0"),
        (lambda: study_decay(decay=-0.1, keras=False), r"decay must be 0 or more and below 1; received -0.1"),
        (lambda: study_decay(batch_size=21, keras=False), r"takes 1 to 20 rows"),
    ],
)  # fmt: skip
def test_invalid_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_divergence_reports_the_step_and_a_stable_rate():
    problem = random_problem(10, 30)
    bound = problem.largest_rate
    path = descent(problem, GradientDescent(1.5 * bound), draw_batches(10, 10, 300, 0))
    with pytest.raises(DivergenceError, match=rf"passed 1e\+30 at step \d+ at rate .* a rate below {bound:.3g} here"):
        check_finite(path, problem, 1.5 * bound)
    check_finite(descent(problem, GradientDescent(0.99 * bound), draw_batches(10, 10, 300, 0)), problem, 0.99 * bound)


def test_read_problem(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("2, 1, 2\n")
    assert read_problem(path).minimum_norm() == pytest.approx([0.8, 0.4])
    for text, message in (("2, one, 2\n", "cannot read .* as numbers"), ("2\n", "one or more inputs and a target")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_problem(path)
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.csv"):
        read_problem(tmp_path / "nowhere.csv")


def test_keras_optimizers_match_the_textbook():
    study = study_counterexample(steps=40)
    assert [claim.text for claim in study.claims() if not claim.holds] == []
    assert set(study.agreement) == {"rmsprop", "adam", "adamax", "adagrad"}
    problem = random_problem(4, 9)
    found = study_least_squares(problem, ("sgd", "adam"), batch_size=2, steps=1500)
    assert [claim.text for claim in found.claims() if not claim.holds] == []
    with pytest.raises(DivergenceError, match="diverged"):
        keras_descend(problem, keras_optimizer("sgd", 50.0), draw_batches(4, 2, 200, 0))
    with pytest.raises(UnknownNameError, match="unknown optimizer 'sdg'; did you mean 'sgd'"):
        keras_optimizer("sdg")
    with pytest.raises(InputError, match="needs a learning rate"):
        keras_optimizer("RMSprop")
    with pytest.raises(InputError, match="Muon does not compute in float64"):
        keras_descend(problem, keras_optimizer("Muon", 0.1), draw_batches(4, 2, 2, 0))


def test_keras_weight_decay_is_multiplied_by_the_rate():
    study = study_decay(steps=30, batch_size=5)
    assert len(study.keras) == 4
    assert [claim.text for claim in study.claims() if not claim.holds] == []
