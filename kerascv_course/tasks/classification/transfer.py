"""Transfer learning: weights from elsewhere, and layers that keep them."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import keras

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.models import create_model, load_weights

__all__ = ["freeze_before", "load_all_but_head"]

log = logging.getLogger(__name__)


IMAGENET = "imagenet"


def load_all_but_head(network: keras.Model, source: str, name: str = "", *, has_head: bool = True) -> None:
    """Load weights into a network; its last layer with weights may differ in shape, and then keeps its fresh ones.

    Args:
        network: changed in place.
        source: as `kerascv_course.models.weights.load_weights` takes it; or ``"imagenet"``: those that Keras has for a network of
            keras.applications, which it downloads once.
        name: of the network, as `kerascv_course.create_model` takes it; for ``"imagenet"``.
        has_head: its last layer is one; otherwise all shapes are the same.

    Raises:
        InputError: another layer has no entry in the source, or one of another shape.
        DataError: a source that is missing, damaged or cannot be fetched.
    """
    if source == IMAGENET:
        donor = create_model(name, weights=IMAGENET)
        with tempfile.TemporaryDirectory() as folder:
            donor.save(path := Path(folder) / "imagenet.keras")
            load_all_but_head(network, str(path), has_head=has_head)
        return
    report = load_weights(network, source, strict=False)
    head = [layer for layer in network.layers if layer.weights][-1]
    others = [entry.variable for entry in report.mismatched if not has_head or entry.variable.split("/")[0] != head.name]
    problems = [*report.missing, *others]
    if problems:
        rule = f"may differ in the last layer ({head.name}) alone" if has_head else "have the network's shapes"
        raise InputError(
            f"weights to start from {rule}; {report.summary}, among them {problems[0]}: {source} belongs to another network than "
            f"{network.name}"
        )
    if report.mismatched:
        log.info("%s has another shape there, and starts afresh", head.name)


def freeze_before(network: keras.Model, first: str) -> None:
    """Freeze all layers before one: weights stay, and batch norms use their kept statistics as in inference (Keras's `trainable`).

    Args:
        network: changed in place.
        first: name of the first layer that learns.

    Raises:
        UnknownNameError: no such layer; the nearest names are shown.
    """
    names = [layer.name for layer in network.layers]
    if first not in names:
        raise UnknownNameError(f"layer of {network.name}", first, names)
    for layer in network.layers[: names.index(first)]:
        layer.trainable = False
