"""Evaluate and export a trained run on TensorFlow: ``python -m kerascv_course.finish RUN [SECONDS]``.

`kerascv_course.experiment` starts this for a run that another Keras backend has trained. SECONDS is the duration of the command so
far, for metrics.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import run_cli


def main() -> None:
    """Parse and finish the run."""
    start_tensorflow()
    from kerascv_course.experiment import Experiment, configure_logging

    configure_logging()
    Experiment.open(Path(sys.argv[1])).finish(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)


if __name__ == "__main__":
    run_cli(main)
