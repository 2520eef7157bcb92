"""What is refused before onnxruntime gets it, and that files of ours pass."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import export
from export.contract import ContractError
from export.predictor import OnnxModel
from export.untrusted.operators import REPEATING_OR_RANDOM, STANDARD, allowed
from export.untrusted.screen import TRUST, read_contract, screen

INT64_MAX = 2**63 - 1


def proto(node=None, *, stored=(), sizes=("batch", 4), domain=""):
    """A graph of one node, x to y."""
    node = node or helper.make_node("Identity", ["x"], ["y"], domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant(*values, name="w", dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


@pytest.fixture
def saved(tmp_path):
    def save(model):
        path = tmp_path / "x.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return save


def test_a_file_of_ours_passes_and_is_described(tiny_run):
    seen = screen(tiny_run / "model.onnx")
    stored = onnx.load(tiny_run / "model.onnx").graph.initializer
    assert seen.operators["Conv"] == 2 and seen.opsets[""] == 17 and not seen.external
    assert seen.parameters == sum(int(np.prod(tensor.dims)) for tensor in stored)
    assert seen.metadata["kerascv_course.contract"].startswith("{")


@pytest.mark.parametrize("part", range(1, 12))
def test_a_file_cut_short_is_refused_wherever(part, tiny_run, saved):
    whole = (tiny_run / "model.onnx").read_bytes()
    with pytest.raises(ContractError, match="is not an ONNX model that can be run"):
        OnnxModel(saved(whole[: len(whole) * part // 12]))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 100, b"\xff" * 100, b"\x0b\x0c" * 20, b"PK\x03\x04"])
def test_what_is_no_protobuf_is_refused(data, saved):
    with pytest.raises(ContractError, match="cut short, damaged, not ONNX or not safe"):
        screen(saved(data))


def test_reading_a_contract_runs_nothing(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    assert read_contract(tiny_run / "model.onnx").labels == tuple("0123456789")


REFUSED = {
    "sizes that make onnxruntime spin": (proto(sizes=("batch", INT64_MAX)), "a size of 9,223,372,036,854,775,807"),
    "too many elements": (proto(sizes=(60_000, 60_000)), "3,600,000,000 elements or more is declared"),
    "strides of nothing": (
        proto(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2], strides=[0])),
        "strides of 0; it is 1 or more",
    ),
    "strides backwards": (proto(helper.make_node("Conv", ["x", "w"], ["y"], dilations=[-1])), "dilations of -1"),
    "a huge kernel": (proto(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2**40])), "at most 65,536 is believed"),
    "padding backwards": (proto(helper.make_node("Conv", ["x", "w"], ["y"], pads=[-1, 0])), "pads of -1; it is 0 or more"),
    "padding to gigabytes": (
        proto(helper.make_node("Pad", ["x", "w"], ["y"]), stored=[constant(0, 2**33, 0, 0)]),
        "Pad asks for a size of",
    ),
    "expanding to gigabytes": (
        proto(helper.make_node("Expand", ["x", "w"], ["y"]), stored=[constant(2**40)]),
        "Expand asks for a size of",
    ),
    "enlarging to gigabytes": (
        proto(helper.make_node("Resize", ["x", "", "w"], ["y"], mode="nearest"), stored=[constant(1, 9e9, dtype=np.float32)]),
        "Resize asks for a size of 9e\\+09",
    ),
    "factors that are a picture": (proto(helper.make_node("Resize", ["x", "", "x"], ["y"])), "factors that are none"),
    "a loop": (proto(helper.make_node("Loop", ["x", "x"], ["y"])), "the operator 'Loop', which repeats"),
    "a loop as long as a stored number says": (
        proto(helper.make_node("Loop", ["w", ""], ["y"]), stored=[constant(2**40)]),
        "the operator 'Loop', which repeats",
    ),
    "chance": (proto(helper.make_node("RandomNormal", [], ["y"], shape=[1])), "or answers by chance"),
    "a stranger's operator": (proto(domain="evil"), "of the domain 'evil', which is none of ONNX's"),
    "a shape without values": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**15, 2**20])]),
        "without its values",
    ),
    "fewer bytes than values": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[5], raw_data=b"1234")]),
        "with 4 bytes in place of 20",
    ),
    "shapes beyond all files": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**62] * 30)]),
        r"a stored tensor of the shape \[4611686018427387904, .*\] …",
    ),
    "an empty shape beyond all files": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[0, 2**60])]),
        r"a stored tensor of the shape \[0, 1152921504606846976\]",
    ),
    "100,000 dimensions that are stored": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2] * 100_000)]),
        r"a stored tensor of the shape \[2, 2, 2, 2, 2, 2, 2, 2\] …",
    ),
    "100,000 dimensions that are declared": (proto(sizes=[2**20] * 100_000), "a tensor of 100,000 dimensions"),
    "300 dimensions of a large size": (proto(sizes=[2**20] * 30), "1,099,511,627,776 elements or more is declared"),
    "a negative number of batch dimensions": (
        proto(helper.make_node("GatherND", ["x", "w"], ["y"], batch_dims=-(2**31)), stored=[constant([0], [1])]),
        "batch_dims of -2,147,483,648; it is 0 or more",
    ),
    "an axis beyond all tensors": (proto(helper.make_node("Softmax", ["x"], ["y"], axis=2**31)), "axis of 2,147,483,648"),
    "an attribute that nobody checks": (proto(helper.make_node("Softmax", ["x"], ["y"], any=-(2**62))), "any of -4,6"),
    "a product of padding": (
        proto(helper.make_node("Pad", ["x", "w"], ["y"]), stored=[constant(*[2000] * 6)]),
        "Pad asks for 6.4e\\+10 elements",
    ),
    "a product of repeats": (
        proto(helper.make_node("Tile", ["x", "w"], ["y"]), stored=[constant(*[4096] * 4)]),
        "Tile asks for 2.81e\\+14 elements",
    ),
    "a product of expansions": (
        proto(helper.make_node("Expand", ["x", "w"], ["y"]), stored=[constant(*[4096] * 4)]),
        "Expand asks for 2.81e\\+14 elements",
    ),
    "a product of sizes": (
        proto(helper.make_node("Resize", ["x", "", "", "w"], ["y"]), stored=[constant(*[4096] * 4)]),
        "Resize asks for 2.81e\\+14 elements",
    ),
    "a product of strides": (
        proto(helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[4096, 4096])),
        "strides of 4096, 4096: the product is at most 4,096",
    ),
    "a range of tiny steps": (
        proto(
            helper.make_node("Range", ["a", "b", "c"], ["y"]),
            stored=[
                constant(0.0, name="a", dtype=np.float32),
                constant(1.0, name="b", dtype=np.float32),
                constant(1e-12, name="c", dtype=np.float32),
            ],
        ),
        "Range asks for 1e\\+12 elements",
    ),
    "parameters without values": (
        proto(helper.make_node("OneHot", ["x", "w", "v"], ["y"]), stored=[constant(), constant(0, 1, name="v")]),
        "OneHot with a constant without values",
    ),
    "reductions over no axes": (
        proto(helper.make_node("ReduceL2", ["x", "w"], ["y"]), stored=[constant()]),
        "ReduceL2 with a constant without values",
    ),
    "a negative shape": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-5])]),
        r"a stored tensor of the shape \[-5\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_harms_onnxruntime_is_refused(case, saved):
    model, message = REFUSED[case]
    with pytest.raises(ContractError, match=message):
        screen(saved(model))


@pytest.mark.parametrize("listed", [[4096] * 4, [2**14, 2**13]])
def test_sizes_from_constants_of_any_kind_are_refused_by_their_product(listed, saved):
    """As a node's numbers, by way of other nodes, and as a sum over nodes."""
    numbers = helper.make_node("Constant", [], ["w"], value_ints=listed)
    parts = [helper.make_node("Constant", [], [f"w{i}"], value_int=size) for i, size in enumerate(listed)]
    lifted = [helper.make_node("Unsqueeze", [f"w{i}", "zero"], [f"v{i}"]) for i in range(len(listed))]
    joined = helper.make_node("Concat", [f"v{i}" for i in range(len(listed))], ["w"], axis=0)
    zero = helper.make_node("Constant", [], ["zero"], value_ints=[0])
    expand = helper.make_node("Expand", ["x", "w"], ["y"])
    for nodes in ([numbers, expand], [*parts, zero, *lifted, joined, expand]):
        model = proto()
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        with pytest.raises(ContractError, match=r"Expand asks for \S+ elements"):
            screen(saved(model))
    model = proto(helper.make_node("ConstantOfShape", ["w"], ["y"]), stored=[constant(2**25)])
    screen(saved(model))
    model.graph.node.extend([model.graph.node[0]] * 3)
    with pytest.raises(ContractError, match=r"ConstantOfShape asks for 1.01e\+08 elements"):
        screen(saved(model))


