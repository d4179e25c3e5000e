"""The features file after photos, clocks, recipes and labels have changed."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract import build
from extract.engines import selection
from extract.engines.base import Engine
from extract.photos import decode
from extract.store import features_file, shards
from extract.system.console import InputError
from extract.vgg16.recipe import ALL_TAPS, PAIRS, TAPS, named
from tests import stand_in
from tests.conftest import HOSTILE, MakePhotos, picture, write_photos
from tests.damage import write_garbled, write_with_a_changed_tap
from tests.test_crashes import contents

OTHER_RECIPE = "from extract.vgg16 import recipe; recipe.PIXELS = 'otherwise'"
OTHER_WEIGHTS = """
from extract import build
from extract.vgg16.weights import Weights
build.weights.load = lambda *a, **k: Weights([], "e" * 64, "other weights")
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def path(out: Path) -> Path:
    return out / "features" / "pets.h5"


@pytest.fixture
def pets(photos: MakePhotos, out: Path) -> Path:
    """Photos whose features exist."""
    root = photos()
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12), done.err
    return root


def right(path: Path, root: Path) -> bool:
    """Return whether every row has the taps of the photo that is there."""
    with features_file.open(path) as features:
        decoded = np.stack(
            [decode.decode_photo((root / name).read_bytes(), size=224) for name in features.paths]
        )
        found = features.read(list(TAPS), *features_file.SPLITS)
    expected = stand_in.values(decoded)
    return np.array_equal(found, np.hstack([expected[tap] for tap in TAPS]))


@pytest.mark.parametrize("write", [write_garbled, write_with_a_changed_tap])
def test_features_that_cannot_be_read_back_are_not_computed_for_ever(
    write: Callable[[Path, bytes], None],
    photos: MakePhotos,
    out: Path,
    vgg16_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards.locations, "write_bytes", write)
    monkeypatch.setattr(
        selection, "choose", lambda *wanted, **how: Engine("stand-in", stand_in.values)
    )
    with pytest.raises(InputError, match=r"12 images cannot be read back just after .* h5py"):
        build.build(str(photos()), build.Options(out=out, weights=vgg16_weights))


# Identity


def test_taps_are_those_of_the_photos(pets: Path, path: Path) -> None:
    assert right(path, pets)


def copied(root: Path) -> Path:
    shutil.copy(root / "cats" / "000.png", root / "cats" / "copy.png")
    return root


def touched(root: Path) -> Path:
    for photo in root.rglob("*.png"):
        os.utime(photo)
    return root


def moved(root: Path) -> Path:
    return root.rename(root.with_name("elsewhere"))


def split_by_hand(root: Path) -> Path:
    for photo in sorted(root.rglob("*.png")):
        split = "test" if photo.stem in ("000", "001") else "train"
        folder = root / split / photo.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        photo.rename(folder / photo.name)
    for name in ("cats", "dogs"):
        (root / name).rmdir()
    return root


def in_a_second_data_set(root: Path) -> Path:
    second = root.with_name("second")
    shutil.copytree(root / "cats", second / "young")
    shutil.copytree(root / "dogs", second / "old")
    return second


@pytest.mark.parametrize("change", [copied, touched, moved, split_by_hand, in_a_second_data_set])
def test_known_photos_are_not_computed(
    change: Callable[[Path], Path], pets: Path, out: Path
) -> None:
    root = change(pets)
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 0), done.err
    assert right(out / "features" / f"{root.name}.h5", root)


def test_known_photos_are_not_computed_without_the_index(pets: Path, out: Path) -> None:
    (out / "features" / "cache" / "digests.sqlite").unlink()
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in done.out


@pytest.mark.parametrize("change", [OTHER_RECIPE, OTHER_WEIGHTS])
def test_another_recipe_computes_all_beside_the_old(
    change: str, pets: Path, out: Path, path: Path
) -> None:
    before = contents(path)
    old = {shard: shard.read_bytes() for shard in (out / "features/cache").rglob("*.h5")}
    done, given = stand_in.run(pets, out, before=change)
    assert (done.code, given) == (0, 12), done.err
    assert contents(path)["@recipe_digest"] != before["@recipe_digest"]
    folders = [folder for folder in (out / "features/cache").iterdir() if folder.is_dir()]
    assert len(folders) == 2
    assert {shard: shard.read_bytes() for shard in old} == old
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err
    assert contents(path) == before


