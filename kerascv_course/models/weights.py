"""Load weights from elsewhere into a Keras model: names, layouts, and a report of what fitted."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.tables import text_table
from kerascv_course.models.registry import list_registered, model_spec
from kerascv_course.models.weight_files import Arrays, read_source

__all__ = ["LoadedEntry", "LoadingReport", "MismatchedEntry", "load_all_but_head", "load_weights"]

#: Names of a layer's variables in PyTorch.
_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
#: The name of a depthwise convolution's kernel in older versions of Keras.
_ALIASES = {"kernel": ("depthwise_kernel",)}
#: First parts of names that wrappers put before a network's own.
WRAPPERS = ("module", "backbone", "encoder", "model", "resnet")
#: First parts of the names of heads and auxiliary classifiers in published weights.
_HEADS = ("fc", "head", "heads", "classifier", "last_linear", "logits", "predictions", "aux", "aux1", "aux2", "AuxLogits")
#: Layers of our own retrieval models above the network, which weights to start from may contain.
_RETRIEVAL_HEADS = ("projection", "neck", "cosines", "center_distances")
#: Names in transformers' ResNet, after its prefix, and in torchvision's; a file with the mark has such names.
_TRANSFORMERS_MARK = "embedder.embedder."
_TRANSFORMERS: tuple[tuple[str, Any], ...] = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^(?:encoder\.)?stages\.(\d)\.layers\.(\d+)\.", lambda match: f"layer{int(match[1]) + 1}.{match[2]}."),
    (r"^(layer\d\.\d+)\.layer\.(\d)\.convolution\.", lambda match: f"{match[1]}.conv{int(match[2]) + 1}."),
    (r"^(layer\d\.\d+)\.layer\.(\d)\.normalization\.", lambda match: f"{match[1]}.bn{int(match[2]) + 1}."),
    (r"^(layer\d\.\d+)\.shortcut\.convolution\.", r"\1.downsample.0."),
    (r"^(layer\d\.\d+)\.shortcut\.normalization\.", r"\1.downsample.1."),
    (r"^classifier\.1\.(weight|bias)$", r"fc.\1"),
)
_SHOWN = 12

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedEntry:
    """A variable that was loaded.

    Attributes:
        variable: ``layer/variable`` of the model.
        entry: its name in the source.
        shape: in Keras's layout.
    """

    variable: str
    entry: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MismatchedEntry:
    """A variable whose entry has another shape.

    Attributes:
        variable: ``layer/variable`` of the model.
        entry: its name in the source.
        expected: shape of the variable.
        found: shape of the entry, in Keras's layout if it could be converted.
    """

    variable: str
    entry: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True)
class LoadingReport:
    """What `load_weights` did; ``str(report)`` is a table.

    Attributes:
        source: file or hub name.
        loaded: variables that were loaded.
        missing: variables without an entry in the source.
        unexpected: entries without a variable in the model; they are not used.
        mismatched: variables whose entry has another shape; they keep their values.
        ignored: entries that are not weights, such as PyTorch's batch counters.
        prefix: a prefix that all entries had in common and that was removed, such as ``backbone.``; else empty.
    """

    source: str
    loaded: tuple[LoadedEntry, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[MismatchedEntry, ...] = ()
    ignored: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def complete(self) -> bool:
        """Every variable has its entry and every entry its variable."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{self.source}: {len(self.loaded)} loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} of another shape" + (f", without the prefix {self.prefix!r}" if self.prefix else "")
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """One line per entry or variable that did not fit."""
        return (
            *(f"missing      {name}" for name in self.missing),
            *(f"unexpected   {name}" for name in self.unexpected),
            *(
                f"other shape  {one.variable} is {_shape(one.expected)}, {one.entry} is {_shape(one.found)}"
                for one in self.mismatched
            ),
        )

    def __str__(self) -> str:
        rows = [("loaded", one.variable, one.entry, _shape(one.shape)) for one in self.loaded]
        rows += [
            ("other shape", one.variable, one.entry, f"{_shape(one.expected)}, found {_shape(one.found)}")
            for one in self.mismatched
        ]
        rows += [("missing", name, "", "") for name in self.missing]
        rows += [("unexpected", "", name, "") for name in self.unexpected]
        return f"{text_table(('state', 'variable', 'entry', 'shape'), rows, align='llll')}\n{self.summary}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def load_weights(model: Any, source: str | Path, *, strict: bool = True) -> LoadingReport:
    """Load weights into a model.

    Entries are found by name: for registered networks the names of torchvision, timm and transformers' ResNet, else ``<layer>.weight``
    (PyTorch's layout) or ``<layer>/kernel`` (Keras's layout). A wrapper's prefix that all entries share, such as ``module.`` or
    ``backbone.``, is removed. Entries may be of any float type; they are cast to the variable's. PyTorch's layout is converted:
    convolutions (out, in, h, w) to (h, w, in, out), dense layers (out, in) to (in, out), with inputs reordered to (row, column,
    channel) after a flattened map.

    Args:
        model: a Keras model; a registered network is recognized by the model's name.
        source: a .safetensors, .npz, .weights.h5 or .keras file, or a hub name such as ``"timm/resnet18.tv_in1k"`` (extra
            ``[pretrained]``). Pretrained networks expect the input normalization of their model card.
        strict: raise, without changing the model, unless every entry fits; False: load what fits.

    Returns:
        The report: loaded, missing, unexpected and mismatched entries.

    Raises:
        InputError: `strict` and something does not fit, or nothing fits at all; or an unsupported kind of source.
        DataError: the source is missing or damaged, or the hub cannot be reached.
    """
    arrays, ignored, prefix = _weights_only(read_source(source))
    names = _torch_names(model)
    loaded, missing, mismatched = [], [], []
    values = []
    used: set[str] = set()
    for layer in _layers(model):
        for index, variable in enumerate(layer.weights):
            label = f"{layer.name}/{variable.name}"
            found = _find(arrays, layer, variable.name, index, names.get(layer.name, ()))
            if found is None:
                missing.append(label)
                continue
            entry, torch_layout = found
            used.add(entry)
            value = arrays[entry]
            if torch_layout:
                value = _from_torch(layer, variable.name, value)
            shape = tuple(variable.shape)
            if value.shape == shape:
                loaded.append(LoadedEntry(label, entry, shape))
                values.append((variable, value))
            else:
                mismatched.append(MismatchedEntry(label, entry, shape, value.shape))
    unexpected = tuple(entry for entry in arrays if entry not in used)
    report = LoadingReport(str(source), tuple(loaded), tuple(missing), unexpected, tuple(mismatched), ignored, prefix)

    if not loaded or (strict and not report.complete):
        shown = report.problems[:_SHOWN]
        more = [f"… and {len(report.problems) - _SHOWN} more"] if len(report.problems) > _SHOWN else []
        advice = "strict=False loads what fits" if loaded else "no entry fits: these are the weights of another network"
        raise InputError("\n  ".join([f"the weights do not fit {model.name}: {report.summary}; {advice}", *shown, *more]))
    for variable, value in values:
        variable.assign(value.astype(variable.dtype) if value.dtype != variable.dtype else value)
    log.info("%s", report.summary)
    return report


