"""Hardware: several devices and several machines take the steps that one takes."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from extract.system.console import InputError
from extract.vgg16.keras_backend import keras
from finetune.train import batches, hardware, loop, networks
from finetune.train.batches import Share
from finetune.train.hardware import Hardware
from tests.conftest import CHECKOUT

TRAINING = """
import sys
import numpy as np
import tensorflow as tf
from extract.vgg16.keras_backend import keras
from finetune.train import batches, hardware, loop

devices, out = int(sys.argv[1]), sys.argv[2]
if devices > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    on = hardware.mirrored([f"cpu:{number}" for number in range(devices)])
else:
    on = hardware.find()

class Split(keras.utils.PyDataset):
    def __init__(self, share):
        super().__init__(workers=2)
        self.share = share
        self.x = np.random.default_rng(0).normal(size=(49, 8)).astype(np.float32)
        self.y = batches.one_hot((self.x[:, 0] > 0).astype(int), 2)

    def __len__(self):
        return 4

    def __getitem__(self, number):
        # Of the last batch there is but one row.
        rows = np.arange(49)[number * 16 : number * 16 + 16]
        rows, weights = self.share.of(rows, np.linspace(0.5, 1.5, 49)[rows])
        return self.x[rows], self.y[rows], weights

    def begin(self, epoch):
        pass

with on.scope():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = keras.layers.Dense(4, activation="relu")(x)
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
how = loop.Schedule(0.05, 3, 3, warmup=1, weight_decay=1e-3)
history = loop.fit(network, Split(on.train), Split(on.val), phase="p", how=how, on=on)
weights = {f"weight {number}": value for number, value in enumerate(network.get_weights())}
np.savez(out, loss=history["loss"], val_loss=history["val_loss"], chief=on.is_chief, **weights)
"""


def start(out: Path, *, devices: int = 1, config: object = None) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    environment.pop("TF_CONFIG", None)
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-c", TRAINING, str(devices), str(out)]
    return subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, text=True, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str], out: Path) -> dict[str, np.ndarray]:
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said[-3000:]
    return dict(np.load(out))


def two_ports() -> list[str]:
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What one process on one device ends with."""
    out = tmp_path_factory.mktemp("alone") / "weights.npz"
    return ended(start(out), out)


def test_two_workers_end_with_equal_weights_those_of_one_process(
    alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cluster = {"worker": two_ports()}
    outs = [tmp_path / f"{worker}.npz" for worker in range(2)]
    workers = [
        start(out, config={"cluster": cluster, "task": {"type": "worker", "index": worker}})
        for worker, out in enumerate(outs)
    ]
    first, second = (ended(*each) for each in zip(workers, outs, strict=True))
    assert (first.pop("chief"), second.pop("chief")) == (True, False)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        # In the mean loss of an epoch the row that fills up the last batch counts.
        tolerance = 0.02 if name == "loss" else 1e-5
        np.testing.assert_allclose(value, alone[name], atol=tolerance, err_msg=name)


def test_two_devices_end_with_the_weights_of_one(
    alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "mirrored.npz"
    for name, value in ended(start(out, devices=2), out).items():
        tolerance = 0.02 if "loss" in name else 1e-5
        np.testing.assert_allclose(value, alone[name], atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("rows", "parts"), [(16, 2), (17, 2), (1, 4), (6, 4)])
def test_shares_are_of_equal_size_and_their_mean_is_that_of_the_batch(
    rows: int, parts: int
) -> None:
    random = np.random.default_rng(rows)
    losses, weights = random.random(100), random.random(100).astype(np.float32)
    order = random.permutation(100)[:rows]
    shares = [Share(parts, part).of(order, weights[order]) for part in range(parts)]
    assert len({len(given) for given, _ in shares}) == 1
    assert set(np.concatenate([given for given, _ in shares])) == set(order)
    means = [np.mean(losses[given] * weight) for given, weight in shares]
    assert np.mean(means) == pytest.approx(np.mean(losses[order] * weights[order]))
    # Where one process feeds all devices it is given all shares.
    given, weight = Share(parts).of(order, weights[order])
    assert len(given) % parts == 0
    assert np.mean(losses[given] * weight) == pytest.approx(np.mean(means))


def test_on_one_processor_nothing_is_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(hardware, "_gpus", list)
    assert hardware.find.__wrapped__() == Hardware()
    monkeypatch.setattr(hardware, "_gpus", lambda: ["gpu:0"])
    assert hardware.find.__wrapped__() == Hardware(precision="mixed_float16")
    optimizer = Hardware().optimizer(learning_rate=0.1)
    assert type(optimizer) is keras.optimizers.AdamW
    assert Hardware().mean({"loss": 0.1}) == {"loss": 0.1}


@pytest.mark.parametrize(
    "config", ["{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps"}}']
)
def test_a_cluster_that_makes_no_sense_is_refused(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match=r"^TF_CONFIG: not a cluster .* unset it"):
        hardware.find.__wrapped__()


def test_a_chief_comes_before_the_workers() -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, expected in [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]:
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        assert hardware._cluster(config) == (expected, 3)


def test_mixed_precision_scales_the_loss_and_trains() -> None:
    on = Hardware(precision="mixed_float16")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", dtype=on.precision)(inputs)
    assert (x.dtype, inputs.dtype) == ("float16", "float32")
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    loop._compile(network, loop.Schedule(0.1, 30, 30), 1, on=on)
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
    points = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    labels = batches.one_hot((points[:, 0] > 0).astype(int), 2)
    losses = [network.train_on_batch(points, labels)[0] for _ in range(20)]
    assert losses[-1] < losses[0] / 2


def test_the_network_left_is_in_single_precision_and_loads_anywhere(tmp_path: Path) -> None:
    on = Hardware(precision="mixed_float16")
    build = partial(networks.baseline, 2, batch_norm=True)
    keras.utils.set_random_seed(0)
    network = build(precision=on.precision)
    kinds = {layer.name.split("_")[0]: layer.compute_dtype for layer in network.layers}
    assert kinds["conv2d"] == kinds["batch"] == kinds["max"] == "float16"
    assert kinds["dense"] == "float32"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    left = on.plain(network, build)
    assert {layer.compute_dtype for layer in left.layers} == {"float32"}
    loop.save(left, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    photos = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    half, single = (np.asarray(each(photos)) for each in (network, loaded))
    np.testing.assert_allclose(half, single, atol=1e-2)
