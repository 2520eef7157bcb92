"""Muon: momentum steps made orthogonal, for the kernels of convolutions.

Jordan et al.: "Muon: An optimizer for hidden layers in neural networks", 2024; as "94% on CIFAR-10 …" (airbench94_muon) applies it to
convolutions. Keras's own `keras.optimizers.Muon` takes dense kernels only.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["Muon", "orthogonalize"]

#: Coefficients of the quintic iteration that moves every singular value to about 1 (0.7 to 1.2) in a few steps.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: Any, steps: int = 3) -> Any:
    """The nearest matrix with orthogonal rows or columns, roughly: U·Vᵀ of matrix = U·S·Vᵀ with singular values of 0.7 to 1.2.

    Args:
        matrix: float (rows, columns).
        steps: of the Newton–Schulz iteration; each makes three products of matrices.
    """
    a, b, c = QUINTIC
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else ops.transpose(matrix)
    x = x / (ops.norm(x) + 1e-7)
    for _ in range(steps):
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x if wide else ops.transpose(x)


class Muon(keras.optimizers.SGD):
    """Muon for the kernels of convolutions, SGD with momentum for all other variables.

    A kernel (height, width, in, out) is taken as a matrix (height·width·in, out). Before each step it is scaled to the norm √out, so
    that the rate alone says how far it turns; it needs no weight decay.

    Args:
        learning_rate: of the kernels of convolutions, a number or a schedule; the other rates are its multiples.
        momentum: of the kernels of convolutions.
        nesterov: look ahead, for all variables.
        sgd_momentum: of all other variables.
        norm_factor: rate of variables of one dimension (batch norms, biases), in multiples of `learning_rate`.
        head_factor: likewise of dense kernels.
        weight_decay: of all but the kernels of convolutions, Keras's decoupled one: times `learning_rate`.
        steps: of `orthogonalize`.
        **kwargs: of `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.24,
        momentum: float = 0.6,
        nesterov: bool = True,
        sgd_momentum: float = 0.85,
        norm_factor: float = 1.0,
        head_factor: float = 1.0,
        weight_decay: float | None = None,
        steps: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, momentum=sgd_momentum, nesterov=nesterov, weight_decay=weight_decay, **kwargs
        )
        self.kernel_momentum, self.steps = momentum, steps
        self.norm_factor, self.head_factor = norm_factor, head_factor

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        if len(variable.shape) != 4:
            factor = self.norm_factor if len(variable.shape) == 1 else self.head_factor
            super().update_step(gradient, variable, learning_rate * factor)
            return
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, self.kernel_momentum * momentum + gradient)
        update = gradient + self.kernel_momentum * momentum if self.nesterov else ops.convert_to_tensor(momentum)
        out = variable.shape[-1]
        step = ops.reshape(orthogonalize(ops.reshape(update, (-1, out)), self.steps), variable.shape)
        scaled = variable * (out**0.5 / (ops.norm(ops.reshape(variable, (-1,))) + 1e-7))
        self.assign(variable, scaled - rate * step)

    def _use_weight_decay(self, variable: Any) -> bool:
        return len(variable.shape) != 4 and super()._use_weight_decay(variable)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        own = {
            "momentum": self.kernel_momentum,
            "sgd_momentum": self.momentum,
            "norm_factor": self.norm_factor,
            "head_factor": self.head_factor,
            "steps": self.steps,
        }
        return {**super().get_config(), **own}
