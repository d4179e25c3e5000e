import errno
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.store import features_file, shard_index, shards
from extract.store.features_file import Row, data_digest
from extract.store.shards import Damaged
from extract.system.console import InputError
from extract.vgg16.recipe import SIZE, TAPS, joint_digest, named, recipe, recipe_digest
from tests import synthetic
from tests.conftest import CHECKOUT
from tests.damage import (
    as_empty,
    as_folder,
    as_foreign,
    as_text,
    as_truncated,
    edited,
    flip,
    tap_offset,
    without_a_tap,
)
from tests.synthetic import RECIPE, digests, shard, taps, write_features


def rows(*names: str) -> list[Row]:
    """Return a row for each name, labels and splits in turn, in the order of the paths."""
    splits = ["train", "val", "test", "train"]
    return [
        Row(f"{'ab'[i % 2]}/{name}", digests(name)[0], i % 2, splits[i % 4])
        for i, name in enumerate(sorted(names))
    ]


ATTRIBUTES = {
    **synthetic.ABOUT,
    "data": "pets",
    "root": "/photos/pets",
    "data_digest": "d" * 64,
    "recipe": json.dumps(RECIPE),
    "recipe_digest": recipe_digest(RECIPE),
}


def published(
    tmp_path: Path,
    *names: str,
    path: Path | None = None,
    skipped: Sequence[tuple[str, str]] = (),
    **changes: Any,
) -> Path:
    path = path or tmp_path / "features" / "pets.h5"
    shard(tmp_path / "cache", names)
    write_features(
        path,
        rows(*names),
        {SIZE: shard_index.read(tmp_path / "cache", RECIPE)},
        class_names=["a", "b"],
        skipped=skipped,
        attributes=ATTRIBUTES | changes,
    )
    return path


def test_values_are_read_back_in_the_order_of_the_rows(tmp_path: Path) -> None:
    names = [f"{i:03d}.jpg" for i in range(150)]
    order = np.random.default_rng(0).permutation(150)
    for part in np.array_split(order, 4):
        shard(tmp_path / "cache", [names[i] for i in part])
    path = published(tmp_path, *names)
    with features_file.open(path) as features:
        assert features.paths == [row.path for row in rows(*names)]
        assert features.digests == digests(*names)
        assert features.labels.tolist() == [0, 1] * 75
        assert features.splits.tolist() == (["train", "val", "test", "train"] * 38)[:150]
        assert features.class_names == ["a", "b"]
        assert features.taps == TAPS
        assert list(features.taps) == list(TAPS), "deepest first"
        expected = taps(digests(*names))
        for tap in TAPS:
            found = features.read([tap], "train", "val", "test")
            np.testing.assert_array_equal(found, expected[tap])
            assert found.dtype == np.float32


def test_some_taps_of_some_splits(tmp_path: Path) -> None:
    path = published(tmp_path, *"abcdefgh")
    expected = taps(digests(*"abcdefgh"))
    with features_file.open(path) as features:
        assert features.rows("val").tolist() == [1, 5]
        assert features.rows("val", "train").tolist() == [0, 1, 3, 4, 5, 7]
        found = features.read(["block3_max", "block5_avg"], "test")
    wanted = np.hstack([expected["block3_max"][[2, 6]], expected["block5_avg"][[2, 6]]])
    np.testing.assert_array_equal(found, wanted)


def test_many_rows_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_file, "ROWS_AT_ONCE", 3)
    with features_file.open(published(tmp_path, *"abcdefgh")) as features:
        found = features.read(["block4_avg"], "train", "val", "test")
    np.testing.assert_array_equal(found, taps(digests(*"abcdefgh"))["block4_avg"])


CHOICES = [
    (["block5_avg"], ("train",)),
    (["block3_max", "block5_avg3x3"], ("test", "train")),
    (list(TAPS), features_file.SPLITS),
    (["block4_avg"], ()),
]


