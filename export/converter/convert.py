"""Keras models to ONNX models with a contract inside."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import keras
import onnx

from export.contract import Contract, Input, Metric, Output, Preprocessing, Tiling, dump_contract
from export.converter.by_tf2onnx import BATCH, MAX_OPSET, MIN_OPSET, ExportError, tf2onnx_model
from export.converter.exporter import NotConvertible, build
from export.converter.heads import last_operation, meaning_of, sums_to_one, try_model
from export.converter.serving_graph import serving_graph
from export.files import describe, replace_model, staged, write_model
from export.predictor import OnnxModel
from kerascv_course.core.environment import package_versions, quiet_stderr, source_commit
from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = [
    "BATCH",
    "ExportError",
    "ExportOptions",
    "check_valid",
    "convert",
    "export_model",
    "preprocessing_steps",
    "write_converted",
]

#: Preprocessing by name: the modes of ``keras.applications.imagenet_utils.preprocess_input``, and pixels as they are.
PREPROCESSING = {
    "pixels": Preprocessing("graph", scale=1.0),
    "tf": Preprocessing("graph", mean=(0.5,), std=(0.5,)),
    "torch": Preprocessing("graph", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": Preprocessing("graph", scale=1.0, mean=(103.939, 116.779, 123.68), channels="BGR"),
}

#: Tasks of `export_model`.
TASKS = ("classify", "scenes", "colorize", "embed", "tensor", None)

#: As `export_model` takes it.
PreprocessingOption = str | tuple[float | Sequence[float], float | Sequence[float]] | Preprocessing | None


class ExportOptions(TypedDict, total=False):
    """Options of `export_model`, which explains them."""

    labels: Sequence[str]
    input_dtype: Literal["uint8", "float32"]
    preprocessing: PreprocessingOption
    layout: Literal["NHWC", "NCHW"]
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    task: Literal["classify", "scenes", "colorize", "embed", "tensor"] | None
    name: str | None
    opset: int
    recipe: Mapping[str, Any] | None
    data: Mapping[str, str] | None
    metrics: Mapping[str, Mapping[str, float]] | None
    versions: Mapping[str, str] | None
    commit: str | None
    license: str
    tiling: Mapping[str, int] | None
    converter: Literal["native", "tf2onnx"] | None


def export_model(model: keras.Model, path: str | Path, **options: Unpack[ExportOptions]) -> Path:
    """Write a model of one image input as an ONNX file that takes uint8 images and explains itself.

    A model of one output (batch, classes) becomes a classifier with the outputs ``logits`` and ``probabilities`` (the latter
    alone where the model ends in a softmax), or with the task ``embed`` vectors of length 1. Any other model keeps its outputs.
    The batch dimension is dynamic and called ``batch``. A file beyond 2 GB has its weights in a second file beside it.

    Args:
        model: functional or Sequential, input (batch, height, width, 1 or 3) of uint8 or float32. Where height and width are
            None, the file takes images of any size.
        path: the file; one that is there is replaced once the new one is whole.
        labels: class names, in order.
        input_dtype: for a model of floating-point input: ``"uint8"`` (default) puts the preprocessing into the file,
            ``"float32"`` leaves it to the caller. A model of uint8 input has it inside in any case.
        preprocessing: as the model was trained with: (mean, std) after scaling pixels to 0–1, one value or one a channel; a mode
            of ``keras.applications``: ``"tf"`` (−1 to 1), ``"torch"`` (ImageNet's mean and deviation), ``"caffe"`` (BGR less
            ImageNet's mean); or ``"pixels"``, 0–255 as they are. None means pixels / 255. For a model of uint8 input it only
            documents what is inside; None: not known.
        layout: of the input: ``"NHWC"`` (default) or ``"NCHW"``. Outputs are as the Keras model gives them.
        resize: filter for images of other sizes, as the model was trained with; default ``"bilinear"``.
        task: ``"classify"``; ``"scenes"``: the same; ``"colorize"``: outputs ``logits``, ``classes`` and ``colorized``, labels the
            colors; ``"embed"``; ``"tensor"`` (outputs as they are); None: by the shape of the output.
        name: for the contract; None: the model's.
        opset: ONNX operator set, 15 to 23, default 17.
        recipe: for the contract, JSON-serializable; so are `data` (texts) and `metrics` (by split, then by name: numbers).
        versions: of packages; None: those installed.
        commit: of the source code; None: this package's.
        license: of the weights, for the contract.
        tiling: ``multiple`` and ``overlap`` of `export.contract.Tiling`, where large images may be cut.
        converter: ``"native"``: this package's, on any backend of Keras, for layers that call `keras.ops`; ``"tf2onnx"``, on
            TensorFlow; None: the first that can. The contract says which.

    Returns:
        `path`.

    Raises:
        InputError: a model with other inputs, labels that do not fit its classes, or values that contradict each other.
        ExportError: an operator that cannot be converted, or a file that onnxruntime cannot run.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    if options.get("versions") is None:
        options["versions"] = package_versions()
    if options.get("commit") is None:
        options["commit"] = source_commit()
    with staged(path) as candidate:
        with quiet_stderr():
            write_converted(model, candidate, **options)
        check_valid(candidate)
        OnnxModel(candidate)
        replace_model(candidate, path)
    return path


def write_converted(model: keras.Model, path: Path, **options: Unpack[ExportOptions]) -> Contract:
    """`convert` into a file, whose contract is returned; the weights do not stay in memory."""
    proto, contract = convert(model, **options)
    write_model(proto, path)
    return contract


def check_valid(path: Path) -> None:
    """Check a written file by ONNX's own rules.

    Raises:
        ExportError: it breaks one.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted model is not valid ONNX: {error}") from error


def convert(model: keras.Model, **options: Unpack[ExportOptions]) -> tuple[onnx.ModelProto, Contract]:
    """`export_model` without the file: the ONNX model, contract included, and the contract.

    Versions and commit are not looked up: without the options the contract has none.
    """
    serving, contract = _serving_and_contract(model, options)
    proto, used = _to_onnx(serving, contract.input, options.get("opset", 17), options.get("converter"))
    contract = dataclasses.replace(contract, converter=used)
    describe(proto, contract)
    return proto, contract


def expected_contract(model: keras.Model, **options: Unpack[ExportOptions]) -> Contract:
    """The contract that `convert` gives a file, without the conversion and the converter's name."""
    return _serving_and_contract(model, options)[1]


def _serving_and_contract(model: keras.Model, options: ExportOptions) -> tuple[keras.Model, Contract]:
    if unknown := options.keys() - ExportOptions.__annotations__.keys():
        known = ", ".join(ExportOptions.__annotations__)
        raise TypeError(f"export_model has no options {', '.join(sorted(unknown))}; it has {known}")
    if options.get("task") not in TASKS:
        raise UnknownNameError("task", str(options["task"]), filter(None, TASKS))
    spec = _input_spec(model, options)
    preprocessing = options.get("preprocessing")
    steps = preprocessing_steps(
        preprocessing,
        inside=model.inputs[0].dtype == "uint8",
        where="graph" if spec.dtype == "uint8" else "caller",
        channels=spec.channels,
    )
    opset = options.get("opset", 17)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"opset is {MIN_OPSET} to {MAX_OPSET}; received {opset}")
    task, tiling = options.get("task"), options.get("tiling")
    labels = _labels(options.get("labels"))
    serving = serving_graph(model, task=task, input_dtype=spec.dtype, steps=steps, labels=labels)
    outputs = describe_outputs(serving, steps)
    if spec.name in serving.output:
        spec = dataclasses.replace(spec, name="pixels")
    metrics = []
    for split, row in (options.get("metrics") or {}).items():
        metrics += [Metric(key, split, float(value)) for key, value in row.items()]
    contract = Contract(
        task=task or ("classify" if any(output.meaning == "probabilities" for output in outputs) else "tensor"),
        name=options.get("name") or model.name,
        input=spec,
        preprocessing=steps,
        outputs=outputs,
        labels=labels,
        recipe=dict(options.get("recipe") or {}),
        data=dict(options.get("data") or {}),
        metrics=tuple(metrics),
        versions=dict(options.get("versions") or {}),
        git_commit=options.get("commit") or "",
        license=options.get("license", ""),
        tiling=None if tiling is None else Tiling(**tiling),
    )
    dump_contract(contract)  # fails before the long conversion
    return serving, contract


