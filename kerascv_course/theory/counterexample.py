"""RMSProp does not always reach the minimum-norm solution (report 004, 1.2.1): one row x = (2, 1), target 2, from zero.

With one row every gradient is a multiple of x. Gradient descent moves along x to (4/5, 2/5). A method that divides each coordinate by
the size of its own gradients moves along sign(x) to (2/3, 2/3) if ε is small; a larger ε ends between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, SupportsFloat

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.descent import (
    Adagrad,
    Adam,
    Adamax,
    GradientDescent,
    LeastSquares,
    Method,
    RMSProp,
    check_finite,
    check_rate,
    descend,
    draw_batches,
)
from kerascv_course.theory.keras_side import keras_descend, keras_optimizer
from kerascv_course.theory.pages import Claim, Relation

__all__ = [
    "CORRECTED",
    "REPORTED",
    "CounterExample",
    "ExactStep",
    "Setting",
    "exact_rmsprop_step",
    "study_counterexample",
]

X, TARGET = (2, 1), 2
#: What the report prints, from the gradient (−2, −1).
PRINTED = (Fraction(5, 7), Fraction(4, 7))


@dataclass(frozen=True)
class Setting:
    """Learning rate η, β and ε of RMSProp, as exact fractions."""

    rate: Fraction
    beta: Fraction = Fraction(91, 100)
    epsilon: Fraction = Fraction(1, 5)


REPORTED = Setting(Fraction(2, 7))
#: The learning rate with which the first step reaches a solution.
CORRECTED = Setting(Fraction(91, 410))


@dataclass(frozen=True)
class ExactStep:
    """The first step of RMSProp from zero in exact fractions.

    Attributes:
        gradient: at w = 0.
        weights: w₁.
        loss: (x·w₁ − t)².
        squared_norm: ‖w₁‖².
    """

    gradient: tuple[Fraction, Fraction]
    weights: tuple[Fraction, Fraction]
    loss: Fraction
    squared_norm: Fraction


@dataclass(frozen=True, eq=False)
class CounterExample:
    """Results of the counter-example.

    Attributes:
        reported: the report's settings with the correct gradient, exact.
        misprinted: the report's settings with its wrong gradient (−2, −1), which gives the printed numbers.
        corrected: learning rate 91/410, exact.
        minimum_norm: (4/5, 2/5).
        settings: name to textbook path, float64 (steps + 1, 2), with the report's β and ε.
        paths: name to textbook path of other methods at small rates with a tiny ε.
        keras: name to the path of Keras's optimizer; empty if not requested.
        epsilons: ε of small-rate runs of RMSProp, (ends,).
        ends: their last weights with ε added to the root, and under the root, each (ends, 2).
        agreement: name to the largest difference between Keras's path and the textbook's with ε in Keras's place.
    """

    reported: ExactStep
    misprinted: ExactStep
    corrected: ExactStep
    minimum_norm: np.ndarray
    settings: Mapping[str, np.ndarray]
    paths: Mapping[str, np.ndarray]
    keras: Mapping[str, np.ndarray]
    agreement: Mapping[str, float]
    epsilons: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]

    def claims(self) -> tuple[Claim, ...]:  # noqa: C901
        """The report's numbers, printed and corrected, and where the paths end."""
        where, note = "1.2.1", "E004-06"
        found: list[Claim] = []

        def add(
            where: str, text: str, value: SupportsFloat, relation: Relation, reference: SupportsFloat, tolerance: float = 0.0,
            erratum: str = "",
        ) -> None:  # fmt: skip
            found.append(Claim(where, text, float(value), relation, float(reference), tolerance, erratum))

        for i in (0, 1):
            text = f"gradient at w = 0, component {i + 1}"
            add(where, text, self.reported.gradient[i], "=", (-8, -4)[i], 0, "E004-05")
        for i in (0, 1):
            text = f"w{'₁₂'[i]} from the wrong gradient (−2, −1): as printed"
            add(where, text, self.misprinted.weights[i], "=", PRINTED[i], 0, note)
        for i, right in enumerate((0.87912, 0.81633)):
            add(where, f"η = 2/7: w{'₁₂'[i]}", self.reported.weights[i], "=", right, 5e-6, note)
        add(where, "η = 2/7: loss after the step", self.reported.loss, "=", 0.33013, 5e-6, note)
        for i, exact in enumerate((Fraction(28, 41), Fraction(26, 41))):
            text = f"η = 91/410: w{'₁₂'[i]} = {exact}"
            add(where, text, self.corrected.weights[i], "=", exact, 0, note)
        add(where, "η = 91/410: loss", self.corrected.loss, "=", 0, 0, note)
        text = "η = 91/410: ‖w‖², above the 0.8 of (4/5, 2/5)"
        add(where, text, self.corrected.squared_norm, ">", Fraction(4, 5), 0, note)
        going_on = np.abs(self.settings["η = 2/7"] @ X - TARGET)
        if len(going_on) > 100:
            text = "η = 2/7: largest |2w₁ + w₂ − 2| in the last 10 steps, does not converge"
            add(where, text, going_on[-10:].max(), ">", 0.1, 0, note)
        for i in (0, 1):
            add(where, f"minimum-norm solution: w{'₁₂'[i]}", self.minimum_norm[i], "=", (0.8, 0.4)[i], 1e-15)
        for name, path in self.paths.items():
            if name == "gradient descent":
                text = f"{name}: distance to (4/5, 2/5)"
                add(where, text, np.linalg.norm(path[-1] - self.minimum_norm), "<", 1e-8)
            else:
                text = f"{name}, small rate: distance to (2/3, 2/3)"
                add("1.2.2", text, np.linalg.norm(path[-1] - 2 / 3), "<", 2e-3)
        if "rmsprop" in self.keras:
            for i, right in enumerate((0.93627, 0.89242)):
                text = f"Keras's RMSprop, η = 2/7 (ε under the root): w{'₁₂'[i]}"
                add(where, text, self.keras["rmsprop"][1][i], "=", right, 5e-6)
        for name, difference in self.agreement.items():
            add("1.2.2", f"Keras's {name} and the textbook's step with ε in Keras's place", difference, "<", 1e-12)
        return tuple(found)


