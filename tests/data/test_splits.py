"""Dividing and describing splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data.splits import Split, divide, half_width, hold_out, images_needed, keep_classes, make_dataset


def numbered(count: int, classes: int = 2) -> Split:
    images = np.arange(count, dtype=np.int64).astype(np.uint8).reshape(count, 1, 1, 1)
    return Split(images, np.arange(count) % classes)


@given(st.integers(20, 200), st.floats(0.1, 0.9), st.integers(0, 10), st.booleans())
def test_hold_out_parts_are_disjoint_and_complete(count, share, seed, stratify):
    rest, held = hold_out(numbered(count), share, seed, stratify=stratify)
    assert len(held) == round(count * share)
    assert sorted([*rest.images.ravel(), *held.images.ravel()]) == list(range(count))
    assert (np.diff(rest.images.ravel().astype(int)) > 0).all()


def test_hold_out_depends_on_the_seed():
    first, again, other = (hold_out(numbered(100), 0.2, seed, stratify=False)[1].images.ravel() for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_hold_out_stratified_keeps_class_proportions():
    _, held = hold_out(numbered(100, classes=4), 0.2, 0, stratify=True)
    assert np.bincount(held.targets).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_hold_out_refuses_an_empty_part(share):
    with pytest.raises(DataError, match="leaves a split empty"):
        hold_out(numbered(10), share, 0, stratify=False)


def test_hold_out_stratified_refuses_small_classes():
    split = Split(np.zeros((10, 1, 1, 1), np.uint8), np.array([0] * 9 + [1]))
    with pytest.raises(DataError, match=r"two or more images per class.*the smallest class has 1"):
        hold_out(split, 0.5, 0, stratify=True)
    with pytest.raises(DataError, match="one of each class in both parts"):
        hold_out(numbered(20, classes=5), 0.1, 0, stratify=True)


def test_make_dataset_fingerprint_covers_pixels_targets_and_splits():
    def fingerprint(*splits: Split) -> str:
        return make_dataset("x", ("a", "b"), "", *splits).info.fingerprint

    base = (numbered(4), numbered(3), numbered(2))
    pixel = numbered(4)
    pixel.images[2] += 1
    target = numbered(2)
    target.targets[0] = 1
    changed = [(pixel, *base[1:]), (*base[:2], target), (base[0], base[2], base[1])]
    assert len({fingerprint(*base), *(fingerprint(*splits) for splits in changed)}) == 4
    assert fingerprint(*base) == fingerprint(numbered(4), numbered(3), numbered(2))


def test_make_dataset_refuses_an_empty_split():
    with pytest.raises(DataError, match="the test split of x has no images"):
        make_dataset("x", ("a",), "", numbered(1), numbered(1), numbered(0))


def test_keep_classes_by_name():
    split = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([0, 1, 2, 0, 2, 2]))
    kept, labels = keep_classes(split, ("a", "b", "c", "d"), ("c", "a"))
    assert labels == ("a", "c") and kept.targets.tolist() == [0, 1, 0, 1, 1] and kept.images.ravel().tolist() == [0, 2, 3, 4, 5]
    assert keep_classes(split, ("a", "b", "c", "d"), ())[0] is split
    with pytest.raises(UnknownNameError, match="unknown class 'hors'; did you mean 'horse'"):
        keep_classes(split, ("horse", "b", "c"), ("hors",))
    with pytest.raises(DataError, match=r"data\.only must name classes with images; 'd' has none"):
        keep_classes(split, ("a", "b", "c", "d"), ("a", "d"))


def of_sizes(*sizes: int) -> Split:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    return Split(np.zeros((len(targets), 1, 1, 1), np.uint8), targets)


SHARES = {"test": 0.2, "validation": 0.1}


def test_divide_gives_the_parts_of_repeated_hold_outs():
    split = numbered(100, 4)
    rest, test = hold_out(split, 0.2, 3, stratify=True)
    train, validation = hold_out(rest, 0.1, 3, stratify=True)
    parts = divide(split, "abcd", SHARES, 3)
    for name, part in {"train": train, "validation": validation, "test": test}.items():
        np.testing.assert_array_equal(parts[name].images, part.images)


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ((200, 3), "gets no image of the class 'b', which has 3; with --data.test-share 0.2 and --data.validation-share 0.1"),
        ((5,) * 10, r"the validation split gets no image of the class 'a', which has 5; .* a class needs \d+ \(9 more classes"),
        ((200, 1), "the test split gets no image of the class 'b', which has 1"),
    ],
)
def test_divide_names_class_options_and_number(sizes, rule):
    with pytest.raises(DataError, match=rule) as raised:
        divide(of_sizes(*sizes), "abcdefghij"[: len(sizes)], SHARES, 0)
    needed = images_needed(np.array(sizes), list(SHARES.values()))
    assert f"a class needs {needed}" in str(raised.value)
    for seed in range(5):  # with that number it works, whatever the seed
        parts = divide(of_sizes(*(max(size, needed) for size in sizes)), "abcdefghij"[: len(sizes)], SHARES, seed)
        assert all(len(set(part.targets)) == len(sizes) for part in parts.values())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.floats(0.03, 0.9), st.floats(0.03, 0.9), st.integers(0, 9))
def test_images_needed_are_enough(sizes, test, validation, seed):
    shares = {"test": test, "validation": validation}
    needed = images_needed(np.array(sizes), list(shares.values()))
    parts = divide(of_sizes(*(max(size, needed) for size in sizes)), "abcdef"[: len(sizes)], shares, seed)
    assert all(len(set(part.targets)) == len(sizes) for part in parts.values())


def test_divide_at_random_refuses_a_part_without_a_class():
    with pytest.raises(
        DataError, match=r"gets no image of the class '.*division is random: change --data.validation-share 0.02"
    ):
        divide(of_sizes(99, 1), "ab", {"validation": 0.02}, 0, stratify=False)


def test_half_width_of_wilsons_interval():
    # Brown, Cai, DasGupta 2001, section 3.1.1: 18 of 20 successes give 0.699 to 0.972
    assert half_width(20) == pytest.approx((0.9721 - 0.6990) / 2, abs=1e-3)
    assert half_width(100) == pytest.approx(0.0596, abs=1e-4)