@pytest.mark.parametrize(("some", "splits"), CHOICES)
def test_shape_is_known_before_reading(
    some: list[str], splits: tuple[str, ...], tmp_path: Path
) -> None:
    with features_file.open(published(tmp_path, *"abcdefgh")) as features:
        # What a shape is told from must not be the values.
        block, features._block = features._block, None  # type: ignore[assignment,method-assign]
        shape = features.shape(some, *splits)
        features._block = block  # type: ignore[method-assign]
        assert features.read(some, *splits).shape == shape


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
@pytest.mark.parametrize(("some", "splits"), CHOICES)
def test_batches_are_bounded_and_together_what_read_gives(
    some: list[str],
    splits: tuple[str, ...],
    at_once: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with features_file.open(published(tmp_path, *"abcdefgh")) as features:
        expected = features.read(some, *splits)
        monkeypatch.setattr(features_file, "ROWS_AT_ONCE", at_once)
        batches = list(features.batches(some, *splits))
        rows = [row for numbers, _ in batches for row in numbers.tolist()]
        assert rows == features.rows(*splits).tolist()
    for numbers, values in batches:
        assert 0 < len(numbers) == len(values) <= at_once
        assert values.dtype == np.float32
    found = np.concatenate([np.empty((0, expected.shape[1]), np.float32), *(v for _, v in batches)])
    np.testing.assert_array_equal(found, expected)


def test_a_few_rows_are_what_read_gives(tmp_path: Path) -> None:
    wanted = ["block5_max", "block4_avg"]
    with features_file.open(published(tmp_path, *"abcdefgh")) as features:
        rows = np.array([0, 2, 3, 7])
        every = features.read(wanted, *features_file.SPLITS)
        assert np.array_equal(features.read_rows(wanted, rows), every[rows])
        with pytest.raises(InputError, match="it has no tap fc1"):
            features.read_rows(["fc1"], rows)


@pytest.mark.parametrize("at_once", [1, 5])
def test_publishing_in_pieces_gives_the_same_file(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "cache", "hgfe")
    whole = published(tmp_path, *"abcdefgh").read_bytes()
    monkeypatch.setattr(features_file, "ROWS_AT_ONCE", at_once)
    assert published(tmp_path, *"abcdefgh").read_bytes() == whole


def test_taps_of_several_sizes_lie_side_by_side(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(5)]
    plain = published(tmp_path, *names, path=tmp_path / "plain.h5")
    places, recipes = {SIZE: shard_index.read(tmp_path / "cache", RECIPE)}, {SIZE: RECIPE}
    for size in (96, 320):
        recipes[size] = of_size = recipe("w" * 64, size=size)
        values = {tap: values + size for tap, values in taps(digests(*names)).items()}
        one = shards.Shard(digests(*names), values, "test", float(size))
        (tmp_path / str(size)).mkdir()
        shards.write(tmp_path / str(size), one, of_size)
        places[size] = shard_index.read(tmp_path / str(size), of_size)
    write_features(
        tmp_path / "pets.h5",
        rows(*names),
        places,
        class_names=["a", "b"],
        skipped=[],
        attributes=ATTRIBUTES
        | {named("recipe", s): json.dumps(r) for s, r in recipes.items()}
        | {"recipe_digest": joint_digest(recipes.values())},
    )
    with (
        features_file.open(tmp_path / "pets.h5") as several,
        features_file.open(plain) as one_alone,
    ):
        assert several.sizes == [224, 96, 320]
        assert several.recipes == recipes
        assert list(several.taps) == [
            *TAPS,
            *(f"{t}_96" for t in TAPS),
            *(f"{t}_320" for t in TAPS),
        ]
        assert list(several.taps.values()) == [*TAPS.values()] * 3
        assert one_alone.taps == TAPS
        for tap, expected in taps(digests(*names)).items():
            np.testing.assert_array_equal(several.read([tap], *features_file.SPLITS), expected)
            np.testing.assert_array_equal(one_alone.read([tap], *features_file.SPLITS), expected)
            found = several.read([f"{tap}_320", f"{tap}_96"], *features_file.SPLITS)
            np.testing.assert_array_equal(found, np.hstack([expected + 320, expected + 96]))
        assert several.near == one_alone.near
        assert several.seconds_of(320) == pytest.approx(320)
        assert several.seconds == pytest.approx(320 + 96 + one_alone.seconds)


def test_copies_share_their_values_and_cost_once(tmp_path: Path) -> None:
    shard(tmp_path, "ab", seconds=10.0)
    copies = [*rows("a", "b"), Row("b/copy", digests("a")[0], 1, "train")]
    write_features(
        tmp_path / "pets.h5",
        copies,
        {SIZE: shard_index.read(tmp_path, RECIPE)},
        class_names=["a", "b"],
        skipped=[],
        attributes=ATTRIBUTES,
    )
    with features_file.open(tmp_path / "pets.h5") as features:
        found = features.read(["block5_avg"], "train", "val", "test")
        assert features.seconds == pytest.approx(10.0)
    np.testing.assert_array_equal(found, taps(digests(*"aba"))["block5_avg"])


def test_odd_paths_and_reasons_come_back_as_they_were(tmp_path: Path) -> None:
    skipped = [("a/Größe\n2.jpg", "damaged image: 'x'\n♞"), ("b/", "")]
    names = ["line\nbreak.jpg", "Käse ♞.jpg", "tab\t.jpg", "日本.jpg"]
    path = published(tmp_path, *names, skipped=skipped, root="/ü/\n")
    with features_file.open(path) as features:
        assert features.paths == [row.path for row in rows(*names)]
        assert features.skipped == skipped
        assert features.attributes["root"] == "/ü/\n"


def test_examples_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path, *"abcdef", path=tmp_path / "features" / "chess.h5")
    monkeypatch.chdir(tmp_path)
    ours, plain = (
        textwrap.dedent("".join(f"{line}\n" for line in block.splitlines() if line[:1] in " "))
        for block in (inspect.getdoc(features_file) or "").split("::\n")[1:]
    )
    assert "features.batches(" in ours
    assert "h5py.File(" in plain
    expected = taps(digests(*"adef"))
    by_us: dict[str, Any] = {"store": features_file, "Path": Path}
    exec(ours, by_us)
    np.testing.assert_array_equal(by_us["X"], expected["block5_avg"][[0, 1, 2]])
    assert by_us["values"].shape == (5, 1024)
    assert by_us["y"].tolist() == by_us["features"].labels[by_us["rows"]].tolist()
    by_h5py: dict[str, Any] = {"h5py": h5py}
    exec(plain, by_h5py)
    np.testing.assert_array_equal(by_h5py["X"], by_us["X"])