def _problem() -> LeastSquares:
    return LeastSquares(np.array([X]), np.array([TARGET]))


def exact_rmsprop_step(setting: Setting = REPORTED, gradient: Sequence[int | Fraction] | None = None) -> ExactStep:
    """The first step, v = (1 − β)g², w = −ηg/(√v + ε), in exact fractions.

    Args:
        setting: η, β and ε.
        gradient: instead of the correct one, (−8, −4).

    Raises:
        InputError: η not positive, β outside [0, 1), ε negative, or 1 − β not the square of a fraction, so that √v is not exact.
    """
    check_rate(float(setting.rate))
    if not 0 <= setting.beta < 1:
        raise InputError(f"β must be 0 or more and below 1; received {setting.beta}")
    if setting.epsilon < 0:
        raise InputError(f"ε must be 0 or more; received {setting.epsilon}")
    share = 1 - setting.beta
    root = Fraction(math.isqrt(share.numerator), math.isqrt(share.denominator))
    if root**2 != share:
        raise InputError(f"an exact step needs 1 − β to be the square of a fraction, such as 0.09; received β = {setting.beta}")
    slopes = [Fraction(g) for g in gradient] if gradient is not None else [Fraction(2 * (0 - TARGET) * x) for x in X]
    if len(slopes) != 2 or 0 in slopes:
        raise InputError(f"the gradient must have two components that are not 0; received {slopes}")
    w = [-setting.rate * g / (root * abs(g) + setting.epsilon) for g in slopes]
    residual = X[0] * w[0] + X[1] * w[1] - TARGET
    return ExactStep((slopes[0], slopes[1]), (w[0], w[1]), residual**2, w[0] ** 2 + w[1] ** 2)


