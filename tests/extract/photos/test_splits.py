import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from extract.photos import splits
from extract.photos.splits import assign, leaking_copies, members, split_rule
from extract.system.console import InputError


def digests(*names: object) -> list[str]:
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def assigned(
    class_names: Sequence[str],
    photo_digests: Sequence[str],
    given: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> list[str]:
    classes = sorted(set(class_names))
    none = [""] * len(class_names)
    return assign(classes, class_names, photo_digests, given or none, seed=seed).tolist()


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (5, (3, 1, 1)),
        (7, (5, 1, 1)),
        (8, (4, 2, 2)),
        (10, (6, 2, 2)),
        (99, (59, 20, 20)),
        (1000, (600, 200, 200)),
    ],
)
def test_sizes(n: int, sizes: tuple[int, int, int]) -> None:
    found = Counter(assigned(["a"] * n, digests(*range(n))))
    assert (found["train"], found["val"], found["test"]) == sizes


def test_every_class_is_cut_by_itself() -> None:
    names = ["a"] * 10 + ["b"] * 50 + ["c"] * 3
    found = Counter(zip(names, assigned(names, digests(*range(63))), strict=True))
    assert [found["a", s] for s in ("train", "val", "test")] == [6, 2, 2]
    assert [found["b", s] for s in ("train", "val", "test")] == [30, 10, 10]
    assert [found["c", s] for s in ("train", "val", "test")] == [1, 1, 1]


def test_order_of_the_rows_does_not_matter() -> None:
    names, photos = ["a"] * 20 + ["b"] * 30, digests(*range(50))
    before = dict(zip(photos, assigned(names, photos), strict=True))
    order = np.random.default_rng(0).permutation(50)
    shuffled = [photos[i] for i in order]
    after = dict(zip(shuffled, assigned([names[i] for i in order], shuffled), strict=True))
    assert after == before


def test_names_of_the_classes_do_not_matter() -> None:
    photos = digests(*range(50))
    before = assigned(["a"] * 20 + ["b"] * 30, photos)
    assert assigned(["zebra"] * 20 + ["ant"] * 30, photos) == before


def test_split_is_the_same_everywhere_and_always() -> None:
    found = assigned(["a"] * 10, digests(*range(10)))
    expected = dict.fromkeys(range(10), "train")
    ordered = sorted(
        range(10),
        key=lambda i: hashlib.sha256(f"0,{digests(i)[0]}".encode()).hexdigest(),
    )
    expected |= dict.fromkeys(ordered[:2], "test") | dict.fromkeys(ordered[2:4], "val")
    assert found == [expected[i] for i in range(10)]


def test_another_seed_gives_another_split() -> None:
    names, photos = ["a"] * 40, digests(*range(40))
    found = {tuple(assigned(names, photos, seed=seed)) for seed in range(5)}
    assert len(found) == 5
    assert {tuple(sorted(split)) for split in found} == {tuple(sorted(found.pop()))}


def test_split_has_nothing_to_do_with_the_order_of_the_digests() -> None:
    photos = sorted(digests(*range(200)))
    test = [i for i, split in enumerate(assigned(["a"] * 200, photos)) if split == "test"]
    assert 60 < np.mean(test) < 140


def test_copies_are_together_and_count_once() -> None:
    photos = digests(*range(10)) * 3
    found = assigned(["a"] * 30, photos)
    assert found[:10] == found[10:20] == found[20:]
    assert Counter(found) == {"train": 18, "val": 6, "test": 6}


def test_copies_in_two_classes_are_together() -> None:
    own_a, own_b, both = range(0, 20), range(20, 40), range(40, 60)
    names = ["a"] * 40 + ["b"] * 40
    photos = digests(*own_a, *both, *own_b, *both)
    found = assigned(names, photos)
    by_digest: dict[str, set[str]] = {}
    for digest, split in zip(photos, found, strict=True):
        by_digest.setdefault(digest, set()).add(split)
    assert all(len(split) == 1 for split in by_digest.values())


