import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

from extract.engines import keras_engine, selection
from extract.engines.base import TOLERANCE
from extract.photos.decode import decode_photo
from extract.store import features_file, shards
from extract.system.locations import readable_name
from extract.vgg16 import weights
from extract.vgg16.recipe import TAPS, pairs_added, recipe, recipe_digest
from tests import stand_in
from tests.conftest import CHECKOUT, MakePhotos, picture, write_photos
from tests.stand_in import Done

CLASSES = {"cats": 6, "dogs": 5}
UNREADABLE = {"cats/broken.jpg": b"not a photo", "dogs/empty.jpg": b""}


def command(program: Sequence[str], *, limit: int | None = None) -> Done:
    """Run Python with the arguments, in the checkout; `limit` is that of any file in bytes."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, *program],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def extract(data: Path | str, out: Path, *options: object) -> Done:
    return command(["-m", "extract", str(data), "--out", str(out), *map(str, options)])


def rows_of(path: Path) -> dict[str, tuple[str, int, str]]:
    """Return digest, label and split of every path in a features file."""
    with features_file.open(path) as features:
        values = zip(
            features.digests, features.labels.tolist(), features.splits.tolist(), strict=True
        )
        return dict(zip(features.paths, values, strict=True))


def attributes_of(path: Path) -> dict[str, Any]:
    with features_file.open(path) as features:
        return features.attributes


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Run(NamedTuple):
    photos: Path
    out: Path
    done: Done

    @property
    def features(self) -> Path:
        return self.out / "features" / "pets.h5"


def with_ncnn(vgg16_weights: Path) -> list[object]:
    """Return options that leave out the comparison of all engines, see `test_engines` for that."""
    return ["--weights", vgg16_weights, "--engine", "ncnn"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Run:
    """One run of the whole command with a real engine."""
    folder = tmp_path_factory.mktemp("first")
    photos = write_photos(folder / "pets", CLASSES)
    for name, content in UNREADABLE.items():
        (photos / name).write_bytes(content)
    (photos / "README").write_text("stray")
    # As if the engine had been compared with Keras on this machine: these tests do that themselves.
    vgg16 = weights.load(vgg16_weights, cache=folder)
    kept = shards.folder_of(folder, pairs_added(recipe(vgg16.digest)))
    kept.mkdir(parents=True)
    check = selection.Check(difference=1e-6, speed=10.0)
    checks = {selection._key("ncnn", part): check._asdict() for part in ("", "pairs")}
    (kept / "engines.json").write_text(json.dumps(checks))
    return Run(photos, folder, extract(photos, folder, *with_ncnn(vgg16_weights)))


@pytest.fixture
def again(first: Run, tmp_path: Path) -> Run:
    """Return a copy of the photos and features of the first run, to change."""
    shutil.copytree(first.photos, tmp_path / "pets")
    shutil.copytree(first.out / "features", tmp_path / "features")
    with h5py.File(tmp_path / "features/pets.h5", "r+") as file:
        file.attrs["root"] = str(tmp_path / "pets")
    return Run(tmp_path / "pets", tmp_path, first.done)


def rerun(run: Run, vgg16_weights: Path, *options: object) -> Done:
    return extract(run.photos, run.out, *with_ncnn(vgg16_weights), *options)


def test_first_run_says_what_it_did(first: Run) -> None:
    assert first.done.code == 0, first.done.err
    out = first.done.out.splitlines()
    assert out[0] == f"pets: 13 files in 2 classes at {first.photos}"
    assert out[1].startswith("weights: VGG16 ")
    assert out[2].startswith("engine: ncnn ")
    assert out[3].startswith("VGG16: 11 images computed (")
    assert re.search(", 0 reused; (the network|decoding|.* the engine) was the limit$", out[3])
    shares = "engine {0}, read {0}, decode {0}, forward {0}, write {0}".format(r"[\d.]+%")
    assert re.fullmatch(f"  share of the time, many at once: {shares}", out[4])
    assert out[5].startswith("split: train 7, val 2, test 2 (60/20/20")
    assert out[6:] == [f"{first.features}: written"]
    err = first.done.err.splitlines()
    assert [line.split(":")[0] for line in err[:4]] == [
        "skipped",
        "  README",
        "  cats/broken.jpg",
        "  dogs/empty.jpg",
    ]
    # To a network with random weights the photos look much alike.
    with features_file.open(first.features) as features:
        assert err[4].startswith(
            f"near-duplicates in different splits: {features.near_found} pairs"
        )
        assert len(err) == 5 + min(len(features.near), 10) + (len(features.near) > 10)


def test_published_file_is_right(first: Run, vgg16_weights: Path) -> None:
    vgg16 = weights.load(vgg16_weights, cache=first.out)
    paths = sorted(p.relative_to(first.photos).as_posix() for p in first.photos.rglob("*.png"))
    assert len(paths) == 11
    with features_file.open(first.features) as features:
        assert features.paths == paths
        assert features.digests == [sha256(first.photos / path) for path in paths]
        assert features.class_names == ["cats", "dogs"]
        assert features.labels.tolist() == [0] * 6 + [1] * 5
        for label, sizes in ((0, (4, 1, 1)), (1, (3, 1, 1))):
            of_class = features.splits[features.labels == label].tolist()
            assert tuple(map(of_class.count, ("train", "val", "test"))) == sizes
        assert features.skipped == [
            ("README", "not in a class folder"),
            ("cats/broken.jpg", "not an image file that Pillow can read"),
            ("dogs/empty.jpg", "empty file"),
        ]
        batch = np.stack(
            [decode_photo((first.photos / path).read_bytes(), size=224) for path in paths]
        )
        expected = keras_engine.build(vgg16).forward(batch)
        for tap in TAPS:
            found = features.read([tap], "train", "val", "test")
            # Photo by photo: no row may stand in the place of another.
            difference = np.linalg.norm(found - expected[tap], axis=1)
            assert (difference < TOLERANCE * np.linalg.norm(expected[tap], axis=1)).all()
            assert len(np.unique(found.round(4), axis=0)) == 11
        about = features.attributes
    assert about["schema"] == features_file.SCHEMA
    assert about["data"] == "pets"
    assert about["root"] == str(first.photos)
    assert about["weights"] == str(vgg16_weights)
    assert about["weights_digest"] == vgg16.digest
    assert json.loads(about["recipe"]) == pairs_added(recipe(vgg16.digest))
    assert about["recipe_digest"] == recipe_digest(pairs_added(recipe(vgg16.digest)))
    assert about["seed"] == 0
    assert about["split_rule"].startswith("60/20/20")
    assert about["images_computed"] == 11
    assert about["images_reused"] == 0
    assert about["seconds"] > 0
    assert "python" in json.loads(about["versions"])
    assert about["created"].endswith("+00:00")


def test_a_further_size_leaves_the_taps_of_the_first_as_they_are(
    again: Run, vgg16_weights: Path
) -> None:
    with features_file.open(again.features) as features:
        before = features.read(list(TAPS), *features_file.SPLITS)
        digest = features.recipe_digest
    vgg16 = weights.load(vgg16_weights, cache=again.out)
    # The engine was compared with Keras in the first run; this test does so for the new size.
    folder = shards.folder_of(again.out, pairs_added(recipe(vgg16.digest, size=96)))
    folder.mkdir()
    shutil.copy(again.out / f"features/cache/{digest}/engines.json", folder)
    done = rerun(again, vgg16_weights, "--sizes", "224", "96")
    assert done.code == 0, done.err
    assert "VGG16 at 96 x 96: 11 images computed" in done.out
    assert "VGG16: " not in done.out
    with features_file.open(again.features) as features:
        np.testing.assert_array_equal(features.read(list(TAPS), *features_file.SPLITS), before)
        photos = [(again.photos / path).read_bytes() for path in features.paths]
        batch = np.stack([decode_photo(photo, size=96) for photo in photos])
        expected = keras_engine.build(vgg16, size=96).forward(batch)
        for tap in TAPS:
            found = features.read([f"{tap}_96"], *features_file.SPLITS)
            difference = np.linalg.norm(found - expected[tap], axis=1)
            assert (difference < TOLERANCE * np.linalg.norm(expected[tap], axis=1)).all()
        assert [recipe_digest(found) for found in features.recipes.values()] == [
            digest,
            recipe_digest(pairs_added(recipe(vgg16.digest, size=96))),
        ]


def test_nothing_is_left_but_the_file_and_the_cache(first: Run) -> None:
    features = first.out / "features"
    found = sorted(p.relative_to(features).as_posix() for p in features.rglob("*"))
    digest = attributes_of(first.features)["recipe_digest"]
    of_recipe = [name for name in found if name.startswith(f"cache/{digest}/")]
    [shard] = [name for name in of_recipe if name.endswith(".h5")]
    # What an engine other than the reference keeps for the next time.
    kept = [name for name in of_recipe if name.endswith((".mnn", "/engines.json"))]
    assert sorted([shard, *kept]) == of_recipe
    others = [name for name in found if name not in of_recipe]
    expected = ["cache", f"cache/{digest}", "cache/digests.sqlite", "cache/lock", "pets.h5"]
    assert others == sorted(expected)


def test_second_run_has_nothing_to_do_and_needs_no_keras(again: Run, vgg16_weights: Path) -> None:
    before = again.features.read_bytes(), again.features.stat().st_mtime_ns
    program = (
        "import sys, atexit; from extract import __main__ as command; "
        "from extract.system import console; "
        "atexit.register(lambda: print({'keras', 'tensorflow'} & set(sys.modules))); "
        "console.run(command.main)"
    )
    arguments = [str(again.photos), "--out", str(again.out), "--weights", str(vgg16_weights)]
    done = command(["-c", program, *arguments])
    assert done.code == 0, done.err
    assert f"{again.features}: nothing to do, it has 11 photos" in done.out
    assert done.out.splitlines()[-1] == "set()"
    assert "computed" not in done.out
    assert (again.features.read_bytes(), again.features.stat().st_mtime_ns) == before


def test_only_new_photos_are_computed(again: Run, vgg16_weights: Path) -> None:
    before = rows_of(again.features)
    write_photos(again.photos, {"birds": 3}, seed=9)
    picture(777).save(again.photos / "cats" / "new.png")
    done = rerun(again, vgg16_weights)
    assert done.code == 0, done.err
    about = attributes_of(again.features)
    assert about["images_computed"] == 4
    assert about["images_reused"] == 11
    after = rows_of(again.features)
    assert len(after) == 15
    for path, (digest, _, split) in before.items():
        assert after[path][0] == digest
        if path.startswith("dogs/"):
            assert after[path][2] == split, "other classes have nothing to do with it"
    with features_file.open(again.features) as features:
        assert features.class_names == ["birds", "cats", "dogs"]
        photo = decode_photo((again.photos / "cats" / "new.png").read_bytes(), size=224)
        row = features.paths.index("cats/new.png")
        found = features.file["taps/block5_avg"][row]
    vgg16 = weights.load(vgg16_weights, cache=again.out)
    expected = keras_engine.build(vgg16).forward(photo[None])["block5_avg"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


# What needs no network runs with the stand-in.


@pytest.fixture
def pets(photos: MakePhotos) -> Path:
    return photos({"cats": 6, "dogs": 6})


def test_renamed_and_relabelled_photos_are_not_computed_again(pets: Path, tmp_path: Path) -> None:
    done, given = stand_in.run(pets, tmp_path / "out")
    assert (done.code, given) == (0, 12), done.err
    path = tmp_path / "out" / "features" / "pets.h5"
    before = rows_of(path)
    (pets / "cats" / "000.png").rename(pets / "cats" / "zebra\n.png")
    (pets / "cats" / "001.png").rename(pets / "dogs" / "was a cat.png")
    done, given = stand_in.run(pets, tmp_path / "out")
    assert (done.code, given) == (0, 0), done.err
    after = rows_of(path)
    assert after["cats/zebra\n.png"][:2] == before["cats/000.png"][:2]
    assert after["dogs/was a cat.png"][:2] == (before["cats/001.png"][0], 1)
    about = attributes_of(path)
    assert (about["images_computed"], about["images_reused"]) == (0, 12)


def test_other_folder_of_known_photos_is_not_computed(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stand_in.run(pets, out)
    pets.rename(tmp_path / "other pets")
    done, given = stand_in.run(tmp_path / "other pets", out)
    assert (done.code, given) == (0, 0), done.err
    assert rows_of(out / "features" / "other pets.h5") == rows_of(out / "features" / "pets.h5")


def test_names_do_not_decide_the_split_and_the_seed_does(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = out / "features" / "pets.h5"
    stand_in.run(pets, out)
    before = {digest: split for digest, _, split in rows_of(path).values()}
    data_digest = attributes_of(path)["data_digest"]
    for photo in list((pets / "cats").iterdir()):
        photo.rename(photo.with_name(f"{sha256(photo)[::-1][:8]}.png"))
    stand_in.run(pets, out)
    assert {digest: split for digest, _, split in rows_of(path).values()} == before
    assert attributes_of(path)["data_digest"] != data_digest
    done, given = stand_in.run(pets, out, "--seed", 1)
    assert (done.code, given) == (0, 0), done.err
    assert {digest: split for digest, _, split in rows_of(path).values()} != before
    assert attributes_of(path)["seed"] == 1


def test_copies_of_a_photo_are_computed_once_and_stay_together(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in range(6):
        shutil.copy(pets / "cats" / f"{i:03d}.png", pets / "cats" / f"copy of {i}.png")
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 12), done.err
    rows = rows_of(out / "features" / "pets.h5")
    assert len(rows) == 18
    for i in range(6):
        assert rows[f"cats/copy of {i}.png"] == rows[f"cats/{i:03d}.png"]


REPLACE_AFTER_HASHING = """
from extract.photos import hashes
read = hashes.Files.read

