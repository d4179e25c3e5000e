"""The command that sorts: photos go where the model sees them, nothing is lost, all is undone."""

import csv
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify import __main__ as command
from classify import results
from classify.serving.model import Model
from classify.sorting import actions, record, sort
from extract.photos import manifest
from extract.system import console
from tests import commands

COLOURS = {"cat": "red", "dog": "blue", "odd": "gray"}
Snapshot = dict[str, bytes | str]


class Killed(BaseException):
    """Stands for a kill: nothing that comes after it changes the disk."""


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in sees cats in red photos, dogs in blue ones, and is sure of nothing in others."""
    class_names = ["cats", "dogs"]

    def probabilities(photos: Any) -> Any:
        colours = np.stack([photo[32].photo.mean(axis=(0, 1)) for photo in photos])
        cats = 0.5 + (colours[:, 0] - colours[:, 2]) / 520
        return np.stack([cats, 1 - cats], axis=1).astype(np.float32)

    result: Any = SimpleNamespace(model="svm", data="pets", class_names=class_names)
    loaded = Model(result, {32: ()}, probabilities)
    monkeypatch.setattr(sort, "load_model", lambda run, **vgg16: loaded)
    monkeypatch.setattr(results, "find", lambda model, *where: model)
    return class_names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos in ``new/``."""
    monkeypatch.chdir(tmp_path)
    for path in ("new/cat.png", "new/dog.png", "new/odd.png", "new/more/cat.png", "new/CAT.png"):
        write(tmp_path / path)
    (tmp_path / "new/notes.txt").write_text("no photo")
    return tmp_path


def write(path: Path, colour: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour or COLOURS[path.stem.lower()]).save(path)


def run(*words: str) -> CompletedProcess[str]:
    return commands.run(command.main, "sort", "runs/pets/svm", *words)


def undo(file: str = "sorted/onepass-sort.csv") -> CompletedProcess[str]:
    return commands.run(command.main, "sort", "--undo", file)


