"""Whether a result answers a request to train a network."""

import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extract.store import features_file
from extract.system.console import InputError
from extract.vgg16.recipe import SIZE, recipe, recipe_digest
from finetune.train.request import BaselineOptions, FinetunedAllOptions, Request, identity
from tests import stand_in
from tests.conftest import MakePhotos, picture
from tests.damage import as_empty, as_text, as_truncated
from tests.synthetic import publish
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


def test_a_network_of_every_layer_is_answered_if_it_started_from_the_one_that_is_there(
    tmp_path: Path,
) -> None:
    made, recipes = fake_features(["a", "b"]), {SIZE: recipe("w" * 64)}
    features: Any = SimpleNamespace(data="pets", data_digest=made.data_digest, recipes=recipes)
    request = Request(FinetunedAllOptions(), 0, tmp_path)
    same = {"stage": "network", "recipe_digest": recipe_digest(recipes[SIZE])}

    def saved(name: str, **hyperparameters: Any) -> None:
        folder = save(
            tmp_path / "runs/pets", made, name, [], hyperparameters=hyperparameters, **same
        )
        with zipfile.ZipFile(folder / "model.keras", "w") as archive:
            archive.writestr("weights", "1")

    assert request.start(features) is None
    saved("finetuned")
    start = request.start(features)
    assert start is not None
    assert not request.is_done(features)
    saved("finetuned-all", asked=asdict(request.options), started_from=identity(start))
    assert request.is_done(features)
    edit(tmp_path / "runs/pets/finetuned", model_digest="another training")
    assert not request.is_done(features)
    assert Request(FinetunedAllOptions(), 1, tmp_path).start(features) is None


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


def check(path: Path, out: Path) -> None:
    with features_file.open(path) as features:
        Request(BaselineOptions(), seed=0, out=out).check(features)


@pytest.mark.parametrize(
    ("split", "per_class"), [("train", (0, 4, 4)), ("val", (6, 0, 4)), ("test", (6, 4, 0))]
)
def test_split_without_photos_is_refused_before_a_network_is_trained(
    split: str, per_class: tuple[int, int, int], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"no photo in {split}, and a network needs"):
        check(publish(tmp_path, per_class=per_class), tmp_path)


def test_photo_that_is_gone_or_changed_is_refused_before_a_network_is_trained(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root, out = photos(), tmp_path / "out"
    done, _ = stand_in.run(root, out)
    assert done.code == 0, done.err
    path = out / "features" / "pets.h5"
    check(path, out)
    picture(99).save(root / "dogs" / "001.png")
    with pytest.raises(InputError, match=r"dogs/001.png: has changed \(1 such photo\); run make"):
        check(path, out)
    (root / "cats" / "002.png").unlink()
    with pytest.raises(InputError, match=r"cats/002.png: cannot be read \(2 such photos\)"):
        check(path, out)
