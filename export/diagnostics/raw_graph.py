"""An ONNX file fed by hand: any pixel values, either layout, every tensor inside, and no trust in its contract."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.contract import Contract, ContractError, parse_contract
from export.predictor import open_session
from export.serving import preprocess
from export.untrusted.screen import screen
from kerascv_course.core.errors import InputError

__all__ = ["BrokenFileError", "RawGraph"]

#: Images a call. The reference is run in the same batches, for a file may wrongly look at the whole batch.
BATCH = 64


class BrokenFileError(InputError):
    """The file breaks a rule of the format, of its contract, or of what can be diagnosed."""


class RawGraph:
    """A file of one picture input.

    Args:
        path: the file.

    Raises:
        BrokenFileError: no ONNX model that runs, or its input is no batch of pictures.
        ContractError: the file is missing.

    Attributes:
        model: the protobuf, weights included.
        contract: what the file says of itself; None where it has no valid contract.
        complaint: why there is no contract.
        layout: ``NHWC`` or ``NCHW``, by the sizes of the graph's input.
        shape: (height, width, channels); None where open.
        dtype: ``uint8`` or ``float32``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ContractError(f"no such file: {path}")
        try:
            screen(self.path)  # before onnx follows references to other files
        except ContractError as error:
            raise BrokenFileError(str(error)) from None
        try:
            self.model = onnx.load(self.path)
            onnx.checker.check_model(self.model)
        except Exception as error:  # protobuf's, onnx's and the file system's errors share no base class
            raise BrokenFileError(
                f"an ONNX file is a whole and valid ModelProto; {self.path} ({self.path.stat().st_size:,} bytes) is cut short, "
                f"damaged or none: {_first_line(error)}"
            ) from None
        try:
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
        self._read_input()
        self._float_session = self._session if self.dtype == "float32" else self._twin()

    def _read_input(self) -> None:
        inputs = self._session.get_inputs()
        sizes = [tuple(size if isinstance(size, int) else None for size in item.shape) for item in inputs]
        dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
        if len(inputs) != 1 or len(sizes[0]) != 4 or inputs[0].type not in dtypes:
            found = ", ".join(f"{item.name} {item.type} {list(item.shape)}" for item in inputs)
            raise BrokenFileError(f"a file with one input of pictures, rank 4, uint8 or float32, is diagnosed; it has {found}")
        self.input, self.dtype = inputs[0].name, dtypes[inputs[0].type]
        _, *rest = sizes[0]
        self.layout = "NCHW" if rest[0] in (1, 3) and rest[2] not in (1, 3) else "NHWC"
        order = (1, 2, 0) if self.layout == "NCHW" else (0, 1, 2)
        self.shape: tuple[int | None, ...] = tuple(rest[axis] for axis in order)

    def _twin(self) -> onnxruntime.InferenceSession | None:
        """The same graph for pixels in floating point, so that it can be fed what no uint8 holds; None where that cannot be had."""
        twin = copy.deepcopy(self.model)
        image = next(value for value in twin.graph.input if value.name == self.input)
        image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del twin.graph.value_info[:]
        try:
            return _session(twin)
        except Exception:  # an operator that takes uint8 alone
            return None

    @property
    def takes_any_values(self) -> bool:
        """Whether values that are no uint8 can be fed."""
        return self._float_session is not None

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs by name for pixels of 0–255, (N, height, width, channels) of uint8 or floating point.

        A file of float32 input is fed what its contract's preprocessing makes of them (pixels / 255 without a contract).

        Raises:
            BrokenFileError: the graph cannot be run on them.
        """
        values, session = pixels, self._session
        if self.dtype == "float32":
            values = self._preprocess(pixels)
        elif pixels.dtype != np.uint8:
            whole = np.rint(pixels).clip(0, 255)
            if np.array_equal(whole, pixels):
                values = whole.astype(np.uint8)
            elif self._float_session is None:
                raise BrokenFileError("the graph takes uint8 alone")
            else:
                values, session = pixels.astype(np.float32), self._float_session
        batches = [self._call(session, values[i : i + BATCH]) for i in range(0, len(values), BATCH)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.outputs}

    def _call(self, session: onnxruntime.InferenceSession, values: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = session.run(None, {self.input: self._lay_out(values)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BrokenFileError(f"{self.path} fails on pictures of {values.shape[1:]}: {_first_line(error)}") from None
        return dict(zip(self.outputs, map(np.asarray, outputs), strict=True))

    def _lay_out(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "NCHW" else values)

    def _preprocess(self, pixels: np.ndarray) -> np.ndarray:
        if self.contract is None or self.contract.preprocessing.mean is None:
            return pixels.astype(np.float32) / np.float32(255)
        return preprocess(pixels, self.contract.preprocessing)

    def tensors(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Every float tensor that a node makes, by name in computing order, for a few pictures."""
        exposed = copy.deepcopy(self.model)
        image = next(value for value in exposed.graph.input if value.name == self.input)
        if self.takes_any_values:
            image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del exposed.graph.value_info[:]
        present = {output.name for output in exposed.graph.output}
        names = [name for node in exposed.graph.node for name in node.output if name]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
        session = _session(exposed, optimize=False)
        values = self._preprocess(pixels) if self.dtype == "float32" else pixels
        values = values.astype(np.float32 if self.takes_any_values else np.uint8)
        found = dict(zip(names, session.run(names, {self.input: self._lay_out(values)}), strict=True))
        return {name: value for name, value in found.items() if getattr(value, "dtype", None) in (np.float32, np.float16)}


def _session(model: onnx.ModelProto, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
