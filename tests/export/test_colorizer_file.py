"""The exported colouriser: any size, tiles, colours laid over grey, the gate, and what must fail."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from export import OnnxModel, ParityError, check_parity, export_model, read_contract
from export.contract import ContractError
from export.predictor import lay_colors
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import ImageError
from kerascv_course.core.keras_file import load_model
from kerascv_course.data import load
from kerascv_course.data.palette import palette_of
from kerascv_course.tasks.colorization.task import ColorizationTask

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def model(color_run):
    return OnnxModel(color_run / "model.onnx")


@pytest.fixture(scope="module")
def data(color_recipe, color_images):
    return ColorizationTask(color_recipe).label(load(color_recipe.data, color_images), None)


@pytest.fixture(scope="module")
def serving(color_run, color_recipe, data):
    return ColorizationTask(color_recipe).serving_graph(load_model(color_run.path), data.info)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)


def test_the_file_explains_itself(color_run, data):
    contract = read_contract(color_run / "model.onnx")
    assert contract.task == "colorize" and contract.labels == data.info.labels
    assert (contract.input.height, contract.input.width, contract.input.channels) == (None, None, 3)
    assert [(o.name, o.meaning) for o in contract.outputs] == [
        ("logits", "logits"),
        ("classes", "classes"),
        ("colorized", "picture"),
    ]
    assert contract.tiling.multiple == 4 and contract.tiling.overlap >= 8
    assert contract.metric("accuracy") == color_run.read_json("metrics.json")["test"]["accuracy"]
    graph = onnx.load(color_run / "model.onnx").graph
    dims = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.output)]
    assert dims[0] == ["batch", "height", "width", 3] and dims[2] == ["batch", "height", "width"]


def test_the_gate_held_every_class_map_equal(color_run):
    parity = color_run.read_json("parity.json")
    assert parity["ok"] and {row["agreement"] for row in parity["rows"]} == {1.0} == {
        1.0 - row["margin"] for row in parity["rows"]
    }


def test_any_size_is_answered_as_by_keras(model, serving):
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 5), (16, 20), (33, 18), (64, 40)):
        image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        ours, theirs = model.run(image), serving.predict(image, verbose=0)
        assert ours["colorized"].shape == (1, height, width, 3) and ours["colorized"].dtype == np.uint8
        assert (ours["classes"] == theirs["classes"]).all() and (ours["colorized"] == theirs["colorized"]).all()
        np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-5)


def test_colours_are_the_palettes(model, photo):
    colors = set(map(tuple, model.colorize(photo).reshape(-1, 3).tolist()))
    assert colors <= set(map(tuple, palette_of(model.contract.labels).tolist()))


@pytest.mark.parametrize("tile", [1, 8, 30, 64, 500])
def test_tiles_give_what_the_whole_gives(model, photo, tile):
    whole = model.run(photo)["colorized"][0]
    assert (model.colorize(photo, tile=tile) == whole).all()


def test_with_too_little_overlap_tiles_would_differ(model, photo, color_run, tmp_path):
    def shorten(plain):
        plain["tiling"]["overlap"] = 0

    short = OnnxModel(altered(color_run / "model.onnx", tmp_path / "x.onnx", shorten))
    assert (short.colorize(photo, tile=8) != model.colorize(photo, tile=8)).any()


def test_grey_and_colour_are_coloured_alike(model, photo, tmp_path):
    gray = ((photo.astype(int).sum(-1) + 1) // 3).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert (model.colorize(gray) == model.colorize(np.repeat(gray[..., None], 3, -1))).all()
    assert (model.colorize(tmp_path / "gray.png") == model.colorize(gray)).all()


def test_a_picture_of_one_colour_is_answered(model):
    shown = model.colorize(np.full((9, 7, 3), 90, np.uint8))
    assert shown.shape == (9, 7, 3)


def test_colours_laid_over_grey(model, photo):
    small = np.zeros((2, 2, 3), np.uint8) + np.array([30, 0, 60], np.uint8)  # mean 30: tints 0, −30, +30
    pixels = np.full((4, 4, 3), 100, np.uint8)
    assert lay_colors(small, pixels)[0, 0].tolist() == [100, 70, 130]
    shown = model.colorize(photo, colors_at=16)
    assert shown.shape == photo.shape
    assert (model.colorize(photo, colors_at=83) == model.colorize(photo)).all(), "no smaller than the picture: as it is"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.colorize(np.zeros((4, 4, 3), np.float32)), ImageError, "received an array of float32"),
        (lambda m: m.colorize(np.zeros((0, 4, 3), np.uint8)), ImageError, "received"),
        (lambda m: m.colorize("no/such.jpg"), ImageError, "no such image"),
        (lambda m: m.colorize(np.zeros((4, 4), np.uint8), tile=0), InputError, "tile and colors_at are 1 pixel or more"),
        (lambda m: m.colorize(np.zeros((4, 4), np.uint8), colors_at=0), InputError, "1 pixel or more"),
        (
            lambda m: m.run([np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)]),
            ImageError,
            "of several sizes: call for each of them",
        ),
        (lambda m: m.predict(np.zeros((4, 4), np.uint8)), ContractError, r"use colorize\(\)"),
    ],
)
def test_what_cannot_be_coloured(model, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


def test_a_classifier_does_not_colour(tiny_run):
    with pytest.raises(ContractError, match="has the task 'classify', not 'colorize'"):
        OnnxModel(tiny_run / "model.onnx").colorize(np.zeros((4, 4), np.uint8))


# --- the gate ---


def altered(source, target, change):
    file = onnx.load(source)
    plain = json.loads(file.metadata_props[0].value)
    change(plain)
    file.metadata_props[0].value = json.dumps(plain)
    onnx.save(file, target)
    return target


def test_a_changed_palette_fails_the_gate(color_run, serving, data, tmp_path):
    file = onnx.load(color_run / "model.onnx")
    tensor = next(t for t in file.graph.initializer if list(t.dims) == [6, 3])
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, 0), tensor.name))
    onnx.save(file, tmp_path / "x.onnx")
    with pytest.raises(ParityError, match=r"output 'colorized'.*predictions agree .*; at least 99.99% are required"):
        check_parity(serving, tmp_path / "x.onnx", data.test.images)


def test_a_file_that_pads_wrongly_fails_the_gate_though_the_test_pictures_need_no_padding(
    color_run, color_recipe, data, tmp_path
):
    task, network = ColorizationTask(color_recipe), load_model(color_run.path)
    right = task.serving_graph(network, data.info)
    wrong = task.serving_graph(network, data.info)
    wrong.get_layer("pad").multiple = 8  # 16×20 would be padded as well: 16×24
    images = data.test.images[:, :, :16]
    options = {"task": "colorize", "labels": data.info.labels, "preprocessing": ((0.0,), (256 / 255,))}
    path = export_model(wrong, tmp_path / "x.onnx", **options)
    with pytest.raises(ParityError, match=r"images of 1\d×1\d, output"):
        check_parity(right, path, images)


def test_a_single_class_may_change_at_a_tie_only():
    from export.validation import Tolerances, _judge, _Tally

    scores = np.zeros((1, 100, 200, 3))
    scores[0, 0, 0] = (1.0, 1.0 - 1e-5, 0.0)
    scores[0, 0, 1] = (1.0, 0.9, 0.0)
    classes = np.zeros((1, 100, 200), np.uint8)
    for column, fails in ((0, False), (1, True)):
        changed, tally = classes.copy(), _Tally("classes")
        changed[0, 0, column] = 1
        tally.add(classes, changed, scores)
        row = tally.row("classes", 1, True)
        assert row.agreement > 0.9999
        assert bool(_judge(row, Tolerances(1e-4, 0), 0.9999, classes.size)) is fails
    assert "leads by 0.1, which is no tie" in _judge(row, Tolerances(1e-4, 0), 0.9999, classes.size)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain["labels"].pop(), "one color a class: 5 for"),
        (lambda plain: plain["tiling"].update(overlap=3), "an overlap of whole multiples"),
        (lambda plain: plain["tiling"].update(overlap=10**6), "an overlap of 0 to 4096"),
        (lambda plain: plain["tiling"].update(multiple=0), "multiples of 1 or more"),
        (lambda plain: plain["input"].update(height=32), "or neither, not 32×None"),
        (lambda plain: plain["outputs"].pop(2), "an output of picture for the task colorize"),
        (lambda plain: plain["input"].update(height=32, width=32), "promises the input"),
    ],
)
def test_contracts_that_do_not_hold_are_refused(color_run, tmp_path, change, message):
    with pytest.raises(ContractError, match=message):
        OnnxModel(altered(color_run / "model.onnx", tmp_path / "x.onnx", change))


def test_transposed_convolutions_are_one_node_each(color_run):
    file = onnx.load(color_run / "model.onnx")
    operators = [node.op_type for node in file.graph.node]
    assert operators.count("ConvTranspose") == 2 and len(operators) < 60


# --- the command ---


def test_the_command_writes_pictures_without_tensorflow(color_run, tmp_path, photo):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in" / "a.jpg")
    Image.fromarray(photo[..., 0]).save(tmp_path / "in" / "b.png")
    blocked = (
        "tensorflow",
        "keras",
        "onnx",
        "tf2onnx",
        "tyro",
        "sklearn",
        "matplotlib",
        "jinja2",
        "tqdm",
        "tensorflow_datasets",
    )
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from export.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "predict", color_run / "model.onnx", tmp_path / "in"]
    for _ in range(2):  # the second call does not colour what the first has left
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.jpg", "a_colorized.png", "b.png", "b_colorized.png"]
    with Image.open(tmp_path / "in" / "b_colorized.png") as picture:
        assert picture.mode == "RGB" and picture.size == (83, 61)


def test_outputs_go_where_they_are_sent(color_run, tmp_path, photo, capsys):
    from export.__main__ import main

    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(photo).save(tmp_path / "a.bmp")
    words = ["predict", str(color_run / "model.onnx"), str(tmp_path / "a.png")]
    assert main([*words, "--output", str(tmp_path / "new" / "x.jpg"), "--json", "--colors-at", "32"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["height"], line["width"]) == (61, 83) and (tmp_path / "new" / "x.jpg").is_file()
    assert main([*words, "--output", str(tmp_path / "new")]) == 0 and (tmp_path / "new" / "a_colorized.png").is_file()
    for more, message in (
        ([str(tmp_path / "a.bmp")], "two images would both be written to"),
        ([str(tmp_path / "a.bmp"), "--output", "x.png"], "--output must be a folder for several images"),
        (["--output", "x.txt"], "end like an image"),
        (["--output", str(tmp_path / "a.png")], "must not be the image itself"),
    ):
        with pytest.raises(InputError, match=message):
            main([*words, *more])


def test_a_classifier_has_no_pictures_to_write(tiny_run, tmp_path):
    from export.__main__ import main

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="are for colorizers"):
        main(["predict", str(tiny_run / "model.onnx"), str(tmp_path / "a.png"), "--output", "x.png"])
