import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from upath import UPath

from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.store.shards import Damaged, Shard, Writer
from extract.system import locations
from extract.system.console import InputError, Stopped
from extract.vgg16.recipe import TAPS
from tests.damage import (
    Damage,
    as_empty,
    as_folder,
    as_foreign,
    as_text,
    as_truncated,
    edited,
    flip,
    without_a_tap,
)
from tests.object_store import ObjectStore
from tests.synthetic import RECIPE, digests, shard, taps


def test_the_index_leads_to_the_values(tmp_path: Path) -> None:
    first, second = shard(tmp_path, "abc", seconds=6.0), shard(tmp_path, "de")
    places = shard_index.read(tmp_path, RECIPE)
    assert set(places) == set(digests(*"abcde"))
    assert places[digests("b")[0]] == ShardRow(first, 1, 2.0)
    assert places[digests("d")[0]] == ShardRow(second, 0, 0.5)


def test_writer_makes_a_shard_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    with Writer(tmp_path, RECIPE) as writer:
        for batch in ("ab", "cd", "ef", "gh", "i"):
            names = digests(*batch)
            writer.add(names, taps(names), engine="test")
    sizes = sorted(len(h5py.File(path)["digest"]) for path in tmp_path.glob("*.h5"))
    assert sizes == [1, 4, 4]
    assert set(shard_index.read(tmp_path, RECIPE)) == set(digests(*"abcdefghi"))


def test_shards_are_larger_when_many_images_are_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    image = sum(values[0].nbytes for values in taps(digests("a")).values())
    monkeypatch.setattr(shards, "LARGE_SHARD_BYTES", 4 * image)
    with Writer(tmp_path, RECIPE) as writer:
        writer.expect_many()
        assert writer.waiting == 4
        for batch in ("ab", "cd", "ef"):
            writer.add(digests(*batch), taps(digests(*batch)), engine="test")
    sizes = sorted(len(h5py.File(path)["digest"]) for path in tmp_path.glob("*.h5"))
    assert sizes == [2, 4]


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
def test_writer_writes_its_images_when_the_run_is_stopped(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with Writer(tmp_path, RECIPE) as writer:
            writer.add(digests("a", "b"), taps(digests("a", "b")), engine="test")
            raise error(2)

    with pytest.raises(error):
        stopped()
    assert set(shard_index.read(tmp_path, RECIPE)) == set(digests("a", "b"))


def test_threads_may_add_batches_and_every_image_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 3)
    given = [digests(f"{number} a", f"{number} b") for number in range(40)]
    with Writer(tmp_path, RECIPE) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda names: writer.add(names, taps(names), engine="test"), given))
    written = [digest for path in shards.files(tmp_path) for digest in shards.digests_of(path)]
    assert sorted(written) == sorted(itertools.chain(*given))
    assert writer.written == len(written)
    for path in shards.files(tmp_path):
        held = shards.read(path)
        np.testing.assert_array_equal(held.taps["block5_avg"], taps(held.digests)["block5_avg"])


def test_images_of_a_failed_write_are_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    write = shards.write

    def failing(*given: object) -> None:
        monkeypatch.setattr(shards, "write", write)
        raise ValueError("not now")

    monkeypatch.setattr(shards, "write", failing)

    def run() -> None:
        with Writer(tmp_path, RECIPE) as writer:
            for name in "ab":
                writer.add(digests(name), taps(digests(name)), engine="test")

    with pytest.raises(ValueError, match="not now"):
        run()
    assert set(shard_index.read(tmp_path, RECIPE)) == set(digests("a", "b"))


def test_without_images_there_is_no_shard(tmp_path: Path) -> None:
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
    file.attrs["recipe_digest"] = np.bytes_(b"0" * 64)