def then_replace(files, advance):
    found = read(files, advance)
    (files.root / "cats" / "000.png").write_bytes((files.root.parent / "new.png").read_bytes())
    return found

hashes.Files.read = then_replace
"""


def test_photo_that_changes_during_the_run_has_its_last_content(pets: Path, tmp_path: Path) -> None:
    picture(12345).save(tmp_path / "new.png")
    old = sha256(pets / "cats" / "000.png")
    shutil.copy(pets / "cats" / "000.png", pets / "cats" / "copy.png")
    done, given = stand_in.run(pets, tmp_path / "out", before=REPLACE_AFTER_HASHING)
    assert (done.code, given) == (0, 13), done.err
    rows = rows_of(tmp_path / "out" / "features" / "pets.h5")
    assert rows["cats/000.png"][0] == sha256(tmp_path / "new.png")
    assert rows["cats/copy.png"][0] == old


def test_copy_of_a_given_test_photo_is_kept_out_of_training(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos({f"{s}/{name}": 4 for s in ("train", "test") for name in ("cats", "dogs")})
    shutil.copy(root / "test" / "cats" / "000.png", root / "train" / "cats" / "leak.png")
    done, _ = stand_in.run(root, tmp_path / "out")
    assert done.code == 0, done.err
    path = tmp_path / "out" / "features" / "pets.h5"
    rows = rows_of(path)
    assert "train/cats/leak.png" not in rows
    assert rows["test/cats/000.png"][2] == "test"
    assert len(rows) == 16
    reason = "copy of test/cats/000.png, which is kept out of training"
    with features_file.open(path) as features:
        assert features.skipped == [("train/cats/leak.png", reason)]
        assert features.attributes["split_rule"].startswith("train and test as given")
    assert f"  train/cats/leak.png: {reason}" in done.err.splitlines()


def test_features_file_is_written_again_when_the_skipped_files_change(
    pets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    path = out / "features" / "pets.h5"
    stand_in.run(pets, out)
    (pets / "cats" / "new.jpg").write_text("not a photo")
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 0), done.err
    with features_file.open(path) as features:
        assert [p for p, _ in features.skipped] == ["cats/new.jpg"]
    done, _ = stand_in.run(pets, out)
    assert "nothing to do" in done.out
    assert "cats/new.jpg" in done.err, "it is told every time"


def test_strict_treats_an_unreadable_photo_as_an_error(pets: Path, tmp_path: Path) -> None:
    (pets / "cats" / "new.jpg").write_text("not a photo")
    done, _ = stand_in.run(pets, tmp_path / "out", "--strict")
    refused(done, "cats/new.jpg", "--strict")
    assert not (tmp_path / "out" / "features" / "pets.h5").exists()


def test_background_class_is_left_out_unless_asked_for(photos: MakePhotos, tmp_path: Path) -> None:
    root = photos({"cats": 3, "dogs": 3, "BACKGROUND_Google": 3})
    path = tmp_path / "out" / "features" / "pets.h5"
    assert stand_in.run(root, tmp_path / "out")[1] == 6
    with features_file.open(path) as features:
        assert features.class_names == ["cats", "dogs"]
        assert features.asked == {}
    assert stand_in.run(root, tmp_path / "out", "--background")[1] == 3
    with features_file.open(path) as features:
        assert features.class_names == ["BACKGROUND_Google", "cats", "dogs"]
        assert features.asked == {"background": True}


@pytest.mark.parametrize("name", ["my pets", "Käse ♞", "line\nbreak", os.fsdecode(b"caf\xe9")])
def test_odd_names_of_folders(name: str, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos(name=name)
    done, given = stand_in.run(root, tmp_path / "out")
    assert (done.code, given) == (0, 12), done.err
    (path,) = (tmp_path / "out" / "features").glob("*.h5")
    assert path.name == f"{readable_name(name)}.h5"
    assert len(done.out.splitlines()) == 6
    about = attributes_of(path)
    assert about["data"] == name.encode("utf-8", "backslashreplace").decode()
    assert "nothing to do" in stand_in.run(root, tmp_path / "out")[0].out


def test_damaged_shard_is_computed_again(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stand_in.run(pets, out)
    before = rows_of(out / "features" / "pets.h5")
    (out / "features" / "pets.h5").unlink()
    (shard,) = (out / "features" / "cache").rglob("*.h5")
    os.truncate(shard, 1000)
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 12)
    assert str(shard) in done.err
    assert rows_of(out / "features" / "pets.h5") == before


# Bad uses: one line on standard error, exit 2


def refused(done: Done, *words: str) -> None:
    assert done.code == 2, done
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err + done.out
    for word in words:
        assert word in done.err


def no_such_folder(folder: Path) -> tuple[str, list[str]]:
    return str(folder / "nowhere"), ["no such folder", "nowhere"]


def unknown_name(folder: Path) -> tuple[str, list[str]]:
    return "ches", ["ches: no such folder", "chess, cats_vs_dogs, caltech101"]


def file_for_a_folder(folder: Path) -> tuple[str, list[str]]:
    (folder / "pets").write_text("x")
    return str(folder / "pets"), ["not a folder"]


def the_root(folder: Path) -> tuple[str, list[str]]:
    return "/", ["no name for a data set"]


def empty_folder(folder: Path) -> tuple[str, list[str]]:
    (folder / "pets").mkdir()
    return str(folder / "pets"), ["0 class folder"]


def photos_without_classes(folder: Path) -> tuple[str, list[str]]:
    (folder / "pets").mkdir()
    picture(1).save(folder / "pets" / "1.png")
    return str(folder / "pets"), ["two are needed"]


def one_class(folder: Path) -> tuple[str, list[str]]:
    return str(write_photos(folder / "pets", {"cats": 5})), ["two are needed"]


def class_of_one(folder: Path) -> tuple[str, list[str]]:
    return str(write_photos(folder / "pets", {"cats": 5, "dogs": 1})), ["class 'dogs' has 1"]


def empty_class(folder: Path) -> tuple[str, list[str]]:
    return str(write_photos(folder / "pets", {"cats": 5, "dogs": 0})), ["class 'dogs' has 0"]


def foreign_features(folder: Path) -> tuple[str, list[str]]:
    import h5py

    (folder / "out" / "features").mkdir(parents=True)
    with h5py.File(folder / "out" / "features" / "pets.h5", "w") as file:
        file["mine"] = [1]
    return str(write_photos(folder / "pets", CLASSES)), ["pets.h5: not a features file", "move it"]


def features_that_are_text(folder: Path) -> tuple[str, list[str]]:
    (folder / "out" / "features").mkdir(parents=True)
    (folder / "out" / "features" / "pets.h5").write_text("mine")
    return str(write_photos(folder / "pets", CLASSES)), ["pets.h5: damaged or not HDF5", "move it"]


def file_for_out(folder: Path) -> tuple[str, list[str]]:
    (folder / "out").write_text("in the way")
    return str(write_photos(folder / "pets", CLASSES)), ["a file is in the way", "--out"]


def file_for_features(folder: Path) -> tuple[str, list[str]]:
    (folder / "out").mkdir()
    (folder / "out" / "features").write_text("in the way")
    return str(write_photos(folder / "pets", CLASSES)), ["a file is in the way", "--out"]


def folder_for_the_file(folder: Path) -> tuple[str, list[str]]:
    (folder / "out" / "features" / "pets.h5").mkdir(parents=True)
    return str(write_photos(folder / "pets", CLASSES)), ["pets.h5", "move it"]


@pytest.mark.parametrize(
    "prepare",
    [
        no_such_folder,
        unknown_name,
        file_for_a_folder,
        the_root,
        empty_folder,
        photos_without_classes,
        one_class,
        class_of_one,
        empty_class,
        foreign_features,
        features_that_are_text,
        file_for_out,
        file_for_features,
        folder_for_the_file,
    ],
)
def test_bad_use_is_one_line(
    prepare: Callable[[Path], tuple[str, list[str]]], tmp_path: Path
) -> None:
    data, words = prepare(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.h5") if path.is_file()}
    done, _ = stand_in.run(data, tmp_path / "out")
    refused(done, *words)
    for path, content in before.items():
        assert path.read_bytes() == content, "what is not ours is not touched"


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_bad_weights_are_one_line(content: bytes | None, pets: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "weights.h5").write_bytes(content)
    done = extract(pets, tmp_path / "out", "--weights", tmp_path / "weights.h5")
    refused(done, "weights.h5")


def test_truncated_features_file_is_one_line(again: Run, vgg16_weights: Path) -> None:
    os.truncate(again.features, again.features.stat().st_size - 1000)
    before = again.features.read_bytes()
    refused(rerun(again, vgg16_weights), "pets.h5: damaged", "move it")
    assert again.features.read_bytes() == before
    again.features.unlink()
    done = rerun(again, vgg16_weights)
    assert done.code == 0, done.err
    assert attributes_of(again.features)["images_computed"] == 0


def test_disk_that_is_full_at_the_first_shard(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, _ = stand_in.run(pets, out, limit=100_000)
    refused(done, os.strerror(errno.EFBIG), "--out")
    assert list(out.rglob("*.h5")) == []
    assert list(out.rglob("*.tmp")) == []
    done, given = stand_in.run(pets, out)
    assert (done.code, given) == (0, 12), done.err


def test_disk_that_is_full_at_publishing_keeps_what_was_computed(
    photos: MakePhotos, tmp_path: Path
) -> None:
    # Three batches give shards of 32 and 8 photos; all 40 in one file are more than the limit.
    root, out = photos({"cats": 20, "dogs": 20}), tmp_path / "out"
    done, given = stand_in.run(root, out, shard_images=32, limit=1_300_000)
    refused(done, os.strerror(errno.EFBIG), "what was saved is kept")
    assert given == 40
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert {path for path in left if not path.endswith(".h5")} == {"lock", "digests.sqlite"}
    assert len(left) == 4
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 0), done.err
    assert len(rows_of(out / "features" / "pets.h5")) == 40


def test_killed_run_keeps_its_shards_and_goes_on(photos: MakePhotos, tmp_path: Path) -> None:
    root, out = photos({"cats": 40, "dogs": 30}), tmp_path / "out"
    killed = stand_in.start(root, out, shard_images=32, wait_after=4)
    killed.until(stand_in.WAITING)
    killed.kill()
    assert killed.ended().code == -signal.SIGKILL
    assert not (out / "features" / "pets.h5").exists()
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 70 - 64), done.err
    assert "6 images computed" in done.out
    assert "64 reused" in done.out
    assert len(rows_of(out / "features" / "pets.h5")) == 70


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_run_keeps_even_the_last_batch(
    number: signal.Signals, code: int, photos: MakePhotos, tmp_path: Path
) -> None:
    root, out = photos({"cats": 20, "dogs": 20}), tmp_path / "out"
    stopped = stand_in.start(root, out, shard_images=256, wait_after=2)
    stopped.until(stand_in.WAITING)
    stopped.kill(number)
    done = stopped.ended()
    assert done.code == code
    assert done.err.splitlines() == [
        stand_in.WAITING,
        "VGG16: 32 of 40 images computed and kept",
        "stopped; what was saved is kept, run the same command again to go on",
    ]
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 8), done.err
    assert "8 images computed" in done.out
    assert "32 reused" in done.out
