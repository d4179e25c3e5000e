import io
import os
import socket
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from extract.photos import scan
from extract.photos.scan import Photo, labelled_photos
from extract.system.console import InputError
from tests.conftest import MakePhotos, picture

PHOTO = picture(0)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def all_files(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def test_every_file_is_a_photo_or_skipped_with_a_reason(photos: MakePhotos) -> None:
    root = photos({"dogs": 2, "cats": 2, "empty": 0})
    (root / "cats" / "notes.txt").write_text("may be a photo, decoding tells")
    (root / "cats" / ".DS_Store").write_bytes(b"x")
    (root / "dogs" / "Thumbs.db").write_bytes(b"x")
    (root / "dogs" / "desktop.ini").write_bytes(b"x")
    (root / "README.md").write_text("stray")
    (root / ".hidden").write_text("stray")
    found = labelled_photos(root)
    assert found.class_names == ["cats", "dogs", "empty"]
    assert found.photos == [
        Photo("cats/000.png", "cats"),
        Photo("cats/001.png", "cats"),
        Photo("cats/notes.txt", "cats"),
        Photo("dogs/000.png", "dogs"),
        Photo("dogs/001.png", "dogs"),
    ]
    assert found.skipped == [
        (".hidden", "hidden or system file"),
        ("README.md", "not in a class folder"),
        ("cats/.DS_Store", "hidden or system file"),
        ("dogs/Thumbs.db", "hidden or system file"),
        ("dogs/desktop.ini", "hidden or system file"),
    ]
    assert len(found.photos) + len(found.skipped) == all_files(root)


@pytest.mark.parametrize("name", [".git", "__MACOSX", "@eaDir"])
def test_system_folder_is_not_a_class(name: str, photos: MakePhotos) -> None:
    found = labelled_photos(photos({"a": 1, "b": 1, name: 1}))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [(f"{name}/", "hidden or system folder")]


def test_folders_inside_a_class_belong_to_it(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"a": 1, "a/more/still": 1, "a/train": 1, "b": 1}))
    assert found.class_names == ["a", "b"]
    assert [(p.path, p.class_name) for p in found.photos] == [
        ("a/000.png", "a"),
        ("a/more/still/000.png", "a"),
        ("a/train/000.png", "a"),
        ("b/000.png", "b"),
    ]


def test_order_is_that_of_the_paths(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"b": 12, "a-b": 1, "a": 1, "a/x": 1, "B": 1}))
    paths = [photo.path for photo in found.photos]
    assert paths == sorted(paths)
    assert found.class_names == ["B", "a", "a-b", "b"]


