"""Heatmaps on the page: of which photos, and what is said beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.heatmaps import picture as heat_picture
from classify.serving import model as serving
from classify.serving.heatmaps import Heatmap
from extract.system.console import InputError
from finetune.compare.mistakes import surest_mistakes
from finetune.report import heatmaps, page
from finetune.report.heatmaps import Heatmaps, Shown
from tests.conftest import picture
from tests.finetune.report.parsed_page import Page
from tests.synthetic_results import comparison, fake_features


def shown(seed: int) -> Shown:
    uri = heat_picture.as_uri(Image.new("RGB", (8, 8), (seed, 0, 0)))
    return Shown(uri, 1, 0.9, 0.125, 0.875)


def test_the_page_shows_a_heatmap_beside_mistakes_and_photos_of_each_class(tmp_path: Path) -> None:
    found = comparison(tmp_path, fake_features(["a", "b"]), svm=[0, 1], logistic=[2])
    svm = next(one for one in found.models if one.name == "svm")
    first, _ = surest_mistakes(svm, found.features)
    example = int(np.flatnonzero(found.features.splits == "test")[5])
    drawn = Heatmaps(
        {("svm", first.row): shown(1), ("logistic", example): shown(2)}, "logistic", [example]
    )
    text = page.page(found, drawn)
    for one in drawn.shown.values():
        assert text.count(one.picture) == 1
    assert text.count("without the hottest fifth 12%, without a random fifth 88%") == 2
    words = Page(text).words
    assert "as logistic saw them" in words
    assert "the mean colour of the photo" in words
    plain = page.page(found)
    assert "hottest" not in Page(plain).words
    assert "Where the model looked" not in plain


@pytest.fixture
def pictures(tmp_path: Path) -> Any:
    """Return features of photos that are there, but for one."""
    import hashlib

    features = fake_features([f"class {i}" for i in range(30)], test=90)
    features.attributes["root"] = str(tmp_path / "photos")
    for row, path in enumerate(features.paths):
        file = tmp_path / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(row).save(file, "PNG")
        features.digests[row] = hashlib.sha256(file.read_bytes()).hexdigest()
    return features


class Loaded:
    known = {224: ()}  # noqa: RUF012
    vgg16: dict[int, Any] = {}  # noqa: RUF012


def draw(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str = ""
) -> Heatmaps:
    def load_model(run: Path, **_: object) -> Loaded:
        if run.name == refused:
            raise InputError("it is damaged")
        return Loaded()

    def drawn(model: Loaded, photos: list[Any], seeds: list[int]) -> list[Heatmap]:
        heat = np.arange(196.0).reshape(14, 14)
        return [Heatmap(3, heat, 0.9, 0.1, 0.8) for _ in photos]

    monkeypatch.setattr(serving, "load_model", load_model)
    monkeypatch.setattr(heatmaps.heatmaps, "heatmaps", drawn)
    weights = tmp_path / "weights.h5"
    return heatmaps.draw(found, tmp_path / "runs", cache=tmp_path, weights_file=weights)


def test_two_photos_of_the_hardest_classes_are_drawn_and_every_sure_mistake(
    pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = comparison(tmp_path, pictures, svm=[7], logistic=[0, 1, 2])
    drawn = draw(found, tmp_path, monkeypatch)
    assert drawn.of_classes == "svm"
    labels = [int(pictures.labels[row]) for row in drawn.rows]
    assert len(drawn.rows) == len(set(drawn.rows)) == 2 * heatmaps.CLASSES
    assert labels == sorted(labels)
    (mistake,) = surest_mistakes(found.models[0], pictures)
    assert mistake.label in labels
    logistic = {row for name, row in drawn.shown if name == "logistic"}
    assert logistic == {one.row for one in surest_mistakes(found.models[1], pictures)}


def test_a_model_or_photo_that_cannot_be_used_leaves_the_others(
    pictures: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = comparison(tmp_path, pictures, svm=[7], logistic=[0, 1, 2])
    gone = surest_mistakes(found.models[1], pictures)[0]
    (tmp_path / "photos" / pictures.paths[gone.row]).write_bytes(b"another file")
    drawn = draw(found, tmp_path, monkeypatch, refused="svm")
    assert {name for name, _ in drawn.shown} == {"logistic"}
    assert len(drawn.shown) == 2
    assert (drawn.of_classes, list(drawn.rows)) == ("", [])
    assert "no heatmaps of svm in the report: it is damaged" in capsys.readouterr().err


def test_without_photos_no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = comparison(tmp_path, fake_features(["a", "b"]), svm=[0])
    monkeypatch.setattr(serving, "load_model", lambda *_, **__: pytest.fail("loaded"))
    assert heatmaps.draw(found, tmp_path, cache=tmp_path).shown == {}