def test_a_stored_tensor_is_not_an_image_though_it_is_called_an_input(saved):
    """A Loop may run once for each image; the number of rows of a stored tensor is any number."""
    model = proto(helper.make_node("Shape", ["x"], ["count"]), stored=[constant(0, name="other")])
    model.graph.node.add().CopyFrom(helper.make_node("Loop", ["count", ""], ["y"]))
    screen(saved(model))
    model.graph.initializer.add().CopyFrom(constant(*range(5), name="x", dtype=np.float32))
    with pytest.raises(ContractError, match="the operator 'Loop', which repeats"):
        screen(saved(model))


def test_operators_that_nobody_needs_are_named_and_refused_unless_trusted(saved, monkeypatch):
    model = proto(helper.make_node("MaxRoiPool", ["x", "x"], ["y"], pooled_shape=[1, 1]))
    model.graph.node.add().CopyFrom(helper.make_node("Unique", ["x"], ["z"]))
    with pytest.raises(ContractError, match="usual vision network has: MaxRoiPool, Unique; --trust"):
        screen(saved(model))
    assert screen(saved(model), trust=True).operators["Unique"] == 1
    monkeypatch.setenv(TRUST, "1")
    screen(saved(model))


def test_every_operator_that_our_code_writes_is_allowed():
    """By the names in its sources, so that a new conversion is seen here."""
    schemas = [schema for schema in onnx.defs.get_all_schemas() if schema.domain == ""]
    known = {schema.name for schema in schemas if not schema.deprecated}
    sources = [path for path in Path(export.__path__[0]).rglob("*.py") if "untrusted" not in path.parts]
    words = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    written = (words & known) - REPEATING_OR_RANDOM
    assert {"Conv", "LSTM", "Einsum", "DequantizeLinear"} <= written
    assert sorted(name for name in written if not allowed(name, "")) == []
    assert sorted(STANDARD - {schema.name for schema in schemas}) == []


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tiny_run, saved, monkeypatch):
    path = saved((tiny_run / "model.onnx").read_bytes())
    opened, size = Path.open, path.stat().st_size
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: (os.truncate(self, size), opened(self, *args, **more))[1])
    stat = os.fstat
    monkeypatch.setattr("os.fstat", lambda file: (stat(file), os.truncate(path, size // 2))[0])
    with pytest.raises(ContractError, match="it was cut short while it was read"):
        screen(path)


def test_walking_through_a_file_is_bounded(saved, monkeypatch):
    monkeypatch.setattr("export.untrusted.screen.MAX_FIELDS", 1000)
    with pytest.raises(ContractError, match=r"more than 1,000 (fields|numbers)"):
        screen(saved(proto(sizes=("batch",), stored=[TensorProto(name="w", dims=[1] * 2000)])))


def test_texts_that_are_no_texts_are_refused(saved):
    model = proto()
    model.graph.node[0].name = "a" * 5000
    screen(saved(model))  # a node's own name is nobody's key
    model.graph.node[0].op_type = "a" * 5000
    with pytest.raises(ContractError, match="a name has 5,000 bytes"):
        screen(saved(model))
    with pytest.raises(ContractError, match="a name is no UTF-8"):
        screen(saved(proto().SerializeToString().replace(b"Identity", b"Identit\xff")))


def test_graphs_nested_without_end_are_refused(saved):
    model = proto()
    for _ in range(20):
        attribute = helper.make_attribute("then_branch", model.graph)
        model = proto(helper.make_node("If", ["x"], ["y"]))
        model.graph.node[0].attribute.append(attribute)
    with pytest.raises(ContractError, match="nested more than 8 deep"):
        screen(saved(model))


def outside(location, **more):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


@pytest.mark.parametrize("in_a_node", [False, True])
def test_weights_in_another_file_stand_beside_the_model(in_a_node, saved, tmp_path):
    (tmp_path / "inside").mkdir()
    for name in ("weights.bin", "inside/weights.bin"):
        (tmp_path / name).write_bytes(bytes(12))
    (tmp_path.parent / "secret.bin").write_bytes(bytes(12))
    (tmp_path / "link.bin").symlink_to("../secret.bin")
    (tmp_path / "up").symlink_to("..")

    def model(tensor):
        if in_a_node:
            return proto(helper.make_node("Constant", [], ["y"], value=tensor))
        return proto(stored=[tensor])

    assert screen(saved(model(outside("weights.bin", offset=0, length=12)))).external == {"weights.bin"}
    assert screen(saved(model(outside("inside/weights.bin")))).external == {"inside/weights.bin"}
    secret = str(tmp_path.parent / "secret.bin")
    places = ["../secret.bin", secret, "link.bin", "up/secret.bin", "inside/../../secret.bin", "/dev/zero", "", ".", "inside"]
    places += ["C:\\secret.bin", "..\\secret.bin", "file:///etc/passwd", "*/_ORT_MEM_ADDR_/*", "none.bin", "weights.bin\0"]
    for place in places:
        with pytest.raises(ContractError, match="a reference to the file"):
            screen(saved(model(outside(place))))
    for more in ({"offset": 4}, {"offset": -4}, {"length": 10**12}, {"length": 4}, {"offset": "x"}):
        with pytest.raises(ContractError, match=r"a reference (beyond|to a file with an offset)"):
            screen(saved(model(outside("weights.bin", **more))))
