"""A model as one file for use elsewhere: ``python -m finetune export runs/chess/svm --to onnx``.

The file takes photos of any size, (n, height, width, 3) uint8 RGB, resizes them as Pillow does, and
holds the class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classify import results
from classify.results import Result
from classify.serving import neighbours
from classify.serving.model import Model, load_model
from extract.compute import reading
from extract.compute.reading import LoadedPhoto
from extract.photos import decode, files, scan
from extract.store import features_file, shards
from extract.system import atomic, locations
from extract.system.console import InputError, count, say
from extract.system.locations import Location
from finetune.export import dense, onnx_format
from finetune.export.file_formats import FORMATS, ExportedFunction

# Heads are exported to ONNX without Keras.
if TYPE_CHECKING:
    from finetune.export.keras_format import Classify

TOLERANCE = 1e-3
"""Largest difference from the original that a probability of an exported file may have."""

PHOTOS_COMPARED = 16

FEW_COMPARED = 3
"""Photos that a file is compared on without ONNX Runtime, because each takes seconds."""


def write(
    run: Path, *, to: str, out: Path, weights_file: Path | None = None, photos: Path | None = None
) -> tuple[Path, float]:
    """Export a model, compare the file with the original, and write it beside the result.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    to : str
        Key of `FORMATS`.
    out : Path
        Folder that contains ``features/``.
    weights_file : Path or None
        A file with VGG16's weights. None takes the usual ones.
    photos : Path or None
        Folder of photos to compare on; by default the test photos of the data set.

    Returns
    -------
    path : Path
    difference : float
        The largest difference of any probability of any photo compared.

    Raises
    ------
    InputError
        If the model cannot be exported, there is no photo to compare on, or the file's
        probabilities differ from the original's.
    """
    if photos is not None and not photos.is_dir():
        raise InputError(f"{photos}: no such folder; name a folder of photos with --photos")
    model = load_model(run, cache=shards.cache_of(out), weights_file=weights_file)
    root, paths = _photos_to_compare(run, model.result, out, photos)
    content, exported = _export(run, model, to)
    if to == "onnx" and not onnx_format.has_runtime():
        paths = paths[:FEW_COMPARED]
        say(
            f"comparing on {count(len(paths), 'photo')}, which takes seconds for each; "
            "pip install onnxruntime makes it faster"
        )
    difference = compare(model, exported, root, paths)
    if not difference <= TOLERANCE:
        raise InputError(
            f"{run}: as {to} it differs from the original by {difference:.1g} in a probability, "
            f"and {TOLERANCE} is allowed; nothing was written"
        )
    path = run / f"exported{FORMATS[to]}"
    # A killed export leaves its file, which may be as large as VGG16.
    atomic.sweep(run)
    atomic.write_bytes(path, content)
    return path, difference


def compare(
    model: Model, exported: ExportedFunction, root: Location, paths: Sequence[str]
) -> float:
    """Return the largest difference of a probability between a model and its exported file.

    The model gets squares, as always. The file gets each photo at its decoded size and resizes it.
    A model of several sizes gets squares of the photo that the file gets, because a large JPEG is
    decoded in another way for each size.
    """
    largest = max(model.known)
    expected, found = [], []
    for path in paths:
        with files.content(root, path) as data:
            photo = decode.upright(data, size=largest)
        if len(model.known) == 1:
            item = reading.read_squares(root, path, known=model.known)
        else:
            item = {
                size: LoadedPhoto(path, "", decode.square(photo, size=size), "")
                for size in model.known
            }
        expected.append(model.probabilities([item]))
        found.append(exported(np.asarray(photo)[None]))
    return float(np.abs(np.concatenate(found) - np.concatenate(expected)).max())


def _export(run: Path, model: Model, to: str) -> tuple[bytes, ExportedFunction]:
    """Return the content of the file, and the function that it computes."""
    sizes, result = list(model.known), model.result
    if model.head:
        head = dense.to_dense(model.head)
        arrays = model.vgg16[sizes[0]].weights.arrays
        if to == "onnx":
            content = onnx_format.encode(onnx_format.build(head, arrays), result)
            return content, onnx_format.load(content)
        from finetune.export import keras_format

        classify = partial(keras_format.vgg16_and_head, head=head, arrays=arrays)
        return _export_keras(classify, sizes, result, to)
    if to == "onnx":
        raise InputError(f"{run}: only heads are exported to ONNX; choose keras or litert")
    from extract.engines import keras_engine
    from extract.vgg16 import keras_backend

    largest = keras_engine.largest(len(result.class_names))
    members = results.read_model(run, result, largest=largest)
    network = keras_backend.load(results.model_path(run, result), members)
    return _export_keras(lambda squares: network(squares[sizes[0]]), sizes, result, to)


def _export_keras(
    classify: Classify, sizes: Sequence[int], result: Result, to: str
) -> tuple[bytes, ExportedFunction]:
    """Return the content of the file, and the function that it computes."""
    from finetune.export import keras_format, litert_format

    if to == "litert":
        network = keras_format.build(classify, sizes, dtype=litert_format.RESIZE_DTYPE)
        content = litert_format.encode(network, result)
        return content, litert_format.load(content)
    network = keras_format.build(classify, sizes, dtype="float64")
    content = keras_format.encode(network, result)
    return content, keras_format.load(content)


def _photos_to_compare(
    run: Path, result: Result, out: Path, photos: Path | None
) -> tuple[Location, list[str]]:
    """Return the root and the paths of some readable photos, evenly chosen from all of them."""
    if photos is None:
        file = features_file.path_of(result.data, out)
        with features_file.open(file) as features:
            if not neighbours.is_of(features, result):
                raise InputError(
                    f"{file}: of other photos, classes or splits than {run}; name photos to "
                    f"compare on with --photos, or run make features, then {result.command}"
                )
            root: Location = locations.location(str(features.attributes["root"]))
        paths = results.load_predictions(run).paths
    else:
        root, paths = photos, [photo.path for photo in scan.all_photos(photos).photos]
    step = max(1, len(paths) // PHOTOS_COMPARED)
    readable = [path for path in paths[::step] if not reading.read(root, path).reason]
    if not readable:
        raise InputError(f"{root}: no photo to compare on; name another folder with --photos")
    return root, readable[:PHOTOS_COMPARED]
