from __future__ import annotations

import os
import signal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from export.contract import Contract, ContractError, Input, Output, Preprocessing
from export.files import describe
from export.predictor import OnnxModel
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.lock import LockedError

SIZE, CLASSES = 6, 5
LABELS = tuple(f"class {number}" for number in range(CLASSES))

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra [cluster]")
parquet = pytest.importorskip("pyarrow.parquet")


def make_file(path, task, *, size=SIZE):
    """A file with random weights: pixels to a few numbers, then the outputs of the task."""
    rng = np.random.default_rng(0)
    features = SIZE * SIZE * 3 if size else 3
    weights = helper.make_tensor("w", 1, (features, CLASSES), rng.normal(0, 0.01, (features, CLASSES)).ravel())
    nodes = [helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT)]
    if size:
        nodes += [helper.make_node("Flatten", ["real"], ["flat"])]
    else:  # a 3×3 convolution, so that smaller images fail
        kernel = helper.make_tensor("k", 1, (3, 3, 3, 3), rng.normal(0, 0.1, 81))
        nodes += [
            helper.make_node("Constant", [], ["kernel"], value=kernel),
            helper.make_node("Transpose", ["real"], ["channels"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["channels", "kernel"], ["conv"]),
            helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
        ]
    nodes += [helper.make_node("MatMul", ["flat", "w"], ["numbers"])]
    outputs, gallery, labels = [], (), ()
    if task == "classify":
        nodes += [helper.make_node("Softmax", ["numbers"], ["probabilities"])]
        outputs, labels = [Output("probabilities", "probabilities", (CLASSES,), "softmax")], LABELS
    elif task == "rank":
        best = helper.make_tensor("best", TensorProto.INT64, (1,), [3])
        nodes += [
            helper.make_node("Constant", [], ["best"], value=best),
            helper.make_node("TopK", ["numbers", "best"], ["distances", "neighbors"], largest=0),
        ]
        outputs = [Output("neighbors", "neighbors", (3,)), Output("distances", "distances", (3,))]
        gallery = ("ann", "ann", "bob", "eve", "eve")
    elif task == "embed":
        nodes += [helper.make_node("LpNormalization", ["numbers"], ["embedding"])]
        outputs = [Output("embedding", "embedding", (CLASSES,), "l2")]
    else:
        outputs = [Output("numbers", "values", (CLASSES,))]
    kinds = {"neighbors": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        task,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(o.name, kinds.get(o.name, 1), ["batch", *o.shape]) for o in outputs],
        [weights],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    image = Input("image", "uint8", "NHWC", size, size, 3, "RGB")
    describe(proto, Contract(task, task, image, Preprocessing("graph", scale=1.0), tuple(outputs), labels, gallery))
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_file(tmp_path_factory.mktemp("file") / "classify.onnx", "classify")


@pytest.fixture
def folder(tmp_path):
    """Twenty images in two folders, and three files that are not images."""
    rng = np.random.default_rng(1)
    for number in range(20):
        path = tmp_path / "images" / "ba"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE + number, 3), np.uint8)).save(path)
    (tmp_path / "images" / "a" / "cut.png").write_bytes(path.read_bytes()[:60])
    (tmp_path / "images" / "b" / "2.jpg").write_text("no picture")
    (tmp_path / "images" / "b.png").touch()
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def connected():
    """One Ray for the module."""
    pytest.importorskip("ray.data", reason="needs the extra [cluster]")
    from export.batch.cluster import _connected

    with _connected(1, 2, None):
        yield


def begin(folder, output, model, *, root=None, column="path", **options):
    """The first steps of predict_many: a worker, and the numbers of the missing shards."""
    from export.batch.shards import BatchJob, ResultFolder, find_images, fingerprint
    from export.batch.worker import ShardPredictor, WorkerSettings

    options = {"shard": 4, "top": 3, "provider": "cpu", **options}
    names = find_images(folder, column=column, root=root)
    job = ResultFolder(output).begin(names, BatchJob(fingerprint(model)[1], "", 0, str(names.root), **options))
    settings = WorkerSettings(model, output, names.root, batch_size=3, cpus=1, **options)
    return ShardPredictor(settings), ResultFolder(output).missing(job)


