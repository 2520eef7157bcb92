"""Operators, attributes and sizes that a stranger's file may have; standard library only.

onnxruntime has about 400. Files that we export and usual vision networks need those listed here; most crashes that fuzzing found were
in others, which nobody will miss.
"""

from __future__ import annotations

from export.contract import MAX_SIDE

__all__ = ["DOMAINS", "REPEATING_OR_RANDOM", "STANDARD", "allowed"]

#: Domains of operators: ONNX's own, and onnxruntime's for quantized files.
DOMAINS = {"", "ai.onnx", "com.microsoft"}

#: Operators that repeat a graph as often as the file says, and random ones. `export.untrusted.screen` allows one kind of Loop.
REPEATING_OR_RANDOM = {
    *("Loop", "Scan", "SequenceMap"),
    *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"),
}

#: ONNX's operators.
_STANDARD = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop
    LpNormalization MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad
    Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round ScatterElements
    ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
    Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
STANDARD = frozenset(_STANDARD.split())

#: onnxruntime's.
_MICROSOFT = """
    BiasGelu DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu MatMulIntegerToFloat QGemm
    QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid
    QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu
"""
MICROSOFT = frozenset(_MICROSOFT.split())


#: Dimensions of a tensor.
MAX_DIMS = 32

#: Smallest and largest whole number of an attribute, and of those that are an axis or a position among axes, or any number.
SETTING, AXIS, ANY = (0, 65_536), (-MAX_DIMS, MAX_DIMS), (-(2**63), 2**63 - 1)

#: Attributes with other bounds.
BOUNDS = {
    **dict.fromkeys(("axis", "axes", "start", "end", "time_axis", "batch_axis"), AXIS),
    **dict.fromkeys(("perm", "batch_dims"), (0, MAX_DIMS)),
    **dict.fromkeys(("starts", "ends", "value_int", "value_ints", "seed"), ANY),
    **dict.fromkeys(("shape", "block_size"), (-1, SETTING[1])),
    "k": (-SETTING[1], SETTING[1]),
    # onnxruntime divides or steps by these
    **dict.fromkeys(
        ("kernel_shape", "strides", "dilations", "group", "num_groups", "blocksize", "hidden_size", "num_outputs", "size"),
        (1, SETTING[1]),
    ),
    **dict.fromkeys(("pads", "output_padding"), (0, 4096)),
}

#: Attributes that are lists of one number or more.
LISTS = {"kernel_shape", "strides", "dilations", "pads", "axes", "output_shape", "output_padding"}

#: Attributes whose numbers multiply a size, or add to it, and how large the product may be.
PRODUCTS = {"pads": 2**24, "output_padding": 2**24, "output_shape": 2**26, "shape": 2**26, "scales": 4096}

#: The same of strides where they enlarge.
MAX_ENLARGED = 4096

#: Position of the input with the factors.
FACTOR_INPUT = {"Resize": 2, "Upsample": 1}

#: Factors that are stored; onnxruntime reads as many as the image has axes, whatever it is given.
MAX_FACTORS = 8

#: Operators that factors which are not stored may come from.
FACTORS = {"Concat", "Cast", "Div", "Mul", "Slice", "Gather", "Unsqueeze", "Squeeze", "Reshape", "Constant", "Identity"}

#: Elements of a declared tensor, and of one that is stored.
MAX_ELEMENTS, MAX_STORED = 2**28, 2**36

#: Elements of all tensors together that constants ask for: 512 MiB of the largest type.
MAX_MADE = 2**26

#: Largest number of values of a constant that is looked into.
MAX_VALUES = 64

#: Operators whose sizes come from a small constant: by the position of that input, its smallest and largest value.
SIZED: dict[str, dict[int, tuple[float, float]]] = {
    "Pad": {1: (-MAX_ELEMENTS, 4096)},
    "Expand": {1: (-1, MAX_ELEMENTS)},
    "Tile": {1: (0, 4096)},
    "ConstantOfShape": {0: (0, MAX_ELEMENTS)},
    "Reshape": {1: (-1, MAX_ELEMENTS)},
    "Resize": {2: (0, 64), 3: (0, MAX_SIDE)},
    "Upsample": {1: (0, 64)},
    "OneHot": {1: (1, 65_536)},
    "Range": dict.fromkeys((0, 1, 2), (-MAX_ELEMENTS, MAX_ELEMENTS)),
    "TopK": {1: (0, MAX_ELEMENTS)},
    "Split": {1: (0, MAX_ELEMENTS)},
    "Trilu": {1: (-MAX_ELEMENTS, MAX_ELEMENTS)},
    **{operator: {1: AXIS} for operator in ("Squeeze", "Unsqueeze", "CumSum")},
}

#: Operators that end the process where a constant input at these positions has no values.
VALUED = {"OneHot": (0, 1, 2), "Range": (0, 1, 2), "TopK": (1,), "CumSum": (1,), "Trilu": (1,), "Tile": (1,)}

#: Operators that hand on the values of a constant.
HANDED_ON = {"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Flatten"}


def allowed(operator: str, domain: str) -> bool:
    """Whether a stranger's file may have an operator of one of the `DOMAINS`."""
    return operator in (MICROSOFT if domain == "com.microsoft" else STANDARD)
