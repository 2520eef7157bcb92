"""Closed forms for the three colourisation networks of report 004 (sections 4.3, 5 and 6): symbols first, numbers from them.

Weights, outputs and connections are polynomials in k, NIC, NF and NC for images of S×S. The convention is the report's: weights
without biases, connections of convolutions with padding positions counted, transposed convolutions counted on their input map,
outputs of convolutions, poolings, up-samplings, batch norms and ReLUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = ["NETWORKS", "BlockForm", "NetworkForm", "Polynomial", "closed_form"]

#: Order of the symbols in a printed product.
_SYMBOLS = ("k", "NIC", "NF", "NC")
_RAISED = {2: "²", 3: "³", 4: "⁴"}

Monomial = tuple[int, ...]  # exponents of _SYMBOLS


@dataclass(frozen=True)
class Polynomial:
    """A polynomial with whole coefficients in k, NIC, NF and NC."""

    terms: Mapping[Monomial, int]

    @classmethod
    def of(cls, coefficient: int, **powers: int) -> Polynomial:
        """One product, such as ``of(4, k=2, NF=2)`` for 4k²·NF²."""
        return cls({tuple(powers.get(s, 0) for s in _SYMBOLS): coefficient})

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Polynomial({m: c for m, c in terms.items() if c})

    def __mul__(self, other: Polynomial | int) -> Polynomial:
        if isinstance(other, int):
            return Polynomial({m: c * other for m, c in self.terms.items() if other})
        product = Polynomial({})
        for m, c in self.terms.items():
            product += Polynomial({tuple(map(sum, zip(m, n, strict=True))): c * d for n, d in other.terms.items()})
        return product

    def evaluate(self, **values: int) -> int:
        """The number for given k, NIC, NF, NC."""
        return sum(c * math.prod(values[s] ** p for s, p in zip(_SYMBOLS, m, strict=True)) for m, c in self.terms.items())

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        common = min(m[0] for m in self.terms)
        ordered = sorted(self.terms.items(), key=lambda item: item[0][1:], reverse=True)
        if len(ordered) == 1:
            return _product(ordered[0][1], ordered[0][0])
        text = " + ".join(_product(c, (m[0] - common, *m[1:])) for m, c in ordered)
        return f"k{_RAISED.get(common, '')}({text})" if common else text


def _product(coefficient: int, monomial: Monomial) -> str:
    symbols = "·".join(f"{s}{_RAISED.get(p, '')}" for s, p in zip(_SYMBOLS, monomial, strict=True) if p)
    if not symbols:
        return str(coefficient)
    return symbols if coefficient == 1 else f"{coefficient}·{symbols}"


@dataclass(frozen=True)
class BlockForm:
    """One block: a convolution and what follows it."""

    number: int
    weights: Polynomial
    outputs: Polynomial
    connections: Polynomial


@dataclass(frozen=True)
class NetworkForm:
    """A network's closed forms for images of `size`; the totals are the sums over the blocks."""

    name: str
    size: int
    norms: bool
    blocks: tuple[BlockForm, ...]

    @property
    def weights(self) -> Polynomial:
        """Without biases and batch norm."""
        return sum((b.weights for b in self.blocks), Polynomial({}))

    @property
    def outputs(self) -> Polynomial:
        """Of all layers."""
        return sum((b.outputs for b in self.blocks), Polynomial({}))

    @property
    def connections(self) -> Polynomial:
        """Of the convolutions."""
        return sum((b.connections for b in self.blocks), Polynomial({}))

    def evaluate(self, *, k: int = 3, nic: int = 1, nf: int = 32, nc: int = 24) -> tuple[int, int, int]:
        """Weights, outputs and connections in numbers; the defaults are the assignment's."""
        if min(k, nic, nf, nc) < 1:
            raise InputError(f"k, NIC, NF and NC are 1 or more; received {k}, {nic}, {nf}, {nc}")
        values = {"k": k, "NIC": nic, "NF": nf, "NC": nc}
        return tuple(p.evaluate(**values) for p in (self.weights, self.outputs, self.connections))  # type: ignore[return-value]

    def __str__(self) -> str:
        rows = [("block", "weights", "outputs", "connections")]
        rows += [(str(b.number), str(b.weights), str(b.outputs), str(b.connections)) for b in self.blocks]
        rows.append(("total", str(self.weights), str(self.outputs), str(self.connections)))
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        head = f"{self.name}, {self.size}×{self.size}" + ("" if self.norms else ", batch norm outputs not counted")
        table = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
        return "\n".join([head, *table])


