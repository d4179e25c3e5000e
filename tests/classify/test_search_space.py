"""What is searched follows from the size of the data and the taps, the smallest set first."""

import itertools

import pytest

from classify import out_of_core, search_space
from classify.heads import HEADS
from classify.search_space import (
    GAUSSIAN,
    GRIDS,
    PAIR_SETS,
    TAP_SETS,
    FeatureSet,
    tap_sets,
    tried,
)
from extract.vgg16.recipe import ALL_TAPS, TAPS, has_pairs, named

TWO_SIZES = TAPS | {named(tap, 320): width for tap, width in TAPS.items()}


@pytest.mark.parametrize(
    ("rows", "classes", "of_one_size", "of_two_sizes"),
    [
        (400, 6, 8, 12),
        (2_000, 2, 8, 12),
        (3_060, 102, 8, 12),
        (7_000, 101, 4, 6),
        (30_000, 2, 8, 8),
        (50_000, 1_000, 2, 2),
        (1_000_000, 10, 2, 2),
    ],
)
def test_what_is_searched_follows_from_the_size_and_the_taps(
    rows: int, classes: int, of_one_size: int, of_two_sizes: int
) -> None:
    for name, (taps, expected) in itertools.product(
        HEADS, ((TAPS, of_one_size), (TWO_SIZES, of_two_sizes))
    ):
        space = search_space.search_space(name, rows=rows, classes=classes, taps=taps)
        of_taps = [features for features in space.feature_sets if not features.by_block]
        assert len(of_taps) == expected
        assert {features.root for features in of_taps} == {True, False}
        for own, *_ in space.feature_sets:
            width = sum(taps[tap] for tap in own)
            assert own == ("block5_avg",) or rows * width <= out_of_core.IN_MEMORY
        if name == "mlp":
            assert max(epochs for _, epochs in space.grid) == (80 if rows <= 500 else 20)
        else:
            assert space.grid == GRIDS[name]


def test_only_the_svm_tries_blocks_that_count_the_same_and_a_kernel_only_on_these() -> None:
    for name in HEADS:
        space = search_space.search_space(name, rows=400, classes=6, taps=ALL_TAPS)
        by_block = [features.taps for features in space.feature_sets if features.by_block]
        wanted = [TAP_SETS[2], *PAIR_SETS] if name == "svm" else []
        assert by_block == wanted
        assert all(FeatureSet(taps, True) in space.feature_sets for taps in by_block)
        for features in space.feature_sets:
            is_even = features.by_block or features in [FeatureSet((tap,), True) for tap in TAPS]
            kernels = GAUSSIAN if name == "svm" and is_even else ()
            assert space.values(features) == space.grid + kernels


def test_sets_of_taps_name_taps_of_the_recipe_and_the_larger_hold_the_smaller() -> None:
    assert set(tried(TAPS)) == {tap for taps in TAP_SETS for tap in taps} <= set(TAPS)
    for smaller, larger in itertools.pairwise(TAP_SETS[1:]):
        assert smaller == larger[: len(smaller)]


def test_pairs_are_tried_where_there_are_any_and_only_with_roots() -> None:
    assert not any(map(has_pairs, tried(TAPS)))
    for rows, classes in ((400, 6), (7_000, 101)):
        plain, richer = (
            [
                features
                for features in search_space.search_space(
                    "svm", rows=rows, classes=classes, taps=taps
                ).feature_sets
                if not features.by_block
            ]
            for taps in (TAPS, ALL_TAPS)
        )
        assert richer[: len(plain)] == plain
        added = richer[len(plain) :]
        assert len(added) == 1
        assert all(features.root and "block4_pairs" in features.taps for features in added)


def test_of_several_sizes_the_sets_with_block_4_are_tried_together() -> None:
    assert tap_sets(TAPS) == [*TAP_SETS]
    of_block_4 = ("block5_avg3x3", "block4_avg", "block4_max")
    for suffixes in (("", "_320"), ("", "_96", "_320")):
        taps = {f"{tap}{suffix}": width for suffix in suffixes for tap, width in TAPS.items()}
        found = tap_sets(taps)
        assert found[: len(TAP_SETS)] == [*TAP_SETS]
        together = [f"{tap}{suffix}" for suffix in suffixes for tap in of_block_4]
        assert found[len(TAP_SETS)] == tuple(together)
        assert len(found) == len(TAP_SETS) + 2
        widths = [sum(taps[tap] for tap in own) for own in found]
        assert widths == sorted(widths)
        assert set(tried(taps)) == {tap for own in found for tap in own}
