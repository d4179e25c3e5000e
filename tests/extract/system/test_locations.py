import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from classify.serving import neighbours
from extract.compute import reading
from extract.photos import hashes, scan
from extract.store import features_file
from extract.system import locations
from extract.system.console import InputError
from tests import stand_in
from tests.conftest import MakePhotos, picture
from tests.object_store import ObjectStore
from tests.stand_in import Done

ODD = "a#b?c %41 ü+&.png"


def plain(root: Path) -> None:
    for clutter in (".DS_Store", "cats/.hidden.png", "cats/Thumbs.db", ".git/x/config"):
        (root / clutter).parent.mkdir(parents=True, exist_ok=True)
        (root / clutter).write_bytes(b"clutter")
    (root / "notes.txt").write_bytes(b"notes")
    (root / "cats/deep/er").mkdir(parents=True)
    picture(1).save(root / "cats/deep/er" / ODD)
    (root / "BACKGROUND_Google").mkdir()
    picture(2).save(root / "BACKGROUND_Google/1.png")
    (root / "nothing in it").mkdir()


def with_splits(root: Path) -> None:
    for split in ("Train", "validation", "test"):
        for name in ("cats", "dogs"):
            (root / split / name).mkdir(parents=True)
            picture(3).save(root / split / name / "1.png")
    (root / "Train/stray.png").write_bytes(b"stray")
    (root / "Train/__MACOSX").mkdir()


def wrapped(root: Path) -> None:
    for name in ("cats", "dogs"):
        (root / name).rename(root.parent / name)
    (root / "inner/most").mkdir(parents=True)
    for name in ("cats", "dogs"):
        (root.parent / name).rename(root / "inner/most" / name)
    (root / "readme.txt").write_bytes(b"unpack me")


def in_memory(root: Path, name: str) -> str:
    place = locations.location(f"memory://{name}")
    assert not isinstance(place, Path)
    for path in root.rglob("*"):
        key = f"{place.path}/{path.relative_to(root).as_posix()}"
        if path.is_dir():
            place.fs.makedirs(key, exist_ok=True)
        else:
            place.fs.pipe_file(key, path.read_bytes())
    return f"memory://{name}"


@pytest.mark.parametrize("kind", ["s3", "memory"])
@pytest.mark.parametrize("change", [plain, with_splits, wrapped])
def test_a_store_is_scanned_as_a_disk_is(
    change: Any, kind: str, photos: MakePhotos, s3: ObjectStore
) -> None:
    from extract.photos import datasets

    root = photos({"cats": 2, "dogs": 1})
    change(root)
    name = f"data/{change.__name__}"
    url = s3.upload(root, name) if kind == "s3" else in_memory(root, name)
    exclude = [datasets.BACKGROUND]
    on_disk, in_store = (
        scan.labelled_photos(datasets.locate(place), exclude=exclude)
        for place in (str(root), f"{url}/")
    )
    assert str(in_store.root) == f"{url}{str(on_disk.root).removeprefix(str(root))}"
    assert in_store.photos == on_disk.photos
    assert in_store.skipped == on_disk.skipped
    assert in_store.class_names == on_disk.class_names
    for photo in on_disk.photos:
        contents = [locations.read_bytes(at.root, photo.path) for at in (in_store, on_disk)]
        assert contents[0] == contents[1]


def test_a_listing_is_one_request(photos: MakePhotos, s3: ObjectStore) -> None:
    root = locations.location(s3.upload(photos(), "pets"))
    s3.asks()
    assert len(scan.labelled_photos(root).photos) == 12
    assert s3.asks() == ["LIST pets/"]


def test_the_root_of_a_bucket(photos: MakePhotos, s3: ObjectStore) -> None:
    for path in photos().rglob("*.png"):
        s3.put(f"{path.parent.name}/{path.name}", path.read_bytes())
    root = locations.location("s3://bucket/")
    assert str(root) == "s3://bucket/"
    found = scan.labelled_photos(root)
    assert len(found.photos) == 12
    assert locations.read_bytes(root, found.photos[0].path)
    assert features_file.name_of("s3://bucket/") == "bucket"
    locations.write_bytes(root / "a.h5", b"content")
    assert locations.sizes(root) == {"a.h5": 7}
    assert (root / "recipe").absolute() == root / "recipe"


