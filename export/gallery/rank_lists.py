"""What the gate compares of files whose answer is a vector: the nearest of every image, and who is found first."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.ranking import nearest
from kerascv_course.core.retrieval_metrics import evaluate, make_protocol

__all__ = ["MIN_EQUAL", "RankLists", "equal_lists"]

#: Share of the images whose rank lists must be equal.
MIN_EQUAL = 0.999

#: Entries of a rank list, the image itself left out.
LENGTH = 10

#: Images whose distances differ by less have no order that float32 could keep.
TIE = 1e-5


class RankLists:
    """Vectors of all images, by Keras and by a file in several ways, gathered in parts.

    Args:
        identities: int (N,), who is on each image; None: not known.
    """

    def __init__(self, identities: np.ndarray | None) -> None:
        self.identities = identities
        self._parts: dict[Hashable, list[np.ndarray]] = {}

    def add(self, way: Hashable, vectors: np.ndarray) -> None:
        """Take the next images' vectors in, (n, width)."""
        self._parts.setdefault(way, []).append(vectors)

    def agreement(self, reference: Hashable, way: Hashable) -> float:
        """`equal_lists` of two ways."""
        return equal_lists(*(np.concatenate(self._parts[one]) for one in (reference, way)))

    def first_rate(self, way: Hashable) -> float | None:
        """R1 with every image looked for among all others; None where identities are not known, or none has two images."""
        vectors = np.concatenate(self._parts[way])
        if self.identities is None or not np.isfinite(vectors).all():
            return None
        try:
            protocol = make_protocol("leave-one-out", self.identities)
            return evaluate(vectors, self.identities, protocol, ks=(1,)).recalls[1]
        except InputError:
            return None


def equal_lists(reference: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the images whose ten nearest others are the same in the same order; two at one distance may change places.

    Args:
        reference: float (N, width).
        vectors: likewise, of the same images.
    """
    if reference.shape != vectors.shape or not (np.isfinite(reference).all() and np.isfinite(vectors).all()):
        return 0.0
    if len(reference) < 2:
        return 1.0
    ours, theirs = _others(vectors), _others(reference)
    wanted = np.linalg.norm(reference[:, None].astype(np.float64) - reference[theirs], axis=-1)
    found = np.linalg.norm(reference[:, None].astype(np.float64) - reference[ours], axis=-1)
    return float(((ours == theirs) | (np.abs(wanted - found) <= TIE)).all(axis=1).mean())


def _others(vectors: np.ndarray) -> np.ndarray:
    """The nearest others of each, int (N, LENGTH or fewer)."""
    indices = nearest(vectors, vectors, LENGTH + 1).indices
    own = indices == np.arange(len(vectors))[:, None]
    own[~own.any(axis=1), -1] = True  # more copies of it than the list is long
    return indices[~own].reshape(len(vectors), -1)
