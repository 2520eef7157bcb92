"""Data-parallel training on many devices, computed from a network's counts: FLOPs, bytes, and step time.

Every device holds the whole network and processes its part of a step's batch; then all sum up their gradients (all-reduce). Only
arithmetic and links are modeled; overhead of the framework is left out unless it is given as `DeviceCluster.overhead`.

* **FLOPs of a step**: a multiply-accumulate counts as two. The backward pass computes the gradients of a layer's weights and of its
  input, each as expensive as the forward pass: three times the forward pass in total (Narayanan et al. 2021, "Efficient large-scale
  language model training on GPU clusters using Megatron-LM", appendix), without the gradients that are not needed: of the input of
  the first trained layer, and everything below it.
* **Bytes of a step**: float32 gradients, 4 bytes per trainable parameter. In a ring of n devices each sends 2(n − 1)/n times as many,
  the minimum for any algorithm (Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
* **Seconds of an all-reduce**: bytes sent / bandwidth of the slowest link of the ring, plus the latency of 2(n − 1) consecutive hops,
  2 per host of them between hosts, as in NCCL's model (``src/graph/tuning.cc``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kerascv_course.analysis.summary import Summary
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.tables import markdown_table

__all__ = [
    "DEVICES",
    "LINKS",
    "OPTIMIZERS",
    "Device",
    "DeviceCluster",
    "Kind",
    "Link",
    "ScalingCurve",
    "ScalingPoint",
    "Workload",
    "curve_table",
    "network_table",
    "scaling",
    "step_text",
    "workload",
]

#: Kind of scaling.
Kind = Literal["strong", "weak"]

#: Bytes of a gradient, a weight, or an optimizer's slot.
FLOAT = 4

#: Slots that an optimizer keeps per trainable parameter.
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
        raise InputError(f"{what} must be an integer of 1 or more; received {value!r}")
    return value


def _positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{what} must be above 0; received {value!r}")


@dataclass(frozen=True)
class Device:
    """An accelerator: peak dense FLOP/s according to its data sheet, and the source."""

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
    """A connection between devices.

    Attributes:
        bandwidth: bytes/s in one direction according to the data sheet, per device or per network adapter of a host.
        latency: seconds that a message needs for one hop.
        source: where bandwidth and latency come from.
    """

    bandwidth: float
    latency: float
    source: str = "as given"

    def __post_init__(self) -> None:
        _positive("a link's bandwidth in bytes/s", self.bandwidth)
        if not 0 <= self.latency < math.inf:
            raise InputError(f"a link's latency must be 0 seconds or more; received {self.latency!r}")


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
    """Cost of training a network.

    Attributes:
        name: what the network is called.
        parameters: all of them, including moving statistics.
        trainable: those with a gradient.
        forward_macs, training_macs: multiply-accumulates per image: forward; forward and backward.
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
        """FLOPs per image of a training step."""
        return 2 * self.training_macs

    @property
    def gradient_bytes(self) -> int:
        """Bytes that are summed over all devices in every step."""
        return FLOAT * self.trainable

    def sent_bytes(self, devices: int) -> float:
        """Bytes that each device sends in a step: 2(n − 1)/n times the gradients."""
        return 2 * (_count("the number of devices", devices) - 1) * self.gradient_bytes / devices

    def checkpoint_bytes(self, optimizer: str, *, ema: bool = False, constant_rate: bool = True) -> int:
        """Bytes of the variables in ``last.npz``: weights, slots, step count, random states.

        The file has 260 more per variable, and the history.

        Args:
            optimizer: name of the optimizer, one of `OPTIMIZERS`.
            ema: a moving average of the weights is kept as well.
            constant_rate: the learning rate is a variable, unlike that of a schedule.

        Raises:
            UnknownNameError: unknown optimizer.
        """
        if optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
        slots = OPTIMIZERS[optimizer] + ema
        return FLOAT * (self.parameters + slots * self.trainable) + 8 + 4 * constant_rate + 16 * self.draws

    def memory_bytes(self, images: int, optimizer: str) -> int:
        """Device memory of a float32 step if nothing is freed: weights, gradients, slots, and all activations of `images` images."""
        return self.checkpoint_bytes(optimizer) + self.gradient_bytes + images * self.activation_bytes


def workload(summary: Summary) -> Workload:
    """Cost of training a network.

    Raises:
        InputError: it has no trainable parameters, or layers of unknown cost.
    """
    if not summary.trainable:
        raise InputError(f"{summary.name} has no trainable parameters: there is nothing to train")
    if summary.macs is None or summary.activation_bytes is None:
        unknown = ", ".join(summary.unknown[:3]) or "a layer of unknown size"
        raise InputError(f"FLOPs need every layer to be known; {summary.name} has {unknown}: give --input-shape")
    training, trained = 0, False
    for row in summary.rows:
        # a product of two activations has gradients for both
        gradients = 2 * trained if row.kind == "matmul" else trained + (row.trainable > 0)
        training += (row.macs or 0) * (1 + gradients)
        trained = trained or row.trainable > 0
    draws = sum("Dropout" in row.type for row in summary.rows)
    return Workload(
        summary.name, summary.parameters, summary.trainable, summary.macs, training, summary.activation_bytes, draws
    )


