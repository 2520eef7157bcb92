"""What usually goes wrong between a Keras model and its file, each as a small change that undoes it.

A suspect changes the pixels that the file is fed, or what is read from its outputs, or how the reference is run. It is the culprit
when the file agrees with the reference once the change is made. Where a file normalises like F and should have normalised like W, it
is fed F⁻¹(W(pixels)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.contract import Preprocessing

__all__ = [
    "Affine",
    "Outputs",
    "Suspect",
    "affine",
    "matching_classes",
    "output_suspects",
    "pixel_suspects",
    "reference_suspects",
    "softmax",
    "undo_softmax",
]

Outputs = Mapping[str, np.ndarray]

#: Preprocessing that networks are commonly trained with, by what it is called.
COMMON = {
    "pixels of 0–255": Preprocessing("graph", scale=1.0),
    "pixels scaled to 0–1": Preprocessing("graph"),
    "pixels scaled to −1…1": Preprocessing("graph", mean=(0.5,), std=(0.5,)),
    "ImageNet's mean and deviation": Preprocessing("graph", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "pixels less ImageNet's mean": Preprocessing("graph", scale=1.0, mean=(123.68, 116.779, 103.939)),
}

#: How a batch-norm layer may wrongly be run: see `export.diagnostics.reference`.
TRAINING, FRESH = "batch statistics", "fresh statistics"


@dataclass(frozen=True, eq=False)
class Affine:
    """``pixel · scale + offset``, one value a channel."""

    scale: np.ndarray
    offset: np.ndarray

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The values for some pixels, float64."""
        return pixels.astype(np.float64) * self.scale + self.offset

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The pixels that give these values."""
        return (values - self.offset) / self.scale


def affine(steps: Preprocessing, channels: int) -> Affine:
    """What preprocessing does to each channel of pixels of 0–255, in the order that they are fed in."""
    mean, std = (
        np.broadcast_to(np.asarray(values or (default,), np.float64), (channels,))
        for values, default in ((steps.mean, 0.0), (steps.std, 1.0))
    )
    if steps.channels == "BGR":
        mean, std = mean[::-1], std[::-1]
    return Affine(steps.scale / std, -mean / std)


@dataclass(frozen=True)
class Suspect:
    """One thing that may be wrong.

    Attributes:
        kind: ``channels``, ``range``, ``normalisation``, ``layout``, ``softmax``, ``classes`` or ``batch norm``; of each kind, one is
            tried at a time.
        name: what the file does, a clause.
        undone: what was changed in the trial, after "with".
        remedy: what to do about it.
        pixels: the file is fed this.
        outputs: its outputs are read so, given the reference's.
        reference: way of running the reference that the file agrees with.
    """

    kind: str
    name: str
    undone: str
    remedy: str
    pixels: Callable[[np.ndarray], np.ndarray] | None = None
    outputs: Callable[[Outputs, Outputs], dict[str, np.ndarray]] | None = None
    reference: str | None = None


def pixel_suspects(shape: Sequence[int], wanted: Mapping[str, Affine], stated: Preprocessing | None = None) -> list[Suspect]:
    """What may be wrong before the network.

    Args:
        shape: (height, width, channels) of the pictures.
        wanted: the normalisation that the network was trained with, or those that it may have been, by name.
        stated: what the file says that it does.
    """
    height, width, channels = shape
    found = []
    if channels == 3:
        found.append(
            Suspect(
                "channels",
                "red and blue have changed places (RGB against BGR)",
                "the channels swapped",
                "feed the channels in the other order, or export with the order that the network was trained with",
                pixels=lambda x: x[..., ::-1],
            )
        )
    found += [
        Suspect(
            "range",
            "pixels are divided by 255 once too often (0–255 is expected, 0–1 arrives)",
            "pixels multiplied by 255",
            "divide by 255 once: either before the file or inside it",
            pixels=lambda x: x * 255.0,
        ),
        Suspect(
            "range",
            "pixels are not divided by 255 (0–1 is expected, 0–255 arrives)",
            "pixels divided by 255",
            "put the division by 255 into the graph: export with input_dtype='uint8', or preprocessing as it was trained",
            pixels=lambda x: x / 255.0,
        ),
    ]
    found += _normalisations(channels, wanted, stated)
    found += [
        Suspect(
            "layout",
            "the pixels of an NHWC picture are read as if they were NCHW (reshaped, not transposed)",
            "the pixels laid out as NCHW",
            "transpose (0, 3, 1, 2) where the graph or its caller reshapes",
            pixels=lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
        ),
        Suspect(
            "layout",
            "the pixels of an NCHW picture are read as if they were NHWC (reshaped, not transposed)",
            "the pixels laid out the other way",
            "transpose (0, 2, 3, 1) where the graph or its caller reshapes",
            pixels=lambda x: x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1),
        ),
    ]
    if channels == 1:
        found = [suspect for suspect in found if suspect.kind != "layout"]
    if height == width:
        found.append(
            Suspect(
                "layout",
                "rows and columns have changed places",
                "rows and columns swapped",
                "feed (height, width), rows first: Pillow gives sizes as (width, height)",
                pixels=lambda x: x.transpose(0, 2, 1, 3),
            )
        )
    return found


def _normalisations(channels: int, wanted: Mapping[str, Affine], stated: Preprocessing | None) -> Iterable[Suspect]:
    """Each other thing that may have been done to the pixels; two names for one change would be two culprits."""
    remedy = "export with the preprocessing that the network was trained with, once, inside the graph"
    probe = np.linspace(0, 255, 5)[:, None, None, None] * np.ones(channels)
    seen = [probe]
    others = {name: steps for name, steps in COMMON.items() if len(steps.mean or ()) in (1, channels)}
    if stated is not None and stated.mean is not None:
        others["what its contract says"] = stated
    for title, want in wanted.items():
        for name, undone, change in _changes(title, want, {name: affine(steps, channels) for name, steps in others.items()}):
            result = change(probe)
            if not any(np.allclose(result, other) for other in seen):
                seen.append(result)
                yield Suspect("normalisation", name, undone, remedy, pixels=change)


def _changes(
    title: str, want: Affine, others: Mapping[str, Affine]
) -> Iterable[tuple[str, str, Callable[[np.ndarray], np.ndarray]]]:
    """What the file may do where `want` is wanted: in words, what undoes it in words, and what undoes it."""
    unit = others["pixels scaled to 0–1"]
    of_units = Affine(want.scale * 255, want.offset)
    yield (
        f"mean and standard deviation are missing ({title} is wanted)",
        "mean and deviation put before the file",
        lambda x: unit.undo(want(x)),
    )
    yield (f"nothing is done to the pixels ({title} is wanted)", "the whole preprocessing put before the file", want)
    yield (
        f"mean and standard deviation are applied twice ({title} is wanted)",
        "one of the two undone",
        lambda x: unit.undo(of_units.undo(unit(x))),
    )
    yield (
        f"the scale is missing, only the mean is taken off ({title} is wanted)",
        "the scale put before the file",
        lambda x: x * want.scale,
    )
    for name, have in others.items():
        yield (
            f"it normalises to {name} where {title} is wanted",
            f"{title} in place of {name}",
            lambda x, have=have: have.undo(want(x)),  # type: ignore[misc]
        )


def output_suspects(scores: Sequence[str], probabilities: Sequence[str]) -> list[Suspect]:
    """What may be wrong after the network.

    Args:
        scores: names of the outputs with a score a class.
        probabilities: those among them that should be probabilities.
    """
    found = []
    raw = [name for name in scores if name not in probabilities]
    if probabilities:
        found += [
            Suspect(
                "softmax",
                "the softmax is missing: the probabilities are logits",
                "a softmax after them",
                "export the model with its softmax, or let export_model add it",
                outputs=lambda out, _: {**out, **{name: softmax(out[name]) for name in probabilities}},
            ),
            Suspect(
                "softmax",
                "the softmax is applied twice",
                "one softmax undone",
                "take one of the two out: export_model adds one only where the model does not end in one",
                outputs=lambda out, _: {**out, **{name: undo_softmax(out[name]) for name in probabilities}},
            ),
        ]
    if raw:
        found.append(
            Suspect(
                "softmax",
                "the logits are probabilities already",
                "the softmax undone",
                "export the model up to its logits; the probabilities are a second output",
                outputs=lambda out, ref: {**out, **{name: _logits(out[name], ref.get(name)) for name in raw}},
            )
        )
    found.append(
        Suspect(
            "classes",
            "the classes stand in another order",
            "the classes put in order",
            "export with the weights and labels of one and the same model: labels in the order that it was trained with",
            outputs=lambda out, ref: _reorder(out, ref, scores),
        )
    )
    return found


def reference_suspects() -> list[Suspect]:
    """What may be wrong with batch normalisation."""
    return [
        Suspect(
            "batch norm",
            "batch normalisation runs in training mode (answers depend on the other pictures of the batch)",
            "the statistics of the batch in Keras too",
            "export for inference: call the model with training=False",
            reference=TRAINING,
        ),
        Suspect(
            "batch norm",
            "batch normalisation has the statistics of a fresh network (mean 0, variance 1)",
            "fresh statistics in Keras too",
            "export after loading all weights, the moving mean and variance included",
            reference=FRESH,
        ),
    ]


# --- arithmetic -------------------------------------------------------------------------------------------------------


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    values = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def undo_softmax(probabilities: np.ndarray) -> np.ndarray:
    """The probabilities whose softmax was taken: their logarithms, moved so that they sum to 1."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return logs + (1 - logs.sum(axis=-1, keepdims=True)) / logs.shape[-1]


