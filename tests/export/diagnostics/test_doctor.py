"""The doctor: a file broken in each known way, and healthy files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from export import diagnose, export_model
from export.contract import KEY
from kerascv_course.core.errors import InputError

keras = pytest.importorskip("keras")

LABELS = ("Katze", "犬", "bird", "ship", "käfer")
MEAN, STD = np.array((0.4, 0.5, 0.6)), np.array((0.2, 0.25, 0.3))
#: (pixel · scale + offset), per channel, as the network was trained.
SCALE, OFFSET = 1 / (255 * STD), -MEAN / STD


def body(pixels, norm):
    """A small network from uint8 pixels to logits; `norm(x, number)` is its batch norm."""
    x = keras.layers.Rescaling(SCALE.tolist(), OFFSET.tolist(), name="normalize")(pixels)
    for number, width in ((1, 8), (2, 12)):
        x = keras.layers.Conv2D(width, 3, strides=number, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(norm(x, number))
    return keras.layers.Dense(len(LABELS), name="logits")(keras.layers.Flatten(name="flatten")(x))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), dtype="uint8", name="image")
    model = keras.Model(image, body(image, lambda x, n: keras.layers.BatchNormalization(name=f"bn{n}")(x)), name="small")
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            width = layer.gamma.shape[0]
            statistics = (
                rng.uniform(0.5, 2, width),
                rng.uniform(0, 1, width),
                rng.normal(size=width),
                rng.uniform(0.3, 3, width),
            )
            layer.set_weights(statistics)
    return model


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    return export_model(model, tmp_path_factory.mktemp("doctor") / "whole.onnx", labels=LABELS)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).integers(0, 256, (70, 12, 12, 3), np.uint8)


# --- ways to break a file ---


def constants(proto, kind):
    """The constant that the first node of an operator reads."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    node = next(node for node in proto.graph.node if node.op_type == kind)
    return next(stored[name] for name in node.input if name in stored)


def put(tensor, values):
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))


def normalize(scale, offset):
    """Make the graph compute pixel · scale + offset."""

    def change(proto):
        for kind, values in (("Mul", scale), ("Add", offset)):
            tensor = constants(proto, kind)  # (3,), or (3, 1, 1) where channels come first
            put(tensor, np.broadcast_to(values, 3).reshape(tensor.dims))

    return change


def before(*nodes, **stored):
    """Insert nodes after the input; the last one computes ``broken``."""

    def change(proto):
        for node in proto.graph.node:
            node.input[:] = ["broken" if name == "image" else name for name in node.input]
        rest = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*nodes, *rest])
        proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items())

    return change


SWAP_CHANNELS = before(helper.make_node("Gather", ["image", "order"], ["broken"], axis=3), order=np.array([2, 1, 0]))


def read_as_nchw(proto):
    before(
        helper.make_node("Reshape", ["image", "shape"], ["planes"]),
        helper.make_node("Transpose", ["planes"], ["broken"], perm=[0, 2, 3, 1]),
        shape=np.array([-1, 3, 12, 12]),
    )(proto)


def read_as_nhwc(proto):
    before(
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["planes", "shape"], ["broken"]),
        shape=np.array([-1, 12, 12, 3]),
    )(proto)


def after_softmax(kind):
    """Replace the softmax."""

    def change(proto):
        node = next(node for node in proto.graph.node if node.op_type == "Softmax")
        if kind == "missing":
            node.CopyFrom(helper.make_node("Identity", ["logits"], ["probabilities"]))
        elif kind == "doubled":
            node.output[0] = "once"
            proto.graph.node.append(helper.make_node("Softmax", ["once"], ["probabilities"], axis=-1))
        else:  # the logits are probabilities
            for other in proto.graph.node:
                for names in (other.input, other.output):
                    names[:] = ["scores" if name == "logits" else name for name in names]
            proto.graph.node.append(helper.make_node("Identity", ["probabilities"], ["logits"]))

    return change


def roll_classes(proto):
    for tensor in proto.graph.initializer:
        if tensor.dims and tensor.dims[-1] == len(LABELS) and tensor.data_type == onnx.TensorProto.FLOAT:
            put(tensor, np.roll(numpy_helper.to_array(tensor), 1, axis=-1))


def change_contract(change):
    def apply(proto):
        entry = next(item for item in proto.metadata_props if item.key == KEY)
        plain = json.loads(entry.value)
        change(plain)
        entry.value = json.dumps(plain)

    return apply