@pytest.mark.parametrize(
    "name", ["with space.png", "Käse ♞.png", "line\nbreak.png", "quote'\".png", "back\\slash.png"]
)
def test_odd_names_are_names(name: str, photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    (root / "a" / name).write_bytes(saved(PHOTO, "PNG"))
    assert Photo(f"a/{name}", "a") in labelled_photos(root).photos


def test_name_that_is_not_utf8_is_skipped_and_its_name_can_be_stored(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    with open(os.fsencode(root) + b"/a/caf\xe9.png", "wb") as file:
        file.write(saved(PHOTO, "PNG"))
    found = labelled_photos(root)
    assert len(found.photos) == 2
    assert found.skipped == [("a/caf\\udce9.png", "file or folder name is not UTF-8; rename it")]


def test_folder_name_that_is_not_utf8(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    folder = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(folder)
    (Path(os.fsdecode(folder)) / "1.png").write_bytes(saved(PHOTO, "PNG"))
    found = labelled_photos(root)
    assert found.class_names == ["a", "b", "caf\\udce9"]
    assert [path for path, _ in found.skipped] == ["caf\\udce9/1.png"]
    assert "".join(found.class_names).encode()


def test_stray_folder_name_that_is_not_utf8(photos: MakePhotos) -> None:
    root = photos({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    assert labelled_photos(root).skipped == [("caf\\udce9/", "folder beside train, val and test")]


def test_links_are_followed_and_loops_are_not(photos: MakePhotos, tmp_path: Path) -> None:
    root = photos({"a": 1, "b": 1})
    elsewhere = photos({"c": 2}, name="elsewhere")
    (root / "linked").symlink_to(elsewhere / "c")
    (root / "a" / "linked.png").symlink_to(elsewhere / "c" / "000.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "knot").symlink_to(root / "a" / "knot")
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert [(p.path, p.class_name) for p in labelled_photos(root).photos] == [
        ("a/000.png", "a"),
        ("a/gone.png", "a"),
        ("a/knot", "a"),
        ("a/linked.png", "a"),
        ("b/000.png", "b"),
        ("linked/000.png", "linked"),
        ("linked/001.png", "linked"),
    ]


def test_link_loop_beside_the_classes_is_skipped(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    (root / "knot").symlink_to(root / "knot")
    assert labelled_photos(root).skipped == [("knot", "not in a class folder")]


def test_pipes_and_sockets_are_skipped_and_not_waited_for(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    os.mkfifo(root / "a" / "pipe.png")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        # A socket's path may have 100 characters only.
        listening.bind(f"{short}/s")
        os.rename(f"{short}/s", root / "b" / "socket.png")
        found = labelled_photos(root)
    reason = "not a regular file"
    assert found.skipped == [("a/pipe.png", reason), ("b/socket.png", reason)]
    assert len(found.photos) == 2


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "test"), ["test", "train"]),
        (("train", "val"), ["train", "val"]),
        (("train", "val", "test"), ["test", "train", "val"]),
        (("train", "validation", "test"), ["test", "train", "val"]),
        (("Train", "VALIDATION", "Test"), ["test", "train", "val"]),
    ],
)
def test_splits_are_taken_from_the_folders(
    folders: tuple[str, ...], splits: list[str], photos: MakePhotos
) -> None:
    root = photos({f"{folder}/{name}": 2 for folder in folders for name in ("a", "b")})
    found = labelled_photos(root)
    assert found.class_names == ["a", "b"]
    assert sorted({photo.split for photo in found.photos}) == splits
    assert len(found.photos) == 4 * len(folders)
    for photo in found.photos:
        folder, class_name, _ = photo.path.split("/")
        assert photo.class_name == class_name
        assert photo.split == scan.SPLIT_FOLDERS[folder.lower()]


def test_folders_beside_the_splits_are_skipped(photos: MakePhotos) -> None:
    root = photos({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "extra": 3})
    (root / "train" / "list.csv").write_text("x")
    (root / "labels.csv").write_text("x")
    found = labelled_photos(root)
    assert len(found.photos) == 4
    assert found.skipped == [
        ("extra/", "folder beside train, val and test"),
        ("labels.csv", "not in a class folder"),
        ("train/list.csv", "not in a class folder"),
    ]


@pytest.mark.parametrize("name", ["train", "Test", "val"])
def test_class_called_like_a_split_stays_a_class(name: str, photos: MakePhotos) -> None:
    found = labelled_photos(photos({name: 1, "bus": 1}))
    assert found.class_names == sorted([name, "bus"])
    assert {photo.split for photo in found.photos} == {""}


def test_test_and_val_without_train_are_classes(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"test": 1, "val": 1}))
    assert found.class_names == ["test", "val"]


def test_left_out_class(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1, "BACKGROUND_Google": 2})
    found = labelled_photos(root, exclude=("BACKGROUND_Google",))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [("BACKGROUND_Google/", "class left out (--background keeps it)")]
    assert len(labelled_photos(root).class_names) == 3


@pytest.mark.parametrize("classes", [{"a": 3}, {}, {"train/a": 2, "test/a": 2}])
def test_fewer_than_two_classes_is_an_input_error(classes: dict[str, int], tmp_path: Path) -> None:
    root = tmp_path / "few"
    root.mkdir()
    for name, n in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i}.png").write_bytes(saved(PHOTO, "PNG"))
    with pytest.raises(InputError, match="two are needed"):
        labelled_photos(root)
