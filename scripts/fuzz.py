"""Feed mutated files to the readers of files of strangers, and count what happens.

    python scripts/fuzz.py --cases 14000 --seed 0 --json fuzz.json
    nice -n 19 python scripts/fuzz.py --cases 1000000 --log fuzz.log --found found/         # in the background; the same again resumes

Every case is made from its number alone, so that one can be run again: ``--only KIND:NUMBER``. Each runs in a child process of its own,
forked from one that has imported everything, which is killed when it takes too long, and whose time and memory are measured. What
crashes, hangs or fills the memory there is run once more by the command line where there is one, which has to end in one of our own
errors (`export.untrusted.guard`), and is reduced to the smallest file that does the same (``--found``). Exit code 1 if any case ended
other than in an answer or in one of our own errors, took more than `SECONDS`, or more than `MAX_MEMORY`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import io
import itertools
import json
import mmap
import os
import platform
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

#: Longest that a case may take, and largest resident set that a worker may reach.
SECONDS = 10.0
MAX_MEMORY = 2**30

#: Virtual memory of a worker: well over what is allowed, so that it shows, and well under what the machine has.
ADDRESS_SPACE = 6 * 2**30

#: Numbers that break readers.
NUMBERS = [0, 1, -1, 2, 7, 127, 128, 255, 65535, 2**20, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]

#: Texts of attributes.
TEXTS = (
    b"",
    b"x",
    b"SAME_UPPER",
    b"nearest",
    b"linear",
    b"cubic",
    b"ij->ji",
    b"...i,i",
    b"reflect",
    b"edge",
    b"wrap",
    b"\xff" * 9,
)


# --- seeds ------------------------------------------------------------------------------------------------------------


def _contract(task: str, inputs: dict[str, Any], outputs: list[dict[str, Any]], labels: list[str]) -> str:
    from export.contract import Contract, Input, Metric, Output, Preprocessing, dump_contract

    contract = Contract(
        task=task,  # type: ignore[arg-type]
        name="fuzzed",
        input=Input("image", "uint8", "NHWC", **inputs),
        preprocessing=Preprocessing("graph", mean=(0.5,), std=(0.25,)),
        outputs=tuple(Output(**output) for output in outputs),
        labels=tuple(labels),
        recipe={"name": "fuzzed", "epochs": 3},
        metrics=(Metric("accuracy", "test", 0.5),),
    )
    return dump_contract(contract)


@functools.cache
def models() -> dict[str, bytes]:
    """Small files that are whole: a classifier of a fixed size, and a colouriser of any size."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    made = {}

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    def weights(name: str, *shape: int) -> Any:
        return constant(name, rng.normal(size=shape).astype(np.float32))

    def save(name: str, nodes: list[Any], image: list[Any], outputs: list[Any], stored: list[Any], contract: str) -> None:
        source = helper.make_tensor_value_info("image", TensorProto.UINT8, image)
        graph = helper.make_graph(nodes, name, [source], outputs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {"kerascv_course.contract": contract})
        onnx.checker.check_model(model, full_check=True)
        made[name] = model.SerializeToString()

    save(
        "classifier",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "kernel", "bias"], ["maps"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["maps"], ["active"]),
            helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "dense", "offset"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        ["batch", 8, 8, 3],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("logits", "probabilities")],
        [
            constant("scale", np.float32(1 / 255)),
            weights("kernel", 5, 3, 3, 3),
            weights("bias", 5),
            constant("shape", np.array([-1, 20], np.int64)),
            weights("dense", 20, 4),
            weights("offset", 4),
        ],
        _contract(
            "classify",
            {"height": 8, "width": 8, "channels": 3, "color": "RGB"},
            [{"name": name, "meaning": name, "shape": (4,)} for name in ("logits", "probabilities")],
            ["Katze", "犬", "cat", "🐈"],
        ),
    )
    sized = ["batch", "height", "width"]
    save(
        "colorizer",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Pad", ["planes", "pads"], ["padded"]),
            helper.make_node("Conv", ["padded", "kernel"], ["maps"]),
            helper.make_node("Resize", ["maps", "", "scales"], ["large"], mode="nearest"),
            helper.make_node("AveragePool", ["large"], ["scores"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Transpose", ["scores"], ["logits"], perm=[0, 2, 3, 1]),
            helper.make_node("ArgMax", ["logits"], ["classes"], axis=3, keepdims=0),
            helper.make_node("Gather", ["palette", "classes"], ["colorized"], axis=0),
        ],
        [*sized, 1],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*sized, 3]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, sized),
            helper.make_tensor_value_info("colorized", TensorProto.UINT8, [*sized, 3]),
        ],
        [
            constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
            weights("kernel", 3, 1, 3, 3),
            constant("scales", np.array([1, 1, 2, 2], np.float32)),
            constant("palette", rng.integers(0, 256, (3, 3)).astype(np.uint8)),
        ],
        _contract(
            "colorize",
            {"height": None, "width": None, "channels": 1, "color": "gray"},
            [
                {"name": "logits", "meaning": "logits", "shape": (None, None, 3)},
                {"name": "classes", "meaning": "classes", "shape": (None, None)},
                {"name": "colorized", "meaning": "picture", "shape": (None, None, 3)},
            ],
            ["#ff0000", "#00ff00", "#0000ff"],
        ),
    )
    return made