def study_counterexample(
    rate: float = float(REPORTED.rate), beta: float = float(REPORTED.beta), epsilon: float = float(REPORTED.epsilon), *,
    steps: int = 200, keras: bool = True,
) -> CounterExample:  # fmt: skip
    """Compute the counter-example.

    Args:
        rate: η of the path called "chosen", if η, β or ε differs from the report's.
        beta: β of the path called "chosen", if it differs from the report's.
        epsilon: ε of the path called "chosen", if it differs from the report's.
        steps: of the paths with the report's β and ε.
        keras: run Keras's optimizers as well (imports TensorFlow).

    Raises:
        InputError: a rate that is not positive, β outside [0, 1), a negative ε, fewer than 1 step.
        DivergenceError: the chosen path diverged.
    """
    if not 0 <= beta < 1:
        raise InputError(f"β must be 0 or more and below 1; received {beta:g}")
    if not epsilon >= 0:
        raise InputError(f"ε must be 0 or more; received {epsilon:g}")
    problem = _problem()
    rows = draw_batches(1, 1, steps, 0)
    methods: dict[str, Method] = {
        "η = 2/7": RMSProp(float(REPORTED.rate), float(REPORTED.beta), float(REPORTED.epsilon)),
        "η = 91/410": RMSProp(float(CORRECTED.rate), float(CORRECTED.beta), float(CORRECTED.epsilon)),
        "η = 2/7, ε under the root (Keras)": RMSProp(
            float(REPORTED.rate), float(REPORTED.beta), float(REPORTED.epsilon), inside=True
        ),
    }
    chosen = RMSProp(rate, beta, epsilon)
    if chosen != methods["η = 2/7"]:
        methods["chosen"] = chosen
    settings = {name: _descend(problem, method, steps) for name, method in methods.items()}
    paths = {name: _descend(problem, method, 3000) for name, method in _small_steps().items()}
    epsilons = np.logspace(-3, 2, 11)
    found, agreement = _beside_keras(problem, rows) if keras else ({}, {})
    return CounterExample(
        exact_rmsprop_step(REPORTED),
        exact_rmsprop_step(REPORTED, (-2, -1)),
        exact_rmsprop_step(CORRECTED),
        problem.minimum_norm(),
        MappingProxyType(settings),
        MappingProxyType(paths),
        MappingProxyType(found),
        MappingProxyType(agreement),
        epsilons,
        (_ends(problem, epsilons, inside=False), _ends(problem, epsilons, inside=True)),
    )


def _descend(problem: LeastSquares, method: Method, steps: int) -> np.ndarray:
    path = descend(lambda w, _: problem.gradient(w), method, np.zeros(2), steps)
    check_finite(path, problem, method.rate)
    return path


def _ends(problem: LeastSquares, epsilons: np.ndarray, *, inside: bool) -> np.ndarray:
    """Where RMSProp ends at small rates, which grow with ε, so that all arrive."""
    found = []
    for epsilon in epsilons:
        method = RMSProp(0.001 + 0.01 * (epsilon**0.5 if inside else epsilon), epsilon=float(epsilon), inside=inside)
        found.append(_descend(problem, method, 3000)[-1])
    return np.array(found)


def _small_steps() -> dict[str, Method]:
    """Rates small enough for a smooth path, ε small enough not to bend it."""
    tiny = 1e-12
    return {
        "gradient descent": GradientDescent(0.02),
        "RMSProp": RMSProp(0.001, epsilon=tiny),
        "Adam": Adam(0.001, epsilon=tiny),
        "Adamax": Adamax(0.001, epsilon=tiny),
        "Adagrad": Adagrad(0.05, epsilon=tiny),
    }


def _beside_keras(problem: LeastSquares, batches: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Keras's paths, and the largest difference of each from the textbook's with ε in Keras's place."""
    beta, epsilon, rate = float(REPORTED.beta), float(REPORTED.epsilon), float(REPORTED.rate)
    # a large ε, so that its place matters
    pairs: dict[str, tuple[Any, Method]] = {
        "rmsprop": (keras_optimizer("RMSprop", rate, rho=beta, epsilon=epsilon), RMSProp(rate, beta, epsilon, inside=True)),
        "adam": (keras_optimizer("Adam", 0.02, epsilon=epsilon), Adam(0.02, epsilon=epsilon, hat=True)),
        "adamax": (keras_optimizer("Adamax", 0.02, epsilon=epsilon), Adamax(0.02, epsilon=epsilon)),
        "adagrad": (
            keras_optimizer("Adagrad", 0.1, epsilon=epsilon, initial_accumulator_value=0.0),
            Adagrad(0.1, epsilon=epsilon, inside=True),
        ),
    }
    paths, differences = {}, {}
    for name, (optimizer, method) in pairs.items():
        paths[name] = keras_descend(problem, optimizer, batches)
        differences[name] = float(np.abs(paths[name] - _descend(problem, method, len(batches))).max())
    return paths, differences
