"""The reference engine: VGG16 in Keras, on any of its backends."""

import math
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.engines import frozen_layers, tuning
from extract.engines.base import Engine, Forward, Taps
from extract.engines.frozen_layers import Load
from extract.engines.split_network import SplitNetwork, split
from extract.engines.tuning import REFERENCE, Fitted, Setting
from extract.system.console import InputError
from extract.system.memory import OutOfMemory
from extract.vgg16 import keras_backend, keras_model
from extract.vgg16.architecture import LAYERS, weight_shapes
from extract.vgg16.keras_backend import inference_function, keras, load
from extract.vgg16.recipe import SIZE, SIZES, TAPS
from extract.vgg16.weights import Weights

Probabilities = NDArray[np.float32]


class Loaded(NamedTuple):
    """A trained network that was loaded.

    Attributes
    ----------
    size : int
        Side of its photos in pixels.
    run : callable
        A function from photos, (n, size, size, 3) uint8 RGB, to (n, classes) float32.
    split : callable
        Returns the network in two parts, see `extract.engines.split_network.split`.
    """

    size: int
    run: Callable[[NDArray[np.uint8]], Probabilities]
    split: Callable[[], SplitNetwork]


MOST_INPUTS = 10_000
"""More than the last layer of any network has inputs: the baseline's has 4,608, and had 8,192."""

SLACK = 16_000_000
"""Bytes that the file of a network may have besides its weights."""


ROUNDED = ("tensorfloat32", "float16", "bfloat16")
"""Number formats that a GPU multiplies faster than float32. They round the factors."""

_tuned: dict[tuple[str, int, tuple[str, ...]], tuple[Setting, list[str]]] = {}


def build(weights: Weights, *, outputs: Collection[str] = tuple(TAPS), size: int = SIZE) -> Engine:
    """Build the engine that computes some outputs for photos of a size, in float32.

    Parameters
    ----------
    weights : Weights
    outputs : collection of str
        Keys of `extract.vgg16.recipe.ALL_TAPS`, and layers whose whole maps are wanted. The network
        ends at the deepest of them.
    size : int
    """
    return Engine(name(), builders(weights, outputs, size)[REFERENCE]())


def name() -> str:
    """Return the versions of Keras and the name of its backend."""
    return f"keras {keras.__version__} on {keras.backend.backend()}"


def tune(
    weights: Weights, photos: NDArray[np.uint8], outputs: tuple[str, ...] = tuple(TAPS)
) -> tuple[Setting, list[str]]:
    """Find out how a GPU computes the outputs fastest; see `extract.engines.tuning.choose`.

    Within a process this is done once, so that all variants of a photo are computed alike.

    Parameters
    ----------
    weights : Weights
    photos : ndarray of shape (n, size, size, 3), uint8
    outputs : tuple of str
        See `build`.

    Raises
    ------
    OutOfMemory
        If the memory does not suffice for the photos.
    """
    size = photos.shape[1]
    key = (weights.digest, size, outputs)
    try:
        if key not in _tuned:
            keras_backend.find_fastest()
            _tuned[key] = tuning.choose(builders(weights, outputs, size), photos)
        return _tuned[key]
    except Exception as error:
        if not keras_backend.is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "not enough memory on the GPU for VGG16; close other programs that use it, or choose "
            "an engine for the processor, such as --engine ncnn"
        ) from error


def build_for_gpu(
    weights: Weights,
    setting: Setting,
    *,
    outputs: Collection[str] = tuple(TAPS),
    size: int = SIZE,
) -> Engine:
    """Build the engine that computes outputs on a GPU as a setting says."""
    forward = Fitted(
        builders(weights, outputs, size)[setting.precision](),
        setting.batch_size,
        is_out_of_memory=keras_backend.is_out_of_memory,
        free=keras_backend.free_memory,
    )
    # On PyTorch, Keras's own prediction is for one thread.
    alone = keras.backend.backend() == "torch" and setting.precision == REFERENCE
    described = f"{name()}, {setting.describe()}"
    return Engine(described, forward, setting.batch_size, in_flight=1 if alone else 2)


