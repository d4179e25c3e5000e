"""Manifests as people and programs write them, and as strangers might."""

import csv
import os
from pathlib import Path

import pytest

from extract.photos import manifest, scan
from extract.photos.manifest import labelled_photos
from extract.photos.scan import Photo
from extract.system.console import InputError
from tests.conftest import HOSTILE

Found = dict[str, tuple[str, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few files; a manifest does not look into them."""
    root = tmp_path / "home"
    for name in ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg", "sub/Köpfe, x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def written(folder: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def found(folder: Path, content: str | bytes) -> Found:
    photos = labelled_photos(written(folder, content)).photos
    return {photo.path: (photo.class_name, photo.split, photo.group) for photo in photos}


def problem(folder: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as error:
        labelled_photos(written(folder, content))
    return str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.jpg,cat\nsub/d.jpg,dog\n",
        "\ufeffpath,label\r\na.jpg,cat\r\nsub/d.jpg,dog",
        "path;label\na.jpg;cat\nsub/d.jpg;dog\n",
        "path\tlabel\na.jpg\tcat\nsub/d.jpg\tdog\n",
        "sep=;\r\nPath;LABEL;\r\na.jpg;cat;\r\nsub/d.jpg;dog;\r\n",
        'Label , "path", note\n cat, "a.jpg", x\n"dog",sub\\d.jpg\n',
        "\npath,label\n\n,\na.jpg,cat\n./sub/../sub/d.jpg,dog\n\n",
        "path,label\ra.jpg,cat\rsub/d.jpg,dog\r",
        "path\tlabel\r\na.jpg\tcat\r\nsub/d.jpg\tdog\r\n".encode("utf-16"),
        "path,label\na.jpg,cat\nsub/d.jpg,dog\na.jpg,cat\nb.jpg,\n",
    ],
)
def test_ways_of_writing_the_same(content: str | bytes, folder: Path) -> None:
    assert found(folder, content) == {"a.jpg": ("cat", "", ""), "sub/d.jpg": ("dog", "", "")}


def test_splits_groups_and_names_with_separators(folder: Path) -> None:
    rows = 'Training,tom,"cat ""big"", old",a.jpg\nvalid,,dog,"sub/Köpfe, x.jpg"\n,,dog,b.jpg\n'
    assert found(folder, f"split,group,label,path\n{rows}") == {
        "a.jpg": ('cat "big", old', "train", "tom"),
        "sub/Köpfe, x.jpg": ("dog", "val", ""),
        "b.jpg": ("dog", "train", ""),
    }


def test_photos_elsewhere(folder: Path) -> None:
    inner = folder / "sub" / "inner"
    inner.mkdir()
    file = written(inner, f"path,label\n../../a.jpg,cat\n{folder}/b.jpg,dog\n../d.jpg,dog\n")
    photos = labelled_photos(file)
    assert photos.root == folder
    assert [photo.path for photo in photos.photos] == ["a.jpg", "b.jpg", "sub/d.jpg"]


def test_a_path_may_be_a_file_url(folder: Path) -> None:
    rows = f"file://{folder}/a.jpg,cat\nfile://{folder}/sub/d.jpg,dog\n"
    assert set(found(folder, f"path,label\n{rows}")) == {"a.jpg", "sub/d.jpg"}


def test_every_bad_row_is_listed_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe")
    bad = {
        "gone.jpg,cat,": "'gone.jpg' cannot be read (No such file or directory)",
        "sub,cat,": "'sub' is a folder",
        "pipe,cat,": "'pipe' is not a regular file",
        ",cat,": "the path is empty",
        "b.jpg,cat,unseen": "the split 'unseen' is none of train, val and test",
        "s3://bucket/b.jpg,cat,": "'s3://bucket/b.jpg' is a URL",
        "C:\\photos\\b.jpg,cat,": "C:\\photos\\b.jpg is a Windows path",
        "b.jpg,cat,,,extra": "5 fields for 3 columns",
        f"b.jpg,{'x' * 10_000},": "has more than 255 bytes",
        f"{'x' * 10_000},cat,": "cannot be read (File name too long)",
        "./a.jpg,dog,": f"{folder}/a.jpg has the label 'dog', and 'cat' in line 2",
        "sub/d.jpg,dog,test": "has the split 'test', and '' in line 3",
    }
    # The row of c.jpg has two lines, 4 and 5.
    good = 'path,label,split\na.jpg,cat,\nsub/d.jpg,dog,\nc.jpg,"x\ny",\n'
    message = problem(folder, good + "\n".join(bad) + "\n")
    assert f"{len(bad)} rows cannot be used" in message
    listed = capsys.readouterr().err.splitlines()
    for (line, expected), said in zip(enumerate(bad.values(), 6), listed, strict=True):
        assert said.startswith(f"  line {line}: ")
        assert expected in said


def test_bad_rows_beyond_the_first_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem(folder, "path,label\n" + "".join(f"{i}.jpg,cat\n" for i in range(1000)))
    listed = capsys.readouterr().err.splitlines()
    assert (len(listed), listed[-1]) == (manifest.SHOWN + 1, "  and 980 other bad rows")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.jpg,cat\nsub/d.jpg,dog\n", "must name the columns path and label; it lacks path and"),
        ("path,class\na.jpg,cat\n", "it lacks label"),
        ("", "it lacks path and label"),
        ("path,label,Label\na.jpg,cat,dog\n", "2 columns are called label"),
        ('path,label\na.jpg,"cat\nsub/d.jpg,dog\n', "line 2 is not CSV"),
        ("path,label\na.jpg,c\0t\n", "line 2 has a zero byte"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1 is not text in UTF-8"),
        ("path,label\na.jpg,K\u00f6pfe\n".encode("latin-1"), "line 2 is not text in UTF-8"),
        ("path,label\na.jpg,\n", "no row has a label"),
        ("path,label\na.jpg,cat\n", "every label is 'cat'"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,dog,train\n", "names only train"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(
    content: str | bytes, said: str, folder: Path
) -> None:
    assert said in problem(folder, content)


def test_a_record_counts_the_last_answer(folder: Path) -> None:
    answers = [
        ("a.jpg", "cat", ""),
        ("a.jpg", "dog", "label"),
        ("b.jpg", "cat", "label"),
        ("b.jpg", "dog", "label"),
        ("b.jpg", "", "undo"),
        ("c.jpg", "cat", "label"),
        ("c.jpg", "", "skip"),
        ("sub/d.jpg", "cat", "label"),
        ("sub/d.jpg", "", "none"),
    ]
    rows = "".join(f"{path},{label},2026-01-01,{answer}\n" for path, label, answer in answers)
    assert found(folder, f"path,label,time,answer\n{rows}") == {
        "a.jpg": ("dog", "", ""),
        "b.jpg": ("cat", "", ""),
        "c.jpg": ("cat", "", ""),
    }
    taken_back = "b.jpg,,,undo\nsub/d.jpg,,,undo\n"
    assert found(folder, f"path,label,time,answer\n{rows}{taken_back}") == {
        "a.jpg": ("dog", "", ""),
        "c.jpg": ("cat", "", ""),
        "sub/d.jpg": ("cat", "", ""),
    }
    assert "rows cannot be used" in problem(folder, "path,label,answer\na.jpg,,undo\na.jpg,,undo\n")


def test_what_is_left_out_is_said(folder: Path) -> None:
    content = "path,label,answer,width\na.jpg,cat,,7\nb.jpg,dog,,\nc.jpg,,,\nsub/d.jpg,,none,\n"
    notes = labelled_photos(written(folder, content + "a.jpg,Cat,,\nb.jpg,cat,,\n")).notes
    assert [note.partition("labels.csv: ")[2] for note in notes[:3]] == [
        "columns that are not read: 'width'",
        "1 photo without a label left out",
        "1 photo answered without a label left out",
    ]
    assert "differ only in case" in notes[3]


def test_labels_that_look_equal_are_one_class(folder: Path) -> None:
    content = "path,label\na.jpg,K\u00f6pfe\nb.jpg,Ko\u0308pfe\nc.jpg,dog\n"
    assert labelled_photos(written(folder, content)).class_names == ["K\u00f6pfe", "dog"]


def test_a_manifest_of_a_folder_gives_the_same_photos(tmp_path: Path) -> None:
    root, labels = tmp_path / "=photos", tmp_path / "lists" / "labels.csv"
    labels.parent.mkdir()
    for split in ("train", "test"):
        for name in [*(name.replace("/", "|") for name in HOSTILE), " cat ", "- x"]:
            for photo in (" a.jpg", "=1,2.jpg", 'b";\r\n.jpg', "-x.jpg "):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                (root / split / name / photo).touch()
    before = scan.labelled_photos(root)
    manifest.write(labels, before)
    after = labelled_photos(labels)
    moved = [Photo(f"=photos/{p.path}", p.class_name, p.split) for p in before.photos]
    assert (after.root, after.photos) == (tmp_path, moved)
    assert after.class_names == before.class_names
    with pytest.raises(InputError, match="exists"):
        manifest.write(labels, before)
    beside = tmp_path / "labels.csv"
    manifest.write(beside, before)
    assert labelled_photos(beside).photos == moved
    assert {row["path"][:3] for row in csv.DictReader(beside.open(newline=""))} == {"./="}
