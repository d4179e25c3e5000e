import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract import shards
from extract.console import Stopped
from extract.recipe import TAPS
from extract.shards import Place, Writer
from tests.damage import (
    Damage,
    as_empty,
    as_folder,
    as_foreign,
    as_text,
    as_truncated,
    edited,
    without_a_tap,
)
from tests.synthetic import RECIPE, digests, shard, taps


def test_places_lead_to_the_values(tmp_path: Path) -> None:
    first, second = shard(tmp_path, "abc", seconds=6.0), shard(tmp_path, "de")
    places = shards.index(tmp_path, RECIPE)
    assert set(places) == set(digests(*"abcde"))
    assert places[digests("b")[0]] == Place(first, 1, 2.0)
    assert places[digests("d")[0]] == Place(second, 0, 0.5)


def test_writer_makes_a_shard_of_every_so_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    with Writer(tmp_path, RECIPE) as writer:
        for batch in ("ab", "cd", "ef", "gh", "i"):
            names = digests(*batch)
            writer.add(names, taps(names), engine="test")
    sizes = sorted(len(h5py.File(path)["digest"]) for path in tmp_path.glob("*.h5"))
    assert sizes == [1, 4, 4]
    assert set(shards.index(tmp_path, RECIPE)) == set(digests(*"abcdefghi"))


def test_writer_makes_a_shard_when_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_SECONDS", 0.0)
    with Writer(tmp_path, RECIPE) as writer:
        writer.add(digests("a"), taps(digests("a")), engine="test")
        assert len(list(tmp_path.glob("*.h5"))) == 1
        writer.add(digests("b"), taps(digests("b")), engine="test")
        assert len(list(tmp_path.glob("*.h5"))) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, Stopped])
def test_writer_keeps_what_it_holds_when_the_run_is_stopped(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with Writer(tmp_path, RECIPE) as writer:
            writer.add(digests("a", "b"), taps(digests("a", "b")), engine="test")
            raise error(2)

    with pytest.raises(error):
        stopped()
    assert set(shards.index(tmp_path, RECIPE)) == set(digests("a", "b"))


def test_nothing_computed_leaves_no_shard(tmp_path: Path) -> None:
    with Writer(tmp_path, RECIPE):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tap", TAPS)
def test_writer_refuses_an_engine_that_loses_rows(tmp_path: Path, tap: str) -> None:
    values = taps(digests("a", "b"))
    values[tap] = values[tap][:1]
    with pytest.raises(ValueError, match="test did not return one row"):
        Writer(tmp_path, RECIPE).add(digests("a", "b"), values, engine="test")


def with_a_short_tap(file: h5py.File) -> None:
    del file["taps/block3_max"]
    file["taps/block3_max"] = np.zeros((1, 256), np.float32)


def with_numbers_for_digests(file: h5py.File) -> None:
    del file["digest"]
    file["digest"] = np.arange(3)


def with_a_group_for_digests(file: h5py.File) -> None:
    del file["digest"]
    file.create_group("digest")


def without_images(file: h5py.File) -> None:
    del file["digest"], file["taps"]
    file["digest"] = np.array([], "S64")
    for tap, width in TAPS.items():
        file[f"taps/{tap}"] = np.zeros((0, width), np.float32)


def of_another_recipe(file: h5py.File) -> None:
    file.attrs["recipe_digest"] = "0" * 64


DAMAGE = [
    as_text,
    as_truncated,
    as_empty,
    as_folder,
    as_foreign,
    edited(without_a_tap),
    edited(with_a_short_tap),
    edited(with_numbers_for_digests),
    edited(with_a_group_for_digests),
    edited(without_images),
    edited(of_another_recipe),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_bad_shard_is_named_and_set_aside(
    damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, good = shard(tmp_path, "abc"), shard(tmp_path, "de")
    damage(bad)
    content = bad.read_bytes() if bad.is_file() else None
    assert set(shards.index(tmp_path, RECIPE)) == set(digests(*"de"))
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert str(bad) in err
    assert str(good) not in err
    assert shards.files(tmp_path) == [good]
    aside = bad.with_name(f"{bad.name}.damaged")
    assert aside.is_dir() if content is None else aside.read_bytes() == content
    assert set(shards.index(tmp_path, RECIPE)) == set(digests(*"de"))
    assert capfd.readouterr().err == "", "it is set aside once"


def test_unfinished_shard_is_not_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = shard(tmp_path, "abc")
    path.rename(tmp_path / f".{path.name}.1234.tmp")
    assert shards.index(tmp_path, RECIPE) == {}
    assert capfd.readouterr().err == ""
