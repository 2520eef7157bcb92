"""Sizes, padding and fields: the numbers of the courses, and the formulas against real convolutions of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kerascv_course.analysis.arithmetic import (
    conv_input_range,
    conv_output,
    field_of_chain,
    kernel_from_sizes,
    padding_trends,
    same_padding,
    solve_padding,
    solve_transposed_padding,
    transposed_input,
    transposed_output,
)
from kerascv_course.core.errors import InputError

sizes = st.integers(1, 40)
kernels = st.integers(1, 7)
strides = st.integers(1, 4)
dilations = st.integers(1, 3)
pads = st.tuples(st.integers(0, 4), st.integers(0, 4))


def places(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """How many windows fit, by laying them down one after the other."""
    total = size + sum(padding)
    return sum(1 for start in range(0, total, stride) if start + dilation * (kernel - 1) < total)


@given(sizes, kernels, strides, pads, dilations)
def test_output_size_is_the_number_of_windows(size, kernel, stride, padding, dilation):
    count = places(size, kernel, stride, padding, dilation)
    if count == 0:
        with pytest.raises(InputError, match="window"):
            conv_output(size, kernel, stride, padding, dilation)
    else:
        found = conv_output(size, kernel, stride, padding, dilation)
        assert found.output == count
        assert (count - 1) * stride + dilation * (kernel - 1) + 1 + found.unused == size + sum(padding)


@given(sizes, kernels, strides, pads, dilations)
def test_input_range_is_every_size_with_this_output(output, kernel, stride, padding, dilation):
    try:
        found = conv_input_range(output, kernel, stride, padding, dilation)
    except InputError:
        assert all(places(n, kernel, stride, padding, dilation) != output for n in range(1, 200))
        return
    fitting = [n for n in range(1, 250) if places(n, kernel, stride, padding, dilation) == output]
    assert (fitting[0], fitting[-1]) == (found.smallest, found.largest)


@given(sizes, kernels, strides, dilations, st.integers(0, 3), st.integers(0, 3))
def test_transposed_size_is_where_the_last_product_lands(size, kernel, stride, dilation, padding, extra):
    assume(extra < max(stride, dilation))
    full = np.zeros((size - 1) * stride + dilation * (kernel - 1) + 1)
    for i in range(size):
        full[i * stride : i * stride + dilation * (kernel - 1) + 1 : dilation] += 1
    assume(len(full) - 2 * padding + extra >= 1)
    output = transposed_output(size, kernel, stride, padding, extra, dilation).output
    assert output == len(full) - 2 * padding + extra
    assert transposed_input(output, kernel, stride, padding, extra, dilation) == size


@given(sizes, sizes, kernels, strides, dilations)
def test_padding_solver_finds_all_and_only_solutions(size, output, kernel, stride, dilation):
    found = solve_padding(size, output, kernel, stride, dilation)
    by_search = [p for p in range(200) if places(size, kernel, stride, (p, p), dilation) == output]
    assert [p for p, _ in found.symmetric] == by_search
    if found.asymmetric:
        assert places(size, kernel, stride, found.asymmetric, dilation) == output


@given(sizes, sizes, kernels, strides, dilations)
def test_transposed_solver_finds_all_and_only_solutions(size, output, kernel, stride, dilation):
    found = solve_transposed_padding(size, output, kernel, stride, dilation)
    full = (size - 1) * stride + dilation * (kernel - 1) + 1
    by_search = [(p, o) for p in range(250) for o in range(max(stride, dilation)) if full - 2 * p + o == output]
    assert sorted(found.symmetric) == sorted(by_search)
    assert all(o < max(stride, dilation) for _, o in found.symmetric)


@given(sizes, kernels, strides, dilations)
def test_same_padding_leaves_the_size_over_the_stride(size, kernel, stride, dilation):
    before, after = same_padding(kernel, stride, dilation, size)
    assert conv_output(size, kernel, stride, (before, after), dilation).output == -(-size // stride)
    assert 0 <= after - before <= 1


@given(sizes, kernels, strides, dilations)
def test_kernel_from_sizes_finds_the_kernel(size, kernel, stride, dilation):
    assume(size >= dilation * (kernel - 1) + 1)
    output = conv_output(size, kernel, stride, 0, dilation).output
    found = kernel_from_sizes(size, output, stride, 0, dilation)
    assert kernel in found
    assert all(conv_output(size, k, stride, 0, dilation).output == output for k in found)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "output"),
    [(504, 2, 2, 0, 252), (252, 3, 1, 0, 250), (32, 4, 2, 2, 17), (128, 7, 2, 3, 64), (8, 8, 1, 0, 1), (32, 3, 1, 3, 36)],
)
def test_sizes_of_the_reports(size, kernel, stride, padding, output):
    assert conv_output(size, kernel, stride, padding).output == output


def test_kernel_of_report_001():
    assert kernel_from_sizes(512, 504) == (9,)
    assert same_padding(5) == (2, 2)


def test_padding_of_report_004_is_unique_and_falls_as_described():
    (down3, up3, keep3), (down4, up4, keep4), (down5, up5, keep5) = padding_trends((3, 4, 5), 32)
    assert [s.symmetric for s in (down3, up3, keep3)] == [((1, 0),), ((1, 1),), ((1, 0),)]
    assert [s.symmetric for s in (down4, up4, keep4)] == [((1, 0),), ((1, 0),), ()]
    assert keep4.asymmetric == (1, 2)
    assert [s.symmetric for s in (down5, up5, keep5)] == [((2, 0),), ((2, 1),), ((2, 0),)]


def test_sizes_print_their_formula():
    assert str(conv_output(32, 5, 1, 2)) == "⌊(32 + 2 + 2 − 5) / 1⌋ + 1 = 32"
    assert "1 at the end unused" in str(conv_output(32, 3, 2))
    assert str(transposed_output(16, 3, 2, 1, 1)) == "(16 − 1)·2 − 1 − 1 + 3 + 1 = 32"
    assert "no symmetric padding; 1 before and 2 after" in str(solve_padding(32, 32, 4))
    assert "no padding works" in str(solve_padding(32, 16, 3))
    assert str(conv_input_range(16, 3, 2, 1)) == "inputs 31 to 32 give output 16"


def test_field_of_a_chain():
    assert field_of_chain([(3,), (3,)]).size == 5
    assert field_of_chain([(3,), (3, 2), (3,)]).sizes == (3, 5, 9)
    assert field_of_chain([(3, 1, 2), (2, 2)]).jumps == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_output(4, 5), "window of 5 does not fit into 4 positions"),
        (lambda: conv_output(0, 3), "size must be an integer of 1 or more; received 0"),
        (lambda: conv_output(8, 3, 0), "stride must be an integer of 1 or more; received 0"),
        (lambda: conv_output(8, 3, padding=-1), "padding must be an integer of 0 or more"),
        (lambda: transposed_output(8, 3, 2, 0, 2), r"output padding must be at least 0 and less than .* = 2; received 2"),
        (lambda: transposed_output(1, 3, 1, 2), "leaves nothing of the output"),
        (lambda: transposed_input(16, 3, 2), "not a multiple of the stride 2"),
        (lambda: kernel_from_sizes(8, 9), "no kernel gives output 9 from input 8"),
        (lambda: same_padding(3, 2), "depends on the input size"),
        (lambda: field_of_chain([]), "at least one layer"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
