"""Retrieval protocols (which images are queries, which are the gallery) and metrics: R@k, CMC, mAP, mINP, MAP@R; NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.ranking import ELEMENTS, Distance, full_orders

__all__ = ["DISTRACTOR", "JUNK", "RetrievalProtocol", "RetrievalReport", "evaluate", "evaluate_distances", "make_protocol"]

ProtocolName = Literal["one-an-identity", "leave-one-out", "query-gallery"]

#: Identity of gallery images that are ignored (Market-1501: files ``-1_…``).
JUNK = -1

#: Identity of gallery images of nobody, which count as wrong (Market-1501: files ``0000_…``).
DISTRACTOR = -2

#: Ranks up to which the CMC curve is kept.
CMC_RANKS = 50


@dataclass(frozen=True)
class RetrievalProtocol:
    """Queries and gallery among the images of a split.

    Attributes:
        name: of the protocol.
        queries: image indices, int64.
        gallery: image indices, int64.
        excluded: gallery entries to ignore for each query: maps image indices (Q,) to bool (Q, gallery); None: nothing is ignored.
    """

    name: str
    queries: np.ndarray
    gallery: np.ndarray
    excluded: Callable[[np.ndarray], np.ndarray] | None = None


def make_protocol(
    name: ProtocolName,
    identities: np.ndarray,
    *,
    cameras: np.ndarray | None = None,
    is_query: np.ndarray | None = None,
) -> RetrievalProtocol:
    """Create a protocol by name.

    ``one-an-identity``: the first image of each identity is the gallery, the others are queries (our reading of report 000's 49
    candidates). ``leave-one-out``: every image is a query against all others. ``query-gallery``: as marked; gallery images of the
    query's own identity and camera are ignored, and so is junk (Zheng et al. 2015, Market-1501).

    Args:
        name: of the protocol.
        identities: int (N,). `JUNK` and `DISTRACTOR` are never queries; junk is not in the gallery either.
        cameras: int (N,), for ``query-gallery``; None: no entry is ignored for its camera.
        is_query: bool (N,), required by ``query-gallery``.

    Raises:
        UnknownNameError: unknown name.
        InputError: no queries, an empty gallery, missing marks, or an array of another type or length.
    """
    identities = _checked("identities", identities, "integers", np.integer)
    if cameras is not None:
        cameras = _checked("cameras", cameras, "integers", np.integer, len(identities))
    if is_query is not None:
        is_query = _checked("is_query", is_query, "True and False", np.bool_, len(identities))
    indices = np.arange(len(identities))
    known, ranked = identities >= 0, identities != JUNK
    if name == "one-an-identity":
        _, first = np.unique(identities, return_index=True)
        chosen = np.isin(indices, first[identities[first] >= 0])
        protocol = RetrievalProtocol(name, indices[known & ~chosen], indices[chosen | (identities == DISTRACTOR)])
    elif name == "leave-one-out":
        gallery = indices[ranked]
        protocol = RetrievalProtocol(name, indices[known], gallery, lambda queries: queries[:, None] == gallery)
    elif name == "query-gallery":
        if is_query is None:
            raise InputError("the protocol query-gallery needs images marked as queries, which this source does not provide")
        gallery = indices[~is_query & ranked]
        same = None if cameras is None else _same_camera(identities, cameras, gallery)
        protocol = RetrievalProtocol(name, indices[is_query & known], gallery, same)
    else:
        raise UnknownNameError("protocol", name, get_args(ProtocolName))
    if not len(protocol.gallery):
        raise InputError(f"the gallery of the protocol {name} is empty: it contains none of the {len(identities)} images")
    if not len(protocol.queries):
        raise InputError(f"the protocol {name} leaves no queries among {len(identities)} images: use two or more per identity")
    return protocol


def _checked(name: str, values: Any, wanted: str, kind: type, length: int | None = None) -> np.ndarray:
    """An array of one dimension and the right type and length; an int mask would select images by index."""
    array = np.asarray(values)
    if array.ndim != 1 or not np.issubdtype(array.dtype, kind) or length not in (None, len(array)):
        raise InputError(
            f"{name} must be {wanted}, one for each of {'N' if length is None else length} images; received {array.dtype} "
            f"{array.shape}" + (": use mask.astype(bool)" if kind is np.bool_ and np.issubdtype(array.dtype, np.number) else "")
        )
    return array


def _same_camera(identities: np.ndarray, cameras: np.ndarray, gallery: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def excluded(queries: np.ndarray) -> np.ndarray:
        same: np.ndarray = identities[queries][:, None] == identities[gallery]
        same &= cameras[queries][:, None] == cameras[gallery]
        return same

    return excluded


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval metrics, 0 to 1: means over the queries that have a match in the gallery.

    Attributes:
        queries: number of queries with a match.
        unmatched: number of queries without one (after exclusions), which are left out.
        gallery: size of the gallery.
        cmc: fraction of queries with a match among the first 1, 2, … entries (at most 50, or the gallery).
        mean_ap: mean average precision, not interpolated.
        mean_inp: mean inverse negative penalty (Ye et al. 2022, section 3.3): number of matches divided by the rank of the last.
        map_at_r: MAP@R (Musgrave et al. 2020, section 3.3): average precision within the first R entries, R the number of matches.
        recalls: R@k by k.
        chance: expected R@1 of a random order.
    """

    queries: int
    unmatched: int
    gallery: int
    cmc: tuple[float, ...]
    mean_ap: float
    mean_inp: float
    map_at_r: float
    recalls: dict[int, float]
    chance: float

    def to_plain(self) -> dict[str, float | int | list[float]]:
        """As stored in metrics.json: ``R1`` …, ``mAP``, ``mINP``, ``MAP@R``, ``chance``, the counts, and ``cmc`` as a list."""
        recalls: dict[str, float | int | list[float]] = {f"R{k}": value for k, value in self.recalls.items()}
        means = {"mAP": self.mean_ap, "mINP": self.mean_inp, "MAP@R": self.map_at_r, "chance": self.chance}
        counts = {"queries": self.queries, "unmatched": self.unmatched, "gallery": self.gallery}
        return recalls | means | counts | {"cmc": list(self.cmc)}


