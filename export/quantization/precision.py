"""Graphs of float32 to graphs of less: int8 by quantise–dequantise pairs, float16 by halving. Needs onnx and onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from kerascv_course.core.errors import CourseError

__all__ = ["CALIBRATION", "Float16Maker", "Int8Maker", "Layer", "Maker", "PrecisionError", "is_reduced"]

Kind = Literal["int8", "float16"]

#: Ways to find the range of an activation from calibration images: the smallest and largest value; all but one value in 100,000;
#: the range whose 8-bit histogram loses least information (Kullback–Leibler divergence).
CALIBRATION = ("minmax", "percentile", "entropy")

#: Operators with weights: what quantisation makes faster, and what may have to stay in float.
WEIGHTED = ("Conv", "Gemm", "MatMul")

#: Operators that are quantised: those with weights, and what lies between them, so that values stay in 8 bits on the way.
QUANTIZED = (
    *WEIGHTED,
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Pad", "Resize"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
)

#: Operators that only a quantised graph has.
_MARKS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}

#: Images run at once in calibration: bounds its memory, for every activation is kept until it is counted.
CALIBRATION_BATCH = 32


class PrecisionError(CourseError):
    """onnxruntime's tools cannot convert the graph; nothing was written."""


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    Attributes:
        node: its name in the graph.
        name: of the Keras layer it comes from, where its weights still tell; else the node's.
    """

    node: str
    name: str


class Maker:
    """Makes variants of one graph in which some layers stay in float32.

    Attributes:
        layers: what can stay in float, in the order of the graph.
    """

    layers: tuple[Layer, ...]

    def make(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """A converted graph, its metadata not yet written.

        Args:
            keep: nodes that stay in float32.
            only: of the layers convert this node alone, to see what it does by itself.
        """
        raise NotImplementedError


class Int8Maker(Maker):
    """Static int8: weights per channel, activations by ranges that were seen on calibration images.

    Args:
        path: file of float32 weights.
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

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }
        self.activations = QuantType.QInt8 if signed else QuantType.QUInt8
        with tempfile.TemporaryDirectory() as folder, _quietly("int8"):
            prepared = Path(folder) / "prepared.onnx"
            source = str(path.resolve())
            with contextlib.chdir(folder):  # shape inference that fails leaves its half-done model in the working directory
                try:
                    quant_pre_process(source, str(prepared))
                except Exception:  # where sizes are open: the tools raise many kinds
                    quant_pre_process(source, str(prepared), skip_symbolic_shape=True)
            self.proto = onnx.load(prepared)
            calibrator = create_calibrator(
                prepared, QUANTIZED, str(Path(folder) / "augmented.onnx"), methods[method], providers=["CPUExecutionProvider"]
            )
            for start in range(0, len(images), CALIBRATION_BATCH):
                calibrator.collect_data(_Batch(self.proto.graph.input[0].name, images[start : start + CALIBRATION_BATCH]))
            self.ranges = calibrator.compute_data()
        self.layers = _layers(self.proto.graph)
        self.outside = _before_the_first_layer(self.proto.graph)

    def make(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """See `Maker.make`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        with _quietly("int8"):
            quantizer = QDQQuantizer(
                copy,
                True,  # weights per channel
                False,  # all 8 bits of them
                QuantType.QInt8,
                self.activations,
                self.ranges,
                [only] if only else [],
                [*self.outside, *keep],
                list(QUANTIZED),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        result = quantizer.model.model
        _free_scores(result.graph)
        _shield(result.graph, [layer.node for layer in self.layers if layer.node in keep or only not in (None, layer.node)])
        return result


class Float16Maker(Maker):
    """Weights and activations in half precision; inputs and outputs keep their types.

    Args:
        path: file of float32 weights.
    """

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path)
        self.layers = _layers(self.proto.graph)
        self.outside = _before_the_first_layer(self.proto.graph)

    def make(self, *, keep: Collection[str] = (), only: str | None = None) -> onnx.ModelProto:
        """See `Maker.make`."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        if only:
            keep = [node.name for node in copy.graph.node if node.name != only]
        with _quietly("float16"):
            return convert_float_to_float16(copy, keep_io_types=True, node_block_list=[*self.outside, *keep])


def is_reduced(proto: onnx.ModelProto) -> bool:
    """Whether a graph is quantised, or holds float16 already."""
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    operators = {node.op_type for node in proto.graph.node}
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return bool(kinds & half or operators & _MARKS or any(name.startswith("QLinear") for name in operators))


class _Batch:
    """onnxruntime's CalibrationDataReader of one batch."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.feeds: dict[str, np.ndarray] | None = {name: images}

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The batch, then None."""
        feeds, self.feeds = self.feeds, None
        return feeds


def _layers(graph: onnx.GraphProto) -> tuple[Layer, ...]:
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(
        Layer(node.name, _layer_name(node, node.input[1]))
        for node in graph.node
        if node.op_type in WEIGHTED and node.input[1] in stored
    )


def _layer_name(node: onnx.NodeProto, weights: str) -> str:
    """The Keras layer in the path of a weight, which tf2onnx numbers: ``…/stem_conv_1/convolution/merged_input:0``."""
    named = [part for part in weights.split("/")[:-1] if re.fullmatch(r".+_\d+", part)]
    return named[-1].rsplit("_", 1)[0] if named else node.name


def _before_the_first_layer(graph: onnx.GraphProto) -> list[str]:
    """Nodes that no layer lies before: the preprocessing. Their values have ranges that 8 bits would only coarsen."""
    layers = {layer.node for layer in _layers(graph)}
    after: set[str] = set()
    outside = []
    for node in graph.node:
        if node.name in layers or after.intersection(node.input):
            after.update(node.output)
        else:
            outside.append(node.name)
    return outside


def _free_scores(graph: onnx.GraphProto) -> None:
    """Take out the pair behind a matrix product that no layer follows: scores in 8 bits would tie, and nothing gains from them.

    A convolution keeps its pair, without which it would not be run in 8 bits.
    """
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    leads = _leads_to_layers(graph)
    gone = []
    for quantize in graph.node:
        if quantize.op_type != "QuantizeLinear" or quantize.input[0] not in makers:
            continue
        maker, following = makers[quantize.input[0]], readers.get(quantize.output[0], [])
        if maker.op_type == "Conv" or len(following) != 1 or len(readers[quantize.input[0]]) != 1:
            continue
        dequantize = following[0]
        if dequantize.op_type == "DequantizeLinear" and dequantize.output[0] not in leads:
            maker.output[list(maker.output).index(quantize.input[0])] = dequantize.output[0]
            gone += [quantize, dequantize]
    for node in gone:
        graph.node.remove(node)


def _shield(graph: onnx.GraphProto, nodes: Collection[str]) -> None:
    """Keep layers in float32 against onnxruntime, which quantises the weights of a Conv or Gemm that stands between quantised tensors.

    (Its WeightBiasQuantization, of all optimisation levels, and with one scale for all channels.) It sees a layer, a Relu or Clip
    or none, and a QuantizeLinear: a LeakyRelu in their place, with a slope of 0 or 1, is as good and fuses into the layer as well.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
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


def _leads_to_layers(graph: onnx.GraphProto) -> set[str]:
    """Tensors that a layer is computed from."""
    leads: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in WEIGHTED or leads.intersection(node.output):
            leads.update(node.input)
    return leads


@contextlib.contextmanager
def _quietly(kind: str) -> Iterator[None]:
    """Hold back what onnxruntime's tools print and log, and make their errors ours."""
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
        raise PrecisionError(f"onnxruntime's tools cannot make an {kind} graph of this model: {why}") from error
    finally:
        root.setLevel(level)
