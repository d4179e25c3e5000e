import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from extract.compute import pipeline, reading
from extract.compute.pipeline import compute
from extract.compute.reader_processes import ReaderProcesses
from extract.compute.reading import read, read_ahead
from extract.engines import base
from extract.engines.base import Engine
from extract.photos import decode
from extract.store import features_writer, shard_index
from extract.store.shards import Writer
from extract.system import memory
from extract.system.machine import cores
from extract.vgg16.recipe import TAPS, recipe
from tests.conftest import MakePhotos, picture

RECIPE = recipe("w" * 64)
Taps = dict[str, NDArray[np.float32]]


def values(photos: NDArray[np.uint8]) -> Taps:
    """Return taps that tell the photos apart."""
    seen = photos.reshape(len(photos), -1)[:, :4608].astype(np.float32)
    return {tap: seen[:, :width] + i for i, (tap, width) in enumerate(TAPS.items())}


class Counting:
    """Builds an engine that notes the batches it is given."""

    def __init__(self) -> None:
        self.built = 0
        self.batches: list[int] = []

    def build(self, photos: NDArray[np.uint8]) -> Engine:
        self.built += 1

        def forward(photos: NDArray[np.uint8]) -> Taps:
            assert photos.dtype == np.uint8
            assert photos.shape[1:] == (224, 224, 3)
            self.batches.append(len(photos))
            return values(photos)

        return Engine("fake", forward)


def computed(
    root: Path, paths: list[str], folder: Path, counting: Counting, batch_size: int = 4
) -> tuple[dict[str, str], dict[str, str], int]:
    done: list[int] = []
    folder.mkdir(exist_ok=True)
    with Writer(folder, RECIPE) as writer:
        done_with = compute(
            root,
            paths,
            build_engine=counting.build,
            writer=writer,
            advance=done.append,
            batch_size=batch_size,
        )
    return done_with.digests, done_with.unreadable, sum(done)


def in_twos(
    root: Path, writer: Writer, build: Callable[[NDArray[np.uint8]], Engine]
) -> pipeline.Computed:
    return compute(
        root,
        all_paths(root),
        build_engine=build,  # type: ignore[arg-type]
        writer=writer,
        advance=lambda n: None,
        batch_size=2,
    )


def by_engine(engine: Engine, root: Path, folder: Path) -> pipeline.Computed:
    """Compute all photos with an engine that says how many it wants at once."""
    folder.mkdir()
    with Writer(folder, RECIPE) as writer:
        return compute(
            root,
            all_paths(root),
            build_engine=lambda pixels: engine,
            writer=writer,
            advance=lambda n: None,
        )


