"""The verdict on a file of lower precision: what was tried, measured and decided. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kerascv_course.core.errors import CourseError

__all__ = ["AIM", "LIMIT", "MIN_SPEEDUP", "PrecisionReport", "RefusedError", "Sensitivity", "Speed", "Trial", "failures"]

Kind = Literal["int8", "float16"]

#: Share of right answers that may be lost; half of it is aimed at where layers are chosen, for the test images are others.
LIMIT = 0.005
AIM = LIMIT / 2

#: A file counts as faster from this factor on: less is not told from noise.
MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class Trial:
    """A file that was tried.

    Attributes:
        method: how the ranges of the activations were found; empty for float16.
        float_layers: how many layers stayed in float32.
        accuracy: share of right answers on the validation images.
    """

    method: str
    float_layers: int
    accuracy: float


@dataclass(frozen=True)
class Sensitivity:
    """A layer converted by itself, all others in float32.

    Attributes:
        layer: its name.
        node: of the graph.
        noise: root mean square of the change in the scores, divided by that of the scores.
    """

    layer: str
    node: str
    noise: float


@dataclass(frozen=True)
class Speed:
    """Median milliseconds a call, measured in turns.

    Attributes:
        batch_size: images a call.
        float32_ms: of the float32 file.
        ms: of the other.
    """

    batch_size: int
    float32_ms: float
    ms: float

    @property
    def speedup(self) -> float:
        """How many times faster the other is."""
        return self.float32_ms / self.ms


@dataclass(frozen=True)
class PrecisionReport:
    """What was tried and measured, and the verdict.

    Attributes:
        source: float32 file.
        path: where the other file is, or would have been.
        kind: ``int8`` or ``float16``.
        method: in words.
        machine: processor and cores, or GPU.
        provider: onnxruntime's.
        calibration_images: images that gave the ranges.
        validation: split that method and layers were chosen on, and `validation_images` of it.
        validation_float32: share of right answers of the float32 file there.
        trials: what was tried on it, in order; the best was taken.
        sensitivities: layers, the most sensitive first; empty where none had to be found.
        float_layers: names of those that stay in float32.
        split: images that the verdict was measured on, once, and `images` of it.
        accuracy_float32: share of right answers of the float32 file there.
        accuracy: of the other.
        speeds: a row a batch size.
        bytes_float32: size of the float32 file.
        bytes: of the other.
        failures: why it is not worth keeping, a sentence each; empty where it is.
        kept: whether the file was written.
        measured: date and time.
    """

    source: str
    path: str
    kind: Kind
    method: str
    machine: str
    provider: str
    calibration_images: int
    validation: str
    validation_images: int
    validation_float32: float
    trials: tuple[Trial, ...]
    sensitivities: tuple[Sensitivity, ...]
    float_layers: tuple[str, ...]
    split: str
    images: int
    accuracy_float32: float
    accuracy: float
    speeds: tuple[Speed, ...]
    bytes_float32: int
    bytes: int
    failures: tuple[str, ...]
    kept: bool
    measured: str

    @property
    def ok(self) -> bool:
        """Whether the file is worth keeping."""
        return not self.failures

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        plain = {"ok": self.ok, **dataclasses.asdict(self)}
        for row, speed in zip(plain["speeds"], self.speeds, strict=True):
            row["speedup"] = speed.speedup
        return plain

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.method}", f"{self.machine}, {self.provider}", ""]
        lines += [f"chosen on {self.validation_images:,} {self.validation} images (float32: {self.validation_float32:.4f}):"]
        for trial in self.trials:
            floats = f", {trial.float_layers} layers in float32" if trial.float_layers else ""
            lines.append(f"  {trial.method or self.kind}{floats}: {trial.accuracy:.4f}")
        if self.sensitivities:
            lines += ["most sensitive layers (change in the scores when only they are converted):"]
            lines += [f"  {row.layer}: {row.noise:.2%}" for row in self.sensitivities[:10]]
        if self.float_layers:
            lines.append(f"stay in float32: {', '.join(self.float_layers)}")
        lines += ["", f"{'':<24}{'float32':>12}{self.kind:>12}"]
        lines.append(
            f"{f'accuracy, {self.images:,} {self.split}':<24}{self.accuracy_float32:>12.4f}{self.accuracy:>12.4f}"
            f"{100 * (self.accuracy - self.accuracy_float32):>+9.2f} points"
        )
        for speed in self.speeds:
            name = f"ms at batch {speed.batch_size}"
            lines.append(f"{name:<24}{speed.float32_ms:>12.3f}{speed.ms:>12.3f}{speed.speedup:>8.2f}× as fast")
        lines.append(
            f"{'megabytes':<24}{self.bytes_float32 / 1e6:>12.2f}{self.bytes / 1e6:>12.2f}"
            f"{self.bytes_float32 / self.bytes:>8.2f}× smaller"
        )
        verdict = "worth keeping" if self.ok else "NOT worth keeping" + (", kept all the same" if self.kept else "")
        return "\n".join([*lines, "", f"verdict: {verdict}", *(f"  {failure}" for failure in self.failures)])


class RefusedError(CourseError):
    """The file is not worth keeping; nothing was written. `report` has all that was measured."""

    def __init__(self, report: PrecisionReport) -> None:
        self.report = report
        super().__init__(f"{report.kind} of {report.source} is not kept: " + "; ".join(report.failures))


def failures(accuracies: Sequence[float], images: str, speeds: Sequence[Speed]) -> Iterator[str]:
    """Why a file is not worth keeping, a sentence each.

    Args:
        accuracies: shares of right answers of the float32 file and of the other.
        images: what they were measured on, in words.
        speeds: measured in turns.
    """
    lost = accuracies[0] - accuracies[1]
    if not lost <= LIMIT + 1e-12:
        yield (
            f"accuracy falls by {100 * lost:.2f} points, from {accuracies[0]:.4f} to {accuracies[1]:.4f} on {images}; "
            f"{100 * LIMIT:g} are allowed"
        )
    for speed in speeds:
        if not speed.speedup >= MIN_SPEEDUP:
            yield (
                f"at batch {speed.batch_size} it takes {speed.ms:.3f} ms against {speed.float32_ms:.3f} ms of float32, "
                f"{speed.speedup:.2f}× as fast; {MIN_SPEEDUP:g}× is asked for"
            )
