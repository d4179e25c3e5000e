import json
import math
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify import results
from extract.system import atomic
from extract.system.console import InputError
from tests.damage import as_empty, as_text, as_truncated
from tests.failing_writes import every_full_disk, every_kill


def predictions(labels: list[int], probabilities: list[list[float]]) -> results.Predictions:
    return results.Predictions(
        paths=[f"{i}.jpg" for i in range(len(labels))],
        labels=np.array(labels, np.int64),
        probabilities=np.array(probabilities, np.float32),
    )


RECORD = results.Result(
    model="svm",
    stage="head",
    data="köpfe",
    data_digest="d" * 64,
    recipe_digest="e" * 64,
    class_names=["a", "<b>"],
    hyperparameters={"C": 0.1, "taps": ["block5_avg"]},
    tried=[{"C": 0.1, "accuracy": 0.5}],
    seconds={"features": 1.5, "tune": 0.5, "fit": 0.25, "predict": 0.0},
    epochs=None,
    parameters=12,
    seed=0,
    metrics={"accuracy": 0.75},
    versions={"python": "3.11"},
    created="2025-01-01T00:00:00+00:00",
)
FOUR = predictions([0, 0, 0, 1], [[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])


def test_metrics_by_hand() -> None:
    found = results.metrics(FOUR)
    assert found["accuracy"] == 3 / 4
    assert found["mean_class_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    expected = -sum(map(math.log, (0.8, 0.6, 0.3, 0.9))) / 4
    assert found["log_loss"] == pytest.approx(expected, rel=1e-6)
    assert "top5_accuracy" not in found


def test_class_never_predicted_has_an_f1_of_zero() -> None:
    found = results.metrics(predictions([0, 1, 2], [[0.8, 0.1, 0.1], [0.8, 0.2, 0], [0.1, 0, 0.9]]))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["mean_class_recall"] == pytest.approx(2 / 3)


def test_a_certain_and_wrong_answer_has_a_finite_log_loss() -> None:
    found = results.metrics(predictions([0, 1], [[0.0, 1.0], [0.0, 1.0]]))
    assert found["log_loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-3)


def test_top5_counts_the_five_most_probable() -> None:
    rows = [[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]] * 6
    assert results.metrics(predictions(list(range(6)), rows))["top5_accuracy"] == 5 / 6


def test_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "köpfe" / "svm"
    results.save(folder, RECORD, FOUR, write_model=lambda f: (f / "model").touch())
    assert results.load(folder) == RECORD
    read = results.load_predictions(folder)
    assert read.paths == FOUR.paths
    assert np.array_equal(read.labels, FOUR.labels)
    assert np.array_equal(read.probabilities, FOUR.probabilities)
    assert read.probabilities.dtype == np.float32
    assert list(results.folders(folder.parent)) == [folder]


def save_number(folder: Path, number: int) -> None:
    """Save a result whose files all tell its number."""

    def write_model(new: Path) -> None:
        with zipfile.ZipFile(new / "head.skops", "w") as archive:
            archive.writestr("number", str(number))

    told = replace(FOUR, paths=[f"{number}"] * 4)
    results.save(folder, replace(RECORD, seed=number), told, write_model=write_model)


@results.consistent
def read_number(folder: Path) -> int:
    """Return the number that all files of a result tell."""
    results.check_files(folder)
    with zipfile.ZipFile(folder / "head.skops") as archive:
        numbers = {int(archive.read("number")), results.load(folder).seed}
    numbers |= {int(path) for path in results.load_predictions(folder).paths}
    (number,) = numbers
    return number


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


WHOLE = {"README.md", "head.skops", "predictions.h5", "result.json"}


def test_a_full_disk_at_any_moment_leaves_a_whole_result(tmp_path: Path) -> None:
    folder = tmp_path / "svm"
    save_number(folder, 0)
    (folder / "notes.txt").write_text("mine")
    numbers = [0]
    for error in every_full_disk(lambda: save_number(folder, numbers[-1] + 1)):
        assert Path(error.filename).is_relative_to(folder)
        assert ".tmp" not in error.filename
        (listed,) = results.folders(tmp_path)
        numbers.append(read_number(listed))
        assert files(folder) == WHOLE | {"notes.txt"}
    replaced = np.diff(numbers).tolist()
    assert set(replaced) == {0, 1}
    assert replaced == sorted(replaced), "before the new result is whole, nothing of it is there"


def test_a_kill_at_any_moment_leaves_a_whole_result(tmp_path: Path) -> None:
    folder = tmp_path / "svm"
    save_number(folder, 0)
    numbers = [0]
    for _ in every_kill(lambda: save_number(folder, numbers[-1] + 1)):
        assert len(files(folder)) <= 2 * len(WHOLE) + 1, "the next run removes what is left"
        (listed,) = results.folders(tmp_path)
        numbers.append(read_number(listed))
    replaced = np.diff(numbers).tolist()
    assert set(replaced) == {0, 1}
    assert replaced == sorted(replaced)
    assert files(folder) == WHOLE


def test_a_kill_while_the_first_result_is_saved_leaves_it_whole_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "svm"
    found = []
    for _ in every_kill(lambda: save_number(folder, 1)):
        listed = results.folders(tmp_path)
        found.append([read_number(one) for one in listed])
        shutil.rmtree(folder, ignore_errors=True)
    assert found == sorted(found)
    assert found[0] == []
    assert found[-1] == [1]


def test_readers_never_mix_two_results(tmp_path: Path) -> None:
    folder = tmp_path / "svm"
    save_number(folder, 0)
    writer = threading.Thread(target=lambda: [save_number(folder, n) for n in range(1, 60)])
    writer.start()
    found = [0]
    while writer.is_alive():
        found.append(read_number(folder))
    assert found == sorted(found)
    assert len(set(found)) > 3


def test_a_committed_result_that_cannot_be_moved_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_number(tmp_path, 1)
    (tmp_path / ".new").mkdir()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".new/result.json").touch()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"\.new: .*cannot be moved .*Permission denied"):
        results.load(tmp_path)


@pytest.mark.parametrize("damage", [as_truncated, as_empty, Path.unlink, as_text])
@pytest.mark.parametrize("name", ["head.skops", "predictions.h5"])
def test_a_damaged_file_of_a_result_is_found(
    name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    save_number(tmp_path, 1)
    results.check_files(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(InputError, match="train it again"):
        results.check_files(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, -3])
def test_truncated_record_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    results.save(tmp_path, RECORD, FOUR, write_model=lambda f: None)
    path = tmp_path / "result.json"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"result\.json.*train it again"):
        results.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "3", '"svm"', "\udcff"])
