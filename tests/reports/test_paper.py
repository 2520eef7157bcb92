"""Networks on paper, closed forms, triplets and the reports' answers: every number that the courses print, put right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kerascv_course as kcc
from kerascv_course.analysis import REPORT_004, Convention, summarize
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.reports.answers import report_answers, report_text
from kerascv_course.reports.paper import (
    NETWORKS,
    closed_form,
    count_layers,
    count_triplets,
    dense_parameters,
    format_polynomial,
    fully_connected_equivalent,
)
from kerascv_course.reports.targets import all_errata, errata_of, erratum

BASE_001 = "conv5-32 pool2 conv5-64 pool2 conv5-128 pool2 fc64 fc10"
NET_004 = "conv3-32 pool2 conv3-64 pool2 conv3-3"


def test_report_001_parameters():
    network = count_layers(BASE_001, (32, 32, 3))
    assert [n.parameters for n in network.layers if n.parameters] == [2432, 51264, 204928, 131136, 650]
    assert network.parameters == 390_410
    assert network.layers[5].output == (4, 4, 128)


def test_the_network_on_paper_equals_the_keras_model():
    paper, model = count_layers(BASE_001, (32, 32, 3)), summarize(kcc.create_model("tdt4265_base"))
    assert (paper.parameters, paper.neurons, paper.connections) == (model.parameters, model.neurons, model.connections)


def test_report_001_worked_example():
    layer = count_layers("conv4-32s2p2", (32, 32, 3)).layers[0]
    assert (layer.output, layer.weights, layer.biases, layer.parameters) == ((17, 17, 32), 1536, 32, 1568)


def test_report_004_question_32():
    conv = count_layers(NET_004, (32, 32, 3), biases=False)
    assert [n.neurons for n in conv.layers] == [32768, 8192, 16384, 4096, 192]
    assert (conv.neurons, conv.parameters) == (61_632, 21_024)
    dense = fully_connected_equivalent(NET_004, (32, 32, 3))
    assert [n.neurons for n in dense.layers] == [3072, 768, 768, 192, 192]
    assert (dense.neurons, dense.parameters) == (4_992, 10_063_872)
    assert round(dense.parameters / conv.parameters) == 479


def test_fully_connected_with_the_same_outputs():
    network = fully_connected_equivalent("conv3-8 pool2", (4, 4, 3), same_outputs=True, biases=True)
    assert (network.layers[0].weights, network.layers[0].biases, network.layers[1].output) == (48 * 128, 128, (2, 2, 8))


def test_head_parameters_of_report_000():
    assert (dense_parameters(512, 230), dense_parameters(512, 49)) == (117_990, 25_137)


@given(st.integers(2, 5), st.integers(2, 5))
def test_triplets_by_enumeration(identities, images):
    pictures = [(i, j) for i in range(identities) for j in range(images)]
    triplets = [(a, p, n) for a in pictures for p in pictures for n in pictures if a[0] == p[0] and a != p and n[0] != a[0]]
    found = count_triplets(identities, images)
    assert found.ordered == len(triplets)
    assert found.unordered == len({(frozenset((a, p)), n) for a, p, n in triplets})


def test_triplets_of_report_000():
    assert count_triplets(230, 10).ordered == 47_403_000
    assert "23,701,500" in str(count_triplets(230, 10))


# --- closed forms ---------------------------------------------------------------------------------------------------------------


def test_report_004_section_43_in_symbols():
    form, large = closed_form("pool_upsample_net", 32), closed_form("pool_upsample_net", 64)
    assert [format_polynomial(b.weights) for b in form.blocks] == ["k²·NIC·NF", "2·k²·NF²", "2·k²·NF²", "k²·NF·NC", "k²·NC²"]
    assert [format_polynomial(b.outputs) for b in form.blocks] == ["1792·NF", "896·NF", "832·NF", "3328·NC", "1024·NC"]
    assert format_polynomial(form.weights) == "k²(NIC·NF + 4·NF² + NF·NC + NC²)"
    assert format_polynomial(form.outputs) == "3520·NF + 4352·NC"
    assert format_polynomial(form.connections) == "k²(1024·NIC·NF + 640·NF² + 256·NF·NC + 1024·NC²)"
    assert format_polynomial(large.outputs) == "14080·NF + 17408·NC"
    assert format_polynomial(large.connections) == "k²(4096·NIC·NF + 2560·NF² + 1024·NF·NC + 4096·NC²)"
    assert format_polynomial(closed_form("pool_upsample_net", 32, norms=False).outputs) == "2880·NF + 3328·NC"
    assert format_polynomial(closed_form("conv_transpose_net", 32).outputs) == "1920·NF + 4096·NC"


@pytest.mark.parametrize(
    ("name", "size", "norms", "numbers"),
    [
        ("pool_upsample_net", 32, True, (49_248, 217_088, 13_271_040)),
        ("pool_upsample_net", 64, True, (49_248, 868_352, 53_084_160)),
        ("pool_upsample_net", 32, False, (49_248, 172_032, 13_271_040)),
        ("pool_upsample_net", 64, False, (49_248, 688_128, 53_084_160)),
        ("conv_transpose_net", 32, True, (49_248, 159_744, 9_510_912)),
        ("conv_transpose_net", 64, True, (49_248, 638_976, 38_043_648)),
        ("unet_colorizer", 32, True, (56_376, 159_744, 11_501_568)),
        ("unet_colorizer", 64, True, (56_376, 638_976, 46_006_272)),
    ],
)
def test_closed_forms_in_numbers_equal_the_models(name, size, norms, numbers):
    assert closed_form(name, size, norms=norms).evaluate() == numbers
    summary = summarize(kcc.create_model(name, input_shape=(size, size, 1)))
    counted = summary.count(Convention(norms=norms, activations=True))
    assert (counted.weights, counted.neurons, counted.connections) == numbers


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("k", "nic", "nf", "nc"), [(3, 3, 8, 5), (5, 1, 4, 7), (4, 2, 6, 3)])
def test_closed_forms_hold_for_other_widths_and_kernels(name, k, nic, nf, nc):
    model = kcc.create_model(name, num_classes=nc, input_shape=(16, 16, nic), kernel=k, filters=nf)
    counted = summarize(model).count(REPORT_004)
    assert closed_form(name, 16).evaluate(k=k, nic=nic, nf=nf, nc=nc) == (counted.weights, counted.neurons, counted.connections)


def test_exact_borders_of_report_004():
    for size, connections in ((32, 12_322_176), (64, 51_164_544)):
        summary = summarize(kcc.create_model("pool_upsample_net", input_shape=(size, size, 1)))
        assert summary.count(Convention(exact_borders=True)).connections == connections


def test_biases_of_report_004():
    summary = summarize(kcc.create_model("pool_upsample_net"))
    assert summary.count(Convention(biases=True)).weights == 49_248 + 176
    assert summary.trainable == 49_248 + 176 + 304 == 49_728


# --- answers and findings -------------------------------------------------------------------------------------------------------


def test_every_finding_is_there_once():
    assert len(all_errata()) == 47 == len({e.id for e in all_errata()})
    assert [len(errata_of(r)) for r in ("000", "001", "002", "003", "004")] == [7, 14, 9, 3, 14]
    assert all(e.printed and e.correct and e.where for e in all_errata())


@pytest.mark.parametrize("report", ("000", "001", "002", "003", "004"))
def test_report_text_shows_every_finding_of_the_report(report):
    text = report_text(report)
    assert all(e.id in text for e in errata_of(report))


def test_answers_are_right_where_the_report_is_wrong():
    answers = {a.where: a for a in report_answers("001")}
    assert "390,410" in answers["Task 1(g)"].text
    assert [e.id for e in answers["Task 1(g)"].errata] == ["E001-04", "E001-05", "E001-06"]
    assert "148,810" in answers["Task 1(g)"].errata[-1].printed
    assert answers["Task 1(d)"].text == "9×9"
    assert "47,403,000" in report_text("000")
    assert "13,271,040" in report_text("004") and "172,032" in report_text("004")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: count_layers("conv5", (32, 32, 3)), InputError, "received 'conv5'"),
        (lambda: count_layers("conv5-3p0", (4, 4, 3)), InputError, "window of 5"),
        (lambda: count_layers("pool2", (4, 4)), InputError, "height, width and channels"),
        (lambda: count_triplets(1, 10), InputError, "two identities"),
        (lambda: closed_form("pool_upsample", 32), UnknownNameError, "did you mean 'pool_upsample_net'"),
        (lambda: closed_form("unet_colorizer", 30), InputError, "multiple of 4"),
        (lambda: closed_form("unet_colorizer").evaluate(nf=0), InputError, "1 or more"),
        (lambda: errata_of("005"), UnknownNameError, "unknown report '005'"),
        (lambda: report_answers("005"), UnknownNameError, "unknown report '005'"),
        (lambda: erratum("E001-99"), UnknownNameError, "unknown erratum"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
