"""Loading weights: every kind of file, the report, rejected sources, and that a failure changes nothing."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerascv_course as kcc
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.models.weight_files import read_source
from kerascv_course.models.weights import LoadingReport, load_weights

SHAPE = (8, 8, 3)


def small(**options: Any) -> Any:
    """tdt4265_model1 with a few filters: convolutions, norms, a dense layer on a 2×2 map."""
    return kcc.create_model("tdt4265_model1", options.pop("num_classes", 3), SHAPE, filters=(4, 5), hidden=6, **options)


def state_of(model: Any) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{variable.name}": variable.numpy() for layer in model.layers for variable in layer.weights}


def torch_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state in PyTorch's names and layout, made by hand for `small`."""
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    result = {}
    for key, value in state.items():
        layer, variable = key.split("/")
        if variable == "kernel":
            if layer == "fc1":  # rows of (2, 2, 5) become columns of (5, 2, 2)
                value = value.reshape(2, 2, 5, 6).transpose(3, 2, 0, 1).reshape(6, 20)
            else:
                value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
            variable = "weight"
        result[f"{layer}.{names.get(variable, variable)}"] = np.ascontiguousarray(value)
    return result


def randomise(model: Any) -> Any:
    rng = np.random.default_rng(7)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@pytest.fixture(scope="module")
def teacher() -> Any:
    return randomise(small())


@pytest.fixture(scope="module")
def state(teacher: Any) -> dict[str, np.ndarray]:
    return state_of(teacher)


def write(kind: str, teacher: Any, state: dict[str, np.ndarray], folder: Path) -> Path:
    path = folder / f"weights{kind}"
    if kind == ".npz":
        np.savez(path, **state)
    elif kind == ".torch.npz":
        np.savez(path, **torch_state(state))
    elif kind == ".safetensors":
        pytest.importorskip("safetensors.numpy", reason="extra [pretrained]").save_file(torch_state(state), path)
    elif kind == ".weights.h5":
        teacher.save_weights(path)
    else:
        teacher.save(path)
    return path