def test_another_kind_of_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"result\.json"):
        results.load(tmp_path)


def test_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        results.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 1000])
def test_truncated_predictions_are_refused(tmp_path: Path, keep: int) -> None:
    results.save(tmp_path, RECORD, FOUR, write_model=lambda f: None)
    path = tmp_path / "predictions.h5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"predictions\.h5"):
        results.load_predictions(tmp_path)


def test_record_is_plain_json(tmp_path: Path) -> None:
    results.save(tmp_path, replace(RECORD, seed=7), FOUR, write_model=lambda f: None)
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["schema"], record["data"]) == (7, 1, "köpfe")


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.9 sure and right once of two, |0.5 - 0.9|; 0.5 sure and right, |1 - 0.5|.
    right = np.array([True, False, True])
    found = results.calibration_error(np.array([0.9, 0.9, 0.5]), right)
    assert found == pytest.approx((2 * 0.4 + 1 * 0.5) / 3)


def test_calibration_error_at_the_ends_and_on_a_border() -> None:
    sure = np.array([1.0, 0.0, 10 / 15])
    assert results.calibration_error(sure, np.array([True, False, False])) == pytest.approx(2 / 9)


def test_probabilities_that_labels_are_drawn_with_have_almost_no_calibration_error() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1.0, 20_000)
    assert results.calibration_error(sure, random.random(20_000) < sure) < 0.02


def test_bins_of_reliability_by_hand() -> None:
    sure = np.array([0.9, 0.9, 0.5, 1.0])
    photos, mean, accuracy = results.reliability(sure, np.array([True, False, True, True]))
    assert photos.tolist() == [0] * 7 + [1] + [0] * 5 + [2, 1]
    assert (mean[13], accuracy[13]) == (pytest.approx(0.9), 0.5)
    assert np.isnan(mean[photos == 0]).all()
    assert np.isnan(accuracy[photos == 0]).all()


def test_losses_make_the_log_loss() -> None:
    assert results.losses(FOUR).tolist() == pytest.approx(
        [-math.log(p) for p in (0.8, 0.6, 0.3, 0.9)], rel=1e-6
    )


def test_an_older_record_without_the_machine_can_be_read(tmp_path: Path) -> None:
    results.save(
        tmp_path, replace(RECORD, machine="2 cores"), FOUR, write_model=lambda folder: None
    )
    path = tmp_path / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert results.load(tmp_path).machine == record.pop("machine") == "2 cores"
    path.write_text(json.dumps(record))
    assert results.load(tmp_path).machine == ""
    del record["seed"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="seed"):
        results.load(tmp_path)


@pytest.mark.parametrize(("name", "size"), [("head.skops", 5), ("model.keras", 7), ("else", None)])
def test_size_of_the_model(tmp_path: Path, name: str, size: int | None) -> None:
    (tmp_path / name).write_bytes(bytes(size or 3))
    assert results.model_bytes(tmp_path) == size


