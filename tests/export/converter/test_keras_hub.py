"""Vision backbones of keras-hub by the native converter against Keras: small ones of each architecture, with disturbed weights."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from against_keras import compare, disturb, images

keras_hub = pytest.importorskip("keras_hub", reason="pip install '.[compare]'")

SMALL = {"image_shape": (32, 32, 3)}
LARGER = {"image_shape": (64, 64, 3)}

#: Settings that transformers share.
TRANSFORMER = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}

MIT = {
    "layerwise_depths": [1, 1, 1, 1],
    "num_layers": 4,
    "layerwise_num_heads": [1, 2, 2, 4],
    "layerwise_sr_ratios": [8, 4, 2, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3, 3, 3],
    "layerwise_strides": [4, 2, 2, 2],
    "hidden_dims": [8, 16, 24, 32],
    **LARGER,
}

#: Class in keras_hub.models, and the settings of a small network.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTBackbone", {**TRANSFORMER, "mlp_dim": 32, **SMALL}),
    "DeiT": ("DeiTBackbone", {**TRANSFORMER, "intermediate_dim": 32, **SMALL}),
    "DINOv2": ("DINOV2Backbone", {**TRANSFORMER, "intermediate_dim": 32, "position_embedding_shape": (64, 64), **LARGER}),
    "Swin": (
        "SwinTransformerBackbone",
        {"patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, **SMALL},
    ),
    "MiT": ("MiTBackbone", MIT),
    "SAM's encoder": (
        "ViTDetBackbone",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "intermediate_dim": 32,
            "num_heads": 2,
            "global_attention_layer_indices": [1],
            "patch_size": 16,
            "num_output_channels": 8,
            "window_size": 2,
            **LARGER,
        },
    ),
    "EfficientNet-Lite": (
        "EfficientNetBackbone",
        {
            "stackwise_width_coefficients": [1.0] * 3,
            "stackwise_depth_coefficients": [1.0] * 3,
            "stackwise_kernel_sizes": [3, 3, 5],
            "stackwise_num_repeats": [1, 2, 1],
            "stackwise_input_filters": [8, 8, 16],
            "stackwise_output_filters": [8, 16, 24],
            "stackwise_expansion_ratios": [1, 6, 6],
            "stackwise_strides": [1, 2, 2],
            "stackwise_squeeze_and_excite_ratios": [0.0] * 3,
            "stackwise_block_types": ["v1"] * 3,
            "min_depth": 8,
            "stem_conv_padding": "same",
            "activation": "relu6",
            **LARGER,
        },
    ),
    "MobileNetV3": (
        "MobileNetBackbone",
        {
            "stackwise_expansion": [[40, 56], [64, 144]],
            "stackwise_num_blocks": [2, 2],
            "stackwise_num_filters": [[16, 16], [24, 24]],
            "stackwise_kernel_size": [[3, 3], [5, 5]],
            "stackwise_num_strides": [[2, 1], [2, 1]],
            "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
            "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]],
            "stackwise_padding": [[1, 1], [2, 2]],
            "output_num_filters": 32,
            "input_num_filters": 8,
            "input_activation": "hard_swish",
            "last_layer_filter": 24,
            "depthwise_filters": 8,
            "depthwise_stride": 2,
            "depthwise_residual": False,
            "squeeze_and_excite": 0.5,
            **SMALL,
        },
    ),
    "ResNet": (
        "ResNetBackbone",
        {
            "stackwise_num_filters": [64, 64],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "bottleneck_block",
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            **SMALL,
        },
    ),
    "VGG": ("VGGBackbone", {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16], **SMALL}),
    "DenseNet": ("DenseNetBackbone", {"stackwise_num_repeats": [1, 2], "compression_ratio": 0.5, "growth_rate": 4, **SMALL}),
    "CSPNet": (
        "CSPNetBackbone",
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_num_filters": [8, 16],
            "stackwise_strides": [1, 2],
            "stackwise_depth": [1, 1],
            "block_type": "dark_block",
            "stage_type": "dark",
            **SMALL,
        },
    ),
    "HGNetV2": (
        "HGNetV2Backbone",
        {
            "depths": [1, 1],
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "stem_channels": [3, 4, 8],
            "hidden_act": "relu",
            "use_learnable_affine_block": True,
            "stackwise_stage_filters": [[8, 4, 8, 1, 3, 3], [8, 4, 16, 1, 3, 3]],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, True],
            **SMALL,
        },
    ),
    "Xception": (
        "XceptionBackbone",
        {"stackwise_conv_filters": [[8, 8], [16, 16]], "stackwise_pooling": [True, False], **LARGER},
    ),
}


# Swin's masks, and the one input in a dict
@pytest.mark.filterwarnings("ignore:Layer 'attn':UserWarning", "ignore:The structure of `inputs`:UserWarning")
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_what_keras_gives(name):
    kind, settings = BACKBONES[name]
    keras.utils.set_random_seed(0)
    backbone = getattr(keras_hub.models, kind)(**settings)
    x = keras.Input(settings["image_shape"])
    model = keras.Model(x, keras.tree.flatten(backbone(x)))
    disturb(model)
    compare(model, images(2, *settings["image_shape"]))


@pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")
def test_an_encoder_within_a_network_for_segmentation():
    keras.utils.set_random_seed(0)
    encoder = keras_hub.models.MiTBackbone(**MIT)
    model = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=16)
    disturb(model)
    compare(model, images(2, 64, 64, 3))
