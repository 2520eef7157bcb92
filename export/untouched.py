"""What a file must answer: the outputs of the untouched Keras model, and arithmetic of NumPy instead of Keras's serving graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from onnx import numpy_helper
from scipy.special import expit, softmax

from export.contract import Contract, Output
from export.converter.convert import convert
from export.converter.heads import read_head, try_model
from export.converter.serving_graph import flat_outputs
from export.files import write_model
from export.predictor import OnnxModel
from export.serving import preprocess
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import bounded_batch

__all__ = ["BLIND", "Tolerances", "UntouchedModel", "check_targets"]

#: Outputs that vary over the images by less than this many times the tolerance are too much alike to prove anything.
BLIND = 20

#: Batch size of Keras.
KERAS_BATCH = 256

#: How far weights may be from those of a fresh conversion: of the largest weight of the tensor.
SAME_WEIGHTS = 1e-5


@dataclass(frozen=True)
class Tolerances:
    """Largest difference allowed in a value: `absolute`, plus `relative` times the largest absolute value of the output."""

    absolute: float
    relative: float

    def at(self, scale: float) -> float:
        """The largest difference of an output whose largest absolute value is `scale`."""
        return self.absolute + self.relative * (scale if np.isfinite(scale) else 0.0)

    def in_words(self, scale: float) -> str:
        """The same with its reason."""
        return (
            f"{self.at(scale):.3g} (tolerance {self.absolute:g} + relative {self.relative:g} × the largest value {scale:.3g})"
        )


class UntouchedModel:
    """A Keras model, and what a file with a contract must answer for it.

    Args:
        model: as it was given to `export.export_model`.
        contract: of the file.
    """

    def __init__(self, model: keras.Model, contract: Contract) -> None:
        self.model, self.contract = model, contract
        values = model.output if not isinstance(model, keras.Sequential) else model.outputs[0]
        self.head = ""
        if contract.classifies and not isinstance(values, dict):
            self.head = read_head(model, try_model(model, contract.preprocessing), task="classify", labels=())

    def outputs(self, images: np.ndarray, *, eagerly: bool = False) -> dict[str, np.ndarray]:
        """What the file must answer.

        Args:
            images: pixels, uint8 (N, height, width, channels), or values as the model takes them.
            eagerly: without a graph of TensorFlow's or a compiled function.
        """
        values = images if images.dtype == self.model.inputs[0].dtype else preprocess(images, self.contract.preprocessing)
        size = bounded_batch(KERAS_BATCH, values.shape)
        parts = [self._call(values[i : i + size], eagerly=eagerly) for i in range(0, len(values), size)]
        named = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if len(named) > 1 or "output" not in named:
            return named
        return self._served(named["output"])

    def _call(self, values: np.ndarray, *, eagerly: bool) -> dict[str, np.ndarray]:
        raw = self.model(values, training=False) if eagerly else self.model.predict_on_batch(values)
        return {name: keras.ops.convert_to_numpy(value) for name, value in flat_outputs(raw).items()}

    def _served(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        if self.contract.task == "embed":
            length = np.sqrt(np.maximum((raw.astype(np.float64) ** 2).sum(axis=-1, keepdims=True), 1e-12))
            return {"embedding": (raw / length).astype(np.float32)}
        if self.head == "logits":
            return {"logits": raw, "probabilities": softmax(raw, axis=-1)}
        if self.head in ("binary", "logit"):
            second = expit(raw) if self.head == "logit" else raw
            return {"probabilities": np.concatenate([1 - second, second], axis=-1)}
        return {"probabilities" if self.head in ("probabilities", "sigmoid") else "output": raw}

    def check_conversion(self, file: OnnxModel, images: np.ndarray, tolerances: Tolerances) -> list[str]:
        """Compare a file with a fresh conversion, weight by weight, and the conversion of a disturbed copy with that copy.

        Returns:
            What differs, a sentence each.
        """
        ours, theirs = _weights(self._converted()), _weights(onnx.load(file.path))
        failures = [f"weight {name!r} of a fresh conversion is not in the file" for name in ours.keys() - theirs.keys()]
        for name in ours.keys() & theirs.keys():
            one, other = ours[name], theirs[name]
            largest = float(np.abs(one).max(initial=0.0))
            if one.shape != other.shape or not np.abs(one - other).max(initial=0.0) <= SAME_WEIGHTS * largest:
                failures.append(f"weight {name!r} is not that of a fresh conversion of the model")
        with _disturbed(self.model), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "disturbed.onnx"
            write_model(self._converted(), path)
            answers, expected = OnnxModel(path).run(images), self.outputs(images, eagerly=True)
            for name, values in expected.items():
                difference, scale = np.abs(answers[name] - values).max(), float(np.abs(values).max())
                if values.dtype.kind == "f" and not difference <= tolerances.at(scale):
                    failures.append(
                        f"output {name!r} of a copy with disturbed weights differs by {difference:.3g}, more than "
                        f"{tolerances.in_words(scale)}"
                    )
        return failures

    def _converted(self) -> onnx.ModelProto:
        spec, steps, task = self.contract.input, self.contract.preprocessing, self.contract.task
        options: Any = {
            "input_dtype": spec.dtype,
            "layout": spec.layout,
            "preprocessing": None if steps.mean is None else steps,
            "task": task if task in ("classify", "embed", "tensor") else None,
            "labels": self.contract.labels if self.contract.classifies else (),
            "converter": self.contract.converter or "native",
        }
        proto, _ = convert(self.model, **options)
        return proto


@contextmanager
def _disturbed(model: keras.Model) -> Iterator[None]:
    """Change all weights of a model by a tenth or so; they are put back."""
    before = model.get_weights()
    rng = np.random.default_rng(0)
    try:
        for variable, value in zip(model.weights, before, strict=True):
            if np.issubdtype(value.dtype, np.floating):
                spread = 0.5 if value.ndim < 2 else float(value.std()) or 0.1
                noise = np.asarray(rng.normal(0, spread, value.shape), value.dtype)
                variable.assign(np.abs(value + noise) + 0.1 if "variance" in variable.name else value + noise)
        yield
    finally:
        model.set_weights(before)


def _weights(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """Floating-point initializers by name."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def check_targets(given: Any, count: int, answer: Output | None, *, many_labels: bool) -> np.ndarray:
    """Targets in the shape of the answers that they are compared with.

    Args:
        given: true classes (N, …), with or without a last axis of 1, or one-hot (N, …, classes); with `many_labels` 0 and 1 for each.
        count: N, the number of images.
        answer: the output that gives the answer; None: identities, any whole numbers (N,).
        many_labels: the labels do not exclude each other.

    Returns:
        int (N, …).

    Raises:
        InputError: another number or shape, values that are no whole numbers, or classes that the output does not have.
    """
    targets = np.asarray(given)
    if targets.dtype == bool or (targets.dtype.kind == "f" and np.array_equal(targets, np.round(targets))):
        targets = targets.astype(np.int64)
    if targets.dtype.kind not in "iu":
        raise InputError(
            f"targets are the numbers of the classes; received {targets.dtype} such as {targets.ravel()[:1].tolist()}"
        )
    if targets.ndim == 0 or len(targets) != count:
        raise InputError(f"targets has one entry an image; received {targets.shape} for {count} images")
    if answer is None:
        if targets.shape[1:] not in ((), (1,)):
            raise InputError(f"targets of vectors are identities (N,); received {targets.shape}")
        return targets.reshape(count)
    if many_labels:
        return _label_targets(targets, answer.shape[-1] or 0)
    return _class_targets(targets, answer)


