"""The hardware that trains a network: one device, several devices, or several machines.

Keras itself distributes training over the devices of one machine
(``tf.distribute.MirroredStrategy``). Its ``fit`` does not work with
``MultiWorkerMirroredStrategy`` (keras-team/keras issue 20585). Each worker therefore trains its own
copy of the network on its part of every batch, and that strategy averages only the gradients. The
copies begin equal, take equal steps and stay equal.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

from extract.system import machine
from extract.system.console import InputError
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras
from finetune.train.batches import WHOLE_BATCH, BatchPart

backend = keras.backend.backend


@dataclass(frozen=True)
class Hardware:
    """The hardware that trains a network. The defaults describe a single device.

    Attributes
    ----------
    precision : str
        Keras dtype policy of the convolutions. It is ``mixed_float16`` on GPUs.
    train_part, val_part : BatchPart
        The part of every batch of the split that this process is given.
    device_strategy : tf.distribute.Strategy or None
        Distributes training over several devices of this machine.
    worker_strategy : tf.distribute.Strategy or None
        Averages gradients and metrics over the workers of several machines.
    """

    precision: str = "float32"
    train_part: BatchPart = WHOLE_BATCH
    val_part: BatchPart = WHOLE_BATCH
    device_strategy: Any = None
    worker_strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the result. Exactly one of all workers does."""
        return not self.train_part.replica

    @property
    def jit_compile(self) -> str | bool:
        """Keras's ``jit_compile``. XLA cannot average over workers.

        On a CPU, TensorFlow has faster convolutions than XLA.
        """
        is_cpu = self.precision != "mixed_float16"
        if self.worker_strategy is not None or (is_cpu and backend() == "tensorflow"):
            return False
        return "auto"

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which networks and optimizers must be made."""
        return nullcontext() if self.device_strategy is None else self.device_strategy.scope()

    def optimizer(
        self, *, factors: Sequence[float] = (), **options: Any
    ) -> keras.optimizers.Optimizer:
        """Return AdamW with these options, scaling losses and averaging gradients as needed.

        Parameters
        ----------
        factors : sequence of float
            The share of the learning rate that each trainable variable has; empty if all have it
            whole.
        **options
            Those of AdamW.
        """
        adamw = keras.optimizers.AdamW
        if factors:
            adamw = _layerwise(adamw, factors)
        whole = adamw
        scaled = keras.optimizers.LossScaleOptimizer
        if self.worker_strategy is not None:
            adamw = _averaging(adamw, self.worker_strategy)
            scaled = _averaging(scaled, self.worker_strategy)
        if self.precision == "mixed_float16":
            # The outer optimizer averages, so that all workers agree whether a gradient overflowed.
            return scaled(whole(**options))
        return adamw(**options)

    def mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the means of all workers' metrics, so that all of them decide alike."""
        if self.worker_strategy is None:
            return dict(metrics)
        values = keras.ops.convert_to_tensor(list(metrics.values()), dtype="float32")
        means = self.worker_strategy.reduce("MEAN", values, axis=None)
        return {name: float(mean) for name, mean in zip(metrics, means, strict=True)}

    def wait(self) -> None:
        """Wait until all workers call this."""
        self.mean({"workers": 1.0})

    def portable(self, network: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
        """Return the network in float32, outside of any strategy and without its optimizer.

        Parameters
        ----------
        network : keras.Model
        build : callable
            Builds a portable network of the same layers. It is called only if `network` is not.
        """
        is_portable = self.device_strategy is None and self.precision == "float32"
        if is_portable and not network.compiled:
            return network
        copy = build()
        copy.set_weights(network.get_weights())
        return copy


ONE_PROCESSOR = Hardware()


@cache
def detect() -> Hardware:
    """Detect the hardware. TensorFlow must not have computed anything before.

    The environment variable ``TF_CONFIG`` names several machines, in TensorFlow's format.

    Raises
    ------
    InputError
        If ``TF_CONFIG`` cannot be used.
    """
    worker, workers = _cluster(os.environ.get("TF_CONFIG"))
    worker_strategy = _worker_strategy() if workers > 1 else None
    gpus = keras_backend.gpus()
    precision = "mixed_float16" if gpus else "float32"
    if worker_strategy is not None:
        if len(worker_strategy.extended.worker_devices) > 1:
            raise InputError(
                "TF_CONFIG names several workers, and this one has several GPUs; start one worker "
                "for each GPU and assign the GPU to it with CUDA_VISIBLE_DEVICES"
            )
        part = BatchPart(workers, worker)
        return Hardware(precision, train_part=part, worker_strategy=worker_strategy)
    if len(gpus) > 1 and backend() == "tensorflow":
        return several_devices(gpus, precision)
    return Hardware(precision if gpus else _cpu_precision())


def several_devices(devices: Sequence[str], precision: str = "float32") -> Hardware:
    """Return the hardware of several devices of this machine; every batch is divided among them.

    Parameters
    ----------
    devices : sequence of str
        TensorFlow's names, such as ``gpu:0``.
    precision : str
        Keras dtype policy of the convolutions.
    """
    import tensorflow as tf

    part = BatchPart(len(devices))
    strategy = tf.distribute.MirroredStrategy(devices)
    return Hardware(precision, train_part=part, val_part=part, device_strategy=strategy)


def _cluster(config: str | None) -> tuple[int, int]:
    """Return the index of this worker, counted from 0, and the number of workers."""
    if not config:
        return 0, 1
    try:
        found = json.loads(config)
        cluster, task = found["cluster"], found["task"]
        chiefs, workers = (len(cluster.get(kind, [])) for kind in ("chief", "worker"))
        first = {"chief": 0, "worker": chiefs}[task["type"]]
        return first + int(task["index"]), chiefs + workers
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "TF_CONFIG: must name a cluster of workers and the task of this one, and does not "
            f"({error!r}); unset it to train on this machine only"
        ) from error


def _cpu_precision() -> str:
    """Return the precision of a CPU, some of which multiply numbers of bfloat16 much faster.

    TensorFlow uses their instructions. bfloat16 has the range of float32, so no loss is scaled.
    """
    uses_bfloat16 = machine.multiplies_bfloat16() and backend() == "tensorflow"
    return "mixed_bfloat16" if uses_bfloat16 else "float32"


def _worker_strategy() -> Any:
    if backend() != "tensorflow":
        raise InputError(
            "TF_CONFIG names several workers, which need KERAS_BACKEND=tensorflow; "
            "unset one of them"
        )
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def _layerwise(optimizer: type[Any], factors: Sequence[float]) -> type[Any]:
    """Return a subclass of an optimizer with a learning rate for each variable."""

    class Layerwise(optimizer):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # Optimizers of Keras find the state that belongs to a variable in the same way.
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return Layerwise


def _averaging(optimizer: type[Any], strategy: Any) -> type[Any]:
    """Return a subclass of an optimizer that applies the mean of all workers' gradients."""
    import tensorflow as tf

    class Averaging(optimizer):  # type: ignore[misc]
        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            def mean(_: Any, *values: Any) -> list[Any]:
                with strategy.scope():
                    return [strategy.reduce("MEAN", value, axis=None) for value in values]

            # A strategy can only reduce in the cross-replica context, which this call enters.
            means = tf.distribute.get_replica_context().merge_call(mean, args=grads)
            super().apply(means, trainable_variables)

    return Averaging