# Folders with the same name


def same_names_other_photos(root: Path) -> Path:
    return write_photos(root.parent / "other/pets", {"cats": 6, "dogs": 6}, seed=7)


def same_photos_other_classes(root: Path) -> Path:
    other = root.parent / "other/pets"
    shutil.copytree(root / "cats", other / "dogs")
    shutil.copytree(root / "dogs", other / "cats")
    return other


def a_photo_more(root: Path) -> Path:
    other = shutil.copytree(root, root.parent / "other/pets")
    picture(9).save(other / "cats/more.png")
    return other


@pytest.mark.parametrize(
    "other", [same_names_other_photos, same_photos_other_classes, a_photo_more]
)
def test_another_folder_of_the_same_name_is_refused_and_replaces_nothing(
    other: Callable[[Path], Path], pets: Path, out: Path, path: Path
) -> None:
    root, before = other(pets), path.read_bytes()
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (2, 0)
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {path} belongs to {pets}, and DATA is {root}, which has ")
    assert "rename one of the two, or choose another OUT (--out)" in done.err
    assert path.read_bytes() == before


def test_a_copy_of_the_folder_takes_its_place_without_computing(
    pets: Path, out: Path, path: Path
) -> None:
    (pets / "cats/damaged.png").write_bytes(b"no image")
    stand_in.run(pets, out)
    before = contents(path)
    root = shutil.copytree(pets, pets.parent / "elsewhere/pets")
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 0), done.err
    assert f"{path}: its photos have moved from {pets} to {root}" in done.out.splitlines()
    after = contents(path)
    assert (before.pop("@root"), after.pop("@root")) == (str(pets), str(root))
    different = {name for name in before if before[name] != after[name]}
    assert different <= {"@created", "@images_computed", "@images_reused"}


@pytest.mark.parametrize("place", ["pets/out", "pets/cats/out", "pets/.out"])
def test_results_inside_the_photos_are_refused_where_they_would_become_a_class(
    place: str, photos: MakePhotos
) -> None:
    root = photos()
    out = root.parent / place
    done, given = stand_in.run(root, out, log_folder=root.parent / "log")
    if place == "pets/.out":
        assert (done.code, given) == (0, 12), done.err
    else:
        assert (done.code, given, done.out) == (2, 0, "")
        assert done.err.startswith(f"error: {out}: inside DATA ({root}) it would be taken for ")
        assert not out.exists()


def test_photos_of_a_folder_whose_name_begins_with_a_dot_stay_in_the_cache(
    photos: MakePhotos, out: Path
) -> None:
    root = photos(name=".pets")
    stand_in.run(root, out)
    assert stand_in.upkeep("gc", out).code == 0
    (out / "features/.pets.h5").unlink()
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 0), done.err


# Sizes


def right_at(size: int, path: Path, root: Path) -> bool:
    """Return whether every row has the taps of the photo that is there, shown at a size."""
    with features_file.open(path) as features:
        contents = [(root / name).read_bytes() for name in features.paths]
        decoded = np.stack([decode.decode_photo(content, size=size) for content in contents])
        names = [named(tap, size) for tap in TAPS]
        found = features.read(names, *features_file.SPLITS)
    expected = stand_in.values(decoded)
    return np.array_equal(found, np.hstack([expected[tap] for tap in TAPS]))