@pytest.mark.parametrize("kind", [".npz", ".torch.npz", ".safetensors", ".weights.h5", ".keras"])
def test_every_kind_of_file(kind: str, teacher: Any, state: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = write(kind, teacher, state, tmp_path)
    model = small()
    report = load_weights(model, path)
    assert_same(state_of(model), state)
    assert report.complete and len(report.loaded) == len(state)
    images = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    np.testing.assert_array_equal(model.predict_on_batch(images), teacher.predict_on_batch(images))


def test_create_model_keeps_the_report(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **state)
    model = small(weights=tmp_path / "w.npz")
    assert isinstance(model.loading_report, LoadingReport)
    assert_same(state_of(model), state)
    model.save(tmp_path / "again.keras")


def test_half_precision_and_the_parallel_wrapper(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    entries = {f"module.{key}": value.astype(np.float16) for key, value in torch_state(state).items()}
    entries["module.stage1_norm.num_batches_tracked"] = np.array(5)
    np.savez(tmp_path / "w.npz", **entries)
    model = small()
    report = load_weights(model, tmp_path / "w.npz")
    assert report.complete and report.ignored == ("stage1_norm.num_batches_tracked",)
    for key, value in state_of(model).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, state[key], rtol=1e-3)


# --- the report -----------------------------------------------------------------------------------------------------------------


def odd_one_out(state: dict[str, np.ndarray], folder: Path) -> Path:
    """One entry missing, one too many, two of another shape."""
    entries = dict(state)
    del entries["fc1/bias"]
    entries["extra/kernel"] = np.zeros(3, np.float32)
    entries["logits/kernel"] = np.zeros((6, 7), np.float32)
    entries["logits/bias"] = np.zeros(7, np.float32)
    np.savez(folder / "odd.npz", **entries)
    return folder / "odd.npz"


def test_strict_raises_and_changes_nothing(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = small()
    before = state_of(model)
    with pytest.raises(
        InputError, match=r"do not fit tdt4265_model1.*1 missing, 1 unexpected, 2 of another shape; strict=False"
    ) as told:
        load_weights(model, odd_one_out(state, tmp_path))
    assert "missing      fc1/bias" in str(told.value)
    assert "unexpected   extra/kernel" in str(told.value)
    assert "logits/kernel is 6×3, logits/kernel is 6×7" in str(told.value)
    assert_same(state_of(model), before)


def test_lenient_loads_what_fits(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = small()
    before = state_of(model)
    report = load_weights(model, odd_one_out(state, tmp_path), strict=False)
    assert report.missing == ("fc1/bias",)
    assert report.unexpected == ("extra/kernel",)
    assert [(one.variable, one.expected, one.found) for one in report.mismatched] == [
        ("logits/kernel", (6, 3), (6, 7)),
        ("logits/bias", (3,), (7,)),
    ]
    kept = {"fc1/bias", "logits/kernel", "logits/bias"}
    assert {one.variable for one in report.loaded} == set(state) - kept
    assert_same(state_of(model), {key: (before if key in kept else state)[key] for key in state})


def test_the_report_is_a_table(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    lines = str(load_weights(small(), odd_one_out(state, tmp_path), strict=False)).splitlines()
    assert lines[0].split() == ["state", "variable", "entry", "shape"]
    assert lines[2].split() == ["loaded", "stage1_conv/kernel", "stage1_conv/kernel", "5×5×3×4"]
    assert any(line.split()[:2] == ["missing", "fc1/bias"] for line in lines)
    assert lines[-1].endswith("odd.npz: 17 loaded, 1 missing, 1 unexpected, 2 of another shape")
    assert len(lines) == 2 + 17 + 2 + 1 + 1 + 1


def test_backbone_from_a_classifier(tmp_path: Path) -> None:
    """Report 000, question 5: no layer of the backbone is left out, and the classifier's two entries are discarded."""
    teacher = kcc.create_model("resnet18", 4, (32, 32, 3))
    entries = state_of(teacher)
    entries["fc.weight"] = np.ascontiguousarray(entries.pop("logits/kernel").T)
    entries["fc.bias"] = entries.pop("logits/bias")
    np.savez(tmp_path / "resnet18.npz", **entries)
    model = kcc.create_model("resnet18_reid", input_shape=(32, 32, 3), include_top=False)
    report = load_weights(model, tmp_path / "resnet18.npz", strict=False)
    assert report.missing == () and report.mismatched == ()
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert len(report.loaded) == 20 + 4 * 20


def test_weights_of_another_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"a.weight": np.zeros(1), "b.weight": np.zeros(1)})
    with pytest.raises(InputError, match="no entry fits: these are the weights of another network"):
        load_weights(small(), tmp_path / "w.npz", strict=False)


def test_published_names() -> None:
    """Names that torchvision's and timm's state dicts have."""
    from kerascv_course.models import model_spec

    expected = {
        "resnet50": {
            "stem_conv": "conv1",
            "stage3_block6_conv3_bn": "layer3.5.bn3",
            "stage4_block1_shortcut": "layer4.0.downsample.0",
        },
        "vgg16": {
            "stage3_conv1": "features.10",
            "stage5_conv3": "features.28",
            "fc2": "classifier.3",
            "logits": "classifier.6",
        },
        "densenet121": {"final_bn": "features.norm5", "stage4_block16_conv2_bn": "features.denseblock4.denselayer16.norm2"},
        "googlenet": {"stem_conv3_bn": "conv3.bn", "inception4b_branch2_conv2": "inception4b.branch2.1.conv"},
        "alexnet": {"stage5_conv": "features.10", "fc6": "classifier.1"},
    }
    for name, layers in expected.items():
        options = {"head": (8, 8)} if name == "vgg16" else {}
        spec = model_spec(name)
        assert spec.torch_names is not None
        names = spec.torch_names(kcc.create_model(name, 3, (64, 64, 3), **options))
        for layer, published in layers.items():
            assert names[layer][0] == published


def test_timm_writes_vgg_heads_as_convolutions(tmp_path: Path) -> None:
    options = {"head": (6, 5), "batch_norm": True}
    teacher = kcc.create_model("vgg16", 3, (64, 32, 3), **options)
    entries = state_of(teacher)
    kernel = entries.pop("fc1/kernel").reshape(2, 1, 512, 6)
    entries["pre_logits.fc1.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    entries["pre_logits.fc2.weight"] = np.ascontiguousarray(entries.pop("fc2/kernel").T)[:, :, None, None]
    entries["head.fc.weight"] = np.ascontiguousarray(entries.pop("logits/kernel").T)
    np.savez(tmp_path / "vgg.npz", **entries)
    model = kcc.create_model("vgg16", 3, (64, 32, 3), weights=tmp_path / "vgg.npz", **options)
    assert_same(state_of(model), state_of(teacher))


# --- rejected arguments ----------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npy"])
def test_pickles_are_never_opened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"may hold a pickle.*convert it once with .*safetensors"):
        load_weights(small(), path)


def test_pickles_within_npz_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match="no archive of arrays: an array of object"):
        load_weights(small(), tmp_path / "w.npz")


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".weights.h5", ".keras"])
def test_damaged_and_missing_files(kind: str, tmp_path: Path) -> None:
    if kind == ".safetensors":
        pytest.importorskip("safetensors", reason="extra [pretrained]")
    path = tmp_path / f"weights{kind}"
    with pytest.raises(DataError, match="no weights file"):
        load_weights(small(), path)
    path.write_bytes(b"not what it says")
    with pytest.raises(DataError, match="weights"):
        load_weights(small(), path)


def test_empty_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz")
    with pytest.raises(DataError, match="holds no weights"):
        read_source(tmp_path / "w.npz")


