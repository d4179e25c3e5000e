"""``python -m classify label``: from features and a folder of photos to a manifest of answers."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from classify import __main__ as classify
from classify.labeling import album
from extract.engines import selection
from extract.engines.base import Engine
from extract.photos import manifest
from extract.store import features_file
from extract.system.console import InputError
from tests import commands, stand_in
from tests.conftest import picture

Label = Callable[..., CompletedProcess[str]]


@pytest.fixture
def label(tmp_path: Path, vgg16_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Label:
    """Return a function that runs the command on the features of ``pets``, with more options."""
    stand_in.build_features(tmp_path, {"cats": 6, "dogs": 6}, vgg16_weights)
    engine = Engine("stand-in", stand_in.values)
    monkeypatch.setattr(selection, "choose", lambda *wanted, **how: engine)
    monkeypatch.chdir(tmp_path)
    return partial(commands.run, classify.main, "label", "--weights", vgg16_weights)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def ask(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        return json.load(reply)


def answer_pool(port: int) -> Any:
    """Wait for the page, give the photos of the pool a label and skip others, and end."""
    for _ in range(3000):
        try:
            facts = ask(port, "facts")
            break
        except OSError:
            time.sleep(0.02)
    while question := facts["question"]:
        kind = {"answer": "skip"} if question["label"] else {"answer": "label", "name": "birds"}
        facts = ask(port, "answer", {"photo": question["photo"], **kind})
    return ask(port, "done", {})


def test_a_pool_is_labelled_and_the_command_that_goes_on_is_told(
    label: Label, tmp_path: Path
) -> None:
    pool = tmp_path / "more"
    (pool / "inner").mkdir(parents=True)
    for i in range(3):
        picture(500 + i).save(pool / f"inner/{i}.png")
    (pool / "known.png").write_bytes((tmp_path / "pets/cats/000.png").read_bytes())
    (pool / "notes.txt").write_text("hello")
    port = free_port()
    with ThreadPoolExecutor(1) as other:
        told = other.submit(answer_pool, port)
        done = label("pets", "--pool", pool, "--port", port)
    assert (done.returncode, done.stderr.count("notes.txt: not an image file")) == (0, 1), done
    assert "more: 3 photos without a label, 1 in DATA already" in done.stdout
    assert "0 labels of DATA changed, 3 photos of the pool labelled" in done.stdout
    file = tmp_path / "labels/pets-labels.csv"
    assert done.stdout.endswith(f"make DATA={file.relative_to(tmp_path)}\n")
    assert told.result()["command"] == "make DATA=labels/pets-labels.csv"
    found = manifest.labelled_photos(file)
    assert found.class_names == ["birds", "cats", "dogs"]
    with features_file.open(tmp_path / "features/pets.h5") as features:
        splits = dict(zip(features.paths, features.splits, strict=True))
        assert {*album.lines_of(features)} == {str(tmp_path / "pets" / p) for p in splits}
    by_path = {p.path.removeprefix("pets/"): p.split for p in found.photos}
    assert by_path == splits | {f"more/inner/{i}.png": "train" for i in range(3)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cows",), "features/cows.h5: no such file; run make features first"),
        (("pets", "--pool", "nowhere"), "--pool nowhere: no such folder"),
        (("pets", "--pool", "empty"), "--pool empty: no file in it that could be a photo"),
        (("pets", "--pool", "pets"), "--pool pets: no photo in it that DATA lacks"),
        (("pets", "--to", "a.xlsx"), "--to a.xlsx: the name of a manifest ends with .csv"),
        (("pets", "--to", "pets/cats/000.png/a.csv"), "choose another folder with --to"),
        (("pets", "--host", "203.0.113.9"), "not an address of this machine"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    label: Label, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = label(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_photos_in_a_bucket_are_refused_because_no_manifest_can_name_them() -> None:
    features: Any = SimpleNamespace(root="s3://bucket/pets")
    with pytest.raises(InputError, match="s3://bucket/pets: photos in a bucket cannot be labelled"):
        album.lines_of(features)