def test_class_that_copies_in_another_leave_without_a_split_is_named() -> None:
    ends = set()
    for seed in range(20):
        names, photos = ["a"] * 30 + ["b"] * 3, digests(*range(30), 0, 1, 2)
        try:
            found = assigned(names, photos, seed=seed)
        except InputError as error:
            ends.add(str(error).split(",")[0])
        else:
            assert set(found[30:]) == {"train", "val", "test"}
    assert ends, "seeds that cut no such class prove nothing"
    assert all(end.startswith("class 'b' has no photo for ") for end in ends)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_class_too_small_for_three_splits_is_named(n: int) -> None:
    names, photos = ["big"] * 5 + ["tiny"] * n, digests(*range(5 + n))
    with pytest.raises(InputError, match="class 'tiny' has") as refused:
        assign(["big", "tiny"], names, photos, [""] * len(names), seed=0)
    assert f"{n} distinct" in str(refused.value)
    assert "train, val, test" in str(refused.value)


def test_copies_do_not_make_a_class_big_enough() -> None:
    photos = digests(*range(5), "x", "x", "x", "y")
    with pytest.raises(InputError, match="class 'b' has 2 distinct"):
        assigned(["a"] * 5 + ["b"] * 4, photos)


def test_given_splits_are_used() -> None:
    given = ["train", "val", "test", "test", "val", "train"]
    assert assigned(["a"] * 3 + ["b"] * 3, digests(*range(6)), given) == given


def test_val_is_cut_from_a_given_train() -> None:
    names = ["a"] * 14 + ["b"] * 14
    given = (["train"] * 10 + ["test"] * 4) * 2
    found = assigned(names, digests(*range(28)), given)
    for start in (0, 14):
        assert Counter(found[start : start + 10]) == {"train": 8, "val": 2}
        assert found[start + 10 : start + 14] == ["test"] * 4


def test_given_val_is_the_test_if_there_is_no_test() -> None:
    names = ["a"] * 14 + ["b"] * 14
    given = (["train"] * 10 + ["val"] * 4) * 2
    found = assigned(names, digests(*range(28)), given)
    for start in (0, 14):
        assert Counter(found[start : start + 10]) == {"train": 8, "val": 2}
        assert found[start + 10 : start + 14] == ["test"] * 4


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (set(), splits.BY_DIGEST),
        ({""}, splits.BY_DIGEST),
        ({"train", "val", "test"}, splits.GIVEN),
        ({"train", "test"}, splits.GIVEN_TEST),
        ({"train", "val"}, splits.GIVEN_VAL),
    ],
)
def test_rule(given: set[str], rule: str) -> None:
    assert split_rule(given) == rule


def test_given_train_of_two_photos_gives_one_to_val() -> None:
    given = ["train", "train", "test"] * 2
    found = assigned(["a"] * 3 + ["b"] * 3, digests(*range(6)), given)
    assert sorted(found[:3]) == sorted(found[3:]) == ["test", "train", "val"]


def test_given_train_of_one_photo_cannot_give_val() -> None:
    given = ["train", "train", "test", "train", "test"]
    with pytest.raises(InputError, match="class 'b' has 1 distinct"):
        assigned(["a", "a", "a", "b", "b"], digests(*range(5)), given)


def test_class_without_given_training_photos_is_named() -> None:
    given = ["train", "val", "test", "test"]
    with pytest.raises(InputError, match="class 'b' has 0 distinct"):
        assigned(["a", "a", "a", "b"], digests(*range(4)), given)


def test_copies_of_photos_kept_out_of_training_are_found() -> None:
    photos = digests("x", "y", "x", "z", "y", "x", "z")
    given = ["train", "train", "val", "train", "val", "test", "train"]
    assert leaking_copies(photos, given) == {0: 5, 2: 5, 1: 4}


def test_copies_within_a_split_are_not_a_leak() -> None:
    given = ["train", "train", "test", "test"]
    assert leaking_copies(digests("x", "x", "y", "y"), given) == {}


def test_copies_in_a_val_that_is_the_test() -> None:
    assert leaking_copies(digests("x", "x", "y"), ["train", "val", "train"]) == {0: 1}


def test_members_are_the_distinct_photos_that_are_to_be_shared() -> None:
    names = ["a", "a", "a", "a", "b", "b", "b"]
    photos = digests("x", "y", "x", "z", "p", "q", "r")
    found = members(["a", "b"], names, photos, [""] * 7)
    assert found == {"a": set(digests("x", "y", "z")), "b": set(digests("p", "q", "r"))}


