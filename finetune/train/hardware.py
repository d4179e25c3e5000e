"""What networks are trained on: one processor, the GPUs of one machine, or several machines.

On one processor nothing here does anything. Keras distributes training over the GPUs of one machine
itself (``tf.distribute.MirroredStrategy``). Its ``fit`` does not work with
``MultiWorkerMirroredStrategy`` (keras-team/keras issue 20585), so every worker trains a network of
its own on its share of each batch, and what that strategy does is average their gradients: the
networks begin equal, are given equal steps, and stay equal.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

from extract.system.console import InputError
from extract.vgg16.keras_backend import keras
from finetune.train.batches import WHOLE, Share


class Hardware(NamedTuple):
    """What a network is trained on; as it stands, one processor.

    Attributes
    ----------
    precision : str
        Dtype policy of the convolutions.
    train, val : Share
        Of every batch of the split that this process is given.
    mirrored : tf.distribute.Strategy or None
        Under which Keras trains, on several GPUs.
    between : tf.distribute.Strategy or None
        What averages over the workers, on several machines.
    """

    precision: str = "float32"
    train: Share = WHOLE
    val: Share = WHOLE
    mirrored: Any = None
    between: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this is the one process that leaves results."""
        return not self.train.part

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which networks and optimizers are made."""
        return nullcontext() if self.mirrored is None else self.mirrored.scope()

    def optimizer(self, **options: Any) -> keras.optimizers.Optimizer:
        """Return AdamW with these options, as this hardware needs it."""
        adamw = keras.optimizers.AdamW
        scaled = keras.optimizers.LossScaleOptimizer
        if self.between is not None:
            adamw, scaled = _averaging(adamw, self.between), _averaging(scaled, self.between)
        if self.precision == "mixed_float16":
            # What is not a number must be found in the averages, or workers would disagree on it.
            return scaled(keras.optimizers.AdamW(**options))
        return adamw(**options)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the means of all workers' figures, so that all decide alike."""
        if self.between is None:
            return dict(figures)
        values = keras.ops.convert_to_tensor(list(figures.values()), dtype="float32")
        means = self.between.reduce("MEAN", values, axis=None)
        return {name: float(mean) for name, mean in zip(figures, means, strict=True)}

    def plain(self, network: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
        """Return the network for any machine: one that `build` makes, if it is not so already."""
        if self.mirrored is None and self.precision == "float32":
            return network
        copy = build()
        copy.set_weights(network.get_weights())
        return copy


@cache
def find() -> Hardware:
    """Find out what there is; call it before anything is computed.

    Several machines are told by the environment variable ``TF_CONFIG``, in TensorFlow's format.

    Raises
    ------
    InputError
        If ``TF_CONFIG`` is not usable.
    """
    worker, workers = _cluster(os.environ.get("TF_CONFIG"))
    between = _between() if workers > 1 else None
    gpus = _gpus()
    precision = "mixed_float16" if gpus else "float32"
    if between is not None:
        if len(between.extended.worker_devices) > 1:
            raise InputError(
                "TF_CONFIG names several workers and this one sees several GPUs; start one worker "
                "a GPU and give it its own by CUDA_VISIBLE_DEVICES"
            )
        return Hardware(precision, train=Share(workers, worker), between=between)
    if len(gpus) > 1 and keras.backend.backend() == "tensorflow":
        return mirrored(gpus, precision)
    return Hardware(precision)


def mirrored(devices: Sequence[str], precision: str = "float32") -> Hardware:
    """Return several devices of this machine, each given its part of every batch."""
    import tensorflow as tf

    share = Share(len(devices))
    strategy = tf.distribute.MirroredStrategy(devices)
    return Hardware(precision, train=share, val=share, mirrored=strategy)


def _cluster(config: str | None) -> tuple[int, int]:
    """Return which worker this is, counted from 0, of how many."""
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
            f"TF_CONFIG: not a cluster of workers and the task of this one ({error!r}); "
            "unset it to train on this machine only"
        ) from error


def _gpus() -> list[str]:
    if keras.backend.backend() == "torch":
        # Of PyTorch's devices Keras knows no list.
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    devices: list[str] = keras.distribution.list_devices()
    return [device for device in devices if not device.startswith("cpu")]


def _between() -> Any:
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "TF_CONFIG names several workers, which need KERAS_BACKEND=tensorflow; "
            "unset one of them"
        )
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def _averaging(optimizer: type[Any], between: Any) -> type[Any]:
    """Return the class of an optimizer that applies the mean of all workers' gradients."""
    import tensorflow as tf

    class Averaging(optimizer):  # type: ignore[misc]
        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            def mean(_: Any, *values: Any) -> list[Any]:
                with between.scope():
                    return [between.reduce("MEAN", value, axis=None) for value in values]

            # Between replicas is the only place where a strategy reduces.
            means = tf.distribute.get_replica_context().merge_call(mean, args=grads)
            super().apply(means, trainable_variables)

    return Averaging
