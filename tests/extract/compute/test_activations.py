"""Cached activations: they equal those of Keras, and each is computed once unless it is damaged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.compute import activations, pipeline
from extract.compute.activations import make, variant_recipe, vary
from extract.engines import keras_engine
from extract.engines.base import Engine
from extract.store import features_file, maintenance, shards
from extract.store.features_file import Features
from extract.system.console import InputError, Stopped
from extract.vgg16 import weights
from extract.vgg16.recipe import MAPS
from extract.vgg16.weights import Weights
from finetune.train.batches import ActivationBatches
from tests import stand_in
from tests.conftest import Arrays
from tests.damage import flip, tap_offset

LAYER = "block4_pool"


@pytest.fixture(scope="module")
def vgg16(vgg16_arrays: Arrays) -> Weights:
    return Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Iterator[Features]:
    """Features, not by VGG16, of 5 photos in each of 2 classes: 6 to train."""
    folder = tmp_path_factory.mktemp("activations")
    path = stand_in.build_features(folder, {"cats": 5, "dogs": 5}, vgg16_weights)
    with features_file.open(path) as opened:
        yield opened


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace VGG16 by a stand-in; return how many photos each batch had."""
    batches: list[int] = []

    def build(
        weights: Weights, layer: str, variant: int, folder: Path, photos: np.ndarray
    ) -> Engine:
        def forward(photos: np.ndarray) -> dict[str, np.ndarray]:
            batches.append(len(photos))
            means = np.stack([vary(photo, variant).mean() for photo in photos])
            return {layer: np.ones((len(photos), *MAPS[layer])) * means[:, None, None, None]}

        return Engine("stand-in", forward)

    monkeypatch.setattr(activations, "_engine", build)
    monkeypatch.setitem(pipeline.compute.__kwdefaults__, "batch_size", 2)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    return batches


def photo(features: Features, row: int) -> np.ndarray:
    read = pipeline.read(Path(str(features.attributes["root"])), features.paths[row])
    assert read.photo is not None
    return read.photo


def shards_of(out: Path, vgg16: Weights, variant: int = 0) -> list[Path]:
    return shards.files(shards.folder_of(out, variant_recipe(vgg16.digest, LAYER, variant)))


def test_variants_are_the_photo_its_mirror_and_crops_always_the_same() -> None:
    one = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    variants = [vary(one, number) for number in range(6)]
    np.testing.assert_array_equal(variants[0], one)
    np.testing.assert_array_equal(variants[1], one[:, ::-1])
    assert {(v.shape, v.dtype) for v in variants} == {(one.shape, one.dtype)}
    assert len({v.tobytes() for v in variants}) == 6
    for number, variant in enumerate(variants):
        np.testing.assert_array_equal(vary(one.copy(), number), variant)


@pytest.mark.parametrize("layer", list(MAPS))
def test_activations_are_those_of_keras_for_the_variant(
    layer: str, features: Features, vgg16: Weights, tmp_path: Path
) -> None:
    rows = features.rows("val")
    for variant in (0, 1):
        found = make(features, ("val",), vgg16, layer=layer, variant=variant, out=tmp_path)
        assert found.seconds > 0
        varied = np.stack([vary(photo(features, row), variant) for row in rows])
        expected = keras_engine.build(vgg16, outputs=[layer]).forward(varied)[layer]
        for row, of_photo in zip(rows, expected, strict=True):
            values = found.read(features.digests[row])
            assert (values.shape, values.dtype) == (MAPS[layer], np.float16)
            difference = np.linalg.norm(values - of_photo) / np.linalg.norm(of_photo)
            assert difference < 1e-3


def test_a_photo_is_computed_once_for_each_variant(
    features: Features, vgg16: Weights, tmp_path: Path, seen: list[int]
) -> None:
    def computed(splits: tuple[str, ...], variant: int) -> int:
        before = sum(seen)
        found = make(features, splits, vgg16, layer=LAYER, variant=variant, out=tmp_path)
        assert set(found.rows) == {features.digests[row] for row in features.rows(*splits)}
        return sum(seen) - before

    train, val = (len(features.rows(split)) for split in ("train", "val"))
    assert computed(("train",), 0) == train
    assert computed(("train", "val"), 0) == val
    assert computed(("train", "val"), 0) == 0
    assert computed(("train",), 1) == train


