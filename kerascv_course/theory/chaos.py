"""Large learning rates, where the gradient by the rate is exact but useless (report 004, 2.1.3).

Least squares only converges or diverges. The smallest network that does more has two layers with one shared weight, y = u·u, trained
to give 1: L(u) = (u² − 1)²/4. Gradient descent is then the cubic map u ← u − ηu(u² − 1): it converges below η = 1, doubles its period
above, becomes chaotic, and stays bounded up to η = 2. Where it is chaotic, nearby rates diverge exponentially, and dL(u_t)/dη grows
with t without bound. Maclaurin, Duvenaud and Adams (2015, section 4) observe the same in training networks.

The second example is a network of two inputs, a hidden layer of tanh and one logit on 32 points between −1 and 1, of class +1 where
the signs of their coordinates agree: full-batch gradient descent at many rates at once, differentiated by TensorFlow's tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.descent import check_rate
from kerascv_course.theory.keras_side import import_keras
from kerascv_course.theory.pages import Claim

__all__ = ["CONVERGES_BELOW", "ChaosStudy", "NetworkStudy", "study_chaos", "study_network", "tied_run"]

#: The Hessian at the solution u = 1 is 2: gradient descent converges there below 2/2.
CONVERGES_BELOW = 1.0
LARGEST = 2.0
#: Largest number of steps for which dL/dη fits in float64.
LONGEST = 500
CALM, WILD = 0.3, 1.9


@dataclass(frozen=True, eq=False)
class ChaosStudy:
    """L(u_t) and dL(u_t)/dη against the rate; arrays are float64.

    Attributes:
        rates: η, (rates,).
        losses: t to L(u_t), (rates,).
        slopes: t to dL(u_t)/dη by forward mode, (rates,).
        tail: the last u of a long descent, (iterates, rates).
        exponents: Lyapunov exponents of the map, (rates,): positive where it is chaotic.
        shift: change of η in the finite differences.
        differences: (η, t, dL/dη, finite difference) of a stable rate, and of a chaotic one after few and after many steps.
    """

    rates: np.ndarray
    losses: dict[int, np.ndarray]
    slopes: dict[int, np.ndarray]
    tail: np.ndarray
    exponents: np.ndarray
    shift: float
    differences: tuple[tuple[float, int, float, float], ...]

    @property
    def converges_below(self) -> float:
        """Learning rate below which gradient descent converges to u = 1."""
        return CONVERGES_BELOW

    def claims(self) -> tuple[Claim, ...]:
        """Convergence below 1, chaos beyond, and its effect on the gradient."""
        wild, steps, steep, _ = self.differences[-1]
        calm_exponents = self.exponents[self.rates < CONVERGES_BELOW - 0.02]
        spread = np.ptp(np.abs(self.tail), axis=0)
        first = self.rates[np.flatnonzero(spread > 1e-2)[0]]
        exponent = float(np.interp(wild, self.rates, self.exponents))
        where = "2.1.3"
        found = [
            Claim(where, "largest Lyapunov exponent at rates below 1", calm_exponents.max(), "<", 0),
            Claim(where, "first rate at which the descent does not converge", first, "=", CONVERGES_BELOW, 0.02),
            Claim(where, f"Lyapunov exponent at η = {wild:g}", exponent, ">", 0),
            Claim(
                where,
                f"η = {wild:g}: ln|dL/dη| / t at t = {steps}, close to that exponent",
                np.log(abs(steep)) / steps,
                "=",
                exponent,
                0.2,
            ),
        ]
        for rate, t, slope, difference in self.differences:
            off = abs(difference - slope) / max(1.0, abs(slope))
            text = f"η = {rate:g}, t = {t}: finite difference over ±{self.shift:g}, relative error against dL/dη"
            found.append(Claim(where, text, off, "<", 1e-6) if t < steps else Claim(where, text, off, ">", 0.9))
        return tuple(found)


def tied_run(rates: np.ndarray, steps: int, start: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Descend at many rates at once.

    Args:
        rates: η, (rates,), within 0 to 2.
        steps: t.
        start: u₀, within −√(1 + 2/η) to √(1 + 2/η), beyond which the map diverges.

    Returns:
        All u and du/dη, each float64 (steps + 1, rates).

    Raises:
        InputError: fewer than 1 step; a rate outside its range, or a start.
    """
    eta = np.asarray(rates, np.float64)
    if steps < 1:
        raise InputError(f"a descent needs 1 step or more; received {steps}")
    if not ((eta > 0) & (eta <= LARGEST)).all():
        raise InputError(
            f"the descent stays bounded for rates above 0 and up to {LARGEST:g}; received {eta.min():g} to {eta.max():g}"
        )
    if not (start**2 <= 1 + 2 / eta).all():
        raise InputError(
            f"the descent stays bounded from starts within √(1 + 2/η), here {np.sqrt(1 + 2 / eta.max()):.3g}; received {start:g}"
        )
    u, tangent = np.empty((steps + 1, len(eta))), np.zeros((steps + 1, len(eta)))
    u[0] = start
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(steps):
            gradient = u[k] ** 3 - u[k]
            tangent[k + 1] = tangent[k] - gradient - eta * (3 * u[k] ** 2 - 1) * tangent[k]
            u[k + 1] = u[k] - eta * gradient
    return u, tangent


