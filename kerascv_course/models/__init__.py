"""Networks: a function per variant, a file per family; the registry, `create_model`, and weights from elsewhere."""

from kerascv_course.models.create import adapter, check_model, create_model, find_network, list_models
from kerascv_course.models.registry import ModelSpec, model_spec, register_model
from kerascv_course.models.weights import LoadingReport, load_all_but_head, load_weights

__all__ = [
    "LoadingReport",
    "ModelSpec",
    "adapter",
    "check_model",
    "create_model",
    "find_network",
    "list_models",
    "load_all_but_head",
    "load_weights",
    "model_spec",
    "register_model",
]
