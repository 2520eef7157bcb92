"""A Keras model as the doctor questions it: its answers, batch normalisation run wrongly on purpose, and each layer's output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from export.contract import Preprocessing
from export.diagnostics.hypotheses import FRESH, TRAINING, Affine, affine
from export.diagnostics.raw_graph import BATCH

__all__ = ["LayerRecord", "Reference"]


@dataclass(frozen=True)
class LayerRecord:
    """One call of a layer.

    Attributes:
        layer: the layer.
        output: its output.
        sources: positions of the records that its inputs come from.
    """

    layer: keras.Layer
    output: np.ndarray
    sources: tuple[int, ...]


class Reference:
    """A serving graph (`export.serving.serving_graph`).

    Args:
        serving: one input, named outputs.
        steps: what is done to the pixels before it, where it takes floating point.
    """

    def __init__(self, serving: keras.Model, steps: Preprocessing) -> None:
        self.serving = serving
        self.steps = steps
        self.takes_pixels = serving.inputs[0].dtype == "uint8"
        self.shape: tuple[int | None, ...] = tuple(serving.inputs[0].shape[1:])
        self.channels = int(serving.inputs[0].shape[-1])
        self.outputs = sorted(serving.output)
        self._layers = [layer for layer in serving._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
        self._norms = [layer for layer in self._layers if isinstance(layer, keras.layers.BatchNormalization)]

    @property
    def has_batch_norm(self) -> bool:
        """Whether there is a batch-norm layer."""
        return bool(self._norms)

    def run(self, pixels: np.ndarray, way: str | None = None) -> dict[str, np.ndarray]:
        """All outputs by name for uint8 pixels (N, height, width, channels), in batches of `export.diagnostics.raw_graph.BATCH`.

        Args:
            pixels: the pictures.
            way: None: as for inference; else how batch normalisation is run (`export.diagnostics.hypotheses`).
        """
        with self._running(way):
            batches = [self._call(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _call(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        values = self.serving(self._feed(pixels), training=False)
        return {name: keras.ops.convert_to_numpy(value) for name, value in values.items()}

    def _feed(self, pixels: np.ndarray) -> np.ndarray:
        if self.takes_pixels:
            return pixels
        flipped = pixels[..., ::-1] if self.steps.channels == "BGR" else pixels
        plain = Preprocessing("graph", self.steps.scale, self.steps.mean, self.steps.std)
        return affine(plain, self.channels)(flipped).astype(np.float32)

    def normalisation(self) -> Affine | None:
        """What is done to pixels before the network: the first layer that rescales, or the steps before the model."""
        if not self.takes_pixels:
            return affine(self.steps, self.channels)
        for layer in self._layers:
            if isinstance(layer, keras.layers.Rescaling):
                scale, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
            elif isinstance(layer, keras.layers.Normalization) and not layer.invert:
                mean, std = (keras.ops.convert_to_numpy(value).ravel() for value in (layer.mean, layer.variance))
                std = np.maximum(np.sqrt(std), 1e-7)
                scale, offset = 1 / std, -mean / std
            else:
                continue
            return Affine(*(np.broadcast_to(values, (self.channels,)) for values in (scale, offset)))
        return None

    @contextlib.contextmanager
    def _running(self, way: str | None) -> Iterator[None]:
        """Run batch normalisation in another way for a while; its weights are put back."""
        kept = [layer.get_weights() for layer in self._norms]
        trainable = [layer.trainable for layer in self._norms]
        try:
            if way == FRESH:
                for layer in self._norms:
                    layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
                    layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))
            if way == TRAINING:
                for layer in self._norms:
                    layer.trainable = True
                    _wrap(layer, lambda call, inputs, *, training=None, **rest: call(inputs, training=True, **rest))
            yield
        finally:
            for layer, weights, flag in zip(self._norms, kept, trainable, strict=True):
                _unwrap(layer)
                layer.trainable = flag
                layer.set_weights(weights)

    def record(self, pixels: np.ndarray) -> list[LayerRecord]:
        """Every call of a layer, in order, for a few pictures."""
        records: list[LayerRecord] = []
        makers: dict[int, int] = {}
        alive = []  # a tensor that is freed may give its id to another

        def recorder(layer: keras.Layer) -> Any:
            def run(call: Any, *args: Any, **kwargs: Any) -> Any:
                output = call(*args, **kwargs)
                if keras.ops.is_tensor(output):
                    inputs = keras.tree.flatten((args, kwargs))
                    sources = tuple(makers[id(value)] for value in inputs if id(value) in makers)
                    makers[id(output)] = len(records)
                    alive.append((inputs, output))
                    records.append(LayerRecord(layer, keras.ops.convert_to_numpy(output), sources))
                return output

            return run

        try:
            for layer in self._layers:
                _wrap(layer, recorder(layer))
            self._call(pixels)
        finally:
            for layer in self._layers:
                _unwrap(layer)
        return records


def _wrap(layer: keras.Layer, around: Any) -> None:
    """Let `around(call, …)` be called in place of a layer's own call; past Keras's own book-keeping of attributes."""
    call = layer.call
    object.__setattr__(layer, "call", lambda *args, **kwargs: around(call, *args, **kwargs))


def _unwrap(layer: keras.Layer) -> None:
    if "call" in vars(layer):
        object.__delattr__(layer, "call")