@dataclass(frozen=True)
class _Block:
    """A convolution's channels as polynomials; the maps it is applied to and ends in, as parts of the image's side."""

    inputs: Polynomial
    outputs: Polynomial
    applied: int  # connections are counted on a map of side size/applied
    conv: int | None  # the convolution's own output, where something resamples it; else None
    final: int  # side of the block's output: size/final
    normed: bool = True


def _p(name: str, factor: int = 1) -> Polynomial:
    return Polynomial.of(factor, **{name: 1})


_NIC, _NF, _2NF, _NC = _p("NIC"), _p("NF"), _p("NF", 2), _p("NC")

#: The blocks of each network: report 004 sections 4 and 5; the third from section 6 of the assignment.
NETWORKS: dict[str, tuple[_Block, ...]] = {
    "pool_upsample_net": (
        _Block(_NIC, _NF, applied=1, conv=1, final=2),
        _Block(_NF, _2NF, applied=2, conv=2, final=4),
        _Block(_2NF, _NF, applied=4, conv=4, final=2),
        _Block(_NF, _NC, applied=2, conv=2, final=1),
        _Block(_NC, _NC, applied=1, conv=None, final=1, normed=False),
    ),
    "conv_transpose_net": (
        _Block(_NIC, _NF, applied=2, conv=None, final=2),
        _Block(_NF, _2NF, applied=4, conv=None, final=4),
        _Block(_2NF, _NF, applied=4, conv=None, final=2),
        _Block(_NF, _NC, applied=2, conv=None, final=1),
        _Block(_NC, _NC, applied=1, conv=None, final=1, normed=False),
    ),
    "unet_colorizer": (
        _Block(_NIC, _NF, applied=2, conv=None, final=2),
        _Block(_NF, _2NF, applied=4, conv=None, final=4),
        _Block(_2NF, _NF, applied=4, conv=None, final=2),
        _Block(_NF + _NF, _NC, applied=2, conv=None, final=1),
        _Block(_NC + _NIC, _NC, applied=1, conv=None, final=1, normed=False),
    ),
}


def closed_form(name: str, size: int = 32, *, norms: bool = True) -> NetworkForm:
    """The closed forms of a network, as polynomials.

    Args:
        name: ``pool_upsample_net``, ``conv_transpose_net`` or ``unet_colorizer``.
        size: height and width of the image, a multiple of 4.
        norms: outputs of batch norms count (as in the report); the handout prefers not to.

    Raises:
        UnknownNameError: another name.
        InputError: a size that is not a multiple of 4.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network with closed forms", name, NETWORKS)
    if size < 4 or size % 4:
        raise InputError(f"the image's side is a multiple of 4, as it is halved twice; received {size}")
    square = Polynomial.of(1, k=2)
    blocks = []
    for number, b in enumerate(NETWORKS[name], start=1):
        weights = square * b.inputs * b.outputs
        layers = 1 + b.normed * (1 + norms)  # the last map of the block, once more for ReLU and for batch norm
        units = (size // b.final) ** 2 * layers + ((size // b.conv) ** 2 if b.conv else 0)
        blocks.append(BlockForm(number, weights, b.outputs * units, weights * (size // b.applied) ** 2))
    return NetworkForm(name, size, norms, tuple(blocks))