@pytest.mark.parametrize(
    ("chosen", "tried", "sizes"),
    [
        (["block5_avg3x3"], [], [224]),
        (["block4_avg", "block4_avg_320"], [], [224, 320]),
        (["block5_avg"], [["block5_avg"], ["block4_avg", "block4_avg_320", "block4_max_96"]],
         [224, 96, 320]),
    ],
)  # fmt: skip
def test_an_older_record_tells_its_sizes_by_the_names_of_its_taps(
    tmp_path: Path, chosen: list[str], tried: list[list[str]], sizes: list[int]
) -> None:
    old = replace(RECORD, hyperparameters={"taps": chosen}, tried=[{"taps": t} for t in tried])
    results.save(tmp_path, old, FOUR, write_model=lambda folder: None)
    path = tmp_path / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["sizes"]
    path.write_text(json.dumps(record))
    assert results.load(tmp_path).sizes == sizes


@pytest.mark.parametrize("sizes", [[224, 225], "224", None, [[224]]])
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, sizes: object) -> None:
    results.save(tmp_path, RECORD, FOUR, write_model=lambda folder: None)
    path = tmp_path / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"sizes": sizes}))
    with pytest.raises(InputError, match="not a result record"):
        results.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[" * 100_000, "nested too deeply"), (" " * 8_000_001, "more than 8 MB")],
    ids=["deep", "large"],
)
def test_a_record_that_takes_too_much_memory_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=said):
        results.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("probability", {"shape": (4, 500_000_000), "dtype": "f4"}, "claims more than is stored"),
        ("probability", {"data": np.zeros((4, 2), "f4"), "compression": "gzip"}, "is compressed"),
        ("probability", {"data": np.full((4, 2), np.nan, "f4")}, "between 0 and 1"),
        ("probability", {"data": np.zeros((3, 2), "f4")}, "a row for each photo"),
        ("probability", {"data": [b"text"] * 4}, "a row for each photo"),
        ("label", {"data": [0, 0, 0, 2]}, "not numbers of classes"),
        ("path", {"data": [1.0, 2.0, 3.0, 4.0]}, "not a file of predictions"),
    ],
)
def test_predictions_that_cannot_be_are_refused(
    tmp_path: Path, name: str, how: dict[str, Any], said: str
) -> None:
    results.save(tmp_path, RECORD, FOUR, write_model=lambda folder: None)
    with h5py.File(tmp_path / "predictions.h5", "r+") as file:
        del file[name]
        file.create_dataset(name, **how)
    with pytest.raises(InputError, match=said):
        results.load_predictions(tmp_path)


def test_a_result_is_found_by_its_name_its_folder_and_a_file_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/pets/svm", f"other/runs/pets/svm/{atomic.COMMITTED}"):
        Path(folder).mkdir(parents=True)
        Path(folder, "result.json").touch()
    own, other, here = Path("runs/pets/svm"), Path("other/runs/pets/svm"), Path()
    assert results.find(Path("svm"), here, "pets") == own
    assert results.find(Path("svm"), Path("other"), "pets") == other
    for named in (other, other / "result.json", other / "head.skops", other / "model.keras"):
        assert results.find(named, here) == other
        assert results.find(named, here, "pets") == other
    assert [results.out_of(found) for found in (own, other)] == [here, Path("other")]
    assert results.out_of(Path("copied/svm")) is None
    monkeypatch.chdir(own)
    assert results.find(here, Path("nowhere")) == here
    assert results.out_of(here) == tmp_path


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("svm", "", "svm: no result there; give one of runs/pets/mlp, runs/pets/svm"),
        ("runs/pets", "", "runs/pets: no result there; give one of runs/pets/mlp, runs/pets/svm"),
        ("runs/pets/sv", "", "runs/pets/sv: no result there; give one of runs/pets/mlp, runs/"),
        ("tree", "pets", "runs/pets/tree: no result there; give one of mlp, svm"),
        ("svm", "chess", "runs/chess/svm: no result there; give one of runs/pets/mlp, runs/"),
        ("model.onnx", "", "model.onnx: no result there; give one of runs/pets/mlp, runs/pets"),
    ],
)
def test_a_model_that_is_not_there_is_told_with_those_that_are(
    model: str, data: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no result there; make heads trains some"):
        results.find(Path(model), Path(), data)
    for name in ("svm", "mlp"):
        Path("runs/pets", name).mkdir(parents=True)
        Path("runs/pets", name, "result.json").touch()
    with pytest.raises(InputError) as refused:
        results.find(Path(model), Path(), data)
    assert str(refused.value).startswith(said)
