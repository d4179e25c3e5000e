"""The command that predicts: answers on standard output, everything else on standard error."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from classify import __main__ as command
from classify.serving import answer_formats, heatmap_files, predict, server
from classify.serving.model import Answer, load_model
from extract.store import features_file, shards
from extract.system import console
from extract.system.console import InputError
from tests.conftest import CHECKOUT, write_photos


def run(house: Path, weights: Path, *arguments: object, given: bytes = b"") -> tuple[str, str, int]:
    options = ["--out", house, "--weights", weights, "--engine", "keras"]
    words = [sys.executable, "-m", "classify", "predict", *map(str, [*arguments, *options])]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, input=given)
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def test_the_command_prints_answers_and_nothing_else(house: Path, vgg16_weights: Path) -> None:
    folder = write_photos(house / "mixed", {"of": 2}, seed=3)
    (folder / "of/broken.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / ".hidden").write_bytes(b"")
    (folder / os.fsdecode(b"n\xff.png")).write_bytes(b"")
    photo = next((house / "pets/cats").iterdir()).read_bytes()
    run_folder = house / "runs/pets/svm"
    out, err, code = run(house, vgg16_weights, run_folder, folder, "-", "--json", given=photo)
    assert code == 0, err
    record = json.loads(out)
    assert [Path(p["path"]).name for p in record["photos"]] == ["-", "000.png", "001.png"]
    assert {Path(s["path"]).name: s["reason"].split(":")[0] for s in record["skipped"]} == {
        "broken.jpg": "not an image file that Pillow can read",
        ".hidden": "hidden or system file",
        "n\\udcff.png": "file or folder name is not UTF-8; rename it",
    }
    assert sum(record["photos"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    told = err.splitlines()
    assert sum(line.startswith("skipped: ") for line in told) == 3
    assert told[-1].startswith("svm, trained on pets: 3 photos, ")
    assert told[-1].endswith("unsure (below 60%), 3 skipped")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runs/pets/svm", "nowhere.png"), "nowhere.png: no such file or folder"),
        (("runs/pets/svm", "features/pets.h5"), "features/pets.h5: no photo there"),
        (("runs/pets", "pets"), "runs/pets: no result there; give one of runs/pets/"),
        (("runs/pets/svm", "pets", "--top", "0"), "--top: 0 is less than 1"),
        (("runs/pets/svm", "pets", "--unsure", "60"), "--unsure: 60 is not between 0 and 1"),
        (("runs/pets/svm", "pets", "--keep", "95"), "--keep: 95 is not between 0 and 1"),
        (("runs/pets/svm", "pets", "--unsure", "nan"), "--unsure: nan is not between 0 and 1"),
    ],
)
def test_unusable_input_is_an_error_of_one_line(
    house: Path,
    vgg16_weights: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(house)
    words = ["classify", "predict", *arguments, "--weights", str(vgg16_weights)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises((InputError, SystemExit)) as told:
        command.main()
    assert said in str(told.value) + capsys.readouterr().err


def test_a_result_of_another_folder_is_served_with_its_training_photos(
    house: Path, vgg16_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    def serve(listening: server.Server, host: str, said: str) -> None:
        told.append(said)
        listening.close()

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(command, "PORT", 0)
    run = house / "runs/pets/svm"
    command.main(["serve", str(run / "head.skops"), "--weights", str(vgg16_weights)])
    with features_file.open(house / "features/pets.h5") as features:
        photos = len(features.rows("train"))
    assert told == [f"{run}: {{url}}, compared with {photos} training photos; stop it with Ctrl-C"]
    assert not [*tmp_path.iterdir()]


def predict_with_heatmaps(
    house: Path, weights: Path, names: list[str], folder: Path, given: bytes = b""
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_standard_input", lambda: given)
        predict.predict_photos(
            house / "runs/pets/svm",
            names,
            write=lambda found: answer_formats.as_csv(found, top=1),
            heatmaps=folder,
            cache=shards.cache_of(house),
            weights_file=weights,
            engine="keras",
        )


def test_a_heatmap_of_each_photo_is_written_in_its_own_shape(
    house: Path, vgg16_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cats, dogs = sorted((house / "pets/cats").iterdir()), sorted((house / "pets/dogs").iterdir())
    tall = house / "pets/cats/tall.png"
    names = [str(tall), str(cats[0]), str(dogs[0]), "-"]
    predict_with_heatmaps(house, vgg16_weights, names, tmp_path / "heat", tall.read_bytes())
    answers = list(csv.DictReader(io.StringIO((captured := capsys.readouterr()).out)))
    table = list(csv.DictReader((tmp_path / "heat/heatmaps.csv").open()))
    assert [row["path"] for row in table] == [row["path"] for row in answers]
    for row, answer in zip(table, answers, strict=True):
        assert row["class"] == answer["class_1"]
        assert float(row["probability"]) == pytest.approx(float(answer["probability_1"]), abs=1e-3)
        assert 0 <= float(row["without_hottest"]) <= 1
    files = [row["file"] for row in table]
    assert files == ["standard input.jpg", "tall.jpg", f"{cats[0].stem}.jpg", "000 (2).jpg"]
    assert {path.name for path in (tmp_path / "heat").iterdir()} == {*files, "heatmaps.csv"}
    with Image.open(tmp_path / "heat/tall.jpg") as shown, Image.open(tall) as photo:
        assert shown.size == photo.size
    assert "4 heatmaps; the probability of the class falls by" in captured.err
    with pytest.raises(InputError, match="heat: not empty; name a new or empty folder"):
        predict_with_heatmaps(house, vgg16_weights, names, tmp_path / "heat")


def test_a_photo_that_vanishes_before_its_heatmap_leaves_the_others(
    house: Path, vgg16_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "new", {"of": 2}, seed=3) / "of"
    first, second = sorted(folder.iterdir())
    model = load_model(
        house / "runs/pets/svm",
        cache=shards.cache_of(house),
        weights_file=vgg16_weights,
        engine="keras",
    )
    first.unlink()
    heatmap_files.check_folder(tmp_path / "heat")
    heatmap_files.write(model, [str(first), str(second)], tmp_path / "heat")
    assert {path.name for path in (tmp_path / "heat").iterdir()} == {"001.jpg", "heatmaps.csv"}
    assert "no heatmap: " in capsys.readouterr().err


def test_what_was_predicted_before_a_signal_is_printed(
    house: Path,
    vgg16_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> object:
        yield Answer("p.png", [("cats", 0.75), ("dogs", 0.25)], True)
        raise console.Stopped(2)

    monkeypatch.setattr(predict, "answers", interrupted)
    cache = shards.cache_of(house)
    with pytest.raises(console.Stopped):
        predict.predict_photos(
            house / "runs/pets/svm",
            [str(house / "pets")],
            write=lambda found: answer_formats.as_text(found, top=1),
            cache=cache,
            weights_file=vgg16_weights,
        )
    assert capsys.readouterr().out == "p.png: cats 75.0%\n"
