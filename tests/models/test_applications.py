"""Networks that Keras brings along, by name, with weights from a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import kerascv_course as kcc
from kerascv_course.core.errors import InputError

MOBILENET = "keras.applications/MobileNet"


def test_options_and_logits() -> None:
    model = kcc.create_model(MOBILENET, 7, (32, 32, 3), alpha=0.25)
    assert model.output_shape == (None, 7)
    assert model.count_params() == 218_544 + 257 * 7  # without the head, and the head
    assert "softmax" not in str(model.layers[-1].get_config())


def test_options_within_the_name() -> None:
    with_query = kcc.create_model(f"{MOBILENET}?alpha=0.25&include_top=False", input_shape=(32, 32, 3))
    assert with_query.output_shape == (None, 256)


def test_features() -> None:
    assert kcc.create_model(MOBILENET, input_shape=(32, 32, 3), alpha=0.25, include_top=False).output_shape == (None, 256)


def test_list() -> None:
    names = kcc.list_models("keras.applications/MobileNet*")
    assert names[:2] == [MOBILENET, f"{MOBILENET}V2"]
    assert not kcc.list_models("keras*")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("keras.applications/MobilNet", {}, "unknown network of keras.applications 'MobilNet'; did you mean 'MobileNet'"),
        (MOBILENET, {"alfa": 0.5}, "unknown option of keras.applications/MobileNet 'alfa'; did you mean 'alpha'"),
        (MOBILENET, {"classes": 5}, "unknown option"),
        (MOBILENET, {"input_shape": (8, 8, 3)}, "cannot be built with .*input_shape"),
        (MOBILENET, {"num_classes": 0}, "num_classes"),
    ],
)
def test_rejected_arguments(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kcc.create_model(name, **options)


def test_weights_with_older_names(tmp_path: Path) -> None:
    """Half precision, and ``depthwise_kernel`` where Keras 3 says ``kernel``."""
    teacher = kcc.create_model(MOBILENET, 7, (32, 32, 3), alpha=0.25)
    entries = {}
    for layer in teacher.layers:
        for variable in layer.weights:
            name = "depthwise_kernel" if "conv_dw" in layer.name and variable.name == "kernel" else variable.name
            entries[f"{layer.name}/{name}"] = variable.numpy().astype(np.float16)
    np.savez(tmp_path / "m.npz", **entries)
    model = kcc.create_model(MOBILENET, 7, (32, 32, 3), alpha=0.25, weights=tmp_path / "m.npz")
    assert model.loading_report.complete and len(model.loading_report.loaded) == 137
    for one, other in zip(model.weights, teacher.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy().astype(np.float16).astype(np.float32))


def test_photographs() -> None:
    """ImageNet weights classify scikit-learn's two photographs.

    KERASCV_COURSE_MOBILENET names an .npz of MobileNet v1, alpha 0.75, for 224×224, under Keras's names.
    """
    if not (path := os.environ.get("KERASCV_COURSE_MOBILENET")):
        pytest.skip("KERASCV_COURSE_MOBILENET names no weights")
    import keras
    from sklearn.datasets import load_sample_image

    model = kcc.create_model(MOBILENET, alpha=0.75, weights=path)
    assert model.loading_report.complete
    images = [keras.ops.image.resize(load_sample_image(name)[:, 106:533], (224, 224)) for name in ("china.jpg", "flower.jpg")]
    logits = model.predict_on_batch(np.stack(images) / 127.5 - 1)
    bell_cote, palace, daisy = 442, 698, 985
    assert {bell_cote, palace} & set(np.argsort(logits[0])[-5:])
    assert daisy in np.argsort(logits[1])[-5:]