def study_chaos(
    *, points: int = 1000, times: Sequence[int] = (5, 20, 80), shift: float = 1e-6, start: float = 0.5
) -> ChaosStudy:
    """Losses and their derivatives at rates from 0.02 to 2, and the long-run behavior.

    Args:
        points: number of rates.
        times: the t of the curves.
        shift: change of η in finite differences.
        start: u₀.

    Raises:
        InputError: fewer than 100 points, fewer than two t, a t outside 1 to 500, a shift outside (0, 0.05), a start that diverges.
    """
    if points < 100:
        raise InputError(f"the curves need 100 rates or more; received {points}")
    if len(times) < 2 or min(times) < 1 or max(times) > LONGEST:
        raise InputError(
            f"--times needs two numbers of steps or more, each 1 to {LONGEST}; received {' '.join(map(str, times)) or 'none'}"
        )
    if not 0 < shift < 0.05:
        raise InputError(f"the change of η must be above 0 and below 0.05; received {shift:g}")
    rates = np.linspace(0.02, LARGEST - 1e-3, points)
    u, tangent = tied_run(rates, max(times), start)
    losses = {t: (u[t] ** 2 - 1) ** 2 / 4 for t in times}
    slopes = {t: (u[t] ** 3 - u[t]) * tangent[t] for t in times}
    long = tied_run(rates, 1000, start)[0]
    growth = np.abs(1 - rates * (3 * long[200:] ** 2 - 1))
    exponents = np.log(np.maximum(growth, 1e-300)).mean(axis=0)
    near, far = min(times), max(times)
    differences = tuple(_differences(rate, t, shift, start) for rate, t in ((CALM, near), (WILD, near), (WILD, far)))
    return ChaosStudy(rates, losses, slopes, long[-120:], exponents, shift, differences)


def _differences(rate: float, steps: int, shift: float, start: float) -> tuple[float, int, float, float]:
    u, tangent = (values[steps] for values in tied_run(np.array([rate - shift, rate, rate + shift]), steps, start))
    losses = (u**2 - 1) ** 2 / 4
    return rate, steps, float((u[1] ** 3 - u[1]) * tangent[1]), float((losses[2] - losses[0]) / (2 * shift))


# --- a small network, by TensorFlow's tape ---

POINTS, HIDDEN = 32, 16
CALM_NETWORK, WILD_NETWORK = 1.0, 32.0
#: Changes of η in finite differences, relative to η.
SHIFT = 1e-6
#: Largest number of steps whose values fit in memory.
LONGEST_NETWORK = 200


