"""ONNX files built by hand and by PyTorch: counts, open shapes, quantised weights, unknown operators, damaged files; no TensorFlow."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kerascv_course.analysis import summarize
from kerascv_course.core.errors import InputError


def constant(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def save(path, nodes, constants, shape=("batch", 3, 8, 8), opset=17, domains=()):
    """A file with the input x and the output of the last node."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [out], constants)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    return path


def test_a_small_network_by_hand(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "k", "kb"], ["y"], "dense", transB=1),
    ]
    constants = [constant("w", 4, 3, 3, 3), *(constant(n, 4) for n in "bsomv"), constant("k", 5, 4), constant("kb", 5)]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants))
    assert [(r.name, r.parameters, r.frozen, r.neurons, r.macs) for r in summary.rows[1:]] == [
        ("conv", 112, 0, 64, 16 * 108),
        ("norm", 16, 8, 0, 0),
        ("relu", 0, 0, 0, 0),
        ("pool", 0, 0, 4, 0),
        ("flatten", 0, 0, 0, 0),
        ("dense", 25, 0, 5, 20),
    ]
    assert summary.parameters == 153
    assert summary.inference_parameters == 112 + 25  # the batch norm goes into the convolution
    assert summary.row("conv").receptive_field.size == (3, 3)
    assert summary.row("conv").receptive_field.start == (0.0, 0.0)
    assert summary.receptive_field.whole


def test_groups_dilation_transposition_and_auto_pad(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "grouped", group=2, dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("ConvTranspose", ["p", "t"], ["u"], "up", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    ]
    constants = [constant("w", 8, 2, 3, 3), constant("t", 8, 6, 3, 3)]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants, shape=(1, 4, 9, 9)))
    assert summary.row("grouped").macs == 81 * 8 * 9 * 2
    assert summary.row("grouped").receptive_field.size == (5, 5)
    assert summary.row("pool").output_shape == (8, 5, 5)
    assert summary.row("pool").padding == ((1, 1), (1, 1))
    assert summary.row("up").output_shape == (6, 10, 10)
    assert summary.row("up").macs == 25 * 9 * 8 * 6
    assert summary.row("up").padding == ((1, 0), (1, 0))  # output padding takes from what is cut at the far end


def test_split_slice_concat_and_resize(tmp_path):
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], "split", axis=1),
        helper.make_node("Slice", ["a", "zero", "six", "axis"], ["c"], "slice"),
        helper.make_node("Slice", ["b", "two", "eight", "axis"], ["d"], "other"),
        helper.make_node("Concat", ["c", "d"], ["e"], "concat", axis=1),
        helper.make_node("Conv", ["e", "w"], ["f"], "conv"),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], "up", mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
    ]  # fmt: skip
    constants = [integers("zero", 0), integers("six", 6), integers("two", 2), integers("eight", 8), integers("axis", 2)]
    constants += [constant("w", 1, 4, 1, 1), numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants, shape=(1, 4, 8, 8)))
    assert summary.row("concat").output_shape == (4, 6, 8)
    assert summary.row("conv").receptive_field.size == (3, 1)  # rows i and i + 2
    assert summary.unit_field("up", (3, 5)) == ((1, 3), (2, 2))
    assert summary.parameters == 4


def test_bias_after_a_matrix_product_and_numbers_of_formulas(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w"], ["m"], "dense"),
        helper.make_node("Add", ["m", "b"], ["a"], "bias"),
        helper.make_node("Mul", ["a", "half"], ["y"], "half"),
        helper.make_node("Mul", ["y", "scale"], ["z"], "scale"),
    ]
    constants = [constant("w", 192, 5), constant("b", 5), constant("half"), constant("scale", 5)]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants))
    assert [r.parameters for r in summary.rows] == [0, 0, 960, 5, 0, 5]
    assert summary.inference_parameters == 970


