import io
import os
import socket
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from extract.photos.scan import Photo, labelled_photos
from extract.system.console import InputError
from tests.conftest import MakePhotos, picture, write_photos

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


@pytest.mark.parametrize(
    "name",
    [".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information"],
)
def test_system_folder_is_not_a_class(name: str, photos: MakePhotos) -> None:
    found = labelled_photos(photos({"a": 1, "b": 1, name: 1}))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [(f"{name}/", "hidden or system folder")]


def test_system_folder_inside_a_class_has_no_photos(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"a": 1, "a/@eaDir/000.png": 1, "b": 1, "b/.thumbnails": 2}))
    assert [photo.path for photo in found.photos] == ["a/000.png", "b/000.png"]
    reason = "hidden or system folder"
    assert found.skipped == [("a/@eaDir/", reason), ("b/.thumbnails/", reason)]


@pytest.mark.parametrize(
    "file", ["features/cache/lock", "runs/pets/svm/result.json", "reports/pets/compare.json"]
)
def test_folder_that_this_program_made_is_not_a_class(file: str, photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    for place in (root / file, root / "a" / file):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"")
    found = labelled_photos(root)
    assert (found.class_names, len(found.photos)) == (["a", "b"], 2)
    name = file.split("/")[0]
    assert dict(found.skipped).keys() == {f"{name}/", f"a/{name}/"}


@pytest.mark.parametrize("name", ["features", "runs", "reports"])
def test_class_may_have_the_name_of_a_folder_of_ours(name: str, photos: MakePhotos) -> None:
    assert labelled_photos(photos({"a": 1, f"{name}/first": 1})).class_names == ["a", name]


def test_two_unicode_forms_of_a_name_are_one_class(photos: MakePhotos) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    found = labelled_photos(photos({composed: 1, decomposed: 2, "tea": 1}))
    assert found.class_names == [composed, "tea"]
    assert [(p.path, p.class_name) for p in found.photos if p.class_name != "tea"] == [
        (f"{decomposed}/000.png", composed),
        (f"{decomposed}/001.png", composed),
        (f"{composed}/000.png", composed),
    ]


def test_classes_whose_names_differ_in_case_only_are_pointed_out(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"Cat": 1, "cat ": 1, "dog": 1}))
    assert found.class_names == ["Cat", "cat ", "dog"]
    assert found.notes[0].startswith("the classes 'Cat' and 'cat ' differ only in case or spaces")


def test_folders_that_may_not_be_read_are_skipped(unprivileged: Path) -> None:
    root = write_photos(unprivileged / "pets", {"a": 1, "a/more": 1, "b": 1, "secret": 2})
    for folder in ("secret", "a/more"):
        (root / folder).chmod(0)
    found = labelled_photos(root)
    assert found.class_names == ["a", "b"]
    reason = "no permission to read this folder; grant it, or move the folder away"
    assert found.skipped == [("a/more/", reason), ("secret/", reason)]
    assert [photo.path for photo in found.photos] == ["a/000.png", "b/000.png"]


@pytest.mark.parametrize("folder", [".", "train", "test"])
def test_root_or_split_that_may_not_be_read_is_refused(folder: str, unprivileged: Path) -> None:
    classes = {f"{split}/{name}": 1 for split in ("train", "test") for name in ("a", "b")}
    root = write_photos(unprivileged / "pets", classes)
    (root / folder).chmod(0)
    with pytest.raises(InputError, match="no permission to read this folder"):
        labelled_photos(root)


def test_folders_inside_a_class_belong_to_it(photos: MakePhotos) -> None:
    found = labelled_photos(photos({"a": 1, "a/more/still": 1, "a/train": 1, "b": 1}))
    assert found.class_names == ["a", "b"]
    assert [(p.path, p.class_name) for p in found.photos] == [
        ("a/000.png", "a"),
        ("a/more/still/000.png", "a"),
        ("a/train/000.png", "a"),
        ("b/000.png", "b"),
    ]
    assert found.notes == ["the class 'a' has sub-folders, whose photos belong to the class"]


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


def test_class_folder_whose_name_is_not_utf8_is_refused(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(InputError, match=r"class folder caf\\udce9 is not UTF-8; rename it"):
        labelled_photos(root)


def test_stray_folder_name_that_is_not_utf8(photos: MakePhotos) -> None:
    root = photos({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    found = labelled_photos(root)
    assert found.skipped == [("caf\\udce9/", "0 files in no class folder of train")]
    assert len(found.photos) == 4


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


def test_left_out_class(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1, "BACKGROUND_Google": 2})
    found = labelled_photos(root, exclude=("BACKGROUND_Google",))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [("BACKGROUND_Google/", "class left out (--background keeps it)")]
    assert len(labelled_photos(root).class_names) == 3


@pytest.mark.parametrize("classes", [{"a": 3}, {"train/a": 2, "test/a": 2}])
def test_fewer_than_two_classes_is_an_input_error(
    classes: dict[str, int], photos: MakePhotos
) -> None:
    with pytest.raises(InputError, match=r"1 class folder found \(a\); two are needed"):
        labelled_photos(photos(classes))


def test_loose_photos_without_class_folders_are_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match="0 class folders found, 2 files in none; two are needed"):
        labelled_photos(tmp_path)
