import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from extract.photos import files
from extract.photos.decode import Unreadable
from extract.system import locations
from tests.object_store import ObjectStore

FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
PHOTO = b"\xff\xd8\xff\xe0"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the sizes small: a block has 100 bytes, a large file 300, the largest 1,000."""
    for name, size in {"BLOCK": 100, "LARGE": 300, "LARGEST": 1000}.items():
        monkeypatch.setattr(files, name, size)


Put = Callable[[bytes], tuple[locations.Location, str]]


@pytest.fixture(params=["disk", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Return a function that writes a file and returns where it is."""
    s3: ObjectStore | None = request.getfixturevalue("s3") if request.param == "s3" else None

    def written(content: bytes) -> tuple[locations.Location, str]:
        if s3 is None:
            (tmp_path / "x.jpg").write_bytes(content)
            return tmp_path, "x.jpg"
        s3.put("pets/x.jpg", content)
        return locations.location("s3://bucket/pets"), "x.jpg"

    return written


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [0, 4, 99, 100, 101, 200, 299, 300, 301, 400, 999, 1000])
def test_content_and_digest_are_of_all_bytes(size: int, put: Put) -> None:
    content = (PHOTO + bytes(range(256)) * 4)[:size]
    root, path = put(content)
    with files.content(root, path) as data:
        assert data == content
    with locations.opened(root, path) as read:
        assert files.digest(read) == hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("small")
def test_a_larger_file_is_refused_with_the_limit(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 2_000_000)
    root, path = put(PHOTO + bytes(1_999_997))
    reason = "larger than 2 MB, the most that is read of a photo"
    with pytest.raises(Unreadable, match=reason), files.content(root, path):
        pass
    with locations.opened(root, path) as read, pytest.raises(Unreadable, match=reason):
        files.digest(read)


def test_no_more_than_the_first_block_of_a_film_is_read(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(FILM)
    os.truncate(tmp_path / "film.mp4", 1 << 40)
    asked = []
    with locations.opened(tmp_path, "film.mp4") as read:

        def noting(start: int, end: int) -> bytes:
            asked.append((start, end))
            return read(start, end)

        with pytest.raises(Unreadable, match="not an image file that Pillow can read"):
            files.digest(noting)
    assert asked == [(0, files.BLOCK)]
    with (
        pytest.raises(Unreadable, match="not an image file"),
        files.content(tmp_path, "film.mp4"),
    ):
        pass


def test_a_photo_in_a_store_takes_one_request(s3: ObjectStore) -> None:
    s3.put("pets/1.jpg", PHOTO + bytes(3_000_000))
    s3.put("pets/empty.jpg", b"")
    root = locations.location("s3://bucket/pets")
    s3.asks()
    for name in ("1.jpg", "empty.jpg"):
        with files.content(root, name):
            pass
        with locations.opened(root, name) as read:
            files.digest(read)
    assert s3.asks() == 2 * ["GET pets/1.jpg"] + 2 * ["GET pets/empty.jpg"]


@pytest.mark.usefixtures("small")
def test_one_large_file_is_in_memory_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(PHOTO + bytes(300))
    (tmp_path / "small.jpg").write_bytes(PHOTO)
    entered = threading.Event()

    def read_another() -> None:
        with files.content(tmp_path, "large.jpg"):
            entered.set()

    another = threading.Thread(target=read_another)
    with files.content(tmp_path, "large.jpg"):
        another.start()
        with files.content(tmp_path, "small.jpg"):
            pass
        assert not entered.wait(0.1)
    another.join(5)
    assert entered.is_set()


def test_the_output_of_a_program_is_read_from_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, PHOTO + bytes(1000))
    os.close(writing)
    try:
        with files.content(Path(), f"/dev/fd/{reading}") as data:
            assert data == PHOTO + bytes(1000)
    finally:
        os.close(reading)