def load_all_but_head(network: Any, source: str | Path, *, has_head: bool = True) -> LoadingReport:
    """Load weights into a network, all but those of its last layer, which may differ in shape or be absent and is then left as it is.

    Args:
        network: receives the weights, in place.
        source: as `load_weights` takes it.
        has_head: its last layer is one; otherwise every layer needs its weights.

    Returns:
        The report of `load_weights`.

    Raises:
        InputError: another layer has no entry in the source or one of another shape, or the source has weights of further layers
            that are no head: it belongs to another network.
        DataError: a source that is missing, damaged or cannot be downloaded.
    """
    report = load_weights(network, source, strict=False)
    head = [layer for layer in network.layers if layer.weights][-1].name if has_head else None
    missing = [name for name in report.missing if name.split("/")[0] != head]
    mismatched = [entry.variable for entry in report.mismatched if entry.variable.split("/")[0] != head]
    left_over = [entry for entry in report.unexpected if re.split(r"[./]", entry)[0] not in (*_HEADS, *_RETRIEVAL_HEADS, head)]
    if problems := [*missing, *mismatched, *left_over]:
        rule = f"may differ in the last layer ({head}) only" if head else "must have the network's shapes"
        shown = ", ".join(problems[:3]) + (" …" if len(problems) > 3 else "")
        raise InputError(
            f"weights to start from {rule}; {report.summary}, among them {shown}: {source} belongs to another network than "
            f"{network.name}"
        )
    if report.prefix:
        log.info("the weights in %s have the prefix %r, which is ignored", source, report.prefix)
    if report.mismatched or report.missing:
        state = "another shape there" if report.mismatched else "no weights for it"
        log.warning("the last layer, %s, is initialized randomly: %s has %s", head, source, state)
    return report


