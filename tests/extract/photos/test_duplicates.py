import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from extract.photos import duplicates
from extract.photos.duplicates import conflicts, copies

Vectors = NDArray[np.float32]


def reader(vectors: Vectors, asked: list[int] | None = None) -> duplicates.Read:
    """Return a `read` that gives rows of `vectors` and notes how many were asked for at once."""

    def read(rows: NDArray[np.intp]) -> Vectors:
        assert (np.diff(rows) > 0).all()
        if asked is not None:
            asked.append(len(rows))
        return vectors[rows]

    return read


def brute_force(
    vectors: Vectors, digests: list[str], splits: list[str], threshold: float
) -> dict[tuple[int, int], float]:
    found = {}
    for i, j in combinations(range(len(vectors)), 2):
        a, b = vectors[i].astype(np.float64), vectors[j].astype(np.float64)
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        cosine = a @ b / lengths if lengths else 0
        if splits[i] != splits[j] and digests[i] != digests[j] and cosine >= threshold:
            found[i, j] = cosine
    return found


def near(*arguments: Any, **options: Any) -> list[duplicates.NearPair]:
    """Return the pairs of a search that lists them all."""
    found = duplicates.near(*arguments, **options)
    assert found.found == len(found.pairs)
    assert found.photos == len({row for pair in found.pairs for row in pair[:2]})
    return found.pairs


def unlike(n: int) -> list[str]:
    return [f"{i:064x}" for i in range(n)]


def test_copies_are_groups_of_rows_in_order() -> None:
    assert copies(["b", "a", "b", "c", "a", "b"]) == [[0, 2, 5], [1, 4]]
    assert copies(["a", "b"]) == []
    assert copies([]) == []


@pytest.mark.parametrize("kind", [list, np.array])
def test_conflicts_are_copies_under_more_than_one_label(kind: Callable[..., list[int]]) -> None:
    digests = ["a", "b", "a", "b", "c", "b", "d"]
    assert conflicts(digests, kind([0, 1, 0, 1, 2, 2, 0])) == [[1, 3, 5]]
    assert conflicts(digests, kind([0, 1, 2, 1, 2, 0, 0])) == [[0, 2], [1, 3, 5]]
    assert conflicts(digests, kind([0, 1, 0, 1, 2, 1, 0])) == []


@pytest.mark.parametrize("block", [1, 7, 20, 2048])
@pytest.mark.parametrize("seed", [0, 1])
def test_near_is_what_brute_force_finds(
    monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "LISTED", 97)
    random = np.random.default_rng(seed)
    vectors = random.random((97, 5), np.float32) * random.integers(0, 200, (97, 1))
    vectors = vectors.astype(np.float32)
    vectors[[3, 50]] = 0
    digests = [str(number) for number in random.integers(0, 60, 97)]
    splits = random.choice(["train", "train", "train", "val", "test"], 97).tolist()
    expected = brute_force(vectors, digests, splits, 0.95)
    asked: list[int] = []
    pairs = near(reader(vectors, asked), digests, splits, threshold=0.95)
    assert len(expected) > 100
    assert {pair[:2] for pair in pairs} == set(expected)
    assert all(cosine == pytest.approx(expected[i, j], abs=1e-6) for i, j, cosine in pairs)
    assert max(asked) <= block
    cosines = [cosine for *_, cosine in pairs]
    assert cosines == sorted(cosines, reverse=True)
    assert max(cosines) <= 1


def test_pairs_across_all_three_splits_are_found_the_highest_first() -> None:
    vectors = np.array([[0, 4, 3], [0, 1, 0], [0, 12, 5], [1, 0, 0]], np.float32)
    splits = ["test", "train", "val", "val"]
    pairs = near(reader(vectors), unlike(4), splits, threshold=0.5)
    assert [pair[:2] for pair in pairs] == [(0, 2), (1, 2), (0, 1)]
    assert [pair[2] for pair in pairs] == pytest.approx([63 / 65, 12 / 13, 4 / 5])
    assert all(type(value) is kind for p in pairs for value, kind in zip(p, (int, int, float)))  # noqa: B905


def test_pairs_of_equal_cosine_are_in_order_of_their_rows() -> None:
    splits = np.array(["train", "test", "train", "test", "val"])
    pairs = near(reader(np.ones((5, 4), np.float32)), unlike(5), splits)
    assert pairs == [(i, j, 1.0) for i, j in combinations(range(5), 2) if splits[i] != splits[j]]


def test_the_threshold_belongs_to_the_pairs() -> None:
    vectors = np.array([[1, 0], [3, 4]], np.float32)
    read = reader(vectors)
    at = float(np.float32(0.6))
    assert near(read, unlike(2), ["train", "test"], threshold=0.6) == [(0, 1, at)]
    above = float(np.nextafter(np.float32(0.6), np.float32(1)))
    assert near(read, unlike(2), ["train", "test"], threshold=above) == []


