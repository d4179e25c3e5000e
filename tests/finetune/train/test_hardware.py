"""Hardware: several devices and several machines take the steps that one takes."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extract.system import bounded
from extract.system.console import InputError, Stopped
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras
from finetune.train import hardware, networks, run
from finetune.train.batches import TrainingData, one_hot
from finetune.train.hardware import Hardware
from finetune.train.loop import compile_network
from finetune.train.request import BaselineOptions, Request
from finetune.train.schedule import Phase, Schedule, by_rule
from finetune.train.setup import Setup
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.long

TRAINING = """
import sys
import numpy as np
import tensorflow as tf
from extract.vgg16.keras_backend import keras
from finetune.train import hardware
from finetune.train.batches import TrainingData, one_hot
from finetune.train.loop import fit
from finetune.train.schedule import Phase, Schedule

devices, out = int(sys.argv[1]), sys.argv[2]
if devices > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    here = hardware.several_devices([f"cpu:{number}" for number in range(devices)])
else:
    here = hardware.detect()

class Split(keras.utils.PyDataset):
    def __init__(self, part):
        super().__init__(workers=2)
        self.part = part
        self.x = np.random.default_rng(0).normal(size=(49, 8)).astype(np.float32)
        self.y = one_hot((self.x[:, 0] > 0).astype(int), 2)

    def __len__(self):
        return 4

    def __getitem__(self, number):
        # The last batch has only one row.
        rows = np.arange(49)[number * 16 : number * 16 + 16]
        rows, weights = self.part.select(rows, np.linspace(0.5, 1.5, 49)[rows])
        return self.x[rows], self.y[rows], weights

    def begin(self, epoch):
        pass

with here.scope():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = keras.layers.Dense(4, activation="relu")(x)
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
phase = Phase("p", Schedule(0.05, 3, 3, warmup=1, weight_decay=1e-3))
data = TrainingData(Split(here.train_part), Split(here.val_part))
history = fit(network, data, phase, hardware=here)
weights = {f"weight {number}": value for number, value in enumerate(network.get_weights())}
np.savez(out, loss=history["loss"], val_loss=history["val_loss"], chief=here.is_chief, **weights)
"""


FORKS = """
import json, os, signal, sys
# This takes seconds, so the trainings share it; nothing has been computed yet.
import tensorflow
from finetune.train import hardware, loop

jobs = json.loads(sys.stdin.read())
for job in jobs:
    if os.fork() == 0:
        signal.alarm(300)
        os.environ.update(job["environment"])
        sys.argv[1:] = job["arguments"]
        try:
            exec(job["program"], {"__name__": "training"})
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
for job in jobs:
    if os.wait()[1]:
        os.killpg(0, signal.SIGKILL)
