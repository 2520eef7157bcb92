"""What is refused before onnxruntime gets it, and that files of ours pass."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.contract import ContractError
from export.predictor import OnnxModel
from export.untrusted.screen import read_contract, screen

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
    "too many elements": (proto(sizes=(60_000, 60_000)), "3,600,000,000 elements is declared"),
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
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**20, 2**20])]),
        "without its values",
    ),
    "fewer bytes than values": (
        proto(stored=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[5], raw_data=b"1234")]),
        "with 4 bytes in place of 20",
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


# --- the guard ---

GUARDED = """
import os, signal, sys, time
from export.untrusted import guard
from kerascv_course.core.errors import InputError, run_cli

def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def hang(): time.sleep(60)
def fill():
    guard.limit_memory(__import__("pathlib").Path(sys.executable))
    bytearray(8 << 30)
def refuse(): raise InputError("no such thing")
def work():
    for _ in range(5):
        time.sleep(0.1)
        guard.alive()
    print("worked")
def defect(): 1 / 0

guard.PER_BYTE = 0
run_cli(lambda: guard.run_guarded(globals()[sys.argv[1]], seconds=0.4 if sys.argv[1] in ("hang", "work") else 20))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and limits memory as Linux does")
@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("crash", 1, r"error: the file made the program crash (SIGSEGV)"),
        ("hang", 1, "error: no progress for 0.4 s"),
        ("fill", 1, "error: the file needs more memory"),
        ("refuse", 2, "error: no such thing"),
        ("work", 0, "worked"),
        ("defect", 1, "ZeroDivisionError"),
    ],
)
def test_what_happens_in_a_guarded_command_stays_there(what, code, words):
    ended = subprocess.run([sys.executable, "-c", GUARDED, what], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and words in ended.stdout + ended.stderr
    assert ("Traceback" in ended.stderr) == (what == "defect")
