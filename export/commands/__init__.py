"""The commands of ``python -m export``: a module holds one or a few, each parses, calls a function, and prints.

What a command needs is imported when it is called: `predict` and `inspect` run where only NumPy, onnxruntime and Pillow are.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ["Commands"]

#: What a module adds its commands to.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