def _to_onnx(serving: keras.Model, spec: Input, opset: int, converter: str | None) -> tuple[onnx.ModelProto, str]:
    """The ONNX model of a serving graph, and which converter made it."""
    if converter not in (None, "native", "tf2onnx"):
        raise InputError(f"converter is native or tf2onnx; received {converter!r}")
    if converter == "tf2onnx":
        return tf2onnx_model(serving, spec, opset), "tf2onnx"
    try:
        return build(serving, [spec.name], opset, channels_first=spec.layout == "NCHW"), "native"
    except NotConvertible as error:
        where, _, what = str(error).partition("\n")
        reason = f"{serving.name} cannot be converted to ONNX: {where}: {what}" if what else f"{serving.name}: {where}"
        advice = "write the layer with keras.ops"
        if converter is None and keras.backend.backend() == "tensorflow":  # the second opinion, on TensorFlow's own operations
            try:
                return tf2onnx_model(serving, spec, opset), "tf2onnx"
            except ExportError as other:
                raise ExportError(f"{reason}; {advice} (tf2onnx cannot convert it either: {other})") from error
        raise ExportError(f"{reason}; {advice}, or use converter tf2onnx on TensorFlow") from error


def _input_spec(model: keras.Model, options: ExportOptions) -> Input:
    input_dtype, layout = options.get("input_dtype", "uint8"), options.get("layout", "NHWC")
    _check_model(model)
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
        resize=options.get("resize", "bilinear"),
    )