@dataclass(frozen=True)
class DeviceCluster:
    """Identical devices and their connections.

    Attributes:
        peak: FLOP/s of a device.
        utilization: fraction of the peak that training reaches, in (0, 1].
        link: the connection between hosts.
        within: between the devices of a host; None: `link`.
        per_host: number of devices per host.
        adapters: network adapters per host, each with the bandwidth of `link`; every adapter carries a ring, they share the bytes.
        link_share: fraction of a link's bandwidth that is reached, in (0, 1].
        pipeline: images/s of a host's input pipeline; None: unlimited.
        overhead: constant seconds per step (kernel launches, Python).
    """

    peak: float
    link: Link
    utilization: float = 1.0
    within: Link | None = None
    per_host: int = 1
    adapters: int = 1
    link_share: float = 1.0
    pipeline: float | None = None
    overhead: float = 0.0

    def __post_init__(self) -> None:
        _positive("a device's peak in FLOP/s", self.peak)
        for name, fraction in (("utilization", self.utilization), ("link share", self.link_share)):
            if not 0 < fraction <= 1:
                raise InputError(f"the {name} must be above 0 and at most 1; received {fraction!r}")
        _count("the number of devices per host", self.per_host)
        _count("the number of adapters per host", self.adapters)
        if self.within is not None and self.per_host == 1:
            raise InputError(
                "a link within hosts needs at least 2 devices per host; received 1: give --per-host, or no --within"
            )
        if self.pipeline is not None:
            _positive("the throughput of the input pipeline in images/s", self.pipeline)
        if not 0 <= self.overhead < math.inf:
            raise InputError(f"the overhead of a step must be 0 seconds or more; received {self.overhead!r}")

    def hosts(self, devices: int) -> int:
        """Number of hosts for this many devices."""
        return -(-devices // self.per_host)

    def all_reduce_seconds(self, sent: float, devices: int) -> float:
        """Seconds until every device of a ring has sent `sent` bytes in 2(n − 1) hops."""
        hosts, hops = self.hosts(devices), 2 * (devices - 1)
        inner = self.within or self.link
        between = min(2 * hosts, hops) if hosts > 1 else 0
        slowest = inner.bandwidth if hosts == 1 else self.adapters * self.link.bandwidth
        if hosts > 1 and self.within:
            slowest = min(slowest, self.within.bandwidth)
        return between * self.link.latency + (hops - between) * inner.latency + sent / (slowest * self.link_share)


@dataclass(frozen=True)
class ScalingPoint:
    """A training step on a number of devices.

    Attributes:
        devices: number of devices that share the step.
        batch: images per step on all of them together.
        per_device: images on the device with the most.
        compute, all_reduce, load: seconds of computing, of summing the gradients, and of the input pipeline.
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
        """Seconds of the step; with `overlap` communication and computation overlap fully."""
        work = max(self.compute, self.all_reduce) if overlap else self.compute + self.all_reduce
        return max(work, self.load)

    def images_per_second(self, *, overlap: bool = False) -> float:
        """Throughput of all devices together."""
        return self.batch / self.seconds(overlap=overlap)

    @property
    def limit(self) -> str:
        """The bottleneck: "compute", "all-reduce" or "input"."""
        return max((self.compute, "compute"), (self.all_reduce, "all-reduce"), (self.load, "input"))[1]


@dataclass(frozen=True)
class ScalingCurve:
    """Training steps on different numbers of devices.

    Attributes:
        work, cluster: what is trained, on what.
        kind: "strong": the batch is divided; "weak": every device has a whole batch.
        points: one per number of devices.
        alone: the step on one device.
    """

    work: Workload
    cluster: DeviceCluster
    kind: Kind
    points: tuple[ScalingPoint, ...]
    alone: ScalingPoint

    def speed_up(self, point: ScalingPoint, *, overlap: bool = False) -> float:
        """Throughput relative to one device: at most the number of devices, below 1 if more devices are slower."""
        return point.images_per_second(overlap=overlap) / self.alone.images_per_second(overlap=overlap)

    def efficiency(self, point: ScalingPoint, *, overlap: bool = False) -> float:
        """Speedup divided by the number of devices, 0 to 1."""
        return self.speed_up(point, overlap=overlap) / point.devices


def scaling(work: Workload, cluster: DeviceCluster, devices: Sequence[int], batch: int, kind: Kind = "strong") -> ScalingCurve:
    """Training steps of a network on different numbers of devices.

    Args:
        work: cost of the network, as `workload` returns it.
        cluster: what it is trained on.
        devices: numbers of devices, each 1 or more.
        batch: images per step: on all devices together (strong), or on each (weak).
        kind: what `batch` is divided among, "strong" or "weak".

    Raises:
        InputError: no devices, a number below 1, or a batch smaller than the number of devices.
    """
    if kind not in ("strong", "weak"):
        raise InputError(f"scaling is strong (one batch, divided) or weak (a batch per device); received {kind!r}")
    if not devices:
        raise InputError("give at least one number of devices")
    _count("the batch", batch)
    largest = max(_count("the number of devices", n) for n in devices)
    if kind == "strong" and batch < largest:
        raise InputError(
            f"every device needs at least one image; received a batch of {batch} for {largest} devices: choose a larger --batch"
        )

    def point(n: int) -> ScalingPoint:
        whole = batch if kind == "strong" else batch * n
        share = -(-whole // n)
        compute = share * work.training_flops / (cluster.peak * cluster.utilization) + cluster.overhead
        load = whole / (cluster.pipeline * cluster.hosts(n)) if cluster.pipeline else 0.0
        sent = work.sent_bytes(n)
        return ScalingPoint(n, whole, share, compute, cluster.all_reduce_seconds(sent, n), load, sent)

    return ScalingCurve(work, cluster, kind, tuple(map(point, devices)), point(1))


# --- tables -----------------------------------------------------------------------------------------------------------


def step_text(work: Workload, optimizer: str, images: int) -> str:
    """FLOPs and bytes of training a network, with the arithmetic."""
    ratio = work.training_macs / work.forward_macs if work.forward_macs else 0.0
    return "\n".join(
        [
            f"{work.name}: {work.parameters:,} parameters, {work.trainable:,} of them trainable",
            f"FLOPs        per image, forward 2 × {work.forward_macs:,} MACs = {2 * work.forward_macs / 1e9:.4g} GFLOP; forward and "
            f"backward {work.training_flops / 1e9:.4g} GFLOP ({ratio:.2f} × forward)",
            f"gradients    4 × {work.trainable:,} = {work.gradient_bytes:,} bytes; each of n devices sends 2(n − 1)/n times as many",
            f"checkpoint   {work.checkpoint_bytes(optimizer):,} bytes of variables with {optimizer}",
            f"memory       {work.memory_bytes(images, optimizer) / 2**30:.3g} GiB for {images} images on a device: checkpoint, "
            f"gradients, and {work.activation_bytes:,} bytes of activations per image if none is freed",
        ]
    )


def curve_table(curve: ScalingCurve) -> str:
    """A Markdown table, one row per number of devices; pairs are without overlap / with full overlap."""
    head = (
        "devices",
        "batch",
        "compute ms",
        "sent MB",
        "all-reduce ms",
        "step ms",
        "images/s",
        "speedup",
        "efficiency",
        "limit",
    )

    both = (False, True)
    rows = [
        (
            p.devices,
            p.batch,
            _short(1e3 * p.compute),
            _short(p.sent / 1e6),
            _short(1e3 * p.all_reduce),
            _pair(1e3 * p.seconds(overlap=o) for o in both),
            _pair(p.images_per_second(overlap=o) for o in both),
            _pair(curve.speed_up(p, overlap=o) for o in both),
            _pair(curve.efficiency(p, overlap=o) for o in both),
            p.limit,
        )
        for p in curve.points
    ]
    what = "one batch, divided" if curve.kind == "strong" else "a batch per device"
    title = f"{curve.kind} scaling ({what}); without overlap / with full overlap"
    return f"{title}\n\n{markdown_table(head, rows, align='r' * 9 + 'l')}"


def network_table(works: Sequence[Workload], cluster: DeviceCluster, devices: int, optimizer: str) -> str:
    """A Markdown table, one row per network: training cost, and the batch per device whose compute time equals the all-reduce."""
    head = (
        "network",
        "trainable",
        "GFLOP per image",
        "gradients MB",
        f"sent by each of {devices}, MB",
        "all-reduce ms",
        "images per device as long",
        f"checkpoint MB, {optimizer}",
        "activations MB per image",
    )
    rows = []
    for work in works:
        sent = work.sent_bytes(devices)
        seconds = cluster.all_reduce_seconds(sent, devices)
        image = work.training_flops / (cluster.peak * cluster.utilization)
        rows.append(
            (
                f"`{work.name}`",
                work.trainable,
                _short(work.training_flops / 1e9),
                f"{work.gradient_bytes / 1e6:,.2f}",
                f"{sent / 1e6:,.2f}",
                _short(1e3 * seconds),
                f"{seconds / image:,.0f}" if image else "—",
                f"{work.checkpoint_bytes(optimizer) / 1e6:,.2f}",
                f"{work.activation_bytes / 1e6:,.2f}",
            )
        )
    return markdown_table(head, rows, align="l" + "r" * 8)


def _short(value: float) -> str:
    """Three significant digits or more, with thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pair(values: Iterable[float]) -> str:
    return " / ".join(dict.fromkeys(map(_short, values)))
