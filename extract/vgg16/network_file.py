"""What a saved network of this project may contain. Keras never sees a file that has more.

A stranger may have made the file, and Keras restores whatever a file names. So the list says what
is allowed: the layers that the networks here consist of, and the values of their options.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import h5py

from extract.system import bounded

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"

LARGEST_CONFIG = 8_000_000
"""The most bytes of the description of a network without its weights."""

ANY_LAYER = "name trainable dtype"
CHANNELS_LAST = "data_format"
INITIALIZERS = "seed input_axes output_axes"
POOLING = f"{ANY_LAYER} pool_size padding strides {CHANNELS_LAST}"
GLOBAL_POOLING = f"{ANY_LAYER} {CHANNELS_LAST} keepdims"

OPTIONS = {
    "keras.DTypePolicy": "name",
    "keras.initializers.GlorotUniform": INITIALIZERS,
    "keras.initializers.HeNormal": INITIALIZERS,
    "keras.initializers.Ones": "",
    "keras.initializers.Zeros": "",
    "keras.layers.AveragePooling2D": POOLING,
    "keras.layers.BatchNormalization": f"{ANY_LAYER} axis momentum epsilon center scale "
    "beta_initializer gamma_initializer moving_mean_initializer moving_variance_initializer "
    "renorm_momentum",
    "keras.layers.Conv2D": f"{ANY_LAYER} filters kernel_size strides padding {CHANNELS_LAST} "
    "dilation_rate groups activation use_bias kernel_initializer bias_initializer",
    "keras.layers.Dense": f"{ANY_LAYER} units activation use_bias kernel_initializer "
    "bias_initializer",
    "keras.layers.Dropout": f"{ANY_LAYER} rate seed",
    "keras.layers.Flatten": f"{ANY_LAYER} {CHANNELS_LAST}",
    "keras.layers.GlobalAveragePooling2D": GLOBAL_POOLING,
    "keras.layers.GlobalMaxPooling2D": GLOBAL_POOLING,
    "keras.layers.InputLayer": f"{ANY_LAYER} batch_shape",
    "keras.layers.MaxPooling2D": POOLING,
    "keras.layers.Normalization": f"{ANY_LAYER} axis mean variance",
    "keras.layers.ReLU": f"{ANY_LAYER} negative_slope threshold",
    "keras.layers.Rescaling": f"{ANY_LAYER} scale offset",
    "keras.layers.UnitNormalization": f"{ANY_LAYER} axis",
    "keras.src.models.functional.Functional": "name trainable layers input_layers output_layers",
    "keras.src.ops.numpy.Log1p": "name",
}
"""The classes that a network may name, and the options that each may have. Any other option must be
off: null or false."""

TEXTS = {
    "activation": {"linear", "relu", "softmax"},
    "data_format": {"channels_last"},
    "dtype": {"float32"},
    "padding": {"same", "valid"},
}
"""The only texts that these options may have."""

AROUND = {
    *("module", "class_name", "config", "registered_name", "name"),
    *("inbound_nodes", "build_config", "shared_object_id"),
}
"""What may stand beside the options of a class."""


def check(members: Mapping[str, bytes]) -> dict[str, Any]:
    """Make sure that the members of a saved network hold only what is allowed.

    Parameters
    ----------
    members : mapping of str to bytes
        See `extract.system.bounded.members`. Those that Keras does not read are ignored.

    Returns
    -------
    dict
        The description of the network, without its training.

    Raises
    ------
    ValueError
        If they hold anything else; the message says what.
    """
    for name in (CONFIG, WEIGHTS, METADATA):
        if name not in members:
            raise ValueError(f"it has no {name}")
    if len(members[CONFIG]) > LARGEST_CONFIG:
        raise ValueError(f"its {CONFIG} has more than {LARGEST_CONFIG / 1e6:.0f} MB")
    config = bounded.from_json(members[CONFIG])
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} is not an object")
    for item in _objects(config):
        # It describes the optimizer, which only training needs.
        item.pop("compile_config", None)
        _check_object(item)
    with h5py.File(io.BytesIO(members[WEIGHTS]), "r") as file:
        bounded.check_stored(file)
    return config


def _objects(item: Any) -> Iterator[dict[str, Any]]:
    """Yield every dictionary that may stand for an object of Keras."""
    waiting = [item]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item or "module" in item:
                yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _check_object(item: dict[str, Any]) -> None:
    # A reference to another tensor names no module, and nothing is imported for it.
    if item.get("class_name") == "__keras_tensor__" and "module" not in item:
        return
    name = f"{item.get('module')}.{item.get('class_name')}"
    if name not in OPTIONS or not set(item) <= AROUND:
        raise ValueError(f"it names {name}, which networks here do not consist of")
    if item.get("registered_name") not in (None, item["class_name"]):
        raise ValueError(f"it gives {name} more than networks here do")
    options = item.get("config")
    if not isinstance(options, dict):
        raise ValueError(f"it has no options of {name}")
    allowed = OPTIONS[name].split()
    for option, value in options.items():
        is_off = value is None or value is False
        if option not in allowed and not is_off:
            raise ValueError(f"it gives {name} the option {option}")
        texts = TEXTS.get(option if name != "keras.DTypePolicy" else "dtype")
        if texts and isinstance(value, str) and value not in texts:
            raise ValueError(f"it gives {name} the {option} {value}")