def test_photos_of_one_split_and_copies_are_not_a_pair() -> None:
    read = reader(np.ones((4, 4), np.float32))
    assert near(read, unlike(4), ["train"] * 4) == []
    assert near(read, ["a"] * 4, ["train", "train", "val", "test"]) == []
    assert near(read, ["a", "b", "a", "a"], ["train", "train", "val", "test"]) == [
        (1, 2, 1.0),
        (1, 3, 1.0),
    ]


def test_vectors_of_zeros_are_like_nothing() -> None:
    vectors = np.zeros((4, 3), np.float32)
    vectors[3] = 1
    with np.errstate(all="raise"):
        assert near(reader(vectors), unlike(4), ["train", "val", "test", "test"]) == []


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_of_many_alike_photos_each_is_listed_with_the_few_most_like_it(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    vectors = 20 + np.random.default_rng(0).random((90, 5), np.float32)
    splits = ["train", "val", "test"] * 30
    every = brute_force(vectors, unlike(90), splits, 0.96)
    found = duplicates.near(reader(vectors), unlike(90), splits)
    assert (found.found, found.photos) == (len(every), 90) == (2700, 90)
    listed = {pair[:2] for pair in found.pairs}
    assert len(listed) == len(found.pairs) <= 90 * duplicates.LISTED
    most_alike = {
        pair
        for row in range(90)
        for pair in sorted((pair for pair in every if row in pair), key=lambda p: -every[p])[:5]
    }
    # Rounding may order two pairs whose cosines are almost equal in another way.
    assert len(listed & most_alike) > 0.9 * len(most_alike)
    assert found.summary().startswith("2,700 pairs among 90 photos; listed are ")


def test_nothing_is_read_of_an_empty_data_set() -> None:
    def read(rows: NDArray[np.intp]) -> Vectors:
        raise AssertionError

    assert near(read, [], []) == []


def test_arguments_that_do_not_fit_are_refused() -> None:
    read = reader(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="2 digests and 1 splits"):
        near(read, unlike(2), ["train"])
    for threshold in (0, -0.5, 1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="is not between 0 and 1"):
            near(read, unlike(2), ["train", "test"], threshold=threshold)


def test_the_larger_side_is_read_once_for_each_block_of_the_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 10)
    asked: list[int] = []
    vectors = np.random.default_rng(0).random((115, 3), np.float32)
    duplicates.near(reader(vectors, asked), unlike(115), ["train"] * 100 + ["test"] * 15)
    assert sum(asked) == 15 + 2 * 100


def test_a_photo_encoded_again_is_near_and_another_photo_is_not() -> None:
    def thumbnail(photo: Image.Image) -> Vectors:
        small = np.asarray(photo.convert("RGB").resize((24, 16), Image.Resampling.BOX), np.float32)
        return (small - small.mean()).clip(0).ravel()

    def encoded(photo: Image.Image) -> Image.Image:
        file = io.BytesIO()
        photo.resize((320, 214)).save(file, "JPEG", quality=50)
        return Image.open(file)

    one, other = (Image.fromarray(image) for image in load_sample_images().images)
    vectors = np.stack([thumbnail(photo) for photo in (one, other, encoded(one), encoded(other))])
    pairs = near(reader(vectors), unlike(4), ["train", "train", "test", "test"])
    assert sorted(pair[:2] for pair in pairs) == [(0, 2), (1, 3)]


def squares(photo: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(photo.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))


def test_looks_tell_a_picture_saved_again_from_another_and_from_a_part_of_it() -> None:
    one, other = (Image.fromarray(image) for image in load_sample_images().images)
    saved = io.BytesIO()
    one.resize((one.width // 2, one.height // 2)).save(saved, "JPEG", quality=60)
    part = one.crop((20, 20, one.width - 20, one.height - 20))
    looks = [duplicates.look(squares(photo)) for photo in (one, Image.open(saved), part, other)]
    again, cropped, different = (float(looks[0] @ look) for look in looks[1:])
    assert again >= duplicates.SAME_LOOK > cropped > different
    assert not duplicates.look(np.full((224, 224, 3), 7, np.uint8)).any()


def test_the_same_picture_needs_like_features_and_like_pixels() -> None:
    features = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    looks = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    near = duplicates.with_neighbours(features, 4)
    assert near.tolist() == [0, 1, 2]
    found = duplicates.connecting_pairs(features[near], 3, looks=looks[near])
    assert [pair[:2] for pair in found] == [(0, 1)]
    assert len(duplicates.connecting_pairs(features[near], 3)) == 2


def test_many_files_of_one_picture_make_a_pair_fewer_than_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 3)
    features = np.ones((8, 2), np.float32) / np.sqrt(np.float32(2))
    looks = np.tile(np.array([[1, 0]], np.float32), (8, 1))
    found = duplicates.connecting_pairs(features, 8, looks=looks)
    assert len(found) == 7
    assert {row for pair in found for row in pair[:2]} == set(range(8))
    # Rows that were compared before are not compared with each other.
    assert {pair[0] for pair in duplicates.connecting_pairs(features, 1, looks=looks)} == {0}