@dataclass(frozen=True, eq=False)
class NetworkStudy:
    """The trained loss of a small network against the rate; arrays are float64 (rates,).

    Attributes:
        rates: η.
        losses: t to the mean cross-entropy after t steps.
        slopes: t to its derivative by η.
        differences: (η, t, derivative, finite difference) of a stable rate and a chaotic one after the most steps.
    """

    rates: np.ndarray
    losses: dict[int, np.ndarray]
    slopes: dict[int, np.ndarray]
    differences: tuple[tuple[float, int, float, float], ...]

    def claims(self) -> tuple[Claim, ...]:
        """The tape is correct, and useless where training is chaotic."""
        (calm, t, slope, moved), (wild, _, steep, guess) = self.differences
        off = abs(moved - slope) / max(1.0, abs(slope))
        found = [
            Claim(
                "2.1.3", f"network, η = {calm:g}, t = {t}: finite difference, relative error against the tape", off, "<", 1e-6
            )
        ]
        if t >= 50:
            off = abs(guess - steep) / abs(steep)
            found += [
                Claim("2.1.3", f"network, η = {wild:g}, t = {t}: |dL/dη|", abs(steep), ">", 1e6),
                Claim(
                    "2.1.3",
                    f"network, η = {wild:g}, t = {t}: finite difference, relative error against the tape",
                    off,
                    ">",
                    0.9,
                ),
            ]
        return tuple(found)


def study_network(*, points: int = 240, times: Sequence[int] = (5, 20, 50), seed: int = 0) -> NetworkStudy:
    """Train a small network at rates from 0.03 to 100 and differentiate through the training.

    Args:
        points: number of rates, evenly spaced on a logarithmic scale.
        times: the t at which the loss is measured.
        seed: of the points and the initial weights.

    Raises:
        InputError: fewer than 2 rates, no t, or one outside 1 to 200.
    """
    if points < 2:
        raise InputError(f"the curves need 2 rates or more; received {points}")
    if not times or min(times) < 1 or max(times) > LONGEST_NETWORK:
        raise InputError(f"the numbers of steps are 1 to {LONGEST_NETWORK}; received {' '.join(map(str, times)) or 'none'}")
    rates = np.logspace(-1.5, 2, points)
    losses, slopes = _train_network(rates, times, seed)
    last = max(times)
    beside = np.array([[rate * (1 - SHIFT), rate, rate * (1 + SHIFT)] for rate in (CALM_NETWORK, WILD_NETWORK)])
    near, exact = (values[last].reshape(2, 3) for values in _train_network(beside.ravel(), (last,), seed))
    differences = tuple(
        (rate, last, float(exact[i, 1]), float((near[i, 2] - near[i, 0]) / (2 * SHIFT * rate)))
        for i, rate in enumerate((CALM_NETWORK, WILD_NETWORK))
    )
    return NetworkStudy(rates, losses, slopes, differences)


def _train_network(rates: np.ndarray, times: Sequence[int], seed: int) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Losses after some steps and their derivatives by the rates, each (rates,)."""
    for rate in rates:
        check_rate(float(rate))
    import_keras()
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (POINTS, 2))
    classes = tf.constant(np.sign(inputs[:, :1] * inputs[:, 1:])[None])
    x, eta = tf.constant(inputs[None]), tf.constant(rates[:, None, None])
    starts = (
        rng.normal(size=(2, HIDDEN)),
        np.zeros((1, HIDDEN)),
        rng.normal(size=(HIDDEN, 1)) / np.sqrt(HIDDEN),
        np.zeros((1, 1)),
    )
    weights = [tf.tile(tf.constant(start[None]), [len(rates), 1, 1]) for start in starts]

    def loss(hidden: Any, offset: Any, out: Any, bias: Any) -> Any:
        logits = tf.tanh(x @ hidden + offset) @ out + bias
        return tf.reduce_mean(tf.nn.softplus(-classes * logits), axis=(1, 2))

    losses = {}
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(eta)
        for step in range(1, max(times) + 1):
            with tf.GradientTape() as inner:
                inner.watch(weights)
                # every rate has its own weights, so the gradient of the sum is that of each
                total = tf.reduce_sum(loss(*weights))
            weights = [w - eta * g for w, g in zip(weights, inner.gradient(total, weights), strict=True)]
            if step in times:
                losses[step] = loss(*weights)
    slopes = {step: outer.gradient(value, eta).numpy()[:, 0, 0] for step, value in losses.items()}
    return {step: value.numpy() for step, value in losses.items()}, slopes
