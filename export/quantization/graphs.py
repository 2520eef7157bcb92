"""Float32 graphs to int8 (quantize–dequantize pairs) or float16 graphs, by onnxruntime's tools.

These are imported at first use, for they import PyTorch where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from kerascv_course.core.errors import CourseError

__all__ = ["CALIBRATION", "Float16Converter", "GraphConverter", "Int8Converter", "PrecisionError", "WeightedNode", "is_reduced"]

#: Ways to find the range of an activation, names of onnxruntime's CalibrationMethod: smallest and largest value; all but one value in
#: 100,000; the range whose 8-bit histogram loses least information (Kullback–Leibler divergence).
CALIBRATION = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}

#: Operators with weights: quantization speeds these up, and some of them may have to stay in float32.
WEIGHTED = ("Conv", "Gemm", "MatMul")

#: Operators to quantize: those with weights, and those between them, so that values stay in 8 bits on the way.
QUANTIZED = (
    *WEIGHTED,
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Pad", "Resize"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
)

#: Operators of quantized graphs only.
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}

#: Images a calibration run: bounds its memory, because every activation is kept until it is counted.
CALIBRATION_BATCH = 32


class PrecisionError(CourseError):
    """onnxruntime's tools cannot convert the graph; nothing was written."""


@dataclass(frozen=True)
class WeightedNode:
    """A node with weights.

    Attributes:
        node: its name in the graph.
        layer: name of its Keras layer where the weights still carry it, else the node's.
    """

    node: str
    layer: str


