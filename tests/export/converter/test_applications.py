"""Every network of keras.applications by the native converter against Keras, at small inputs and with disturbed weights.

    pytest tests/export/converter/test_applications.py --all-networks

goes over all of them; without the option one network stands for each family, which takes a minute in place of ten.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from against_keras import disturb, images

from export.converter.exporter import build

#: The smallest input that each network takes, where that is not 32 × 32.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}

NETWORKS: dict[str, Any] = {
    name: function
    for name, function in vars(keras.applications).items()
    if inspect.isfunction(function) and "input_shape" in inspect.signature(function).parameters and name != "ConvNeXtBase"
} | {"ConvNeXtBase": keras.applications.ConvNeXtBase}

#: One of each family.
QUICK = {
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "MobileNet", "MobileNetV2", "MobileNetV3Small"),
    *("NASNetMobile", "ResNet50", "ResNet50V2", "Xception"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_keras(name, pytestconfig, record_property):
    if name not in QUICK and not pytestconfig.getoption("--all-networks"):
        pytest.skip("only with --all-networks")
    size = SIZES.get(name, 32)
    keras.backend.clear_session()
    model = NETWORKS[name](weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg")
    disturb(model)
    if name.startswith("EfficientNetV2"):  # whose many sums otherwise grow until float32 has no digit left, in Keras as well
        for weight in model.weights:
            if weight.name == "gamma":
                weight.assign(weight * 0.5)
    pixels = images(2, size, size, 3) * 127.5 + 127.5
    proto = build(model, ["image"], 17)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,), expected = session.run(None, {"image": pixels}), np.asarray(model(pixels, training=False))
    largest = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max())
    record_property("difference", difference / largest)
    assert np.isfinite(expected).all() and largest > 1e-3
    assert difference <= 1e-4 * largest + 1e-5, (difference, largest)
