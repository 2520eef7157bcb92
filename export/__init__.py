"""Keras models to ONNX files that explain themselves, the proof that they give the same answers, and their use.

Names are imported at first use: `OnnxModel` needs NumPy, onnxruntime and Pillow only; exporting needs TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.cluster import predict_many
    from export.contract import Contract, ContractError, read_contract
    from export.convert import export_model
    from export.doctor import Diagnosis, diagnose
    from export.parity import ParityError, ParityReport, certify, check_parity
    from export.quantize import quantize_model
    from export.runtime import OnnxModel, Predictions
    from export.verdict import PrecisionReport, RefusedError

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
    "export_model",
    "predict_many",
    "quantize_model",
    "read_contract",
]

_MODULES = {
    "Diagnosis": "doctor",
    "diagnose": "doctor",
    "export_model": "convert",
    "predict_many": "cluster",
    "OnnxModel": "runtime",
    "Predictions": "runtime",
    "ParityError": "parity",
    "ParityReport": "parity",
    "certify": "parity",
    "check_parity": "parity",
    "Contract": "contract",
    "ContractError": "contract",
    "read_contract": "contract",
    "quantize_model": "quantize",
    "PrecisionReport": "verdict",
    "RefusedError": "verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"export.{_MODULES[name]}"), name)