def broken(source, target, *changes):
    proto = onnx.load(source)
    for change in changes:
        change(proto)
    onnx.save(proto, target)
    return target


# --- against the Keras model ---


def test_doctor_finds_a_healthy_file_healthy(whole, model, noise):
    diagnosis = diagnose(whole, model, noise, np.zeros(70, int), labels=LABELS)
    assert diagnosis.healthy and diagnosis.before.agreement == 1 and diagnosis.before.max_absolute < 1e-5
    assert "healthy: nothing found" in str(diagnosis) and diagnosis.after is None


DEFECTS = {
    "channels": ([SWAP_CHANNELS], "channels", "RGB against BGR"),
    "divided twice": ([normalize(SCALE / 255, OFFSET)], "range", "divided by 255 twice"),
    "not divided": ([normalize(SCALE * 255, OFFSET)], "range", "are not divided by 255"),
    "mean and std missing": ([normalize(1 / 255, 0)], "normalization", "mean and standard deviation are missing"),
    "all missing": ([normalize(1, 0)], "normalization", "pixels are not normalized"),
    "mean and std twice": ([normalize(SCALE / STD, (OFFSET - MEAN) / STD)], "normalization", "applied twice"),
    "scale missing": ([normalize(1, OFFSET)], "normalization", "the scale is missing"),
    "other mean and std": ([normalize(1 / 127.5, -1)], "normalization", "−1…1 where the model's own"),
    "read as NCHW": ([read_as_nchw], "layout", "NHWC pixels are read as NCHW"),
    "read as NHWC": ([read_as_nhwc], "layout", "NCHW pixels are read as NHWC"),
    "transposed": (
        [before(helper.make_node("Transpose", ["image"], ["broken"], perm=[0, 2, 1, 3]))],
        "layout",
        "rows and columns are swapped",
    ),
    "softmax missing": ([after_softmax("missing")], "softmax", "the softmax is missing"),
    "softmax twice": ([after_softmax("doubled")], "softmax", "the softmax is applied twice"),
    "logits are probabilities": ([after_softmax("instead")], "softmax", "the logits are probabilities already"),
    "classes": ([roll_classes], "classes", "the classes are in another order"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_doctor_names_the_defect(case, whole, model, noise, tmp_path):
    changes, kind, words = DEFECTS[case]
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", *changes), model, noise, labels=LABELS)
    assert diagnosis.kinds == (kind,) and words in diagnosis.findings[0].name
    assert diagnosis.before.max_absolute > 1e-3
    assert diagnosis.after.agreement == 1 and diagnosis.after.max_absolute < 1e-4
    assert "as it is: agreement" in str(diagnosis) and f"not healthy: {kind}" in str(diagnosis)
    json.dumps(diagnosis.to_plain(), allow_nan=False)


def test_doctor_finds_two_defects_together(whole, model, noise, tmp_path):
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", SWAP_CHANNELS, roll_classes), model, noise)
    assert set(diagnosis.kinds) == {"channels", "classes"} and diagnosis.after.agreement == 1


def test_doctor_finds_batch_norm_in_training_mode(model, noise, tmp_path):
    def batch_norm(x, number):
        layer = model.get_layer(f"bn{number}")
        mean, variance = keras.ops.moments(x, axes=(0, 1, 2))
        return (x - mean) * keras.ops.rsqrt(variance + layer.epsilon) * layer.gamma.numpy() + layer.beta.numpy()

    image = keras.Input((12, 12, 3), dtype="uint8", name="image")
    training = keras.Model(image, body(image, batch_norm))
    for name in ("conv1", "conv2", "logits"):
        training.get_layer(name).set_weights(model.get_layer(name).get_weights())
    kept = [weights.copy() for weights in model.get_weights()]
    diagnosis = diagnose(export_model(training, tmp_path / "x.onnx"), model, noise)
    assert diagnosis.kinds == ("batch norm",) and "training mode" in diagnosis.findings[0].name
    assert diagnosis.after.agreement == 1 and diagnosis.before.agreement < 1
    for now, then in zip(model.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_doctor_finds_batch_norm_with_new_statistics(model, whole, noise, tmp_path):
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    for name in ("bn1", "bn2"):
        layer = fresh.get_layer(name)
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_mean.shape))
    diagnosis = diagnose(export_model(fresh, tmp_path / "x.onnx"), model, noise)
    assert diagnosis.kinds == ("batch norm",) and "statistics of a new network" in diagnosis.findings[0].name


def add_when_batch_is(*sizes):
    """Add 1 to the first logit in batches of these sizes."""

    def change(proto):
        for node in proto.graph.node:
            node.output[:] = ["before" if name == "logits" else name for name in node.output]
            node.input[:] = ["before" if name == "logits" else name for name in node.input]
        nodes = [
            helper.make_node("Shape", ["image"], ["size"], start=0, end=1),
            helper.make_node("Equal", ["size", "sizes"], ["is"]),
            helper.make_node("Cast", ["is"], ["ones"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["ones"], ["one"], keepdims=0),
            helper.make_node("Mul", ["one", "first"], ["more"]),
            helper.make_node("Add", ["before", "more"], ["logits"]),
        ]
        proto.graph.node.extend(nodes)
        stored = {"sizes": np.array(sizes), "first": np.eye(1, len(LABELS), dtype=np.float32)[0]}
        proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in stored.items())

    return change


@pytest.mark.parametrize("sizes", [(8,), (64,), (2, 3, 7, 8)])
@pytest.mark.parametrize("images", [70, 5, 1])
def test_doctor_finds_batches_that_are_answered_wrongly(sizes, images, whole, model, noise, tmp_path):
    path = broken(whole, tmp_path / "x.onnx", add_when_batch_is(*sizes))
    diagnosis = diagnose(path, model, noise[:images])
    assert diagnosis.kinds == ("batch",)
    assert f"answers wrongly in batches of {', '.join(map(str, sizes))}" in diagnosis.findings[0].name
    assert "in batches of 1, " in diagnosis.findings[0].evidence


def test_doctor_runs_a_file_of_a_fixed_batch_in_its_batches(model, noise, tmp_path):
    image = keras.Input(batch_shape=(4, 12, 12, 3), dtype="uint8", name="image")
    fixed = keras.Model(image, model(image), name="fixed")
    path = export_model(fixed, tmp_path / "x.onnx", task="classify")
    diagnosis = diagnose(path, fixed, noise[:6])
    assert diagnosis.healthy and diagnosis.before.agreement == 1


@pytest.fixture(scope="module")
def quantized(whole, noise, tmp_path_factory):
    """The file by onnxruntime's own quantizer, which keeps the contract that states float32."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([{"image": noise}])

        def get_next(self):
            return next(self.batches, None)

    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    quantize_static(whole, path, Reader(), per_channel=True)
    return path


def state_precision(plain):
    plain["precision"] = {
        "kind": "int8", "method": "static", "calibration_images": 70, "float_nodes": [], "split": "test", "images": 70,
        "accuracy_float32": 0.9, "accuracy": 0.9, "batch_sizes": [1], "speedups": [2.0], "machine": "this", "refused": [],
    }  # fmt: skip


def test_doctor_knows_a_quantized_file_that_states_it_from_one_that_does_not(quantized, whole, model, noise, tmp_path):
    stated = broken(quantized, tmp_path / "stated.onnx", change_contract(state_precision))
    diagnosis = diagnose(stated, model, noise)
    assert diagnosis.healthy and "computed in int8, as its contract states" in str(diagnosis)
    assert diagnosis.before.max_absolute > 1e-3
    diagnosis = diagnose(quantized, model, noise)
    assert diagnosis.kinds == ("precision",)
    assert "the graph computes in int8, the contract states float32" in diagnosis.findings[0].name
    diagnosis = diagnose(broken(whole, tmp_path / "float.onnx", change_contract(state_precision)), model, noise)
    assert diagnosis.kinds == ("precision",)
    assert "the graph computes in float32, the contract states int8" in diagnosis.findings[0].name


@pytest.mark.parametrize("case", ["channels", "read as NCHW", "transposed"])
def test_doctor_finds_what_is_wrong_with_a_quantized_file_besides(case, quantized, model, noise, tmp_path):
    changes, kind, words = DEFECTS[case]
    diagnosis = diagnose(broken(quantized, tmp_path / "x.onnx", *changes, change_contract(state_precision)), model, noise)
    assert diagnosis.kinds == (kind,) and words in diagnosis.findings[0].name


def test_doctor_finds_changed_labels(whole, model, noise, tmp_path):
    def rename(plain):
        plain["labels"][1] = "dog"

    def exchange(plain):
        plain["labels"] = plain["labels"][::-1]

    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", change_contract(rename)), model, noise, labels=LABELS)
    assert diagnosis.kinds == ("labels",)
    assert "1 of 5 labels differ, first class 1: 'dog' in the contract, '犬' in the reference" in str(diagnosis)
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", change_contract(exchange)), model, noise, labels=LABELS)
    assert "the same names in another order" in str(diagnosis)


def test_doctor_says_why_a_file_cannot_be_opened(whole, model, noise, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole.read_bytes()[:-500])
    diagnosis = diagnose(cut, model, noise)
    assert diagnosis.kinds == ("broken file",) and "cut short, damaged, not ONNX or not safe" in str(diagnosis)
    removed = broken(whole, tmp_path / "x.onnx", lambda proto: proto.graph.output.pop(0))
    diagnosis = diagnose(removed, model, noise, labels=LABELS)
    assert set(diagnosis.kinds) == {"contract", "outputs"} and "the output 'logits' is missing" in str(diagnosis)
    assert "promises other outputs than the graph has" in str(diagnosis)
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    assert diagnose(whole, other, noise).kinds == ("input",)


def test_doctor_refuses_bad_arguments(whole, model, noise, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        diagnose(tmp_path / "none.onnx", model, noise)
    with pytest.raises(InputError, match="give a model, or targets"):
        diagnose(whole, None, noise)
    with pytest.raises(InputError, match="one image or more"):
        diagnose(whole, model, noise[:0])
    with pytest.raises(InputError, match=r"images must be uint8 .* received float32"):
        diagnose(whole, model, noise.astype(np.float32))


def test_doctor_takes_float_input_and_nchw_files(model, noise, tmp_path):
    core = keras.Model(model.get_layer("conv1").input, model.output)
    options = {"preprocessing": (MEAN, STD), "layout": "NCHW"}
    for dtype in ("float32", "uint8"):
        path = export_model(core, tmp_path / f"{dtype}.onnx", input_dtype=dtype, **options)
        assert diagnose(path, core, noise, preprocessing=(MEAN, STD)).healthy
    diagnosis = diagnose(path, core, noise, preprocessing=((0.5,), (0.5,)))
    assert diagnosis.kinds == ("normalization",) and diagnosis.after.agreement == 1


def test_doctor_takes_files_without_a_contract(whole, model, noise, tmp_path):
    def strip(proto):
        del proto.metadata_props[:]

    assert diagnose(broken(whole, tmp_path / "x.onnx", strip), model, noise).healthy
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", strip, SWAP_CHANNELS), model, noise)
    assert diagnosis.kinds == ("channels",)


# --- images of other sizes ---


@pytest.fixture(scope="module")
def large():
    return [np.random.default_rng(i).integers(0, 256, (30 + i, 41, 3), np.uint8) for i in range(12)]


def test_doctor_compares_the_contract_filter_with_the_training(whole, model, large, tmp_path):
    assert diagnose(whole, model, large, resize="bilinear").healthy

    def other(plain):
        plain["input"]["resize"] = "nearest"

    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", change_contract(other)), model, large, resize="bilinear")
    assert diagnosis.kinds == ("resize",) and "resizes by nearest, the model was trained with bilinear" in str(diagnosis)


def test_doctor_recognizes_resizing_inside_the_graph(whole, model, large, tmp_path):
    def resize(proto):
        before(
            helper.make_node("Cast", ["image"], ["floats"], to=1),
            helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Shape", ["planes"], ["count"], start=0, end=2),
            helper.make_node("Concat", ["count", "size"], ["sizes"], axis=0),
            helper.make_node("Resize", ["planes", "", "", "sizes"], ["small"], mode="linear"),
            helper.make_node("Transpose", ["small"], ["broken"], perm=[0, 2, 3, 1]),
            size=np.array([12, 12]),
        )(proto)
        for axis, name in ((1, "height"), (2, "width")):
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
        del proto.metadata_props[:]

    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", resize), model, large, resize="bilinear")
    assert diagnosis.kinds == ("resize",)
    assert "resizes like 'linear, not antialiased, half-pixel centers'" in str(diagnosis)


# --- layer by layer ---


def change_weight(name, amount=0.05):
    def change(proto):
        tensor = next(tensor for tensor in proto.graph.initializer if name in tensor.name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[values.size // 2] += amount
        put(tensor, values)

    return change


@pytest.mark.parametrize(("part", "layer"), [("conv1", "bn1"), ("conv2", "bn2"), ("logits/kernel", "logits")])
def test_doctor_finds_a_changed_weight(part, layer, whole, model, noise, tmp_path):
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", change_weight(part)), model, noise)
    assert diagnosis.kinds == ("layer",) and diagnosis.layer.layer == layer
    assert diagnosis.layer.after is not None and diagnosis.layer.after_absolute < 1e-5
    (weights,) = diagnosis.layer.weights
    assert weights.differing == 1 and weights.file - weights.keras == pytest.approx(0.05, rel=1e-3)
    assert part.split("_")[0] in weights.initializer and "the first tensor that differs is that of layer" in str(diagnosis)


def test_doctor_finds_a_weight_that_is_nan(whole, model, noise, tmp_path):
    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", change_weight("conv2", np.nan)), model, noise)
    assert diagnosis.layer.layer == "bn2"
    json.dumps(diagnosis.to_plain(), allow_nan=False)


def test_doctor_finds_a_changed_layer(whole, model, noise, tmp_path):
    def no_relu(proto):
        node = [node for node in proto.graph.node if node.op_type == "Relu"][1]
        node.CopyFrom(helper.make_node("Identity", node.input, node.output, node.name))

    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", no_relu), model, noise)
    assert diagnosis.kinds == ("layer",) and diagnosis.layer.layer == "relu2" and diagnosis.layer.weights == ()
    assert diagnosis.layer.operator == "Identity"


def test_doctor_finds_a_changed_weight_beside_another_defect(whole, model, noise, tmp_path):
    path = broken(whole, tmp_path / "x.onnx", normalize(1, 0), change_weight("conv2", 0.01))
    diagnosis = diagnose(path, model, noise)
    assert diagnosis.kinds == ("normalization", "layer") and diagnosis.layer.layer == "bn2"


def test_doctor_finds_layers_without_their_names(whole, model, noise, tmp_path):
    def rename(proto):
        change_weight("conv2")(proto)
        names = {"image": "image", "logits": "logits", "probabilities": "probabilities"}
        for number, node in enumerate(proto.graph.node):
            node.name = f"n{number}"
            for name in (*node.input, *node.output):
                names.setdefault(name, f"t{len(names)}")
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        for tensor in proto.graph.initializer:
            tensor.name = names[tensor.name]
        del proto.graph.value_info[:]

    diagnosis = diagnose(broken(whole, tmp_path / "x.onnx", rename), model, noise)
    assert diagnosis.kinds == ("layer",) and diagnosis.layer.layer == "logits"
    assert diagnosis.layer.after == "relu1" and diagnosis.layer.between == ("conv2", "bn2", "relu2", "flatten")


# --- other tasks ---


def test_doctor_takes_a_model_with_other_outputs(noise, tmp_path):
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 3))
    features = keras.layers.Conv2D(4, 3, name="features")(image)
    model = keras.Model(image, [features, keras.layers.GlobalAveragePooling2D(name="pool")(features)])
    path = export_model(model, tmp_path / "x.onnx")
    assert diagnose(path, model, noise).healthy
    assert diagnose(broken(path, path, SWAP_CHANNELS), model, noise).kinds == ("channels",)


def test_doctor_takes_a_colorizer(color_run, tmp_path):
    from kerascv_course.experiment import Experiment

    experiment = Experiment.open(color_run.path)
    serving, splits, labels = experiment.serving_graph(), experiment.data, experiment.labels()
    images, targets = splits.test.images, splits.test.targets
    options = {"labels": labels, "task": "colorize"}
    healthy = diagnose(color_run / "model.onnx", serving, images, targets, **options)
    assert healthy.healthy and healthy.before.accuracy is not None
    path = broken(color_run / "model.onnx", tmp_path / "x.onnx", change_weight("logits"))
    assert diagnose(path, serving, images, targets, **options).kinds == ("layer",)


# --- labeled images alone ---


@pytest.fixture(scope="module")
def centers():
    return np.random.default_rng(3).integers(30, 226, (5, 3))


@pytest.fixture(scope="module")
def nearest(centers, tmp_path_factory):
    """A classifier of mean colors without training: logits = 2 c · x − |c|², in normalized colors."""
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Dense(5, name="logits")(keras.layers.GlobalAveragePooling2D()(image)))
    colors = centers * SCALE + OFFSET
    model.set_weights([10 * 2 * colors.T, -10 * (colors**2).sum(axis=1)])
    path = tmp_path_factory.mktemp("nearest") / "nearest.onnx"
    return export_model(model, path, labels=LABELS, preprocessing=(MEAN, STD))


@pytest.fixture(scope="module")
def patches(centers):
    rng = np.random.default_rng(4)
    targets = np.arange(200) % 5
    images = centers[targets][:, None, None] + rng.normal(0, 25, (200, 16, 16, 3)) + rng.normal(0, 8, (200, 1, 1, 3))
    return images.clip(0, 255).astype(np.uint8), targets


def test_doctor_finds_a_healthy_file_healthy_by_labels(nearest, patches):
    diagnosis = diagnose(nearest, None, *patches, labels=LABELS)
    assert diagnosis.healthy and diagnosis.before.accuracy > 0.95 and "hypotheses tested" in str(diagnosis)


@pytest.mark.parametrize(
    "case", ["channels", "divided twice", "not divided", "mean and std missing", "mean and std twice", "classes"]
)
def test_doctor_names_the_defect_by_accuracy(case, nearest, patches, tmp_path):
    changes, kind, _ = DEFECTS[case]
    diagnosis = diagnose(broken(nearest, tmp_path / "x.onnx", *changes), None, *patches, labels=LABELS)
    assert diagnosis.kinds == (kind,)
    assert diagnosis.before.accuracy < 0.8 and diagnosis.after.accuracy > 0.95
    assert "by chance with probability" in str(diagnosis)


def test_doctor_finds_labels_in_another_order_by_accuracy(nearest, patches, tmp_path):
    def exchange(plain):
        plain["labels"] = [plain["labels"][i] for i in (1, 2, 0, 3, 4)]

    diagnosis = diagnose(broken(nearest, tmp_path / "x.onnx", change_contract(exchange)), None, *patches, labels=LABELS)
    assert diagnosis.kinds == ("classes",) and diagnosis.after.accuracy > 0.95


def test_doctor_finds_a_missing_or_double_softmax_without_a_model(nearest, patches, tmp_path):
    for kind in ("missing", "doubled"):
        diagnosis = diagnose(broken(nearest, tmp_path / "x.onnx", after_softmax(kind)), None, *patches, labels=LABELS)
        assert diagnosis.kinds == ("softmax",)


def test_doctor_refuses_few_images_and_unknown_classes(nearest, patches):
    images, targets = patches
    with pytest.raises(InputError, match="40 labeled images or more"):
        diagnose(nearest, None, images[:10], targets[:10], labels=LABELS)
    with pytest.raises(InputError, match="the class 'horse', which the file does not have"):
        diagnose(nearest, None, images, targets, labels=(*LABELS, "horse"))


# --- the command ---


def test_doctor_command_exit_codes(tiny_run, nearest, patches, tmp_path, capsys):
    from export.__main__ import main

    assert main(["doctor", str(tiny_run / "model.onnx"), "--against", str(tiny_run.path), "--limit", "40"]) == 0
    assert "healthy: nothing found" in capsys.readouterr().out
    for number, (image, target) in enumerate(zip(*patches, strict=True)):
        folder = tmp_path / "pictures" / LABELS[target]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    path = broken(nearest, tmp_path / "x.onnx", SWAP_CHANNELS)
    assert main(["doctor", str(path), "--against", str(tmp_path / "pictures"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "channels"
    for against, message in ((tmp_path / "none", "no such run folder"), (path, "--against must be a run folder")):
        with pytest.raises(InputError, match=message):
            main(["doctor", str(path), "--against", str(against)])


def test_doctor_command_takes_a_keras_file(model, whole, noise, tmp_path, capsys):
    from export.__main__ import main

    model.save(tmp_path / "small.keras")
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(noise[:10]):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    words = ["doctor", str(whole), "--against", str(tmp_path / "small.keras")]
    assert main([*words, "--images", str(tmp_path / "pictures")]) == 0
    with pytest.raises(InputError, match="give --images FOLDER"):
        main(words)


def test_diagnosis_is_json_able(whole, model, noise):
    diagnosis = diagnose(whole, model, noise[:2])
    assert dataclasses.is_dataclass(diagnosis) and json.loads(json.dumps(diagnosis.to_plain()))["healthy"] is True
