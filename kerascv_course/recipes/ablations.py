"""Ablations: switches of a recipe that change one thing each. ``python -m kerascv_course.ablate`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = ["ABLATIONS", "BASE", "Ablation", "get_ablation", "with_changes"]

#: Name of the unchanged recipe among the switches.
BASE = "base"


@dataclass(frozen=True)
class Ablation:
    """Changes of a recipe, one switch at a time.

    Attributes:
        switches: name of a switch to the fields that it changes, nested ones dotted (``optimizer.name``).
        source: report or paper.
    """

    switches: Mapping[str, Mapping[str, Any]]
    source: str


#: Report 001, task 3c. Its findings: batch norm helps most, then more filters, L2, dropout (on the test split only) and Adamax (in
#: speed); other filter sizes are slightly worse; augmentation and strides instead of pooling do not help.
_TDT4265 = Ablation(
    source="report 001, task 3c",
    switches={
        "batch-norm": {"model_options.norm": True},
        "more-filters": {"model_options.width": 2.0},
        "filter-3": {"model_options.filter_size": 3},
        "filter-7": {"model_options.filter_size": 7},
        "l2": {"model_options.l2": 1e-4},
        "dropout": {"model_options.dropout": 0.2},
        "augmentation": {"augmentation.flip": True, "augmentation.translate": 4},
        "strided-conv": {"model_options.downsampling": "strided_conv"},
        # with the report's learning rate (001, task 3)
        "adamax": {"optimizer.name": "adamax", "optimizer.learning_rate": 1e-3, "optimizer.momentum": 0.0},
    },
)

#: The regularization of the default recipe, in a minute.
_DIGITS = Ablation(
    source="the default recipe",
    switches={
        "no-dropout": {"model_options.dropout": 0.0},
        "no-augmentation": {"augmentation.translate": 0},
        "no-smoothing": {"classification.label_smoothing": 0.0},
        "constant-rate": {"schedule.name": "constant"},
    },
)

#: The components of fastnet. SGD has one learning rate for all layers.
_FASTNET = Ablation(
    source="Jordan 2024, section 5",
    switches={
        "no-whitening": {"model_options.whiten": False},
        "no-identity": {"model_options.identity": False},
        "relu": {"model_options.activation": "relu"},
        "sgd": {
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.2,
            "optimizer.momentum": 0.9,
            "optimizer.weight_decay": 5e-3,
            "optimizer.norm_rate": 0.0,
            "optimizer.head_rate": 0.0,
        },
        "norm-rate-as-others": {"optimizer.norm_rate": 0.24},
        "random-flip": {"augmentation.alternating_flip": False, "augmentation.flip": True},
        "no-translation": {"augmentation.translate": 0},
        "no-smoothing": {"classification.label_smoothing": 0.0},
        "no-tta": {"classification.tta": "none"},
        "float32": {"precision": "float32", "fused": False},
    },
)

#: The methods of hkust-triplet-best, each removed from all of them.
_IDENTITIES = Ablation(
    source="Luo et al. 2019, table 1",
    switches={
        "no-warm-up": {"schedule.warmup_epochs": 0.0},
        "no-smoothing": {"retrieval.label_smoothing": 0.0},
        "no-erasing": {"augmentation.erase": 0.0},
        "no-crops": {"augmentation.translate": 0},
        "last-stride-2": {"model": "resnet18"},
        "no-neck": {"retrieval.neck": False},
        "no-triplets": {"retrieval.triplet": "none", "retrieval.images_per_identity": 0},
        "no-centers": {"retrieval.center_weight": 0.0},
        "no-tta": {"retrieval.tta": "none"},
    },
)

#: Name of a recipe to its ablation.
ABLATIONS: Mapping[str, Ablation] = {
    "tdt4265-base": _TDT4265,
    "lenet5-digits": _DIGITS,
    "fastnet-cifar10-small": _FASTNET,
    "fastnet-cifar10": _FASTNET,
    "hkust-triplet-best": _IDENTITIES,
}


def get_ablation(recipe: str) -> Ablation:
    """The ablation of a recipe.

    Raises:
        UnknownNameError: the recipe has no ablation.
    """
    if recipe not in ABLATIONS:
        raise UnknownNameError("ablation of a recipe", recipe, ABLATIONS)
    return ABLATIONS[recipe]


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with changed fields, nested ones by dotted names; new options of the network are added.

    Raises:
        InputError: the recipe has no such field, or the values contradict each other.
    """
    # fields of one section are changed together, because they are checked together
    parts: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        part, _, name = path.rpartition(".")
        parts.setdefault(part, {})[name] = value
    changed = recipe
    for part, values in parts.items():
        changed = _changed(changed, part.split(".") if part else [], values)
    return changed


def _changed(value: Any, path: list[str], values: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {**value, **values} if not path else {**value, path[0]: _changed(value[path[0]], path[1:], values)}
    known = [field.name for field in fields(value)] if is_dataclass(value) else []
    for name in path[:1] or values:
        if name not in known:
            raise InputError(f"{type(value).__name__} has no field {name!r}; it has {', '.join(known)}")
    if path:
        values = {path[0]: _changed(getattr(value, path[0]), path[1:], values)}
    return replace(value, **values)
