"""Keras models to ONNX files with a contract inside."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import onnx
import onnx.version_converter

from export.contract import Contract, Input, Meaning, Metric, Output, Preprocessing, Tiling, dump_contract
from export.converter.idle import drop_idle_nodes
from export.converter.optimize import optimize_graph
from export.files import describe, save_model
from export.predictor import OnnxModel
from export.serving import ends_in_softmax, serving_graph
from kerascv_course.core.environment import package_versions, quiet_stderr, source_commit
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError

__all__ = ["ExportError", "export_model", "preprocessing_steps"]

#: Name of the batch dimension.
BATCH = "batch"

#: What the converter writes; higher ones are made by ONNX's version converter.
CONVERTER_OPSETS = (15, 18)
MAX_OPSET = 23

#: Operators that cannot be converted, and what to use in the model instead.
WORKAROUNDS = {
    "Erfc": "the exact GELU: use keras.activations.gelu with approximate=True, or 0.5 * x * (1 + ops.erf(x / 2**0.5))",
    "ScaleAndTranslate": "antialiased resizing: use Resizing(antialias=False) in the model, or resize before it",
    "StatelessRandom": "random layers: leave augmentation out of the exported model, or put it into the data pipeline",
    "ImageProjectiveTransform": "random rotation, zoom or translation: leave augmentation out of the exported model",
}


#: Preprocessing by name: the modes of ``keras.applications.imagenet_utils.preprocess_input``, and pixels as they are.
PREPROCESSING = {
    "pixels": Preprocessing("graph", scale=1.0),
    "tf": Preprocessing("graph", mean=(0.5,), std=(0.5,)),
    "torch": Preprocessing("graph", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": Preprocessing("graph", scale=1.0, mean=(103.939, 116.779, 123.68), channels="BGR"),
}

#: What outputs of these names hold.
MEANINGS: dict[str, Meaning] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "classes": "classes",
    "colorized": "picture",
    "embedding": "embedding",
    "neighbors": "neighbors",
    "distances": "distances",
}


class ExportError(CourseError):
    """The model cannot be written as an ONNX file that runs; nothing was written."""


def export_model(
    model: keras.Model,
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    input_dtype: Literal["uint8", "float32"] = "uint8",
    preprocessing: tuple[Sequence[float], Sequence[float]] | Literal["pixels", "tf", "torch", "caffe"] | None = None,
    layout: Literal["NHWC", "NCHW"] = "NHWC",
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear",
    task: Literal["classify", "scenes", "colorize", "embed", "tensor"] | None = None,
    name: str | None = None,
    opset: int = 17,
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    versions: Mapping[str, str] | None = None,
    license: str = "",
    tiling: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of one image input as an ONNX file that takes uint8 pictures and explains itself.

    A model of one output (batch, classes) becomes a classifier with the outputs ``logits`` and ``probabilities`` (the latter
    alone where the model ends in a softmax already), or with the task ``embed`` vectors of length 1. Any other model keeps its
    outputs. The batch dimension is dynamic and called ``batch``. A file beyond 2 GB has its weights in a second file beside it.

    Args:
        model: functional or Sequential, input (batch, height, width, 1 or 3) of uint8 or float32. Where height and width are
            None, the file takes pictures of any size.
        path: the file; one that is there is replaced once the new one is whole.
        labels: class names, in order.
        input_dtype: for a model of floating-point input: ``"uint8"`` puts the preprocessing into the file, ``"float32"`` leaves
            it to the caller. A model of uint8 input has it inside in any case.
        preprocessing: as the model was trained with: (mean, std) after scaling pixels to 0–1, one value or one a channel; a mode
            of ``keras.applications``: ``"tf"`` (−1 to 1), ``"torch"`` (ImageNet's mean and deviation), ``"caffe"`` (BGR less
            ImageNet's mean); or ``"pixels"``, 0–255 as they are. None means pixels / 255. For a model of uint8 input it only
            says what is inside, None: not known.
        layout: of the input: (batch, height, width, channels) or (batch, channels, height, width). Outputs are as the Keras
            model gives them.
        resize: filter for pictures of other sizes, as the model was trained with.
        task: ``"classify"``; ``"scenes"``: the same; ``"colorize"``: outputs ``logits``, ``classes`` and ``colorized``, labels the
            colours; ``"embed"``; ``"tensor"`` (outputs as they are); or None: by the shape of the output.
        name: for the contract; None: the model's.
        opset: ONNX operator set, 15 to 23; beyond 18 by ONNX's version converter.
        recipe: for the contract, JSON-able; so are `data` (texts) and `metrics` (by split, then by name: numbers).
        versions: of packages; None: those installed.
        license: of the weights, for the contract.
        tiling: ``multiple`` and ``overlap`` of `export.contract.Tiling`, where large pictures may be cut.

    Returns:
        `path`.

    Raises:
        InputError: a model with other inputs, labels that do not fit its classes, or values that contradict each other.
        ExportError: an operator that cannot be converted, or a file that onnxruntime cannot run.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    spec = _input_spec(model, input_dtype, layout, resize)
    where: Literal["graph", "caller"] = "graph" if spec.dtype == "uint8" else "caller"
    steps = preprocessing_steps(preprocessing, inside=model.inputs[0].dtype == "uint8", where=where)
    if not CONVERTER_OPSETS[0] <= opset <= MAX_OPSET:
        raise InputError(f"opset is {CONVERTER_OPSETS[0]} to {MAX_OPSET}; received {opset}")
    serving = serving_graph(model, task=task, input_dtype=spec.dtype, steps=steps)
    names = sorted(serving.output)  # the converter's order
    outputs = describe_outputs(serving, names)
    contract = Contract(
        task=task or ("classify" if any(output.meaning == "probabilities" for output in outputs) else "tensor"),
        name=name or model.name,
        input=spec,
        preprocessing=steps,
        outputs=outputs,
        labels=tuple(labels),
        recipe=dict(recipe or {}),
        data=dict(data or {}),
        metrics=tuple(Metric(key, split, float(value)) for split, row in (metrics or {}).items() for key, value in row.items()),
        versions=dict(versions or package_versions()),
        git_commit=source_commit() or "",
        license=license,
        tiling=None if tiling is None else Tiling(**tiling),
    )
    dump_contract(contract)  # fails before the long conversion
    proto = _convert(serving, spec, opset)
    describe(proto, contract)
    save_model(proto, path, _check_runs)
    return path


def _input_spec(model: keras.Model, input_dtype: str, layout: Any, resize: Any) -> Input:
    if not isinstance(model, keras.Model) or not model.built or len(model.inputs) != 1:
        raise InputError("export_model takes a built keras.Model of one input, an image (batch, height, width, channels)")
    shape, dtype = tuple(model.inputs[0].shape), model.inputs[0].dtype
    sizes_known = len(shape) == 4 and (None not in shape[1:3] or shape[1:3] == (None, None))
    if not sizes_known or shape[3] not in (1, 3):
        raise InputError(
            f"the input is (batch, height, width, 1 or 3), height and width both known or both None; {model.name} has {shape}"
        )
    if dtype not in ("uint8", "float32"):
        raise InputError(f"the input is of uint8 or float32; {model.name} has {dtype}")
    if layout not in ("NHWC", "NCHW") or input_dtype not in ("uint8", "float32"):
        raise InputError(f"layout is NHWC or NCHW, input_dtype uint8 or float32; received {layout!r} and {input_dtype!r}")
    return Input(
        name="image",
        dtype="uint8" if "uint8" in (dtype, input_dtype) else "float32",
        layout=layout,
        height=shape[1],
        width=shape[2],
        channels=shape[3],
        color="gray" if shape[3] == 1 else "RGB",
        resize=resize,
    )


def preprocessing_steps(
    given: str | tuple[Sequence[float], Sequence[float]] | Preprocessing | None,
    *,
    inside: bool,
    where: Literal["graph", "caller"],
) -> Preprocessing:
    """The preprocessing of `export_model` as the contract states it.

    Args:
        given: as `export_model` takes it.
        inside: the model takes uint8, so that its preprocessing is in it already.
        where: of the file.
    """
    if given is None:
        unknown = {"mean": None, "std": None} if inside else {}
        return Preprocessing(where, **unknown)  # type: ignore[arg-type]
    if isinstance(given, str):
        if given not in PREPROCESSING:
            raise UnknownNameError("preprocessing", given, PREPROCESSING)
        given = PREPROCESSING[given]
    if isinstance(given, Preprocessing):
        return Preprocessing(where, given.scale, given.mean, given.std, given.channels)
    mean, std = (tuple(float(value) for value in values) for values in given)
    return Preprocessing(where, mean=mean, std=std)


def describe_outputs(serving: keras.Model, names: Sequence[str]) -> tuple[Output, ...]:
    """What the contract says of the outputs of a serving graph, in the order of `names`."""
    outputs = []
    for name in names:
        meaning = MEANINGS.get(name, "values")
        activation: Literal["none", "softmax", "sigmoid", "l2"] = "none"
        if meaning == "probabilities":
            activation = "softmax" if _softmax_makes(serving, name) else "none"
        elif meaning == "embedding":
            activation = "l2"
        outputs.append(Output(name, meaning, tuple(serving.output[name].shape[1:]), activation))
    return tuple(outputs)


def _softmax_makes(serving: keras.Model, name: str) -> bool:
    """Whether an output comes from a softmax, through layers that only name it."""
    operation = serving.output[name]._keras_history.operation
    while isinstance(operation, keras.layers.Identity):
        operation = operation.input._keras_history.operation
    return ends_in_softmax(operation)


class _Complaints(logging.Handler):
    """Collects what tf2onnx only logs: operators it could not convert, after which it writes the file all the same."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(record.getMessage())


