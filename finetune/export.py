"""A head or network as one file for use elsewhere: photo in, probabilities out.

``python -m finetune export runs/chess/svm --to onnx``. Every file takes photos as they are, (n,
height, width, 3) uint8 RGB, squashes them as Pillow does it, and holds the class names.
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from classify import dense, results
from classify.results import Result
from classify.serving.model import Model, load_head, load_model
from extract.compute import pipeline
from extract.photos import decode, scan
from extract.store import features_file, shards
from extract.system import atomic, locations
from extract.system.console import InputError
from extract.system.locations import Location
from extract.vgg16 import keras_backend, keras_model, onnx_graph, weights
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from extract.vgg16.weights import Arrays

FORMATS = {"keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}
"""Each with the ending of its files."""

TOLERANCE = 1e-3
"""Largest difference from the original that a probability of an exported file may have."""

PHOTOS_COMPARED = 16
RECORD = "onepass.json"
"""File in the exported archive that names the classes, in their order."""

Probabilities = NDArray[np.float32]
Run = Callable[[NDArray[np.uint8]], Probabilities]

ops = keras.ops


def export(
    run: Path, *, to: str, out: Path, weights_file: Path | None = None, photos: Path | None = None
) -> tuple[Path, float]:
    """Write a model as one file beside its result, once it has been compared with the original.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    to : str
        Key of `FORMATS`.
    out : Path
        Where ``features/`` is.
    weights_file : Path or None
        VGG16's weights, if not the usual ones.
    photos : Path or None
        Folder of photos to compare on; the test photos of the data set by default.

    Returns
    -------
    path : Path
    difference : float
        The largest of any probability of any photo compared.

    Raises
    ------
    InputError
        If the model cannot be exported, there is no photo to compare on, or it would not say what
        the original says.
    """
    cache = shards.cache_of(out)
    model = load_model(run, cache=cache, weights_file=weights_file)
    root, paths = _some(run, model.result, out, photos)
    if to == "onnx":
        if model.result.stage != "head":
            raise InputError(f"{run}: only heads are exported to ONNX; choose keras or litert")
        content = _onnx(run, model.result, weights.load(weights_file, cache=cache).arrays)
        exported = _by_onnx(content)
    else:
        # LiteRT multiplies no matrices of float64.
        dtype = "float64" if to == "keras" else "float32"
        network = _whole(run, model.result, cache, weights_file, dtype=dtype)
        content = _keras(network, model.result) if to == "keras" else _litert(network, model.result)
        exported = _by_keras(content) if to == "keras" else _by_litert(content)
    difference = compare(model, exported, root, paths)
    if not difference <= TOLERANCE:
        raise InputError(
            f"{run}: as {to} it differs from the original by {difference:.1g} in a probability, "
            f"and {TOLERANCE} is allowed; nothing was written"
        )
    path = run / f"exported{FORMATS[to]}"
    atomic.write_bytes(path, content)
    return path, difference


def compare(model: Model, exported: Run, root: Location, paths: Sequence[str]) -> float:
    """Return the largest difference of a probability between a model and its exported file.

    The model is given photos as it always is, the file each photo as it was decoded.
    """
    items = [pipeline.read(root, path, size=model.size, known=model.known) for path in paths]
    wanted = model.probabilities(items)
    found = [
        exported(
            np.asarray(decode.upright(locations.read_bytes(root, path), size=model.size))[None]
        )
        for path in paths
    ]
    return float(np.abs(np.concatenate(found) - wanted).max())


def squashed(photos: keras.KerasTensor, size: int, *, dtype: str = "float64") -> keras.KerasTensor:
    """Make squares of photos as Pillow 13 does it, to the last bit.

    Two passes of triangles whose values are multiples of 2^-22, each rounded to whole numbers; rows
    are made fewer first where more than twice as many are to go as columns.

    Parameters
    ----------
    photos : KerasTensor of shape (n, height, width, 3), uint8
    size : int
    dtype : str
        In float32 about 3 pixels in 1,000 come out 1 of 255 off: those halfway between two values.

    Returns
    -------
    KerasTensor of shape (n, size, size, 3), float32
    """
    x = ops.transpose(ops.cast(photos, dtype), (0, 3, 1, 2))
    # What is not known until there is a photo is had from a row and a column of it.
    width, across = _triangles(ops.max(x, axis=(0, 1, 2)), size)
    height, down = _triangles(ops.max(x, axis=(0, 1, 3)), size)
    across = ops.transpose(across)
    columns_first = _rounded(ops.matmul(down, _rounded(ops.matmul(x, across))))
    rows_first = _rounded(ops.matmul(_rounded(ops.matmul(down, x)), across))
    is_tall = height > ops.maximum(2 * width - size, float(size))
    squares = ops.where(is_tall, rows_first, columns_first)
    return ops.cast(ops.transpose(squares, (0, 2, 3, 1)), "float32")


def _triangles(pixels: keras.KerasTensor, size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the length of a side, and what each pixel gives to each of `size`: (size, length)."""
    centres = np.arange(size)[:, None] + 0.5
    ones = ops.ones_like(pixels)
    length = ops.sum(ones)
    scale = length / size
    distances = ops.abs(ops.cumsum(ones) - 0.5 - scale * centres.astype(pixels.dtype))
    found = ops.relu(1 - distances / ops.maximum(scale, 1.0))
    shares = found / ops.sum(found, axis=1, keepdims=True)
    return length, _rounded(shares * onnx_graph.FIXED_POINT) / onnx_graph.FIXED_POINT


