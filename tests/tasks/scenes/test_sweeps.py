"""Sweeps and repeats of scene recipes, and their command."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes import sweeps


def test_sweep_runs_all_compatible_combinations(stripes, scene_recipe):
    chosen = sweeps.variants(scene_recipe(), {"k": (1, 2), "distance": ()})
    assert len(chosen) == 12
    rows = sweeps.sweep(chosen[:3], stripes, test=True)
    table = sweeps.format_rows(rows)
    assert table.splitlines()[0].replace(" ", "") == "|k|distance|validation|test|seconds|" and len(table.splitlines()) == 5
    assert len(sweeps.variants(scene_recipe(feature="vlad", norm="l2"), {"norm": ("l1", "power")})) == 1
    for over, message in (
        ({"steps": ()}, "unknown setting of scenes 'steps'; did you mean 'step'"),
        ({"smooth": ()}, "smooth has no default values to sweep over: give --values"),
    ):
        with pytest.raises(InputError, match=message):
            sweeps.variants(scene_recipe(), over)


def test_repeat_keeps_the_class_sizes_of_every_split(stripes, scene_recipe):
    other = sweeps.random_splits(stripes, 1)
    for (_, one), (_, two) in zip(stripes.items(), other.items(), strict=True):
        np.testing.assert_array_equal(np.bincount(one.targets), np.bincount(two.targets))
    assert not np.array_equal(other.test.images, stripes.test.images)
    rows = sweeps.repeat(scene_recipe(feature="tiny"), stripes, range(2))
    accuracies = [row.test for row in rows]
    assert sweeps.summarize(rows) == pytest.approx((np.mean(accuracies), np.std(accuracies, ddof=1)))


def test_sweep_command_writes_table_and_plot(command, image_folder, tmp_path):
    done = command(
        "kerascv_course.scenes", "sweep", "ntu-tiny-knn", "--over", "k", "--values", "1", "3", "--data-dir", image_folder,
        "--output", tmp_path / "table", KERASCV_COURSE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table/table.md").read_text(encoding="utf-8").replace(" ", "").startswith("|k|validation|seconds|")
    assert (tmp_path / "table/plot.png").stat().st_size > 1000
    wrong = command(
        "kerascv_course.scenes", "sweep", "ntu-tiny-knn", "--over", "k", "--values", "x", "--data-dir", image_folder
    )
    assert wrong.returncode == 2 and "k must be an integer; received 'x'" in wrong.stderr
    other = command("kerascv_course.scenes", "repeat", "lenet5-digits", "--data-dir", image_folder)
    assert other.returncode == 2 and "takes recipes of the task scenes" in other.stderr
