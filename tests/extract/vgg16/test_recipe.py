"""Recipes: what exists stays valid, what changes the numbers has a digest of its own."""

import numpy as np
import pytest

from extract.vgg16.recipe import SIZE, SIZES, joint_digest, named, recipe, recipe_digest, windows

PLAIN = recipe("w" * 64)


def test_the_recipe_of_the_caches_that_exist_is_as_it_was() -> None:
    known = "795c253ec9be8f02f81cf3b1d3fc1fad03da0297c917b28c24a04bff4de84774"
    assert recipe_digest(PLAIN) == known
    assert joint_digest([PLAIN]) == known, "a features file of one size names it"


def test_every_size_is_a_recipe_of_its_own() -> None:
    recipes = [recipe("w" * 64, size=size) for size in SIZES]
    assert [found["size"] for found in recipes] == list(SIZES)
    assert len({recipe_digest(found) for found in recipes}) == len(SIZES) == 18
    assert recipes[0] == PLAIN


def test_several_recipes_have_a_digest_over_theirs() -> None:
    other, third = recipe("w" * 64, size=320), recipe("w" * 64, size=96)
    sets = [[PLAIN], [other], [PLAIN, other], [PLAIN, third], [PLAIN, third, other]]
    assert len({joint_digest(some) for some in sets}) == len(sets)


def test_what_is_of_another_size_ends_with_it() -> None:
    assert named("block5_avg3x3", SIZE) == "block5_avg3x3"
    assert named("block5_avg3x3", 320) == "block5_avg3x3_320"


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(96, 1, 1), (160, 3, 1), (224, 3, 2), (320, 4, 3), (448, 6, 4)]
)
def test_windows_of_some_sizes(size: int, window: int, stride: int) -> None:
    assert windows(size) == (window, stride)


@pytest.mark.parametrize("size", SIZES)
def test_three_windows_cover_every_side_to_its_end(size: int) -> None:
    window, stride = windows(size)
    covered = np.add.outer(stride * np.arange(3), np.arange(window))
    assert sorted(set(covered.ravel().tolist())) == list(range(size // 32))