def test_objects_with_names_that_no_disk_allows_are_listed(
    photos: MakePhotos, s3: ObjectStore
) -> None:
    root = locations.location(s3.upload(photos(), "pets"))
    for key in ("pets/cats//1.png", "pets/cats/../dogs/000.png", "pets//2.png"):
        s3.put(key, b"content")
    found = scan.labelled_photos(root)
    assert len(found.photos) == 12
    reason = "not in a class folder"
    names = ["/2.png", "cats/../dogs/000.png", "cats//1.png"]
    assert sorted(found.skipped) == sorted((name, reason) for name in names)


def test_an_object_that_was_changed_has_another_stamp(s3: ObjectStore) -> None:
    stamps = []
    for content in (b"one", b"one", b"two"):
        s3.put("pets/cats/1.png", content)
        s3.put("pets/dogs/1.png", b"dog")
        place = locations.location("s3://bucket/pets")
        assert not isinstance(place, Path)
        stamps.append(locations.listing(place).stamps)
    assert len(stamps[0]["cats/1.png"]) == 5
    assert stamps[0]["cats/1.png"] != stamps[2]["cats/1.png"]
    assert all(0 <= number < 2**63 for number in stamps[2]["cats/1.png"])


def test_an_object_is_read_in_one_request(s3: ObjectStore) -> None:
    s3.put("pets/empty.png", b"")
    s3.put("pets/large.png", bytes(20_000_000))
    root = locations.location("s3://bucket/pets")
    s3.asks()
    assert locations.read_bytes(root, "empty.png") == b""
    assert locations.read_bytes(root, "large.png") == bytes(20_000_000)
    assert s3.asks() == ["GET pets/empty.png", "GET pets/large.png"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, r"raise the limit on open files with ulimit -n"),
        (errno.EIO, "check the disk"),
        (errno.ESTALE, "move the file away if it alone cannot be read"),
    ],
)
def test_an_error_of_the_moment_is_not_blamed_on_the_file(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.png").write_bytes(b"one")

    def fail(*how: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(InputError, match=rf"1.png: it cannot be read now \(.*{advice}"):
        reading.read(tmp_path, "1.png")
    monkeypatch.undo()
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(InputError, match="it cannot be read now"):
        hashes.of_files(tmp_path, ["1.png"], index=tmp_path / "index")


def test_a_failed_read_blames_the_object_or_the_store(s3: ObjectStore) -> None:
    s3.put("pets/1.png", b"one")
    root = locations.location("s3://bucket/pets")
    with pytest.raises(FileNotFoundError, match=r"No such file.*s3://bucket/pets/2\.png"):
        locations.read_bytes(root, "2.png")
    s3.refused = lambda request: "AccessDenied"
    with pytest.raises(PermissionError, match="Permission denied"):
        locations.read_bytes(root, "1.png")
    s3.refused = lambda request: "ExpiredToken"
    with pytest.raises(InputError, match="s3://bucket/pets: no permission"):
        locations.read_bytes(root, "1.png")
    s3.refused = lambda request: ""
    with pytest.raises(InputError, match="s3://nobody/pets: no such bucket"):
        locations.folders(locations.location("s3://nobody/pets"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no client ask a store again, which takes seconds."""
    import s3fs

    # A client of an earlier test would ask as often as it was told then, and this one later.
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("impatient")
def test_an_object_that_the_store_fails_to_send_is_one_bad_file(s3: ObjectStore) -> None:
    for name in "ab":
        s3.put(f"pets/{name}.png", b"content")
    root: Any = locations.location("s3://bucket/pets")
    s3.refused = lambda request: "InternalError" if request == "GET pets/a.png" else ""
    with pytest.raises(OSError, match=r"the store fails to send it.*s3://bucket/pets/a\.png"):
        locations.read_bytes(root, "a.png")
    assert locations.read_prefixes(root, ["a.png", "b.png"], 3) == {"b.png": b"con"}
    s3.refused = lambda request: "InternalError" if request.startswith("GET") else ""
    with pytest.raises(InputError, match="s3://bucket/pets: cannot be used"):
        locations.read_bytes(root, "a.png")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("page", ["<html><body>Log in<br></html>", "<html><body/></html>"])
def test_a_web_page_in_place_of_a_listing_is_said_to_be_one(page: str, s3: ObjectStore) -> None:
    s3.put("pets/a.png", b"content")
    root: Any = locations.location("s3://bucket/pets")
    s3.refused = lambda request: page if request.startswith("LIST") else ""
    for list_it in (locations.listing, locations.sizes):
        with pytest.raises(InputError, match="s3://bucket/pets: a web page came in place of a"):
            list_it(root)


def test_heads_of_many_objects(s3: ObjectStore) -> None:
    s3.put("shards/a", bytes(range(100)))
    s3.put("shards/b", b"short")
    folder: Any = locations.location("s3://bucket/shards")
    heads = locations.read_prefixes(folder, ["a", "b", "gone"], 10)
    assert heads == {"a": bytes(range(10)), "b": b"short"}
    s3.refused = lambda request: "ExpiredToken"
    with pytest.raises(InputError, match="no permission"):
        locations.read_prefixes(folder, ["a"], 10)


def test_an_object_is_written_in_one_request_and_moved(s3: ObjectStore) -> None:
    folder: Any = locations.location("s3://bucket/shards")
    assert locations.sizes(folder) == {}
    s3.asks()
    locations.write_bytes(folder / "a.h5", b"content")
    assert s3.asks() == ["PUT shards/a.h5"]
    assert locations.sizes(folder) == {"a.h5": 7}
    locations.move(folder / "a.h5", "b.h5")
    locations.move(folder / "a.h5", "b.h5")
    assert s3.keys() == ["shards/b.h5"]
    assert s3.get("shards/b.h5") == b"content"
    s3.refused = lambda request: "AccessDenied" if request.startswith("PUT") else ""
    with pytest.raises(locations.NotWritten, match=r"s3://bucket/shards/c\.h5: no permission"):
        locations.write_bytes(folder / "c.h5", b"content")
    with pytest.raises(InputError, match="no permission"):
        locations.move(folder / "b.h5", "c.h5")


def test_a_file_moved_by_somebody_else_is_no_error(tmp_path: Path) -> None:
    locations.move(tmp_path / "a.h5", "b.h5")
    (tmp_path / "a.h5").write_bytes(b"content")
    locations.move(tmp_path / "a.h5", "b.h5")
    assert (tmp_path / "b.h5").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gs://bucket/photos", ["gs://bucket/photos", "pip install", "gcsfs"]),
        ("nonsense://bucket/photos", ["nonsense://bucket/photos", "Unsupported"]),
        ("sftp://me:secret@host/photos", ["password"]),
    ],
)
def test_a_url_that_cannot_be_used_says_why(
    text: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError) as caught:
        locations.location(text)
    assert all(word in str(caught.value) for word in words)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["photos", "/photos", "./s3:/x", "s3://", "C:x"])
def test_a_path_stays_a_path(text: str) -> None:
    assert locations.location(text) == Path(text)
    assert isinstance(locations.location(text), Path)


@pytest.fixture
def unreachable(s3: ObjectStore, closed_port: int) -> dict[str, str]:
    where = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{closed_port}", "AWS_MAX_ATTEMPTS": "1"}
    return s3.environment | where


@pytest.mark.parametrize("why", ["nobody answers", "no credentials", "s3fs is not installed"])
def test_an_unreachable_store_is_reported_in_one_line(
    why: str, unreachable: dict[str, str], s3: ObjectStore, tmp_path: Path
) -> None:
    if why == "nobody answers":
        before = f"import os; os.environ.update({unreachable!r})"
    elif why == "no credentials":
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        without = {name: value for name, value in s3.environment.items() if name not in keys}
        without["AWS_EC2_METADATA_DISABLED"] = "true"
        before = f"import os; os.environ.update({without!r})"
        before += "".join(f"; os.environ.pop({key!r}, 0)" for key in keys)
    else:
        before = "import sys; sys.modules['s3fs'] = None"
    done: Done = stand_in.run("s3://bucket/pets", tmp_path / "out", before=before)[0]
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    expected = {
        "nobody answers": "Could not connect",
        "no credentials": "credentials",
        "s3fs is not installed": "pip install universal_pathlib s3fs",
    }
    assert expected[why] in done.err
    assert "s3://bucket/pets" in done.err


# The whole command, with a stand-in for VGG16


UNREADABLE = {"cats/broken.jpg": b"not a photo", "dogs/empty.jpg": b""}


@pytest.fixture
def pets(photos: MakePhotos) -> Path:
    return photos({"cats": 6, "dogs": 5})


class Away(NamedTuple):
    """Runs of the command that find the bucket."""

    s3: ObjectStore

    def run(
        self, data: Path | str, out: Path, *options: object, **settings: Any
    ) -> tuple[Done, int]:
        before = f"import os; os.environ.update({self.s3.environment!r})"
        self.s3.asks()
        return stand_in.run(data, out, *options, before=before, **settings)


@pytest.fixture
def away(s3: ObjectStore) -> Away:
    return Away(s3)


def rows(path: Path) -> tuple[object, ...]:
    """Return a features file without the place, the time and the work of making it."""
    elsewhere = ("root", "created", "images_computed", "images_reused", "seconds")
    with features_file.open(path) as features:
        kept = {k: v for k, v in features.attributes.items() if k not in elsewhere}
        taps = {tap: features.read([tap], *features_file.SPLITS).tobytes() for tap in features.taps}
        columns = (features.paths, features.digests, features.labels.tolist(), features.skipped)
        return *columns, features.splits.tolist(), features.near, taps, kept


def test_photos_in_a_bucket_give_what_photos_on_a_disk_give(
    pets: Path, away: Away, tmp_path: Path
) -> None:
    for name, content in UNREADABLE.items():
        (pets / name).write_bytes(content)
    shutil.copy(pets / "cats/000.png", pets / "cats/copy.png")
    here, n = stand_in.run(pets, tmp_path / "here")
    url = away.s3.upload(pets, "data/pets")
    there, m = away.run(f"{url}/", tmp_path / "there", "--cache", "s3://bucket/cache")
    assert (here.code, there.code, m) == (0, 0, n)
    assert there.err == here.err
    on_disk, in_store = (tmp_path / out / "features/pets.h5" for out in ("here", "there"))
    assert rows(in_store) == rows(on_disk)
    with features_file.open(in_store) as features:
        assert features.attributes["root"] == url
    assert not list((tmp_path / "there").rglob("cache/*/*.h5")), "all shards are in the bucket"

    # Nothing changed: the objects are listed and not read.
    again, m = away.run(url, tmp_path / "there", "--cache", "s3://bucket/cache")
    assert (again.code, m) == (0, 0)
    assert "nothing to do" in again.out
    asked = away.s3.asks()
    # What has pairs of channels, too, is looked for in the cache.
    read = [request for request in asked if not request.startswith("HEAD cache/")]
    assert {request.split()[0] for request in read} == {"LIST", "GET"}
    # An unreadable file is tried again in every run, as on a disk.
    assert {request for request in asked if request.startswith("GET")} == {
        f"GET data/pets/{name}" for name in UNREADABLE
    }

    # One object changed: it alone is computed.
    picture(77).save(pets / "dogs/001.png")
    away.s3.put("data/pets/dogs/001.png", (pets / "dogs/001.png").read_bytes())
    changed, m = away.run(url, tmp_path / "there", "--cache", "s3://bucket/cache")
    assert (changed.code, m) == (0, 1)
    stand_in.run(pets, tmp_path / "here")
    assert rows(in_store) == rows(on_disk)

    # Another machine, and photos on its disk: the shared cache has them all.
    other, m = away.run(pets, tmp_path / "other", "--cache", "s3://bucket/cache")
    assert (other.code, m) == (0, 0)
    assert rows(tmp_path / "other/features/pets.h5") == rows(on_disk)


def test_a_put_that_fails_loses_its_shard_alone(pets: Path, away: Away, tmp_path: Path) -> None:
    puts = 0

    def third(request: str) -> str:
        nonlocal puts
        puts += request.startswith("PUT")
        return "AccessDenied" if request.startswith("PUT") and puts >= 3 else ""

    away.s3.refused = third
    options = ["--cache", "s3://bucket/cache"]
    failed, _ = away.run(
        pets, tmp_path / "out", *options, shard_images=2, batch_size=2, seconds=0.05
    )
    assert failed.code == 2
    assert len(failed.err.splitlines()) == 1
    assert "s3://bucket/cache/" in failed.err
    assert "no permission" in failed.err
    away.s3.refused = lambda request: ""
    done, computed = away.run(pets, tmp_path / "out", *options)
    assert (done.code, computed) == (0, 11 - 4)


def test_a_damaged_shard_of_a_bucket_is_set_aside(pets: Path, away: Away, tmp_path: Path) -> None:
    options = ["--cache", "s3://bucket/cache"]
    away.run(pets, tmp_path / "out", *options)
    (key,) = away.s3.keys("cache/")
    content = away.s3.get(key)
    away.s3.put(key, content[:-1000] + bytes(1000))
    (tmp_path / "out/features/pets.h5").unlink()
    done, computed = away.run(pets, tmp_path / "out", *options)
    assert (done.code, computed) == (0, 11)
    assert f"set aside as {Path(key).name}.damaged" in done.err
    assert away.s3.keys("cache/") == [key, f"{key}.damaged"]


def test_shards_on_a_shared_folder(pets: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first, n = stand_in.run(pets, tmp_path / "one", "--cache", shared)
    (half,) = (shard.with_name(".half.tmp") for shard in shared.glob("*/*.h5"))
    half.write_bytes(b"what another machine is writing")
    second, m = stand_in.run(pets, tmp_path / "two", "--cache", shared)
    assert (first.code, second.code, n, m) == (0, 0, 11, 0)
    assert half.exists()
    assert not list(tmp_path.glob("*/features/cache/*/*.h5"))
    assert stand_in.upkeep("gc", tmp_path / "two").code == 0
    assert len(list(shared.glob("*/*.h5"))) == 1


def test_shards_in_a_bucket_are_verified_and_never_collected(
    pets: Path, away: Away, tmp_path: Path
) -> None:
    shared = ["--cache", "s3://bucket/cache"]
    away.run(pets, tmp_path / "out", *shared)
    (key,) = away.s3.keys("cache/")
    (tmp_path / "out/features/pets.h5").unlink()
    before = f"import os; os.environ.update({away.s3.environment!r})"
    log = tmp_path / "log/run"

    def upkeep(name: str, *options: str) -> Done:
        arguments = [name, "--out", str(tmp_path / "out"), *options]
        return stand_in.Run(arguments, log, before=before).ended()

    away.s3.asks()
    assert upkeep("gc").code == 0
    assert away.s3.asks() == []
    done = upkeep("verify", *shared)
    assert (done.code, done.out) == (0, "checked: 1 shard with 11 images, 0 features files\n")
    away.s3.put(key, away.s3.get(key)[:-1000] + bytes(1000))
    done = upkeep("verify", *shared)
    assert done.code == 2
    assert f"damaged: s3://bucket/{key}" in done.out
    assert away.s3.keys("cache/") == [f"{key}.damaged"]


def test_photos_of_a_bucket_serve_as_neighbours(pets: Path, away: Away, tmp_path: Path) -> None:
    away.run(away.s3.upload(pets, "pets"), tmp_path / "out")
    with features_file.open(tmp_path / "out/features/pets.h5") as features:
        found = neighbours.of(features)
    content = (pets / found.paths[0]).read_bytes()
    assert locations.read_bytes(found.root, found.paths[0]) == content
    with features_file.open(tmp_path / "out/features/pets.h5") as features:
        root = locations.location(str(features.attributes["root"]))
        item = reading.read(root, features.paths[0])
        assert item.digest == features.digests[0]
        assert item.photo is not None


def test_what_was_computed_before_the_credentials_expired_is_kept(
    pets: Path, away: Away, tmp_path: Path
) -> None:
    url = away.s3.upload(pets, "pets")
    last = "GET pets/dogs/004.png"
    # The first time it is read for its digest.
    away.s3.refused = lambda request: (
        "ExpiredToken" if request == last and away.s3.asked.count(last) == 2 else ""
    )
    failed, _ = away.run(url, tmp_path / "out", batch_size=2)
    assert failed.code == 2
    assert failed.err.count("\n") == 1
    assert f"{url}: no permission" in failed.err
    away.s3.refused = lambda request: ""
    done, computed = away.run(url, tmp_path / "out")
    assert done.code == 0
    assert 1 <= computed <= 3, "no more than what was not yet a batch"


# What a person types


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~/a b", "/home/me/a b"),
        ("file:///a/b%20c#d?e%41", "/a/b c#d?eA"),
        ("FILE://localhost/a/", "/a/"),
        ("file:/a", "/a"),
        ("s3://bucket/~/a%20b", "s3://bucket/~/a%20b"),
        ("-", "-"),
        ("a\nb", "a\nb"),
        ("a:b", "a:b"),
        ("./C:\\photos", "./C:\\photos"),
    ],
)
def test_paths_and_urls_are_read_as_people_mean_them(
    text: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert locations.typed(text) == meant


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty; "),
        (" \n", "it is empty; "),
        ("a\0b", "zero byte"),
        ("file://", "contains no path"),
        ("file:///a%00b", "contains no path"),
        ("file://server/a", "names the machine 'server'; "),
        (
            "C:\\my photos\\cats",
            "a Windows path; in WSL, it is /mnt/c/my photos/cats",
        ),
        ("d:/photos", "a Windows path; in WSL, it is /mnt/d/photos"),
        ("\\\\server\\photos", "a Windows path; "),
    ],
)
def test_what_no_path_here_can_mean_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError) as refused:
        locations.typed(text)
    assert problem in str(refused.value)