"""


def train(jobs: dict[Path, tuple[int, object]]) -> list[dict[str, np.ndarray]]:
    """Run a training for each file that it writes, on some devices and as ``TF_CONFIG`` says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    environment.pop("TF_CONFIG", None)
    given = [
        {
            "program": TRAINING,
            "arguments": [str(devices), str(out)],
            "environment": {"TF_CONFIG": json.dumps(config)} if config else {},
        }
        for out, (devices, config) in jobs.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps(given),
        cwd=CHECKOUT,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [dict(np.load(out)) for out in jobs]


def two_ports() -> list[str]:
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The result of one process, this one, on one device."""
    out = tmp_path_factory.mktemp("alone") / "weights.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TF_CONFIG", raising=False)
        patch.setattr(sys, "argv", ["", "1", str(out)])
        exec(TRAINING, {"__name__": "training"})
    return dict(np.load(out))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """The results of two workers, and of one process on two devices."""
    folder, cluster = tmp_path_factory.mktemp("together"), {"worker": two_ports()}
    jobs: dict[Path, tuple[int, object]] = {
        folder / f"{index}.npz": (
            1,
            {"cluster": cluster, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    }
    return train(jobs | {folder / "mirrored.npz": (2, None)})


def test_two_workers_end_with_equal_weights_those_of_one_process(
    alone: dict[str, np.ndarray], together: list[dict[str, np.ndarray]]
) -> None:
    first, second, _ = map(dict, together)
    assert (first.pop("chief"), second.pop("chief")) == (True, False)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        # The row that pads the last batch counts in the mean loss of an epoch.
        tolerance = 0.02 if name == "loss" else 1e-5
        np.testing.assert_allclose(value, alone[name], atol=tolerance, err_msg=name)


def test_two_devices_end_with_the_weights_of_one(
    alone: dict[str, np.ndarray], together: list[dict[str, np.ndarray]]
) -> None:
    for name, value in together[2].items():
        tolerance = 0.02 if "loss" in name else 1e-5
        np.testing.assert_allclose(value, alone[name], atol=tolerance, err_msg=name)


def test_a_single_device_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(keras_backend, "gpus", list)
    monkeypatch.setattr(hardware.machine, "multiplies_bfloat16", lambda: False)
    assert hardware.detect.__wrapped__() == Hardware()
    monkeypatch.setattr(hardware.machine, "multiplies_bfloat16", lambda: True)
    assert hardware.detect.__wrapped__() == Hardware(precision="mixed_bfloat16")
    monkeypatch.setattr(keras_backend, "gpus", lambda: ["gpu:0"])
    assert hardware.detect.__wrapped__() == Hardware(precision="mixed_float16")
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
    with pytest.raises(InputError, match=r"^TF_CONFIG: must name a cluster .* unset it"):
        hardware.detect.__wrapped__()


def test_a_chief_comes_before_the_workers() -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, expected in [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]:
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        assert hardware._cluster(config) == (expected, 3)


def test_mixed_precision_scales_the_loss_and_trains() -> None:
    gpu = Hardware(precision="mixed_float16")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", dtype=gpu.precision)(inputs)
    assert (x.dtype, inputs.dtype) == ("float16", "float32")
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    compile_network(network, Schedule(0.1, 30, 30), 1, hardware=gpu)
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
    points = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    labels = one_hot((points[:, 0] > 0).astype(int), 2)
    losses = [network.train_on_batch(points, labels)[0] for _ in range(20)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("half_precision", ["float16", "bfloat16"])
def test_a_portable_network_is_in_single_precision_and_loads_anywhere(
    half_precision: str, tmp_path: Path
) -> None:
    gpu = Hardware(precision=f"mixed_{half_precision}")
    build = partial(networks.baseline, 2, batch_norm=True)
    keras.utils.set_random_seed(0)
    network = build(precision=gpu.precision)
    kinds = {layer.name.split("_")[0]: layer.compute_dtype for layer in network.layers}
    assert kinds["conv2d"] == kinds["batch"] == kinds["max"] == half_precision
    assert kinds["dense"] == "float32"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    portable = gpu.portable(network, build)
    assert {layer.compute_dtype for layer in portable.layers} == {"float32"}
    run.save_network(portable, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    photos = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    half, single = (np.asarray(each(photos)) for each in (network, loaded))
    np.testing.assert_allclose(half, single, atol=1e-2)


def test_after_a_signal_the_best_network_so_far_is_in_single_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, build = Hardware(precision="mixed_bfloat16"), partial(networks.baseline, 2)
    network = build(precision=half.precision)
    phase = Phase("scratch", by_rule("scratch", 10))
    prepared = Setup(network, network, TrainingData(None, None), phase, build)
    features: Any = SimpleNamespace(
        data="pets", data_digest="d", attributes={"weights_digest": "w"}
    )

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped(2)

    monkeypatch.setattr(run, "fit", stop)
    request = Request(BaselineOptions(), seed=0, out=tmp_path)
    request.folder(features).mkdir(parents=True)
    with pytest.raises(Stopped):
        run._fit(prepared, features, request, half)
    path = request.folder(features) / run.BEST_SO_FAR
    # It refuses networks in another precision.
    keras_backend.load(path, bounded.members(path.read_bytes(), largest=10**8))