def test_a_further_size_is_computed_beside_the_first_and_never_again(
    pets: Path, out: Path, path: Path
) -> None:
    plain = contents(path)
    done, given = stand_in.run(pets, out, "--sizes", 224, 160, 96)
    assert (done.code, given) == (0, 24), done.err
    said = [line for line in done.out.splitlines() if line.startswith("VGG16")]
    assert [line.split(" computed")[0] for line in said] == [
        "VGG16 at 96 x 96: 12 images",
        "VGG16 at 160 x 160: 12 images",
    ]
    several = contents(path)
    assert all(right_at(size, path, pets) for size in (224, 160, 96))
    sizes_of = {name for name in several if name.endswith(("_96", "_160"))}
    assert {name for name in sizes_of if name.startswith("@")} == {
        *("@recipe_96", "@recipe_160", "@seconds_96", "@seconds_160")
    }
    different = {name for name in plain if several[name] != plain[name]}
    assert different <= {"@recipe_digest", "@created", "@images_computed", "@images_reused"}
    assert set(several) - set(plain) == sizes_of
    done, given = stand_in.run(pets, out, "--sizes", 96, 160, 224, 96)
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in done.out
    for sizes, expected in (((224,), plain), ((224, 96, 160), several)):
        done, given = stand_in.run(pets, out, "--sizes", *sizes)
        assert (done.code, given) == (0, 0), done.err
        assert done.out.splitlines()[-1] == f"{path}: written"
        assert contents(path).keys() == expected.keys()
        assert contents(path)["@recipe_digest"] == expected["@recipe_digest"]


def test_pairs_of_channels_are_computed_and_kept(photos: MakePhotos, out: Path, path: Path) -> None:
    root = photos()
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12), done.err
    assert right(path, root)
    with features_file.open(path) as features:
        assert features.taps == ALL_TAPS
        assert features.file["taps/block4_pairs"].dtype == np.float16
        decoded = [
            decode.decode_photo((root / name).read_bytes(), size=224) for name in features.paths
        ]
        found = features.read(list(PAIRS), *features_file.SPLITS)
    expected = stand_in.pairs(np.stack(decoded))
    assert expected["block4_pairs"].min() < 0
    np.testing.assert_allclose(found, np.hstack([expected[tap] for tap in PAIRS]), rtol=1e-3)
    # The other taps lie in the same shards.
    done, given = stand_in.run(root, out, "--pairs", "no")
    assert (done.code, given) == (0, 0), done.err
    assert right(path, root)
    with features_file.open(path) as features:
        assert features.taps == TAPS
    assert stand_in.upkeep("gc", out).code == 0
    assert stand_in.run(root, out)[1] == 0
    with features_file.open(path) as features:
        assert features.taps == ALL_TAPS


def test_nothing_is_computed_again_for_pairs_unless_they_are_asked_for(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    pets = photos()
    stand_in.run(pets, out, "--pairs", "no")
    write_photos(pets, {"birds": 3}, seed=7)
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 3), done.err
    assert "left out, because 12 images had been computed without them" in done.out
    with features_file.open(path) as features:
        assert features.taps == TAPS
    done, given = stand_in.run(pets, out, "--pairs", "yes")
    assert (done.code, given) == (0, 15), done.err
    with features_file.open(path) as features:
        assert features.taps == ALL_TAPS


def test_new_photos_are_computed_at_every_size(pets: Path, out: Path, path: Path) -> None:
    stand_in.run(pets, out, "--sizes", 224, 96)
    write_photos(pets, {"owls": 4}, seed=5)
    done, given = stand_in.run(pets, out, "--sizes", 224, 96)
    assert (done.code, given) == (0, 8), done.err
    assert right_at(224, path, pets)
    assert right_at(96, path, pets)


CHANGED_BETWEEN = """
from pathlib import Path
from extract.compute import pipeline
compute, changed = pipeline.compute, Path({photo!r})

def compute_and_change(*given, **options):
    done = compute(*given, **options)
    changed.write_bytes(changed.with_name('001.png').read_bytes()[:-8] + b'and more')
    return done

pipeline.compute = compute_and_change
"""


