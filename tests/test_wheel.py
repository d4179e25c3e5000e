"""The wheel, installed into an environment of its own, does the main job in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, MakePhotos

pytestmark = pytest.mark.long

PACKAGES = ("extract", "classify", "finetune", "onepass")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    without = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(CHECKOUT / package, folder / package, ignore=without)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    built = folder / "built"
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-build-isolation", "-w", built, folder], check=True
    )
    (path,) = built.glob("onepass-*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    ours = {
        path.relative_to(CHECKOUT).as_posix()
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == ours


def test_the_installed_command_takes_photos_to_a_page_in_an_empty_folder(
    wheel: Path, photos: MakePhotos, vgg16_weights: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    scheme = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    # Its dependencies are those of the tests.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    pets, empty = photos(name="pets"), tmp_path / "empty"
    empty.mkdir()

    def onepass(*words: object) -> str:
        done = subprocess.run(
            [environment / "bin" / "onepass", *map(str, words)],
            cwd=empty,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "features   let VGG16 see every photo once" in onepass("--help")
    onepass("features", pets, "--weights", vgg16_weights, "--engine", "ncnn")
    told = onepass("heads", pets, "--heads", "logistic")
    assert "logistic: accuracy" in told
    assert "reports/pets/index.html" in onepass("compare", pets)
    assert {path.name for path in empty.iterdir()} == {"features", "runs", "reports"}
