"""Mutated files: the seeds, and what is done to them. `make_case` makes the file of a case from its number alone."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import random
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

__all__ = ["KINDS", "archives", "crashes", "make_case", "models", "pictures"]

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
