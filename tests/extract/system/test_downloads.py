import hashlib
import io
import os
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from extract.system import downloads
from extract.system.console import InputError
from extract.system.downloads import Wheel
from tests.conftest import Site

FILENAME = "tiny_photos-1.0-py3-none-any.whl"
ON_INDEX = f"/simple/tiny-photos/{FILENAME}"


def tiny_wheel() -> bytes:
    """Return the bytes of a wheel with one photo in it."""
    info = "tiny_photos-1.0.dist-info"
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as file:
        file.writestr("tiny_photos/one.jpg", b"a photo")
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-photos\nVersion: 1.0\n"
        )
        wheel = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr(f"{info}/WHEEL", wheel)
        file.writestr(f"{info}/RECORD", "")
    return image.getvalue()


CONTENT = tiny_wheel()


def pinned(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Wheel:
    return Wheel("tiny-photos", "1.0", FILENAME, sha256, megabytes=1)


@pytest.fixture
def index(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Serve a package index with the wheel in it, the only one that pip knows."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
    page = f'<!DOCTYPE html><html><body><a href="{FILENAME}">{FILENAME}</a></body></html>'
    site.files = {"/simple/tiny-photos/": page.encode(), ON_INDEX: CONTENT}
    return site


def test_fetched_once_and_not_twice(
    index: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new folder"
    path = downloads.fetch(pinned(), folder)
    assert path == folder / FILENAME
    assert path.read_bytes() == CONTENT
    assert index.asked.count(ON_INDEX) == 1
    assert os.listdir(folder) == [FILENAME]
    out, err = capfd.readouterr()
    assert out == f"fetching {FILENAME} (1 MB) through the package index\n"
    assert err == ""

    del index.asked[:]
    assert downloads.fetch(pinned(), folder) == path
    assert index.asked == []
    assert capfd.readouterr() == ("", "")


def test_other_content_under_the_name_is_refused(index: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        downloads.fetch(pinned("0" * 64), tmp_path)
    assert index.asked.count(ON_INDEX) >= 1
    assert FILENAME in str(refused.value)
    assert "HASH" in str(refused.value).upper()
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_damaged_file_is_fetched_again(
    index: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILENAME).write_bytes(CONTENT[:-1])
    assert downloads.fetch(pinned(), tmp_path).read_bytes() == CONTENT
    assert index.asked.count(ON_INDEX) == 1
    assert "damaged" in capfd.readouterr().err


def test_file_put_in_the_folder_by_hand_is_taken(index: Site, tmp_path: Path) -> None:
    (tmp_path / FILENAME).write_bytes(CONTENT)
    assert downloads.fetch(pinned(), tmp_path) == tmp_path / FILENAME
    assert index.asked == []


def test_unreachable_index_says_which_file_belongs_where(
    index: Site, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port}/simple")
    with pytest.raises(InputError) as refused:
        downloads.fetch(pinned(), tmp_path)
    message = str(refused.value)
    assert FILENAME in message
    assert str(tmp_path) in message
    assert "pip download --no-deps tiny-photos==1.0" in message
    assert "\n" not in message
    assert os.listdir(tmp_path) == []


def test_damaged_file_stays_while_the_index_is_unreachable(
    index: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / FILENAME).write_bytes(b"damaged")
    with pytest.raises(InputError):
        downloads.fetch(pinned(), tmp_path)
    assert os.listdir(tmp_path) == [FILENAME]


def test_without_pip_the_one_that_python_brings_along_is_used(
    index: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "find_spec", lambda name: name != "pip" and find_spec(name))
    assert downloads.fetch(pinned(), tmp_path).read_bytes() == CONTENT


def test_python_without_any_pip_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"has no pip, .*uv pip install pip"):
        downloads.fetch(pinned(), tmp_path)