def _convert(serving: keras.Model, spec: Input, opset: int) -> onnx.ModelProto:
    import tensorflow as tf
    import tf2onnx

    complaints = _Complaints()
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] == "tf2onnx"]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger("tf2onnx")
    root.addHandler(complaints)
    propagate, root.propagate = root.propagate, False
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        signature = [tf.TensorSpec((None, spec.height, spec.width, spec.channels), spec.dtype, name=spec.name)]
        with quiet_stderr():
            proto, _ = tf2onnx.convert.from_keras(
                serving,
                signature,
                opset=min(opset, CONVERTER_OPSETS[1]),
                inputs_as_nchw=[spec.name] if spec.layout == "NCHW" else None,
            )
    except Exception as error:  # the converter raises many kinds
        raise _not_converted(serving, f"{type(error).__name__}: {error}") from error
    finally:
        root.removeHandler(complaints)
        root.propagate = propagate
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if complaints.messages:
        raise _not_converted(serving, "; ".join(complaints.messages))
    _name_outputs(proto, sorted(serving.output))
    if spec.height is None:
        _name_sizes(proto, spec.layout)
    proto = optimize_graph(proto if spec.height is not None else drop_idle_nodes(proto))
    return proto if opset <= CONVERTER_OPSETS[1] else _raise_opset(proto, serving.name, opset)


