"""Every entry of the registry: it builds, counts, trains, and rejects invalid arguments and options."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_inputs import SMALL

import kerascv_course as kcc
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.models import model_spec, register_model, registry

MODELS = kcc.list_models()


def count(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def test_all_models_tested() -> None:
    assert set(MODELS) <= set(SMALL), "give every registered network a small input in SMALL"


@pytest.mark.parametrize("name", MODELS)
def test_parameters_at_the_defaults(name: str) -> None:
    import keras

    with keras.StatelessScope(initialize_variables=False):  # shapes only: the largest has 144 million parameters
        model = kcc.create_model(name)
    assert count(model) == model_spec(name).parameters


@pytest.mark.parametrize("name", MODELS)
def test_trains_one_step(name: str) -> None:
    import keras

    shape, options = SMALL[name]
    model = kcc.create_model(name, num_classes=3, input_shape=shape, **options)
    assert model.input.name == "image" and model.input.dtype == "float32"
    assert model.output_shape[-1] == 3
    rng = np.random.default_rng(0)
    images = rng.random((4, *shape), dtype=np.float32)
    targets = rng.integers(0, 3, (4, *model.output_shape[1:-1]))
    before = model.trainable_weights[0].numpy()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    history = model.fit(images, targets, batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert not np.array_equal(model.trainable_weights[0].numpy(), before), "the first layer did not learn"


@pytest.mark.parametrize("name", MODELS)
def test_smallest_image(name: str) -> None:
    """It builds at its smallest image size; one pixel less is rejected."""
    import keras

    spec = model_spec(name)
    for stem in ("imagenet", "cifar") if "stem" in spec.options else (None,):
        options = {} if stem is None else {"stem": stem}
        least = spec.smallest(**options)
        channels = spec.input_shape[2]
        with keras.StatelessScope(initialize_variables=False):
            kcc.create_model(name, 2, (least, least + 4, channels), **options)
        if least > 1:
            with pytest.raises(
                InputError, match=f"smaller than {least}×{least} pixels; received input_shape=\\({least + 4}, {least - 1}"
            ):
                kcc.create_model(name, 2, (least + 4, least - 1, channels), **options)


@pytest.mark.parametrize("name", MODELS)
def test_images_of_any_size(name: str) -> None:
    """With global pooling, or fully convolutional, the same answers as with a fixed size; otherwise the reason."""
    import keras

    (height, width, channels), options = SMALL[name]
    height, width = (height + 4, width + 8) if height % 4 == 0 else (height + 1, width + 2)
    fixed = kcc.create_model(name, 3, (height, width, channels), **options)
    pooled = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    if len(fixed.output_shape) == 2 and not any(isinstance(layer, pooled) for layer in fixed.layers):
        with pytest.raises(
            InputError, match="flattens its last map needs images of one size; received an input_shape with None"
        ):
            kcc.create_model(name, 3, (None, None, channels), **options)
        return
    free = kcc.create_model(name, 3, (None, None, channels), **options)
    assert free.input_shape == (None, None, None, channels)
    free.set_weights(fixed.get_weights())
    images = np.random.default_rng(0).random((2, height, width, channels), dtype=np.float32)
    np.testing.assert_allclose(free.predict_on_batch(images), fixed.predict_on_batch(images), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_those_of_keras(name: str) -> None:
    """So that Keras alone opens what is saved."""
    shape, options = SMALL[name]
    for layer in kcc.create_model(name, 3, shape, **options).layers:
        assert type(layer).__module__.startswith("keras."), layer


@pytest.mark.parametrize("name", [name for name in MODELS if "include_top" in model_spec(name).options])
def test_features_without_the_head(name: str) -> None:
    import keras

    shape, options = SMALL[name]
    with keras.StatelessScope(initialize_variables=False):
        model = kcc.create_model(name, input_shape=shape, include_top=False, **options)
    assert len(model.output_shape) == 2
    assert not any(type(layer).__name__ == "Dense" for layer in model.layers)


@pytest.mark.parametrize("name", MODELS)
def test_source_and_documentation(name: str) -> None:
    spec = model_spec(name)
    documentation = inspect.getdoc(type(spec.defaults)) or ""
    assert spec.source
    for option in spec.options:
        assert f"{option}:" in documentation, f"option {option} of {name} is not documented"


@pytest.mark.parametrize("name", ["tdt4265_model1", "conv_transpose_net", "resnet50_cose474"])
def test_reloads_in_safe_mode(name: str, tmp_path: Path) -> None:
    import keras

    shape, options = SMALL[name]
    model = kcc.create_model(name, 3, shape, **options)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    np.testing.assert_array_equal(model.predict_on_batch(images), again.predict_on_batch(images))


def test_listing_imports_no_keras() -> None:
    code = "import sys, kerascv_course as k; k.list_models(); print([m for m in sys.modules if m in ('keras', 'tensorflow')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_natural_order_and_patterns() -> None:
    assert kcc.list_models("resnet*")[:2] == ["resnet18", "resnet18_cifar"]
    assert kcc.list_models("resnet??") == ["resnet18", "resnet34", "resnet50"]


# --- published counts of the switches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet18_reid", {"include_top": False}, 11_176_512),  # report 000
        ("resnet50_cose474", {"shortcut": "where_needed"}, 8_898_826),  # report 003, other reading
        ("resnet18_cifar", {"stem_padding": 1}, 11_173_962),
        ("tdt4265_model1", {"hidden_norm": False}, 1_293_002),  # report 001
        ("tdt4265_model1", {"order": "conv-norm-pool"}, 1_293_130),
        ("googlenet", {"branch3_kernel": 5, "batch_norm": False}, 6_998_552),  # the paper's network
        ("resnet18", {"stem": "cifar", "num_classes": 10, "input_shape": (32, 32, 3)}, 11_173_962),
        ("vgg16", {"num_classes": 10, "input_shape": (32, 32, 3)}, 33_638_218),  # 14,714,688 + 18,923,530
        ("vgg16", {"num_classes": 10, "input_shape": (32, 32, 3), "batch_norm": True, "head": ()}, None),
    ],
)
def test_counts_of_options(name: str, options: dict[str, Any], parameters: int | None) -> None:
    if parameters is None:
        with pytest.raises(InputError, match="a list of 1 or more"):
            kcc.create_model(name, **options)
    else:
        assert count(kcc.create_model(name, **options)) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("vgg16", 138_365_992), ("vgg19", 143_678_248)])
def test_vgg_with_batch_norm(name: str, parameters: int) -> None:
    """The published counts of the batch-norm variants: each convolution's filters twice more."""
    norm = count(kcc.create_model(name, batch_norm=True, include_top=False))
    plain = count(kcc.create_model(name, include_top=False))
    assert model_spec(name).parameters + norm - plain == parameters


