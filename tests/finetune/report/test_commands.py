import subprocess
from pathlib import Path

import numpy as np
import pytest

from finetune.compare.comparison import compare
from finetune.report.commands import commands
from tests.conftest import HOSTILE
from tests.synthetic_results import fake_features, save


def test_commands_repeat_and_quote_the_options_that_were_given(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], attributes={"seed": np.int64(3), "seconds_320": 1.0})
    features.data = "my photos"
    asked = {"epochs": 2, "learning_rate": None, "again": True, "flip": False, "taps": ["a", "b c"]}
    folders = [
        save(tmp_path, features, "svm", [0], seed=7),
        save(
            tmp_path,
            features,
            "baseline",
            [0],
            stage="network",
            hyperparameters={"asked": asked, "x": 1},
        ),
    ]
    assert commands(compare(features, folders)) == [
        "python -m extract features 'my photos' --seed 3 --sizes 224 320",
        "python -m classify train 'my photos' --heads svm --seed 7",
        "python -m finetune train 'my photos' --models baseline --seed 0 --epochs 2 --again "
        "--taps a 'b c'",
        "python -m finetune compare 'my photos'",
    ]


def test_commands_repeat_the_options_of_the_features(tmp_path: Path) -> None:
    asked = {"allow_conflicts": True, "group_by": "(a\nb)'", "keep_twins": False}
    features = fake_features(["a", "b"], asked=asked, has_pairs=False)
    folder = save(tmp_path, features, "svm", [0], asked={"balanced": True})
    made, trained, _ = commands(compare(features, [folder]))
    assert made == (
        "python -m extract features chess --seed 0 --pairs no --allow-conflicts "
        r"--group-by $'(a\012b)\047'"
    )
    assert trained == "python -m classify train chess --heads svm --seed 0 --balanced"


def test_commands_are_those_of_onepass_if_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEPASS_STARTED_AS", "onepass")
    features = fake_features(["a", "b"], data="my photos")
    folders = [
        save(tmp_path, features, "svm", [0]),
        save(tmp_path, features, "baseline", [0], stage="network"),
    ]
    assert commands(compare(features, folders)) == [
        "onepass features 'my photos' --seed 0",
        "onepass heads 'my photos' --heads svm --seed 0",
        "onepass finetune 'my photos' --models baseline --seed 0",
        "onepass compare 'my photos'",
    ]


def test_a_shell_reads_the_name_of_a_data_set_as_it_is(tmp_path: Path) -> None:
    names = [name for name in [*HOSTILE, "--help", "~root", "*"] if "/" not in name]
    lines = []
    for i, name in enumerate(names):
        features = fake_features(["a", "b"], data=name)
        lines.append(
            commands(compare(features, [save(tmp_path / str(i), features, "svm", [0])]))[-1]
        )
    assert all(line.isprintable() for line in lines)
    quoted = [line.removeprefix("python -m finetune compare ") for line in lines]
    script = f"printf '%s\\0' {' '.join(quoted)}"
    read = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert [word.removeprefix("./") for word in read.decode().split("\0")[:-1]] == names
    assert not [word for word in read.decode().split("\0") if word.startswith(("-", "~"))]
