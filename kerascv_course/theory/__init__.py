"""The theory of report 004 (CSC413, assignment 2), computed: every statement is a number with its expected value.

Studies return frozen objects with claims: `least_squares` (1.1), `counterexample` (1.2), `unrolled`, `hypergradient` and `chaos` (2.1,
2.2), `decay` (2.3). `topics` adds figures (`kerascv_course.plots.theory`) and tables for pages, and for
``python -m kerascv_course.theory``. Everything is computed in float64 with fixed seeds; `keras_side` runs Keras's own optimizers and
TensorFlow's tape.
"""

from kerascv_course.theory.descent import DivergenceError, LeastSquares, random_problem
from kerascv_course.theory.pages import Claim

__all__ = ["Claim", "DivergenceError", "LeastSquares", "random_problem"]
