from pathlib import Path

import numpy as np

from finetune.compare.comparison import compare
from finetune.report.commands import commands
from tests.synthetic_results import features, save


def test_commands_repeat_and_quote_the_options_that_were_given(tmp_path: Path) -> None:
    of = features(["a", "b"], attributes={"seed": np.int64(3), "seconds_320": 1.0})
    of.data = "my photos"
    asked = {"epochs": 2, "learning_rate": None, "again": True, "flip": False, "taps": ["a", "b c"]}
    folders = [
        save(tmp_path, of, "svm", [0], seed=7),
        save(
            tmp_path, of, "baseline", [0], stage="network", hyperparameters={"asked": asked, "x": 1}
        ),
    ]
    assert commands(compare(of, folders)) == [
        "python -m extract 'my photos' --seed 3 --sizes 224 320",
        "python -m classify 'my photos' --heads svm --seed 7",
        "python -m finetune train 'my photos' --models baseline --seed 0 --epochs 2 --again "
        "--taps a 'b c'",
        "python -m finetune compare 'my photos'",
    ]