def _rounded(values: keras.KerasTensor) -> keras.KerasTensor:
    return ops.floor(values + 0.5)


def _some(run: Path, result: Result, out: Path, photos: Path | None) -> tuple[Location, list[str]]:
    """Return some readable photos, from all of them evenly: their root and their paths."""
    if photos is None:
        with features_file.open(features_file.file_of(result.data, out)) as features:
            root: Location = locations.location(str(features.attributes["root"]))
        paths = results.load_predictions(run).paths
    else:
        root, paths = photos, [photo.path for photo in scan.all_photos(photos).photos]
    step = max(1, len(paths) // PHOTOS_COMPARED)
    some = [path for path in paths[::step] if not pipeline.read(root, path).reason]
    if not some:
        raise InputError(f"{root}: no photo there to compare on; name a folder with --photos")
    return root, some[:PHOTOS_COMPARED]


def _record(result: Result) -> dict[str, Any]:
    return {
        "class_names": result.class_names,
        "model": result.model,
        "data": result.data,
        "data_digest": result.data_digest,
        "recipe_digest": result.recipe_digest,
        "input": "photos, (n, height, width, 3) uint8 RGB, upright",
        "output": "probabilities, (n, classes) float32",
    }


def _whole(
    run: Path, result: Result, cache: Path, weights_file: Path | None, *, dtype: str
) -> keras.Model:
    """Build the network from photos of any size to probabilities."""
    photos = keras.Input((None, None, 3), dtype="uint8", name="rgb")
    if result.stage == "network":
        network = keras_backend.load(run / "model.keras")
        found = network(squashed(photos, network.input_shape[1], dtype=dtype))
    else:
        arrays = weights.load(weights_file, cache=cache).arrays
        found = _head(squashed(photos, SIZE, dtype=dtype), dense.to_dense(load_head(run)), arrays)
    return keras.Model(photos, keras.layers.Identity(name="probabilities")(found), name="photos")


def _head(squares: keras.KerasTensor, folded: dense.DenseHead, arrays: Arrays) -> keras.KerasTensor:
    base = keras_model.convolutions(arrays)
    taps = keras_model.taps(base)
    parts = keras.Model(base.input, [taps[tap] for tap in folded.taps], name="vgg16")(squares)
    normed = []
    for part in parts if isinstance(parts, list) else [parts]:
        values = ops.sqrt(part) if folded.root else part
        norm = ops.sqrt(ops.sum(ops.square(values), axis=1, keepdims=True))
        normed.append(values / ops.maximum(norm, onnx_graph.LEAST_NORM))
    x = ops.concatenate(normed, axis=1)
    for number, (kernel, bias) in enumerate(folded.layers, start=1):
        activation = "softmax" if number == len(folded.layers) else "relu"
        dense = keras.layers.Dense(len(bias), activation=activation, name=f"dense{number}")
        x = dense(x)
        dense.set_weights([kernel, bias])
    return x


def _onnx(run: Path, result: Result, arrays: Arrays) -> bytes:
    taps, root, layers = dense.to_dense(load_head(run))
    model = onnx_graph.classifier(arrays, taps, layers, root=root)
    for key, value in _record(result).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _keras(network: keras.Model, result: Result) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        # Keras wants the file's name to end in .keras.
        path = Path(temporary, "exported.keras")
        network.save(path)
        return _with_record(path.read_bytes(), result)


def _litert(network: keras.Model, result: Result) -> bytes:
    import tensorflow as tf

    # Keras lists every weight on the screen when it is asked for this.
    with redirect_stdout(io.StringIO()):
        content = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    return _with_record(content, result)


def _with_record(content: bytes, result: Result) -> bytes:
    """Add the record: into Keras's archive, or as an archive of its own at the end of a file."""
    image = io.BytesIO(content)
    with zipfile.ZipFile(image, "a") as file:
        file.writestr(RECORD, json.dumps(_record(result), indent=1, ensure_ascii=False) + "\n")
        file.writestr("labels.txt", "\n".join(result.class_names) + "\n")
    return image.getvalue()


def _by_keras(content: bytes) -> Run:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "exported.keras")
        path.write_bytes(content)
        network = keras_backend.load(path)
    return lambda photos: np.asarray(network(photos, training=False))


def _by_onnx(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(photos: NDArray[np.uint8]) -> Probabilities:
        found: Probabilities = session.run(["probabilities"], {"rgb": photos})[0]
        return found

    return run


def _by_litert(content: bytes) -> Run:
    import tensorflow as tf

    with warnings.catch_warnings():
        # That a later TensorFlow has it in a package apart.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    given, found = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(photos: NDArray[np.uint8]) -> Probabilities:
        interpreter.resize_tensor_input(given["index"], photos.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], photos)
        interpreter.invoke()
        probabilities: Probabilities = interpreter.get_tensor(found["index"])
        return probabilities

    return run