def test_photo_that_changes_between_two_sizes_is_the_same_at_both(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos()
    change = CHANGED_BETWEEN.format(photo=str(root / "cats" / "000.png"))
    done, _ = stand_in.run(root, out, "--sizes", 224, 96, before=change)
    assert done.code == 0, done.err
    assert right_at(224, path, root)
    assert right_at(96, path, root)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((320,), "--sizes 320: 224 must be among them, because "),
        ((224, 225), "--sizes 224 225: 225 is not a multiple of 32 from 96 to 640"),
        ((224, 64), "--sizes 224 64: 64 is not a multiple of 32 from 96 to 640"),
        ((672, 224), "--sizes 672 224: 672 is not a multiple of 32 from 96 to 640"),
        ((224, -96), "--sizes 224 -96: -96 is not a multiple of 32 from 96 to 640"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(
    sizes: tuple[int, ...], reason: str, photos: MakePhotos, out: Path
) -> None:
    done, given = stand_in.run(photos(), out, "--sizes", *sizes)
    assert (done.code, given, done.out) == (2, 0, "")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {reason}")
    assert not out.exists()


# Clocks and photos that change


LONG_AGO = "import time; time.time = lambda: 1e9; time.time_ns = lambda: 10**18"


@pytest.mark.parametrize("clock", ["", LONG_AGO])
@pytest.mark.parametrize("mtime", [4_000_000_000, 1_000_000_000, 0])
def test_replaced_photo_is_noticed_even_if_its_time_is_unchanged(
    clock: str, mtime: int, photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos()
    changed = root / "cats" / "changed.bmp"
    picture(500).save(changed)
    os.utime(changed, (mtime, mtime))
    done, given = stand_in.run(root, out, before=clock)
    assert (done.code, given) == (0, 13), done.err
    done, given = stand_in.run(root, out, before=clock)
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in done.out
    # Another picture of the same size, in the same file, with the same time.
    size, inode = changed.stat().st_size, changed.stat().st_ino
    picture(501).save(root.parent / "new.bmp")
    changed.write_bytes((root.parent / "new.bmp").read_bytes())
    os.utime(changed, (mtime, mtime))
    assert (changed.stat().st_size, changed.stat().st_ino) == (size, inode)
    done, given = stand_in.run(root, out, before=clock)
    assert (done.code, given) == (0, 1), done.err
    assert right(path, root)


def test_clock_that_is_set_back_between_runs_changes_nothing(
    pets: Path, out: Path, path: Path
) -> None:
    before = path.read_bytes()
    done, given = stand_in.run(pets, out, before=LONG_AGO)
    assert (done.code, given) == (0, 0), done.err
    assert path.read_bytes() == before
    write_photos(pets, {"owls": 4}, seed=5)
    done, given = stand_in.run(pets, out, before=LONG_AGO)
    assert (done.code, given) == (0, 4), done.err
    assert right(path, pets)


def remembered(out: Path, path: str, digest: str) -> None:
    """Make the index say that a photo has the given digest."""
    with sqlite3.connect(out / "features" / "cache" / "digests.sqlite") as index:
        changed = index.execute(
            "UPDATE files SET digest = ? WHERE path = ?",
            (bytes.fromhex(digest), os.fsencode(path)),
        )
        assert changed.rowcount == 1
    index.close()


def old_photos(root: Path) -> Path:
    """Give photos a time at which the index may remember them."""
    for photo in root.rglob("*.png"):
        os.utime(photo, (1_500_000_000, 1_500_000_000))
    return root


def test_the_index_is_corrected_by_the_bytes_that_are_read(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = old_photos(photos())
    stand_in.run(root, out)
    before = contents(path)
    remembered(out, "cats/000.png", "a" * 64)
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 1), done.err
    assert contents(path) == before
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in done.out


def test_rehash_does_not_believe_the_index(photos: MakePhotos, out: Path, path: Path) -> None:
    root = old_photos(photos())
    stand_in.run(root, out)
    with features_file.open(path) as features:
        digests = dict(zip(features.paths, features.digests, strict=True))
    remembered(out, "cats/000.png", digests["cats/001.png"])
    done, given = stand_in.run(root, out, "--rehash")
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in done.out
    assert right(path, root)


# Copies, conflicts and photos that look alike


def test_copies_are_counted(photos: MakePhotos, out: Path, path: Path) -> None:
    root = photos()
    for i in range(3):
        shutil.copy(root / "cats" / "000.png", root / "cats" / f"copy {i}.png")
    shutil.copy(root / "dogs" / "000.png", root / "dogs" / "copy.png")
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12), done.err
    assert "copies: 4, each in the split of its original" in done.out.splitlines()
    with features_file.open(path) as features:
        assert features.attributes["copies"] == 4
        assert features.near == [], "copies are no pairs"


def test_the_same_photo_in_two_classes_is_an_error(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({"cats": 6, "dogs": 6, "owls": 6})
    shutil.copy(root / "cats" / "002.png", root / "dogs" / "a cat.png")
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (2, 18)
    assert done.err.startswith("error: the same photo is in two classes: ")
    assert "cats/002.png and dogs/a cat.png; " in done.err
    assert "--allow-conflicts" in done.err
    assert not path.exists()
    shutil.copy(root / "owls" / "003.png", root / "dogs" / "an owl.png")
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (2, 0)
    assert ", and 1 other photo alike; " in done.err


def test_conflicts_that_are_allowed_are_kept_in_one_split(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({"cats": 12, "dogs": 12})
    for i in range(4):
        shutil.copy(root / "cats" / f"{i:03d}.png", root / "dogs" / f"cat {i}.png")
    done, given = stand_in.run(root, out, "--allow-conflicts")
    assert (done.code, given) == (0, 24), done.err
    with features_file.open(path) as features:
        split = dict(zip(features.paths, features.splits.tolist(), strict=True))
        label = dict(zip(features.paths, features.labels.tolist(), strict=True))
        assert len(split) == 28
        assert features.attributes["copies"] == 4
    for i in range(4):
        assert split[f"cats/{i:03d}.png"] == split[f"dogs/cat {i}.png"]
        assert (label[f"cats/{i:03d}.png"], label[f"dogs/cat {i}.png"]) == (0, 1)


def test_the_same_photo_in_two_classes_of_given_splits_is_an_error(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({f"{s}/{name}": 4 for s in ("train", "test") for name in ("cats", "dogs")})
    shutil.copy(root / "test" / "dogs" / "000.png", root / "train" / "cats" / "dog.png")
    done, _ = stand_in.run(root, out)
    assert done.code == 2
    assert "test/dogs/000.png and train/cats/dog.png; " in done.err
    done, given = stand_in.run(root, out, "--allow-conflicts")
    assert (done.code, given) == (0, 0), done.err
    with features_file.open(path) as features:
        assert "train/cats/dog.png" not in features.paths
        assert [name for name, _ in features.skipped] == ["train/cats/dog.png"]


def test_unreadable_copies_are_not_a_conflict(photos: MakePhotos, out: Path) -> None:
    root = photos()
    for name in ("cats", "dogs"):
        (root / name / "empty.jpg").write_bytes(b"")
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12), done.err


def test_near_duplicates_in_different_splits_are_reported_and_stored(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({f"{s}/{name}": 4 for s in ("train", "test") for name in ("cats", "dogs")})
    # The same pixels in other bytes; and once more within a split.
    for one, other in [("test/cats/000", "train/cats/same"), ("test/dogs/001", "test/dogs/same")]:
        with Image.open(root / f"{one}.png") as image:
            image.save(root / f"{other}.bmp")
    done, given = stand_in.run(root, out, "--keep-twins")
    assert (done.code, given) == (0, 18), done.err
    with features_file.open(path) as features:
        ((one, other, cosine),) = features.near
        assert (features.paths[one], features.paths[other]) == (
            "test/cats/000.png",
            "train/cats/same.bmp",
        )
        split = features.splits[other]
        assert one < other
        assert cosine == pytest.approx(1.0)
        assert features.file["near/row"][:].tolist() == [[one, other]]
        assert features.file["near/cosine"].shape == (1,)
    assert done.err.splitlines() == [
        "near-duplicates in different splits: 1 pair to look at, the most alike first",
        f"  test/cats/000.png (test) and train/cats/same.bmp ({split}): cosine 1.000",
    ]


def test_near_duplicates_beyond_ten_are_counted(photos: MakePhotos, out: Path, path: Path) -> None:
    root = photos({f"{s}/{name}": 8 for s in ("train", "test") for name in ("cats", "dogs")})
    for name in ("cats", "dogs"):
        for i in range(6):
            with Image.open(root / "test" / name / f"{i:03d}.png") as image:
                image.save(root / "train" / name / f"{i}.bmp")
    done, _ = stand_in.run(root, out, "--keep-twins")
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert lines[0].startswith("near-duplicates in different splits: 12 pairs")
    assert len(lines) == 12
    assert lines[-1] == "  and 2 more, all in the features file"
    with features_file.open(path) as features:
        assert len(features.near) == 12
    # With too many photos, the run must not say that none was found.
    path.unlink()
    few = "from extract.photos import duplicates; duplicates.ROWS = 43"
    done, _ = stand_in.run(root, out, "--keep-twins", before=few)
    assert done.err.startswith("near-duplicates: not looked for among more than")
    assert len(done.err.splitlines()) == 1
    with features_file.open(path) as features:
        assert features.near == []
    assert (
        "not looked for" in stand_in.Run(["info", str(path)], out / "log", before=few).ended().out
    )


# Classes


def test_test_photos_without_labels_are_not_used_and_test_is_cut_from_train(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({"train/cats": 6, "train/dogs": 6, "test": 3})
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12), done.err
    assert done.err.splitlines() == [
        f"{root}/test: 3 files in no class folder of train; test is cut from train; "
        f'make predict IMAGES="{root}/test" classifies them',
        "skipped: 1",
        "  test/: 3 files in no class folder of train",
    ]
    assert "split: train 8, val 2, test 2 (60/20/20 of each class" in done.out
    with features_file.open(path) as features:
        assert features.class_names == ["cats", "dogs"]
        assert len(features.rows("test")) == 2


def test_class_without_a_photo_in_a_given_split_is_reported(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    root = photos({"train/cats": 4, "train/dogs": 4, "train/owls": 4, "test/cats": 4})
    write_photos(root, {"test/dogs": 1, "train/dogs": 4}, seed=7)
    done, _ = stand_in.run(root, out)
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "classes without a photo in a split: 1",
        "  class 'owls' has no photo in test",
    ]
    with features_file.open(path) as features:
        assert features.class_names == ["cats", "dogs", "owls"]


def test_class_that_is_too_small_is_refused_before_anything_is_computed(
    photos: MakePhotos, out: Path
) -> None:
    done, given = stand_in.run(photos({"cats": 6, "dogs": 2}), out)
    assert (done.code, given) == (2, 0)
    assert "class 'dogs' has 2 distinct usable photos" in done.err


def test_any_name_is_kept_in_the_file_and_shown_on_one_line(
    photos: MakePhotos, out: Path, path: Path
) -> None:
    names = [name.replace("/", "∕") for name in HOSTILE]  # noqa: RUF001
    root = photos(dict.fromkeys(names, 3))
    for name in names:
        (root / name / "000.png").rename(root / name / f"{name}.png")
        (root / name / f"{name}.txt").write_text("no image")
    done, _ = stand_in.run(root, out, before="import sys; sys.stdout.reconfigure(encoding='ascii')")
    assert done.code == 0, done.err
    assert all(line.isprintable() for line in f"{done.out}{done.err}".split("\n"))
    with features_file.open(path) as features:
        assert features.class_names == sorted(names)
        assert {f"{name}/{name}.png" for name in names} <= set(features.paths)
        assert [name for name, _ in features.skipped] == sorted(f"{n}/{n}.txt" for n in names)


# Manifests


def manifest_of(root: Path, *, name: str = "labels.csv") -> Path:
    file = root.parent / name
    rows = [f"pets/{p.relative_to(root)},{p.parent.name}" for p in sorted(root.rglob("*.png"))]
    file.write_text("\n".join(["path,label", *rows]) + "\n")
    return file


def test_relabelling_in_a_manifest_computes_nothing(pets: Path, out: Path) -> None:
    file = manifest_of(pets)
    done, given = stand_in.run(file, out)
    assert (done.code, given) == (0, 0), done.err
    assert "nothing to do" in stand_in.run(file, out)[0].out
    file.write_text(file.read_text().replace("cats/000.png,cats", "cats/000.png,dogs"))
    done, given = stand_in.run(file, out)
    assert (done.code, given) == (0, 0), done.err
    path = out / "features" / "labels.h5"
    assert right(path, pets.parent)
    with features_file.open(path) as features:
        assert features.class_names[features.labels[features.paths.index("pets/cats/000.png")]] == (
            "dogs"
        )


def test_the_manifest_of_a_folder_gives_its_features(pets: Path, out: Path, path: Path) -> None:
    build.write_manifest(str(pets), pets.parent / "same.csv")
    assert stand_in.run(pets.parent / "same.csv", out)[0].code == 0
    with features_file.open(path) as one, features_file.open(out / "features/same.h5") as other:
        assert other.digests == one.digests
        assert other.labels.tolist() == one.labels.tolist()
        assert other.splits.tolist() == one.splits.tolist()


def test_two_data_sets_of_one_name_are_refused(pets: Path, out: Path) -> None:
    done, _ = stand_in.run(manifest_of(pets, name="pets.csv"), out)
    assert done.code == 2
    assert f"belongs to {pets}, and DATA is {pets.parent / 'pets.csv'}" in done.err
    assert stand_in.run(manifest_of(pets), out)[0].code == 0
    done, _ = stand_in.run(manifest_of(pets, name="labels.tsv"), out)
    assert done.code == 0
    assert "its photos have moved" in done.out
    (pets.parent / "labels.txt").write_text("path,label\npets/cats/000.png,a\npets/cats/001.png,b")
    done, _ = stand_in.run(pets.parent / "labels.txt", out)
    assert done.code == 2
    assert "labels.tsv, and DATA is" in done.err


# Groups


def splits_of(path: Path) -> dict[str, str]:
    with features_file.open(path) as features:
        return dict(zip(features.paths, features.splits.tolist(), strict=True))


def test_the_same_picture_stored_twice_is_in_one_split(pets: Path, out: Path, path: Path) -> None:
    before = splits_of(path)
    tested = min(name for name, split in before.items() if split == "test" and "cats" in name)
    trained = min(name for name, split in before.items() if split == "train" and "cats" in name)
    # Lossless, so the features are the same; the digest is not.
    Image.open(pets / tested).save(pets / f"{trained}.webp", lossless=True)
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 1), done.err
    assert "groups: 1 of 2 photos" in done.out
    after = splits_of(path)
    assert after[f"{trained}.webp"] == after[tested]
    assert "nothing to do" in stand_in.run(pets, out)[0].out
    assert "groups" not in stand_in.run(pets, out, "--keep-twins")[0].out
    assert {name: splits_of(path)[name] for name in before} != after


def test_folders_of_a_class_are_groups(tmp_path: Path, out: Path, path: Path) -> None:
    names = [f"{kind}s/{kind} {n}" for kind in ("cat", "dog") for n in range(4)]
    root = write_photos(tmp_path / "pets", dict.fromkeys(names, 3))
    done, _ = stand_in.run(root, out, "--group-by", "folder")
    assert done.code == 0, done.err
    by_group = {(name.rpartition("/")[0], split) for name, split in splits_of(path).items()}
    assert len(by_group) == 8
    with features_file.open(path) as features:
        assert set(features.groups) == set(names)
    done, _ = stand_in.run(root, out, "--group-by", "^(cats)/")
    assert done.code == 2
    assert "class 'cats' has 1 distinct usable photo or group (of 12 photos)" in done.err


def test_a_training_photo_that_is_a_picture_of_the_test_is_left_out(
    pets: Path, out: Path, path: Path
) -> None:
    split_by_hand(pets)
    Image.open(pets / "test/cats/000.png").save(pets / "train/cats/same.webp", lossless=True)
    done, _ = stand_in.run(pets, out)
    assert done.code == 0, done.err
    with features_file.open(path) as features:
        reason = "same picture as test/cats/000.png, which is kept out of training"
        assert features.skipped == [("train/cats/same.webp", reason)]


def test_a_class_of_one_picture_is_refused_with_the_option_that_allows_it(
    photos: MakePhotos, out: Path
) -> None:
    root = photos({"cats": 1, "dogs": 8})
    with Image.open(root / "cats" / "000.png") as image:
        for name in ("a.bmp", "b.tiff", "c.webp"):
            image.save(root / "cats" / name, lossless=True)
    done, _ = stand_in.run(root, out)
    assert done.code == 2
    assert "class 'cats' has 1" in done.err
    assert "--keep-twins" in done.err
    done, given = stand_in.run(root, out, "--keep-twins")
    assert (done.code, given) == (0, 0), done.err
