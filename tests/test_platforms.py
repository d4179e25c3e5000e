"""The main job without what Windows lacks. No real Windows and no real Mac was tried."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT, MakePhotos

AS_ON_WINDOWS = """
import mmap, os, signal, sys

# Libraries look for what the real platform has.
import filelock, h5py, matplotlib.pyplot, PIL.Image, pooch, rich.progress, skops.io
import sklearn.linear_model, sklearn.neural_network, pytest
from joblib.externals import loky

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in {
    os: ("sync", "O_NOFOLLOW", "O_DIRECTORY"),
    signal: ("SIGPIPE", "SIGHUP"),
    mmap: ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_SHARED"),
}.items():
    for name in names:
        delattr(module, name)

open_file, link = os.open, os.symlink


def open_no_folder(path, *how, **options):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return open_file(path, *how, **options)


def no_link(*paths, **options):
    error = OSError(22, "A required privilege is not held by the client")
    error.winerror = 1314
    raise error


os.open, os.symlink = open_no_folder, no_link
"""

PROGRAM = """
from extract.engines import selection
from extract.engines.base import Engine
from extract.vgg16.recipe import TAPS
from onepass import __main__ as onepass


def values(photos):
    seen = photos.reshape(len(photos), -1)[:, ::16].astype("float32")
    return {tap: seen[:, :width] for tap, width in TAPS.items()}


selection.choose = lambda *wanted, **how: Engine("stand-in", values)
sys.argv[0] = "onepass"
onepass.start()
"""


def test_features_heads_compare_and_sort_need_nothing_that_windows_lacks(
    photos: MakePhotos, vgg16_weights: Path, tmp_path: Path
) -> None:
    pets, out = photos(), tmp_path / "out"

    def onepass(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", AS_ON_WINDOWS + PROGRAM, *map(str, words)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )

    where = ("--out", out)
    for words in (
        ("features", pets, "--weights", vgg16_weights, *where),
        ("heads", pets, "--heads", "logistic", *where),
        ("compare", pets, *where),
    ):
        done = onepass(*words)
        assert done.returncode == 0, done.stderr
    assert (out / "reports" / "pets" / "index.html").exists()
    sort = ("sort", "logistic", pets, "--data", pets, "--to", tmp_path / "sorted", *where)
    done = onepass(*sort, "--weights", vgg16_weights, "--how", "link")
    assert done.returncode == 2
    assert "Windows makes links in developer mode only" in done.stderr
