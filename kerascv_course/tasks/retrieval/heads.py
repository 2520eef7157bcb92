"""Layers of the heads that identities are learnt with."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["CenterDistances", "CosineLogits"]


@keras.saving.register_keras_serializable("kerascv_course")
class CosineLogits(keras.layers.Layer):
    """Cosines between vectors and one learnt direction an identity: (batch, width) to (batch, identities), −1 to 1.

    Args:
        units: identities.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, input_shape: Any) -> None:
        """Make the directions."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """Cosines of a batch."""
        return ops.matmul(ops.normalize(vectors, axis=-1), ops.normalize(self.kernel, axis=0))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One cosine an identity."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("kerascv_course")
class CenterDistances(keras.layers.Layer):
    """Squared distances between vectors and one learnt centre an identity: (batch, width) to (batch, identities).

    Args:
        units: identities.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, input_shape: Any) -> None:
        """Make the centres."""
        self.centers = self.add_weight(shape=(self.units, input_shape[-1]), initializer="zeros", name="centers")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """Distances of a batch."""
        squares = ops.sum(ops.square(vectors), axis=1, keepdims=True) + ops.sum(ops.square(self.centers), axis=1)[None, :]
        return ops.maximum(squares - 2.0 * ops.matmul(vectors, ops.transpose(self.centers)), 0.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One distance an identity."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "units": self.units}