@pytest.mark.parametrize("source", ["weights.txt", "resnet18", "a/b/c"])
def test_neither_file_nor_hub_name(source: str) -> None:
    with pytest.raises(InputError, match=r"or a hub name such as 'timm/resnet18.tv_in1k'; received"):
        load_weights(small(), source)


# --- the hub --------------------------------------------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr("kerascv_course.models.weight_files.socket.getaddrinfo", lambda host, port: [])


@pytest.mark.parametrize(("prefix", "cached"), [("", False), ("hf-hub:", True)])
def test_hub_name(
    prefix: str, cached: bool, monkeypatch: pytest.MonkeyPatch, state: dict[str, np.ndarray], tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="extra [pretrained]")
    safetensors.save_file(torch_state(state), tmp_path / "model.safetensors")
    asked = []

    def download(name: str, file: str, local_files_only: bool = False) -> str:
        asked.append((name, file, local_files_only))
        if local_files_only and not cached:
            raise FileNotFoundError("not cached")
        return str(tmp_path / file)

    hub(monkeypatch, download)
    model = small()
    report = load_weights(model, f"{prefix}timm/model1.in_course")
    entry = ("timm/model1.in_course", "model.safetensors")
    assert asked == ([(*entry, True)] if cached else [(*entry, True), (*entry, False)])
    assert report.source == f"{prefix}timm/model1.in_course"
    assert_same(state_of(model), state)


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str, local_files_only: bool = False) -> str:
        raise ConnectionError("not cached" if local_files_only else "no route to host")

    hub(monkeypatch, download)
    with pytest.raises(DataError, match=r"could not be fetched from the hub .*no route to host.*give its path"):
        load_weights(small(), "timm/resnet18.tv_in1k")


def test_without_a_network_it_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str, local_files_only: bool = False) -> str:
        if not local_files_only:
            pytest.fail("the client would try again and again")
        raise FileNotFoundError("not cached")

    def unknown(host: str, port: None) -> None:
        raise OSError(f"{host} is unknown")

    hub(monkeypatch, download)
    monkeypatch.setattr("kerascv_course.models.weight_files.socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(DataError, match=r"huggingface.co is unknown.*give its path"):
        load_weights(small(), "timm/resnet18.tv_in1k")


def test_hub_client_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs huggingface_hub: pip install 'kerascv_course\[pretrained\]'"):
        load_weights(small(), "timm/resnet18.tv_in1k")


def test_safetensors_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"needs safetensors: pip install 'kerascv_course\[pretrained\]'"):
        load_weights(small(), tmp_path / "w.safetensors")


# --- a run ---------------------------------------------------------------------------------------------------------------------


def test_a_run_gives_its_weights_and_another_head_is_said(tiny_run, tmp_path, caplog):
    options = tiny_run.recipe().model_options
    for run in (tiny_run.path, tiny_run / "best.keras"):
        caplog.clear()
        model = kcc.create_model("lenet5", 10, weights=run, **options)
        (network,) = [layer for layer in kcc.load_model(run).layers if layer.name == "lenet5"]
        for ours, theirs in zip(model.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert model.loading_report.complete and not caplog.records
        other = kcc.create_model("lenet5", num_classes=3, weights=run, **options)
        for ours, theirs in zip(other.get_weights()[:-2], network.get_weights()[:-2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert other.output_shape == (None, 3)
        assert [entry.variable for entry in other.loading_report.mismatched] == ["logits/kernel", "logits/bias"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"the last layer, logits, is initialized randomly: {run} has another shape there" in caplog.text


def test_a_run_of_another_network_is_refused(tiny_run, tmp_path):
    with pytest.raises(InputError, match="no entry fits: these are the weights of another network"):
        kcc.create_model("resnet18", 3, (32, 32, 1), weights=tiny_run.path)
    with pytest.raises(
        InputError, match=r"may differ in the last layer \(logits\) only; .*c1/kernel.*belongs to another network"
    ):
        kcc.create_model("lenet5", 3, (32, 32, 3), weights=tiny_run.path)
    (tmp_path / "recipe.json").touch()
    with pytest.raises(DataError, match=r"no weights file '.*best\.keras'"):
        kcc.create_model("lenet5", 3, weights=tmp_path)


def test_a_model_of_a_run_is_a_layer_of_another_model(tiny_run):
    """As the README shows it: frozen, only the new layers learn; otherwise all."""
    import keras

    digits = kcc.load_model(tiny_run.path)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8)
    before = digits.predict(images, verbose=0)
    for trainable in (False, True):
        digits.trainable = trainable
        image = keras.Input((32, 32, 1), dtype="uint8")
        model = keras.Model(image, keras.layers.Dense(2)(digits(image)))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert len(model.trainable_weights) == 2 + trainable * 10
        model.fit(images, np.arange(8) % 2, verbose=0)
        assert np.array_equal(digits.predict(images, verbose=0), before) != trainable