def evaluate(
    embeddings: np.ndarray,
    identities: np.ndarray,
    protocol: RetrievalProtocol,
    *,
    ks: Sequence[int] = (1, 5, 10),
    distance: Distance = "euclidean",
) -> RetrievalReport:
    """Evaluate embeddings by exact ranking, in chunks.

    Args:
        embeddings: (N, width), finite.
        identities: int (N,).
        protocol: over these N images.
        ks: of R@k; a k beyond the gallery means the whole gallery.
        distance: Euclidean, or 1 − cosine.

    Raises:
        InputError: NaN, another number of embeddings, k below 1, or no query with a match.
    """
    embeddings = np.asarray(embeddings)
    if len(embeddings) != len(identities):
        raise InputError(f"there must be one embedding per image; received {len(embeddings)} for {len(identities)} images")
    orders = full_orders(embeddings[protocol.queries], embeddings[protocol.gallery], distance=distance)
    return _evaluate_orders(orders, np.asarray(identities), protocol, ks)


def evaluate_distances(
    distances: np.ndarray, identities: np.ndarray, protocol: RetrievalProtocol, *, ks: Sequence[int] = (1, 5, 10)
) -> RetrievalReport:
    """Evaluate a distance matrix, for example a re-ranked one; see `evaluate` for the other arguments.

    Args:
        distances: (queries, gallery) of the protocol, finite; ties keep the order of the gallery.
    """
    shape = (len(protocol.queries), len(protocol.gallery))
    if np.shape(distances) != shape or not np.isfinite(distances).all():
        raise InputError(f"distances must be finite, of shape {shape} (queries, gallery); received {np.shape(distances)}")
    step = max(1, ELEMENTS // shape[1])
    parts = (slice(i, min(i + step, shape[0])) for i in range(0, shape[0], step))
    orders = ((part, np.argsort(distances[part], axis=1, kind="stable")) for part in parts)
    return _evaluate_orders(orders, np.asarray(identities), protocol, ks)


def _evaluate_orders(
    orders: Iterable[tuple[slice, np.ndarray]], identities: np.ndarray, protocol: RetrievalProtocol, ks: Sequence[int]
) -> RetrievalReport:
    if not len(ks) or min(ks) < 1:
        raise InputError(f"R@k needs k of 1 or more; received {tuple(ks)}")
    gallery = identities[protocol.gallery]
    first_ranks, ap, inp, ap_at_r, chances = ([] for _ in range(5))
    unmatched = 0
    for part, order in orders:
        queries = protocol.queries[part]
        match = gallery[order] == identities[queries][:, None]
        counted = np.ones_like(match)
        if protocol.excluded is not None:
            counted = ~np.take_along_axis(protocol.excluded(queries), order, axis=1)
            match &= counted
        total = match.sum(axis=1)
        matched = total > 0
        unmatched += int((~matched).sum())
        # rank of every entry among those that count, from 1, and the number of matches up to it
        ranks, hits = counted.cumsum(axis=1), match.cumsum(axis=1)
        rows, places = np.nonzero(match)
        rank, hit = ranks[rows, places], hits[rows, places]
        precision_at_r = np.where(rank <= total[rows], hit / rank, 0.0)
        ap.append(np.bincount(rows, hit / rank, len(queries))[matched] / total[matched])
        ap_at_r.append(np.bincount(rows, precision_at_r, len(queries))[matched] / total[matched])
        first_ranks.append(rank[hit == 1])
        inp.append(total[matched] / rank[hit == total[rows]])
        chances.append((total / np.maximum(ranks[:, -1], 1))[matched])
    first = np.concatenate(first_ranks)
    if not len(first):
        raise InputError(f"none of {unmatched} queries has its identity in the gallery: add an image of one of them")
    longest = min(CMC_RANKS, len(gallery))
    counts = np.bincount(np.minimum(first, longest + 1), minlength=longest + 2)
    return RetrievalReport(
        queries=len(first),
        unmatched=unmatched,
        gallery=len(gallery),
        cmc=tuple((counts[1 : longest + 1].cumsum() / len(first)).tolist()),
        mean_ap=float(np.concatenate(ap).mean()),
        mean_inp=float(np.concatenate(inp).mean()),
        map_at_r=float(np.concatenate(ap_at_r).mean()),
        recalls={int(k): float((first <= k).mean()) for k in ks},
        chance=float(np.concatenate(chances).mean()),
    )
