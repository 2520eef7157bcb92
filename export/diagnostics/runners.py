"""The file and its Keras model as the doctor runs them: any pixel values, every tensor inside, no trust in the contract."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from export.contract import Contract, ContractError, Preprocessing, parse_contract
from export.diagnostics.hypotheses import FRESH, TRAINING, Affine
from export.predictor import open_session
from export.serving import preprocess
from export.untrusted.screen import screen
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import COLORS, Filter, convert_image, resize_image
from kerascv_course.core.lazy import keras
from kerascv_course.core.progress import track

__all__ = ["BATCH", "BrokenFileError", "KerasReference", "LayerRecord", "RawGraph", "resize_images"]

#: Images a call of both sides: the same batches, because a file may wrongly depend on its batch.
BATCH = 64


class BrokenFileError(InputError):
    """The file breaks a rule of the format, or cannot be diagnosed."""


class RawGraph:
    """An ONNX file with one image input.

    Args:
        path: the file.

    Raises:
        BrokenFileError: not an ONNX model that runs, or its input is not a batch of images.
        ContractError: the file is missing.

    Attributes:
        model: the protobuf with its weights.
        contract: None where the file has no valid contract.
        complaint: why there is no contract.
        layout: ``NHWC`` or ``NCHW``, by the sizes of the graph's input.
        shape: (height, width, channels); None where open.
        dtype: ``uint8`` or ``float32``.
        batch: images a call, where the file has a fixed number; None: any.
        precision: ``int8`` or ``float16`` where the graph computes in them; None: float32.
        outputs: their names.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ContractError(f"no such file: {path}")
        try:
            screen(self.path)  # before onnx follows references to other files
            self.model = _load(self.path)
            self._session = open_session(self.path)
        except ContractError as error:
            raise BrokenFileError(str(error)) from None
        self.contract: Contract | None = None
        self.complaint = ""
        try:
            metadata = {item.key: item.value for item in self.model.metadata_props}
            self.contract = parse_contract(metadata, what=str(path))
        except ContractError as error:
            self.complaint = str(error)
        self.outputs = [output.name for output in self._session.get_outputs()]
        self.precision = _precision(self.model.graph)
        self._read_input()
        self._float_session = self._session if self.dtype == "float32" else self._float_twin()

    def _read_input(self) -> None:
        inputs = self._session.get_inputs()
        sizes = [tuple(size if isinstance(size, int) else None for size in item.shape) for item in inputs]
        dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
        if len(inputs) != 1 or len(sizes[0]) != 4 or inputs[0].type not in dtypes:
            found = ", ".join(f"{item.name} {item.type} {list(item.shape)}" for item in inputs)
            raise BrokenFileError(
                f"only files with one image input of rank 4, uint8 or float32, can be diagnosed; found {found}"
            )
        self.input, self.dtype = inputs[0].name, dtypes[inputs[0].type]
        self.batch, *rest = sizes[0]
        self.layout = "NCHW" if rest[0] in (1, 3) and rest[2] not in (1, 3) else "NHWC"
        order = (1, 2, 0) if self.layout == "NCHW" else (0, 1, 2)
        self.shape: tuple[int | None, ...] = tuple(rest[axis] for axis in order)

    def _float_twin(self) -> onnxruntime.InferenceSession | None:
        """The same graph with floating-point input, for values that uint8 cannot hold; None where an operator takes only uint8."""
        twin = self._with_float_input()
        try:
            return _session(twin)
        except Exception:  # onnxruntime's exceptions share no base class
            return None

    def _with_float_input(self) -> onnx.ModelProto:
        twin = copy.deepcopy(self.model)
        image = next(value for value in twin.graph.input if value.name == self.input)
        image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del twin.graph.value_info[:]
        return twin

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs by name.

        Args:
            pixels: 0–255, uint8 or floating point (N, height, width, channels). A file of float32 input is fed the result of its
                contract's preprocessing (pixels / 255 without a contract).

        Raises:
            BrokenFileError: the graph cannot run on them.
        """
        values, session = pixels, self._session
        if self.dtype == "float32":
            values = self._preprocess(pixels)
        elif pixels.dtype != np.uint8:
            whole = np.rint(pixels).clip(0, 255)
            if np.array_equal(whole, pixels):
                values = whole.astype(np.uint8)
            elif self._float_session is None:
                raise BrokenFileError("the graph takes only uint8")
            else:
                values, session = pixels.astype(np.float32), self._float_session
        size = self.batch or BATCH
        starts = track(range(0, len(values), size), "running the file", "batches")
        batches = [self._call(session, values[i : i + size]) for i in starts]
        return {name: np.concatenate([batch[name] for batch in batches])[: len(values)] for name in self.outputs}

    def _call(self, session: onnxruntime.InferenceSession, values: np.ndarray) -> dict[str, np.ndarray]:
        if self.batch is not None:  # the last ones are repeated up to the fixed number
            values = values[np.minimum(np.arange(self.batch), len(values) - 1)]
        try:
            outputs = session.run(None, {self.input: self._in_layout(values)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BrokenFileError(f"{self.path} fails on images of {values.shape[1:]}: {_first_line(error)}") from None
        return dict(zip(self.outputs, map(np.asarray, outputs), strict=True))

    def _in_layout(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "NCHW" else values)

    def _preprocess(self, pixels: np.ndarray) -> np.ndarray:
        stated = self.contract.preprocessing if self.contract else None
        return preprocess(pixels, stated if stated and stated.mean is not None else Preprocessing("caller"))

    def tensors(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Every float tensor that a node computes for a few images, by name, in computing order."""
        exposed = copy.deepcopy(self.model) if self._float_session is None else self._with_float_input()
        del exposed.graph.value_info[:]
        present = {output.name for output in exposed.graph.output}
        names = [name for node in exposed.graph.node for name in node.output if name]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
        values = self._preprocess(pixels) if self.dtype == "float32" else pixels
        values = values.astype(np.uint8 if self._float_session is None else np.float32)
        found = _session(exposed, optimize=False).run(names, {self.input: self._in_layout(values)})
        return {
            name: value
            for name, value in zip(names, found, strict=True)
            if getattr(value, "dtype", None) in (np.float32, np.float16)
        }