def test_quantised_weights_are_counted_through_their_dequantisation(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantise"),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], "weights", axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv"),
    ]
    constants = [
        constant("s"), numpy_helper.from_array(np.int8(0), "z"), constant("w8", 4, 3, 3, 3, dtype=np.int8), constant("ws", 4),
        constant("wz", 4, dtype=np.int8),
    ]  # fmt: skip
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants))
    assert summary.parameters == 108
    assert summary.macs == 36 * 108
    assert summary.row("quantise").activation_bytes == 192  # one byte each
    assert not summary.unknown


def test_weights_used_twice_count_once_and_merged_vectors_at_each_use(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w", "b"], ["c"], "again"),
        helper.make_node("Conv", ["c", "v", "b"], ["d"], "other"),
    ]
    constants = [constant("w", 3, 3, 1, 1), constant("v", 3, 3, 1, 1), constant("b", 3)]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants))
    assert [r.parameters for r in summary.rows[1:]] == [12, 0, 12]
    assert summary.macs == 3 * 64 * 9


def test_unknown_operators_leave_totals_open_and_say_so(tmp_path):
    from kerascv_course.analysis.printing import to_csv, to_table

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Magic", ["c"], ["m"], "magic", domain="elsewhere"),
        helper.make_node("Relu", ["m"], ["y"], "relu"),
    ]
    summary = summarize(save(tmp_path / "m.onnx", nodes, [constant("w", 4, 3, 3, 3)], domains=("elsewhere",)))
    assert summary.unknown == ("magic", "relu")  # the shape behind it is not known either
    assert summary.macs is summary.neurons is summary.connections is summary.activation_bytes is None
    assert summary.parameters == 108
    assert summary.row("conv").macs == 36 * 108
    text = to_table(summary)
    assert "UNKNOWN      Magic (magic), Relu (relu): they are not counted" in text
    assert "MACs         —" in text
    assert to_csv(summary).splitlines()[3].startswith("3,Magic,magic,,0,0,,,,")


UNKNOWN_RANK = {
    "Concat": ((["u", "u"], {"axis": 1}), 0),
    "Slice": ((["u", "i0", "i1"], {}), 0),
    "Pad": ((["u", "i1"], {}), 0),
    "Split": ((["u"], {"axis": 1, "num_outputs": 1}), 0),
    "Transpose": ((["u"], {"perm": [1, 0]}), 0),
    "ReduceMean": ((["u"], {"axes": [1]}), 0),
    "Softmax": ((["u"], {}), 0),
    "Resize": ((["u", "", "v3"], {}), 0),
    "MaxPool": ((["u"], {"kernel_shape": [2, 2]}), 0),
    "GlobalAveragePool": ((["u"], {}), 0),
    "Gather": ((["w", "u"], {}), 81),
    "Conv": ((["u", "w", "v3"], {}), 84),
    "ConvTranspose": ((["u", "w"], {}), 81),
    "MatMul": ((["u", "w"], {}), 81),
    "LayerNormalization": ((["u", "v3", "v3"], {}), 6),
    "BatchNormalization": ((["u", "v3", "v3", "v3", "v3"], {}), 12),
    "InstanceNormalization": ((["u", "v3", "v3"], {}), 6),
    "LSTM": ((["u", "w", "w"], {"hidden_size": 1}), 162),
}


@pytest.mark.parametrize("operator", UNKNOWN_RANK)
def test_behind_a_tensor_of_unknown_rank_parameters_are_counted_and_the_rest_is_not_known(tmp_path, operator):
    (inputs, attributes), parameters = UNKNOWN_RANK[operator]
    nodes = [
        helper.make_node("Magic", ["x"], ["u"], "magic", domain="elsewhere"),
        helper.make_node(operator, inputs, ["y"], "behind", **attributes),
    ]
    constants = [constant("w", 3, 3, 3, 3), constant("v3", 3), integers("i0", 0), integers("i1", 1)]
    summary = summarize(save(tmp_path / "m.onnx", nodes, constants, domains=("elsewhere",)))
    assert summary.unknown == ("magic", "behind")
    assert summary.parameters == parameters and summary.macs is None
    assert summary.receptive_field is None or summary.receptive_field.size is None


