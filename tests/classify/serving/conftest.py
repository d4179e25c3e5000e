"""A page to ask, whose model is quick: the redder a photo, the more it is a cat."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from PIL import Image

from classify.serving import HOST, neighbours, web
from classify.serving.model import Model
from classify.serving.neighbours import TrainingPhotos
from extract.compute.reading import LoadedPhoto, Squares
from tests.conftest import write_photos


class Red:
    """Takes the place of VGG16: the redder a photo, the more it is a cat."""

    known: dict[str, Any] = {}  # noqa: RUF012

    def taps(self, items: list[LoadedPhoto], taps: object) -> dict[str, np.ndarray]:
        return {
            web.SIMILARITY_TAP: np.array([i.photo.mean(axis=(0, 1)) for i in items], np.float32)
        }


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return made(tmp_path, "cats", "dogs")


def made(tmp_path: Path, *classes: str, host: str = HOST) -> Flask:
    write_photos(tmp_path / "pets", dict.fromkeys(classes, 3))
    paths = sorted(p.relative_to(tmp_path / "pets").as_posix() for p in tmp_path.rglob("*.png"))
    pixels = [np.asarray(Image.open(tmp_path / "pets" / path)) for path in paths]
    vectors = neighbours.unit(np.array([p.mean(axis=(0, 1)) for p in pixels], np.float32))
    names = [path.split("/")[0] for path in paths]
    result: Any = type("Result", (), {})()
    result.model, result.data, result.class_names = "svm", "<pets>\u202e", classes
    result.metrics = {"accuracy": 0.75}

    def probabilities(items: list[Squares]) -> np.ndarray:
        red = [item[224].photo[..., 0].mean() / 255 for item in items]
        return np.array([[r, 1 - r] for r in red], np.float32)

    model = Model(result, {224: ()}, probabilities)  # type: ignore[arg-type]
    digests = [sha256((tmp_path / "pets" / path).read_bytes()).hexdigest() for path in paths]
    training = TrainingPhotos(tmp_path / "pets", paths, digests, names, vectors)
    return web.application(model, Red(), training, unsure=0.6, host=host)  # type: ignore[arg-type]


def png(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (red, 50, 50)).save(file, "PNG")
    return file.getvalue()
