"""The errata of report 004, each shown by a computation: what is printed beside what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np

from kerascv_course.analysis.arithmetic import conv_output, field_of_chain
from kerascv_course.analysis.closed_forms import closed_form
from kerascv_course.analysis.errata import Erratum, errata_of
from kerascv_course.analysis.paper import fully_connected_equivalent
from kerascv_course.registry import model_spec
from kerascv_course.theory.claims import Claim, Relation
from kerascv_course.theory.counterexample import CORRECTED, PRINTED, REPORTED, exact_rmsprop_step
from kerascv_course.theory.hypergradient import Unrolled, one_step
from kerascv_course.theory.memory import PASS, measure_memory
from kerascv_course.theory.methods import GradientDescent, descend
from kerascv_course.theory.problem import LeastSquares, draw_batches, random_problem

__all__ = ["CheckedErratum", "check_errata"]

#: Text, number, relation, reference and tolerance of claims.
Facts = list[tuple[str, SupportsFloat, Relation, SupportsFloat, float]]


@dataclass(frozen=True)
class CheckedErratum:
    """A finding with the numbers that show it.

    Attributes:
        erratum: what is printed, and what is right.
        claims: the numbers.
    """

    erratum: Erratum
    claims: tuple[Claim, ...]


def check_errata() -> tuple[CheckedErratum, ...]:
    """All findings of report 004, computed now."""
    checked = []
    for found in errata_of("004"):
        claims = [
            Claim(found.where, text, float(value), relation, float(reference), tolerance, found.id)
            for text, value, relation, reference, tolerance in _CHECKS[found.id]()
        ]
        checked.append(CheckedErratum(found, tuple(claims)))
    return tuple(checked)


def _data() -> tuple[LeastSquares, np.ndarray]:
    """Ten rows of thirty columns, and the rows of a mini-batch of four."""
    problem = random_problem(10, 30, seed=0)
    return problem, draw_batches(problem.rows, 4, 1, 0)[0]


def _first_step() -> Facts:
    problem, batch = _data()
    rate = 0.1
    w = descend(lambda w, _: problem.gradient(w, batch), GradientDescent(rate), np.zeros(problem.columns), 1)[1]
    right = 2 * rate / len(batch) * problem.targets[batch] @ problem.inputs[batch]
    return [
        ("w₁ beside +(2η/b) t_Bᵀ B", np.linalg.norm(w - right), "=", 0, 1e-14),
        ("w₁ beside the printed −(2η/b) t_Bᵀ B", np.linalg.norm(w + right), ">", 0.1, 0),
    ]


def _selection() -> tuple[LeastSquares, np.ndarray, np.ndarray]:
    problem, batch = _data()
    return problem, batch, np.eye(problem.rows)[:, batch]


def _selected_product() -> Facts:
    problem, batch, s = _selection()
    mine, theirs = problem.targets[batch] @ problem.inputs[batch], problem.targets @ s @ s.T @ problem.inputs
    return [
        ("t_Bᵀ B beside tᵀ S Sᵀ X", np.abs(mine - theirs).max(), "=", 0, 1e-14),
        ("the printed tᵀ B: t has so many entries more than B has rows", problem.rows - len(batch), ">", 0, 0),
    ]


def _selection_shape() -> Facts:
    problem, batch, s = _selection()
    return [
        ("Sᵀ X beside the rows of the mini-batch", np.abs(s.T @ problem.inputs - problem.inputs[batch]).max(), "=", 0, 0),
        ("columns of S: b = 4, not d = 30", s.shape[1], "=", len(batch), 0),
    ]


def _one_batch() -> Facts:
    problem, batch, s = _selection()
    w = descend(lambda w, _: problem.gradient(w, batch), GradientDescent(0.02), np.zeros(problem.columns), 4000)[-1]
    rows = draw_batches(problem.rows, 4, 4000, 0)
    end = descend(lambda w, k: problem.gradient(w, rows[k - 1]), GradientDescent(0.02), np.zeros(problem.columns), 4000)[-1]
    return [
        ("one mini-batch only: ‖(Xw − t)ᵀ S‖", np.linalg.norm(problem.residual(w) @ s), "<", 1e-8, 0),
        ("one mini-batch only: ‖Xw − t‖", np.linalg.norm(problem.residual(w)), ">", 0.1, 0),
        ("all mini-batches: ‖w − Xᵀ(XXᵀ)⁻¹t‖", np.linalg.norm(end - problem.minimum_norm()), "<", 1e-8, 0),
    ]


def _gradient() -> Facts:
    found = exact_rmsprop_step(REPORTED).gradient
    return [(f"component {i + 1} at w = 0; printed {(-2, -1)[i]}", found[i], "=", (-8, -4)[i], 0) for i in (0, 1)]


def _counterexample() -> Facts:
    slip, right, corrected = exact_rmsprop_step(REPORTED, (-2, -1)), exact_rmsprop_step(REPORTED), exact_rmsprop_step(CORRECTED)
    return [
        ("w₁ with the wrong gradient: as printed", slip.weights[0], "=", PRINTED[0], 0),
        ("w₁ with the right gradient", right.weights[0], "=", 0.87912, 5e-6),
        ("w₂ with the right gradient", right.weights[1], "=", 0.81633, 5e-6),
        ("loss, printed 0", right.loss, "=", 0.33013, 5e-6),
        ("η = 91/410: w₁ = 28/41", corrected.weights[0], "=", 28 / 41, 0),
        ("η = 91/410: w₂ = 26/41", corrected.weights[1], "=", 26 / 41, 0),
        ("η = 91/410: loss", corrected.loss, "=", 0, 0),
        ("η = 91/410: ‖w‖² above that of (4/5, 2/5)", corrected.squared_norm, ">", 0.8, 0),
    ]


def _memory() -> Facts:
    found = measure_memory((16, 256))
    held = {way: float(np.diff(found.vectors(way))[0]) for way in (PASS, "reverse mode")}
    return [
        ("forward alone: vectors held more at t = 256 than at t = 16", held[PASS], "<", 1, 0),
        ("with every w kept for the way back", held["reverse mode"], "=", 240, 12),
    ]


def _notation() -> Facts:
    problem = random_problem(6, 4, seed=0)
    plain = Unrolled(problem, np.ones(4), 1, 0.05)
    penalised = replace(plain, decay=0.1)
    a, x = problem.residual(plain.start), problem.inputs
    printed = float(np.sum((a - 2 * plain.rate / problem.rows * x @ (x.T @ a)) ** 2)) / problem.rows
    w = penalised.end()
    return [
        ("(1/n)‖a − (2η/n)XXᵀa‖² beside L(w₁)", abs(printed - one_step(plain).loss), "=", 0, 1e-12),
        ("beside L̃(w₁) with λ̃ = 0.1", abs(printed - problem.loss(w) - penalised.decay * float(w @ w)), ">", 1e-3, 0),
    ]


def _field() -> Facts:
    return [
        ("neurons that a 3×3 layer aggregates; printed three", 3 * 3, "=", 9, 0),
        ("receptive field of two 3×3 layers", field_of_chain([(3,), (3,)]).size, "=", 5, 0),
    ]


def _name() -> Facts:
    dense = fully_connected_equivalent("conv3-32 pool2 conv3-64 pool2 conv3-3", (32, 32, 3))
    return [('parameters printed for "FCNC" are those of the fully connected network', dense.parameters, "=", 10_063_872, 0)]


def _same_parameters() -> Facts:
    names = ("pool_upsample_net", "conv_transpose_net")
    ours = [model_spec(name).parameters for name in names]
    weights = [closed_form(name).evaluate()[0] for name in names]
    small = np.arange(4.0).reshape(2, 2)
    inside = np.isin(small.repeat(2, axis=0).repeat(2, axis=1), small)
    return [
        ("trainable parameters: the transposed network has more by", ours[1] - ours[0], "=", 0, 0),
        ("trainable parameters of each", ours[0], "=", 49_728, 0),
        ("weights: the transposed network has more by", weights[1] - weights[0], "=", 0, 0),
        ("nearest up-sampling: values that were not inside", int((~inside).sum()), "=", 0, 0),
    ]


def _floor() -> Facts:
    totals = [p for p in range(9) if conv_output(32, 5, 2, (p // 2, p - p // 2)).output == 16]
    return [
        ("k = 5, stride 2: least 2p that gives 16", min(totals), "=", 3, 0),
        ("k = 5, stride 2: largest 2p that gives 16, so that p = 2 alone is whole", max(totals), "=", 4, 0),
    ]


def _no_symmetric() -> Facts:
    paddings: tuple[tuple[str, int | tuple[int, int], int], ...] = (
        ("1", 1, 31),
        ("2, as printed", 2, 33),
        ("1 and 2", (1, 2), 32),
    )
    return [
        (f"k = 4, stride 1, padding {text}: output", conv_output(32, 4, 1, padding).output, "=", right, 0)
        for text, padding, right in paddings
    ]


def _norms() -> Facts:
    plain = [closed_form("pool_upsample_net", size, norms=False).evaluate()[1] for size in (32, 64)]
    counted = [closed_form("pool_upsample_net", size).evaluate()[1] for size in (32, 64)]
    return [
        ("outputs without batch norm, 32×32", plain[0], "=", 172_032, 0),
        ("outputs without batch norm, 64×64", plain[1], "=", 688_128, 0),
        ("outputs with it, as printed, 32×32", counted[0], "=", 217_088, 0),
        ("outputs with it, as printed, 64×64", counted[1], "=", 868_352, 0),
    ]


_CHECKS: dict[str, Callable[[], Facts]] = {
    "E004-01": _first_step,
    "E004-02": _selected_product,
    "E004-03": _selection_shape,
    "E004-04": _one_batch,
    "E004-05": _gradient,
    "E004-06": _counterexample,
    "E004-07": _memory,
    "E004-08": _notation,
    "E004-09": _field,
    "E004-10": _name,
    "E004-11": _same_parameters,
    "E004-12": _floor,
    "E004-13": _no_symmetric,
    "E004-14": _norms,
}