@functools.cache
def pictures() -> dict[str, bytes]:
    """One small picture in each usual format and mode."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)
    color = Image.fromarray(pixels[..., :3])
    made = {}

    def save(image: Any, name: str, format: str, **options: Any) -> None:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        made[name] = stream.getvalue()

    for format in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "AVIF"):
        with contextlib.suppress(KeyError, OSError):  # this Pillow cannot write it
            save(color, format.lower(), format)
    save(Image.fromarray(pixels), "rgba", "PNG")
    save(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "sixteen", "PNG")
    save(color.convert("P"), "palette", "PNG", transparency=3)
    save(color.convert("CMYK"), "cmyk", "JPEG")
    save(color, "lzw", "TIFF", compression="tiff_lzw")
    frames = [color, color.rotate(90), color.rotate(180)]
    save(color, "animated", "GIF", save_all=True, append_images=frames)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(color, "turned", "JPEG", exif=exif)
    return made


# --- mutations --------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, insert, delete, repeat or cut, once or a few times."""
    value = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(value) + 1)
        kind = rng.randrange(7)
        if kind == 0 and value:
            value[at % len(value)] ^= 1 << rng.randrange(8)
        elif kind == 1 and value:
            value[at % len(value)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            value[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 3:
            del value[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 4:
            value[at:at] = value[at : at + rng.choice((4, 32, 256))] * rng.choice((1, 2, 50))
        elif kind == 5 and rng.random() < 0.3:
            del value[at:]
        else:
            size = rng.choice((1, 2, 4, 8))
            value[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return bytes(value)


def mutate_json(text: str, rng: random.Random) -> str:
    """Put something else in the place of a value or a key, anywhere in the document."""
    plain = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        holders: list[tuple[Any, Any]] = []
        todo = [plain]
        while todo:
            item = todo.pop()
            for key, value in list(item.items() if isinstance(item, dict) else enumerate(item)):
                holders.append((item, key))
                if isinstance(value, dict | list):
                    todo.append(value)
        if not holders:
            break
        holder, key = rng.choice(holders)
        odd: list[Any] = [
            *NUMBERS, None, True, False, 0.5, 1e308, -1e308, 5e-324, "", "x", "../../etc/passwd", "\ud83d", "\x00", "9" * 5000,
            [], {}, [[]], [1] * 5000, {"a": {}}, "x" * 100_000, float("nan"), float("inf"), 10**400, holder,
        ]  # fmt: skip
        value = rng.choice(odd)
        if rng.random() < 0.5 and isinstance(holder[key], int | float):
            value = rng.choice(NUMBERS)  # keeps the type, so that later checks see it
        if value is holder:
            value = json.loads(json.dumps(holder))
        action = rng.randrange(4)
        if action == 0 and isinstance(holder, dict):
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "__class__", "version", "labels"))] = value
        else:
            holder[key] = value
    text = json.dumps(plain, ensure_ascii=rng.random() < 0.5)
    wild = rng.random()
    if wild < 0.03:
        depth = rng.choice((100, 990, 5000, 200_000))
        text = text.replace('"recipe": {', '"recipe": {"deep": ' + rng.choice(("[", '{"a":')) * depth, 1)
    elif wild < 0.06:
        depth = rng.choice((10, 400, 900))
        text = text.replace('"recipe": {', '"recipe": {"deep": ' + "[" * depth + "]" * depth + ", ", 1)
    elif wild < 0.08:
        text = text.replace('"version"', '"version": 2, "version"', 1)
    elif wild < 0.10:
        text = text.replace('"epochs": 3', '"epochs": ' + "9" * rng.choice((400, 5000, 1_000_000)), 1)
    elif wild < 0.2:
        text = mutate_bytes(text.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return text


def mutate_graph(data: bytes, rng: random.Random) -> bytes:
    """Change the structure: sizes, names, operators, attributes, references to files, the order and number of nodes."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    operators = ["Identity", "Tile", "Expand", "ConstantOfShape", "Range", "Pad", "Loop", "If", "Scan", "Einsum", "OneHot"]
    operators += ["Resize", "NonZero", "Concat", "Split", "Upsample", "Compress", "EyeLike", "RandomNormal", "StringNormalizer"]
    paths = ["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "x\x00y", "", ".", "..", "model.onnx", "a" * 5000, "C:\\x"]
    paths += ["\\\\host\\share", "file:///etc/passwd", "*/_ORT_MEM_ADDR_/*", "/proc/self/mem", "http://localhost/x"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not graph.node:
            break
        node = rng.choice(graph.node)
        tensor = rng.choice(graph.initializer)
        kind = rng.randrange(13)
        if kind == 0 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        elif kind == 1:
            tensor.data_type = rng.choice((*range(24), 2**31 - 1))
        elif kind == 2:
            tensor.raw_data = mutate_bytes(tensor.raw_data, rng)
        elif kind == 3:
            reference = [
                ("location", rng.choice(paths)),
                ("offset", str(rng.choice(NUMBERS))),
                ("length", str(rng.choice(NUMBERS))),
            ]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            if rng.random() < 0.8:
                tensor.ClearField("raw_data")
            for key, value in reference[: rng.randrange(1, 4)]:
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
        elif kind == 4:
            node.op_type = rng.choice(operators)
        elif kind == 5:
            node.domain = rng.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "evil", "x" * 5000))
        elif kind == 6 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nothing"])
        elif kind == 7 and node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice([*names, ""])
        elif kind == 8 and node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
            else:
                attribute.i = rng.choice(NUMBERS)
        elif kind == 9:
            value = rng.choice([*graph.input, *graph.output])
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[rng.randrange(len(dims))].dim_value = rng.choice(NUMBERS)
        elif kind == 10:
            del graph.node[rng.randrange(len(graph.node))]
        elif kind == 11:
            graph.node.add().CopyFrom(node)
        elif tensor.data_type == onnx.TensorProto.INT64 or rng.random() < 0.3:
            import numpy as np

            # a type or a shape that was changed before may not hold values
            with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError, onnx.checker.ValidationError):
                values = onnx.numpy_helper.to_array(tensor).copy()
                values.flat[rng.randrange(values.size)] = rng.choice(NUMBERS)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        else:
            model.opset_import[0].version = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        model.metadata_props[0].value = _encodable(mutate_json(model.metadata_props[0].value, rng))
    return model.SerializeToString()


def _encodable(text: str) -> str:
    """Without halves of characters, which protobuf does not write (JSON escapes them)."""
    return text.encode("utf-8", "replace").decode()


@functools.cache
def crashes() -> list[bytes]:
    """Files that once crashed onnxruntime, hung or filled the memory: seeds of further ones."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def file(node: Any, *stored: Any, sizes: Any = ("batch", 4)) -> bytes:
        source, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy")
        graph = helper.make_graph([node], "g", [source], [result], list(stored))
        data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        return data

    def constant(values: Any, name: str = "w", dtype: Any = np.int64) -> Any:
        return numpy_helper.from_array(np.array(values, dtype), name)

    node, huge = helper.make_node, [4096] * 4
    roi = node("MaxRoiPool", ["x", "w"], ["y"])
    roi.attribute.append(onnx.AttributeProto(name="pooled_shape", type=onnx.AttributeProto.INTS))
    return [
        file(node("GatherND", ["x", "w"], ["y"], batch_dims=-(2**31)), constant([[0], [1]])),
        file(node("Expand", ["x", "w"], ["y"]), constant(huge)),
        file(node("ConstantOfShape", ["w"], ["y"]), constant(huge)),
        file(node("Tile", ["x", "w"], ["y"]), constant([2048, 2048])),
        file(node("OneHot", ["x", "w", "v"], ["y"], axis=31), constant([]), constant([0, 1], "v")),
        file(node("ReduceL2", ["x"], ["y"], axes=[0]), constant([])),
        file(
            node("Range", ["a", "b", "c"], ["y"]), *(constant(v, n, np.float32) for v, n in ((0, "a"), (1e9, "b"), (1e-9, "c")))
        ),
        file(node("Identity", ["x"], ["y"]), TensorProto(name="x", data_type=1, dims=[0, 2**60])),
        file(node("Identity", ["x"], ["y"]), sizes=[2**20] * 300),
        file(node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[0, 0]), sizes=(1, 1, 4, 4)),
        file(node("Resize", ["x", "", "w"], ["y"], mode="nearest"), constant([1, 9e9], dtype=np.float32)),
        file(roi, constant([[0, 0, 0, 1, 1]], dtype=np.float32), sizes=(1, 1, 4, 4)),
    ]


def mutate_fields(data: bytes, rng: random.Random) -> bytes:
    """Change any field of any message of an ONNX file by its type: the protobuf stays whole."""
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        messages = list(_messages(model))
        message = rng.choice(messages)
        field = rng.choice(message.DESCRIPTOR.fields)
        kind = field.cpp_type
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:
            repeated = field.label == field.LABEL_REPEATED
        with contextlib.suppress(ValueError, TypeError, IndexError):  # a number beyond the field's type
            if repeated:
                _mutate_list(getattr(message, field.name), kind == field.CPPTYPE_MESSAGE, messages, field, rng)
            elif kind == field.CPPTYPE_MESSAGE:
                same = [other for other in messages if other.DESCRIPTOR is field.message_type]
                if same and rng.random() < 0.7:
                    getattr(message, field.name).CopyFrom(copy.deepcopy(rng.choice(same)))  # it may contain the place
                else:
                    message.ClearField(field.name)
            elif rng.random() < 0.1:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _value(field, getattr(message, field.name), rng))
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(inner)


