"""The state of a training in a file: whole at any moment, and never used if it is damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extract.system import atomic
from extract.system.availability import Unavailable
from extract.vgg16.keras_backend import keras
from finetune.train import run
from finetune.train.checkpoint import Checkpoint, State
from tests.damage import as_empty, as_foreign, as_text, as_truncated, flip
from tests.failing_writes import every_full_disk

RANDOM = np.random.default_rng(0)
STATE = State(
    {"loss": [0.5, np.nan], "phase": ["p", "p"]},
    [RANDOM.random((20, 30)).astype(np.float32), np.array(7, np.int64)],
    [RANDOM.random((20, 30)).astype(np.float32)],
)


def assert_equal(one: State | None, other: State) -> None:
    assert one is not None
    assert str(one.history) == str(other.history)
    for read, written in zip(
        (*one.variables, *one.best), (*other.variables, *other.best), strict=True
    ):
        np.testing.assert_array_equal(read, written)
        assert read.dtype == written.dtype


def test_a_state_comes_back_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {"seed": 0, "sizes": (1, 2)})
    assert checkpoint.read() is None
    checkpoint.write(STATE)
    assert_equal(checkpoint.read(), STATE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [as_text, as_truncated, as_empty, as_foreign])
def test_a_damaged_state_is_told_in_one_line(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {})
    checkpoint.write(STATE)
    damage(checkpoint.path)
    assert checkpoint.read() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{checkpoint.path}: damaged (")
    assert line.endswith("so the training begins anew")


def test_a_single_bit_is_never_wrong_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {"seed": 0})
    checkpoint.write(STATE)
    whole = checkpoint.path.read_bytes()
    for offset in range(0, len(whole), 61):
        flip(checkpoint.path, offset)
        state = checkpoint.read()
        told = capsys.readouterr().err
        if offset >= 512:
            assert state is None
        assert (state is None) == bool(told)
        if state is not None:
            assert_equal(state, STATE)
        checkpoint.path.write_bytes(whole)


def test_a_state_of_another_training_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(tmp_path / "training.h5", {"seed": 0}).write(STATE)
    assert Checkpoint(tmp_path / "training.h5", {"seed": 1}).read() is None
    assert capsys.readouterr().err.endswith("data or options; this one begins anew\n")


def test_a_state_that_cannot_be_opened_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {})
    checkpoint.write(STATE)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("io.open", refuse)
    with pytest.raises(Unavailable, match="Permission denied"):
        checkpoint.read()


def test_a_full_disk_at_any_moment_leaves_a_whole_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {})
    checkpoint.write(STATE)
    other = STATE._replace(best=[np.zeros((3, 3))])
    for error in every_full_disk(lambda: checkpoint.write(other)):
        assert error.filename == str(checkpoint.path)
        state = checkpoint.read()
        assert state is not None
        assert_equal(state, STATE if len(state.best[0]) > 3 else other)
        assert [path.name for path in tmp_path.iterdir()] == ["training.h5"]
    assert_equal(checkpoint.read(), other)


def test_a_full_disk_at_any_moment_leaves_a_whole_network(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    path = tmp_path / "best.keras"
    run.save_network(network, path)
    sizes = [network.layers[0].get_weights()[0].sum()]
    network.layers[0].set_weights([np.ones((1, 2)), np.zeros(2)])
    for _ in every_full_disk(lambda: run.save_network(network, path)):
        atomic.finish(tmp_path)
        loaded = keras.saving.load_model(path, safe_mode=True)
        sizes.append(loaded.layers[0].get_weights()[0].sum())
        assert [file.name for file in tmp_path.iterdir()] == ["best.keras"]
    assert set(sizes) == {sizes[0], 2.0}
    assert sizes == sorted(sizes)
