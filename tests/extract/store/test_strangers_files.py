"""A features file that a stranger made is refused in one line, in bounded memory."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.store import features_file, hdf5, maintenance
from extract.system.console import InputError
from tests import synthetic

Change = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.publish(tmp_path_factory.mktemp("whole"), per_class=(3, 1, 1))


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "features.h5"))


def with_column(name: str, values: Any, **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def with_value(name: str, value: Any) -> Change:
    return lambda file: file[name].__setitem__(0, value)


def with_attribute(name: str, value: Any) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


def with_terabytes(name: str) -> Change:
    """A column that takes terabytes, of which the file has not one byte."""

    def change(file: h5py.File) -> None:
        _, *width = file[name].shape
        dtype = file[name].dtype
        del file[name]
        chunks = (1024, *width)
        file.create_dataset(name, (10**12, *width), dtype, chunks=chunks, compression="gzip")

    return change


def with_a_large_chunk(file: h5py.File) -> None:
    del file["taps/block5_avg"]
    options = {"chunks": (15, 512), "maxshape": (None, None)}
    file.create_dataset("taps/block5_avg", (15, 512), "f4", **options | {"chunks": (2**17, 512)})


def with_shared_text(file: h5py.File) -> None:
    """Rows that are all the same megabyte."""
    shape = file["path"].shape
    del file["path"]
    layout = h5py.string_dtype()
    file.create_dataset("path", shape, layout, fillvalue="x" * 10**6)


def inside_each_other(file: h5py.File) -> None:
    group = file
    for _ in range(300):
        group = group.create_group("d")


REFUSED = {
    "text for taps": (with_column("taps/block5_avg", ["a"] * 15), "taps/block5_avg has the shape"),
    "narrow taps": (
        with_column("taps/block5_avg", np.zeros((15, 7), "f4")),
        r"float32, \(15, 512\)",
    ),
    "long taps": (
        with_column("taps/block5_avg", np.zeros((16, 512), "f4")),
        r"float32, \(15, 512\)",
    ),
    "taps of float64": (with_column("taps/block5_avg", np.zeros((15, 512))), "type float64"),
    "few labels": (with_column("label", [0, 1]), "label has 2 rows, and path has 15"),
    "text for labels": (with_column("label", ["a"] * 15), "label has values of type object"),
    "label out of range": (with_value("label", 3), "label has values that are not from 0 to 2"),
    "negative label": (with_value("label", -1), "label has values that are not from 0 to 2"),
    "class twice": (with_value("class_names", "class 1"), "a name in class_names .* twice"),
    "class without name": (with_value("class_names", ""), "a name in class_names is empty"),
    "other split": (with_value("split", "holdout"), "split has values that are not train, val"),
    "no digest": (with_value("digest", b"abc"), "digest has values that are not 64 hexadecimal"),
    "path above": (with_value("path", "../x.png"), "path has values that .* below the root"),
    "absolute path": (with_value("path", "/etc/x.png"), "path has values that .* below the root"),
    "row of no photo": (with_column("near/row", [[0, 15]]), "near/row has values|is longer"),
    "column missing": (lambda file: file.pop("split"), "it has no column split"),
    "attribute missing": (lambda file: file.attrs.pop("root"), "its attribute root is missing"),
    "number for text": (with_attribute("root", 1), "its attribute root is not text"),
    "list for text": (with_attribute("root", ["a"] * 3), "root is not one text or number"),
    "recipe": (with_attribute("recipe", "[" * 9999), "not a features file"),
    "other recipe": (with_attribute("recipe", "{}"), "recipes do not have its recipe_digest"),
    "seconds": (with_attribute("seconds", np.nan), "its attribute seconds is no number"),
    "data above": (with_attribute("data", "../../x"), "'../../x', which is not a plain name"),
    "absolute data": (with_attribute("data", "/etc/x"), "'/etc/x', which is not a plain name"),
    "dots": (with_attribute("data", ".."), "which is not a plain name"),
    "nothing": (with_attribute("data", ""), "which is not a plain name"),
    "long data": (with_attribute("data", "ü" * 128), "which is not a plain name"),
    "terabytes of labels": (with_terabytes("label"), "label takes more bytes than the file has"),
    "terabytes of taps": (with_terabytes("taps/block5_avg"), "not float32, "),
    "a large chunk": (with_a_large_chunk, "taps/block5_avg has chunks of 268 MB"),
    "shared text": (with_shared_text, "path takes more bytes than the file has"),
    "groups inside each other": (inside_each_other, "or they lie too deep"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_features_file_has_is_refused_when_it_is_opened(kind: str, path: Path) -> None:
    change, words = REFUSED[kind]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=words) as caught:
        features_file.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "move it away and run make features" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e38])
def test_values_that_no_photo_gives_are_refused_when_they_are_read(
    value: float, path: Path
) -> None:
    with h5py.File(path, "r+") as file:
        file["taps/block4_max"][0, 0] = value
    with features_file.open(path) as features:
        features.read(["block5_avg"], "train")
        with pytest.raises(InputError, match="taps/block4_max has values that no photo gives"):
            features.read(["block5_avg", "block4_max"], "train", "val", "test")


def test_a_part_of_a_tap_that_was_never_written_is_noticed(path: Path) -> None:
    def change(file: h5py.File) -> None:
        shape = file["taps/block5_avg"].shape
        del file["taps/block5_avg"]
        file.create_dataset("taps/block5_avg", shape, "f4", chunks=(5, 512))[:5] = 1

    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match="taps/block5_avg is packed, or a part of it is missing"):
        features_file.open(path)


def test_many_items_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MOST_ITEMS", 5)
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for i in range(6):
            file.create_group(str(i))
    with pytest.raises(ValueError, match="more than 5 items"):
        hdf5.open_whole(tmp_path / "many.h5")


def test_a_pipe_does_not_keep_the_program_waiting(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(InputError, match="it is not a file"):
        features_file.open(tmp_path / "pipe.h5")


def test_flipped_bits_never_make_a_traceback(whole: Path, tmp_path: Path) -> None:
    """Some flips go unnoticed when the file is opened: those of texts, for one."""
    content, path = whole.read_bytes(), tmp_path / "flipped.h5"
    metadata = 9000
    refused: list[str] = []
    for seed in range(40):
        chance = random.Random(seed)
        flipped = bytearray(content)
        for _ in range(chance.choice([1, 4, 64])):
            flipped[chance.randrange(metadata)] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            maintenance._check(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(line.startswith(f"{path}: ") for line in refused)