def answer_all(worker, shards):
    parts = [worker.answer(shard) for shard in shards]
    return pyarrow.concat_tables(part for part, _ in parts).to_pylist(), [row for _, rows in parts for row in rows]


# --- with Ray ---------------------------------------------------------------------------------------------------------


def test_trust_accepts_operators_that_are_refused_otherwise(connected, classifier, folder, tmp_path):
    from export.batch.cluster import predict_many

    proto = onnx.load(classifier)
    proto.graph.node.append(helper.make_node("Hardmax", [proto.graph.output[0].name], ["more"]))
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(ContractError, match="Hardmax; --trust"):
        predict_many(tmp_path / "x.onnx", folder, tmp_path / "out", workers=1)
    assert predict_many(tmp_path / "x.onnx", folder, tmp_path / "out", workers=1, trust=True).predicted == 20


def test_predict_many_equals_the_predictor_and_resumes(connected, classifier, folder, tmp_path):
    from export.batch.cluster import predict_many
    from export.predictor import expand_paths

    told = []
    arguments = (classifier, folder, tmp_path / "out")
    options = {"top": CLASSES, "shard": 4, "workers": 2, "batch_size": 3}
    summary = predict_many(*arguments, **options, progress=lambda done, total: told.append((done, total)))
    assert (summary.pictures, summary.predicted, summary.unreadable, summary.shards, summary.done_before) == (23, 20, 3, 6, 0)
    assert summary.peak_memory > 10**7 and told[-1] == (23, 23)

    bad = ["a/cut.png", "b/2.jpg", "b.png"]
    paths = expand_paths([folder])
    good = [path for path in paths if path.relative_to(folder).as_posix() not in bad]
    rows = parquet.read_table(tmp_path / "out/predictions").to_pylist()
    assert [row["path"] for row in rows] == [path.relative_to(folder).as_posix() for path in good]
    assert [paths[row["number"]] for row in rows] == good
    expected = OnnxModel(classifier).predict(good)
    assert [row["label"] for row in rows] == expected.labels
    for row, scores in zip(rows, expected.scores, strict=True):
        assert row["scores"] == sorted(row["scores"], reverse=True) and row["score"] == row["scores"][0]
        np.testing.assert_allclose([row["scores"][row["labels"].index(label)] for label in LABELS], scores, atol=1e-6)
    apart = parquet.read_table(tmp_path / "out/unreadable").to_pylist()
    assert [row["path"] for row in apart] == bad
    assert "damaged" in apart[0]["reason"] and "not an image" in apart[1]["reason"]

    # as if it had been stopped: two shards are missing, one of them half-written
    whole = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out/predictions").iterdir()}
    lost = [tmp_path / f"out/predictions/part-0000{number}.parquet" for number in (1, 4)]
    for path in lost:
        path.unlink()
    (tmp_path / "out/predictions/.partial-7-part-00004.parquet").write_bytes(b"PAR1")
    again = predict_many(*arguments, **options)
    assert again.done_before == 4 and (again.predicted, again.unreadable) == (20, 3)
    assert {path: path.read_bytes() for path in (tmp_path / "out/predictions").iterdir()} == {
        p: b for p, (b, _) in whole.items()
    }
    assert all(path.stat().st_mtime_ns == moment for path, (_, moment) in whole.items() if path not in lost)


def test_predict_many_names_missing_cores_and_gpus(connected, classifier, folder, tmp_path):
    from export.batch.cluster import ClusterError, predict_many

    with pytest.raises(ClusterError, match="no machine of this Ray has 1 cores and 64 GPUs"):
        predict_many(classifier, folder, tmp_path / "out", gpus=64)
    with pytest.raises(ClusterError, match="no machine of this Ray has 99 cores"):
        predict_many(classifier, folder, tmp_path / "out", cpus=99)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "host:99999999"])
def test_a_cluster_that_cannot_be_check_addressed_is_told_at_once(address):
    from export.batch.cluster import ClusterError, _check_address

    with pytest.raises(ClusterError, match=f"no Ray answers at '{address}'.*an address is HOST:PORT"):
        _check_address(address)


