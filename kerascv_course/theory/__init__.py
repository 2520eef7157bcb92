"""The theory of report 004 (CSC413, assignment 2), run instead of argued: every statement is a computation with its number.

`least_squares` (1.1), `counterexample` (1.2), `hypergradient`, `rates`, `memory`, `chaos`, `network` and `graph` (2.1, 2.2), `decay`
(2.3): results first, as frozen objects with their claims; drawing (`plots`), pages (`topics`) and printing (``python -m
kerascv_course.theory``) are apart. Computed in float64 and seeded. Importing this package imports NumPy and nothing heavier; Keras's
own optimisers and TensorFlow's tape stand in `keras_side`, and are imported when they are asked for.
"""

from kerascv_course.theory.claims import Claim
from kerascv_course.theory.problem import DivergenceError, LeastSquares, random_problem

__all__ = ["Claim", "DivergenceError", "LeastSquares", "random_problem"]
