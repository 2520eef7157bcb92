"""Files with a gallery: building, querying, enrolling, and refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from export import OnnxModel
from export.__main__ import main
from export.contract import ContractError
from export.files import rewrite_contract
from export.gallery.retriever import RetrieverError, build_retriever, enroll, read_gallery, validate_retriever
from kerascv_course.core.errors import InputError
from kerascv_course.core.ranking import nearest


@pytest.fixture(scope="module")
def retriever(identity_run, people, tmp_path_factory):
    """The validation identities of the tiny run, three nearest; tests must not change it."""
    target = tmp_path_factory.mktemp("retriever") / "who.onnx"
    return build_retriever(identity_run / "model.onnx", people / "val", target, count=3)


def test_retriever_ranks_as_numpy_does(retriever, identity_run, people):
    model, embedder = OnnxModel(retriever), OnnxModel(identity_run / "model.onnx")
    paths, names = read_gallery(people / "val")
    assert (len(paths), model.contract.gallery) == (24, tuple(names)) and set(names) == {"id6", "id7", "id8", "id9"}
    strangers = sorted((people / "train").rglob("*.png"))
    vectors, gallery = (embedder.run(some)["embedding"] for some in (strangers, paths))
    expected, found = nearest(vectors, gallery, 3), model.nearest(strangers)
    np.testing.assert_array_equal(found.numbers, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, atol=1e-6)
    assert found.names[0] == [names[i] for i in expected.indices[0]]
    own = model.nearest(paths)
    assert own.numbers[:, 0].tolist() == list(range(24)) and own.distances[:, 0].max() < 1e-5
    parity = model.contract.parity
    assert parity.images == 24 and parity.agreement == 1 and parity.largest_difference < 1e-5


def test_enroll_adds_names_without_training(retriever, people, tmp_path):
    path = tmp_path / "who.onnx"
    shutil.copy(retriever, path)
    before = OnnxModel(path).nearest(sorted((people / "val").rglob("*.png")))
    shutil.copytree(people / "train" / "id2", tmp_path / "new" / "Zoë")
    assert enroll(path, tmp_path / "new") == (6, 1)
    model = OnnxModel(path)
    assert len(model.contract.gallery) == 30 and model.contract.gallery[-1] == "Zoë"
    found = model.nearest(sorted((tmp_path / "new").rglob("*.png")))
    assert [row[0] for row in found.names] == ["Zoë"] * 6 and found.numbers[:, 0].tolist() == list(range(24, 30))
    again = model.nearest(sorted((people / "val").rglob("*.png")))
    np.testing.assert_array_equal(again.numbers[:, 0], before.numbers[:, 0])
    assert enroll(path, tmp_path / "new") == (6, 0)  # the same pictures again: the first entry of equal distances comes first
    assert OnnxModel(path).nearest(sorted((tmp_path / "new").rglob("*.png"))).numbers[:, 0].tolist() == list(range(24, 30))


def test_small_gallery_grows_to_the_full_answer(identity_run, people, tmp_path):
    for number in (0, 1):
        (tmp_path / "few").mkdir(exist_ok=True)
        shutil.copy(people / "val" / "id6" / f"{number}.png", tmp_path / "few" / f"person{number}.png")
    path = build_retriever(identity_run / "model.onnx", tmp_path / "few", tmp_path / "few.onnx", count=5)
    assert OnnxModel(path).nearest(tmp_path / "few" / "person1.png").names == [["person1", "person0"]]
    enroll(path, people / "val")
    assert OnnxModel(path).nearest(tmp_path / "few" / "person1.png").distances.shape == (1, 5)


def test_embed_and_search_commands(identity_run, retriever, people, tmp_path, capsys):
    """They find what the file with the gallery inside finds; a damaged image is skipped."""
    embedder, gallery, asked = str(identity_run / "model.onnx"), tmp_path / "gallery.npy", tmp_path / "asked.npy"
    shutil.copytree(people / "val", tmp_path / "val")
    assert main(["embed", embedder, str(tmp_path / "val"), "--output", str(gallery)]) == 0
    strangers = sorted((people / "train").rglob("*.png"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="skipped 1 of 37 images: ") as told:
        main(["embed", embedder, str(tmp_path / "broken.png"), *map(str, strangers), "--output", str(asked)])
    assert "broken.png" in str(told.value) and "36 embeddings of 8 numbers" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(asked), OnnxModel(embedder).run(strangers)["embedding"])
    assert (tmp_path / "asked.txt").read_text().splitlines() == list(map(str, strangers))
    assert main(["search", str(gallery), str(asked), "--json"]) == 0
    found = [json.loads(line)["nearest"] for line in capsys.readouterr().out.splitlines()]
    expected = OnnxModel(retriever).nearest(strangers)
    assert [[entry["entry"] for entry in row] for row in found] == expected.numbers.tolist()
    paths = sorted((tmp_path / "val").rglob("*.png"))
    assert found[0][0]["name"] == str(paths[expected.numbers[0, 0]])
    with pytest.raises(InputError, match=r"--output must be a \.npy file"):
        main(["embed", embedder, str(strangers[0]), "--output", "vectors.bin"])


def test_gallery_and_add_commands(identity_run, people, tmp_path, capsys):
    output, embedder = tmp_path / "who.onnx", identity_run / "model.onnx"
    assert main([str(embedder), "--gallery", str(people / "val"), "--nearest", "2", "-o", str(output)]) == 0
    shutil.copytree(people / "train" / "id0", tmp_path / "new" / "id0")
    assert main([str(output), "--add", str(tmp_path / "new")]) == 0
    assert "added 6 images, 1 new name" in capsys.readouterr().out
    picture = str(people / "train" / "id0" / "3.png")
    assert main(["predict", str(output), picture, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] == "id0" and answer["nearest"][0]["distance"] < 1e-5
    assert main(["predict", str(output), picture, "--top", "1"]) == 0
    assert capsys.readouterr().out.split() == [picture, "id0", "0.000"]
    assert main(["predict", str(embedder), picture]) == 0
    assert "… (8 numbers; all: --json)" in capsys.readouterr().out
    assert main(["predict", str(embedder), picture, "--json"]) == 0
    vector = json.loads(capsys.readouterr().out)["embedding"]
    np.testing.assert_allclose(vector, OnnxModel(embedder).run(picture)["embedding"][0], atol=1e-6)
    assert main(["inspect", str(output)]) == 0
    assert "30 images of 5: id6" in capsys.readouterr().out


def test_gallery_command_records_the_weights_of_a_run(identity_run, people, tmp_path):
    run = shutil.copytree(identity_run.path, tmp_path / "run")
    assert main([str(run), "--gallery", str(people / "val")]) == 0
    made_from = json.loads((run / "provenance.json").read_bytes())
    assert made_from["retriever.onnx"] == made_from["model.onnx"]


def test_predict_with_a_gallery_needs_numpy_onnxruntime_and_pillow_only(retriever, people):
    blocked = ("tensorflow", "keras", "onnx", "tf2onnx", "tyro", "sklearn", "scipy", "matplotlib", "jinja2", "tqdm")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from export.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "predict", retriever, people / "val" / "id8", "--top", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [["id8", "0.000"]] * 6


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--gallery", "{empty}"], "the gallery .* is empty"),
        (["--gallery", "nowhere"], "no such folder: nowhere"),
        (["--gallery", "{damaged}"], r"1 of 2 images cannot be used.*bad\.png"),
        (["--gallery", "{val}", "--nearest", "0"], "1 neighbor or more; received 0"),
        (["--gallery", "{val}", "--add", "{val}"], "received --add too"),
        (["--gallery", "{val}", "--noise"], "received --noise too"),
        (["--add", "{val}"], "images can be added to a retriever of ours only.*'embed'"),
        (["--nearest", "3"], "--nearest is for --gallery"),
    ],
)
def test_gallery_commands_refuse_bad_usage(identity_run, people, tmp_path, arguments, rule):
    (tmp_path / "empty").mkdir()
    shutil.copytree(people / "val" / "id6", tmp_path / "damaged", ignore=lambda _, names: [n for n in names if n != "0.png"])
    (tmp_path / "damaged" / "bad.png").write_bytes(b"\x89PNG no")
    places = {"empty": tmp_path / "empty", "damaged": tmp_path / "damaged", "val": people / "val"}
    with pytest.raises(InputError, match=rule):
        main([str(identity_run / "model.onnx"), *(word.format(**places) for word in arguments), "-o", str(tmp_path / "x.onnx")])
    assert not (tmp_path / "x.onnx").exists()


def test_retriever_needs_a_validated_embedder(identity_run, people, tiny_run, retriever, tmp_path):
    with pytest.raises(ContractError, match=r"made from a file of the task 'embed'; .* has 'classify'"):
        build_retriever(tiny_run / "model.onnx", people / "val", tmp_path / "x.onnx")
    path = tmp_path / "unvalidated.onnx"
    shutil.copy(identity_run / "model.onnx", path)
    rewrite_contract(path, dataclasses.replace(OnnxModel(path).contract, parity=None))
    with pytest.raises(ContractError, match="is not validated"):
        build_retriever(path, people / "val", tmp_path / "x.onnx")
    with pytest.raises(ContractError, match="not 'rank': it has no gallery"):
        OnnxModel(identity_run / "model.onnx").nearest(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ContractError, match="use nearest"):
        OnnxModel(retriever).predict(np.zeros((16, 16, 3), np.uint8))
    short = tmp_path / "short.onnx"
    shutil.copy(retriever, short)
    rewrite_contract(short, dataclasses.replace(OnnxModel(short).contract, gallery=("one",)))
    with pytest.raises(ContractError, match="other numbers than those of its 1 gallery entries"):
        OnnxModel(short).nearest(np.zeros((16, 16, 3), np.uint8))


def test_validate_retriever_fails_for_another_gallery(retriever, people):
    model = OnnxModel(retriever)
    pictures = np.stack([model.load(path) for path in read_gallery(people / "val")[0]])
    vectors = model.run(pictures)["embedding"]
    with pytest.raises(RetrieverError, match="does not rank as NumPy does"):
        validate_retriever(retriever, pictures, vectors, vectors[::-1].copy())