class GraphConverter(Protocol):
    """Converts one graph, optionally with some nodes left in float32.

    Attributes:
        nodes: those with weights, in the order of the graph.
    """

    nodes: tuple[WeightedNode, ...]

    def convert(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """A converted copy, without metadata.

        Args:
            keep: nodes that stay in float32.
            only: convert this node alone, to see its effect.
        """


class Int8Converter:
    """Static int8 (`GraphConverter`): weights per channel, activations by their ranges on calibration images.

    Args:
        path: file with float32 weights.
        images: calibration images as the file takes them, uint8 or float32 (N, …).
        method: one of `CALIBRATION`.
        signed: activations of −128 to 127 instead of 0 to 255.

    Raises:
        PrecisionError: the graph cannot be prepared or calibrated.
    """

    def __init__(self, path: Path, images: np.ndarray, *, method: str, signed: bool = False) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import create_calibrator
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.activations = QuantType.QInt8 if signed else QuantType.QUInt8
        with tempfile.TemporaryDirectory() as folder, _quiet_tools("int8"):
            prepared = Path(folder) / "prepared.onnx"
            source = str(path.resolve())
            with contextlib.chdir(folder):  # shape inference that fails leaves a half-done model in the working directory
                try:
                    quant_pre_process(source, str(prepared))
                except Exception:  # sizes are open; the tools raise many kinds of errors
                    quant_pre_process(source, str(prepared), skip_symbolic_shape=True)
            self.proto = onnx.load(prepared)
            augmented, calibration = str(Path(folder) / "augmented.onnx"), CalibrationMethod[CALIBRATION[method]]
            calibrator = create_calibrator(prepared, QUANTIZED, augmented, calibration, providers=["CPUExecutionProvider"])
            for start in range(0, len(images), CALIBRATION_BATCH):
                batch = {self.proto.graph.input[0].name: images[start : start + CALIBRATION_BATCH]}
                calibrator.collect_data(_DataReader(batch))
            self.ranges = calibrator.compute_data()
        self.nodes = _weighted_nodes(self.proto.graph)

    def convert(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """See `GraphConverter.convert`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with _quiet_tools("int8"):
            quantizer = QDQQuantizer(
                _copy(self.proto),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=self.activations,
                tensors_range=self.ranges,
                nodes_to_quantize=[only] if only else [],
                nodes_to_exclude=[*_preprocessing_nodes(self.proto.graph), *keep],
                op_types_to_quantize=list(QUANTIZED),
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        result = quantizer.model.model
        _leave_scores_in_float(result.graph)
        _shield(result.graph, [node.node for node in self.nodes if node.node in keep or only not in (None, node.node)])
        return result


class Float16Converter:
    """Weights and activations in half precision (`GraphConverter`); inputs and outputs keep their types.

    Args:
        path: file with float32 weights.
    """

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path)
        self.nodes = _weighted_nodes(self.proto.graph)

    def convert(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """See `GraphConverter.convert`."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        if only:
            keep = [node.name for node in self.proto.graph.node if node.name != only]
        blocked = [*_preprocessing_nodes(self.proto.graph), *keep]
        with _quiet_tools("float16"):
            return convert_float_to_float16(_copy(self.proto), keep_io_types=True, node_block_list=blocked)


def is_reduced(proto: onnx.ModelProto) -> bool:
    """Whether a graph is quantized, or holds float16 values."""
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    operators = {node.op_type for node in proto.graph.node}
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return bool(kinds & half or operators & QUANTIZERS or any(name.startswith("QLinear") for name in operators))


class _DataReader:
    """onnxruntime's CalibrationDataReader of one batch."""

    def __init__(self, feeds: dict[str, np.ndarray]) -> None:
        self._feeds = iter([feeds])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The batch, then None."""
        return next(self._feeds, None)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _weighted_nodes(graph: onnx.GraphProto) -> tuple[WeightedNode, ...]:
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(
        WeightedNode(node.name, _layer_name(node))
        for node in graph.node
        if node.op_type in WEIGHTED and node.input[1] in stored
    )


def _layer_name(node: onnx.NodeProto) -> str:
    """The Keras layer in the path of a weight, which tf2onnx numbers: ``…/stem_conv_1/convolution/merged_input:0``."""
    named = [part for part in node.input[1].split("/")[:-1] if re.fullmatch(r".+_\d+", part)]
    return named[-1].rsplit("_", 1)[0] if named else str(node.name)


def _preprocessing_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes before any weights. 8 bits would only coarsen their values."""
    weighted = {node.node for node in _weighted_nodes(graph)}
    after: set[str] = set()
    found = []
    for node in graph.node:
        if node.name in weighted or after.intersection(node.input):
            after.update(node.output)
        else:
            found.append(node.name)
    return found


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor name to the nodes that read it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _leave_scores_in_float(graph: onnx.GraphProto) -> None:
    """Remove the quantization after a matrix product that no weighted node follows: 8-bit scores would tie, and nothing gets faster.

    A convolution keeps its pair, without which it would not run in 8 bits.
    """
    makers = {name: node for node in graph.node for name in node.output}
    readers = _readers(graph)
    before_weights: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in WEIGHTED or before_weights.intersection(node.output):
            before_weights.update(node.input)
    removed = []
    for quantize in graph.node:
        if quantize.op_type != "QuantizeLinear" or quantize.input[0] not in makers:
            continue
        maker, following = makers[quantize.input[0]], readers.get(quantize.output[0], [])
        if maker.op_type == "Conv" or len(following) != 1 or len(readers[quantize.input[0]]) != 1:
            continue
        dequantize = following[0]
        if dequantize.op_type == "DequantizeLinear" and dequantize.output[0] not in before_weights:
            maker.output[list(maker.output).index(quantize.input[0])] = dequantize.output[0]
            removed += [quantize, dequantize]
    for node in removed:
        graph.node.remove(node)


def _shield(graph: onnx.GraphProto, nodes: Collection[str]) -> None:
    """Keep nodes in float32 against onnxruntime, which quantizes the weights of a Conv or Gemm between quantized tensors.

    (Its WeightBiasQuantization, at all optimization levels, with one scale for all channels.) It looks for a weighted node, an
    optional Relu or Clip, and a QuantizeLinear. A LeakyRelu with slope 0 or 1 in their place is equivalent, and fuses just as well.
    """
    readers = _readers(graph)
    outputs = {value.name for value in graph.output}
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.name not in nodes or node.output[0] in outputs:
            continue
        output, following = node.output[0], readers.get(node.output[0], [])
        if len(following) == 1 and following[0].op_type == "Relu":
            following[0].op_type = "LeakyRelu"
            following[0].attribute.append(onnx.helper.make_attribute("alpha", 0.0))
        else:
            node.output[0] = f"{output}_float32"
            same = onnx.helper.make_node("LeakyRelu", [node.output[0]], [output], f"{node.name}_float32", alpha=1.0)
            graph.node.insert(position + 1, same)


@contextlib.contextmanager
def _quiet_tools(kind: str) -> Iterator[Any]:
    """Suppress what onnxruntime's tools print and log, and turn their errors into ours."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except CourseError:
        raise
    except Exception as error:  # the tools raise many kinds
        why = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise PrecisionError(f"onnxruntime's tools cannot convert this model to {kind}: {why}") from error
    finally:
        root.setLevel(level)