def test_predict_many_fails_if_no_image_can_be_predicted(connected, classifier, tmp_path):
    from export.__main__ import main

    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    with pytest.raises(InputError, match=r"none of 1 images could be used; reasons: .*unreadable"):
        main(["predict-many", str(classifier), str(tmp_path / "images"), "--output", str(tmp_path / "out")])
    assert "a.png is not an image" in parquet.read_table(tmp_path / "out/unreadable").to_pylist()[0]["reason"]


# --- workers, in this process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_names_images_only_below_its_root(classifier, folder, tmp_path, suffix):
    names = [
        "b/0.png",
        str(folder / "a/1.png"),
        "",
        "../secret.png",
        "/etc/passwd",
        "b/none.png",
        "a/1.png",
        "a\0b",
        "x" * 5000,
    ]
    (tmp_path / "secret.png").write_bytes((folder / "b/0.png").read_bytes())
    table = folder / f"table.{suffix}"
    if suffix == "csv":
        names.remove("a\0b")
        table.write_text("number,file\n" + "".join(f'{number},"{name}"\n' for number, name in enumerate(names)))
    else:
        parquet.write_table(pyarrow.table({"file": names}), table)
    rows, apart = answer_all(*begin(table, tmp_path / "out", classifier, column="file"))
    assert [row["path"] for row in rows] == ["b/0.png", str(folder / "a/1.png"), "a/1.png"]
    assert rows[1]["labels"] == rows[2]["labels"] and rows[2]["number"] == 6
    reasons = {name: reason for _, name, reason in apart}
    assert len(rows) + len(apart) == len(names)
    assert reasons[""] == "this row names no image" and "no such image" in reasons["b/none.png"]
    assert all("leads out of the folder" in reasons[name] for name in ("../secret.png", "/etc/passwd"))

    rows, _ = answer_all(*begin(table, tmp_path / "above", classifier, column="file", root=tmp_path))
    assert not any(row["path"] == "b/0.png" for row in rows)  # names are relative to the root, wherever the table is


def test_worker_writes_neighbors_and_embeddings(folder, tmp_path):
    images = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size and path.name != "cut.png"]
    model = make_file(tmp_path / "rank.onnx", "rank")
    rows, _ = answer_all(*begin(folder, tmp_path / "ranks", model, top=2))
    found = OnnxModel(model).nearest(images)
    assert [row["names"] for row in rows] == [names[:2] for names in found.names]
    assert [row["entries"] for row in rows] == found.numbers[:, :2].tolist()
    assert rows[0]["name"] == rows[0]["names"][0] and rows[0]["distance"] == rows[0]["distances"][0]
    model = make_file(tmp_path / "embed.onnx", "embed")
    rows, _ = answer_all(*begin(folder, tmp_path / "vectors", model))
    np.testing.assert_allclose([row["embedding"] for row in rows], OnnxModel(model).run(images)["embedding"], atol=1e-6)


def test_images_too_small_for_a_file_of_any_size_are_unreadable(folder, tmp_path):
    Image.new("RGB", (2, 2)).save(folder / "a" / "tiny.png")
    model = make_file(tmp_path / "any.onnx", "classify", size=None)
    rows, apart = answer_all(*begin(folder, tmp_path / "out", model))
    assert len(rows) == 20 and len(apart) == 4
    assert "fails on images of (2, 2, 3)" in next(reason for _, name, reason in apart if name == "a/tiny.png")
    assert rows[-1]["label"] == OnnxModel(model).predict(folder / rows[-1]["path"]).labels[0]


def test_repaired_images_are_no_longer_unreadable(classifier, folder, tmp_path):
    worker, shards = begin(folder, tmp_path / "out", classifier, shard=100)
    assert shards == [0] and worker.run(0)["failure"] == ""
    (tmp_path / "out/predictions/part-00000.parquet").unlink()
    for name in ("a/cut.png", "b/2.jpg", "b.png"):
        (folder / name).write_bytes((folder / "b/0.png").read_bytes())
    worker, shards = begin(folder, tmp_path / "out", classifier, shard=100)
    assert shards == [0] and worker.run(0)["failure"] == ""
    assert not list((tmp_path / "out/unreadable").iterdir())
    assert not begin(folder, tmp_path / "out", classifier, shard=100)[1]


