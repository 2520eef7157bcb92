"""Textbook steps of the optimisers, each with ε where its paper has it, and where Keras has it.

An update gives what is added to the weights, so that a decay of the weights can stand beside it (`decay`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.theory.problem import check_rate, check_steps

__all__ = ["Adagrad", "Adam", "Adamax", "GradientDescent", "Method", "RMSProp", "descend"]


class Method(Protocol):
    """One optimiser with its settings."""

    @property
    def rate(self) -> float:
        """The learning rate."""

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """What to add to the weights, and the new state; the state before step 1 is None."""


@dataclass(frozen=True)
class GradientDescent:
    """w ← w − ηg; with momentum v ← μv − ηg, w ← w + v (Polyak), or w + μv − ηg (Nesterov, as Keras and PyTorch write it)."""

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        velocity = self.momentum * (0.0 if state is None else state) - self.rate * gradient
        return (self.momentum * velocity - self.rate * gradient if self.nesterov else velocity), velocity


@dataclass(frozen=True)
class Adagrad:
    """s ← s + g², w ← w − ηg/(√s + ε) (Duchi et al. 2011).

    Attributes:
        rate: η.
        epsilon: ε.
        start: s before the first step; 0 in the paper, 0.1 in Keras.
        inside: ε stands under the root, as in Keras: η g/√(s + ε).
    """

    rate: float
    epsilon: float = 1e-7
    start: float = 0.0
    inside: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        total = (self.start if state is None else state) + gradient**2
        return -self.rate * gradient / _root(total, self.epsilon, self.inside), total


@dataclass(frozen=True)
class RMSProp:
    """v ← βv + (1 − β)g², w ← w − ηg/(√v + ε) (Tieleman and Hinton 2012; report 004, 1.2.1).

    Attributes:
        rate: η.
        beta: β; Keras calls it rho.
        epsilon: ε.
        inside: ε stands under the root, as in Keras: η g/√(v + ε).
    """

    rate: float
    beta: float = 0.9
    epsilon: float = 1e-7
    inside: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        mean = self.beta * (0.0 if state is None else state) + (1 - self.beta) * gradient**2
        return -self.rate * gradient / _root(mean, self.epsilon, self.inside), mean


@dataclass(frozen=True)
class Adam:
    """Algorithm 1 of Kingma and Ba (2015): m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), w ← w − η m̂/(√v̂ + ε).

    Attributes:
        rate: η.
        beta_1: of the mean m.
        beta_2: of the mean of squares v.
        epsilon: ε; 1e-8 in the paper, 1e-7 in Keras.
        hat: ε is added before √v is corrected, as at the end of the paper's section 2 and in Keras: η √(1 − β₂ᵗ)/(1 − β₁ᵗ) m/(√v + ε).
    """

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    hat: bool = False

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        m, v = (0.0, 0.0) if state is None else state
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        v = self.beta_2 * v + (1 - self.beta_2) * gradient**2
        rate, correction = self.rate / (1 - self.beta_1**step), np.sqrt(1 - self.beta_2**step)
        if self.hat:
            return -rate * correction * m / (np.sqrt(v) + self.epsilon), (m, v)
        return -rate * m / (np.sqrt(v) / correction + self.epsilon), (m, v)


@dataclass(frozen=True)
class Adamax:
    """Algorithm 2 of Kingma and Ba (2015): u ← max(β₂u, |g|), w ← w − η/(1 − β₁ᵗ) m/(u + ε).

    Attributes:
        rate: η.
        beta_1: of the mean m.
        beta_2: of the maximum u.
        epsilon: ε; not in the paper, where a first gradient of exactly zero divides by zero; 1e-7 in Keras.
    """

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def update(self, gradient: np.ndarray, state: Any, step: int) -> tuple[np.ndarray, Any]:
        """See `Method`."""
        m, u = (0.0, np.zeros_like(gradient)) if state is None else state
        m = self.beta_1 * m + (1 - self.beta_1) * gradient
        u = np.maximum(self.beta_2 * u, np.abs(gradient))
        return -self.rate / (1 - self.beta_1**step) * m / (u + self.epsilon), (m, u)


def descend(
    gradient: Callable[[np.ndarray, int], np.ndarray], method: Method, start: np.ndarray, steps: int, *, decay: float = 0.0
) -> np.ndarray:
    """A descent, float64 (steps + 1, d), its start included.

    Args:
        gradient: of the weights and the number of the step, from 1.
        method: the optimiser.
        start: w₀, (d,).
        steps: how many.
        decay: λ of decoupled weight decay: w ← (1 − λ)w + update, the gradient taken before.

    Raises:
        InputError: a rate that is not above 0, fewer than 1 step, or a decay that is not 0 or more and below 1.
    """
    check_rate(method.rate)
    check_steps(steps, len(start))
    if not 0 <= decay < 1:
        raise InputError(f"the weight decay must be 0 or more and below 1; received {decay:g}")
    path = np.empty((steps + 1, len(start)))
    path[0] = start
    state: Any = None
    # what runs away is told afterwards, with its step
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            update, state = method.update(gradient(path[step - 1], step), state, step)
            path[step] = (1 - decay) * path[step - 1] + update
    return path


def _root(squares: np.ndarray, epsilon: float, inside: bool) -> np.ndarray:
    return np.sqrt(squares + epsilon) if inside else np.sqrt(squares) + epsilon