def test_a_file_of_quantize_dynamic_counts_as_the_file_that_it_was_made_of(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "k", "v"], ["y"], "dense"),
    ]
    constants = [constant("w", 4, 3, 3, 3), constant("b", 4), constant("k", 144, 10), constant("v", 10)]
    path = save(tmp_path / "m.onnx", nodes, constants)
    quantize_dynamic(path, tmp_path / "dynamic.onnx")
    before, after = summarize(path), summarize(tmp_path / "dynamic.onnx")
    assert {row.type for row in after.rows} >= {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
    assert not after.unknown
    for one in ("parameters", "macs", "connections", "neurons"):
        assert getattr(after, one) == getattr(before, one)
    rows = {row.type: row for row in after.rows}
    assert rows["ConvInteger"].receptive_field.size == (3, 3)


def test_a_tensor_scaled_by_a_number_of_the_image_sees_the_whole_image_or_says_that_it_is_not_known(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], "largest", keepdims=0),
        helper.make_node("Div", ["x", "largest"], ["y"], "scaled"),
    ]
    summary = summarize(save(tmp_path / "m.onnx", nodes, []))
    assert summary.row("scaled").output_shape == (3, 8, 8) and not summary.unknown


def test_inputs_beside_the_first_states_scalars_and_none_that_has_a_shape(tmp_path):
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 4]),
        helper.make_tensor_value_info("rate", TensorProto.FLOAT, []),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "rate"], ["s"], "scaled"),
        helper.make_node("MatMul", ["state", "w"], ["y"], "dense"),
        helper.make_node("Concat", ["s", "s"], ["z"], "both", axis=1),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [constant("w", 4, 5)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"'x' of .* is \? with open axes: give input_shape"):
        summarize(tmp_path / "m.onnx")
    summary = summarize(tmp_path / "m.onnx", (6,))
    assert summary.row("both").output_shape == (12,)
    assert summary.row("dense").output_shape == (1, 5)  # the batch is the state's second axis
    path = save(
        tmp_path / "n.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], [constant("w", 4, 3, 3, 3)], shape=None
    )
    with pytest.raises(InputError, match="no declared shape: give input_shape"):
        summarize(path)
    assert summarize(path, (3, 8, 8)).macs == 36 * 108


def test_operators_that_only_move_values_keep_the_totals(tmp_path):
    nodes = [
        helper.make_node("DepthToSpace", ["x"], ["d"], "shuffle", blocksize=2),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv"),
    ]
    summary = summarize(save(tmp_path / "m.onnx", nodes, [constant("w", 2, 1, 3, 3)], shape=(1, 4, 8, 8)))
    assert summary.macs == 14 * 14 * 18 and not summary.unknown
    assert summary.receptive_field.size is None
    assert "not known: DepthToSpace (shuffle)" in summary.receptive_field.note


def test_open_axes(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = save(tmp_path / "m.onnx", nodes, [constant("w", 4, 3, 3, 3)], shape=("n", 3, "h", "w"))
    with pytest.raises(InputError, match=r"is 3×\?×\? with open axes: give input_shape \(--input-shape\) in this order"):
        summarize(path)
    assert summarize(path, (3, 10, 12)).row("conv").output_shape == (4, 8, 10)
    with pytest.raises(InputError, match=r"input_shape 10×12×3 does not fit the input 'x'"):
        summarize(path, (10, 12, 3))


def test_a_fixed_batch_size_becomes_one_or_is_rejected(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = save(tmp_path / "m.onnx", nodes, [constant("w", 4, 3, 3, 3)], shape=(8, 3, 8, 8))
    assert summarize(path).macs == 36 * 108
    nodes.append(helper.make_node("Reshape", ["y", "shape"], ["z"], "flat"))
    path = save(tmp_path / "r.onnx", nodes, [constant("w", 4, 3, 3, 3), integers("shape", 8, 144)], shape=(8, 3, 8, 8))
    with pytest.raises(InputError, match="fixed batch or image size"):
        summarize(path)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "weights only", "folder"])