def test_file_is_plain_hdf5(tmp_path: Path) -> None:
    path = published(tmp_path, *"ab")
    with h5py.File(path) as file:
        assert set(file) == {
            "path",
            "digest",
            "label",
            "split",
            "class_names",
            "skipped",
            "taps",
            "near",
        }
        assert file["path"].dtype == h5py.string_dtype()
        assert file["digest"].dtype == "S64"
        assert file["label"].dtype == np.int64
        assert set(file["taps"]) == set(TAPS)
        for tap in TAPS:
            assert file[f"taps/{tap}"].dtype == np.float32
            assert file[f"taps/{tap}"].fletcher32
        assert file["near/row"][:].tolist() == [[0, 1]], "these values are all much alike"
        assert file["near/row"].dtype == np.int64
        assert file["near/cosine"].shape == (1,)
        assert file["near/cosine"].dtype == np.float32
        assert file.attrs["schema"] == features_file.SCHEMA


def test_shards_are_never_changed(tmp_path: Path) -> None:
    first = shard(tmp_path, "abc")
    before = first.read_bytes(), first.stat().st_mtime_ns
    shard(tmp_path, "cb")
    shard(tmp_path, "d")
    published(tmp_path, "x", "y")
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert len(list(tmp_path.glob("*.h5"))) == 3


def test_failure_midway_keeps_the_old_file(tmp_path: Path) -> None:
    path = published(tmp_path, "a", "b")
    before = path.read_bytes()
    places = shard_index.read(tmp_path / "cache", RECIPE)
    places.pop(digests("b")[0])
    with pytest.raises(KeyError):
        write_features(
            path,
            rows("a", "b"),
            {SIZE: places},
            class_names=["a", "b"],
            skipped=[],
            attributes=ATTRIBUTES,
        )
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


