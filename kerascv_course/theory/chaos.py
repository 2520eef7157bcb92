"""Where the gradient by the learning rate is exact and of no use: large rates (one problem of the approach, report 004, 2.1.3).

Least squares only converges or runs away. The least network that does more has two layers with one shared weight, y = u·u,
trained to give 1: L(u) = (u² − 1)²/4. Gradient descent is then the cubic map u ← u − ηu(u² − 1): it settles below η = 1, doubles its
period above, becomes chaotic, and stays bounded up to η = 2. Where it is chaotic, nearby rates part exponentially, and dL(u_t)/dη grows
with t without bound. Maclaurin, Duvenaud and Adams (2015, section 4) describe the same in training networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.claims import Claim

__all__ = ["SETTLES_BELOW", "ChaosStudy", "study_chaos", "tied_run"]

#: The Hessian at the solution u = 1 is 2: gradient descent settles there below 2/2.
SETTLES_BELOW = 1.0
LARGEST = 2.0
#: Steps after which dL/dη is still a number that float64 holds.
LONGEST = 500
CALM, WILD = 0.3, 1.9


@dataclass(frozen=True, eq=False)
class ChaosStudy:
    """L(u_t) and dL(u_t)/dη against the rate; arrays are float64.

    Attributes:
        rates: η, (rates,).
        losses: t to L(u_t), (rates,).
        slopes: t to dL(u_t)/dη by forward mode, (rates,).
        tail: the last of many u, (iterates, rates): what the descent goes on visiting.
        exponents: Lyapunov exponents of the map, (rates,): above 0 where nearby starts part exponentially.
        shift: change of η in the finite differences.
        differences: (η, t, dL/dη, finite difference): a calm rate, a wild one after few steps, and after many.
    """

    rates: np.ndarray
    losses: dict[int, np.ndarray]
    slopes: dict[int, np.ndarray]
    tail: np.ndarray
    exponents: np.ndarray
    shift: float
    differences: tuple[tuple[float, int, float, float], ...]

    def claims(self) -> tuple[Claim, ...]:
        """Calm below 1, chaos beyond, and what that does to the gradient."""
        wild, steps, steep, _ = self.differences[-1]
        calm_exponents = self.exponents[self.rates < SETTLES_BELOW - 0.02]
        spread = np.ptp(np.abs(self.tail), axis=0)
        first = self.rates[np.flatnonzero(spread > 1e-2)[0]]
        exponent = float(np.interp(wild, self.rates, self.exponents))
        where = "2.1.3"
        found = [
            Claim(where, "largest Lyapunov exponent at rates below 1", calm_exponents.max(), "<", 0),
            Claim(where, "first rate at which the descent does not come to rest", first, "=", SETTLES_BELOW, 0.02),
            Claim(where, f"Lyapunov exponent at η = {wild:g}", exponent, ">", 0),
            Claim(
                where,
                f"η = {wild:g}: ln|dL/dη| / t at t = {steps}, near that exponent",
                np.log(abs(steep)) / steps,
                "=",
                exponent,
                0.2,
            ),
        ]
        for rate, t, slope, difference in self.differences:
            off = abs(difference - slope) / max(1.0, abs(slope))
            text = f"η = {rate:g}, t = {t}: finite difference over ±{self.shift:g}, off dL/dη by the share"
            found.append(Claim(where, text, off, "<", 1e-6) if t < steps else Claim(where, text, off, ">", 0.9))
        return tuple(found)


def tied_run(rates: np.ndarray, steps: int, start: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Descents at many rates at once.

    Args:
        rates: η, (rates,), within 0 to 2.
        steps: t.
        start: u₀, within −√(1 + 2/η) to √(1 + 2/η), beyond which the map leaves for infinity.

    Returns:
        All u and du/dη, each float64 (steps + 1, rates).

    Raises:
        InputError: fewer than 1 step; a rate outside its range, or a start.
    """
    eta = np.asarray(rates, np.float64)
    if steps < 1:
        raise InputError(f"a descent takes 1 step or more; received {steps}")
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
    """Losses and their derivatives at rates from 0.02 to 2, and what the descents settle to.

    Args:
        points: rates.
        times: the t of the curves.
        shift: change of η in finite differences.
        start: u₀.

    Raises:
        InputError: fewer than 100 points, fewer than two t, or one that is not within 1 to 500, a shift that is not above 0 or too
            large, a start that runs away.
    """
    if points < 100:
        raise InputError(f"the curves need 100 rates or more; received {points}")
    if len(times) < 2 or min(times) < 1 or max(times) > LONGEST:
        raise InputError(
            f"two numbers of steps or more, each 1 to {LONGEST}, are compared; received {' '.join(map(str, times)) or 'none'}"
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
