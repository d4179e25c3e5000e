"""Training: what is kept, what is left alone, how long it goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from extract.backend import keras
from extract.console import InputError, Stopped
from finetune import batches, networks, train
from finetune.train import Schedule, fit, schedule
from tests.conftest import Arrays


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
        """Nothing is drawn."""


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
    """Rows in an order drawn each epoch, in batches of 16, the last of 4, fetched as photos are."""

    def __init__(self, seed: int) -> None:
        super().__init__(*points(seed).batch)
        self.workers = batches.WORKERS
        self.begin(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.batch
        rows = self.order[:52][16 * number : 16 * number + 16]
        return x[rows], y[rows]

    def begin(self, epoch: int) -> None:
        self.order = np.random.default_rng(epoch).permutation(64)


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
    history = fit(network, points(0), val, phase="p", how=Schedule(0.5, 30, 30))
    left = network.evaluate(val, verbose=0, return_dict=True)["loss"]
    assert left == pytest.approx(min(history["val_loss"]), rel=1e-4)
    assert left < history["val_loss"][0]
    assert history["phase"] == ["p"] * 30
    assert {len(values) for values in history.values()} == {30}
    assert all(seconds > 0 for seconds in history["seconds"])


def test_training_that_never_helps_on_val_changes_nothing_and_stops() -> None:
    network = line()
    fit(network, points(0), points(1), phase="first", how=Schedule(0.5, 30, 30))
    before = network.get_weights()
    history = fit(network, points(2, wrong=True), points(1), phase="harm", how=Schedule(0.5, 30, 3))
    assert len(history["val_loss"]) == 3
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_that_is_no_number_stops_with_advice_and_the_weights_it_had() -> None:
    network = line()
    before = network.get_weights()
    broken = points(0)
    broken.batch[0][:] = np.nan
    with pytest.raises(InputError, match=r"phase x: .*no longer a number.*--learning-rate"):
        fit(network, broken, points(1), phase="phase x", how=Schedule(0.5, 5, 5))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_layers_stay_bit_equal_and_thawed_ones_change(vgg16_arrays: Arrays) -> None:
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    labels = batches.one_hot(np.array([0, 1, 0, 1]), 2)
    top = networks.top(random.gamma(1.0, 1.0, (9, 4608)).astype(np.float32), 2, logarithm=True)
    network = networks.vgg16_with(top, vgg16_arrays)
    networks.unfreeze(network, "block5")
    before = {layer.name: layer.get_weights() for layer in network.layers}
    # A val split that training must improve on, so that the new weights are kept.
    given = Given(photos, labels)
    fit(network, given, given, phase="block5", how=Schedule(1e-6, 3, 3))
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
    history = fit(network, given, points(1), phase="p", how=Schedule(0.5, 30, 30))
    assert history["accuracy"][-1] > 0.95
    assert history["val_accuracy"][-1] > 0.95


def test_label_smoothing_gives_a_share_of_each_label_to_all_classes() -> None:
    network, (x, labels) = line(), points(1).batch
    how = Schedule(0.5, 30, 30, label_smoothing=0.2)
    history = fit(network, points(0), points(1), phase="p", how=how)
    smooth = 0.8 * labels + 0.2 / 2
    losses = -(smooth * np.log(network.predict(x, verbose=0))).sum(axis=1)
    assert min(history["val_loss"]) == pytest.approx(losses.mean(), rel=1e-4)


def test_augmentation_varies_training_and_nothing_else() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    augmentation = batches.augmentation(0)
    np.testing.assert_array_equal(np.asarray(augmentation(photos, training=False)), photos)
    varied = np.asarray(augmentation(photos, training=True))
    assert not np.allclose(varied, photos)
    assert varied.shape == photos.shape
    assert varied.min() >= 0
    assert varied.max() <= 255


@pytest.mark.parametrize("phase", ["scratch", "block5", "block4", "all"])
def test_schedules_grow_shorter_with_more_photos_and_stay_sensible(phase: str) -> None:
    sizes = [1, 10, 100, 300, 1_000, 3_000, 10_000, 1_000_000]
    epochs = [schedule(phase, photos).epochs for photos in sizes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] >= 1
    for photos in sizes:
        how = schedule(phase, photos)
        assert how.patience < how.epochs
        assert 0 < how.learning_rate <= 1e-3


def vgg16_that_trains(vgg16_arrays: Arrays, start: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    taps = np.random.default_rng(0).gamma(1.0, 1.0, (9, 4608)).astype(np.float32)
    top = networks.top(taps, 2, logarithm=True)
    # A top of zeros would give the layers below it no gradient.
    top.layers[-1].set_weights([np.full((4608, 2), (0.01, -0.01)), np.zeros(2)])
    network = networks.vgg16_with(top, vgg16_arrays)
    networks.unfreeze(network, start)
    return network


@pytest.mark.parametrize("start", ["block5", "block4"])
@pytest.mark.parametrize(
    # The first step of Adam is the gradient's sign only, of which any rounding turns a few;
    # rounding to 16 bits also turns a few maxima and ReLUs.
    ("dtype", "optimizer", "tolerance"),
    [("float32", "adamw", 1e-2), ("float32", "sgd", 1e-4), ("float16", "sgd", 3e-2)],
)
def test_a_step_from_the_cache_is_the_step_end_to_end(
    start: str, dtype: str, optimizer: str, tolerance: float, vgg16_arrays: Arrays
) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    labels = batches.one_hot(np.array([0, 1]), 2)
    steps = []
    for cached in (False, True):
        network = vgg16_that_trains(vgg16_arrays, start)
        trained, inputs = network, photos
        if cached:
            layer = network.get_layer(networks.ENTERED_BY[start])
            activations = keras.Model(network.input, layer.output).predict_on_batch(photos)
            trained, inputs = networks.tail(network, start), activations.astype(dtype)
        # Compiled, a single step takes longer, and TensorFlow keeps a copy of the weights for good.
        trained.compile(optimizer=optimizer, loss="categorical_crossentropy", run_eagerly=True)
        before = network.get_weights()
        trained.train_on_batch(inputs.astype(np.float32), labels)
        after = network.get_weights()
        steps.append([new - old for new, old in zip(after, before, strict=True)])
    end_to_end, from_cache = (np.concatenate([s.ravel() for s in step]) for step in steps)
    assert np.count_nonzero(end_to_end) > 1_000_000
    difference = np.linalg.norm(end_to_end - from_cache) / np.linalg.norm(end_to_end)
    assert difference < tolerance


def test_training_that_is_killed_and_resumed_ends_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy_line() -> Any:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((1,))
        x = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(inputs))
        return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))

    how = Schedule(0.05, 8, 8, warmup=1, weight_decay=1e-3)
    options: dict[str, Any] = {"phase": "p", "how": how, "of": {"seed": 0}}
    whole = noisy_line()
    expected = fit(whole, Drawn(0), points(1), **options)

    kept, logs = tmp_path / "training.h5", tmp_path / "tensorboard"
    options |= {"kept": kept, "logs": logs}
    write = train.checkpoint.write

    def write_and_stop(path: Path, state: Any, **of: Any) -> None:
        write(path, state, **of)
        if len(state.history["loss"]) == 3:
            raise Stopped(2)

    monkeypatch.setattr(train.checkpoint, "write", write_and_stop)
    with pytest.raises(Stopped):
        fit(noisy_line(), Drawn(0), points(1), **options)
    monkeypatch.setattr(train.checkpoint, "write", write)
    resumed = noisy_line()
    history = fit(resumed, Drawn(0), points(1), **options)
    assert set(curve(logs)) >= {0, 1, 3, 4, 5, 6, 7}
    for name in ("loss", "val_loss", "accuracy", "val_accuracy", "phase"):
        assert history[name] == expected[name]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Nothing is resumed of another training, nor of a damaged file.
    other_seed = {"of": {"seed": 1}, "phase": "p", "how": how._asdict()}
    assert train.checkpoint.read(kept, of=other_seed) is None
    assert train.checkpoint.read(kept, of=other_seed | {"of": {"seed": 0}}) is not None
    kept.write_bytes(kept.read_bytes()[:-100])
    assert len(fit(noisy_line(), Drawn(0), points(1), **options)["loss"]) == 8
    # Curves of another training are gone.
    assert curve(logs) == list(range(8))


def test_a_signal_leaves_the_best_weights_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    network, val = line(), points(1)

    class Stopping(train._Epochs):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            if epoch == 4:
                # What was learned since the best epoch is not to be kept.
                network.set_weights([weight * np.nan for weight in network.get_weights()])
                raise Stopped(2)

    monkeypatch.setattr(train, "_Epochs", Stopping)
    how = Schedule(0.1, 9, 9)
    train._compile(network, how, 1)
    before = network.evaluate(val, verbose=0, return_dict=True)["loss"]
    with pytest.raises(Stopped):
        fit(network, points(0), val, phase="p", how=how)
    assert network.evaluate(val, verbose=0, return_dict=True)["loss"] < before


def test_too_little_memory_says_which_batch_size_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow's."""

    def fail(*_: Any, **__: Any) -> None:
        raise ResourceExhaustedError("OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", fail)
    with pytest.raises(InputError, match=r"p: not enough memory for batches of 32; .*size 16$"):
        fit(line(), points(0), points(1), phase="p", how=Schedule(0.1, 2, 2))
