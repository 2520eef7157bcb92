"""Figures of sweeps."""

from __future__ import annotations

from kerascv_course import plots


def test_every_line_of_a_sweep_is_drawn_in_a_colour_of_its_own():
    lines = dict.fromkeys("abcdef", (0.1, 0.2))
    (axes,) = plots.accuracy_lines(("1", "2"), lines, "k", "a sweep").axes
    assert [line.get_label() for line in axes.lines] == list(lines)
    assert len({line.get_color() for line in axes.lines}) == 6