def test_members_of_given_splits_are_those_of_train() -> None:
    names = ["a"] * 4 + ["b"] * 4
    photos = digests(*range(8))
    for other in ("test", "val"):
        given = ["train", "train", other, other] * 2
        found = members(["a", "b"], names, photos, given)
        assert found == {"a": set(digests(0, 1)), "b": set(digests(4, 5))}
    given = ["train", "val", "test", "test"] * 2
    assert members(["a", "b"], names, photos, given) == {
        "a": set(digests(0)),
        "b": set(digests(4)),
    }


@pytest.mark.parametrize(
    ("given", "photos", "words"),
    [
        ([""] * 2, 2, "has 2 distinct usable photos to share between train, val, test"),
        ([], 0, "has 0 distinct usable photos to share between train, val, test"),
        (["train", "test"], 2, "has 1 distinct usable photo to share between train, val;"),
        (["val", "test"], 2, "has 0 distinct usable photos to share between train;"),
    ],
)
def test_members_refuse_what_assign_refuses(given: list[str], photos: int, words: str) -> None:
    enough = ["train", "val", "test"] if "val" in given else ["train", "train", "test"]
    given = [*(enough if any(given) else [""] * 3), *given]
    names = ["a"] * 3 + ["b"] * photos
    arguments = ["a", "b"], names, digests(*range(len(names))), given
    with pytest.raises(InputError, match=f"class 'b' {words}"):
        members(*arguments)
    with pytest.raises(InputError, match=f"class 'b' {words}"):
        assign(*arguments, seed=0)


def grouped(
    class_names: Sequence[str],
    groups: Sequence[str],
    photo_digests: Sequence[str],
    *,
    seed: int = 0,
) -> list[str]:
    together = splits.units(photo_digests, groups)
    none = [""] * len(groups)
    return assign(
        sorted(set(class_names)), class_names, photo_digests, none, seed=seed, together=together
    ).tolist()


def test_units_join_copies_groups_and_pairs() -> None:
    photos = digests("a", "b", "a", "c", "d", "e")
    found = splits.units(photos, ["", "tom", "tom", "", "", ""], [(3, 4)])
    assert found == ["tom", "tom", "tom", *[min(photos[3:5])] * 2, photos[5]]


@pytest.mark.parametrize("seed", range(5))
def test_a_group_lies_in_one_split_and_shares_are_kept(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = ["a"] * 300 + ["b"] * 200
    # Animals that were photographed 1 to 12 times, some of them in both classes.
    groups = [f"{number}" for number in np.repeat(range(100), random.integers(1, 13, 100))][:500]
    groups += [""] * (500 - len(groups))
    found = grouped(names, groups, digests(*range(500)), seed=seed)
    where = {(group, split) for group, split in zip(groups, found, strict=True) if group}
    assert len(where) == len({group for group, _ in where})
    sizes = Counter(zip(names, found, strict=True))
    for name, n in (("a", 300), ("b", 200)):
        shares = [sizes[name, split] / n for split in ("train", "val", "test")]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_a_few_groups_leave_the_other_photos_where_they_are() -> None:
    names, photos = ["a"] * 100, digests(*range(100))
    before = assigned(names, photos)
    after = grouped(names, ["x" if i in (3, 70) else "" for i in range(100)], photos)
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 4


def test_three_groups_of_each_class_are_enough() -> None:
    # Every group is in both classes, so the choice of one class binds the other.
    names, groups = ["a"] * 30 + ["b"] * 30, ["x", "y", "z"] * 20
    for seed in range(10):
        found = grouped(names, groups, digests(*range(60)), seed=seed)
        assert set(zip(names, found, strict=True)) == {
            (name, split) for name in "ab" for split in ("train", "val", "test")
        }


def test_a_class_of_two_groups_is_refused() -> None:
    with pytest.raises(InputError, match=r"class 'b' has 2 .* or group \(of 10 photos\)"):
        grouped(["a"] * 10 + ["b"] * 10, [""] * 10 + ["x", "y"] * 5, digests(*range(20)))
