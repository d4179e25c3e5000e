"""Recipes: old caches stay valid, and whatever changes the numbers changes the digest."""

from extract.vgg16.recipe import SIZE, SIZES, joint_digest, named, recipe, recipe_digest

PLAIN = recipe("w" * 64)


def test_the_recipe_of_existing_caches_is_unchanged() -> None:
    known = "795c253ec9be8f02f81cf3b1d3fc1fad03da0297c917b28c24a04bff4de84774"
    assert recipe_digest(PLAIN) == known
    assert joint_digest([PLAIN]) == known, "a features file of one size names it"


def test_every_size_is_a_recipe_of_its_own() -> None:
    recipes = [recipe("w" * 64, size=size) for size in SIZES]
    assert [found["size"] for found in recipes] == list(SIZES)
    assert len({recipe_digest(found) for found in recipes}) == len(SIZES) == 18
    assert recipes[0] == PLAIN


def test_every_set_of_recipes_has_a_digest_of_its_own() -> None:
    other, third = recipe("w" * 64, size=320), recipe("w" * 64, size=96)
    sets = [[PLAIN], [other], [PLAIN, other], [PLAIN, third], [PLAIN, third, other]]
    assert len({joint_digest(some) for some in sets}) == len(sets)


def test_names_of_other_sizes_end_with_the_size() -> None:
    assert named("block5_avg3x3", SIZE) == "block5_avg3x3"
    assert named("block5_avg3x3", 320) == "block5_avg3x3_320"