def _check_model(model: Any) -> None:
    """Refuse what is no functional or Sequential model of one input, with the way out."""
    if not isinstance(model, keras.Model):
        raise InputError(
            f"export_model takes a keras.Model; received {type(model).__name__}: open a file with kerascv_course.load_model"
        )
    name = f"{model.name} ({type(model).__name__})"
    if isinstance(model, keras.Sequential) and not model.built:
        raise InputError(f"{name} has no shapes yet: begin it with keras.Input((height, width, channels))")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "inputs"):
        raise InputError(
            f"{name} is a subclass without a graph: wrap it, image = keras.Input((height, width, channels)); "
            "model = keras.Model(image, model(image))"
        )
    if len(model.inputs) != 1:
        raise InputError(
            f"export_model takes a model of one input, an image (batch, height, width, channels); {name} has {len(model.inputs)}"
        )


def preprocessing_steps(
    given: PreprocessingOption, *, inside: bool, where: Literal["graph", "caller"], channels: int = 3
) -> Preprocessing:
    """The preprocessing of `export_model` as the contract states it.

    Args:
        given: as `export_model` takes it.
        inside: the model takes uint8, so that its preprocessing is in it already.
        where: of the file.
        channels: of an image.

    Raises:
        InputError: neither a mode nor a mean and a standard deviation of one number, or of one a channel.
    """
    if given is None:
        return Preprocessing(where, mean=None, std=None) if inside else Preprocessing(where)
    rule = f"preprocessing is (mean, std) after pixels / 255, a number each or {channels}, or one of {', '.join(PREPROCESSING)}"
    if isinstance(given, str):
        if given not in PREPROCESSING:
            raise UnknownNameError("preprocessing", given, PREPROCESSING)
        given = PREPROCESSING[given]
    if isinstance(given, Preprocessing):
        steps = dataclasses.replace(given, where=where)
    else:
        try:
            mean, std = (tuple(map(float, part if isinstance(part, Iterable) else (part,))) for part in given)
        except (TypeError, ValueError):
            raise InputError(f"{rule}; received {given!r}") from None
        steps = Preprocessing(where, mean=mean, std=std)
    counts = {len(part) for part in (steps.mean, steps.std) if part is not None}
    if not counts <= {1, channels}:
        raise InputError(f"{rule}; received {max(counts)} numbers for images of {channels} channels")
    return steps


def _labels(given: Any) -> tuple[str, ...]:
    """Class names as the contract has them."""
    if isinstance(given, (str, bytes)):
        raise InputError(f"labels is a list of class names; received the text {given!r}")
    labels = tuple(str(label) if isinstance(label, str) else label for label in (given if given is not None else ()))
    if wrong := [label for label in labels if not isinstance(label, str)]:
        raise InputError(f"labels are texts; received {wrong[0]!r}")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise InputError(f"labels are different for different classes; {twice[0]!r} stands there more than once")
    return labels


def describe_outputs(serving: keras.Model, steps: Preprocessing) -> tuple[Output, ...]:
    """What the contract says of a serving graph's outputs, in the model's order; `steps`: preprocessing of floating-point input."""
    outputs, tried = [], try_model(serving, steps)
    for name, value in serving.output.items():
        meaning = meaning_of(name, value, tried[name])
        activation: Literal["none", "softmax", "sigmoid", "l2"] = "l2" if meaning == "embedding" else "none"
        if meaning == "probabilities":
            last = last_operation(serving, name)
            kind = last.kind if last else ""
            activation = "sigmoid" if kind in ("Sigmoid", "HardSigmoid") else "none"
            if kind == "Softmax" and sums_to_one(tried[name]):
                activation = "softmax"
        outputs.append(Output(name, meaning, tuple(value.shape[1:]), activation))
    return tuple(outputs)
