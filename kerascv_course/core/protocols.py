"""Who is looked for, and among whom; NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = ["DISTRACTOR", "JUNK", "PROTOCOLS", "Protocol", "ProtocolName", "make_protocol"]

ProtocolName = Literal["one-an-identity", "leave-one-out", "query-gallery"]

PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)

#: Identity of gallery images that count neither as right nor as wrong (Market-1501: files ``-1_…``).
JUNK = -1

#: Identity of gallery images that are nobody's, and count as wrong (Market-1501: files ``0000_…``).
DISTRACTOR = -2


@dataclass(frozen=True)
class Protocol:
    """Queries and gallery among the images of a split.

    Attributes:
        name: of the protocol.
        queries: numbers of the images that are looked for, int64.
        gallery: numbers of the images that are ranked, int64.
        excluded: which entries of the gallery are passed over for which queries, as if they were not there: takes numbers of images
            (Q,) and gives bool (Q, gallery); None: none.
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
) -> Protocol:
    """The protocol of a name.

    ``one-an-identity``: the first image of each identity is the gallery, all others are queries (how report 000's 49 candidates are
    read). ``leave-one-out``: every image is looked for among all others. ``query-gallery``: as marked; a gallery image of the query's
    own identity and camera is passed over, and so is junk (Zheng et al. 2015, Market-1501).

    Args:
        name: one of `PROTOCOLS`.
        identities: int (N,); `JUNK` and `DISTRACTOR` are none and are not looked for; junk is not in the gallery either.
        cameras: int (N,), for ``query-gallery``; None: every gallery image counts.
        is_query: bool (N,), for ``query-gallery``.

    Raises:
        UnknownNameError: another name.
        InputError: no queries or no gallery are left, or marks are missing.
    """
    identities = np.asarray(identities)
    numbers = np.arange(len(identities))
    known, ranked = identities >= 0, identities != JUNK
    if name == "one-an-identity":
        _, first = np.unique(identities, return_index=True)
        chosen = np.isin(numbers, first[identities[first] >= 0])
        protocol = Protocol(name, numbers[known & ~chosen], numbers[chosen | (identities == DISTRACTOR)])
    elif name == "leave-one-out":
        gallery = numbers[ranked]
        protocol = Protocol(name, numbers[known], gallery, lambda wanted: wanted[:, None] == gallery)
    elif name == "query-gallery":
        if is_query is None:
            raise InputError("the protocol query-gallery needs to know which images are queries: the source does not mark them")
        gallery = numbers[~is_query & ranked]
        own = None if cameras is None else _same_camera(identities, cameras, gallery)
        protocol = Protocol(name, numbers[is_query & known], gallery, own)
    else:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    if not len(protocol.gallery):
        raise InputError(f"the gallery of the protocol {name} is empty: none of {len(identities)} images belongs to it")
    if not len(protocol.queries):
        raise InputError(
            f"the protocol {name} leaves no queries among {len(identities)} images: an identity needs two images or more"
        )
    return protocol


def _same_camera(identities: np.ndarray, cameras: np.ndarray, gallery: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def excluded(wanted: np.ndarray) -> np.ndarray:
        same = identities[wanted][:, None] == identities[gallery]
        return same & (cameras[wanted][:, None] == cameras[gallery])

    return excluded
