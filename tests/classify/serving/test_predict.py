"""The command that predicts: answers on standard output, everything else on standard error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classify import __main__ as command
from classify.serving import answer_formats, predict
from classify.serving.model import Answer
from extract.store import shards
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
        (("runs/pets", "pets"), "result.json: not there"),
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
