"""Keras models to ONNX files with a contract inside."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import onnx

from export.contract import KEY, Contract, Input, Output, Preprocessing, Tiling
from export.idle import drop_idle_nodes
from export.optimize import optimize_graph
from export.runtime import OnnxModel
from kerascv_course.environment import package_versions, quiet_stderr
from kerascv_course.errors import CourseError, InputError
from kerascv_course.files import write_beside
from kerascv_course.jsondata import to_json
from kerascv_course.tasks.classify import normalized, serving_classifier

__all__ = ["ExportError", "export_model", "serving_graph"]

#: Name of the batch dimension.
BATCH = "batch"

#: What outputs of these names hold.
MEANINGS: dict[str, Literal["logits", "probabilities", "classes", "picture"]] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "classes": "classes",
    "colorized": "picture",
}


class ExportError(CourseError):
    """The model cannot be written as an ONNX file that runs; nothing was written."""


def export_model(
    model: keras.Model,
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    input_dtype: Literal["uint8", "float32"] = "uint8",
    preprocessing: tuple[Sequence[float], Sequence[float]] | None = None,
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear",
    task: Literal["classify", "colorize", "tensor"] | None = None,
    name: str | None = None,
    opset: int = 17,
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    tiling: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of one image input as an ONNX file that takes uint8 pictures and explains itself.

    A model of one output (batch, classes) becomes a classifier with the outputs ``logits`` and ``probabilities`` (the latter
    alone where the model ends in a softmax already). Any other model keeps its outputs. The batch dimension is dynamic and
    called ``batch``.

    Args:
        model: functional or Sequential, input (batch, height, width, 1 or 3) of uint8 or float32. Height and width are known,
            but for a model of named outputs (a dict), which takes pictures of any size where they are None.
        path: the file; one that is there is replaced once the new one is whole.
        labels: class names, in order.
        input_dtype: for a model of floating-point input: ``"uint8"`` puts the preprocessing into the file, ``"float32"`` leaves
            it to the caller. A model of uint8 input has it inside in any case.
        preprocessing: (mean, std) after scaling pixels to 0–1, one value or one a channel, as the model was trained with; None
            means (0, 1), that is pixels / 255. For a model of uint8 input it only says what is inside, None: not known.
        resize: filter for pictures of other sizes, as the model was trained with.
        task: ``"classify"``; ``"colorize"``: outputs ``logits``, ``classes`` and ``colorized``, labels the colours; ``"tensor"``
            (outputs as they are); or None: by the shape of the output.
        name: for the contract; None: the model's.
        opset: ONNX operator set, 15 to 18.
        recipe: for the contract, JSON-able; so are `data` (texts), `metrics` (numbers, the split in their name) and
        versions: package versions; None: those installed.
        tiling: ``multiple`` and ``overlap`` of `export.contract.Tiling`, where large pictures may be cut.

    Returns:
        `path`.

    Raises:
        InputError: a model with other inputs, labels that do not fit its classes, or values that contradict each other.
        ExportError: an operator that cannot be converted, or a file that onnxruntime cannot run.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    spec = _input_spec(model, input_dtype, resize)
    mean_std = preprocessing or (((0.0,), (1.0,)) if model.inputs[0].dtype != "uint8" else (None, None))
    serving = serving_graph(model, task=task, input_dtype=input_dtype, mean_std=mean_std)
    if not 15 <= opset <= 18:
        raise InputError(f"opset is 15 to 18 (what the converter writes); received {opset}")
    proto = _convert(serving, spec, opset)
    outputs = tuple(
        Output(key, MEANINGS.get(key, "values"), tuple(serving.output[key].shape[1:])) for key in _graph_outputs(proto)
    )
    contract = Contract(
        task=task or ("classify" if any(output.meaning == "probabilities" for output in outputs) else "tensor"),
        name=name or model.name,
        input=spec,
        preprocessing=Preprocessing(
            where="graph" if spec.dtype == "uint8" else "caller", mean=_floats(mean_std[0]), std=_floats(mean_std[1])
        ),
        outputs=outputs,
        labels=tuple(labels),
        recipe=dict(recipe or {}),
        data=dict(data or {}),
        metrics=dict(metrics or {}),
        versions=dict(versions or package_versions()),
        tiling=None if tiling is None else Tiling(**tiling),
    )
    _describe(proto, contract)
    with write_beside(path) as temporary:
        onnx.save(proto, temporary)
        _check_runs(temporary)
    return path


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def serving_graph(
    model: keras.Model,
    *,
    task: str | None,
    input_dtype: str,
    mean_std: tuple[Sequence[float] | None, Sequence[float] | None],
) -> keras.Model:
    """The model as it is served: one input ``image``, a dict of named outputs.

    Args:
        model: as in `export_model`; a model whose output is a dict is served as it is.
        task: as in `export_model`.
        input_dtype: as in `export_model`.
        mean_std: put before a model of floating-point input where `input_dtype` is ``"uint8"``.
    """
    if not isinstance(model, keras.Sequential) and isinstance(model.output, dict):
        return model
    if input_dtype == "uint8" and model.inputs[0].dtype != "uint8":
        model = normalized(model, mean_std[0] or (0.0,), mean_std[1] or (1.0,))
    single = len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    if task != "tensor" and single:
        return serving_classifier(model)
    if task == "classify":
        raise InputError(
            f"a classifier has one output (batch, classes); {model.name} has {[tuple(o.shape) for o in model.outputs]}"
        )
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    values = keras.tree.flatten(model(image))
    names = [f"output_{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    return keras.Model(
        image, {key: keras.layers.Identity(name=key)(v) for key, v in zip(names, values, strict=True)}, name=model.name
    )


def _input_spec(model: keras.Model, input_dtype: str, resize: Any) -> Input:
    if not isinstance(model, keras.Model) or not model.built or len(model.inputs) != 1:
        raise InputError("export_model takes a built keras.Model of one input, an image (batch, height, width, channels)")
    shape, dtype = tuple(model.inputs[0].shape), model.inputs[0].dtype
    any_size = not isinstance(model, keras.Sequential) and isinstance(model.output, dict) and shape[1:3] == (None, None)
    if len(shape) != 4 or (None in shape[1:3] and not any_size) or shape[3] not in (1, 3):
        raise InputError(f"the input is (batch, height, width, 1 or 3) with known height and width; {model.name} has {shape}")
    if dtype not in ("uint8", "float32"):
        raise InputError(f"the input is of uint8 or float32; {model.name} has {dtype}")
    return Input(
        name="image",
        dtype="uint8" if "uint8" in (dtype, input_dtype) else "float32",
        layout="NHWC",
        height=shape[1],
        width=shape[2],
        channels=shape[3],
        color="gray" if shape[3] == 1 else "RGB",
        resize=resize,
    )


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
            proto, _ = tf2onnx.convert.from_keras(serving, signature, opset=opset)
    except Exception as error:  # the converter raises many kinds
        raise ExportError(f"{serving.name} cannot be converted to ONNX: {type(error).__name__}: {error}") from error
    finally:
        root.removeHandler(complaints)
        root.propagate = propagate
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if complaints.messages:
        raise ExportError(f"{serving.name} cannot be converted to ONNX: {'; '.join(complaints.messages)[:500]}")
    _name_outputs(proto, sorted(serving.output))
    if spec.height is None:
        _name_sizes(proto)
    return optimize_graph(proto if spec.height is not None else drop_idle_nodes(proto))


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


def _name_sizes(proto: onnx.ModelProto) -> None:
    """Call the open height and width by their names, in the input and in outputs of the same size."""
    for value in [*proto.graph.input, *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) >= 3:
            for dim, name in zip(dims[1:3], ("height", "width"), strict=True):
                if not dim.HasField("dim_value"):
                    dim.dim_param = name


def _describe(proto: onnx.ModelProto, contract: Contract) -> None:
    proto.producer_name = "kerascv_course"
    proto.producer_version = contract.versions.get("kerascv_course", "")
    proto.doc_string = f"{contract.name}: {contract.task}, {len(contract.labels)} labels; see the metadata {KEY}"
    onnx.helper.set_model_props(proto, {KEY: to_json(contract)})


def _check_runs(path: Path) -> None:
    """The file must be valid, open in onnxruntime, and hold to its contract."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted model is not valid ONNX: {error}") from error
    OnnxModel(path)
