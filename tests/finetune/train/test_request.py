"""Whether a result answers a request to train a network."""

import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extract.vgg16.recipe import SIZE, recipe, recipe_digest
from finetune.train.request import BaselineOptions, Request
from tests.damage import as_empty, as_text, as_truncated
from tests.synthetic_results import edit, fake_features, save


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Request, Any]:
    """Return a request that a result answers, and the features."""
    made = fake_features(["a", "b"])
    recipes = {SIZE: recipe("w" * 64)}
    features = SimpleNamespace(data="pets", data_digest=made.data_digest, recipes=recipes)
    request = Request(BaselineOptions(), 0, tmp_path)
    folder = save(tmp_path / "runs/pets", made, "baseline", [], stage="network")
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("weights", "1")
    edit(
        folder,
        seed=0,
        recipe_digest=recipe_digest(recipes[SIZE]),
        hyperparameters={"asked": asdict(request.options)},
    )
    return request, features


def test_an_equal_request_is_answered_silently(
    answered: tuple[Request, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    request, features = answered
    assert request.is_done(features)
    assert not Request(BaselineOptions(epochs=3), 0, request.out).is_done(features)
    assert not Request(BaselineOptions(), 1, request.out).is_done(features)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["result.json", "predictions.h5", "model.keras"])
@pytest.mark.parametrize("damage", [as_truncated, as_empty, as_text])
def test_a_damaged_result_is_told_and_answers_nothing(
    name: str,
    damage: Callable[[Path], None],
    answered: tuple[Request, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    request, features = answered
    damage(request.folder(features) / name)
    assert not request.is_done(features)
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert line.endswith("train it again")
