"""How well a ranking finds the right identity: R@k, CMC, mAP, mINP, MAP@R; NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.protocols import Protocol
from kerascv_course.core.ranking import ELEMENTS, Distance, full_orders

__all__ = ["RetrievalReport", "evaluate", "evaluate_distances"]

#: Ranks up to which the CMC curve is kept.
CMC_RANKS = 50


@dataclass(frozen=True)
class RetrievalReport:
    """What was measured; shares of 0 to 1, means over the queries that have a match in the gallery.

    Attributes:
        queries: how many had a match and count.
        unmatched: how many had none (after exclusions) and do not count.
        gallery: size of the gallery.
        cmc: share of queries with a right entry among the first 1, 2, … (at most 50, or the gallery).
        mean_ap: mean average precision: for each right entry the share of right ones up to it (not interpolated).
        mean_inp: mean inverse negative penalty (Ye et al. 2022, section 3.3): right entries divided by the rank of the last one.
        map_at_r: MAP@R (Musgrave et al. 2020, section 3.3): average precision within the first R, R the number of right entries.
        recalls: R@k by k.
        chance: R@1 of a random order, the expectation.
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
        """For metrics.json: ``R1`` … and the others by their names, ``cmc`` as a list."""
        shares: dict[str, float | int | list[float]] = {f"R{k}": value for k, value in self.recalls.items()}
        figures = {"mAP": self.mean_ap, "mINP": self.mean_inp, "MAP@R": self.map_at_r, "chance": self.chance}
        counts = {"queries": self.queries, "unmatched": self.unmatched, "gallery": self.gallery}
        return shares | figures | counts | {"cmc": list(self.cmc)}


def evaluate(
    embeddings: np.ndarray,
    identities: np.ndarray,
    protocol: Protocol,
    *,
    ks: Sequence[int] = (1, 5, 10),
    distance: Distance = "euclidean",
) -> RetrievalReport:
    """Measure embeddings by a protocol; ranking is exact (`kerascv_course.core.ranking`) and in chunks.

    Args:
        embeddings: (N, width), finite.
        identities: int (N,).
        protocol: over these N images.
        ks: for R@k; a k beyond the gallery counts the whole gallery.
        distance: Euclidean, or 1 − cosine.

    Raises:
        InputError: embeddings with NaN or of another number, k below 1, or no query that has a match.
    """
    embeddings = np.asarray(embeddings)
    if len(embeddings) != len(identities):
        raise InputError(f"there is one embedding an image; received {len(embeddings)} for {len(identities)} images")
    orders = full_orders(embeddings[protocol.queries], embeddings[protocol.gallery], distance=distance)
    return _measure(orders, np.asarray(identities), protocol, ks)


def evaluate_distances(
    distances: np.ndarray, identities: np.ndarray, protocol: Protocol, *, ks: Sequence[int] = (1, 5, 10)
) -> RetrievalReport:
    """Measure a matrix of distances, such as re-ranking makes; the other arguments are `evaluate`'s.

    Args:
        distances: (queries, gallery) of the protocol, finite; equal ones stand in the order of the gallery.
    """
    wanted = (len(protocol.queries), len(protocol.gallery))
    if np.shape(distances) != wanted or not np.isfinite(distances).all():
        raise InputError(f"distances are finite numbers {wanted}, queries by gallery; received {np.shape(distances)}")
    step = max(1, ELEMENTS // wanted[1])
    parts = (slice(i, min(i + step, wanted[0])) for i in range(0, wanted[0], step))
    orders = ((part, np.argsort(distances[part], axis=1, kind="stable")) for part in parts)
    return _measure(orders, np.asarray(identities), protocol, ks)


def _measure(
    orders: Iterable[tuple[slice, np.ndarray]], identities: np.ndarray, protocol: Protocol, ks: Sequence[int]
) -> RetrievalReport:
    if not len(ks) or min(ks) < 1:
        raise InputError(f"R@k is measured for k of 1 or more; received {tuple(ks)}")
    gallery = identities[protocol.gallery]
    first, precisions, penalties, at_r, chances = ([] for _ in range(5))
    unmatched = 0
    for part, order in orders:
        wanted = protocol.queries[part]
        right = gallery[order] == identities[wanted][:, None]
        counted = np.ones_like(right)
        if protocol.excluded is not None:
            counted = ~np.take_along_axis(protocol.excluded(wanted), order, axis=1)
            right &= counted
        found = right.sum(axis=1)
        unmatched += int((found == 0).sum())
        # rank of every entry among those that count, from 1; number of right ones up to it
        ranks, hits = counted.cumsum(axis=1), right.cumsum(axis=1)
        rows, places = np.nonzero(right)
        rank, hit = ranks[rows, places], hits[rows, places]
        matched = found > 0
        precision = np.bincount(rows, hit / rank, len(wanted))[matched] / found[matched]
        inside = rank <= found[rows]
        at_r.append(np.bincount(rows, np.where(inside, hit / rank, 0.0), len(wanted))[matched] / found[matched])
        precisions.append(precision)
        first.append(rank[hit == 1])
        penalties.append(found[matched] / rank[hit == found[rows]])
        chances.append((found / np.maximum(ranks[:, -1], 1))[matched])
    ranks_of_first = np.concatenate(first)
    if not len(ranks_of_first):
        raise InputError(
            f"none of {unmatched} queries has its identity in the gallery: nothing can be measured; add an image of theirs"
        )
    longest = min(CMC_RANKS, len(gallery))
    counts = np.bincount(np.minimum(ranks_of_first, longest + 1), minlength=longest + 2)
    return RetrievalReport(
        queries=len(ranks_of_first),
        unmatched=unmatched,
        gallery=len(gallery),
        cmc=tuple((counts[1 : longest + 1].cumsum() / len(ranks_of_first)).tolist()),
        mean_ap=float(np.concatenate(precisions).mean()),
        mean_inp=float(np.concatenate(penalties).mean()),
        map_at_r=float(np.concatenate(at_r).mean()),
        recalls={int(k): float((ranks_of_first <= k).mean()) for k in ks},
        chance=float(np.concatenate(chances).mean()),
    )
