"""Every command has help, and refuses the photos of another data set of the same name."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import h5py
import pytest

from classify import __main__ as classify
from classify.serving import predict
from extract import __main__ as extract
from extract.system.console import InputError
from finetune import __main__ as finetune
from tests.conftest import CHECKOUT
from tests.synthetic import publish

COMMANDS = {
    extract: ("features", "info", "verify", "gc"),
    classify: ("train", "predict", "sort", "serve", "label"),
    finetune: ("train", "compare", "export"),
}


@pytest.mark.parametrize("package", COMMANDS, ids=lambda package: package.__package__)
def test_help_lists_every_command_and_every_command_has_help(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def help_of(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["onepass", *words, "--help"])
        with pytest.raises(SystemExit) as end:
            package.main()
        assert end.value.code == 0
        return capsys.readouterr().out

    listed = help_of()
    for name in COMMANDS[package]:
        assert f"    {name} " in listed
        assert help_of(name).startswith(f"usage: python -m {package.__package__} {name} ")


INTERRUPTED = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "h5py":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module({package!r}, run_name="__main__")
"""


@pytest.mark.parametrize("package", ["extract", "classify", "finetune"])
def test_ctrl_c_while_libraries_are_imported_shows_no_traceback(package: str) -> None:
    program = INTERRUPTED.format(package=package)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with the features of A/photos, beside an empty B/photos."""
    for name in ("A/photos", "B/photos"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "out/features/photos.h5"
    path.parent.mkdir(parents=True)
    shutil.move(publish(tmp_path, per_class=(3, 1, 1)), path)
    with h5py.File(path, "r+") as file:
        file.attrs.update({"data": "photos", "root": str(tmp_path / "A/photos")})
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (classify, ("B/photos",)),
        (classify, ("train", "B/photos", "--protocol", "per-class")),
        (classify, ("train", "B/photos", "--learning-curve")),
        (classify, ("predict", "svm", "photo.png", "--data", "B/photos")),
        (classify, ("serve", "svm", "--data", "B/photos")),
        (classify, ("label", "B/photos")),
        (finetune, ("train", "B/photos")),
        (finetune, ("compare", "B/photos")),
        (finetune, ("compare", "A/photos", "B/photos")),
    ],
    ids=lambda value: "-".join(value).replace("/", "") if isinstance(value, tuple) else None,
)
def test_another_folder_of_the_same_name_is_refused_and_nothing_written(
    package: ModuleType, words: tuple[str, ...], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out.parent)
    (out.parent / "photo.png").touch()
    before = sorted(out.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["onepass", *words, "--out", str(out)])
    with pytest.raises(InputError) as refused:
        package.main()
    named = [f"belongs to {out.parent / 'A/photos'}, ", f"DATA is {out.parent / 'B/photos'}; "]
    assert all(name in str(refused.value) for name in named)
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(("package", "words"), [(classify, ()), (finetune, ("train",))])
def test_a_file_where_results_go_is_refused_before_training(
    package: ModuleType, words: tuple[str, ...], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "runs").touch()
    monkeypatch.setattr(sys, "argv", ["onepass", *words, "photos", "--out", str(out)])
    with pytest.raises(InputError, match=r"runs/photos: cannot be created .*; choose .* --out"):
        package.main()


@pytest.mark.parametrize("data", ["A/photos", "A/photos/", "photos", "out/features/photos.h5"])
def test_a_model_is_found_by_its_name_and_its_data_set(
    data: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.chdir(out.parent)
    (out / "runs/photos/svm").mkdir(parents=True)
    (out / "runs/photos/svm/result.json").touch()
    monkeypatch.setattr(predict, "predict_photos", lambda run, photos, **options: asked.append(run))
    words = ["predict", "svm", "photo.png", "--data", data, "--out", "out"]
    monkeypatch.setattr(sys, "argv", ["onepass", *words])
    classify.main()
    assert asked == [Path("out/runs/photos/svm")]


def test_a_data_set_that_is_written_in_two_ways_is_compared_once(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    monkeypatch.chdir(out.parent)

    def compare_one(data: str, folder: Path) -> tuple[Path, None]:
        compared.append(data)
        return folder, None

    monkeypatch.setattr(finetune, "_compare_one", compare_one)
    words = ["compare", "A/photos", "./A/photos/", "photos", "--out", "out"]
    monkeypatch.setattr(sys, "argv", ["onepass", *words])
    finetune.main()
    assert compared == ["A/photos"]
