import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract.store import features_file, maintenance, shards
from extract.system.console import InputError
from extract.vgg16.recipe import ALL_TAPS, TAPS, recipe_digest
from tests import stand_in
from tests.conftest import MakePhotos, picture, write_photos
from tests.damage import (
    Damage,
    as_empty,
    as_folder,
    as_foreign,
    as_text,
    as_truncated,
    flip,
    tap_offset,
)
from tests.test_crashes import contents, kill_at

OTHER_RECIPE = "from extract.vgg16 import recipe; recipe.PIXELS = 'otherwise'"


def shards_in(out: Path) -> list[Path]:
    folders = (path for path in (out / "features" / "cache").glob("*") if path.is_dir())
    return sorted(shard for folder in folders for shard in shards.files(folder))


def images_in(out: Path) -> list[tuple[str, str]]:
    """Return recipe and digest of every image in every shard, checking them all."""
    return sorted(
        (path.parent.name, digest)
        for path in shards_in(out)
        for digest in shards.read(path).digests
    )


def needed(out: Path) -> set[tuple[str, str]]:
    """Return recipe and digest of every image that a features file names."""
    found = set()
    for path in (out / "features").glob("*.h5"):
        with features_file.open(path) as features:
            for recipe in features.recipes.values():
                found |= {(recipe_digest(recipe), digest) for digest in features.digests}
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def pets(photos: MakePhotos, out: Path) -> Path:
    """Photos of which the store has small shards."""
    root = photos({"cats": 7, "dogs": 7})
    (root / "Käse\udce9 ♞\n.txt").write_text("stray")
    done, _ = stand_in.run(root, out, shard_images=4, batch_size=4)
    assert done.code == 0, done.err
    return root


# info


