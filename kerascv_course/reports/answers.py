"""The calculator questions of the course reports, answered by functions of this package; errata say what a report prints wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kerascv_course.analysis.arithmetic import (
    conv_output,
    field_of_chain,
    kernel_from_sizes,
    padding_trends,
    same_padding,
)
from kerascv_course.analysis.convolution import SOBEL_X, check_average_pooling, convolve, correlate, render_matrix
from kerascv_course.reports.paper import (
    closed_form,
    count_layers,
    count_triplets,
    dense_parameters,
    format_polynomial,
    fully_connected_equivalent,
)
from kerascv_course.reports.targets import Erratum, errata_of, erratum

__all__ = ["BASE_001", "IMAGE_001", "IMAGE_004", "KERNEL_004", "NETWORK_004", "WorkedAnswer", "report_answers", "report_text"]

#: The image of report 001, task 1(a); its kernel is `SOBEL_X`.
IMAGE_001 = ((1, 0, 2, 3, 1), (3, 2, 0, 7, 0), (0, 6, 1, 1, 4))
#: The image and the kernel of report 004, question 3.1.
IMAGE_004 = ((0, 0, 0, 0, 0), (0, 0, 1, 1, 1), (1, 1, 1, 1, 0), (0, 1, 1, 1, 0), (0, 0, 1, 0, 0))
KERNEL_004 = ((0, -1, 0), (-1, 5, -1), (0, -1, 0))

BASE_001 = "conv5-32 pool2 conv5-64 pool2 conv5-128 pool2 fc64 fc10"
NETWORK_004 = "conv3-32 pool2 conv3-64 pool2 conv3-3"


@dataclass(frozen=True)
class WorkedAnswer:
    """One question of a report.

    Attributes:
        where: question or section.
        question: in a line.
        text: the computed answer.
        errata: errors of the printed answer; empty: it is correct.
    """

    where: str
    question: str
    text: str
    errata: tuple[Erratum, ...] = ()


def report_answers(report: str) -> tuple[WorkedAnswer, ...]:
    """The calculator questions of a report, ``"000"`` to ``"004"``; reports 002 and 003 have none.

    Raises:
        UnknownNameError: another report.
    """
    errata_of(report)
    return tuple(_ANSWERS.get(report, tuple)())


def report_text(report: str) -> str:
    """WorkedAnswers with what was printed, then the findings about the rest of the report."""
    lines = []
    shown = set()
    for answer in report_answers(report):
        lines.append(f"{answer.where}: {answer.question}")
        lines += [f"    {line}" for line in answer.text.splitlines()]
        for note in answer.errata:
            shown.add(note.id)
            lines.append(f"    note {note.id}: the report prints {note.printed}; correct: {note.correct}")
        lines.append("")
    rest = [e for e in errata_of(report) if e.id not in shown]
    if rest:
        lines.append("other errata" if lines else "errata")
        lines += [f"    {e}" for e in rest]
    return "\n".join(lines).rstrip()


def _notes(*identifiers: str) -> tuple[Erratum, ...]:
    return tuple(erratum(i) for i in identifiers)


def _report_000() -> list[WorkedAnswer]:
    first = 2 * (3 * 3 * 64 * 64 + 2 * 64)
    heads = (dense_parameters(512, 230), dense_parameters(512, 49))
    return [
        WorkedAnswer("Q2", "kernel and stride of the final pooling", f"8×8, stride 1: {conv_output(8, 8)}", _notes("E000-02")),
        WorkedAnswer("Q3", "average pooling as a convolution", str(check_average_pooling(8, 8)), _notes("E000-01")),
        WorkedAnswer("Q4", "parameters of the first residual block", f"2·(3·3·64·64 + 2·64) = {first:,}"),
        WorkedAnswer(
            "Q6", "parameters of the head on 512 features", f"230 identities: {heads[0]:,}; 49 candidates: {heads[1]:,}"
        ),
        WorkedAnswer("Q10", "possible triplets", str(count_triplets(230, 10)), _notes("E000-07")),
    ]


def _report_001() -> list[WorkedAnswer]:
    correlation, convolution = correlate(IMAGE_001, SOBEL_X), convolve(IMAGE_001, SOBEL_X)
    reflected = convolve(IMAGE_001, SOBEL_X, border="reflect")
    return [
        WorkedAnswer(
            "Task 1(a)",
            "3×5 image and Sobel-x, padding 1",
            "convolution\n" + render_matrix(convolution) + "\ncorrelation\n" + render_matrix(correlation)
            + "\nconvolution, reflected border\n" + render_matrix(reflected),
            _notes("E001-01", "E001-02"),
        ),
        WorkedAnswer(
            "Task 1(b)", "layer that makes a network less sensitive to small shifts", "(iii) max pooling", _notes("E001-03")
        ),
        WorkedAnswer("Task 1(c)", "padding that keeps the size, 5×5, stride 1", f"{same_padding(5)[0]}"),
        WorkedAnswer("Task 1(d)", "kernel that maps 512 to 504", "×".join(str(k) for k in kernel_from_sizes(512, 504) * 2)),
        WorkedAnswer("Task 1(e)", "504 after 2×2 pooling, stride 2", str(conv_output(504, 2, 2))),
        WorkedAnswer("Task 1(f)", "252 after 3×3 without padding", str(conv_output(252, 3))),
        WorkedAnswer(
            "Task 1(g)",
            "parameters of the network in table 1",
            str(count_layers(BASE_001, (32, 32, 3))),
            _notes("E001-04", "E001-05", "E001-06"),
        ),
        WorkedAnswer(
            "example", "32 filters 4×4, padding 2, stride 2, on 32×32×3", str(count_layers("conv4-32s2p2", (32, 32, 3)))
        ),
    ]  # fmt: skip


def _report_004() -> list[WorkedAnswer]:
    forms = [closed_form("pool_upsample_net", size) for size in (32, 64)]
    numbers = [
        "NIC=1, NF=32, NC=24, k=3, {0}×{0}: weights {1:,}, outputs {2:,}, connections {3:,}".format(f.size, *f.evaluate())
        for f in forms
    ]
    plain = [closed_form("pool_upsample_net", size, norms=False) for size in (32, 64)]
    outputs = [f"{format_polynomial(f.outputs)} = {f.evaluate()[1]:,} ({f.size}×{f.size})" for f in plain]
    numbers.append(f"without batch norm outputs: {' and '.join(outputs)}")
    transposed = closed_form("conv_transpose_net", 32)
    trends = "\n".join("; ".join(str(s) for s in row) for row in padding_trends())
    return [
        WorkedAnswer("3.1", "image and sharpening kernel, padding 1", render_matrix(convolve(IMAGE_004, KERNEL_004))),
        WorkedAnswer(
            "3.2",
            "neurons and parameters of a CNN and of a fully connected network, no biases",
            str(count_layers(NETWORK_004, (32, 32, 3), biases=False))
            + "\n\n"
            + str(fully_connected_equivalent(NETWORK_004, (32, 32, 3))),
            _notes("E004-10"),
        ),
        WorkedAnswer("3.3", "receptive field of two 3×3 layers", str(field_of_chain([(3,), (3,)])), _notes("E004-09")),
        WorkedAnswer("4.3", "PoolUpsampleNet", "\n\n".join(map(str, forms)) + "\n\n" + "\n".join(numbers), _notes("E004-14")),
        WorkedAnswer("5", "ConvTransposeNet", str(transposed), _notes("E004-11")),
        WorkedAnswer("5.4", "padding that keeps the shapes, k = 3, 4, 5", trends, _notes("E004-12", "E004-13")),
    ]


_ANSWERS: dict[str, Callable[[], list[WorkedAnswer]]] = {"000": _report_000, "001": _report_001, "004": _report_004}
