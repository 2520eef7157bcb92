"""Data-parallel training on many devices, computed from a network's counts: FLOPs, bytes, and the time that they take.

Every device holds the whole network, learns from its share of a step's batch, and all add up their gradients (all-reduce). What is
computed here is what arithmetic and links allow; what a framework adds is left out, unless it is given as `Cluster.overhead`.

* **FLOPs of a step**: a multiply-accumulate is two. The backward pass does as much again for the gradient of a layer's weights, and as
  much again for the gradient of its input: three times the forward pass (Narayanan et al. 2021, "Efficient large-scale language model
  training on GPU clusters using Megatron-LM", appendix), less what nobody asks for: the first trained layer's input gradient, and all
  gradients below it.
* **Bytes of a step**: float32 gradients, four for each trainable parameter. In a ring of n devices each sends 2(n − 1)/n times as many,
  which no algorithm can do with less (Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
* **Seconds of an all-reduce**: bytes sent / bandwidth of the slowest link of the ring, and the latency of 2(n − 1) hops one after the
  other, of which 2 for each host lie between hosts, as NCCL reckons it (``src/graph/tuning.cc``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kerascv_course.analysis.summary import Summary
from kerascv_course.core.errors import InputError, UnknownNameError

__all__ = ["DEVICES", "LINKS", "OPTIMIZERS", "Cluster", "Curve", "Device", "Link", "Point", "Workload", "scaling", "workload"]

#: Bytes of a number of the gradients, the weights and the optimisers' slots.
FLOAT = 4

#: Numbers that an optimiser keeps for each trainable parameter.
OPTIMIZERS = {
    "sgd": 0,
    "sgd-momentum": 1,
    "rmsprop": 1,
    "rmsprop-momentum": 2,
    "adam": 2,
    "adamw": 2,
    "adamax": 2,
    "muon": 1,
}


def _count(what: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} is a whole number of 1 or more; received {value!r}")
    return value


def _positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{what} is a number above 0; received {value!r}")


@dataclass(frozen=True)
class Device:
    """An accelerator: dense FLOP/s of its data sheet, and where they stand."""

    peak: float
    source: str


DEVICES = {
    "a100": Device(312e12, "NVIDIA A100 data sheet: BFLOAT16 tensor core, without sparsity"),
    "a100-tf32": Device(156e12, "NVIDIA A100 data sheet: TF32, without sparsity"),
    "h100": Device(989.5e12, "NVIDIA H100 SXM data sheet: half of the 1,979 TFLOP/s with sparsity, BFLOAT16"),
    "h100-tf32": Device(494.5e12, "NVIDIA H100 SXM data sheet: half of the 989 TFLOP/s with sparsity, TF32"),
}


@dataclass(frozen=True)
class Link:
    """What connects devices.

    Attributes:
        bandwidth: bytes/s in one direction, as the data sheet has it: of a device, or of a host's adapter.
        latency: seconds of a hop.
        source: of both.
    """

    bandwidth: float
    latency: float
    source: str = "as given"

    def __post_init__(self) -> None:
        _positive("a link's bandwidth in bytes/s", self.bandwidth)
        if not 0 <= self.latency < math.inf:
            raise InputError(f"a link's latency is 0 seconds or more; received {self.latency!r}")


_NCCL = "latency: NCCL's ring, protocol Simple (src/graph/tuning.cc)"

LINKS = {
    "nvlink4": Link(450e9, 3.4e-6, f"NVIDIA H100 SXM data sheet: 900 GB/s, both directions; {_NCCL}"),
    "nvlink3": Link(300e9, 3.4e-6, f"NVIDIA A100 data sheet: 600 GB/s, both directions; {_NCCL}"),
    "pcie4": Link(32e9, 5.7e-6, f"PCI Express 4.0 ×16: 64 GB/s, both directions (NVIDIA A100 data sheet); {_NCCL}"),
    "infiniband-400": Link(50e9, 14e-6, f"400 Gb/s (NDR); {_NCCL}"),
    "infiniband-200": Link(25e9, 14e-6, f"200 Gb/s (HDR); {_NCCL}"),
    "ethernet-100": Link(12.5e9, 14e-6, f"100 Gb/s; {_NCCL}"),
    "ethernet-10": Link(1.25e9, 14e-6, f"10 Gb/s; {_NCCL}, which TCP does not reach"),
    "ethernet-1": Link(0.125e9, 14e-6, f"1 Gb/s; {_NCCL}, which TCP does not reach"),
}


@dataclass(frozen=True)
class Workload:
    """What training a network takes.

    Attributes:
        name: of the network.
        parameters: all of them, moving statistics included.
        trainable: those that have a gradient.
        forward_macs, training_macs: multiply-accumulates of one image, forward, and forward and backward.
        activation_bytes: memory of all activations of one image.
        draws: layers that draw random numbers, each with a state of 16 bytes.
    """

    name: str
    parameters: int
    trainable: int
    forward_macs: int
    training_macs: int
    activation_bytes: int
    draws: int = 0

    @property
    def training_flops(self) -> int:
        """FLOPs of one image in a training step."""
        return 2 * self.training_macs

    @property
    def gradient_bytes(self) -> int:
        """Bytes that are added up over all devices in every step."""
        return FLOAT * self.trainable

    def sent_bytes(self, devices: int) -> float:
        """Bytes that each device sends in a step: 2(n − 1)/n times the gradients."""
        return 2 * (_count("the number of devices", devices) - 1) * self.gradient_bytes / devices

    def checkpoint_bytes(self, optimizer: str, *, ema: bool = False, constant_rate: bool = True) -> int:
        """Bytes of the variables in ``last.npz``: weights, slots, step count, random states.

        The file has 260 more for each variable, and the history.

        Args:
            optimizer: one of `OPTIMIZERS`.
            ema: an average of the weights is kept as well.
            constant_rate: the learning rate is a variable; that of a schedule is not.

        Raises:
            UnknownNameError: another optimiser.
        """
        if optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
        slots = OPTIMIZERS[optimizer] + ema
        return FLOAT * (self.parameters + slots * self.trainable) + 8 + 4 * constant_rate + 16 * self.draws

    def memory_bytes(self, images: int, optimizer: str) -> int:
        """Device memory of a float32 step, none of it freed: weights, gradients, slots, and every activation of `images` images."""
        return self.checkpoint_bytes(optimizer) + self.gradient_bytes + images * self.activation_bytes


def workload(summary: Summary) -> Workload:
    """What training an analysed network takes.

    Raises:
        InputError: nothing in it is trained, or the products of a layer are not known.
    """
    if not summary.trainable:
        raise InputError(f"{summary.name} has no trainable parameters: there is nothing to train, and no gradient to add up")
    if summary.macs is None or summary.activation_bytes is None:
        unknown = ", ".join(summary.unknown[:3]) or "a layer of unknown size"
        raise InputError(f"FLOPs are counted where every layer is known; {summary.name} has {unknown}: give --input-shape")
    training, trained = 0, False
    for row in summary.rows:
        # a product of two activations has the gradients of both
        gradients = 2 * trained if row.kind == "matmul" else trained + (row.trainable > 0)
        training += (row.macs or 0) * (1 + gradients)
        trained = trained or row.trainable > 0
    draws = sum("Dropout" in row.type for row in summary.rows)
    return Workload(
        summary.name, summary.parameters, summary.trainable, summary.macs, training, summary.activation_bytes, draws
    )


@dataclass(frozen=True)
class Cluster:
    """Equal devices and what connects them.

    Attributes:
        peak: FLOP/s of a device.
        utilisation: share of the peak that training reaches, above 0 to 1.
        link: between hosts.
        within: between the devices of a host; None: `link`.
        per_host: devices of a host.
        adapters: of a host, each `link` wide; a ring goes through each, and they share the bytes.
        link_share: share of a link's bandwidth that is reached, above 0 to 1.
        pipeline: images/s that the input pipeline of a host delivers; None: any number.
        overhead: seconds of a step that nothing makes shorter (launching kernels, Python).
    """

    peak: float
    link: Link
    utilisation: float = 1.0
    within: Link | None = None
    per_host: int = 1
    adapters: int = 1
    link_share: float = 1.0
    pipeline: float | None = None
    overhead: float = 0.0

    def __post_init__(self) -> None:
        _positive("a device's peak in FLOP/s", self.peak)
        for name, share in (("utilisation", self.utilisation), ("share of a link's bandwidth", self.link_share)):
            if not 0 < share <= 1:
                raise InputError(f"the {name} is a share, above 0 and at most 1; received {share!r}")
        _count("the number of devices of a host", self.per_host)
        _count("the number of adapters of a host", self.adapters)
        if self.within is not None and self.per_host == 1:
            raise InputError(
                "a link within hosts needs hosts of 2 devices or more; received 1: give --per-host, or no --within"
            )
        if self.pipeline is not None:
            _positive("what the input pipeline delivers in images/s", self.pipeline)
        if not 0 <= self.overhead < math.inf:
            raise InputError(f"the overhead of a step is 0 seconds or more; received {self.overhead!r}")

    def hosts(self, devices: int) -> int:
        """Hosts that so many devices need."""
        return -(-devices // self.per_host)

    def all_reduce_seconds(self, sent: float, devices: int) -> float:
        """Seconds in which every device of a ring sends `sent` bytes in 2(n − 1) hops."""
        hosts, hops = self.hosts(devices), 2 * (devices - 1)
        inner = self.within or self.link
        between = min(2 * hosts, hops) if hosts > 1 else 0
        slowest = inner.bandwidth if hosts == 1 else self.adapters * self.link.bandwidth
        if hosts > 1 and self.within:
            slowest = min(slowest, self.within.bandwidth)
        return between * self.link.latency + (hops - between) * inner.latency + sent / (slowest * self.link_share)


@dataclass(frozen=True)
class Point:
    """A training step on some devices.

    Attributes:
        devices: how many.
        batch: images of the step on all of them together.
        per_device: images of the device that has most.
        compute, all_reduce, load: seconds of computing, of adding up the gradients, and of the input pipeline.
        sent: bytes that each device sends.
    """

    devices: int
    batch: int
    per_device: int
    compute: float
    all_reduce: float
    load: float
    sent: float

    def seconds(self, *, overlap: bool = False) -> float:
        """Seconds of the step; with `overlap` gradients travel while others are still computed, as well as can be."""
        work = max(self.compute, self.all_reduce) if overlap else self.compute + self.all_reduce
        return max(work, self.load)

    def images_per_second(self, *, overlap: bool = False) -> float:
        """What all devices together learn from."""
        return self.batch / self.seconds(overlap=overlap)

    @property
    def limit(self) -> str:
        """What takes longest: "compute", "all-reduce" or "input"."""
        return max((self.compute, "compute"), (self.all_reduce, "all-reduce"), (self.load, "input"))[1]


Kind = Literal["strong", "weak"]


@dataclass(frozen=True)
class Curve:
    """Training steps on ever more devices.

    Attributes:
        kind: "strong": the batch is divided; "weak": every device has as many images as one alone.
        points: one for each number of devices.
        alone: the step on one device.
    """

    work: Workload
    cluster: Cluster
    kind: Kind
    points: tuple[Point, ...]
    alone: Point

    def speed_up(self, point: Point, *, overlap: bool = False) -> float:
        """Images/s beside those of one device: 1 to the number of devices, or less than 1 where more devices are slower."""
        return point.images_per_second(overlap=overlap) / self.alone.images_per_second(overlap=overlap)

    def efficiency(self, point: Point, *, overlap: bool = False) -> float:
        """Speed-up divided by the number of devices, 0 to 1."""
        return self.speed_up(point, overlap=overlap) / point.devices


def scaling(work: Workload, cluster: Cluster, devices: Sequence[int], batch: int, kind: Kind = "strong") -> Curve:
    """The step of a network on some numbers of devices.

    Args:
        work: of `workload`.
        cluster: what it is trained on.
        devices: numbers of devices, each 1 or more.
        batch: images of a step: of all devices together (strong), or of each (weak).
        kind: "strong" or "weak".

    Raises:
        InputError: no devices, a number below 1, or a batch that leaves devices without an image.
    """
    if kind not in ("strong", "weak"):
        raise InputError(f"scaling is strong (one batch, divided) or weak (a batch a device); received {kind!r}")
    if not devices:
        raise InputError("the numbers of devices are one or more; received none")
    _count("the batch", batch)
    largest = max(_count("the number of devices", n) for n in devices)
    if kind == "strong" and batch < largest:
        raise InputError(
            f"every device has an image or more; received a batch of {batch} for {largest} devices: a larger --batch"
        )

    def point(n: int) -> Point:
        whole = batch if kind == "strong" else batch * n
        share = -(-whole // n)
        compute = share * work.training_flops / (cluster.peak * cluster.utilisation) + cluster.overhead
        load = whole / (cluster.pipeline * cluster.hosts(n)) if cluster.pipeline else 0.0
        sent = work.sent_bytes(n)
        return Point(n, whole, share, compute, cluster.all_reduce_seconds(sent, n), load, sent)

    return Curve(work, cluster, kind, tuple(map(point, devices)), point(1))
