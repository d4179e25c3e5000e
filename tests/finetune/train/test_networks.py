"""Networks and batches: what is frozen, what is trained, what they are given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from extract import build
from extract.photos.decode import decode_photo
from extract.store import features_file
from extract.store.features_file import Features
from extract.system.console import InputError
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from finetune.train import batches, networks
from finetune.train.batches import ActivationBatches, Batches, Share, class_weights, one_hot
from tests.conftest import Arrays, write_photos


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Iterator[Features]:
    """Features, with random weights, of 11 photos in each of 3 classes: 21 to train."""
    folder = tmp_path_factory.mktemp("networks")
    root = write_photos(folder / "pets", {"cats": 11, "dogs": 11, "owls": 11})
    build.build(str(root), build.Options(out=folder, weights=vgg16_weights))
    with features_file.open(folder / "features/pets.h5") as opened:
        yield opened


@pytest.fixture(scope="module")
def finetuned(features: Features, vgg16_arrays: Arrays) -> keras.Model:
    top = networks.top(features.read((networks.TOP_TAP,), "train"), 3, logarithm=True)
    top.layers[-1].set_weights([w + 0.01 for w in top.layers[-1].get_weights()])
    return networks.vgg16_with(top, vgg16_arrays)


def whole(split: ActivationBatches | Batches) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = zip(*(split[number] for number in range(len(split))), strict=True)
    return np.concatenate(inputs), np.concatenate(labels)


def test_labels_are_one_hot() -> None:
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(one_hot(np.array([1, 0, 2, 1]), 3), expected)


def test_a_split_is_given_whole_in_path_order_with_its_last_partial_batch(
    features: Features,
) -> None:
    split = Batches(features, "train", size=16, batch_size=4)
    rows = features.rows("train")
    assert [len(split[number][0]) for number in range(len(split))] == [4, 4, 4, 4, 4, 1]
    photos, labels = whole(split)
    root = Path(str(features.attributes["root"]))
    for photo, row in zip(photos, rows, strict=True):
        expected = decode_photo((root / features.paths[row]).read_bytes(), size=16)
        np.testing.assert_array_equal(photo, expected)
    np.testing.assert_array_equal(labels.argmax(axis=1), features.labels[rows])


def test_each_epoch_has_a_new_order_of_the_same_photos_by_seed(features: Features) -> None:
    split, twin = (Batches(features, "train", size=16, seed=3) for _ in range(2))
    first, first_labels = whole(split)
    np.testing.assert_array_equal(first, whole(twin)[0])
    split.begin(1)
    second, second_labels = whole(split)
    assert not np.array_equal(first, second)

    def known(photos: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
        return {(p.tobytes(), int(y.argmax())) for p, y in zip(photos, labels, strict=True)}

    assert known(first, first_labels) == known(second, second_labels)
    assert len(known(first, first_labels)) == len(features.rows("train"))


def test_a_photo_that_changed_since_its_features_is_refused_by_name(features: Features) -> None:
    split = Batches(features, "test", size=16)
    path = split.root / split.paths[0]
    content = path.read_bytes()
    for other, reason in ((content + b"\0", "changed"), (b"", "empty file")):
        path.write_bytes(other)
        with pytest.raises(InputError, match=rf"{path.name}: .*{reason}.*; run make features"):
            split.input(0)
    path.write_bytes(content)
    assert split.input(0).shape == (16, 16, 3)
    path.unlink()
    # Once decoded it is remembered.
    assert split.input(0).shape == (16, 16, 3)
    with pytest.raises(InputError, match="cannot be read"):
        Batches(features, "test", size=16).input(0)
    path.write_bytes(content)


def test_memory_for_decoded_photos_is_bounded(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "KEPT_BYTES", 5 * 16 * 16 * 3)
    split = Batches(features, "train", size=16)
    unbounded = whole(split)[0]
    assert len(split.kept) == 5
    np.testing.assert_array_equal(whole(split)[0], unbounded)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_baseline_has_four_convolutions_dropout_and_softmax(batch_norm: bool) -> None:
    network = networks.baseline(5, batch_norm=batch_norm)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("BatchNormalization") == 4 * batch_norm
    assert kinds.count("Conv2D") == 4
    assert kinds.count("MaxPooling2D") == 4
    assert "Dropout" in kinds
    photos = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    probabilities = network.predict(photos, verbose=0)
    assert probabilities.shape == (3, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_class_weights_let_every_class_weigh_the_same() -> None:
    weights = class_weights(np.array([0, 2, 0, 0, 2, 0]))
    np.testing.assert_allclose(weights, [0.75, 1.5, 0.75, 0.75, 1.5, 0.75])


def test_each_row_brings_its_weight_where_classes_are_balanced(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(Batches(features, "train", size=16)[0]) == 2
    # The classes of these photos are balanced, so that all true weights are 1.
    monkeypatch.setattr(batches, "class_weights", lambda labels: labels + 1.0)
    split = Batches(features, "train", size=16, seed=0, balanced=True)
    for number in range(len(split)):
        _, labels, weights = split[number]
        np.testing.assert_array_equal(weights, labels.argmax(axis=1) + 1)


def test_the_shares_of_a_batch_are_all_of_it(features: Features) -> None:
    whole_split = Batches(features, "train", size=16, seed=1, batch_size=8)
    halves = [
        Batches(features, "train", size=16, seed=1, batch_size=8, share=Share(2, part))
        for part in range(2)
    ]
    for number in range(len(whole_split)):
        photos, labels = whole_split[number]
        parts = [half[number] for half in halves]
        real = [weights > 0 for _, _, weights in parts]
        assert sum(np.count_nonzero(each) for each in real) == len(photos)
        for index, kept in enumerate(real):
            np.testing.assert_array_equal(parts[index][0][kept], photos[index::2])
            np.testing.assert_array_equal(parts[index][1][kept], labels[index::2])


@pytest.mark.parametrize("logarithm", [True, False])
def test_the_top_gives_rows_one_norm_and_centres_them_by_the_training_photos(
    logarithm: bool,
) -> None:
    taps = np.random.default_rng(0).gamma(1.0, 1.0, (50, 8)).astype(np.float32)
    taps[:, 3] = 0
    top = networks.top(taps, 2, logarithm=logarithm)
    before = keras.Model(top.input, top.layers[-1].input)
    given = before.predict(taps, verbose=0)
    rows = np.log1p(taps) if logarithm else taps
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows -= rows.mean(axis=0)
    np.testing.assert_allclose(given, rows / np.sqrt(rows.var(axis=0).mean()), atol=1e-4)
    assert given.var(axis=0).mean() == pytest.approx(1, rel=1e-3)
    assert np.isfinite(before.predict(np.zeros((1, 8), np.float32), verbose=0)).all()


def test_at_first_only_the_top_is_trained(finetuned: keras.Model) -> None:
    dense = finetuned.get_layer("top").layers[-1]
    assert [id(w) for w in finetuned.trainable_weights] == [id(w) for w in dense.weights]


@pytest.mark.parametrize(("start", "layers"), [("block5", 3), ("block4", 6), ("all", 13)])
def test_unfreezing_frees_the_last_layers_and_no_other(
    finetuned: keras.Model, start: str, layers: int
) -> None:
    networks.unfreeze(finetuned, start)
    free = [name for name in CONVOLUTIONS if finetuned.get_layer(name).trainable]
    assert free == list(CONVOLUTIONS)[-layers:]
    assert not finetuned.get_layer("rgb_to_bgr_minus_means").trainable


def test_the_top_on_cached_features_is_the_network_on_photos(
    features: Features, finetuned: keras.Model
) -> None:
    photos, _ = whole(Batches(features, "test", size=224))
    from_photos = finetuned.predict(photos, verbose=0)
    taps = features.read((networks.TOP_TAP,), "test")
    from_taps = finetuned.get_layer("top").predict(taps, verbose=0)
    np.testing.assert_allclose(from_photos, from_taps, atol=1e-4)


def test_a_saved_network_is_whole_and_loads_in_safe_mode(
    features: Features, finetuned: keras.Model, tmp_path: Path
) -> None:
    finetuned.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    photos, _ = whole(Batches(features, "test", size=224))
    expected = finetuned.predict(photos, verbose=0)
    np.testing.assert_allclose(loaded.predict(photos, verbose=0), expected, atol=1e-6)