def _label_targets(targets: np.ndarray, labels: int) -> np.ndarray:
    if targets.shape[1:] != (labels,) or not np.isin(targets, (0, 1)).all():
        raise InputError(f"targets are 0 and 1 for each of {labels} labels, (N, {labels}); received {targets.shape}")
    return targets


def _class_targets(targets: np.ndarray, answer: Output) -> np.ndarray:
    classes, rank = answer.shape[-1] or 0, len(answer.shape)
    if targets.ndim == rank + 1 and targets.shape[-1] == classes and classes > 1:
        if not (np.isin(targets, (0, 1)).all() and (targets.sum(axis=-1) == 1).all()):
            raise InputError(f"one-hot targets have one 1 and else 0 over {classes} classes")
        targets = targets.argmax(axis=-1)
    elif targets.ndim == rank + 1 and targets.shape[-1] == 1:
        targets = targets[..., 0]
    if targets.ndim != rank:
        raise InputError(
            f"targets are classes (N{', …' * (rank > 1)}) or one-hot with {classes} classes; received {targets.shape}"
        )
    if targets.size and not (targets.min() >= 0 and targets.max() < classes):
        wrong = targets[(targets < 0) | (targets >= classes)].ravel()[0]
        raise InputError(f"targets are classes 0 to {classes - 1}, as the output {answer.name!r} has them; received {wrong}")
    return targets
