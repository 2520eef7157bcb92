"""Transfer learning: weights from elsewhere, and layers that keep them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascv_course import models
from kerascv_course.core.errors import UnknownNameError

__all__ = ["freeze_before", "load_all_but_head", "stated_normalization", "warn_of_normalization"]

log = logging.getLogger(__name__)


IMAGENET = "imagenet"

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def load_all_but_head(network: keras.Model, source: str, name: str = "", *, has_head: bool = True) -> None:
    """Load weights into a network, all but those of its last layer, which may differ in shape or be absent and is then left as it is.

    Args:
        network: receives the weights, in place.
        source: as `kerascv_course.models.weights.load_weights` takes it; or ``"imagenet"``: those that Keras has for a network of
            keras.applications, which it downloads once.
        name: of the network, as `kerascv_course.create_model` takes it; for ``"imagenet"``.
        has_head: its last layer is one; otherwise every layer needs its weights.

    Raises:
        InputError: another layer has no entry in the source or one of another shape, or the source has weights of further layers
            that are no head: it belongs to another network.
        DataError: a source that is missing, damaged or cannot be downloaded.
    """
    if source == IMAGENET:
        donor = models.create_model(name, weights=IMAGENET)
        with tempfile.TemporaryDirectory() as folder:
            donor.save(path := Path(folder) / "imagenet.keras")
            load_all_but_head(network, str(path), has_head=has_head)
        return
    models.load_all_but_head(network, source, has_head=has_head)


def warn_of_normalization(source: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Log a warning if the weights state another input normalization than the recipe has; both are for pixels scaled to 0–1."""
    stated = stated_normalization(source)
    if stated is None:
        return
    ours = (tuple(mean), tuple(std))
    channels = max(map(len, (*stated, *ours)))
    if not all(
        np.allclose(np.broadcast_to(a, channels), np.broadcast_to(b, channels), atol=1e-3)
        for a, b in zip(stated, ours, strict=True)
    ):
        log.warning(
            "the weights in %s were trained with the normalization mean %s, std %s; this recipe has mean %s, std %s: give "
            "--data.normalize-mean and --data.normalize-std",
            source,
            *(" ".join(f"{value:g}" for value in values) for values in (*stated, *ours)),
        )


def stated_normalization(source: str) -> Normalization | None:
    """Mean and standard deviation that weights state: the recipe of the run they are in, a model card's ``config.json`` beside the file
    (``pretrained_cfg``, as timm writes it), or the metadata of a .safetensors file; None if nothing is stated."""
    path = Path(source)
    if path.is_dir():
        path = path / "best.keras"
    for place, read in ((path.with_name("recipe.json"), _from_recipe), (path.with_name("config.json"), _from_model_card)):
        if path.is_file() and place.is_file() and place.stat().st_size < MAX_CARD:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return read(json.loads(place.read_bytes()))
    if path.suffix == ".safetensors" and path.is_file():
        return _from_text(" ".join(_metadata(path).values()))
    return None


#: Bytes of a model card, and of a .safetensors header, that are read.
MAX_CARD = 2**20


def _from_recipe(plain: Mapping[str, Any]) -> Normalization:
    return tuple(map(float, plain["data"]["normalize_mean"])), tuple(map(float, plain["data"]["normalize_std"]))


def _from_model_card(plain: Mapping[str, Any]) -> Normalization:
    card = plain.get("pretrained_cfg", plain)
    return tuple(map(float, card["mean"])), tuple(map(float, card["std"]))


def _from_text(text: str) -> Normalization | None:
    """From words such as ``(x/255 - [0.485,0.456,0.406]) / [0.229,0.224,0.225]``."""
    found = re.search(r"/\s*255\s*[-−]\s*\[([\d., ]+)\]\s*\)\s*/\s*\[([\d., ]+)\]", text)
    if not found:
        return None
    mean, std = (tuple(float(value) for value in group.split(",")) for group in found.groups())
    return mean, std


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file: a JSON header after its length, 8 bytes little-endian."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_CARD:
            return {}
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return {}
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def freeze_before(network: keras.Model, first: str) -> None:
    """Freeze all layers before one: weights stay, and batch norms use their kept statistics as in inference (Keras's `trainable`).

    Args:
        network: its layers are frozen in place.
        first: name of the first layer that learns.

    Raises:
        UnknownNameError: no such layer; the nearest names are shown.
    """
    names = [layer.name for layer in network.layers]
    if first not in names:
        raise UnknownNameError(f"layer of {network.name}", first, names)
    for layer in network.layers[: names.index(first)]:
        layer.trainable = False
