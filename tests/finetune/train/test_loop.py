"""The training loop: the weights it keeps, when it stops, and how it resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from extract.system.console import InputError, Stopped
from extract.vgg16.keras_backend import keras
from finetune.train import batches, loop, networks
from finetune.train.batches import TrainingData
from finetune.train.checkpoint import Checkpoint
from finetune.train.loop import fit
from finetune.train.schedule import Phase, Schedule
from tests.conftest import Arrays

pytestmark = pytest.mark.long


class Given(keras.utils.PyDataset):
    """One batch of given inputs and labels."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.batch = inputs, labels

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch

    def begin(self, epoch: int) -> None:
        """There is nothing to draw."""


def points(seed: int, *, wrong: bool = False) -> Given:
    """Return 2 classes on a line; with `wrong`, the labels are the other way round."""
    x = np.random.default_rng(seed).normal(size=(64, 1)).astype(np.float32)
    labels = batches.one_hot((x[:, 0] > 0).astype(int), 2)
    return Given(x, labels[:, ::-1] if wrong else labels)


def line() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))


class Weighted(Given):
    """One batch with weights."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        super().__init__(inputs, labels)
        self.batch = inputs, labels, weights  # type: ignore[assignment]


class Drawn(Given):
    """Rows in an order drawn each epoch, in batches of 16, the last of 4."""

    def __init__(self, seed: int) -> None:
        super().__init__(*points(seed).batch)
        self.begin(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.batch
        rows = self.order[:52][16 * number : 16 * number + 16]
        return x[rows], y[rows]

    def begin(self, epoch: int) -> None:
        self.order = np.random.default_rng(epoch).permutation(64)


def log_loss(network: keras.Model, split: Given) -> float:
    inputs, labels = split.batch
    return float(-(labels * np.log(network.predict(inputs, verbose=0))).sum(axis=1).mean())


def curve(logs: Path) -> list[int]:
    """Return the epochs that TensorBoard shows of the loss on train and on val."""
    epochs = []
    for split in ("train", "validation"):
        events = EventAccumulator(str(logs / split), size_guidance={"tensors": 0})
        events.Reload()
        epochs.append([event.step for event in events.Tensors("epoch_loss")])
    assert epochs[0] == epochs[1]
    return epochs[0]


def test_the_weights_left_are_those_of_the_best_epoch_on_val() -> None:
    network = line()
    val = points(1)
    history = fit(network, TrainingData(points(0), val), Phase("p", Schedule(0.5, 10, 10)))
    left = network.evaluate(val, verbose=0, return_dict=True)["loss"]
    assert left == pytest.approx(min(history["val_loss"]), rel=1e-4)
    assert left < history["val_loss"][0]
    assert history["phase"] == ["p"] * 10
    assert {len(values) for values in history.values()} == {10}
    assert all(seconds > 0 for seconds in history["seconds"])


def test_training_that_never_helps_on_val_changes_nothing_and_stops() -> None:
    network = line()
    fit(network, TrainingData(points(0), points(1)), Phase("first", Schedule(0.5, 5, 5)))
    before = network.get_weights()
    history = fit(
        network, TrainingData(points(2, wrong=True), points(1)), Phase("harm", Schedule(0.5, 30, 3))
    )
    assert len(history["val_loss"]) == 3
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_of_nan_stops_with_advice_and_the_earlier_weights() -> None:
    network = line()
    before = network.get_weights()
    broken = points(0)
    broken.batch[0][:] = np.nan
    with pytest.raises(InputError, match=r"phase x: .*no longer a number.*--learning-rate"):
        fit(network, TrainingData(broken, points(1)), Phase("phase x", Schedule(0.5, 5, 5)))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Unsound(Given):
    """A val split whose loss is no number in some evaluations: before training, then by epoch."""

    def __init__(self, seed: int, unsound: set[int], value: float = np.nan) -> None:
        super().__init__(*points(seed).batch)
        self.unsound, self.value = unsound, value
        self.evaluations = -1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.batch
        return (np.full_like(x, self.value) if self.evaluations in self.unsound else x), y

    def on_epoch_begin(self) -> None:
        """Keras calls this at the beginning of every evaluation."""
        self.evaluations += 1


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_an_epoch_whose_val_loss_is_no_number_is_never_the_best(monitor: str) -> None:
    network, val = line(), Unsound(1, {3, 6})
    how = Schedule(0.5, 6, 6, monitor=monitor)
    history = fit(network, TrainingData(points(0), val), Phase("p", how))
    losses = np.array(history["val_loss"])
    assert np.isnan(losses).any()
    val.unsound = set()
    left = network.evaluate(val, verbose=0, return_dict=True)
    best = np.nanmin(losses) if monitor == "loss" else np.nanmax(history["val_accuracy"])
    assert left[monitor] == pytest.approx(best, rel=1e-4)


def test_a_val_loss_that_is_never_a_number_gives_no_network() -> None:
    data = TrainingData(points(0), Unsound(1, set(range(1, 99))))
    with pytest.raises(InputError, match=r"p: the loss on val was no number after any of 3 epochs"):
        fit(line(), data, Phase("p", Schedule(0.1, 9, 3)))


def test_weights_that_are_no_numbers_are_never_kept() -> None:
    network = line()

    class Breaking(Drawn):
        def begin(self, epoch: int) -> None:
            super().begin(epoch)
            if epoch == 2:
                # No step of training makes such weights finite again.
                network.set_weights([weight * np.inf for weight in network.get_weights()])

    with pytest.raises(InputError, match="no longer a number after epoch 3"):
        fit(network, TrainingData(Breaking(0), points(1)), Phase("p", Schedule(0.1, 5, 5)))
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_frozen_layers_stay_bit_equal_and_thawed_ones_change(vgg16_arrays: Arrays) -> None:
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    labels = batches.one_hot(np.array([0, 1]), 2)
    top = networks.top(random.gamma(1.0, 1.0, (9, 4608)).astype(np.float32), 2, logarithm=True)
    network = networks.vgg16_with(top, vgg16_arrays)
    networks.unfreeze(network, "block5")
    before = {layer.name: layer.get_weights() for layer in network.layers}
    # A val split that training must improve on, so that the new weights are kept.
    given = Given(photos, labels)
    fit(network, TrainingData(given, given), Phase("block5", Schedule(1e-6, 2, 2)))
    changed = {
        layer.name
        for layer in network.layers
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        if not np.array_equal(old, new)
    }
    assert changed == {"block5_conv1", "block5_conv2", "block5_conv3", "top"}


def test_rows_of_no_weight_teach_nothing() -> None:
    x, labels = points(0).batch
    # Twice as many rows with the wrong label, which would prevail.
    weights = np.repeat([1, 0, 0], 64).astype(np.float32)
    wrong = labels[:, ::-1]
    given = Weighted(np.concatenate([x, x, x]), np.concatenate([labels, wrong, wrong]), weights)
    network = line()
    history = fit(network, TrainingData(given, points(1)), Phase("p", Schedule(0.5, 20, 20)))
    assert history["accuracy"][-1] > 0.95
    assert history["val_accuracy"][-1] > 0.95


def test_label_smoothing_gives_a_share_of_each_label_to_all_classes() -> None:
    network, (x, labels) = line(), points(1).batch
    how = Schedule(0.5, 4, 4, label_smoothing=0.2)
    history = fit(network, TrainingData(points(0), points(1)), Phase("p", how))
    smooth = 0.8 * labels + 0.2 / 2
    losses = -(smooth * np.log(network.predict(x, verbose=0))).sum(axis=1)
    assert min(history["val_loss"]) == pytest.approx(losses.mean(), rel=1e-4)


def noisy_line() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,))
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))


class StoppedBefore(Drawn):
    """`Drawn` with a signal at the beginning of one of the epochs."""

    def __init__(self, seed: int, epoch: int) -> None:
        self.last = epoch
        super().__init__(seed)

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        if epoch == self.last:
            raise Stopped(2)


def test_training_that_is_killed_and_resumed_ends_as_if_it_had_never_stopped(
    tmp_path: Path,
) -> None:
    phase = Phase("p", Schedule(0.05, 5, 5, warmup=1, weight_decay=1e-3))
    checkpoint = Checkpoint(tmp_path / "training.h5", {"seed": 0})
    options: dict[str, Any] = {"checkpoint": checkpoint, "logs": tmp_path / "tensorboard"}
    whole = noisy_line()
    expected = fit(whole, TrainingData(Drawn(0), points(1)), phase)

    stopped = TrainingData(StoppedBefore(0, 3), points(1))
    with pytest.raises(Stopped):
        fit(noisy_line(), stopped, phase, **options)
    resumed = noisy_line()
    history = fit(resumed, TrainingData(Drawn(0), points(1)), phase, **options)
    assert set(curve(tmp_path / "tensorboard")) >= {0, 1, 3, 4}
    for name in ("loss", "val_loss", "accuracy", "val_accuracy", "phase"):
        assert history[name] == expected[name]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_state_of_another_training_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    phase = Phase("p", Schedule(0.05, 2, 2))
    checkpoint = Checkpoint(tmp_path / "training.h5", {"seed": 0, "sizes": (1, 2)})
    logs = tmp_path / "tensorboard"

    def epochs_run(checkpoint: Checkpoint) -> int:
        begun: list[int] = []

        class Counted(Drawn):
            def begin(self, epoch: int) -> None:
                super().begin(epoch)
                begun.append(epoch)

        data = TrainingData(Counted(0), points(1))
        assert len(fit(noisy_line(), data, phase, checkpoint=checkpoint, logs=logs)["loss"]) == 2
        return 2 - begun[1]

    assert epochs_run(checkpoint) == 2
    equal, other = (Checkpoint(checkpoint.path, {"seed": n, "sizes": (1, 2)}) for n in (0, 1))
    assert epochs_run(equal) == 0
    assert epochs_run(other) == 2
    assert checkpoint.read() is None
    other.path.write_bytes(other.path.read_bytes()[:-100])
    assert epochs_run(other) == 2
    # The curves of the earlier trainings are gone.
    assert curve(logs) == list(range(2))


def test_a_backend_without_tensorflow_trains_and_writes_no_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    data = TrainingData(points(0), points(1))
    phase = Phase("p", Schedule(0.05, 2, 2))
    assert len(fit(line(), data, phase, logs=tmp_path / "logs")["loss"]) == 2
    assert not (tmp_path / "logs").exists()


def test_a_state_of_another_network_is_told_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {})
    phase = Phase("p", Schedule(0.1, 2, 2))
    fit(line(), TrainingData(points(0), points(1)), phase, checkpoint=checkpoint)
    fit(noisy_line(), TrainingData(points(0), points(1)), phase, checkpoint=checkpoint)
    assert capsys.readouterr().err == (
        f"{checkpoint.path}: of another network, so the training begins anew\n"
    )


def test_training_that_ended_early_and_is_resumed_leaves_the_best_weights(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.h5", {})
    data = TrainingData(points(2, wrong=True), points(1))
    trained, resumed = line(), line()
    histories = [
        fit(network, data, Phase("p", Schedule(0.5, 30, 3)), checkpoint=checkpoint)
        for network in (trained, resumed)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]["loss"]) < 30
    for one, other in zip(trained.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_signal_leaves_the_best_weights_so_far() -> None:
    network, val = line(), points(1)

    class Stopping(Drawn):
        def begin(self, epoch: int) -> None:
            super().begin(epoch)
            if epoch == 3:
                # The changes since the best epoch must not be kept.
                network.set_weights([weight * np.nan for weight in network.get_weights()])
                raise Stopped(2)

    before = log_loss(network, val)
    with pytest.raises(Stopped):
        fit(network, TrainingData(Stopping(0), val), Phase("p", Schedule(0.1, 9, 9)))
    assert log_loss(network, val) < before


def test_too_little_memory_says_which_batch_size_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow's."""

    def fail(*_: Any, **__: Any) -> None:
        raise ResourceExhaustedError("OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", fail)
    with pytest.raises(InputError, match=r"p: not enough memory for batches of 32; .*size 16$"):
        fit(line(), TrainingData(points(0), points(1)), Phase("p", Schedule(0.1, 2, 2)))


def test_a_full_disk_is_not_called_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow's, which writes the curves for TensorBoard."""

    def fail(*_: Any, **__: Any) -> None:
        raise ResourceExhaustedError(f"{tmp_path}/events; No space left on device")

    monkeypatch.setattr(keras.Model, "fit", fail)
    data, phase = TrainingData(points(0), points(1)), Phase("p", Schedule(0.1, 2, 2))
    with pytest.raises(OSError, match="No space left on device") as full:
        fit(line(), data, phase, logs=tmp_path)
    assert full.value.filename == str(tmp_path)
