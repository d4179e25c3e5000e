"""Features in other programs' formats."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from extract.store import export, features_file
from extract.store.features_file import SPLITS, Features
from extract.system.console import InputError
from tests.synthetic import publish


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Features]:
    path = publish(tmp_path_factory.mktemp("features"), per_class=(3, 1, 1))
    with features_file.open(path) as opened:
        opened.groups[0] = "=group"
        yield opened


def photos(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_csv_has_every_photo_and_value(features: Features, tmp_path: Path) -> None:
    target = tmp_path / "features.csv"
    export.export(features, "csv", ["block5_avg"], target)
    rows = photos(target)
    assert [row["path"] for row in rows] == features.paths
    assert [row["label"] for row in rows] == [features.class_names[i] for i in features.labels]
    assert [row["split"] for row in rows] == features.splits.tolist()
    assert [row["digest"] for row in rows] == features.digests
    assert rows[0]["group"] == r"\u003dgroup"
    found = [[np.float32(row[f"block5_avg_{i}"]) for i in range(512)] for row in rows]
    assert np.array_equal(found, features.read(["block5_avg"], *SPLITS))


def test_npy_is_written_block_by_block(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_file, "ROWS_AT_ONCE", 4)
    taps = ["block5_max", "block3_avg"]
    export.export(features, "npy", taps, tmp_path / "features")
    found = np.load(tmp_path / "features/features.npy", mmap_mode="r")
    assert np.array_equal(found, features.read(taps, *SPLITS))
    assert [row["path"] for row in photos(tmp_path / "features/photos.csv")] == features.paths
    about = json.loads((tmp_path / "features/about.json").read_text())
    assert about["taps"] == {"block5_max": [0, 512], "block3_avg": [512, 768]}


def test_parquet_without_its_package_is_refused(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="needs the package pyarrow"):
        export.export(features, "parquet", ["block5_avg"], tmp_path / "features.parquet")
    assert not list(tmp_path.iterdir())


def test_parquet_has_every_photo_and_value(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(features_file, "ROWS_AT_ONCE", 4)
    target = tmp_path / "features.parquet"
    export.export(features, "parquet", ["block5_avg", "block3_avg"], target)
    table = parquet.read_table(target).to_pydict()
    assert table["path"] == features.paths
    assert table["group"][0] == "=group"
    found = np.hstack([np.array(table[tap], np.float32) for tap in ("block5_avg", "block3_avg")])
    assert np.array_equal(found, features.read(["block5_avg", "block3_avg"], *SPLITS))


@pytest.mark.parametrize(
    ("kind", "taps", "said"),
    [("csv", ["block5_avg"], "a folder, and one file"), ("npy", ["block9"], "no tap block9")],
)
def test_what_cannot_be_written_is_refused(
    kind: str, taps: list[str], said: str, features: Features, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        export.export(features, kind, taps, tmp_path)