def snapshot(folder: Path) -> Snapshot:
    """Return the content of every file and folder, and the target of every link."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
    }


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


SORTED = [
    "cats/CAT.png",
    "cats/cat (2).png",
    "cats/cat (3).png",
    "dogs/dog.png",
    "onepass-sort.csv",
    "unsure/odd.png",
]


def test_without_how_nothing_changes_and_everything_is_said(here: Path) -> None:
    before = snapshot(here)
    done = run("new", "--to", "sorted")
    assert done.returncode == 0, done.stderr
    assert snapshot(here) == before
    assert "new/dog.png -> sorted/dogs/dog.png (99.0%)" in done.stdout.splitlines()
    assert "sorted/cats/: 3 photos" in done.stdout.splitlines()
    assert (
        "5 photos to sort, 0 none of these, 1 unsure (below 60%), 0 sorted before, 1 skipped"
        in done.stdout
    )
    assert done.stdout.splitlines()[-1].endswith("(make sort HOW=link)")
    assert "skipped: new/notes.txt: not an image file" in done.stderr


@pytest.mark.parametrize("how", record.HOW)
def test_photos_are_sorted_once_and_undone(how: str, here: Path) -> None:
    before = snapshot(here)
    photo = (here / "new/dog.png").read_bytes()
    done = run("new", "--to", "sorted", "--how", how)
    assert done.returncode == 0, done.stderr
    assert names_in(here / "sorted") == SORTED
    assert (here / "sorted/dogs/dog.png").read_bytes() == photo
    assert (here / "sorted/dogs/dog.png").is_symlink() == (how == "link")
    assert (here / "new/dog.png").exists() == (how != "move")
    assert (here / "new/notes.txt").exists()
    after = snapshot(here)
    again = run("new", "--to", "sorted", "--how", how)
    assert again.returncode == 0, again.stderr
    assert snapshot(here) == after
    write(here / "new/later/dog.png", "navy")
    run("new", "--to", "sorted", "--how", how)
    assert len(names_in(here / "sorted")) == len(SORTED) + 1
    undone = undo()
    assert undone.stdout == "6 photos of 6 undone\n", undone.stderr
    later = {name for name in snapshot(here) if "later" in name}
    assert {name: what for name, what in snapshot(here).items() if name not in later} == before


def test_links_survive_if_everything_moves(here: Path) -> None:
    run("new", "--to", "deep/er/sorted", "--how", "link")
    os.mkdir("elsewhere")
    os.rename("new", "elsewhere/new")
    os.rename("deep", "elsewhere/deep")
    photo = here / "elsewhere/deep/er/sorted/dogs/dog.png"
    assert photo.read_bytes() == (here / "elsewhere/new/dog.png").read_bytes()


@pytest.mark.parametrize(
    ("images", "to"), [(".", "sorted"), ("new", "."), ("new", "new"), (".", ".")]
)
def test_what_was_sorted_is_not_sorted_again(images: str, to: str, here: Path) -> None:
    for _ in range(2):
        done = run(images, "--to", to, "--how", "copy")
        assert done.returncode == 0, done.stderr
    assert len(list((here / to / "cats").iterdir())) == 3


def test_what_a_person_corrected_stays(here: Path) -> None:
    run("new", "--to", "sorted", "--how", "link")
    os.rename("sorted/dogs/dog.png", "sorted/cats/dog.png")
    os.unlink("sorted/unsure/odd.png")
    after = snapshot(here)
    run("new", "--to", "sorted", "--how", "link")
    assert snapshot(here) == after
    undo()
    assert names_in(here / "sorted") == ["cats/dog.png"]


def test_the_record_is_a_manifest_of_the_sorted_photos(here: Path) -> None:
    run("new", "--to", "sorted", "--how", "copy")
    found = manifest.labelled_photos(here / "sorted/onepass-sort.csv")
    assert [photo.class_name for photo in found.photos] == ["cats", "cats", "cats", "dogs"]
    assert all((Path(str(found.root)) / photo.path).is_file() for photo in found.photos)


def test_undo_leaves_what_is_no_longer_what_was_made(here: Path) -> None:
    run("new", "--to", "sorted", "--how", "copy")
    (here / "sorted/dogs/dog.png").write_bytes(b"edited")
    os.unlink("new/odd.png")
    (here / "sorted/mine.txt").touch()
    done = undo()
    assert done.stdout.startswith("3 photos of 5 undone, 2 left as they are")
    assert "sorted/dogs/dog.png: it has changed since" in done.stderr
    assert "sorted/unsure/odd.png: its original is gone or has changed" in done.stderr
    assert names_in(here / "sorted") == [
        "dogs/dog.png",
        "mine.txt",
        "onepass-sort.csv",
        "unsure/odd.png",
    ]


def test_undo_puts_nothing_over_another_file(here: Path) -> None:
    run("new", "--to", "sorted", "--how", "move")
    write(here / "new/dog.png", "navy")
    before = (here / "new/dog.png").read_bytes()
    done = undo()
    assert "another file is where it came from" in done.stderr
    assert (here / "new/dog.png").read_bytes() == before
    assert (here / "sorted/dogs/dog.png").exists()


@pytest.mark.parametrize("how", ["copy", "move"])
def test_undo_keeps_a_photo_whose_old_folder_now_leads_to_it(how: str, here: Path) -> None:
    run("new/dog.png", "--to", "sorted", "--how", how)
    os.rename("new", "old")
    (here / "old/dog.png").unlink(missing_ok=True)
    os.symlink("sorted/dogs", "new")
    assert "left as it is" in undo().stderr
    assert (here / "sorted/dogs/dog.png").exists()


@contextmanager
def killed_after(steps: int, *, other_disk: bool) -> Iterator[list[str]]:
    """Kill the process before the step with this number; return the steps before it.

    Parameters
    ----------
    steps : int
    other_disk : bool
        Whether folders lie on different disks.
    """
    taken: list[str] = []

    def before(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if len(taken) >= steps:
                raise Killed
            taken.append(name)
            if (
                name == "link"
                and other_disk
                and os.path.dirname(given[0]) != os.path.dirname(given[1])
            ):
                raise OSError(errno.EXDEV, "another disk", str(given[0]), None, str(given[1]))
            return function(*given, **named)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "link", "symlink", "rename", "replace", "unlink", "rmdir"):
            patch.setattr(os, name, before(name, getattr(os, name)))
        patch.setattr(actions.shutil, "copyfile", before("copy", actions.shutil.copyfile))
        yield taken


@pytest.mark.parametrize(
    ("how", "other_disk"), [("link", False), ("copy", False), ("move", False), ("move", True)]
)
def test_a_kill_at_any_step_loses_nothing_and_can_be_continued_or_undone(
    how: str, other_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "first/new/cat.png")
    # With a folder that is there already, a kill before the record is written leaves no trace.
    write(tmp_path / "first/sorted/mine.png", "gray")
    before = snapshot(tmp_path / "first")
    wanted = sort.Wanted(Path("sorted"), how)
    steps, is_killed = 0, True
    while is_killed:
        for then in ("undo", "go on"):
            here = tmp_path / f"{steps} {then}"
            shutil.copytree(tmp_path / "first", here)
            monkeypatch.chdir(here)
            try:
                with killed_after(steps, other_disk=other_disk):
                    sort.sort_photos(Path("svm"), ["new"], wanted)
                is_killed = False
            except Killed:
                assert before["new/cat.png"] in snapshot(here).values()
            if then == "go on" or not Path("sorted/onepass-sort.csv").exists():
                assert run("new", "--to", "sorted", "--how", how).returncode == 0
                wanted_names = ["cats/cat.png", "mine.png", "onepass-sort.csv"]
                assert names_in(here / "sorted") == wanted_names
                photo = here / "sorted/cats/cat.png"
                assert photo.read_bytes() == before["new/cat.png"]
                assert (here / "new/cat.png").exists() == (how != "move")
            done = undo()
            assert done.returncode == 0, done.stderr
            assert snapshot(here) == before
        steps += 1
    assert steps > 4


def test_ctrl_c_keeps_what_was_done_in_the_record(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, do, calls = snapshot(here), actions.do, iter(range(9))

    def interrupted(*given: Any) -> str:
        if next(calls) == 2:
            raise console.Stopped(2)
        return do(*given)

    monkeypatch.setattr(actions, "do", interrupted)
    done = run("new", "--to", "sorted", "--how", "move")
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("stopped; ")
    with open("sorted/onepass-sort.csv", newline="") as file:
        assert [row["done"] for row in csv.DictReader(file) if row["digest"]] == ["yes", "yes", ""]
    undo()
    assert snapshot(here) == before


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, new: Path) -> None:
        new.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, new)

    before = snapshot(here)
    with monkeypatch.context() as patch:
        patch.setattr(actions.shutil, "copyfile", full)
        done = run("new", "--to", "sorted", "--how", "copy")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {here}/sorted/cats/CAT.png: No space left on device; no photo")
    assert snapshot(here) == before
    assert run("new", "--to", "sorted", "--how", "copy").returncode == 0
    assert len(names_in(here / "sorted")) == len(SORTED)


def test_a_disk_without_links_takes_moves_and_copies(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: Any, **named: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    monkeypatch.setattr(os, "symlink", none)
    refused = run("new", "--to", "sorted", "--how", "link")
    assert refused.returncode == 2
    assert "has no links" in refused.stderr
    before = snapshot(here)
    for how in ("copy", "move"):
        assert run("new", "--to", "sorted", "--how", how).returncode == 0
        assert len(names_in(here / "sorted")) == len(SORTED)
        assert undo().returncode == 0
        assert snapshot(here) == before


def test_a_source_that_cannot_be_written_is_refused_before_anything_moves(
    unprivileged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unprivileged)
    write(unprivileged / "new/cat.png")
    before = snapshot(unprivileged)
    (unprivileged / "new").chmod(0o500)
    done = run("new", "--to", "sorted", "--how", "move")
    assert done.returncode == 2
    assert "\nerror: new: photos cannot be moved out of this folder" in done.stderr
    assert snapshot(unprivileged) == before


def test_class_names_of_a_stranger_lead_nowhere_else(here: Path, model: list[str]) -> None:
    model[:] = ["../../out", "unsure"]
    before = snapshot(here)
    done = run("new", "--to", "deep/sorted", "--how", "copy")
    assert done.returncode == 0, done.stderr
    added = snapshot(here).keys() - before.keys()
    assert {name.split("/")[0] for name in added} == {"deep"}
    assert {path.name for path in (here / "deep/sorted").iterdir() if path.is_dir()} == {
        "__.._out",
        "unsure",
        "unsure (class)",
    }
    assert "deep/sorted/unsure (class)/ (class 'unsure'): 1 photo" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-", "--to", "sorted"), "-: a photo on standard input cannot be sorted"),
        (("new", "--to", "new/cat.png"), "new/cat.png: not a folder"),
        (("nowhere", "--to", "sorted"), "nowhere: no such file or folder"),
        (("new/notes.txt", "--to", "sorted", "--how", "move"), "no photo there that can be read"),
        (("new", "--to", "other", "--how", "copy"), "sorted there with --how link; use it again"),
        (
            ("new", "--to", "blocked", "--how", "copy"),
            "blocked/cats: a file or a link is in the way",
        ),
        (("new",), "--to"),
    ],
)
def test_unusable_input_is_an_error_of_one_line(
    words: tuple[str, ...], said: str, here: Path
) -> None:
    run("new", "--to", "other", "--how", "link")
    (here / "blocked").mkdir()
    os.symlink("../new", "blocked/cats")
    before = snapshot(here)
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "line",
    [
        "../new/dog.png,,new/x.png,copy,{digest},,yes",
        "/etc/passwd,,new/x.png,move,{digest},,yes",
        "a/b.png,,/etc/x,move,{digest},,yes",
        "a/b.png,,x,remove,{digest},,yes",
        "..,,,folder,,,",
        "a/b.png,,x",
        'a/b.png,"x',
    ],
)
def test_undo_refuses_a_record_that_no_sort_wrote(line: str, here: Path) -> None:
    file = here / "record.csv"
    file.write_text(",".join(record.Row._fields) + "\n" + line.format(digest="0" * 64) + "\n")
    before = snapshot(here)
    done = undo("record.csv")
    assert done.returncode == 2
    assert done.stderr.startswith("error: record.csv: ")
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(here) == before
