"""Keras models to ONNX files that explain themselves, the proof that they give the same answers, and their use.

Names are imported at first use: `OnnxModel` needs NumPy, onnxruntime and Pillow only; exporting needs TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.batch.cluster import predict_many
    from export.contract import Contract, ContractError
    from export.converter.convert import expected_contract, export_model
    from export.diagnostics.doctor import Diagnosis, diagnose
    from export.predictor import OnnxModel, Predictions
    from export.quantization.quantize import quantize_model
    from export.quantization.report import PrecisionReport, RefusedError
    from export.untrusted.screen import read_contract
    from export.validation import ParityError, ParityReport, certify, check_parity, export_validated

__all__ = [
    "Contract",
    "ContractError",
    "Diagnosis",
    "OnnxModel",
    "ParityError",
    "ParityReport",
    "PrecisionReport",
    "Predictions",
    "RefusedError",
    "certify",
    "check_parity",
    "diagnose",
    "expected_contract",
    "export_model",
    "export_validated",
    "predict_many",
    "quantize_model",
    "read_contract",
]

_MODULES = {
    "Diagnosis": "diagnostics.doctor",
    "diagnose": "diagnostics.doctor",
    "expected_contract": "converter.convert",
    "export_model": "converter.convert",
    "predict_many": "batch.cluster",
    "OnnxModel": "predictor",
    "Predictions": "predictor",
    "ParityError": "validation",
    "ParityReport": "validation",
    "certify": "validation",
    "check_parity": "validation",
    "Contract": "contract",
    "ContractError": "contract",
    "export_validated": "validation",
    "read_contract": "untrusted.screen",
    "quantize_model": "quantization.quantize",
    "PrecisionReport": "quantization.report",
    "RefusedError": "quantization.report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"export.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
