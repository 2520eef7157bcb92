"""Convolution arithmetic along one axis: output from input size, input from output size, kernel and padding from sizes.

The functions return objects that print as the calculation they did. The formulas are those of Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning" (2016), with dilation:

    convolution              out = ⌊(in + before + after − d·(k − 1) − 1) / s⌋ + 1
    transposed convolution   out = (in − 1)·s − before − after + d·(k − 1) + 1 + output padding
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kerascv_course.core.errors import InputError

__all__ = [
    "ChainField",
    "ConvSize",
    "InputRange",
    "PaddingSolution",
    "TransposedSize",
    "conv_input_range",
    "conv_output",
    "field_of_chain",
    "kernel_from_sizes",
    "padding_trends",
    "same_padding",
    "solve_padding",
    "solve_transposed_padding",
    "transposed_input",
    "transposed_output",
]

#: Zeros on both sides, or (before, after); 0 or more.
Padding = int | tuple[int, int]


@dataclass(frozen=True)
class ConvSize:
    """A convolution or pooling along one axis.

    Attributes:
        size: pixels of the input along the axis.
        kernel, stride, dilation: size of the window, step between windows, step between its taps.
        padding: zeros added (before, after).
        output: pixels of the output along the axis.
        unused: positions at the end, including padding, that no window reaches.
    """

    size: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    output: int
    unused: int

    def __str__(self) -> str:
        reach = self.dilation * (self.kernel - 1) + 1
        added = f" + {self.padding[0]} + {self.padding[1]}" if any(self.padding) else ""
        text = f"⌊({self.size}{added} − {reach}) / {self.stride}⌋ + 1 = {self.output}"
        return text + (f"   ({self.unused} at the end unused)" if self.unused else "")


@dataclass(frozen=True)
class InputRange:
    """All input sizes that give one output size: `smallest` to `largest`."""

    output: int
    smallest: int
    largest: int

    def __str__(self) -> str:
        if self.smallest == self.largest:
            return f"input {self.smallest} gives output {self.output}"
        return f"inputs {self.smallest} to {self.largest} give output {self.output}"


@dataclass(frozen=True)
class TransposedSize:
    """A transposed convolution along one axis; attributes as in `ConvSize`, with `output_padding` added at the end."""

    size: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    output_padding: int
    dilation: int
    output: int

    def __str__(self) -> str:
        reach = self.dilation * (self.kernel - 1) + 1
        return (
            f"({self.size} − 1)·{self.stride} − {self.padding[0]} − {self.padding[1]} + {reach} + {self.output_padding} "
            f"= {self.output}"
        )


@dataclass(frozen=True)
class PaddingSolution:
    """Padding for a given input and output size.

    Attributes:
        kernel, stride, dilation: size of the window, step between windows, step between its taps.
        size, output: input and output size.
        transposed: whether the convolution is transposed.
        symmetric: every solution with equal padding on both sides, as (padding, output padding); output padding is 0 for a
            convolution and less than max(stride, dilation) for a transposed one.
        asymmetric: (before, after) if there is no symmetric solution, with the extra zero after; None: there is one, or none at
            all.
    """

    kernel: int
    stride: int
    dilation: int
    size: int
    output: int
    transposed: bool
    symmetric: tuple[tuple[int, int], ...]
    asymmetric: tuple[int, int] | None

    def __str__(self) -> str:
        head = f"k={self.kernel}, stride {self.stride}, {self.size} → {self.output}: "
        if self.symmetric:
            if self.transposed:
                return head + " or ".join(f"padding {p}, output padding {o}" for p, o in self.symmetric)
            return head + " or ".join(f"padding {p}" for p, _ in self.symmetric)
        if self.asymmetric is None:
            return head + "no padding works"
        return head + f"no symmetric padding; {self.asymmetric[0]} before and {self.asymmetric[1]} after"


@dataclass(frozen=True)
class ChainField:
    """Receptive field and jump, in input positions, after each layer of a chain."""

    sizes: tuple[int, ...]
    jumps: tuple[int, ...]

    @property
    def size(self) -> int:
        """Receptive field of the last layer."""
        return self.sizes[-1]

    def __str__(self) -> str:
        return " → ".join(f"{r} (jump {j})" for r, j in zip(self.sizes, self.jumps, strict=True))


def conv_output(size: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1) -> ConvSize:
    """Output size of a convolution or pooling layer.

    Raises:
        InputError: a value out of range, or a window larger than the padded input.
    """
    _positive(size=size, kernel=kernel, stride=stride, dilation=dilation)
    before, after = _pair(padding)
    room = size + before + after - dilation * (kernel - 1) - 1
    if room < 0:
        raise InputError(
            f"a window of {dilation * (kernel - 1) + 1} does not fit into {size + before + after} positions (input {size}, "
            f"padding {before} and {after}): use a smaller kernel or more padding"
        )
    return ConvSize(size, kernel, stride, (before, after), dilation, room // stride + 1, room % stride)


def conv_input_range(output: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1) -> InputRange:
    """The input sizes for which a convolution gives `output`; as many as the stride.

    Raises:
        InputError: a value out of range, or only an empty input would give this output.
    """
    _positive(output=output, kernel=kernel, stride=stride, dilation=dilation)
    before, after = _pair(padding)
    smallest = (output - 1) * stride + dilation * (kernel - 1) + 1 - before - after
    largest = smallest + stride - 1
    if largest < 1:
        raise InputError(f"no input size of 1 or more gives output {output} with padding {before} and {after}")
    return InputRange(output, max(smallest, 1), largest)


def transposed_output(
    size: int, kernel: int, stride: int = 1, padding: Padding = 0, output_padding: int = 0, dilation: int = 1
) -> TransposedSize:
    """Output size of a transposed convolution, with PyTorch's padding (cropped from the output) and output padding.

    Raises:
        InputError: a value out of range, or nothing is left of the output.
    """
    _positive(size=size, kernel=kernel, stride=stride, dilation=dilation)
    before, after = _pair(padding)
    if not 0 <= output_padding < max(stride, dilation):
        raise InputError(
            f"output padding must be at least 0 and less than max(stride, dilation) = {max(stride, dilation)}; "
            f"received {output_padding}"
        )
    output = (size - 1) * stride - before - after + dilation * (kernel - 1) + 1 + output_padding
    if output < 1:
        raise InputError(f"padding {before} and {after} leaves nothing of the output: its size would be {output}")
    return TransposedSize(size, kernel, stride, (before, after), output_padding, dilation, output)


def transposed_input(
    output: int, kernel: int, stride: int = 1, padding: Padding = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """The input size for which a transposed convolution gives `output`.

    Raises:
        InputError: a value out of range, or there is no such size.
    """
    _positive(output=output, kernel=kernel, stride=stride, dilation=dilation)
    before, after = _pair(padding)
    steps = output + before + after - dilation * (kernel - 1) - 1 - output_padding
    if steps < 0 or steps % stride:
        raise InputError(
            f"no input size gives output {output}: {steps} is not a multiple of the stride {stride}; change the padding or the "
            "output padding"
        )
    return steps // stride + 1


def kernel_from_sizes(size: int, output: int, stride: int = 1, padding: Padding = 0, dilation: int = 1) -> tuple[int, ...]:
    """Every kernel size with which a convolution gives `output`; a single one if the stride is 1.

    Raises:
        InputError: a value out of range, or there is no such kernel.
    """
    _positive(size=size, output=output, stride=stride, dilation=dilation)
    before, after = _pair(padding)
    total = size + before + after
    found = tuple(
        k
        for k in range(1, (total - 1) // dilation + 2)
        if total >= dilation * (k - 1) + 1 and (total - dilation * (k - 1) - 1) // stride + 1 == output
    )
    if not found:
        raise InputError(
            f"no kernel gives output {output} from input {size} with stride {stride} and padding {before} and {after}"
        )
    return found


def same_padding(kernel: int, stride: int = 1, dilation: int = 1, size: int | None = None) -> tuple[int, int]:
    """TensorFlow's ``"same"`` padding (before, after), which gives ⌈size/stride⌉ outputs.

    Args:
        kernel, stride, dilation: size of the window, step between windows, step between its taps.
        size: input size; required if the stride is larger than 1.

    Raises:
        InputError: a value out of range, or a stride without `size`.
    """
    _positive(kernel=kernel, stride=stride, dilation=dilation)
    reach = dilation * (kernel - 1) + 1
    if stride == 1:
        total = reach - 1
    elif size is None:
        raise InputError(f'"same" padding with stride {stride} depends on the input size: give it')
    else:
        _positive(size=size)
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def solve_padding(size: int, output: int, kernel: int, stride: int = 1, dilation: int = 1) -> PaddingSolution:
    """Every symmetric padding with which a convolution gives `output`; if there is none, the smallest asymmetric one.

    Raises:
        InputError: a value out of range.
    """
    _positive(size=size, output=output, kernel=kernel, stride=stride, dilation=dilation)
    reach = dilation * (kernel - 1) + 1
    # total padding t with (output − 1)·s ≤ size + t − reach ≤ output·s − 1
    low, high = (output - 1) * stride + reach - size, output * stride + reach - size - 1
    totals = range(max(low, 0), high + 1)
    symmetric = tuple((t // 2, 0) for t in totals if t % 2 == 0)
    odd = (totals[0] // 2, totals[0] - totals[0] // 2) if len(totals) and not symmetric else None
    return PaddingSolution(kernel, stride, dilation, size, output, False, symmetric, odd)


def solve_transposed_padding(size: int, output: int, kernel: int, stride: int = 1, dilation: int = 1) -> PaddingSolution:
    """Every (padding, output padding) with which a transposed convolution gives `output`.

    Raises:
        InputError: a value out of range.
    """
    _positive(size=size, output=output, kernel=kernel, stride=stride, dilation=dilation)
    surplus = (size - 1) * stride + dilation * (kernel - 1) + 1 - output  # 2·padding − output padding
    found = tuple(
        ((surplus + extra) // 2, extra)
        for extra in range(max(stride, dilation))
        if (surplus + extra) % 2 == 0 and surplus + extra >= 0
    )
    odd = (surplus // 2, surplus - surplus // 2) if not found and surplus >= 0 else None
    return PaddingSolution(kernel, stride, dilation, size, output, True, found, odd)


def padding_trends(kernels: Sequence[int] = (3, 4, 5), size: int = 32) -> tuple[tuple[PaddingSolution, ...], ...]:
    """The padding of report 004's ConvTransposeNet for different kernels (section 5.4).

    Returns:
        For each kernel: the stride-2 convolution that halves `size`, the stride-2 transposed convolution that doubles it again,
        and the stride-1 convolution that keeps it.
    """
    return tuple(
        (solve_padding(size, size // 2, k, 2), solve_transposed_padding(size // 2, size, k, 2), solve_padding(size, size, k, 1))
        for k in kernels
    )


def field_of_chain(layers: Iterable[Sequence[int]]) -> ChainField:
    """Receptive field of a chain of layers: r = 1 + Σ (k − 1)·d·Π s.

    Args:
        layers: (kernel,), (kernel, stride) or (kernel, stride, dilation) each.

    Raises:
        InputError: no layers, or a value out of range.
    """
    size = jump = 1
    sizes, jumps = [], []
    for layer in layers:
        kernel, stride, dilation = (*layer, 1, 1)[:3]
        _positive(kernel=kernel, stride=stride, dilation=dilation)
        size += (kernel - 1) * dilation * jump
        jump *= stride
        sizes.append(size)
        jumps.append(jump)
    if not sizes:
        raise InputError("give at least one layer")
    return ChainField(tuple(sizes), tuple(jumps))


def _positive(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be an integer of 1 or more; received {value!r}")


def _pair(padding: Padding) -> tuple[int, int]:
    pair = (padding, padding) if isinstance(padding, int) else tuple(padding)
    if len(pair) != 2 or any(isinstance(p, bool) or not isinstance(p, int) or p < 0 for p in pair):
        raise InputError(f"padding must be an integer of 0 or more, or (before, after); received {padding!r}")
    return pair[0], pair[1]
