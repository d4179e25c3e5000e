from pathlib import Path

import h5py
import numpy as np
import pytest

from classify import results
from finetune.compare.mistakes import (
    class_recalls,
    most_confused,
    shared_mistakes,
    surest_mistakes,
)
from finetune.compare.records import read_records
from tests.synthetic_results import edit, fake_features, save


def test_most_confused_of_thirty_classes_of_which_one_is_never_predicted(tmp_path: Path) -> None:
    features = fake_features([f"c{i:02d}" for i in range(30)], test=60)
    (model,), _ = read_records(features, [save(tmp_path, features, "svm", [3, 33, 5])])
    assert model.confusion.shape == (30, 30)
    assert model.confusion[:, 3].sum() == 0
    assert model.confusion.sum() == 60
    assert most_confused(model.confusion) == [(3, 4, 2), (5, 6, 1)]
    assert most_confused(model.confusion, limit=1) == [(3, 4, 2)]


def test_the_surest_mistakes_come_first(tmp_path: Path) -> None:
    features = fake_features(["a", "b", "c"])
    folder = save(tmp_path, features, "svm", [4, 7, 9])
    with h5py.File(folder / "predictions.h5", "r+") as file:
        file["probability"][7] = [0.02, 0.01, 0.97]
    edit(folder, metrics=results.metrics(results.load_predictions(folder)))
    (model,), _ = read_records(features, [folder])
    surest = surest_mistakes(model, features, limit=2)
    assert [(one.row, one.label, one.predicted) for one in surest] == [(22, 1, 2), (13, 1, 2)]
    assert [one.probability for one in surest] == pytest.approx([0.97, 0.9])
    assert len(surest_mistakes(model, features, limit=9)) == 3


def test_a_shared_mistake_is_the_same_wrong_class_by_all_models(tmp_path: Path) -> None:
    features = fake_features(["a", "b", "c"])
    folders = [save(tmp_path, features, "x", [2, 5, 6]), save(tmp_path, features, "y", [5, 6, 8])]
    z = save(tmp_path, features, "z", [5, 6])
    with h5py.File(z / "predictions.h5", "r+") as file:
        # A photo of class c, for which the others predict a.
        file["probability"][5] = [0.1, 0.8, 0.1]
    edit(z, metrics=results.metrics(results.load_predictions(z)))
    models, _ = read_records(features, [*folders, z])
    (one,) = shared_mistakes(models, features)
    assert (features.paths[one.row], one.label, one.predicted) == ("00019 ü.jpg", 0, 1)
    assert one.probability == pytest.approx(0.9)
    assert len(shared_mistakes(models[:1], features)) == 0


def test_recall_of_each_class(tmp_path: Path) -> None:
    features = fake_features(["a", "b", "c"], test=2)
    folders = [save(tmp_path, features, "x", [1]), save(tmp_path, features, "y", [])]
    models, _ = read_records(features, folders)
    assert np.array_equal(class_recalls(models), [[1, 1], [0, 1], [np.nan, np.nan]], equal_nan=True)
