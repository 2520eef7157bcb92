"""The verdict on a reduced-precision file: what was tried, measured and decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kerascv_course.core.errors import CourseError
from kerascv_course.core.tables import text_table

__all__ = ["AIM", "LIMIT", "MIN_SPEEDUP", "LayerSensitivity", "PrecisionReport", "PrecisionTrial", "RefusedError", "SpeedPair"]

Kind = Literal["int8", "float16"]

#: Largest loss of accuracy on the test images (0–1).
LIMIT = 0.005

#: Loss on the validation images that layers are chosen for; the rest is for the difference between the two splits.
AIM = LIMIT / 2

#: Smallest factor that counts as faster; less is noise.
MIN_SPEEDUP = 1.05

#: Sensitive layers that are printed.
SHOWN_LAYERS = 10


@dataclass(frozen=True)
class PrecisionTrial:
    """A file that was tried.

    Attributes:
        method: calibration method of the activations; empty for float16.
        float_layers: number of layers left in float32.
        accuracy: on the validation images.
    """

    method: str
    float_layers: int
    accuracy: float


@dataclass(frozen=True)
class LayerSensitivity:
    """The effect of converting one layer, with all others in float32.

    Attributes:
        layer: its name.
        node: its node in the graph.
        noise: root mean square change of the scores, relative to that of the scores.
    """

    layer: str
    node: str
    noise: float


@dataclass(frozen=True)
class SpeedPair:
    """Median milliseconds a call of both files, measured in turns.

    Attributes:
        batch_size: images a call.
        float32_ms: of the float32 file.
        ms: of the reduced file.
    """

    batch_size: int
    float32_ms: float
    ms: float

    @property
    def speedup(self) -> float:
        """Factor by which the reduced file is faster."""
        return self.float32_ms / self.ms


@dataclass(frozen=True)
class PrecisionReport:
    """All trials and measurements of a conversion, and the verdict.

    Attributes:
        source: float32 file.
        path: reduced file, kept or not.
        kind: ``int8`` or ``float16``.
        method: of the conversion, in words.
        machine: processor and cores, or GPU.
        provider: onnxruntime's.
        calibration_images: number of images that gave the ranges.
        validation: split that method and layers were chosen on, and `validation_images` of it.
        validation_float32: accuracy of the float32 file there.
        trials: files tried on it, in order; the best was taken.
        sensitivities: layers, the most sensitive first; empty where no layer had to be chosen.
        float_layers: names of the layers left in float32.
        split: split that the verdict was measured on, once, and `images` of it.
        accuracy_float32: accuracy of the float32 file there.
        accuracy: of the reduced file.
        speeds: one entry a batch size.
        bytes_float32: size of the float32 file.
        bytes: of the reduced file.
        failures: reasons to refuse the file, a sentence each.
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
    trials: tuple[PrecisionTrial, ...]
    sensitivities: tuple[LayerSensitivity, ...]
    float_layers: tuple[str, ...]
    split: str
    images: int
    accuracy_float32: float
    accuracy: float
    speeds: tuple[SpeedPair, ...]
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
        """JSON-serializable form."""
        plain = {"ok": self.ok, **dataclasses.asdict(self)}
        for row, speed in zip(plain["speeds"], self.speeds, strict=True):
            row["speedup"] = speed.speedup
        return plain

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.method}", f"{self.machine}, {self.provider}", ""]
        if len(self.trials) > 1:
            lines += [
                f"chosen on {self.validation_images:,} {self.validation} images (float32: {self.validation_float32:.4f}):"
            ]
            for trial in self.trials:
                floats = f", {trial.float_layers} layers in float32" if trial.float_layers else ""
                lines.append(f"  {trial.method or self.kind}{floats}: {trial.accuracy:.4f}")
        if self.sensitivities:
            lines += ["most sensitive layers (change of the scores when only this layer is converted):"]
            lines += [f"  {row.layer}: {row.noise:.2%}" for row in self.sensitivities[:SHOWN_LAYERS]]
        if self.float_layers:
            lines.append(f"left in float32: {', '.join(self.float_layers)}")
        change = 100 * (self.accuracy - self.accuracy_float32)
        rows = [
            (
                f"accuracy, {self.images:,} {self.split}",
                f"{self.accuracy_float32:.4f}",
                f"{self.accuracy:.4f}",
                f"{change:+.2f} points",
            ),
            *(
                (f"ms at batch {s.batch_size}", f"{s.float32_ms:.3f}", f"{s.ms:.3f}", f"{s.speedup:.2f}× as fast")
                for s in self.speeds
            ),
            (
                "megabytes",
                f"{self.bytes_float32 / 1e6:.2f}",
                f"{self.bytes / 1e6:.2f}",
                f"{self.bytes_float32 / self.bytes:.2f}× smaller",
            ),
        ]
        verdict = "worth keeping" if self.ok else "NOT worth keeping" + (", kept because of --force" if self.kept else "")
        table = text_table(["", "float32", self.kind, ""], rows, align="lrrr")
        return "\n".join(
            [
                *lines,
                *([""] if lines[-1] else []),
                table,
                "",
                f"verdict: {verdict}",
                *(f"  {failure}" for failure in self.failures),
            ]
        )


class RefusedError(CourseError):
    """The file is not worth keeping; nothing was written. `report` has all measurements."""

    def __init__(self, report: PrecisionReport) -> None:
        self.report = report
        super().__init__(f"{report.kind} of {report.source} is refused: " + "; ".join(report.failures))


def find_failures(accuracies: Sequence[float], images: str, speeds: Sequence[SpeedPair]) -> Iterator[str]:
    """Reasons to refuse a file, a sentence each.

    Args:
        accuracies: of the float32 file and of the reduced one.
        images: the images they were measured on, in words.
        speeds: of both files.
    """
    lost = accuracies[0] - accuracies[1]
    if not lost <= LIMIT + 1e-12:
        yield (
            f"accuracy falls by {100 * lost:.2f} points, from {accuracies[0]:.4f} to {accuracies[1]:.4f} on {images}; "
            f"at most {100 * LIMIT:g} are allowed"
        )
    for speed in speeds:
        if not speed.speedup >= MIN_SPEEDUP:
            yield (
                f"at batch {speed.batch_size} it takes {speed.ms:.3f} ms against {speed.float32_ms:.3f} ms of float32, "
                f"{speed.speedup:.2f}× as fast; at least {MIN_SPEEDUP:g}× is required"
            )