def of_another_schema(file: h5py.File) -> None:
    file.attrs["schema"] = shards.SCHEMA + 1


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
    edited(of_another_schema),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_bad_shard_is_named_and_set_aside(
    damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, good = shard(tmp_path, "abc"), shard(tmp_path, "de")
    damage(bad)
    content = bad.read_bytes() if bad.is_file() else None
    assert set(shard_index.read(tmp_path, RECIPE)) == set(digests(*"de"))
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert str(bad) in err
    assert str(good) not in err
    assert shards.files(tmp_path) == [good]
    aside = bad.with_name(f"{bad.name}.damaged")
    assert aside.is_dir() if content is None else aside.read_bytes() == content
    assert set(shard_index.read(tmp_path, RECIPE)) == set(digests(*"de"))
    assert capfd.readouterr().err == "", "it is set aside once"


def test_unfinished_shard_is_not_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = shard(tmp_path, "abc")
    path.rename(tmp_path / f".{path.name}.1234.tmp")
    assert shard_index.read(tmp_path, RECIPE) == {}
    assert capfd.readouterr().err == ""


# Every byte


def read_or_damaged(path: Path) -> tuple[object, ...]:
    """Return all that is read of a shard, to compare; nothing if it is found to be damaged."""
    try:
        read = shards.read(path)
        return (
            read.digests,
            [(tap, read.taps[tap].tobytes()) for tap in TAPS],
            read.engine,
            read.seconds,
            shards._recipe_of(path),
        )
    except Damaged:
        return ()


def values_at(path: Path) -> list[tuple[int, int]]:
    """Return where in a shard the values of its datasets lie; the rest is structure."""
    with h5py.File(path) as file:
        places = [(file["digest"].id.get_offset(), file["digest"].id.get_storage_size())]
        for tap in TAPS:
            chunks = file[f"taps/{tap}"].id
            infos = [chunks.get_chunk_info(i) for i in range(chunks.get_num_chunks())]
            places += [(info.byte_offset, info.size) for info in infos]
    return sorted(places)


# 3 images make one chunk of each tap, 130 three.
@pytest.mark.parametrize(("images", "step"), [(3, 1), (130, 31)])
def test_flipped_byte_anywhere_is_found_or_changes_nothing_that_is_read(
    images: int, step: int, tmp_path: Path
) -> None:
    path = shard(tmp_path, range(images))
    content = path.read_bytes()
    original = read_or_damaged(path)
    assert original
    places = values_at(path)
    in_values = {at for start, size in places for at in range(start, start + size)}
    # Unwritten parts contain many equal bytes.
    structure = [
        at for at in range(len(content)) if at not in in_values and (content[at] or at % 31 == 0)
    ]
    ends = [at for start, size in places for at in (start, start + size - 4, start + size - 1)]
    swept = sorted({*structure[::step], *ends, *range(0, len(content), 997 * step)})
    assert len(structure) > 1000
    found = 0
    for at in swept:
        flip(path, at, 0xFF)
        now = read_or_damaged(path)
        flip(path, at, 0xFF)
        assert now in ((), original), f"a flip at {at} changes what is read and is not found"
        assert now == () or at not in in_values
        found += now == ()
    assert found > len(ends)


def test_file_cut_anywhere_is_found(tmp_path: Path) -> None:
    path = shard(tmp_path, "abc")
    content = path.read_bytes()
    original = read_or_damaged(path)
    ends = [start + size for start, size in values_at(path)]
    for length in sorted({*range(0, len(content), 997), *ends, *range(100), len(content) - 1}):
        path.write_bytes(content[:length])
        assert read_or_damaged(path) == () or length == len(content)
    path.write_bytes(content + b"more")
    assert read_or_damaged(path) in ((), original)


@pytest.mark.parametrize("name", ["engine", "recipe", "seconds", "content_digest", "schema"])
def test_changed_attribute_is_found(name: str, tmp_path: Path) -> None:
    path = shard(tmp_path, "abc")
    with h5py.File(path, "r+") as file:
        value = file.attrs[name]
        file.attrs[name] = value.swapcase() if isinstance(value, bytes) else value + 1
    with pytest.raises(Damaged):
        shards.read(path)


# In a store


def in_store(folder: Path, s3: ObjectStore) -> UPath:
    """Put the shards of a folder into the bucket."""
    place = locations.location(s3.upload(folder, "cache/recipe"))
    assert isinstance(place, UPath)
    s3.asks()
    return place


def test_an_index_of_a_store_takes_one_request_per_new_shard(
    tmp_path: Path, s3: ObjectStore
) -> None:
    shard(tmp_path / "shards", range(300))
    shard(tmp_path / "shards", "de")
    folder = in_store(tmp_path / "shards", s3)
    expected = {
        digest: (place.shard.name, place.row, place.seconds)
        for digest, place in shard_index.read(tmp_path / "shards", RECIPE).items()
    }
    memory = tmp_path / "own/elsewhere.txt"
    requests = []
    for extra in ("", "", "f"):
        if extra:
            shard(tmp_path / "shards", extra)
            in_store(tmp_path / "shards", s3)
        places = shard_index.read(folder, RECIPE, memory=memory)
        requests.append(sorted(request.split()[0] for request in s3.asks()))
        assert set(places) == set(expected) | set(digests(*extra))
        for digest, (name, row, seconds) in expected.items():
            assert places[digest] == ShardRow(folder / name, row, seconds)
    assert requests == [["GET", "GET", "LIST"], ["LIST"], ["GET", "LIST"]]


def test_a_shard_of_a_store_has_the_written_values(tmp_path: Path, s3: ObjectStore) -> None:
    folder = in_store(tmp_path, s3)
    names = digests(*"abc")
    path = shards.write(folder, Shard(names, taps(names), "test", 3.0), RECIPE)
    assert [request.split()[0] for request in s3.asks()] == ["PUT"]
    assert shards.files(folder) == [path]
    s3.asks()
    found = shards.read(path)
    assert [request.split()[0] for request in s3.asks()] == ["GET"]
    assert found.digests == names
    for tap, values in taps(names).items():
        np.testing.assert_array_equal(found.taps[tap], values)


def with_attributes_at_its_end(file: h5py.File) -> None:
    attributes = dict(file.attrs)
    for name in attributes:
        del file.attrs[name]
    for name in ("taps", "digest"):
        file.copy(name, f"{name} again")
        del file[name]
        file.move(f"{name} again", name)
    file.attrs.update(attributes)


def test_a_shard_whose_first_bytes_do_not_suffice_is_read_whole(
    tmp_path: Path, s3: ObjectStore
) -> None:
    edited(with_attributes_at_its_end)(shard(tmp_path / "shards", range(300)))
    folder = in_store(tmp_path / "shards", s3)
    memory = tmp_path / "elsewhere.txt"
    assert set(shard_index.read(folder, RECIPE, memory=memory)) == set(digests(*range(300)))
    assert len(s3.asks()) == 3
    assert set(shard_index.read(folder, RECIPE, memory=memory)) == set(digests(*range(300)))
    assert len(s3.asks()) == 1


@pytest.mark.parametrize("damage", [damage for damage in DAMAGE if damage is not as_folder])
def test_bad_shard_of_a_store_is_set_aside(
    damage: Damage, tmp_path: Path, s3: ObjectStore, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, good = shard(tmp_path / "shards", "abc"), shard(tmp_path / "shards", "de")
    damage(bad)
    folder = in_store(tmp_path / "shards", s3)
    if len(shard_index.read(folder, RECIPE)) > 2:
        # Its first bytes are unchanged, so only reading the rest shows the damage.
        with pytest.raises(Damaged) as caught:
            shards.read(folder / bad.name)
        shards.set_aside(caught.value)
    assert set(shard_index.read(folder, RECIPE)) == set(digests(*"de"))
    assert [path.name for path in shards.files(folder)] == [good.name]
    assert s3.get(f"cache/recipe/{bad.name}.damaged") == bad.read_bytes()
    assert str(folder / bad.name) in capfd.readouterr().err


def test_a_remembered_shard_must_fit_its_name(tmp_path: Path, s3: ObjectStore) -> None:
    path = shard(tmp_path / "shards", "abc")
    folder = in_store(tmp_path / "shards", s3)
    memory = tmp_path / "elsewhere.txt"
    one, other = digests("a", "b")
    memory.write_text(f"{path.name} 1.0 {one} {other}\n{path.name} x\n\n{path.name}", "ascii")
    for _ in range(2):
        assert list(shard_index.read(folder, RECIPE, memory=memory)) == digests(*"abc")
    assert [request.split()[0] for request in s3.asks()].count("GET") == 2
    shard_index.read(folder, RECIPE, memory=memory)
    assert [request.split()[0] for request in s3.asks()] == ["LIST"]


def test_an_unreachable_store_damages_nothing(tmp_path: Path, s3: ObjectStore) -> None:
    path = shard(tmp_path / "shards", "abc")
    folder = in_store(tmp_path / "shards", s3)
    s3.refused = lambda request: "ExpiredToken"
    for use in (lambda: shard_index.read(folder, RECIPE), lambda: shards.read(folder / path.name)):
        with pytest.raises(InputError, match="no permission"):
            use()
    s3.refused = lambda request: ""
    assert s3.keys() == [f"cache/recipe/{path.name}"]


def test_a_shard_that_a_store_refuses_is_not_tried_again(tmp_path: Path, s3: ObjectStore) -> None:
    folder = in_store(tmp_path, s3)
    s3.refused = lambda request: "AccessDenied" if request.startswith("PUT") else ""

    def write() -> None:
        with Writer(folder, RECIPE) as writer:
            writer.add(digests("a"), taps(digests("a")), engine="test")
            writer.flush()

    with pytest.raises(InputError, match="no permission"):
        write()
    assert len(s3.asks()) == 1


def test_one_image_more_than_a_chunk_takes_little_more_room(tmp_path: Path) -> None:
    """Otherwise gc, which joins small shards, would need more room than before."""
    path = shard(tmp_path / "shards", range(65))
    with h5py.File(path) as file:
        stored = file["taps/block5_avg"].id.get_storage_size()
    assert stored < 1.1 * 65 * 512 * 4


def test_values_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    values = taps(digests("a"))
    values["block5_avg"][0, 0] = np.nan
    with (
        pytest.raises(InputError, match="test: VGG16 gave values that are not finite"),
        Writer(tmp_path, RECIPE) as writer,
    ):
        writer.add(digests("a"), values, engine="test")
    path = shards.write(tmp_path, shards.Shard(digests("a"), values, "test", 1.0), RECIPE)
    with pytest.raises(shards.Damaged, match="values that no photo gives"):
        shards.read(path)