def _weights_only(arrays: Arrays) -> tuple[Arrays, tuple[str, ...], str]:
    """The weights by torchvision's names, the entries that are none (counters, random states), and a wrapper's prefix."""
    ignored = tuple(name for name in arrays if name.endswith("num_batches_tracked") or name.startswith("seed_generator"))
    weights = {name: array for name, array in arrays.items() if name not in ignored}
    removed = ""
    while weights and (wrapper := _common_wrapper(weights)):
        removed += wrapper
        weights = {name.removeprefix(wrapper): array for name, array in weights.items()}
    if any(name.startswith(_TRANSFORMERS_MARK) for name in weights):
        weights = {_torchvision_name(name): array for name, array in weights.items()}
    return weights, tuple(name.removeprefix(removed) for name in ignored), removed


def _common_wrapper(weights: Arrays) -> str:
    """A prefix in `WRAPPERS` that all entries have, but for those of a head beside it."""
    wrappers = {f"{name.split('.')[0]}." for name in weights if name.split(".")[0] not in _HEADS}
    (wrapper,) = wrappers if len(wrappers) == 1 else ("",)
    return wrapper if wrapper.removesuffix(".") in WRAPPERS else ""


def _torchvision_name(name: str) -> str:
    """A name of transformers' ResNet as torchvision's."""
    for pattern, replacement in _TRANSFORMERS:
        name = re.sub(pattern, replacement, name)
    return name


def _torch_names(model: Any) -> Mapping[str, Sequence[str]]:
    if model.name not in list_registered():
        return {}
    names = model_spec(model.name).torch_names
    return names(model) if names else {}


def _layers(model: Any) -> Iterator[Any]:
    """Layers with variables of their own, including those of nested models."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        elif layer.weights:
            yield layer


def _find(arrays: Arrays, layer: Any, variable: str, index: int, prefixes: Sequence[str]) -> tuple[str, bool] | None:
    """Name of a variable's entry, and whether it is in PyTorch's layout."""
    for name in (variable, *_ALIASES.get(variable, ()), str(index)):
        if (entry := f"{layer.name}/{name}") in arrays:
            return entry, False
    if variable in _TORCH:
        for prefix in (*prefixes, layer.name):
            if (entry := f"{prefix}.{_TORCH[variable]}") in arrays:
                return entry, True
    return None


# --- PyTorch's layout to Keras's --------------------------------------------------------------------------------------


def _from_torch(layer: Any, variable: str, value: np.ndarray) -> np.ndarray:
    """The array in Keras's layout; unchanged if its rank is not that of the layer's variable in PyTorch."""
    kind = type(layer).__name__
    if variable == "kernel":
        if kind == "DepthwiseConv2D" and value.ndim == 4:
            # (channels · multiplier, 1, h, w) -> (h, w, channels, multiplier)
            height, width, channels, multiplier = layer.kernel.shape
            if value.shape != (channels * multiplier, 1, height, width):
                return value
            return value.reshape(channels, multiplier, height, width).transpose(2, 3, 0, 1)
        if kind in ("Conv2D", "Conv2DTranspose") and value.ndim == 4:
            # (out, in, h, w) -> (h, w, in, out); transposed: (in, out, h, w) -> (h, w, out, in)
            return value.transpose(2, 3, 1, 0)
        if kind == "Dense" and value.ndim in (2, 4):
            # (out, in), or the same as a convolution over the whole map
            value = value.reshape(len(value), -1).T
    order = _flatten_order(layer)
    if order is not None and len(value) == len(order) and (kind == "BatchNormalization" or variable == "kernel"):
        return np.asarray(value[order])
    return value


def _flatten_order(layer: Any) -> np.ndarray | None:
    """For a layer on a flattened map: the index in PyTorch's order (channel, row, column) for each one of Keras's order."""
    source = layer
    while True:
        parents = source._inbound_nodes[0].input_tensors if source._inbound_nodes else []
        if len(parents) != 1:
            return None
        source = parents[0]._keras_history[0]
        kind = type(source).__name__
        if kind == "Flatten" and len(source.input.shape) == 4:
            height, width, channels = source.input.shape[1:]
            return np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        if kind not in ("Dropout", "ReLU", "Activation", "BatchNormalization"):
            return None
