"""A labelling session on pictures whose colour is their class, with a pool."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.labeling import answers
from classify.labeling.album import Album
from classify.labeling.answers import Line
from classify.labeling.session import Session

RED, BLUE = (220, 40, 40), (40, 40, 220)
SPLITS = ("train", "train", "train", "train", "val", "val", "test")

Open = Callable[[], "contextmanager[Session]"]


def album_in(folder: Path) -> Album:
    """Write pictures and return their album: of each class four in train, two in val, one in test.

    One red picture of train has the wrong label; the pool holds a red and a blue one, and a copy.
    """
    places, labels, splits, colours = [], [], [], []
    for label, (name, colour) in enumerate({"blue": BLUE, "red": RED}.items()):
        for i, split in enumerate(SPLITS):
            places.append([folder / f"pets/{name}/{i}.png"])
            colours.append(colour)
            labels.append(0 if (name, i) == ("red", 0) else label)
            splits.append(split)
    places += [[folder / "pool/red.png", folder / "pool/copy.png"], [folder / "pool/blue.png"]]
    colours += [RED, BLUE]
    labels += [-1, -1]
    splits += ["train", "train"]
    random = np.random.default_rng(0)
    digests, vectors = [], []
    for names, colour in zip(places, colours, strict=True):
        pixels = (random.integers(0, 30, (12, 16, 3)) + colour).clip(0, 255).astype(np.uint8)
        for name in names:
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(name)
        digests.append(hashlib.sha256(names[0].read_bytes()).hexdigest())
        vectors.append(pixels.mean(axis=(0, 1)))
    X = np.array(vectors, np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    class_names = ["blue", "red"]
    lines = {
        str(names[0]): Line(str(names[0]), class_names[label], split, "")
        for names, label, split in zip(places, labels, splits, strict=True)
        if label >= 0
    }
    return Album(
        [[str(name) for name in names] for names in places],
        digests,
        np.array(labels, np.int64),
        np.array(splits),
        class_names,
        lines,
        X - X.mean(axis=0),
        X,
        [],
    )


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return album_in(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels/pets-labels.csv"


@contextmanager
def running(album: Album, file: Path) -> Iterator[Session]:
    """Run a session."""
    with answers.opened(file, [*album.lines.values()]) as opened:
        session = Session(album, opened)
        try:
            yield session
        finally:
            session.close()
