"""Recognising identities by distance: ranking, protocols, metrics, losses and sampling. Ranking and metrics need NumPy alone."""

from __future__ import annotations

from kerascv_course.retrieval.metrics import RetrievalReport, evaluate, evaluate_distances
from kerascv_course.retrieval.protocols import PROTOCOLS, Protocol, make_protocol
from kerascv_course.retrieval.ranking import Nearest, nearest
from kerascv_course.retrieval.reranking import k_reciprocal

__all__ = [
    "PROTOCOLS",
    "Nearest",
    "Protocol",
    "RetrievalReport",
    "evaluate",
    "evaluate_distances",
    "k_reciprocal",
    "make_protocol",
    "nearest",
]