def largest(classes: int) -> int:
    """Return the most bytes that the file of a trained network with so many classes may have."""
    convolutions = sum(math.prod(shape) for shape in weight_shapes())
    # Files may also hold two moments of each weight, of training, which are not read.
    return SLACK + 3 * 4 * (convolutions + MOST_INPUTS * classes)


def load_network(
    path: Path,
    members: Mapping[str, bytes],
    *,
    classes: int,
    load_frozen: Load = lambda: None,
) -> Loaded:
    """Restore a trained and saved network that turns photos into probabilities.

    Parameters
    ----------
    path : Path
        Where it comes from, for messages.
    members : mapping of str to bytes
        The members of its file, see `extract.system.bounded.members`.
    classes : int
    load_frozen : callable
        See `extract.engines.frozen_layers.function`.

    Raises
    ------
    InputError
        If the file does not hold such a network.
    """
    network = load(path, members)
    shape = getattr(network, "input_shape", None)
    size: int = shape[1] if isinstance(shape, tuple) and len(shape) == 4 else 0
    is_ours = shape == (None, size, size, 3) and size in range(1, max(SIZES) + 1)
    if not is_ours or network.output_shape != (None, classes):
        raise InputError(f"{path}: not the network of its result.json; run make finetune")
    return Loaded(
        size,
        frozen_layers.function(network, load_frozen),
        cache(partial(split, network, load_frozen)),
    )


def builders(
    weights: Weights, outputs: Collection[str], size: int
) -> dict[str, Callable[[], Forward]]:
    """Return what builds the network in each number format, the reference first.

    Parameters
    ----------
    weights : Weights
    outputs : collection of str
        See `build`.
    size : int
        Side of the photos in pixels.
    """
    keras_network = partial(_keras_network, weights, outputs, size)
    found: dict[str, Callable[[], Forward]] = {
        REFERENCE: partial(_computed_by_keras, keras_network, exact=True)
    }
    if keras.backend.backend() == "torch":
        torch_network = partial(_computed_by_torch, weights, outputs)
        found[f"fused {REFERENCE}"] = partial(torch_network, "float32", exact=True)
        for precision in ROUNDED:
            dtype = "float32" if precision == "tensorfloat32" else precision
            found[f"fused {precision}"] = partial(torch_network, dtype, exact=False)
        return found
    for precision in ROUNDED:
        policy = "float32" if precision == "tensorfloat32" else f"mixed_{precision}"
        network = partial(keras_network, precision=policy)
        found[precision] = partial(_computed_by_keras, network, exact=False)
    return found


def _keras_network(
    weights: Weights, outputs: Collection[str], size: int, *, precision: str = "float32"
) -> keras.Model:
    network = keras_model.convolutions(weights.arrays, size=size, precision=precision)
    available = {layer.name: network.get_layer(layer.name).output for layer in LAYERS}
    available |= keras_model.taps(network, outputs)
    return keras.Model(network.input, {name: available[name] for name in outputs})


def _computed_by_keras(build_network: Callable[[], keras.Model], *, exact: bool) -> Forward:
    run = inference_function(build_network(), exact=exact)
    has_gpu = bool(keras_backend.gpus())

    def forward(photos: NDArray[np.uint8]) -> Taps:
        if has_gpu:
            keras_backend.allow_tensor_float_32(not exact)
        return {tap: np.asarray(values, dtype=np.float32) for tap, values in run(photos).items()}

    return forward


def _computed_by_torch(
    weights: Weights, outputs: Collection[str], dtype: str, *, exact: bool
) -> Forward:
    from extract.vgg16.torch_network import Network

    network = Network(weights.arrays, outputs, dtype=dtype)

    def forward(photos: NDArray[np.uint8]) -> Taps:
        keras_backend.allow_tensor_float_32(not exact)
        return network(photos)

    return forward