@pytest.mark.parametrize("kernel", range(2, 8))
@pytest.mark.parametrize("name", ["pool_upsample_net", "conv_transpose_net", "unet_colorizer"])
def test_colorizers_keep_the_shape(name: str, kernel: int) -> None:
    model = kcc.create_model(name, 5, (12, 8, 3), kernel=kernel, filters=4)
    assert model.output_shape == (None, 12, 8, 5)
    if name == "unet_colorizer":
        weights = kernel**2 * (3 * 4 + 2 * 4 * 4 + 2 * 4 * 4 + 2 * 4 * 5 + (5 + 3) * 5)
    else:
        weights = kernel**2 * (3 * 4 + 4 * 4**2 + 4 * 5 + 5**2)  # report 004, question 4.3
    biases_and_norms = (4 + 8 + 4 + 5 + 5) + 2 * (4 + 8 + 4 + 5)
    assert count(model) == weights + biases_and_norms


@pytest.mark.parametrize("order", ["conv-pool-norm", "conv-norm-pool"])
@pytest.mark.parametrize("downsampling", ["max_pool", "strided_conv"])
def test_every_switch_of_the_ablation(order: str, downsampling: str) -> None:
    options = {"order": order, "downsampling": downsampling, "filters": (4, 6), "filter_size": 3, "activation": "elu"}
    model = kcc.create_model("tdt4265_model1", 3, (8, 8, 3), convs=2, l2=1e-3, dropout=0.1, hidden=5, **options)
    names = [layer.name for layer in model.layers]
    norms = [name for name in names if "norm" in name]
    assert len(norms) == 1 + (2 if order == "conv-pool-norm" else 4)
    assert ("stage1_pool" in names) == (downsampling == "max_pool")
    assert model.get_layer("flatten").output.shape == (None, 2 * 2 * 6)
    expected = 1e-3 * sum(float((w**2).numpy().sum()) for w in model.trainable_weights if w.name == "kernel")
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


