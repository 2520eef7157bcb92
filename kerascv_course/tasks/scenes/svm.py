"""Support vector machines, one against the rest, whose answer is a Dense layer; kernels on histograms by feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.fixed import FixedLayer

__all__ = ["KernelMap", "LinearMachine", "check_classes"]


def check_classes(targets: np.ndarray, labels: Sequence[str | int]) -> None:
    """Refuse classes without images.

    Raises:
        InputError: there is one; it is named.
    """
    if missing := sorted(set(range(len(labels))) - set(targets.tolist())):
        raise InputError(f"a support vector machine needs images of every class; class {labels[missing[0]]} has none in train")


class LinearMachine:
    """Linear support vector machines, one a class against the rest.

    They are found from the products of all training vectors (Gram matrix), so that the cost hardly depends on their length.

    Args:
        vectors: float32 (N, values).
        targets: int (N,).
        classes: how many.

    Raises:
        InputError: a class without images.
    """

    def __init__(self, vectors: np.ndarray, targets: np.ndarray, classes: int) -> None:
        check_classes(targets, range(classes))
        self.vectors, self.targets, self.classes = vectors, targets, classes
        self.gram = (vectors @ vectors.T).astype(np.float64)

    def fit(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights float32 (values, classes) and biases (classes,) for a penalty C of margins that are not kept.

        The hinge is that of LIBSVM (not squared), the bias is not penalised.
        """
        from sklearn.svm import SVC

        dual, bias = np.zeros((len(self.vectors), self.classes)), np.zeros(self.classes)
        for target in range(self.classes):
            machine = SVC(C=penalty, kernel="precomputed", cache_size=100)
            machine.fit(self.gram, np.where(self.targets == target, 1, -1))
            dual[machine.support_, target] = machine.dual_coef_[0]
            bias[target] = machine.intercept_[0]
        return (self.vectors.T @ dual.astype(np.float32)), bias.astype(np.float32)


@keras.saving.register_keras_serializable(package="kerascv_course")
class KernelMap(FixedLayer):
    """Features whose products are a kernel on histograms, approximately (Vedaldi and Zisserman 2012, equation 18).

    Args:
        kernel: ``intersection``: Σ min(a, b); ``chi2``: Σ 2ab / (a + b).
        order: the map has 2 · order + 1 numbers for each value.
        period: sampling step of the spectrum (L of section 5); None: what VLFeat's ``homkermap`` takes for the order.
    """

    def __init__(
        self,
        kernel: Literal["intersection", "chi2"] = "intersection",
        order: int = 1,
        period: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel, self.order = kernel, order
        usual = {"intersection": 2.38 * np.log(order + 0.8) + 5.6, "chi2": 5.86 * np.sqrt(order) + 3.65}
        self.period = period or float(2 * np.pi / usual[kernel])

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "kernel": self.kernel, "order": self.order, "period": self.period}

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((vectors.shape[0], vectors.shape[1] * (2 * self.order + 1)), dtype="float32")

    def spectrum(self, frequency: float) -> float:
        """κ(λ), table 1 of the paper."""
        if self.kernel == "intersection":
            return 2 / (np.pi * (1 + 4 * frequency**2))
        return 1 / np.cosh(np.pi * frequency)

    def call(self, vectors: Any) -> Any:
        """(batch, values), 0 or more, to (batch, values · (2 · order + 1)); zero stays zero."""
        root = ops.sqrt(vectors * self.period)
        logarithm = ops.log(ops.maximum(vectors, 1e-12))
        parts = [root * self.spectrum(0.0) ** 0.5]
        for number in range(1, self.order + 1):
            frequency = number * self.period
            weight = (2 * self.spectrum(frequency)) ** 0.5
            parts += [weight * root * ops.cos(frequency * logarithm), weight * root * ops.sin(frequency * logarithm)]
        return ops.concatenate(parts, axis=1)
