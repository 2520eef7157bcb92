"""``python -m kerascv_course``: the command ``kerascv`` without its console script."""

from __future__ import annotations

from kerascv_course.cli import console_script

if __name__ == "__main__":
    console_script()
