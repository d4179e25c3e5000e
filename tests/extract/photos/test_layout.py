from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from extract.photos import layout
from extract.photos.layout import ClassFolder, Layout
from extract.photos.tree import Tree
from extract.system.console import InputError

Read = Callable[[str], Layout]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that makes empty files, their paths in one text, and reads the layout."""

    def make(paths: str) -> Layout:
        for path in paths.split():
            file = tmp_path / "pets" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return layout.read(Tree(tmp_path / "pets"))

    return make


def below(folders: Iterable[str]) -> str:
    """Return photos of two classes in each folder."""
    return " ".join(f"{folder}/{name}/1.jpg" for folder in folders for name in ("cat", "dog"))


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "test": "test"},
        {"train": "train", "val": "val"},
        {"train": "train", "valid": "val", "test": "test"},
        {"Training": "train", "Testing": "test"},
        {"TRAIN": "train", "Validation": "val", "Test": "test"},
        {"training_set": "train", "test_set": "test"},
        {"training-sets": "train", "validation-sets": "val"},
        {"trainSet": "train", "testSet": "test"},
        {"traindata": "train", "testdata": "test"},
        {"train images": "train", "test images": "test"},
        {"train2017": "train", "val2017": "val"},
        {"seg_train": "train", "seg_test": "test"},
        {"trainval": "train", "test": "test"},
        {"train": "train", "dev": "val", "eval": "val"},
        {"Treino": "train", "Validação": "val", "Teste": "test"},
        {"treinamento": "train", "validac\u0327a\u0303o": "val"},
        {"1_train": "train", "2_val": "val", "3_test": "test"},
        {"train_1": "train", "train_2": "train", "test": "test"},
    ],
)
def test_names_that_people_give_to_splits_are_recognised(names: dict[str, str]) -> None:
    assert layout.split_folders([*names, "other"]) == names


@pytest.mark.parametrize(
    "names",
    [
        ["train", "bus"],
        ["test", "control"],
        ["valid", "invalid"],
        ["train_station", "test_tube"],
        ["training shoes", "tests"],
        ["trains", "planes", "automobiles"],
        ["contest", "restrain", "evaluate"],
        ["set", "data"],
        ["train_cats", "test_dogs"],
    ],
)
def test_classes_that_sound_like_splits_are_no_splits(names: list[str]) -> None:
    assert layout.split_folders(names) == {}


def test_split_folders_hold_the_classes(read: Read) -> None:
    found = read(f"{below(['Training', 'Testing'])} Training/stray.txt labels.csv")
    assert found.classes == [
        ClassFolder("Testing/cat", "cat", "test"),
        ClassFolder("Testing/dog", "dog", "test"),
        ClassFolder("Training/cat", "cat", "train"),
        ClassFolder("Training/dog", "dog", "train"),
    ]
    reason = "not in a class folder"
    assert found.tree.skipped == {"Training/stray.txt": reason, "labels.csv": reason}
    assert not found.notes


@pytest.mark.parametrize(
    "homes",
    [
        ["training_set/training_set", "test_set/test_set"],
        ["train/images", "test"],
        ["train", "test/a/b"],
    ],
)
def test_folders_that_wrap_the_classes_of_a_split(homes: list[str], read: Read) -> None:
    found = read(below(homes))
    assert {(place.path, place.split) for place in found.classes} == {
        (f"{home}/{name}", home[:4].rstrip("i") if home.startswith("test") else "train")
        for home in homes
        for name in ("cat", "dog")
    }


def test_single_folder_in_train_that_may_be_a_class_is_told(read: Read, tmp_path: Path) -> None:
    found = read("train/cat/monday/1.jpg train/cat/tuesday/1.jpg test/monday/1.jpg")
    assert found.notes == [
        f"{tmp_path}/pets/train: it has one folder, so the folders in train/cat are the classes or "
        "splits: monday, tuesday"
    ]


def test_classes_that_train_lacks_are_found_in_a_wrapping_folder(read: Read) -> None:
    found = read(f"{below(['train'])} test/test/cow/1.jpg test/test/pig/1.jpg")
    assert {place.name for place in found.classes} == {"cat", "dog", "cow", "pig"}


def test_split_with_one_of_the_classes_is_not_taken_for_a_wrapper(read: Read) -> None:
    found = read(f"{below(['train'])} test/cat/monday/1.jpg test/cat/tuesday/1.jpg")
    assert [place.path for place in found.classes if place.split == "test"] == ["test/cat"]


def test_class_that_train_lacks_stays_a_class(read: Read) -> None:
    found = read(f"{below(['train'])} test/cow/1.jpg test/pig/1.jpg")
    assert {place.name for place in found.classes} == {"cat", "dog", "cow", "pig"}


@pytest.mark.parametrize("inside", ["", "test/", "unknown/", "a/b/"])
@pytest.mark.parametrize(
    ("labelled", "source"),
    [(["train"], "test is cut from train"), (["train", "val"], "val serves as test")],
)
def test_test_photos_without_classes_are_left_out_with_a_note(
    inside: str, labelled: list[str], source: str, read: Read, tmp_path: Path
) -> None:
    found = read(f"{below(labelled)} test/{inside}1.jpg test/{inside}2.jpg")
    assert {place.split for place in found.classes} == set(labelled)
    assert found.tree.skipped == {"test/": "2 files in no class folder of train"}
    folder = tmp_path / "pets" / "test"
    assert found.notes == [
        f"{folder}: 2 files in no class folder of train; {source}; make predict "
        f'IMAGES="{folder}" classifies them'
    ]


def test_unlabelled_folder_beside_the_splits_is_left_out_with_a_note(read: Read) -> None:
    found = read(f"{below(['seg_train', 'seg_test'])} seg_pred/seg_pred/1.jpg")
    assert found.tree.skipped == {"seg_pred/": "1 file in no class folder of train"}
    assert "is cut" not in found.notes[0]
    assert "make predict IMAGES=" in found.notes[0]


@pytest.mark.parametrize("copy", ["extra", "pets", "old/train old/test"])
def test_labelled_folder_beside_the_splits_is_refused(copy: str, read: Read) -> None:
    with pytest.raises(InputError, match="lies beside train and test and holds"):
        read(below(["train", "test", *copy.split()]))


def test_train_without_class_folders_is_refused(read: Read) -> None:
    with pytest.raises(InputError, match=r"train: 2 files and no class folder; put the photos"):
        read("train/cat.1.jpg train/dog.1.jpg test/1.jpg")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (below(["2019", "2020", "2021"]), r"all folders \(2019, 2020, 2021\) hold the same ones"),
        (below(["A/train", "B/train", "A/test", "B/test"]), r"hold splits \(test, train\).*test/A"),
        (below(["fold1", "fold2"]) + " fold1/cow/1.jpg", r"hold the same ones \(cat, dog\)"),
        (
            below(["images"]) + " meta/labels.txt",
            r'meta beside it holds no photo; .* DATA=".*images"',
        ),
        (below(["images"]) + " meta/a/labels.txt", "meta beside it holds no photo"),
        (below(["test", "val"]), "test, val are named as splits are, and one of each kind"),
        (below(["train", "treino"]), "train, treino are named as splits are"),
        (below(["train", "other"]), "holds folders as a split does.*: other; name them val or"),
        (below(["train"]) + " unlabelled/1.jpg", "as a split does.*: unlabelled; name them val"),
        (
            "cat_train/1.jpg cat_test/1.jpg dog_train/1.jpg dog_test/1.jpg",
            "cat_test, cat_train, dog_test, dog_train tell both split and class",
        ),
    ],
)
def test_layout_that_can_be_read_in_two_ways_is_refused(
    paths: str, message: str, read: Read
) -> None:
    with pytest.raises(InputError, match=message):
        read(paths)


@pytest.mark.parametrize(
    "paths",
    [
        "cat/images/1.jpg dog/images/1.jpg",
        "cat/day/1.jpg cat/night/1.jpg cat/1.jpg dog/day/1.jpg dog/night/1.jpg",
        "cat/monday/1.jpg cat/tuesday/1.jpg dog/may/1.jpg dog/june/1.jpg",
        "cat/monday/1.jpg cat/tuesday/1.jpg dog/1.jpg dog/2.HEIC",
        "train/1.jpg train/steam/1.jpg bus/1.jpg",
        "train/1.jpg bus/1.jpg",
    ],
)
def test_class_folders_may_have_folders_of_their_own(paths: str, read: Read) -> None:
    names = sorted({path.split("/")[0] for path in paths.split()})
    assert read(paths).classes == [ClassFolder(name, name, "") for name in names]


def test_wrapping_folder_is_stepped_into_and_the_user_is_told(read: Read, tmp_path: Path) -> None:
    found = read("once/twice/a/1.jpg once/twice/b/1.jpg once/LICENSE .git/x __MACOSX/once/x 1.jpg")
    root = tmp_path / "pets"
    assert found.tree.root == root / "once/twice"
    assert [place.path for place in found.classes] == ["a", "b"]
    outside = "outside the folder that holds the class folders"
    assert found.tree.skipped == {"../LICENSE": outside, "../../1.jpg": outside}
    assert found.notes == [
        f"{root}: it has one folder, so the folders in once/twice are the classes or splits: a, b"
    ]


def test_folder_of_plain_photos_is_not_stepped_into(read: Read, tmp_path: Path) -> None:
    assert read("a/1.jpg").tree.root == tmp_path / "pets"


def test_folder_that_holds_a_link_to_itself(read: Read, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "again").symlink_to(tmp_path / "pets")
    assert read("1.jpg").tree.root == tmp_path / "pets"
