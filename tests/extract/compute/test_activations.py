"""Cached activations: they equal those of Keras, and each is computed once unless it is damaged."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract import build
from extract.compute import activations, missing, pipeline, reading
from extract.compute.activations import make, variant_recipe, vary
from extract.engines import keras_engine, selection
from extract.engines.base import Engine
from extract.engines.selection import Check
from extract.store import features_file, maintenance, shards
from extract.store.features_file import Features
from extract.system.console import InputError, Stopped
from extract.vgg16.recipe import MAPS, SIZE, TAPS, recipe, recipe_digest
from extract.vgg16.weights import Weights
from finetune.train import batches
from finetune.train.batches import ActivationBatches
from tests import stand_in
from tests.conftest import write_photos
from tests.damage import flip, tap_offset, write_garbled, write_with_a_changed_tap

LAYER = "block4_pool"


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
    read = reading.read(Path(str(features.attributes["root"])), features.paths[row])
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


@pytest.mark.parametrize(("layer", "engine"), zip(MAPS, selection.PACKAGES, strict=True))
def test_activations_are_those_of_keras_for_the_variant(
    layer: str,
    engine: str,
    features: Features,
    vgg16: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = selection.PACKAGES[engine]
    monkeypatch.setattr(selection, "PACKAGES", {engine: package})
    rows = features.rows("val")
    for variant in (0, 1):
        found = make(features, ("val",), vgg16, layer=layer, variant=variant, out=tmp_path)
        assert found.seconds > 0
        assert f"engine: {package} " in capsys.readouterr().out
        varied = np.stack([vary(photo(features, row), variant) for row in rows])
        expected = keras_engine.build(vgg16, outputs=[layer]).forward(varied)[layer]
        for row, of_photo in zip(rows, expected, strict=True):
            values = found.read(features.digests[row])
            assert (values.shape, values.dtype) == (MAPS[layer], np.float16)
            difference = np.linalg.norm(values - of_photo) / np.linalg.norm(of_photo)
            assert difference < 1e-3


def test_an_engine_that_was_checked_with_the_features_is_not_checked_again(
    features: Features, vgg16: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(selection, "PACKAGES", {"ncnn": "ncnn"})
    monkeypatch.setattr(selection, "_run_reference", again)
    cache = shards.cache_of(tmp_path)
    with_pairs = cache / recipe_digest(recipe(vgg16.digest, with_pairs=True))
    with_pairs.mkdir(parents=True)
    checked = {selection._key("ncnn", LAYER): Check(1e-6, 9.0)._asdict()}
    (with_pairs / selection.RECORD).write_text(json.dumps(checked))
    found = make(features, ("val",), vgg16, layer=LAYER, variant=1, out=tmp_path)
    assert len(found.rows) == len(features.rows("val"))
    assert not (cache / recipe_digest(recipe(vgg16.digest))).exists()


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


@pytest.mark.parametrize("write", [write_garbled, write_with_a_changed_tap])
def test_activations_that_cannot_be_read_back_are_not_computed_for_ever(
    write: Callable[[Path, bytes], None],
    features: Features,
    vgg16: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards.locations, "write_bytes", write)
    with pytest.raises(InputError, match=r"images cannot be read back just after .* h5py"):
        make(features, ("train",), vgg16, layer=LAYER, variant=0, out=tmp_path)


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


def map_of(photos: np.ndarray, layer: str) -> np.ndarray:
    """Return a map that tells a photo from its mirror image; float16 cannot hold all of it."""
    left = photos[:, :, :112].mean(axis=(1, 2, 3), dtype=np.float64) * 1000
    shares = np.linspace(0, 1, int(np.prod(MAPS[layer]))).reshape(MAPS[layer])
    return (left[:, None, None, None] * shares).astype(np.float32)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a stand-in give taps and maps; return how many photos each batch had."""
    batches: list[int] = []

    def choose(*wanted: Any, outputs: Sequence[str] = tuple(TAPS), **how: Any) -> Engine:
        def forward(photos: np.ndarray) -> dict[str, np.ndarray]:
            batches.append(len(photos))
            maps = {layer: map_of(photos, layer) for layer in MAPS if layer in outputs}
            return (stand_in.values(photos) if "block5_avg" in outputs else {}) | maps

        return Engine("stand-in", forward)

    monkeypatch.setattr(selection, "choose", choose)
    monkeypatch.setitem(pipeline.compute.__kwdefaults__, "batch_size", 2)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    return batches