PUBLISH_WITH_LITTLE_ROOM = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np
from extract.store import features_file, shard_index, shards
from extract.vgg16.recipe import SIZE, TAPS, recipe
from tests import synthetic
from tests.synthetic import write_features

folder, limits = Path(sys.argv[1]), map(int, sys.argv[2:])
digests = [f"{i:064x}" for i in range(2500)]
values = {tap: np.ones((len(digests), width), np.float32) for tap, width in TAPS.items()}
(folder / "cache").mkdir()
shards.write(folder / "cache", shards.Shard(digests, values, "test", 1.0), recipe("w"))
places = shard_index.read(folder / "cache", recipe("w"))
rows = [features_file.Row(f"a/{i:05d}", digest, 0, "train") for i, digest in enumerate(digests)]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_features(
            folder / "pets.h5",
            rows,
            {SIZE: places},
            class_names=["a"],
            skipped=[],
            attributes={"recipe": json.dumps(recipe("w"))},
        )
        print("published")
    except OSError as error:
        print(error.errno, Path(error.filename).parent == folder)
    print(*sorted(path.name for path in folder.iterdir()))
"""


def test_full_disk_on_publishing_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    limits = [1, 1_000, 3_000, 200_000, 5_000_000, 30_000_000, 46_000_000, 100_000_000]
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH_WITH_LITTLE_ROOM, str(tmp_path), *map(str, limits)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    failed = [f"{errno.EFBIG} True", "cache"] * (len(limits) - 1)
    assert done.stdout.splitlines() == [*failed, "published", "cache pets.h5"]


def test_data_digest_changes_with_everything_a_result_depends_on() -> None:
    one, two = rows("a", "b")
    changed = [
        [one, two],
        [two, one],
        [one],
        [replace(one, path="a/other"), two],
        [replace(one, digest="0" * 64), two],
        [replace(one, label=1), two],
        [replace(one, split="test"), two],
    ]
    found = [data_digest(some, ["a", "b"]) for some in changed]
    found.append(data_digest([one, two], ["a", "c"]))
    found.append(data_digest([Row('a", "b', "", 0, "")], ["a"]))
    found.append(data_digest([Row("a", "b", 0, "")], ["a"]))
    assert len(set(found)) == len(found)
    assert data_digest(rows("a", "b"), ["a", "b"]) == found[0]


def without_a_recipe(file: h5py.File) -> None:
    del file.attrs["recipe"]


def with_newer_schema(file: h5py.File) -> None:
    file.attrs["schema"] = features_file.SCHEMA + 1


def without_schema(file: h5py.File) -> None:
    del file.attrs["schema"]


def with_an_array_for_the_schema(file: h5py.File) -> None:
    file.attrs["schema"] = [1, 2]


def with_numbers_for_the_classes(file: h5py.File) -> None:
    del file["class_names"]
    file["class_names"] = [1, 2]


def with_a_group_for_the_labels(file: h5py.File) -> None:
    del file["label"]
    file.create_group("label")


def with_the_name(name: str) -> Callable[[Path], None]:
    return edited(lambda file: file.attrs.__setitem__("data", name))


UNFIT = [
    as_text,
    as_truncated,
    as_empty,
    as_folder,
    as_foreign,
    edited(without_a_recipe),
    edited(with_newer_schema),
    edited(without_schema),
    edited(with_an_array_for_the_schema),
    edited(with_numbers_for_the_classes),
    edited(with_a_group_for_the_labels),
    edited(without_a_tap),
    # Results are written to runs/<data>, which must not lie anywhere else.
    *map(with_the_name, ("../x", "..", ".", "", "a/b", "/x")),
]


@pytest.mark.parametrize("damage", UNFIT, ids=range(len(UNFIT)))
def test_any_other_file_is_an_input_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = published(tmp_path, "a", "b")
    damage(path)
    with pytest.raises(InputError) as refused:
        features_file.open(path)
    assert str(path) in str(refused.value)
    assert features_file.MOVE_AWAY in str(refused.value)


def test_a_data_set_whose_name_is_not_utf8_has_a_name_that_can_be_stored() -> None:
    name = features_file.name_of(os.fsdecode(b"photos/n\xff"))
    assert name == r"n\udcff"
    assert features_file.name_of(name) == name


def test_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run make features first"):
        features_file.open(tmp_path / "pets.h5")


def test_flipped_bit_in_a_published_file_is_found_on_reading(tmp_path: Path) -> None:
    path = published(tmp_path, "a", "b")
    flip(path, tap_offset(path, "block5_max"))
    with features_file.open(path) as features:
        features.read(["block5_avg"], "train")
        with pytest.raises(InputError, match="damaged") as refused:
            features.read(["block5_avg", "block5_max"], "train")
    assert str(path) in str(refused.value)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_file.name_of("chess") == "chess"
    assert features_file.name_of("/photos/my pets/") == "my pets"
    monkeypatch.chdir(tmp_path)
    assert features_file.name_of(".") == tmp_path.name
    assert features_file.file_of("../photos/pets", Path("out")) == Path("out/features/pets.h5")
    assert features_file.file_of("some/pets.h5", Path("out")) == Path("some/pets.h5")
    (tmp_path / "photos.h5").mkdir()
    assert features_file.file_of("photos.h5", Path("out")) == Path("out/features/photos.h5.h5")
    assert features_file.file_of("./photos.h5/", Path("out")) == Path("out/features/photos.h5.h5")
    assert features_file.path_of("photos.h5", Path("out")) == Path("out/features/photos.h5.h5")
    url = "s3://bucket/photos.h5"
    assert features_file.file_of(url, Path("out")) == Path("out/features/photos.h5.h5")
    with pytest.raises(InputError, match="no name for a data set"):
        features_file.name_of("/")
    assert features_file.name_of("n" * 230) == "n" * 230
    with pytest.raises(InputError, match="rename it"):
        features_file.name_of("n" * 231)


def test_a_data_set_is_opened_by_name_by_path_and_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "A/pets").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    path = published(tmp_path, "a", "b", root=str(tmp_path / "A/pets"))
    monkeypatch.chdir(tmp_path / "here")
    for data in ("pets", "../A/pets", str(tmp_path / "A/pets/"), str(path)):
        with features_file.open_data_set(data, tmp_path) as features:
            assert features.root == str(tmp_path / "A/pets")
    for data, given in (("../B/pets", str(tmp_path / "B/pets")), ("s3://b/pets", "s3://b/pets")):
        with pytest.raises(InputError) as refused:
            features_file.open_data_set(data, tmp_path)
        assert str(refused.value).startswith(
            f"{path} belongs to {tmp_path / 'A/pets'}, and DATA is {given}; run make features if "
        )


def test_a_file_is_refused_if_its_results_would_replace_those_of_another_data_set(
    tmp_path: Path,
) -> None:
    for name in ("out", "same", "moved", "other"):
        (tmp_path / name).mkdir()
    path = published(tmp_path / "out", "a", "b", root="/A/pets")
    same = published(tmp_path / "same", "a", "b", root="/A/pets", data_digest="e" * 64)
    moved = published(tmp_path / "moved", "a", "b", root="/B/pets")
    other = published(tmp_path / "other", "a", "b", root="/B/pets", data_digest="e" * 64)
    for file in (path, same, moved):
        features_file.open_data_set(str(file), tmp_path / "out").file.close()
    features_file.open_data_set(str(other), tmp_path / "new").file.close()
    with pytest.raises(InputError) as refused:
        features_file.open_data_set(str(other), tmp_path / "out")
    assert f"{other} was made from /B/pets, and {path} from /A/pets" in str(refused.value)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not a file"):
        features_file.open(tmp_path)


@pytest.mark.parametrize("tap", TAPS)
def test_flipped_bit_in_a_shard_is_found_and_nothing_published(tmp_path: Path, tap: str) -> None:
    path = published(tmp_path, "a", "b")
    before = path.read_bytes()
    (damaged,) = (tmp_path / "cache").glob("*.h5")
    flip(damaged, tap_offset(damaged, tap))
    with pytest.raises(Damaged) as refused:
        write_features(
            path,
            rows("a", "b"),
            {SIZE: shard_index.read(tmp_path / "cache", RECIPE)},
            class_names=["a", "b"],
            skipped=[],
            attributes=ATTRIBUTES,
        )
    assert refused.value.shard == damaged
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