def _logits(probabilities: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    """Logits up to a constant, which is the reference's: a softmax forgets it."""
    if not (probabilities.min() >= 0 and np.allclose(probabilities.sum(axis=-1), 1, atol=1e-3)):
        return probabilities
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    middle = 0.0 if reference is None else reference.mean(axis=-1, keepdims=True)
    return logs - logs.mean(axis=-1, keepdims=True) + middle


def matching_classes(outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """For each class of the reference, the class of the file whose scores are nearest, each taken once.

    Args:
        outputs: (…, classes) of the file.
        reference: the same of the reference.
    """
    from scipy.optimize import linear_sum_assignment

    ours, theirs = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (reference, outputs))
    ours, theirs = ours[:4096], theirs[:4096]
    costs = np.abs(ours[:, :, None] - theirs[:, None, :]).mean(axis=0)
    return linear_sum_assignment(costs)[1]


def _reorder(outputs: Outputs, reference: Outputs, scores: Sequence[str]) -> dict[str, np.ndarray]:
    name = next((name for name in scores if name in reference), None)
    if name is None or outputs[name].shape != reference[name].shape or not np.isfinite(outputs[name]).all():
        return dict(outputs)
    order = matching_classes(outputs[name], reference[name])
    return {key: value[..., order] if key in scores else value for key, value in outputs.items()}
