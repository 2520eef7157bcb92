"""Report 004: Toronto CSC413, assignment 2, optimization theory and colorization."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascv_course.analysis.arithmetic import PaddingSolution, padding_trends
from kerascv_course.analysis.convolution import correlate
from kerascv_course.reports.answers import IMAGE_004, KERNEL_004, NETWORK_004, report_text
from kerascv_course.reports.page import CodePart, ComparedNumber, NumbersPart, Part, Section, TablePart, TextPart
from kerascv_course.reports.paper import closed_form, count_layers, format_polynomial, fully_connected_equivalent
from kerascv_course.reports.parts import (
    CourseReport,
    best_figure,
    computed,
    curves,
    errata,
    figure,
    function,
    measured,
    missing_run,
)
from kerascv_course.reports.runs import FinishedRun, RunIndex
from kerascv_course.reports.targets import target
from kerascv_course.theory import topics
from kerascv_course.theory.counterexample import exact_rmsprop_step, study_counterexample
from kerascv_course.theory.decay import equivalent_penalty, study_decay
from kerascv_course.theory.descent import LeastSquares
from kerascv_course.theory.hypergradient import optimal_rate
from kerascv_course.theory.pages import Topic, number

if TYPE_CHECKING:
    from sympy import Poly

_SMALL = {"data.source": "folder", "data.only": (), "data.validation_share": 0.1, "epochs": 4}

#: Small runs on patches of two embedded photographs.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "csc413-pool-upsample": _SMALL,
    "csc413-conv-transpose": _SMALL,
    "csc413-unet": _SMALL,
}


def _topic(topic: Topic) -> list[Part]:
    """The claims, tables and figures of a topic of the theory."""
    source = function(getattr(topics, topic.name.replace("-", "_")))
    claims = tuple((claim.text, number(claim.value), claim.expected, "yes" if claim.holds else "NO") for claim in topic.claims)
    parts: list[Part] = [TextPart(topic.about)]
    if claims:
        head = ("number", "computed", "expected", "holds")
        caption = f"{topic.title}: {topic.holding} of {len(claims)} claims hold"
        parts.append(TablePart(caption, head, claims, source, folded=len(claims) > 8))
    parts += [TablePart(table.title, table.head, table.rows, source) for table in topic.tables]
    parts += [figure(f"{topic.name}-{one.name}", one.draw(), one.caption, source) for one in topic.figures]
    return parts


def _minimum_norm() -> Section:
    return Section(
        "1.1: mini-batch SGD and the minimum norm",
        "Show that mini-batch SGD from zero on an over-parameterised least-squares problem ends at the minimum-norm solution.",
        (*_topic(topics.least_squares()), errata("E004-01", "E004-02", "E004-03", "E004-04")),
    )


def _rmsprop() -> Section:
    study = study_counterexample(steps=200)
    reached, corrected = study.reported, study.corrected
    least = [Fraction(float(value)).limit_denominator(1000) for value in study.minimum_norm]
    answers = computed(
        function(exact_rmsprop_step, study_counterexample),
        {"T004-19": ", ".join(f"{float(value):.5f}" for value in reached.weights), "T004-20": ", ".join(map(str, least))},
        {
            "T004-19": f"with the printed settings and the correct gradient, loss {float(reached.loss):.5f}; the corrected rate gives "
            f"{corrected.weights[0]}, {corrected.weights[1]} with loss {corrected.loss}"
        },
    )
    return Section(
        "1.2: RMSProp does not reach the minimum norm",
        "Give a counter-example: one with two weights and one data point.",
        (answers, *_topic(topics.rmsprop()), errata("E004-05", "E004-06")),
    )


def _hypergradients() -> Section:
    problem = LeastSquares(np.diag([1.0, 2.0]), np.array([1.0, 1.0]))
    formula = optimal_rate(problem, np.zeros(2)).rate
    searched = _lowest(problem)
    answer = ComparedNumber(
        target("T004-21"),
        f"{formula:.6f}, by minimising {searched:.6f}",
        function(optimal_rate, _lowest),
        "X = diag(1, 2), t = (1, 1), from zero",
        holds=bool(np.isclose(formula, searched, rtol=1e-9)),
    )
    return Section(
        "2.1 and 2.2: gradients through training",
        "Draw the computation graph of two steps of gradient descent; give the memory of forward and backward pass; find the best "
        "learning rate of one step and show that the loss is convex in it.",
        (
            *_topic(topics.graph()),
            *_topic(topics.hypergradient()),
            NumbersPart((answer,)),
            *_topic(topics.memory()),
            *_topic(topics.chaos()),
            errata("E004-07", "E004-08"),
        ),
    )


def _lowest(problem: LeastSquares) -> float:
    """Learning rate of the lowest loss after one step from zero: the vertex of the parabola through three rates."""
    start = np.zeros(problem.columns)
    gradient = problem.gradient(start)
    rates = np.array([0.0, 0.1, 0.2])
    losses = [problem.loss(start - rate * gradient) for rate in rates]
    second, first, _ = np.polyfit(rates, losses, 2)
    return float(-first / (2 * second))


def _decay() -> Section:
    study = study_decay(keras=False)
    largest = study.pairs[0].differences.max()
    answer = ComparedNumber(
        target("T004-22"),
        f"λ̃ = {study.penalty:g} for λ = {study.decay:g}, η = {study.rate:g}: paths differ by {largest:.1e}",
        function(equivalent_penalty, study_decay),
        holds=bool(largest < 1e-10),
    )
    return Section(
        "2.3: L2 penalty against weight decay",
        "When are they equivalent, and for which optimizers are they not?",
        (NumbersPart((answer,)), *_topic(topics.decay())),
    )


def _by_hand() -> Section:
    result = correlate(IMAGE_004, KERNEL_004)
    rows = {f"T004-{9 + i:02d}": " ".join(str(int(value)) for value in row) for i, row in enumerate(result)}
    conv = count_layers(NETWORK_004, (32, 32, 3), biases=False)
    dense = fully_connected_equivalent(NETWORK_004, (32, 32, 3))
    counts = {"T004-05": conv.neurons, "T004-06": conv.weights, "T004-07": dense.neurons, "T004-08": dense.weights}
    return Section(
        "3: convolution by hand",
        "Filter a small image and say what the filter does; count neurons and parameters of a convolutional network and of its fully "
        "connected equivalent; say what the receptive field depends on.",
        (
            computed(function(correlate), rows),
            computed(function(count_layers, fully_connected_equivalent), counts),
            CodePart(report_text("004"), "All calculator questions of the report, computed", function(report_text)),
            errata("E004-09", "E004-10"),
        ),
    )


def _ascii(polynomial: Poly) -> str:
    """A polynomial as the report types it."""
    return format_polynomial(polynomial).replace("·", "*").replace("²", "^2")


def _pixel(found: FinishedRun) -> float:
    return 100 * float(found.metric("test", "accuracy"))


def _loss(found: FinishedRun) -> float:
    return float(found.metric("test", "loss"))


def _pool_upsample(runs: RunIndex) -> Section:
    small, large = (closed_form("pool_upsample_net", size) for size in (32, 64))
    notes = {"T004-01": "on the assignment's 1,000 test horses, measured once; the report takes its best epoch on them"}
    return Section(
        "4: PoolUpsampleNet",
        "Colorize horses by pooling and upsampling with 24 colors; count weights, outputs and connections in k, NIC, NF and NC.",
        (
            measured(runs, "csc413-pool-upsample", {"T004-01": _pixel, "T004-02": _loss}, notes),
            best_figure(
                runs,
                "csc413-pool-upsample",
                "color_grid",
                "Gray input, truth and prediction (4.2; the report's is lost).",
            ),
            computed(
                function(closed_form),
                {
                    "T004-14": _ascii(small.outputs),
                    "T004-15": _ascii(large.outputs),
                    "T004-16": _ascii(small.weights),
                    "T004-17": _ascii(small.connections),
                    "T004-18": _ascii(large.connections),
                },
            ),
            errata("E004-14"),
        ),
    )


def _conv_transpose(runs: RunIndex) -> Section:
    best = {
        name.removeprefix("csc413-"): found
        for name in ("csc413-pool-upsample", "csc413-conv-transpose", "csc413-unet")
        if (found := runs.best(name))
    }
    parts: list[Part] = [measured(runs, "csc413-conv-transpose", {"T004-03": _pixel, "T004-04": _loss})]
    if best:
        parts.append(
            curves(best, ("loss+val_loss", "val_accuracy"), "curves", "Figure 1 (the report's is lost), for all networks.")
        )
    return Section(
        "5: strides and transposed convolutions",
        "Replace pooling and upsampling by strided and transposed convolutions; compare losses and accuracy, and explain them.",
        (*parts, errata("E004-11")),
    )


def _padding() -> Section:
    answers: dict[str, str] = {}
    by_kernel = {solutions[0].kernel: solutions for solutions in padding_trends((4, 5))}
    for kernel, down, up, last in ((4, "T004-23", "T004-25", "T004-27"), (5, "T004-24", "T004-26", "T004-28")):
        solutions = by_kernel[kernel]
        answers |= {name: _solution(one) for name, one in zip((down, up, last), solutions, strict=True)}
    return Section(
        "5.4: padding that keeps the shapes",
        "Which padding, and which output padding, does each block need for kernels of 4 and 5?",
        (computed(function(padding_trends), answers), errata("E004-12", "E004-13")),
    )


def _solution(solution: PaddingSolution) -> str:
    if not solution.symmetric:
        before, after = solution.asymmetric or (0, 0)
        return f"none symmetric; {before} before, {after} after"
    padding, output_padding = solution.symmetric[0]
    return f"padding {padding}, output padding {output_padding}" if solution.transposed else str(padding)


def _unet(runs: RunIndex) -> Section:
    found = runs.best("csc413-unet")
    if found is None:
        return Section("6: U-Net (not in the report)", "Add skip connections.", (missing_run("csc413-unet"),))
    row = (f"{_pixel(found):.1f}", f"{_loss(found):.4f}")
    return Section(
        "6: U-Net (not in the report)",
        "Add skip connections and compare.",
        (
            TablePart("The same horses with skip connections", ("pixel accuracy, %", "loss"), (row,), found.source),
            best_figure(runs, "csc413-unet", "color_grid", "Gray input, truth and prediction."),
        ),
    )


REPORT = CourseReport(
    "csc413_a2",
    "CSC413, assignment 2: optimization and colorization",
    "University of Toronto, neural networks and deep learning, assignment 2: theory of optimization, convolution by hand, and "
    "colorizing horses by small networks.",
    lambda runs: (
        _minimum_norm(),
        _rmsprop(),
        _hypergradients(),
        _decay(),
        _by_hand(),
        _pool_upsample(runs),
        _conv_transpose(runs),
        _padding(),
        _unet(runs),
    ),
    QUICK,
)