def _not_converted(serving: keras.Model, why: str) -> ExportError:
    known = [f"{operator} is {remedy}" for operator, remedy in WORKAROUNDS.items() if operator in why]
    advice = f" ({'; '.join(known)})" if known else ""
    return ExportError(f"{serving.name} cannot be converted to ONNX: {why[:500]}{advice}")


def _raise_opset(proto: onnx.ModelProto, name: str, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises many kinds
        raise ExportError(
            f"{name} cannot be raised to opset {opset}: {error}: use an opset of {CONVERTER_OPSETS[0]} to {CONVERTER_OPSETS[1]}"
        ) from error


def _graph_outputs(proto: onnx.ModelProto) -> list[str]:
    return [output.name for output in proto.graph.output]


def _name_outputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Name the outputs (the converter brings them in alphabetical order of the Keras names) and the batch dimension."""
    renamed = dict(zip(_graph_outputs(proto), names, strict=True))
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in proto.graph.output:
        value.name = renamed[value.name]
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del proto.graph.value_info[:]


def _name_sizes(proto: onnx.ModelProto, layout: str) -> None:
    """Call the open height and width by their names, in the input and in outputs of the same size."""
    for value in [*proto.graph.input, *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        first = 2 if layout == "NCHW" and value.name == proto.graph.input[0].name else 1
        if len(dims) >= first + 2:
            for dim, name in zip(dims[first : first + 2], ("height", "width"), strict=True):
                if not dim.HasField("dim_value"):
                    dim.dim_param = name


def _check_runs(path: Path) -> None:
    """The file must be valid, open in onnxruntime, and hold to its contract."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted model is not valid ONNX: {error}") from error
    OnnxModel(path)
