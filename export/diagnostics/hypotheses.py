"""Usual mistakes between a Keras model and its file, each with a small change that corrects it.

A hypothesis changes the pixels that the file is fed, what is read from its outputs, or how the reference runs. It holds when the file
agrees with the reference after the change. A file that normalizes like F instead of W is fed F⁻¹(W(pixels)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from export.contract import Preprocessing

__all__ = ["COMMON", "Affine", "Hypothesis", "Outputs", "output_hypotheses", "pixel_hypotheses", "undo_softmax"]

Outputs = Mapping[str, np.ndarray]

#: Preprocessing that networks are commonly trained with.
COMMON = {
    "pixels of 0–255": Preprocessing("graph", scale=1.0),
    "pixels scaled to 0–1": Preprocessing("graph"),
    "pixels scaled to −1…1": Preprocessing("graph", mean=(0.5,), std=(0.5,)),
    "ImageNet's mean and deviation": Preprocessing("graph", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "pixels less ImageNet's mean": Preprocessing("graph", scale=1.0, mean=(123.68, 116.779, 103.939)),
}

#: Wrong ways to run batch normalization: with the statistics of the batch, and with those of a new network.
TRAINING, FRESH = "batch statistics", "fresh statistics"


@dataclass(frozen=True, eq=False)
class Affine:
    """``pixel · scale + offset``, one value a channel."""

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, steps: Preprocessing, channels: int) -> Affine:
        """What preprocessing does to each channel of pixels of 0–255, in the order in which channels are fed."""
        mean, std = (
            np.broadcast_to(np.asarray(values or (default,), np.float64), (channels,))
            for values, default in ((steps.mean, 0.0), (steps.std, 1.0))
        )
        if steps.channels == "BGR":
            mean, std = mean[::-1], std[::-1]
        return cls(steps.scale / std, -mean / std)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Normalized values of pixels, float64."""
        return np.asarray(pixels.astype(np.float64) * self.scale + self.offset)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Pixels that have these normalized values."""
        return np.asarray((values - self.offset) / self.scale)


@dataclass(frozen=True)
class Hypothesis:
    """A possible mistake.

    Attributes:
        kind: ``channels``, ``range``, ``normalization``, ``layout``, ``softmax``, ``classes`` or ``batch norm``; one of each kind is
            tried at a time.
        name: what the file does wrong, in a clause.
        change: what was changed to test it, after "with".
        remedy: what to do.
        pixels: the file is fed this.
        outputs: its outputs are read as this, given the reference's.
        reference: wrong way to run the reference that the file agrees with.
    """

    kind: str
    name: str
    change: str
    remedy: str
    pixels: Callable[[np.ndarray], np.ndarray] | None = None
    outputs: Callable[[Outputs, Outputs], dict[str, np.ndarray]] | None = None
    reference: str | None = None


def pixel_hypotheses(
    shape: Sequence[int], wanted: Mapping[str, Affine], stated: Preprocessing | None = None
) -> list[Hypothesis]:
    """Mistakes before the network.

    Args:
        shape: (height, width, channels) of the images.
        wanted: the normalization that the network was trained with, or candidates for it, by name.
        stated: preprocessing that the file's contract states.
    """
    height, width, channels = shape
    found = [
        Hypothesis(
            "range",
            "pixels are divided by 255 twice (0–255 is expected, 0–1 arrives)",
            "pixels multiplied by 255",
            "divide by 255 once: either before the file or inside it",
            pixels=lambda x: x * 255.0,
        ),
        Hypothesis(
            "range",
            "pixels are not divided by 255 (0–1 is expected, 0–255 arrives)",
            "pixels divided by 255",
            "put the division by 255 into the graph: export with input_dtype='uint8', or with the preprocessing of the training",
            pixels=lambda x: x / 255.0,
        ),
        *_normalization_hypotheses(channels, wanted, stated),
    ]
    if channels == 3:
        found.insert(
            0,
            Hypothesis(
                "channels",
                "red and blue are swapped (RGB against BGR)",
                "the channels swapped",
                "feed the channels in the other order, or export with the order that the network was trained with",
                pixels=lambda x: x[..., ::-1],
            ),
        )
    if channels > 1:
        found += [
            Hypothesis(
                "layout",
                "NHWC pixels are read as NCHW (reshaped, not transposed)",
                "the pixels laid out as NCHW",
                "transpose (0, 3, 1, 2) where the graph or its caller reshapes",
                pixels=lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
            ),
            Hypothesis(
                "layout",
                "NCHW pixels are read as NHWC (reshaped, not transposed)",
                "the pixels laid out as NHWC",
                "transpose (0, 2, 3, 1) where the graph or its caller reshapes",
                pixels=lambda x: x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1),
            ),
        ]
    if height == width:
        found.append(
            Hypothesis(
                "layout",
                "rows and columns are swapped",
                "rows and columns swapped",
                "feed (height, width), rows first: Pillow states sizes as (width, height)",
                pixels=lambda x: x.transpose(0, 2, 1, 3),
            )
        )
    return found


def _normalization_hypotheses(
    channels: int, wanted: Mapping[str, Affine], stated: Preprocessing | None
) -> Iterable[Hypothesis]:
    """Wrong normalizations, each different change once."""
    remedy = "export with the preprocessing that the network was trained with, once, inside the graph"
    probe = np.linspace(0, 255, 5)[:, None, None, None] * np.ones(channels)
    seen = [probe]
    others = {name: steps for name, steps in COMMON.items() if len(steps.mean or ()) in (1, channels)}
    if stated is not None and stated.mean is not None:
        others["what its contract states"] = stated
    for title, want in wanted.items():
        for name, change, pixels in _changes(title, want, {name: Affine.of(s, channels) for name, s in others.items()}):
            result = pixels(probe)
            if not any(np.allclose(result, other) for other in seen):
                seen.append(result)
                yield Hypothesis("normalization", name, change, remedy, pixels=pixels)


def _changes(
    title: str, want: Affine, others: Mapping[str, Affine]
) -> Iterable[tuple[str, str, Callable[[np.ndarray], np.ndarray]]]:
    """What the file may do instead of `want`: the claim, the change in words, and the change."""
    unit = others["pixels scaled to 0–1"]
    of_units = Affine(want.scale * 255, want.offset)
    yield (
        f"mean and standard deviation are missing ({title} is expected)",
        "mean and deviation applied before the file",
        lambda x: unit.undo(want(x)),
    )
    yield (f"pixels are not normalized ({title} is expected)", "all preprocessing applied before the file", want)
    yield (
        f"mean and standard deviation are applied twice ({title} is expected)",
        "one of the two undone",
        lambda x: unit.undo(of_units.undo(unit(x))),
    )
    yield (
        f"the scale is missing, only the mean is subtracted ({title} is expected)",
        "the scale applied before the file",
        lambda x: x * want.scale,
    )
    for name, have in others.items():
        yield (
            f"pixels are normalized to {name} where {title} is expected",
            f"{title} in place of {name}",
            lambda x, have=have: have.undo(want(x)),  # type: ignore[misc]
        )


def output_hypotheses(scores: Sequence[str], *, batch_norm: bool) -> list[Hypothesis]:
    """Mistakes inside and after the network.

    Args:
        scores: names of the outputs with a score a class: ``logits``, ``probabilities``.
        batch_norm: whether the model has batch normalization.
    """
    found = []
    if "probabilities" in scores:
        found += [
            Hypothesis(
                "softmax",
                "the softmax is missing: the probabilities are logits",
                "a softmax after them",
                "export the model with its softmax, or let export_model add it",
                outputs=lambda out, _: {**out, "probabilities": softmax(out["probabilities"].astype(np.float64), axis=-1)},
            ),
            Hypothesis(
                "softmax",
                "the softmax is applied twice",
                "one softmax undone",
                "remove one of the two: export_model adds one only where the model does not end in one",
                outputs=lambda out, _: {**out, "probabilities": undo_softmax(out["probabilities"])},
            ),
        ]
    if "logits" in scores:
        found.append(
            Hypothesis(
                "softmax",
                "the logits are probabilities already",
                "the softmax undone",
                "export the model up to its logits; the probabilities are a second output",
                outputs=lambda out, ref: {**out, "logits": _logits(out["logits"], ref.get("logits"))},
            )
        )
    if scores:
        found.append(
            Hypothesis(
                "classes",
                "the classes are in another order",
                "the classes put in order",
                "export weights and labels of the same model: labels in the order of the training",
                outputs=lambda out, ref: _reorder(out, ref, scores),
            )
        )
    if batch_norm:
        found += [
            Hypothesis(
                "batch norm",
                "batch normalization runs in training mode (answers depend on the other images of the batch)",
                "the statistics of the batch in Keras too",
                "export for inference: call the model with training=False",
                reference=TRAINING,
            ),
            Hypothesis(
                "batch norm",
                "batch normalization has the statistics of a new network (mean 0, variance 1)",
                "new statistics in Keras too",
                "export after loading all weights, including the moving mean and variance",
                reference=FRESH,
            ),
        ]
    return found


def undo_softmax(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities whose softmax these are: logarithms, shifted to sum to 1."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return np.asarray(logs + (1 - logs.sum(axis=-1, keepdims=True)) / logs.shape[-1])


def _logits(probabilities: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    """Logits with the reference's mean, which a softmax does not preserve; values that are no probabilities stay."""
    if not (probabilities.min() >= 0 and np.allclose(probabilities.sum(axis=-1), 1, atol=1e-3)):
        return probabilities
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    mean = 0.0 if reference is None else reference.mean(axis=-1, keepdims=True)
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True) + mean)


def _reorder(outputs: Outputs, reference: Outputs, scores: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs with the classes in the order whose scores (of up to 4,096 answers) are nearest to the reference's."""
    name = next((name for name in scores if name in reference), None)
    if name is None or outputs[name].shape != reference[name].shape or not np.isfinite(outputs[name]).all():
        return dict(outputs)
    ours, theirs = (
        values.reshape(-1, values.shape[-1])[:4096].astype(np.float64) for values in (reference[name], outputs[name])
    )
    order = linear_sum_assignment(np.abs(ours[:, :, None] - theirs[:, None, :]).mean(axis=0))[1]
    return {key: value[..., order] if key in scores else value for key, value in outputs.items()}
