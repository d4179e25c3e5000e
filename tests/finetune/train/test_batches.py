"""Batches: every row once, in an order that the seed decides, divided evenly among replicas."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from extract.photos.decode import decode_photo
from extract.store import features_file
from extract.store.features_file import Features
from extract.system.console import InputError
from finetune.train import batches
from finetune.train.batches import (
    ActivationBatches,
    Batching,
    BatchPart,
    PhotoBatches,
    balanced_sample_weights,
    one_hot,
)
from tests import stand_in


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Iterator[Features]:
    """Features, not by VGG16, of 11 photos in each of 3 classes: 21 to train."""
    folder = tmp_path_factory.mktemp("networks")
    path = stand_in.build_features(folder, {"cats": 11, "dogs": 11, "owls": 11}, vgg16_weights)
    with features_file.open(path) as opened:
        yield opened


def whole(split: ActivationBatches | PhotoBatches) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = zip(*(split[number] for number in range(len(split))), strict=True)
    return np.concatenate(inputs), np.concatenate(labels)


def test_labels_are_one_hot() -> None:
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(one_hot(np.array([1, 0, 2, 1]), 3), expected)


def test_a_split_is_given_whole_in_path_order_with_its_last_partial_batch(
    features: Features,
) -> None:
    split = PhotoBatches(features, "train", size=16, batching=Batching(batch_size=4))
    rows = features.rows("train")
    assert [len(split[number][0]) for number in range(len(split))] == [4, 4, 4, 4, 4, 1]
    photos, labels = whole(split)
    root = Path(str(features.attributes["root"]))
    for photo, row in zip(photos, rows, strict=True):
        expected = decode_photo((root / features.paths[row]).read_bytes(), size=16)
        np.testing.assert_array_equal(photo, expected)
    np.testing.assert_array_equal(labels.argmax(axis=1), features.labels[rows])


def test_each_epoch_has_a_new_order_of_the_same_photos_by_seed(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches.augmentation, "vary", lambda photo, variation: photo)
    split, twin = (PhotoBatches(features, "train", size=16, seed=3) for _ in range(2))
    first, first_labels = whole(split)
    np.testing.assert_array_equal(first, whole(twin)[0])
    split.begin(1)
    second, second_labels = whole(split)
    assert not np.array_equal(first, second)

    def known(photos: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
        return {(p.tobytes(), int(y.argmax())) for p, y in zip(photos, labels, strict=True)}

    assert known(first, first_labels) == known(second, second_labels)
    assert len(known(first, first_labels)) == len(features.rows("train"))


def test_batches_made_ahead_are_not_those_of_the_epoch_before(features: Features) -> None:
    four = Batching(batch_size=4)
    split, fresh = (
        PhotoBatches(features, "train", size=16, seed=3, batching=four) for _ in range(2)
    )
    fresh.begin(1)
    expected = whole(fresh)[0]
    for taken in range(len(split)):
        split.begin(0)
        for number in range(taken):
            split[number]
        split.begin(1)
        np.testing.assert_array_equal(whole(split)[0], expected)


def test_keras_is_given_the_batches_of_each_epoch_and_tunes_nothing(features: Features) -> None:
    eight = Batching(batch_size=8)
    split, twin = (
        PhotoBatches(features, "train", size=16, seed=3, batching=eight) for _ in range(2)
    )
    given = batches.for_keras(split)
    assert len(given) == 3
    for epoch in (1, 0):
        for one in (split, twin):
            one.begin(epoch)
        photos, labels = zip(*given.as_numpy_iterator(), strict=True)
        assert [len(part) for part in photos] == [8, 8, 5]
        for found, expected in zip((photos, labels), whole(twin), strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected)
    # With tuning, every second epoch or so would wait for a second.
    assert given.options().autotune.enabled is False


def test_augmentation_varies_photos_anew_in_each_epoch_by_seed_in_training_only(
    features: Features,
) -> None:
    eight = Batching(batch_size=8)
    split, twin = (
        PhotoBatches(features, "train", size=16, seed=3, batching=eight) for _ in range(2)
    )
    for photos in (split, twin):
        photos.begin(2)
    later = twin[1][0]
    np.testing.assert_array_equal(twin[0][0], split[0][0])
    np.testing.assert_array_equal(later, split[1][0])
    plain = PhotoBatches(features, "train", size=16)
    rows = range(len(plain.order))
    before = [split.input(row) for row in rows]
    assert not any(np.array_equal(before[row], plain.input(row)) for row in rows)
    split.begin(3)
    assert not any(np.array_equal(before[row], split.input(row)) for row in rows)


def test_a_photo_that_changed_since_its_features_is_refused_by_name(features: Features) -> None:
    split = PhotoBatches(features, "test", size=16)
    path = split.root / split.paths[0]
    content = path.read_bytes()
    for other, reason in ((content + b"\0", "changed"), (b"", "empty file")):
        path.write_bytes(other)
        with pytest.raises(InputError, match=rf"{path.name}: .*{reason}.*; run make features"):
            split.input(0)
    path.write_bytes(content)
    assert split.input(0).shape == (16, 16, 3)
    path.unlink()
    # A photo that was decoded once is kept.
    assert split.input(0).shape == (16, 16, 3)
    with pytest.raises(InputError, match="cannot be read"):
        PhotoBatches(features, "test", size=16).input(0)
    path.write_bytes(content)


def test_memory_for_decoded_photos_is_bounded(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PHOTO_CACHE_BYTES", 5 * 16 * 16 * 3)
    split = PhotoBatches(features, "train", size=16)
    unbounded = whole(split)[0]
    assert len(split.decoded) == 5
    np.testing.assert_array_equal(whole(split)[0], unbounded)


def test_balanced_sample_weights_give_every_class_the_same_total() -> None:
    weights = balanced_sample_weights(np.array([0, 2, 0, 0, 2, 0]))
    np.testing.assert_allclose(weights, [0.75, 1.5, 0.75, 0.75, 1.5, 0.75])


def test_each_row_has_its_sample_weight_where_classes_are_balanced(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(PhotoBatches(features, "train", size=16)[0]) == 2
    # The classes of these photos are balanced, so that all true weights are 1.
    monkeypatch.setattr(batches, "balanced_sample_weights", lambda labels: labels + 1.0)
    split = PhotoBatches(features, "train", size=16, seed=0, batching=Batching(balanced=True))
    for number in range(len(split)):
        _, labels, weights = split[number]
        np.testing.assert_array_equal(weights, labels.argmax(axis=1) + 1)


def test_the_parts_of_a_batch_are_all_of_it(features: Features) -> None:
    whole_split = PhotoBatches(features, "train", size=16, seed=1, batching=Batching(batch_size=8))
    halves = [
        PhotoBatches(
            *(features, "train"),
            size=16,
            seed=1,
            batching=Batching(batch_size=8, part=BatchPart(2, replica)),
        )
        for replica in range(2)
    ]
    for number in range(len(whole_split)):
        photos, labels = whole_split[number]
        parts = [half[number] for half in halves]
        real = [weights > 0 for _, _, weights in parts]
        assert sum(np.count_nonzero(each) for each in real) == len(photos)
        for index, kept in enumerate(real):
            np.testing.assert_array_equal(parts[index][0][kept], photos[index::2])
            np.testing.assert_array_equal(parts[index][1][kept], labels[index::2])


@pytest.mark.parametrize(("rows", "replicas"), [(16, 2), (17, 2), (1, 4), (6, 4)])
def test_parts_are_of_equal_size_and_their_mean_is_that_of_the_batch(
    rows: int, replicas: int
) -> None:
    random = np.random.default_rng(rows)
    losses, weights = random.random(100), random.random(100).astype(np.float32)
    order = random.permutation(100)[:rows]
    parts = [
        BatchPart(replicas, replica).select(order, weights[order]) for replica in range(replicas)
    ]
    assert len({len(selected) for selected, _ in parts}) == 1
    assert set(np.concatenate([selected for selected, _ in parts])) == set(order)
    means = [np.mean(losses[selected] * weight) for selected, weight in parts]
    assert np.mean(means) == pytest.approx(np.mean(losses[order] * weights[order]))
    # A process that feeds all replicas is given all parts.
    selected, weight = BatchPart(replicas).select(order, weights[order])
    assert len(selected) % replicas == 0
    assert np.mean(losses[selected] * weight) == pytest.approx(np.mean(means))


def test_no_thread_is_left_when_an_epoch_has_been_read(features: Features) -> None:
    split = PhotoBatches(features, "train", size=16, seed=3, batching=Batching(batch_size=4))
    before = threading.active_count()
    for epoch in range(3):
        split.begin(epoch)
        whole(split)
    assert threading.active_count() == before
