"""The whole workflow on a few real photos with the real weights, as make runs it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from classify import results
from extract.photos import datasets
from extract.store import features_file
from extract.system import machine
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.long

PIECES = ("Bishop", "Knight", "Rook")
PHOTOS = 8


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a few chess pieces that has gone through the whole workflow."""
    out = tmp_path_factory.mktemp("workflow")
    chess = datasets.locate("chess", folder=CHECKOUT / "data")
    for piece in PIECES:
        (out / "photos" / piece).mkdir(parents=True)
        for path in sorted((chess / piece).iterdir())[:PHOTOS]:
            shutil.copy(path, out / "photos" / piece)
    cache = CHECKOUT / "features/cache"
    if (cache / "vgg16.h5").exists():
        (out / "features/cache").mkdir(parents=True)
        shutil.copy(cache / "vgg16.h5", out / "features/cache")
    return out


def test_photos_become_a_comparison_of_five_classifiers(out: Path) -> None:
    photos = out / "photos"
    said = run("extract", photos, "--out", out, "--activations", "block4_pool")
    assert f"VGG16: {PHOTOS * len(PIECES)} images computed" in said
    run("classify", photos, "--out", out)
    said = run("finetune", "train", photos, "--out", out, "--epochs", 1)
    every = {"finetuned-all"} if machine.has_gpu() else set()
    assert every or "no GPU, where it would take" in said.splitlines()[-1]
    said = run("finetune", "compare", photos, "--out", out)
    with features_file.open(out / "features/photos.h5") as features:
        assert len(features.paths) + len(features.skipped) == PHOTOS * len(PIECES)
        test = len(features.rows("test"))
    assert test == 6
    found = {folder.name: results.load(folder) for folder in results.folders(out / "runs/photos")}
    assert set(found) == {"logistic", "svm", "mlp", "baseline", "finetuned"} | every
    # Chance is a third, and two in six: real features must do better than that.
    assert max(found[name].metrics["accuracy"] for name in ("logistic", "svm", "mlp")) >= 4 / 6
    assert len({result.data_digest for result in found.values()}) == 1
    record = json.loads((out / "reports/photos/compare.json").read_text())
    assert len(record["models"]) == len(found)
    page = (out / "reports/photos/index.html").read_text()
    assert not re.search(r"""(src|href)=["']https?:""", page)
    for name in found:
        assert name in said
        assert name in page


def test_a_second_run_computes_nothing(out: Path) -> None:
    path = out / "features/photos.h5"
    before = path.read_bytes()
    assert "nothing to do" in run("extract", out / "photos", "--out", out)
    assert path.read_bytes() == before