def test_a_run_that_is_stopped_goes_on_where_it_was(
    features: Features,
    vgg16: Weights,
    tmp_path: Path,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, train = shards.write, len(features.rows("train"))

    def write_two(*arguments: Any) -> Path:
        if len(shards_of(tmp_path, vgg16)) == 2:
            raise Stopped(15)
        return write(*arguments)

    monkeypatch.setattr(shards, "write", write_two)
    with pytest.raises(Stopped):
        make(features, ("train",), vgg16, layer=LAYER, variant=0, out=tmp_path)
    monkeypatch.setattr(shards, "write", write)
    folder = shards_of(tmp_path, vgg16)[0].parent
    (folder / ".half.h5.0123456789abcdef.tmp").write_bytes(b"half")
    seen.clear()
    found = make(features, ("train",), vgg16, layer=LAYER, variant=0, out=tmp_path)
    assert sum(seen) == train - 4
    assert not list(folder.glob(".*.tmp"))
    for row in features.rows("train"):
        value = found.read(features.digests[row])[0, 0, 0]
        assert value == pytest.approx(photo(features, row).mean(), rel=1e-3)


def test_a_damaged_shard_is_set_aside_and_computed_again(
    features: Features,
    vgg16: Weights,
    tmp_path: Path,
    seen: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(features, ("train",), vgg16, layer=LAYER, variant=0, out=tmp_path)
    damaged = shards_of(tmp_path, vgg16)[0]
    flip(damaged, tap_offset(damaged, LAYER))
    seen.clear()
    make(features, ("train",), vgg16, layer=LAYER, variant=0, out=tmp_path)
    assert sum(seen) == 2
    assert "set aside" in capsys.readouterr().err
    assert damaged.with_name(f"{damaged.name}.damaged").exists()


def test_verify_and_gc_handle_activations(
    features: Features,
    vgg16: Weights,
    tmp_path: Path,
    seen: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(features, ("train",), vgg16, layer=LAYER, variant=1, out=tmp_path)
    maintenance.verify(tmp_path)
    assert "3 shards with 6 images" in capsys.readouterr().out
    maintenance.collect(tmp_path)
    assert shards_of(tmp_path, vgg16, 1) == []


def test_a_photo_that_changed_or_cannot_be_read_is_refused_by_name(
    features: Features, vgg16: Weights, tmp_path: Path, seen: list[int]
) -> None:
    path = Path(str(features.attributes["root"])) / features.paths[features.rows("train")[0]]
    content = path.read_bytes()
    for other, reason in ((content + b"\0", "changed"), (b"", "empty file")):
        path.write_bytes(other)
        with pytest.raises(InputError, match=rf"{path.name}: .*{reason}.*; run make features"):
            make(features, ("train",), vgg16, layer=LAYER, variant=1, out=tmp_path)
    path.write_bytes(content)


class Constant:
    """Activations that say which variant they are of."""

    def __init__(self, value: float) -> None:
        self.value = np.full((1, 1, 1), value, np.float16)

    def read(self, digest: str) -> np.ndarray:
        return self.value


def test_training_draws_new_variants_each_epoch_and_val_never(features: Features) -> None:
    variants: Any = [Constant(0), Constant(1), Constant(2)]
    train = ActivationBatches(features, "train", variants, seed=0)
    drawn = []
    for epoch in range(20):
        train.begin(epoch)
        inputs, labels = train[0]
        by_row = np.empty(len(inputs))
        by_row[train.order] = inputs.ravel()
        drawn.append(tuple(by_row))
        expected = features.labels[features.rows("train")][train.order]
        np.testing.assert_array_equal(labels.argmax(axis=1), expected)
    assert {value for epoch in drawn for value in epoch} == {0, 1, 2}
    assert len(set(drawn)) > 10
    train.begin(3)
    assert tuple(train[0][0].ravel()[np.argsort(train.order)]) == drawn[3]
    val = ActivationBatches(features, "val", variants)
    for epoch in range(3):
        val.begin(epoch)
        assert not val[0][0].any()