def _mutate_list(values: Any, of_messages: bool, messages: list[Any], field: Any, rng: random.Random) -> None:
    action = rng.randrange(4)
    if action == 0 and values:
        del values[rng.randrange(len(values))]
    elif action == 1 and values and not of_messages:
        at = rng.randrange(len(values))
        values[at] = _value(field, values[at], rng)
    elif of_messages:
        same = [other for other in messages if other.DESCRIPTOR is field.message_type]
        chosen = copy.deepcopy(rng.choice(same)) if same else None
        added = values.add()
        if chosen is not None:
            added.CopyFrom(chosen)
    else:
        values.extend([_value(field, values[0] if values else None, rng)] * rng.choice((1, 1, 2, 40, 2000)))


def _value(field: Any, old: Any, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return mutate_bytes(old, rng) if old else rng.randbytes(rng.choice((0, 1, 8, 64)))
        return rng.choice(
            ("", "x", "image", "maps", "Tile", "Loop", "Einsum", "axis", "../../etc/passwd", "x" * 5000, "\x1b[2J")
        )
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 0.5))
    return rng.choice(NUMBERS)


def make_operator(rng: random.Random) -> bytes:
    """A graph of one to three operators that the screen allows, with odd constants, and attributes by the schema."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from export.untrusted.operators import STANDARD

    types = (np.float32, np.float32, np.int64, np.int64, np.int32, np.uint8, np.bool_, np.float16, np.float64, np.int8)
    shapes = ((), (0,), (1,), (1,), (2,), (4,), (8,), (2, 4), (1, 3, 3, 3), (5, 3, 3, 3), (0, 4), (3, 1, 1), (4, 8, 8, 3))
    opset = rng.choice((13, 17, 17, 20))
    stored, nodes, names = [], [], ["x"]
    for number in range(rng.randrange(1, 4)):
        schema = onnx.defs.get_schema(rng.choice(sorted(STANDARD - {"Loop", "If"})), max_inclusive_version=30)
        inputs = []
        for place in range(rng.randint(schema.min_input, min(schema.max_input, 8))):
            if (place == 0 and rng.random() < 0.8) or rng.random() < 0.15:
                inputs.append(rng.choice(names))
            elif place and rng.random() < 0.1:
                inputs.append("")
            else:
                name, shape = f"c{number}_{place}", rng.choice(shapes)
                small = rng.random() < 0.7
                values = [rng.choice((0, 1, -1, 2, 3)) if small else rng.choice(NUMBERS) for _ in range(int(np.prod(shape)))]
                with np.errstate(all="ignore"):
                    array = np.array(values, np.float64 if not small else np.int64).reshape(shape).astype(rng.choice(types))
                stored.append(numpy_helper.from_array(array, name))
                inputs.append(name)
        node = helper.make_node(schema.name, inputs, [f"y{number}"])
        for name, spec in schema.attributes.items():
            if spec.required or rng.random() < 0.4:
                attribute = node.attribute.add(name=name, type=int(spec.type))
                odd = [rng.choice((0, 1, 1, 2, -1, 3, 4)) if rng.random() < 0.8 else rng.choice(NUMBERS) for _ in range(4)]
                kind = str(spec.type).rsplit(".", 1)[-1]
                if kind == "INT":
                    attribute.i = odd[0]
                elif kind == "INTS":
                    attribute.ints.extend(odd[: rng.randrange(5)])
                elif kind == "FLOAT":
                    attribute.f = float(rng.choice((0.0, 1.0, -1.0, 1e30, float("nan"))))
                elif kind == "FLOATS":
                    attribute.floats.extend(map(float, odd[: rng.randrange(5)]))
                elif kind == "STRING":
                    attribute.s = rng.choice(TEXTS)
                elif kind == "TENSOR":
                    attribute.t.CopyFrom(numpy_helper.from_array(np.zeros(rng.choice(shapes), rng.choice(types)), "t"))
        nodes.append(node)
        names.append(f"y{number}")
    source = helper.make_tensor_value_info(
        "x", rng.choice((TensorProto.FLOAT, TensorProto.INT64)), [None] * rng.choice((1, 2, 4))
    )
    result = onnx.ValueInfoProto(name=names[-1])
    graph = helper.make_graph(nodes, "g", [source], [result], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


@functools.cache
def archives() -> dict[str, bytes]:
    """Small files of weights and vectors: HDF5, .npz, .keras, .npy."""
    import h5py
    import numpy as np

    made, rng = {}, np.random.default_rng(0)
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["layers/dense/vars/0"] = rng.normal(size=(3, 2)).astype(np.float32)
        file["layers/dense/vars"].create_dataset("1", data=np.zeros(64), chunks=(8,), compression="gzip")
        file["layers/dense/vars"].attrs["name"] = "dense"
        file["layers"].create_group("more/vars")
    made[".weights.h5"] = stream.getvalue()
    for name, save in ((".npz", np.savez), ("z.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, progress=np.array('{"format": 1, "history": []}'), steps=np.empty((0, 4)), variable_00000=np.ones((2, 3)))
        made[name] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"class_name": "Sequential", "config": {"layers": []}}')
        archive.writestr("model.weights.h5", made[".weights.h5"])
    made[".keras"] = stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, rng.normal(size=(5, 4)).astype(np.float32))
    made[".npy"] = stream.getvalue()
    return made


def mutate_archive(suffix: str, data: bytes, rng: random.Random) -> bytes:
    """Change members of a zip (their bytes, sizes, names, number) or, like any other file, its bytes."""
    if not zipfile.is_zipfile(io.BytesIO(data)) or rng.random() < 0.4:
        return mutate_bytes(data, rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        for part in source.infolist():
            content, action = source.read(part), rng.randrange(6)
            packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            if action == 0:
                continue
            if action < 3:
                content = mutate_bytes(content, rng)
            if action == 3:
                content += bytes(rng.choice((1, 2**16, 2**22)))
            for _ in range(2 if action == 4 else 1):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # two members of one name are what is wanted
                    target.writestr(rng.choice((part.filename, part.filename, "x", "../x", "/x")), content, packing)
    return mutate_bytes(stream.getvalue(), rng) if rng.random() < 0.3 else stream.getvalue()


def make_case(kind: str, number: int) -> bytes:
    """The file of a case; of an archive its suffix and a line break stand in front."""
    import onnx

    rng = random.Random(f"{kind}:{number}")
    if kind == "picture":
        return mutate_bytes(rng.choice(list(pictures().values())), rng)
    if kind == "archive":
        suffix, data = rng.choice(list(archives().items()))
        return suffix.encode() + b"\n" + mutate_archive(suffix, data, rng)
    if kind == "operator":
        return make_operator(rng)
    data = rng.choice(list(models().values()))
    if kind == "fields":
        return mutate_fields(rng.choice((data, data, rng.choice(crashes()))), rng)
    if kind == "graph":
        return mutate_graph(data, rng)
    model = onnx.load_from_string(data)
    if kind == "bytes":
        # structure rather than weights: a reader never looks at those
        return mutate_bytes(model.SerializeToString(), rng)
    model.metadata_props[0].value = _encodable(mutate_json(model.metadata_props[0].value, rng))
    return bytes(model.SerializeToString())


KINDS = ("contract", "graph", "bytes", "picture", "fields", "operator", "archive")

#: Kinds that the commands predict and inspect can be run on.
COMMANDED = ("contract", "graph", "bytes", "picture", "fields")


# --- a case -------------------------------------------------------------------------------------------------------


def run_case(kind: str, data: bytes, folder: Path) -> str:
    """Inspect and predict; the outcome in a word: ``answered``, the name of one of our errors, or another exception with its text."""
    from export.commands.inspect import add_inspect
    from export.predictor import OnnxModel
    from kerascv_course.core.errors import CourseError

    outcomes = []

    def attempt(call: Callable[[], Any]) -> None:
        try:
            call()
            outcomes.append("answered")
        except CourseError as error:
            if len(str(error)) > 20_000:
                outcomes.append(f"ERROR a message of {len(str(error)):,} characters")
            outcomes.append(type(error).__name__)
        except BaseException as error:  # whatever it is, it is a finding
            outcomes.append(f"ERROR {type(error).__name__}: {str(error)[:300]}")

    def inspect(path: Path) -> None:
        parser = argparse.ArgumentParser()
        add_inspect(parser)
        arguments = parser.parse_args([str(path)])
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            arguments.call(arguments)

    def predict(path: Path, picture: Path) -> None:
        model = OnnxModel(path)
        if model.contract.task == "colorize":
            model.colorize(picture)
        elif model.contract.task == "classify":
            model.predict([picture]).top(3)
        else:
            model.run([picture])

    if kind == "archive":
        suffix, content = data.split(b"\n", 1)
        path = folder / f"case{suffix.decode()}"
        path.write_bytes(content)
        attempt(lambda: _read_archive(path))
        path.unlink()
    elif kind == "operator":
        path = folder / "case.onnx"
        path.write_bytes(data)
        attempt(lambda: _run_operators(path))
    elif kind == "picture":
        model, picture = folder / "whole.onnx", folder / "case.img"
        picture.write_bytes(data)
        model.write_bytes(models()["classifier"])
        attempt(lambda: predict(model, picture))
    else:
        model, picture = folder / "case.onnx", folder / "whole.png"
        model.write_bytes(data)
        picture.write_bytes(pictures()["png"])
        attempt(lambda: inspect(model))
        attempt(lambda: predict(model, picture))
    return next((outcome for outcome in outcomes if outcome.startswith("ERROR")), outcomes[-1])


def _read_archive(path: Path) -> None:
    """Read weights, a checkpoint or vectors."""
    import numpy as np

    from export.gallery.disk_index import VectorFile
    from kerascv_course.core.keras_file import read_arrays
    from kerascv_course.models.weight_files import read_source

    if path.suffix == ".npy":
        vectors = VectorFile(path)
        vectors.rows(np.array([0]))
    else:
        if path.suffix == ".npz":
            read_arrays(path)
        read_source(path)


def _run_operators(path: Path) -> None:
    """Open a file without a contract, and run it on images and on none."""
    import numpy as np

    from export.contract import ContractError
    from export.predictor import open_session

    session = open_session(path, threads=1)
    (source,) = session.get_inputs()
    dtype = np.float32 if source.type == "tensor(float)" else np.int64
    for size in (2, 0):
        try:
            session.run(None, {source.name: np.ones([size] + [4] * (len(source.shape) - 1), dtype)})
        except Exception as error:  # onnxruntime's exceptions share no base class; the predictor makes it one of ours
            if type(error).__module__.partition(".")[0] not in ("onnxruntime", "builtins"):
                raise
            raise ContractError(str(error)[:200]) from None


@functools.cache
def prepare() -> None:
    """Import what cases need, and make the seeds, once for all children. No session is opened, whose threads a fork would lose."""
    import export.commands.inspect
    import export.gallery.disk_index
    import export.predictor  # noqa: F401
    import kerascv_course.analysis
    import kerascv_course.models.weight_files  # noqa: F401

    models(), pictures(), crashes(), archives()


def run_forked(kind: str, make: Callable[[], bytes], folder: Path, seconds: float = SECONDS) -> tuple[str, int, float]:
    """Make and run a case in a child process: outcome, bytes of memory that the case took, and seconds."""
    import resource

    prepare()
    before = mmap.mmap(-1, 8)  # memory that the child starts with, from this process
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reader)
            limit = _address_space() + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            struct.pack_into("q", before, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os.write(writer, run_case(kind, make(), folder).encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writer)
    in_time = bool(select.select([reader], [], [], seconds)[0])
    if not in_time:
        os.kill(child, signal.SIGKILL)
    outcome = os.read(reader, 4096).decode("utf-8", "replace")
    os.close(reader)
    _, status, usage = os.wait4(child, 0)
    took = time.monotonic() - started
    if not in_time:
        outcome = f"HANG over {seconds:g} s"
    elif not outcome:
        outcome = f"CRASH {signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status}"
    return outcome, usage.ru_maxrss * 1024 - struct.unpack("q", before)[0], took


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * mmap.PAGESIZE if statm.is_file() else 0


def judge(outcome: str, peak: int) -> str:
    """The outcome with the memory that was taken, where that is too much."""
    return f"MEMORY {peak / 2**30:.1f} GiB, then {outcome}" if peak > MAX_MEMORY else outcome


def is_bad(outcome: str) -> bool:
    """Whether an outcome is neither an answer nor an error of ours."""
    return outcome.split(" ")[0] in ("ERROR", "HANG", "CRASH", "MEMORY")


def reduce(data: bytes, same: Callable[[bytes], bool], most: int = 300) -> bytes:
    """The smallest file found, by leaving out parts of half its size, then a quarter, …, that still does the same.

    Args:
        data: the file.
        same: whether a file does the same.
        most: number of files to try.
    """
    size = max(1, len(data) // 2)
    while size and most > 0:
        at = 0
        while at < len(data) and most > 0:
            shorter = data[:at] + data[at + size :]
            most -= 1
            if same(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def command_survives(case: str) -> str | None:
    """Run a case by the guarded command line: None if it ends in an answer or an error of ours, else what it does."""
    kind, number = case.split(":")
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "case.onnx", Path(folder) / "case.img"
        model.write_bytes(models()["classifier"] if kind == "picture" else make_case(kind, int(number)))
        picture.write_bytes(make_case(kind, int(number)) if kind == "picture" else pictures()["png"])
        for words in (["inspect", str(model)], ["predict", str(model), str(picture)]):
            code = (
                f"import sys; sys.argv[1:] = {words!r}; from export import __main__ as m; "
                "from export.untrusted.guard import run_guarded; "
                f"m.run_cli(lambda: run_guarded(m.main, seconds={SECONDS}))"
            )
            before = _children_peak()
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=6 * SECONDS)
            told = ended.returncode == 0 or (ended.returncode in (1, 2) and "error: " in ended.stderr)
            told = told and "Traceback" not in ended.stderr
            if not told:
                return f"{words[0]} ended with {ended.returncode}: {ended.stderr[-300:]}"
            if _children_peak() > max(before, MAX_MEMORY):
                return f"{words[0]} took {_children_peak() / 2**30:.1f} GiB"
    return None


def _children_peak() -> int:
    """Largest resident set of any process that was started and has ended, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def fuzz(cases: Iterable[str], log: Path | None = None, found: Path | None = None) -> dict[str, Any]:
    """Run cases one after the other: the figures.

    Args:
        cases: ``KIND:NUMBER`` each.
        log: JSON lines of the figures after every 1,000 cases; a run that finds one goes on behind it.
        found: folder for the files of findings, as made and reduced.
    """
    outcomes: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    figures: dict[str, Any] = {
        "cases": 0,
        "findings": [],
        "caught_by_the_guard": [],
        "peak_mib": 0,
        "slowest_s": 0.0,
        "seconds": 0.0,
    }
    if log and log.is_file() and (lines := log.read_text(encoding="utf-8").splitlines()):
        figures = json.loads(lines[-1])
        for kind, counts in figures.pop("outcomes").items():
            outcomes[kind].update(counts)
    skipped, before, started = figures["cases"], figures["seconds"], time.perf_counter()

    def state() -> dict[str, Any]:
        seconds = round(before + time.perf_counter() - started, 1)
        return {
            **figures,
            "outcomes": {kind: dict(count.most_common()) for kind, count in outcomes.items() if count},
            "seconds": seconds,
        }

    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            if number < skipped:
                continue
            kind, _, index = case.partition(":")
            outcome, peak, took = run_forked(kind, functools.partial(make_case, kind, int(index)), Path(folder))
            outcome = judge(outcome, peak)
            figures["cases"] += 1
            figures["peak_mib"] = max(figures["peak_mib"], round(peak / 2**20))
            figures["slowest_s"] = max(figures["slowest_s"], round(took, 2))
            outcomes[kind][outcome.split(" ")[0]] += 1
            if is_bad(outcome):
                _record(case, outcome, figures, found)
            if log and figures["cases"] % 1000 == 0:
                with log.open("a", encoding="utf-8") as file:
                    print(json.dumps(state(), ensure_ascii=False), file=file)
    return {**state(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}


def _record(case: str, outcome: str, figures: dict[str, Any], found: Path | None) -> None:
    """Add a bad outcome to the figures; what the guard of the command line turns into an error of ours is apart."""
    kind = case.partition(":")[0]
    survives = kind in COMMANDED and not outcome.startswith("ERROR")
    failure = command_survives(case) if survives else outcome
    print(f"{case}: {outcome}; {failure or 'an error of ours by the command line'}", file=sys.stderr, flush=True)
    finding = {"case": case, "outcome": outcome}
    figures["findings" if failure else "caught_by_the_guard"].append({**finding, "failure": failure} if failure else finding)
    if found is None:
        return
    found.mkdir(parents=True, exist_ok=True)
    data = make_case(kind, int(case.partition(":")[2]))
    name = case.replace(":", "-")
    (found / f"{name}.bin").write_bytes(data)
    sort = " ".join(outcome.split(" ")[:2])
    with tempfile.TemporaryDirectory() as folder:

        def same(shorter: bytes) -> bool:
            with contextlib.suppress(ValueError):  # an archive without the line in front
                result, peak, _ = run_forked(kind, lambda: shorter, Path(folder))
                return " ".join(judge(result, peak).split(" ")[:2]) == sort
            return False

        (found / f"{name}.reduced.bin").write_bytes(reduce(data, same))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=14_000, help="files in all, shared evenly by the kinds (default: 14000)")
    parser.add_argument("--seed", type=int, default=0, help="first number of the cases (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="KIND:NUMBER", help="these cases alone")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--log", type=Path, help="write the figures every 1,000 cases; the same command goes on from there")
    parser.add_argument("--found", type=Path, help="folder for the files of findings, as they were and reduced")
    arguments = parser.parse_args()
    share = -(-arguments.cases // len(KINDS))
    numbered = (f"{kind}:{arguments.seed + i}" for i in range(share) for kind in KINDS)
    figures = fuzz(arguments.only or itertools.islice(numbered, arguments.cases), arguments.log, arguments.found)
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