def test_files_that_are_not_onnx(tmp_path, kind):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = save(tmp_path / "m.onnx", nodes, [constant("w", 64, 3, 3, 3)])
    message = "is not an ONNX file, or it is truncated"
    if kind == "empty":
        path.write_bytes(b"")
        message = "is empty"
    elif kind == "text":
        path.write_text("<html>not found</html>" * 20)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "weights only":
        onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [constant("w", 3)])), path)
        message = "holds no ONNX graph"
    else:
        path.unlink()
        path.mkdir()
        message = "neither best.keras nor model.onnx"
    with pytest.raises(InputError, match=message):
        summarize(path)


def test_external_weights_need_not_be_there(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = save(tmp_path / "m.onnx", nodes, [constant("w", 64, 3, 5, 5)])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert summarize(path).parameters == 64 * 75


def test_a_large_file_without_tensorflow(tmp_path):
    nodes, constants, last = [], [], "x"
    for i in range(120):
        nodes.append(helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        constants += [constant(f"w{i}", 128, 128 if i else 3, 3, 3), constant(f"b{i}", 128)]
        last = f"r{i}"
    path = save(tmp_path / "large.onnx", nodes, constants, shape=("n", 3, 64, 64))  # 70 MB
    code = f"""
        import sys
        from kerascv_course.analysis import summarize
        summary = summarize({str(path)!r})
        assert not {{"tensorflow", "keras", "torch", "onnxruntime"}} & set(sys.modules), "imported"
        print(summary.parameters)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 119 * (128 * 128 * 9 + 128) + 128 * 28


# --- PyTorch
# --------------------------------------------------------------------------------------------------------------------


def torch_network():
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, 4, 1), nn.ReLU(), nn.Conv2d(4, outputs, 1))

        def forward(self, x):
            y = self.norm2(self.conv2(torch.nn.functional.hardswish(self.norm1(self.conv1(x)))))
            return torch.relu(y * torch.sigmoid(self.gate(y)) + self.shortcut(x))

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Block(16, 16, 1), Block(16, 32, 2),
        nn.Upsample(scale_factor=2, mode="nearest"), nn.ConvTranspose2d(32, 8, 4, 2, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
def test_a_pytorch_export_has_the_totals_of_torchinfo_and_of_a_count_by_hand(tmp_path, dynamo):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: compare)")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed (torch.onnx.export needs it)")
    network, image = torch_network(), torch.randn(1, 3, 64, 64)
    path = tmp_path / "torch.onnx"
    torch.onnx.export(network, (image,), path, dynamo=dynamo)
    summary = summarize(path)

    macs = 0

    def hook(module, given, out):
        nonlocal macs
        if isinstance(module, torch.nn.ConvTranspose2d):
            macs += given[0].numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Conv2d):
            macs += out.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            macs += module.weight.numel()

    for module in network.modules():
        module.register_forward_hook(hook)
    network(image)
    assert summary.macs == macs
    norms = sum(2 * m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    parameters = sum(p.numel() for p in network.parameters())
    assert summary.parameters == parameters - norms // 2  # folded: 2C trainable become the C biases
    assert not summary.unknown

    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is not installed (extra: compare)")
    seen = torchinfo.summary(network, (1, 3, 64, 64), verbose=0)
    assert seen.total_params == parameters
    convolutions = [m for m in seen.summary_list if type(m.module) is torch.nn.Conv2d]
    biases = sum(math.prod(m.output_size) for m in convolutions if m.module.bias is not None)
    ours = [r for r in summary.rows if r.type == "Conv"]
    assert sum(m.macs for m in convolutions) == sum(r.macs for r in ours) + biases  # torchinfo counts biases as MACs