def test_info_says_everything_in_the_file(
    photos: MakePhotos, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = photos({"cats": 7, "dogs": 5})
    (root / "cats" / "broken.jpg").write_text("not a photo")
    (root / "stray\n.txt").write_text("stray")
    shutil.copy(root / "cats" / "000.png", root / "cats" / "copy.png")
    for i in range(7):
        picture(i).save(root / "cats" / f"alike {i}.bmp")
    done, _ = stand_in.run(root, out, "--keep-twins")
    assert done.code == 0, done.err
    path = out / "features" / "pets.h5"
    capfd.readouterr()
    maintenance.info(path)
    said, err = capfd.readouterr()
    assert err == ""
    lines = said.splitlines()
    with features_file.open(path) as features:
        about = features.attributes
        per_class = {
            name: [
                int(((features.labels == label) & (features.splits == split)).sum())
                for split in ("train", "val", "test")
            ]
            for label, name in enumerate(("cats", "dogs"))
        }
        near = [
            f"  {features.paths[one]} and {features.paths[other]}: cosine {cosine:.3f}"
            for one, other, cosine in features.near
        ]
        seconds = features.seconds
    assert near
    totals = [a + b for a, b in zip(*per_class.values(), strict=True)]
    shares = "train {}, val {}, test {}"
    versions, recipe = json.loads(about["versions"]), json.loads(about["recipe"])
    assert lines == [
        f"pets: 20 photos at {root}",
        f"class cats: {shares.format(*per_class['cats'])}",
        f"class dogs: {shares.format(*per_class['dogs'])}",
        f"split: {shares.format(*totals)}; {about['split_rule']}; seed 0",
        "taps: " + ", ".join(f"{tap} {width:,}" for tap, width in ALL_TAPS.items()),
        f"recipe: {about['recipe_digest']}",
        *(f"  {key}: {value}" for key, value in recipe.items() if key != "taps"),
        "weights: stand-in",
        f"data digest: {about['data_digest']}",
        f"made: {about['created']}",
        "versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"images: 19 computed, 0 reused; {seconds:.0f} s in all",
        "copies: 1",
        f"near-duplicates in different splits: {len(near)} pairs to look at",
        *near,
        "skipped: 2",
        "  cats/broken.jpg: not an image file that Pillow can read",
        "  stray\\n.txt: not in a class folder",
    ]


def test_info_tells_the_taps_and_the_recipe_of_every_size(
    pets: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in.run(pets, out, "--sizes", 224, 96)
    capfd.readouterr()
    maintenance.info(out / "features" / "pets.h5")
    lines = capfd.readouterr().out.splitlines()
    (taps,) = (line for line in lines if line.startswith("taps: "))
    assert "block4_pairs 4,096, block5_avg_96 512, block5_avg3x3_96 4,608" in taps
    folders = {path.parent.name for path in shards_in(out)}
    assert {line.removeprefix("recipe: ") for line in lines if line.startswith("recipe")} == folders
    assert [line for line in lines if line.startswith("  size: ")] == ["  size: 224", "  size: 96"]


def test_info_of_any_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("mine")
    for name, words in (("x.h5", "damaged or not HDF5"), ("y.h5", "no such file")):
        with pytest.raises(InputError, match=words):
            maintenance.info(tmp_path / name)


# verify


def test_verify_of_a_whole_store(pets: Path, out: Path) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*.h5")}
    done = stand_in.upkeep("verify", out)
    assert (done.code, done.err) == (0, "")
    assert done.out == "checked: 4 shards with 14 images, 1 features file\n"
    assert {path: path.read_bytes() for path in out.rglob("*.h5")} == before


def tap_of_a_shard(path: Path) -> None:
    flip(path, tap_offset(path, "block4_max"))


@pytest.mark.parametrize(
    "damage", [tap_of_a_shard, as_text, as_empty, as_truncated, as_foreign, as_folder]
)
def test_verify_sets_a_damaged_shard_aside(damage: Damage, pets: Path, out: Path) -> None:
    whole = contents(out / "features" / "pets.h5")
    bad, *good = shards_in(out)
    damage(bad)
    done = stand_in.upkeep("verify", out)
    assert done.code == 2
    lines = done.out.splitlines()
    assert lines[0].startswith("checked: 4 shards with 1")
    assert len(lines) == 2
    assert lines[1].startswith(f"damaged: {bad}: ")
    assert done.err.splitlines()[-1] == "error: 1 damaged file; run make features to mend them"
    assert shards_in(out) == good
    assert bad.with_name(f"{bad.name}.damaged").exists()
    assert stand_in.upkeep("verify", out).code == 0
    # Nothing is computed before it is needed.
    done, given = stand_in.run(pets, out)
    assert done.code == 0, done.err
    assert given in (2, 4)
    assert contents(out / "features" / "pets.h5") == whole


def changed_label(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["label"][0] = 1 - file["label"][0]


def label_of_no_class(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["label"][0] = 77


def changed_skipped(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["skipped/reason"][0] = "another reason"


def without_attributes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["skipped_digest"]


def changed_path(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["path"][0] = "cats/other.png"


def tap_of_the_file(path: Path) -> None:
    flip(path, tap_offset(path, "block3_max"))


def other_schema(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = features_file.SCHEMA + 1


@pytest.mark.parametrize(
    "damage",
    [
        tap_of_the_file,
        changed_label,
        label_of_no_class,
        changed_path,
        changed_skipped,
        without_attributes,
        as_text,
        as_truncated,
    ],
)
def test_verify_sets_a_damaged_features_file_aside_and_make_features_mends_it(
    damage: Damage, pets: Path, out: Path
) -> None:
    path = out / "features" / "pets.h5"
    shutil.copy(path, out / "features" / "whole.h5")
    whole = contents(path)
    damage(path)
    content = path.read_bytes()
    done = stand_in.upkeep("verify", out)
    assert done.code == 2
    checked, *damaged = done.out.splitlines()
    assert checked == "checked: 4 shards with 14 images, 2 features files"
    assert len(damaged) == 1
    assert damaged[0].startswith(f"damaged: {path}: ")
    assert (out / "features" / "pets.h5.damaged").read_bytes() == content
    # What it needs is unknown until it is written anew.
    refused = stand_in.upkeep("gc", out)
    assert (refused.code, len(images_in(out))) == (2, 14)
    assert "pets.h5.damaged: set aside as damaged" in refused.err
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err
    assert contents(path) == whole
    assert stand_in.upkeep("gc", out).code == 0


def test_verify_leaves_files_of_another_kind_where_they_are(pets: Path, out: Path) -> None:
    path = out / "features" / "pets.h5"
    other_schema(path)
    with h5py.File(out / "features" / "foreign.h5", "w") as file:
        file["data"] = [1, 2, 3]
    before = sorted(os.listdir(out / "features"))
    done = stand_in.upkeep("verify", out)
    assert done.code == 2
    why = "not a features file (its schema is 2, and this version reads 1); move it away"
    assert f"not checked: {path}: {why}" in done.out
    assert "not checked: " + str(out / "features" / "foreign.h5") in done.out
    assert done.err.splitlines()[-1] == "error: 2 files could not be checked, see above"
    assert sorted(os.listdir(out / "features")) == before


def test_verify_reads_the_taps_of_every_size(pets: Path, out: Path) -> None:
    stand_in.run(pets, out, "--sizes", 224, 96)
    assert stand_in.upkeep("verify", out).code == 0
    path = out / "features" / "pets.h5"
    flip(path, tap_offset(path, "block3_max_96"))
    done = stand_in.upkeep("verify", out)
    assert done.code == 2
    assert f"damaged: {path}: " in done.out


@pytest.mark.parametrize("command", [maintenance.verify, maintenance.collect])
def test_verify_and_gc_of_a_folder_without_a_store_are_refused(
    command: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such folder"):
        command(tmp_path)
    assert os.listdir(tmp_path) == []


# gc


def test_gc_of_shards_that_are_all_needed_joins_small_ones(pets: Path, out: Path) -> None:
    before, path = images_in(out), out / "features" / "pets.h5"
    taps = {d: t.tobytes() for d, t in taps_in(out).items()}
    whole = path.read_bytes()
    done = stand_in.upkeep("gc", out)
    assert (done.code, done.err) == (0, "")
    assert "14 images kept in 1 shard, 4 before" in done.out
    assert images_in(out) == before
    assert {d: t.tobytes() for d, t in taps_in(out).items()} == taps
    assert path.read_bytes() == whole
    again = shards_in(out)[0].stat().st_mtime_ns
    assert "14 images kept in 1 shard, 1 before; 0.0 MB freed" in stand_in.upkeep("gc", out).out
    assert shards_in(out)[0].stat().st_mtime_ns == again
    path.unlink()
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err


def taps_in(out: Path) -> dict[str, np.ndarray]:
    """Return all taps of every image in the store, side by side."""
    found = {}
    for path in shards_in(out):
        shard = shards.read(path)
        side_by_side = np.hstack([shard.taps[tap] for tap in TAPS])
        found |= dict(zip(shard.digests, side_by_side, strict=True))
    return found


def test_gc_removes_what_no_features_file_names(pets: Path, out: Path) -> None:
    for path in (pets / "dogs").iterdir():
        if path.name > "003.png":
            path.unlink()
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err
    taps = taps_in(out)
    assert len(taps) == 14
    done = stand_in.upkeep("gc", out)
    assert "11 images kept in 1 shard, 4 before" in done.out
    assert set(images_in(out)) == needed(out)
    left = taps_in(out)
    assert len(left) == len(images_in(out)) == 11
    for digest, values in left.items():
        np.testing.assert_array_equal(values, taps[digest])
    (out / "features" / "pets.h5").unlink()
    assert "0 images kept in 0 shards, 1 before" in stand_in.upkeep("gc", out).out
    assert shards_in(out) == []


def test_gc_on_a_full_disk_removes_what_nobody_needs_before_it_joins(
    pets: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shards_in(out)[0]
    unneeded = shard.parent.with_name("f" * 64) / shard.name
    unneeded.parent.mkdir()
    shutil.copy(shard, unneeded)
    before = shards_in(out)
    before.remove(unneeded)

    def join(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "join", join)
    with pytest.raises(OSError, match="No space left"):
        maintenance.collect(out)
    assert shards_in(out) == before


def test_gc_keeps_what_the_files_of_other_recipes_and_data_sets_need(
    pets: Path, out: Path, tmp_path: Path
) -> None:
    birds = write_photos(tmp_path / "birds", {"owls": 4, "tits": 4}, seed=3)
    stand_in.run(birds, out)
    done, given = stand_in.run(pets, out, before=OTHER_RECIPE, shard_images=4, batch_size=4)
    assert (done.code, given) == (0, 14), done.err
    # pets.h5 is of the other recipe now: what the first one made of these photos is not needed.
    assert len(images_in(out)) == 14 + 8 + 14
    done = stand_in.upkeep("gc", out)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2
    assert set(images_in(out)) == needed(out)
    assert len(images_in(out)) == 8 + 14
    for root, before in ((birds, ""), (pets, OTHER_RECIPE)):
        done, given = stand_in.run(root, out, before=before)
        assert (done.code, given) == (0, 0), done.err
        assert "nothing to do" in done.out


def test_gc_keeps_every_size_that_a_features_file_has(pets: Path, out: Path) -> None:
    done, given = stand_in.run(pets, out, "--sizes", 224, 96, 160)
    assert (done.code, given) == (0, 2 * 14), done.err
    done, given = stand_in.run(pets, out, "--sizes", 224, 96)
    assert (done.code, given) == (0, 0), done.err
    assert len(images_in(out)) == 3 * 14
    done = stand_in.upkeep("gc", out)
    assert done.code == 0, done.err
    assert set(images_in(out)) == needed(out)
    assert len(images_in(out)) == 2 * 14
    assert stand_in.upkeep("verify", out).code == 0
    (out / "features" / "pets.h5").unlink()
    done, given = stand_in.run(pets, out, "--sizes", 224, 96)
    assert (done.code, given) == (0, 0), done.err


@pytest.mark.parametrize("damage", [as_text, as_truncated, as_folder, other_schema])
def test_gc_removes_nothing_while_a_features_file_cannot_be_read(
    damage: Damage, pets: Path, out: Path
) -> None:
    unknown = out / "features" / "unknown.h5"
    shutil.copy(out / "features" / "pets.h5", unknown)
    (out / "features" / "pets.h5").unlink()
    damage(unknown)
    before = {path: path.read_bytes() for path in shards_in(out)}
    done = stand_in.upkeep("gc", out)
    assert done.code == 2
    assert str(unknown) in done.err
    assert {path: path.read_bytes() for path in shards_in(out)} == before


def test_gc_sets_a_damaged_shard_aside_and_keeps_the_rest(pets: Path, out: Path) -> None:
    bad = max(shards_in(out), key=lambda path: path.stat().st_size)
    tap_of_a_shard(bad)
    done = stand_in.upkeep("gc", out)
    assert done.code == 0
    assert str(bad) in done.err
    assert bad.with_name(f"{bad.name}.damaged").exists()
    assert "10 images kept in 1 shard" in done.out
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 4), done.err


def test_gc_killed_at_every_touch_of_a_file_loses_nothing(
    pets: Path, out: Path, tmp_path: Path
) -> None:
    """It also holds if the next run is killed: the joined shard may already exist."""
    (pets / "dogs" / "000.png").unlink()
    stand_in.run(pets, out)
    must = needed(out)
    whole = contents(out / "features" / "pets.h5")
    copy = tmp_path / "copy"
    code = -signal.SIGKILL
    for nth in range(1, 100):
        shutil.copytree(out, copy)
        done = stand_in.upkeep("gc", copy, before=kill_at(nth, copy))
        assert done.code in (0, -signal.SIGKILL), done.err
        code = done.code
        assert must <= set(images_in(copy))
        done = stand_in.upkeep("gc", copy)
        assert done.code == 0, done.err
        assert sorted(must) == images_in(copy)
        assert len(shards_in(copy)) == 1
        assert not list(copy.rglob("*.tmp"))
        assert contents(copy / "features" / "pets.h5") == whole
        shutil.rmtree(copy)
        if code == 0:
            break
    assert code == 0
    assert nth > 8


@pytest.mark.parametrize("order", range(6))
def test_gc_keeps_a_joined_shard_that_a_killed_one_left(
    order: int, photos: MakePhotos, tmp_path: Path
) -> None:
    """Whatever the names, that is the order, of the old shards and the new one are."""
    out = tmp_path / "out"
    root = photos({"cats": 3, "dogs": 3}, seed=order)
    stand_in.run(root, out, shard_images=2, batch_size=2)
    before = images_in(out)
    old = {path: path.read_bytes() for path in shards_in(out)}
    stand_in.upkeep("gc", out)
    (joined,) = shards_in(out)
    assert joined not in old
    for path, content in old.items():
        path.write_bytes(content)
    assert stand_in.upkeep("gc", out).code == 0
    assert images_in(out) == before


def test_large_shards_are_left_as_they_are(
    pets: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SMALL", 3)
    before = {path: path.read_bytes() for path in shards_in(out)}
    assert sorted(len(shards.read(path).digests) for path in before) == [2, 4, 4, 4]
    maintenance.collect(out)
    assert {path: path.read_bytes() for path in shards_in(out)} == before


def test_joined_shards_are_not_larger_than_they_need_be(
    pets: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 6)
    before = images_in(out)
    maintenance.collect(out)
    assert images_in(out) == before
    sizes = sorted(len(shards.read(path).digests) for path in shards_in(out))
    assert sum(sizes) == 14
    assert len(sizes) == 2


def test_image_in_two_shards_is_kept_once(pets: Path, out: Path) -> None:
    one, *_ = shards_in(out)
    shard = shards.read(one)
    recipe = shards._recipe_of(one)
    reverse = shards.Shard(
        shard.digests[::-1],
        {tap: values[::-1] for tap, values in shard.taps.items()},
        shard.engine,
        shard.seconds,
    )
    shards.write(one.parent, reverse, recipe)
    assert len(images_in(out)) > 14
    assert stand_in.upkeep("gc", out).code == 0
    assert len(images_in(out)) == len(set(images_in(out))) == 14


def test_engines_do_not_mix(pets: Path, out: Path) -> None:
    one, *_ = shards_in(out)
    shard, recipe = shards.read(one), shards._recipe_of(one)
    one.unlink()
    shards.write(one.parent, shard._replace(engine="another"), recipe)
    before = images_in(out)
    assert stand_in.upkeep("gc", out).code == 0
    assert images_in(out) == before
    found = {shards.read(path).engine: shards.read(path) for path in shards_in(out)}
    assert set(found) == {"stand-in", "another"}
    assert found["another"].digests == shard.digests
    assert found["another"].seconds == shard.seconds