def test_result_folder_belongs_to_one_job(classifier, folder, tmp_path):
    begin(folder, tmp_path / "out", classifier)
    with pytest.raises(InputError, match=r"the results of another job \(top: 3, now 2\): choose another --output"):
        begin(folder, tmp_path / "out", classifier, top=2)
    with pytest.raises(InputError, match=r"another job \(model: "):
        begin(folder, tmp_path / "out", make_file(tmp_path / "other.onnx", "rank"))
    (folder / "a/1.png").rename(folder / "a/01.png")
    with pytest.raises(InputError, match=r"another job \(inputs: "):
        begin(folder, tmp_path / "out", classifier)
    (tmp_path / "out/job.json").write_text("{}")
    with pytest.raises(InputError, match=r"job\.json is missing the field 'model'"):
        begin(folder, tmp_path / "out", classifier)
    (tmp_path / "early").mkdir()  # stopped before anything was begun
    (tmp_path / "early/.partial-7-inputs.parquet").write_bytes(b"PAR1")
    assert len(begin(folder, tmp_path / "early", classifier)[1]) == 6
    (tmp_path / "early/job.json").unlink()
    for name in ("predictions", "unreadable", "attempts"):
        (tmp_path / "early" / name).rmdir()
    assert len(begin(folder, tmp_path / "early", classifier)[1]) == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(InputError, match="must be a new folder, or one that this command began"):
        begin(folder, tmp_path / "mine", classifier)
    with pytest.raises(InputError, match="received the file"):
        begin(folder, tmp_path / "mine/thesis.txt", classifier)


def test_shard_that_ends_its_worker_three_times_fails(classifier, folder, tmp_path):
    worker, _ = begin(folder, tmp_path / "out", classifier)
    for _ in range(3):
        worker.folder.attempt(2)
    with pytest.raises(CourseError, match="shard 2 ended its worker 3 times"):
        worker.folder.attempt(2)
    report = worker.run(2)
    assert "row group 2 of" in report["failure"] and report["exit_code"] == 1
    worker, _ = begin(folder, tmp_path / "out", classifier)  # the next command tries again
    assert worker.run(2)["failure"] == ""


def test_killed_worker_leaves_no_partial_shard(classifier, folder, tmp_path, monkeypatch):
    worker, _ = begin(folder, tmp_path / "out", classifier)
    child = os.fork()
    if child == 0:  # ends after the answers were written, before they are renamed
        monkeypatch.setattr(type(tmp_path), "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        worker.run(0)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list((tmp_path / "out").rglob(".partial-*")) and not list((tmp_path / "out/predictions").glob("part-*"))
    worker, shards = begin(folder, tmp_path / "out", classifier)
    assert 0 in shards and not list((tmp_path / "out").rglob(".partial-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "--output", "out"], "a folder, or a .csv or .parquet table of their names; received none"),
        (["none.csv", "--output", "out"], "no such table: none.csv"),
        (["empty", "--output", "out"], "no images in empty"),
        (["empty", "--output", "out", "--root", "/"], "--root is for a table"),
        (["t.csv", "--output", "out"], "has no readable column of names called 'path'"),
        (["t.parquet", "--output", "out"], "has no readable column of names called 'path'"),
        (["t.parquet", "--output", "out", "--column", "n"], "must hold strings, the names of images; received int64"),
        (["empty", "--output", "out", "--shard", "0"], "shard must be 1 or more; received 0"),
        (["empty", "--output", "out", "--gpus", "-1"], "gpus must be 0 or more"),
        (["empty", "--output", "out", "--provider", "cuda"], "give --gpus"),
    ],
)
def test_predict_many_refuses_bad_usage_before_ray_starts(classifier, tmp_path, monkeypatch, words, message):
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    from export.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("name,n\na.png,1\n")
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        main(["predict-many", str(classifier), *words])
    assert not list(tmp_path.glob("out/*"))


def test_predict_many_refuses_tasks_without_rows(folder, tmp_path):
    with pytest.raises(ContractError, match="the task 'tensor' are not rows of a table: run it by export"):
        begin(folder, tmp_path / "out", make_file(tmp_path / "tensor.onnx", "tensor"))


def test_two_jobs_in_one_folder_are_refused(classifier, folder, tmp_path, hold):
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    from export.batch.cluster import predict_many

    process = hold(tmp_path / "out")
    with pytest.raises(LockedError, match=f"may write into .*out; now it is process {process} on"):
        predict_many(classifier, folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