class Pass:
    """Features of 10 photos below `out`, with the activations of one layer or without."""

    def __init__(self, out: Path, weights: Path, vgg16: Weights, layer: str | None) -> None:
        self.root = write_photos(out / "pets", {"cats": 5, "dogs": 5})
        self.options = build.Options(out=out, weights=weights, activations=layer)
        self.out, self.vgg16 = out, vgg16

    def run(self) -> None:
        build.build(str(self.root), self.options)

    def activations(self, variant: int) -> dict[str, np.ndarray]:
        splits = ("train",) if variant else ("train", "val", "test")
        with features_file.open(self.out / "features/pets.h5") as opened:
            found = make(opened, splits, self.vgg16, layer=LAYER, variant=variant, out=self.out)
            return {digest: found.read(digest) for digest in found.rows}


def test_what_is_kept_from_the_pass_that_makes_the_features_equals_what_make_computes(
    outputs: list[int], vgg16: Weights, vgg16_weights: Path, tmp_path: Path
) -> None:
    found, computed = [], []
    for name, layer in (("kept", LAYER), ("not kept", None)):
        work = Pass(tmp_path / name, vgg16_weights, vgg16, layer)
        work.run()
        outputs.clear()
        plain = work.activations(0)
        computed.append(sum(outputs))
        found.append(plain | {f"mirrored {d}": v for d, v in work.activations(1).items()})
        computed.append(sum(outputs))
        kept = [shards.read(shard) for shard in shards_of(work.out, vgg16)]
        assert sorted(digest for shard in kept for digest in shard.digests) == sorted(plain)
        assert (sum(shard.seconds for shard in kept) == 0) == bool(layer)
    assert computed == [0, 6, 10, 16]
    assert found[0].keys() == found[1].keys()
    for key, values in found[0].items():
        assert values.max() == np.finfo(np.float16).max
        np.testing.assert_array_equal(values, found[1][key])


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_run_that_is_killed_between_two_shards_of_a_batch_is_completed(
    writes: int,
    outputs: list[int],
    vgg16: Weights,
    vgg16_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Pass(tmp_path, vgg16_weights, vgg16, LAYER)
    write, written = shards.write, []

    def write_some(*arguments: Any) -> Any:
        if len(written) == writes:
            raise Stopped(15)
        written.append(write(*arguments))
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", write_some)
        with pytest.raises(Stopped):
            work.run()
    of_taps = sum(path.parent == written[0].parent for path in written)
    outputs.clear()
    work.run()
    assert sum(outputs) == 10 - 2 * of_taps
    before = sum(outputs)
    assert len(work.activations(0)) == 10
    # At most a batch, and one photo before it that waited for a shard of activations.
    assert sum(outputs) - before <= 3


def test_activations_that_are_kept_already_are_not_written_again(
    outputs: list[int], vgg16: Weights, vgg16_weights: Path, tmp_path: Path
) -> None:
    work = Pass(tmp_path, vgg16_weights, vgg16, LAYER)
    work.run()
    before = shards_of(work.out, vgg16)
    with features_file.open(work.out / "features/pets.h5") as opened:
        taps = shards.files(shards.folder_of(work.out, opened.recipes[SIZE]))
    for path in (*taps, work.out / "features/pets.h5"):
        path.unlink()
    outputs.clear()
    work.run()
    assert sum(outputs) == 10
    assert shards_of(work.out, vgg16) == before


def test_a_cluster_keeps_no_activations_and_the_run_says_so(
    vgg16: Weights,
    vgg16_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = Pass(tmp_path, vgg16_weights, vgg16, LAYER)
    work.options = replace(work.options, on="ray")

    def compute(*arguments: Any, wanted: Any, on: str) -> None:
        assert wanted is None
        raise Stopped(15)

    monkeypatch.setattr(missing, "compute", compute)
    with pytest.raises(Stopped):
        work.run()
    assert "--activations is ignored with --on ray" in capsys.readouterr().out


class Constant:
    """Activations that say which variant they are of."""

    def __init__(self, value: float) -> None:
        self.value = np.full((1, 1, 1), value, np.float16)
        self.digests: list[str] = []

    def read(self, digest: str) -> np.ndarray:
        self.digests.append(digest)
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


def test_activations_are_read_once_as_far_as_memory_for_them_allows(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = len(features.rows("train"))
    for kept in (photos, 2):
        monkeypatch.setattr(batches, "ACTIVATION_CACHE_BYTES", kept * 2)
        constant = Constant(1)
        variants: Any = [constant]
        train = ActivationBatches(features, "train", variants, seed=0)
        for epoch in range(3):
            train.begin(epoch)
            for row in range(photos):
                assert train.input(row).tolist() == [[[1.0]]]
        assert len(set(constant.digests)) == photos
        assert len(constant.digests) == kept + 3 * (photos - kept)
        assert len(train.kept) == kept