def stored(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the first tap of every image in the shards of a folder, by digest."""
    places = shard_index.read(folder, RECIPE)
    found = features_writer.gather(list(places.values()), ["block5_avg"])["block5_avg"]
    return dict(zip(places, found, strict=True))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def all_paths(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def test_every_photo_gets_its_own_values(photos: MakePhotos, tmp_path: Path) -> None:
    root, counting = photos({"a": 6, "b": 5}), Counting()
    paths = all_paths(root)
    digests, unreadable, done = computed(root, paths, tmp_path / "cache", counting)
    assert digests == {path: sha256(root / path) for path in paths}
    assert list(digests) == paths
    assert unreadable == {}
    assert done == 11
    found = stored(tmp_path / "cache")
    assert len(found) == 11
    for path in paths:
        expected = values(decode.decode_photo((root / path).read_bytes(), size=224)[None])[
            "block5_avg"
        ][0]
        np.testing.assert_array_equal(found[digests[path]], expected)


@pytest.mark.parametrize(
    ("n", "batch_size", "batches"),
    [(11, 4, [4, 4, 3]), (8, 4, [4, 4]), (9, 4, [4, 4, 1]), (3, 32, [3]), (3, 1, [1, 1, 1])],
)
def test_last_batch_is_not_dropped(
    n: int, batch_size: int, batches: list[int], photos: MakePhotos, tmp_path: Path
) -> None:
    root, counting = photos({"a": n}), Counting()
    digests, _, done = computed(root, all_paths(root), tmp_path / "cache", counting, batch_size)
    assert counting.batches == batches
    assert counting.built == 1
    assert len(digests) == done == n


def test_unreadable_files_are_reported_and_batches_stay_full(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root, counting = photos({"a": 8}), Counting()
    (root / "a" / "000.png").write_bytes(b"")
    (root / "a" / "003.png").write_text("text")
    (root / "a" / "005.png").unlink()
    os.truncate(root / "a" / "006.png", 900)
    (root / "a" / "007.png").unlink()
    (root / "a" / "007.png").mkdir()
    paths = [f"a/{i:03d}.png" for i in range(8)]
    digests, unreadable, done = computed(root, paths, tmp_path / "cache", counting, 2)
    assert list(digests) == ["a/001.png", "a/002.png", "a/004.png"]
    assert counting.batches == [2, 1]
    assert set(unreadable) == set(paths) - set(digests)
    assert unreadable["a/000.png"] == "empty file"
    assert unreadable["a/003.png"].startswith("not an image file")
    assert unreadable["a/005.png"] == "cannot be read: No such file or directory"
    assert unreadable["a/006.png"].startswith("damaged image")
    assert unreadable["a/007.png"] == "cannot be read: Is a directory"
    assert done == 8


def test_engine_is_not_built_when_nothing_is_readable(photos: MakePhotos, tmp_path: Path) -> None:
    root, counting = photos({"a": 3}), Counting()
    for path in all_paths(root):
        (root / path).write_bytes(b"")
    digests, unreadable, done = computed(root, all_paths(root), tmp_path / "cache", counting)
    assert counting.built == 0
    assert digests == {}
    assert len(unreadable) == done == 3
    assert os.listdir(tmp_path / "cache") == []


def test_without_files_nothing_is_computed(tmp_path: Path) -> None:
    counting = Counting()
    assert computed(tmp_path, [], tmp_path / "cache", counting) == ({}, {}, 0)
    assert counting.built == 0


def test_digest_and_pixels_are_of_the_same_bytes(photos: MakePhotos, tmp_path: Path) -> None:
    root, counting = photos({"a": 1}), Counting()
    before = sha256(root / "a" / "000.png")
    picture(99).save(root / "a" / "000.png")
    digests, _, _ = computed(root, ["a/000.png"], tmp_path / "cache", counting)
    after = sha256(root / "a" / "000.png")
    assert digests == {"a/000.png": after}
    found = stored(tmp_path / "cache")
    assert set(found) == {after}
    assert before != after
    expected = values(decode.decode_photo((root / "a" / "000.png").read_bytes(), size=224)[None])
    np.testing.assert_array_equal(found[after], expected["block5_avg"][0])


def test_file_is_read_once(photos: MakePhotos, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos({"a": 1})
    content = (root / "a" / "000.png").read_bytes()
    reads = []

    open_file = os.open

    def opened(path: str, flags: int) -> int:
        reads.append(path)
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", opened)
    item = read(root, "a/000.png")
    assert reads == [str(root / "a" / "000.png")]
    assert item.digest == hashlib.sha256(content).hexdigest()
    np.testing.assert_array_equal(item.photo, decode.decode_photo(content, size=224))


def test_photo_that_is_replaced_while_it_is_read_has_the_digest_of_its_pixels(
    tmp_path: Path,
) -> None:
    # Two pictures of one size: what is read in the middle of a write may be half of each.
    contents = []
    for seed in (1, 2):
        picture(seed, size=(300, 300)).save(tmp_path / "new.bmp")
        contents.append((tmp_path / "new.bmp").read_bytes())
    stop = threading.Event()
    (tmp_path / "x.bmp").write_bytes(contents[0])

    def replace() -> None:
        while not stop.is_set():
            for content in contents:
                with open(tmp_path / "x.bmp", "r+b") as file:
                    file.write(content[:100_000])
                    file.flush()
                    file.write(content[100_000:])
                (tmp_path / "new.bmp").write_bytes(content)
                os.replace(tmp_path / "new.bmp", tmp_path / "x.bmp")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        items = [read(tmp_path, "x.bmp", size=16) for _ in range(200)]
    finally:
        stop.set()
        writer.join()
    pixels: dict[str, bytes] = {
        hashlib.sha256(content).hexdigest(): decode.decode_photo(content, size=16).tobytes()
        for content in contents
    }
    assert len({item.digest for item in items}) > 1, "nothing changed in the meantime"
    for item in items:
        assert item.photo is not None
        assert pixels.setdefault(item.digest, item.photo.tobytes()) == item.photo.tobytes()


def test_unreadable_picture_still_has_its_digest(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("text")
    item = read(tmp_path, "x.jpg")
    assert item.photo is None
    assert item.digest == hashlib.sha256(b"text").hexdigest()
    assert read(tmp_path, "gone.jpg").digest == ""


def test_order_is_kept_while_photos_take_different_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"{i}" for i in range(250)]
    random = np.random.default_rng(0)
    waits = random.random(250) / 500

    def slow(root: Path, path: str, **how: object) -> reading.LoadedPhoto:
        time.sleep(waits[int(path)])
        return reading.LoadedPhoto(path, path, None, "")

    monkeypatch.setattr(reading, "read", slow)
    assert [item.path for item in read_ahead(tmp_path, paths)] == paths


@pytest.mark.parametrize(
    ("size", "processors", "photos"),
    [(224, 2, 16), (224, 3, 16), (96, 2, 16), (320, 2, 8), (320, 3, 9), (640, 1, 2), (640, 64, 16)],
)
def test_a_batch_of_large_photos_has_fewer_but_no_core_is_idle(
    size: int, processors: int, photos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "cores", lambda: processors)
    assert pipeline.at_once(size) == photos


def test_no_more_is_read_ahead_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def noting(root: Path, path: str, **how: object) -> reading.LoadedPhoto:
        started.append(path)
        return reading.LoadedPhoto(path, path, None, "")

    monkeypatch.setattr(reading, "read", noting)
    photos = read_ahead(tmp_path, [f"{i}" for i in range(1000)])
    next(photos)
    time.sleep(0.1)
    most = reading.photos_ahead(reading.BATCH_SIZE, 224, cores())
    assert len(started) <= most + 1
    photos.close()


@pytest.mark.parametrize(
    ("batch_size", "size", "readers", "photos"),
    [(16, 224, 2, 48), (256, 224, 16, 768), (2, 224, 16, 32), (256, 640, 16, 208)],
)
def test_reading_ahead_follows_batches_and_readers_within_a_number_of_bytes(
    batch_size: int, size: int, readers: int, photos: int
) -> None:
    assert reading.photos_ahead(batch_size, size, readers) == photos
    assert photos * size * size * 3 <= reading.READ_AHEAD_BYTES


@pytest.mark.parametrize(("wanted", "batches"), [(20, [20, 20, 5]), (16, [16, 16, 13])])
def test_the_engine_says_how_many_photos_it_wants(
    wanted: int, batches: list[int], photos: MakePhotos, tmp_path: Path
) -> None:
    root, seen = photos({"a": 45}), []
    paths = all_paths(root)

    def forward(pixels: NDArray[np.uint8]) -> Taps:
        seen.append(len(pixels))
        return values(pixels)

    done = by_engine(base.Engine("fake", forward, wanted), root, tmp_path / "cache")
    assert seen == batches
    assert list(done.digests) == paths


@pytest.mark.parametrize(
    ("there", "wanted", "by_processes"), [(16, 64, True), (4, 64, False), (16, 16, False)]
)
def test_processes_read_for_a_fast_network_on_many_cores_alone(
    there: int,
    wanted: int,
    by_processes: bool,
    photos: MakePhotos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, asked = photos({"a": 120}), []
    paths = all_paths(root)

    def noting(processes: ReaderProcesses, paths: list[str]) -> list[reading.LoadedPhoto]:
        asked.extend(paths)
        return [read(root, path) for path in paths]

    monkeypatch.setattr(ReaderProcesses, "read", noting)
    monkeypatch.setattr(pipeline, "cores", lambda: there)
    monkeypatch.setattr(pipeline, "MANY", 100)
    done = by_engine(base.Engine("fake", values, wanted), root, tmp_path / "cache")
    assert bool(asked) is by_processes
    assert list(done.digests) == paths


@pytest.mark.parametrize(
    ("slow", "limit"),
    [
        ("engine", "choosing and building the engine"),
        ("forward", "the network"),
        ("write", "writing"),
        ("decode", "decoding"),
        ("read", "reading"),
    ],
)
def test_the_stage_that_the_others_wait_for_is_named_as_the_limit(
    slow: str,
    limit: str,
    photos: MakePhotos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = photos({"a": 12})

    def wait(stage: str) -> bool:
        time.sleep(0.05 if stage == slow else 0)
        return False

    def build(pixels: NDArray[np.uint8]) -> Engine:
        for _ in range(10):
            wait("engine")
        return Engine("fake", lambda photos: wait("forward") or values(photos))

    class Waiting(Writer):
        def add(self, digests: object, taps: object, *, engine: str) -> None:
            wait("write")

    decode_photo, sha256 = decode.decode_photo, hashlib.sha256
    monkeypatch.setattr(
        decode,
        "decode_photo",
        lambda data, *, size: wait("decode") or decode_photo(data, size=size),
    )
    monkeypatch.setattr(hashlib, "sha256", lambda data: wait("read") or sha256(data))
    (tmp_path / "cache").mkdir()
    with Waiting(tmp_path / "cache", RECIPE) as writer:
        assert in_twos(root, writer, build).limit() == limit


def test_the_network_is_the_limit_if_all_photos_are_in_one_batch(
    photos: MakePhotos, tmp_path: Path
) -> None:
    def forward(pixels: NDArray[np.uint8]) -> Taps:
        time.sleep(0.3)
        return values(pixels)

    done = by_engine(Engine("fake", forward), photos({"a": 4}), tmp_path / "cache")
    assert done.limit() == "the network"


def test_failing_engine_keeps_the_batches_before_and_ends_the_readers(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos({"a": 10})
    threads = threading.active_count()
    seen: list[int] = []

    def forward(batch: NDArray[np.uint8]) -> Taps:
        seen.append(len(batch))
        if len(seen) == 3:
            raise RuntimeError("out of memory")
        return values(batch)

    class Failing(Counting):
        def build(self, photos: NDArray[np.uint8]) -> Engine:
            return Engine("failing", forward)

    with pytest.raises(RuntimeError, match="out of memory"):
        computed(root, all_paths(root), tmp_path / "cache", Failing(), 3)
    expected = {sha256(root / path) for path in all_paths(root)[:6]}
    assert set(shard_index.read(tmp_path / "cache", RECIPE)) == expected
    for _ in range(100):
        if threading.active_count() <= threads:
            break
        time.sleep(0.02)
    assert threading.active_count() <= threads


def test_every_stage_is_timed(photos: MakePhotos, tmp_path: Path) -> None:
    root = photos({"a": 6})

    def build(pixels: NDArray[np.uint8]) -> Engine:
        time.sleep(0.2)

        def forward(photos: NDArray[np.uint8]) -> Taps:
            time.sleep(0.1)
            return values(photos)

        return Engine("slow", forward)

    (tmp_path / "cache").mkdir()
    with Writer(tmp_path / "cache", RECIPE) as writer:
        done = in_twos(root, writer, build)
    assert list(done.seconds) == [*pipeline.STAGES, *pipeline.WAITS]
    assert 0.2 <= done.seconds["engine"] < 0.3
    assert 0.3 <= done.seconds["forward"] < 0.6
    assert all(seconds > 0 for seconds in done.seconds.values())


def test_a_batch_is_written_while_the_network_computes_the_next(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos({"a": 6})
    written: list[int] = []
    seen: list[int] = []
    in_time: list[bool] = []

    class Noting(Writer):
        def add(self, digests: object, taps: object, *, engine: str) -> None:
            written.append(len(seen))

    def forward(pixels: NDArray[np.uint8]) -> Taps:
        seen.append(len(pixels))
        deadline = time.monotonic() + 5
        while len(written) < len(seen) - 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        in_time.append(len(written) == len(seen) - 1)
        return values(pixels)

    (tmp_path / "cache").mkdir()
    with Noting(tmp_path / "cache", RECIPE) as writer:
        in_twos(root, writer, lambda pixels: Engine("fake", forward))
    assert seen == [2, 2, 2]
    assert in_time == [True, True, True]
    assert len(written) == 3


def test_an_engine_that_fails_ends_the_run_with_its_reason(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos({"a": 8})
    threads = threading.active_count()
    calls = []

    def forward(pixels: NDArray[np.uint8]) -> Taps:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise MemoryError("no room")
        return values(pixels)

    (tmp_path / "cache").mkdir()
    with (
        pytest.raises(MemoryError, match="no room"),
        Writer(tmp_path / "cache", RECIPE) as writer,
    ):
        in_twos(root, writer, lambda pixels: Engine("fake", forward))
    assert len(stored(tmp_path / "cache")) == 2
    assert threading.active_count() == threads


def test_want_of_memory_ends_the_run_and_names_the_photo(
    photos: MakePhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, counting = photos({"a": 5}), Counting()
    monkeypatch.setattr(memory, "is_there", lambda n: n < 10_000_000)

    def load(image: Image.Image) -> None:
        raise MemoryError

    Image.new("RGB", (2000, 1000)).save(root / "a" / "004.png")
    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(
        memory.OutOfMemory, match=r"a/004\.png: not enough memory; decoding it takes up"
    ):
        computed(root, ["a/004.png"], tmp_path / "cache", counting)
