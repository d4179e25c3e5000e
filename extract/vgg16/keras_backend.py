"""The one place that imports Keras. It sets the environment before TensorFlow reads it."""

import errno
import json
import math
import os
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from extract.system import bounded, console
from extract.system.console import InputError
from extract.vgg16 import network_file

# TensorFlow leaves oneDNN off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

try:
    # TensorFlow 2.21 tells what it uses, whatever the level above.
    with console.silence():
        import keras
except ImportError as missing:
    raise InputError(
        f"{missing.name} is not installed, and networks, --engine keras and exports to keras and "
        "litert need it: pip install 'onepass[cpu]' (or gpu) installs Keras with TensorFlow; heads "
        "do without it"
    ) from missing

__all__ = [
    "allow_tensor_float_32",
    "find_fastest",
    "free_memory",
    "full_disk",
    "gpus",
    "inference_function",
    "is_out_of_memory",
    "keras",
    "load",
]

LARGEST_OUTPUT = 8_000_000
"""The most numbers that a layer of a saved network may give for a photo. VGG16 has 3.2 million."""

MOST_LAYERS = 200

OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""Exceptions of TensorFlow and PyTorch, by name because neither may be installed."""

OUT_OF_MEMORY_WORDS = (
    "RESOURCE_EXHAUSTED",
    "STATUS_ALLOC_FAILED",
    # cuDNN says so if no way to compute a convolution finds the memory that it needs.
    "unable to find an engine to execute this computation",
)


def gpus() -> list[str]:
    """Return the names of the GPUs that the backend computes on."""
    if keras.backend.backend() == "torch":
        # Keras cannot list PyTorch's devices.
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    devices: list[str] = keras.distribution.list_devices()
    return [device for device in devices if not device.startswith("cpu")]


def allow_tensor_float_32(allowed: bool) -> None:
    """Say whether a GPU may round the factors of float32 products to 10 bits.

    By default TensorFlow and the convolutions of PyTorch do so. JAX is told as it computes, see
    `inference_function`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(allowed)
    elif backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def find_fastest() -> None:
    """Let PyTorch try all ways to compute a convolution: seconds for each new batch size."""
    if keras.backend.backend() == "torch":
        import torch

        torch.backends.cudnn.benchmark = True


def inference_function(
    network: keras.Model, *, exact: bool = True, dtype: str = "uint8"
) -> Callable[[NDArray[Any]], Any]:
    """Return a function that runs `network` on batches of any size.

    With TensorFlow the network is traced once for every batch size, whereas Keras's own prediction
    function would trace it again for a smaller last batch.

    Parameters
    ----------
    network : keras.Model
    exact : bool
        Whether products of float32 are those of float32 on a GPU of JAX, too.
    dtype : str
        Type of the input.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return _by_jax(network, "float32" if exact else "tensorfloat32")
    if backend != "tensorflow":
        predict: Callable[[NDArray[Any]], Any] = network.predict_on_batch
        return predict
    import tensorflow as tf

    batch = tf.TensorSpec(network.input_shape, dtype)
    traced: Callable[[NDArray[Any]], Any] = tf.function(
        lambda values: network(values, training=False), input_signature=[batch], autograph=False
    )
    return traced


def _by_jax(network: keras.Model, precision: str) -> Callable[[NDArray[Any]], Any]:
    """Return a function that several threads may call, which Keras's own is not."""
    import jax

    weights = (
        [variable.value for variable in network.trainable_variables],
        [variable.value for variable in network.non_trainable_variables],
    )

    def computed(weights: Any, values: Any) -> Any:
        return network.stateless_call(*weights, values, training=False)[0]

    compiled = jax.jit(computed)

    def run(values: NDArray[Any]) -> Any:
        with jax.default_matmul_precision(precision):
            return compiled(weights, values)

    return run


def load(path: Path, members: Mapping[str, bytes]) -> keras.Model:
    """Restore a saved network without running any code that its file may contain.

    Parameters
    ----------
    path : Path
        Where it comes from, for messages.
    members : mapping of str to bytes
        The members of its file, see `extract.system.bounded.members`.

    Raises
    ------
    InputError
        If the file holds anything but a network of the layers used here, with all its weights.
    """
    try:
        config = network_file.check(members)
        kept = {name: members[name] for name in (network_file.METADATA, network_file.WEIGHTS)}
        kept[network_file.CONFIG] = json.dumps(config).encode()
        _check_sizes(config, len(members[network_file.WEIGHTS]))
        network = _restore(bounded.archive(kept))
        for variable in network.variables:
            if not np.isfinite(np.asarray(variable)).all():
                raise ValueError("its weights are not finite numbers")
        return network
    # On a damaged or foreign file Keras raises exceptions of many types.
    except Exception as error:
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise InputError(f"{path}: not a network that can be used ({reason})") from error


def _restore(archive: bytes) -> keras.Model:
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # Keras requires a file name that ends in .keras.
        path = Path(temporary, "model.keras")
        path.write_bytes(archive)
        # Keras warns that the optimizer's state is not restored; inference does not need it.
        warnings.simplefilter("ignore")
        return keras.models.load_model(path, compile=False, safe_mode=True)


def _check_sizes(config: dict[str, Any], stored: int) -> None:
    """Raise ValueError if a network takes more memory than its stored weights.

    In a stateless scope Keras builds it without making a single weight. It changes `config`.
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            outline = keras.saving.deserialize_keras_object(config, safe_mode=True)
            layers = list(_layers(outline))
            weights = 4 * sum(math.prod(weight.shape) for weight in outline.variables)
            outputs = [math.prod(layer.output.shape[1:]) for layer in layers]
    finally:
        # Otherwise Keras would make the weights later.
        keras.utils.clear_session(free_memory=False)
    if weights > stored:
        raise ValueError(f"it has {weights / 1e6:,.0f} MB of weights, and fewer are stored")
    if len(layers) > MOST_LAYERS or max(outputs) > LARGEST_OUTPUT:
        raise ValueError("it has more or larger layers than networks here")


def _layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a network and of the networks inside it."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error of any backend, or of NumPy, means that memory ran out."""
    if full_disk(error):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ in OUT_OF_MEMORY:
        return True
    # JAX has no exception type for it, and neither have cuDNN and cuBLAS; only messages say so.
    return any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def free_memory() -> None:
    """Give back the memory of a GPU that PyTorch keeps for later. Others keep none in pieces."""
    if keras.backend.backend() == "torch":
        import torch

        torch.cuda.empty_cache()


def full_disk(error: Exception) -> int:
    """Return the system's number of a full disk or quota that an error of a backend tells, or 0.

    TensorFlow has one type of exception for this and for a lack of memory.
    """
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return next((number for number in numbers if os.strerror(number) in str(error)), 0)