# --- rejected arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt18"}, r"unknown model 'resnt18'; did you mean 'resnet18'"),
        ({"name": "resnet18", "stemm": "cifar"}, r"unknown option of resnet18 'stemm'; did you mean 'stem'"),
        (
            {"name": "resnet18", "stem": "cifarr"},
            r"option stem of resnet18 must be one of .*received 'cifarr': did you mean 'cifar'",
        ),
        ({"name": "lenet5?dropout=0.5", "dropout": 0.5}, r"option dropout of lenet5 is given twice"),
        ({"name": "lenet5?dropout"}, r"option=value, separated by &; received 'dropout' for lenet5"),
        ({"name": "lenet5?num_classes=3"}, r"num_classes is an argument of create_model"),
        ({"name": "lenet5?pooling=avrage"}, r"pooling of lenet5 must be one of 'max', 'average'; .* did you mean 'average'"),
        ({"name": 5}, r"the name of a network must be a string"),
        ({"name": "resnet18", "num_classes": 0}, r"num_classes must be an integer of 1 or more; received 0"),
        ({"name": "resnet18", "num_classes": True}, r"num_classes .* received True"),
        (
            {"name": "resnet18", "input_shape": (32, 32)},
            r"input_shape must be \(height, width, channels\).* received \(32, 32\)",
        ),
        ({"name": "resnet18", "input_shape": 32}, r"input_shape .* received 32"),
        ({"name": "resnet18", "input_shape": (16, 16, 3)}, r"smaller than 17×17 pixels.*or stem='cifar'"),
        ({"name": "alexnet", "input_shape": (32, 32, 3)}, r"smaller than 63×63 pixels.*or stem='cifar'"),
        ({"name": "vgg16", "input_shape": (31, 224, 3)}, r"smaller than 32×32 pixels"),
        ({"name": "resnet18", "dropout": 1.0}, r"dropout of resnet18 must be a number \(0 to below 1\); received 1.0"),
        ({"name": "resnet18", "dropout": "0.5"}, r"dropout .* received '0.5'"),
        ({"name": "resnet18", "include_top": 1}, r"include_top of resnet18 must be true or false; received 1"),
        ({"name": "vgg16", "batch_norm": "yes"}, r"batch_norm of vgg16 must be true or false; received 'yes'"),
        ({"name": "lenet5", "activation": "rellu"}, r"activation of lenet5 must be one of .*did you mean 'relu'"),
        ({"name": "tdt4265_base", "filter_size": 4}, r"filter_size .*odd.* received 4"),
        ({"name": "tdt4265_base", "filters": (8,) * 6}, r"smaller than 64×64 pixels; received input_shape=\(32, 32, 3\)"),
        ({"name": "tdt4265_base", "filters": (8, 0)}, r"filters .*\[1\] must be an integer \(1 or more\)"),
        ({"name": "pool_upsample_net", "kernel": 8}, r"kernel .*\(2 to 7\); received 8"),
        ({"name": "unet_colorizer", "input_shape": (30, 32, 1)}, r"multiples of 4.*received 30×32.*32×32"),
        ({"name": "resnet18", "stem_padding": 4}, r"stem_padding .*\(0 to 3\) or None; received 4"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kcc.create_model(**arguments)


def test_options_within_the_name() -> None:
    model = kcc.create_model("lenet5?activation=tanh&dropout=0.25&include_top=true", 3)
    assert model.get_layer("c1").activation.__name__ == "tanh"
    assert model.get_layer("dropout").rate == 0.25
    assert model.name == "lenet5"
    assert kcc.create_model("tdt4265_base?filters=(4, 8)").get_layer("flatten").output.shape == (None, 8 * 8 * 8)


def test_numpy_numbers_are_numbers() -> None:
    shape = tuple(np.array([32, 32, 1]))
    assert kcc.create_model("lenet5", np.int64(3), shape).output_shape == (None, 3)


def test_the_structure_of_a_variant_is_not_an_option() -> None:
    """Depths and widths belong to the variant."""
    with pytest.raises(UnknownNameError, match="unknown option of resnet18 'depths'"):
        kcc.create_model("resnet18", depths=(1, 1, 1, 1))


def test_a_name_is_registered_once() -> None:
    options = model_spec("lenet5").defaults
    with pytest.raises(ValueError, match="'lenet5' is already registered"):
        register_model(options, "lenet5", input_shape=(1, 1, 1), parameters=1, source="none")(lambda image, *_: image)
    with pytest.raises(ValueError, match="a model needs a name"):
        register_model(options, input_shape=(1, 1, 1), parameters=1, source="none")(partial(lambda image, *_: image))


def test_every_family_is_listed() -> None:
    modules = {path.stem for path in Path(registry.__file__).parent.glob("*.py")}
    helpers = {"__init__", "create", "layers", "registry", "weight_files", "weights"}
    assert modules == {*registry.FAMILIES, *helpers}


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_a_family_registers_the_networks_that_are_listed_for_it(family: str) -> None:
    code = (
        "import importlib; from kerascv_course.models import registry; "
        f"importlib.import_module('kerascv_course.models.{family}'); print(*registry._MODELS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(registry.FAMILIES[family])
