"""Quick inputs for every network of the registry, for the tests that go over all of them."""

from __future__ import annotations

from typing import Any

#: A quick input for each network, and the options it needs there. An entry that is missing fails `test_all_models_tested`.
SMALL: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "alexnet": ((15, 15, 3), {"stem": "cifar"}),
    "conv_transpose_net": ((8, 8, 1), {}),
    "densenet121": ((8, 8, 3), {"stem": "cifar"}),
    "densenet_bc100": ((8, 8, 3), {}),
    "fastnet": ((32, 32, 3), {}),
    "googlenet": ((31, 31, 3), {}),
    "lenet5": ((16, 16, 1), {}),
    "mynet": ((8, 8, 3), {}),
    "pool_upsample_net": ((8, 8, 1), {}),
    "resnet18": ((17, 17, 3), {}),
    "resnet18_cifar": ((8, 8, 3), {}),
    "resnet18_reid": ((16, 16, 3), {}),
    "resnet34": ((17, 17, 3), {}),
    "resnet50": ((17, 17, 3), {}),
    "resnet50_cose474": ((9, 9, 3), {}),
    "tdt4265_base": ((8, 8, 3), {}),
    "tdt4265_model1": ((8, 8, 3), {}),
    "tdt4265_model2": ((8, 8, 3), {}),
    "unet_colorizer": ((8, 8, 1), {}),
    "vgg16": ((32, 32, 3), {"head": (64,)}),
    "vgg16_cose474": ((32, 32, 3), {}),
    "vgg16_wide": ((32, 32, 3), {"head": (64,)}),
    "vgg19": ((32, 32, 3), {"head": (64,)}),
}


def slim(model):
    """The same graph with an eighth of the channels everywhere, up to the logits."""
    import keras

    def clone(layer):
        config = layer.get_config()
        for width in ("filters", "units"):
            if width in config and layer.name != "logits":
                config[width] = max(1, config[width] // 8)
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=clone)