def _precision(graph: onnx.GraphProto) -> str | None:
    """``int8`` or ``float16`` where a graph computes in them."""
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear") for node in graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return "float16" if half else None


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and the file system's errors share no base class
        raise BrokenFileError(
            f"an ONNX file must be a complete and valid ModelProto; {path} ({path.stat().st_size:,} bytes) is cut short, damaged or "
            f"something else: {_first_line(error)}"
        ) from None
    return model


def _session(model: onnx.ModelProto, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


# --- the Keras model --------------------------------------------------------------------------------------------------


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


class KerasReference:
    """A serving graph (`export.serving.serving_graph`).

    Args:
        serving: one input, named outputs.
        steps: preprocessing before it, where it takes floating point.

    Attributes:
        shape: (height, width, channels); None where open.
        outputs: their names, sorted.
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
        """Whether there is a batch-normalization layer."""
        return bool(self._norms)

    def run(self, pixels: np.ndarray, way: str | None = None) -> dict[str, np.ndarray]:
        """All outputs by name, in batches of `BATCH`.

        Args:
            pixels: uint8 (N, height, width, channels).
            way: None: inference; else a wrong way to run batch normalization (`export.diagnostics.hypotheses`).
        """
        with self._batch_norm(way):
            starts = track(range(0, len(pixels), BATCH), "running the Keras model", "batches")
            batches = [self._call(pixels[i : i + BATCH]) for i in starts]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _call(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        values = self.serving(pixels if self.takes_pixels else preprocess(pixels, self.steps), training=False)
        return {name: keras.ops.convert_to_numpy(value) for name, value in values.items()}

    def normalization(self) -> Affine | None:
        """What happens to pixels before the network: the first layer that rescales, or the preprocessing before the model."""
        if not self.takes_pixels:
            return Affine.of(self.steps, self.channels)
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
    def _batch_norm(self, way: str | None) -> Iterator[None]:
        """Run batch normalization in another way within the block; its weights are restored."""
        kept = [layer.get_weights() for layer in self._norms]
        trainable = [layer.trainable for layer in self._norms]
        try:
            for layer in self._norms:
                if way == FRESH:
                    layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
                    layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))
                elif way == TRAINING:
                    layer.trainable = True
                    _wrap(layer, lambda call, inputs, **options: call(inputs, **{**options, "training": True}))
            yield
        finally:
            for layer, weights, flag in zip(self._norms, kept, trainable, strict=True):
                _unwrap(layer)
                layer.trainable = flag
                layer.set_weights(weights)

    def record(self, pixels: np.ndarray) -> list[LayerRecord]:
        """Every call of a layer for a few images, in order."""
        records: list[LayerRecord] = []
        makers: dict[int, int] = {}
        alive = []  # the id of a freed tensor may be given to another

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
    """Call `around(call, …)` instead of a layer's own call; bypasses Keras's tracking of attributes."""
    call = layer.call
    object.__setattr__(layer, "call", lambda *args, **kwargs: around(call, *args, **kwargs))


def _unwrap(layer: keras.Layer) -> None:
    if "call" in vars(layer):
        object.__delattr__(layer, "call")


# --- images -----------------------------------------------------------------------------------------------------------


def fit_images(
    images: np.ndarray | Sequence[np.ndarray], first: Sequence[int | None], second: Sequence[int | None], filter: Filter
) -> np.ndarray:
    """Images of the size that both sides take, uint8 (N, height, width, channels).

    Args:
        images: uint8 (height, width, channels) each.
        first: (height, width, channels) of one side, None where open.
        second: of the other side.
        filter: resampling filter for images of other sizes.

    Raises:
        InputError: images of another type or shape.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in COLORS.values() or not image.size:
            raise InputError(f"images must be uint8 (height, width, 1 or 3); received {image.dtype} {image.shape}")
    height, width = (a if a is not None else b for a, b in zip(first[:2], second[:2], strict=True))
    if height is None or width is None:
        height, width = images[0].shape[:2]
    return resize_images(images, height, width, first[2] or 3, filter)


def resize_images(
    images: np.ndarray | Sequence[np.ndarray], height: int, width: int, channels: int | None, filter: Filter
) -> np.ndarray:
    """Images resized as `kerascv_course.core.images.read_image` does it, uint8 (N, height, width, channels)."""
    if isinstance(images, np.ndarray) and images.shape[1:] == (height, width, channels):
        return images
    converted = (convert_image(to_pillow(image), channels or 3) for image in images)
    return np.stack([resize_image(image, height, width, filter) for image in converted])


def to_pillow(image: np.ndarray) -> Image.Image:
    """A Pillow image of uint8 (height, width, 1 or 3)."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
