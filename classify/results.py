"""The result of a model, head or network: its files in ``runs/<data>/<model>/``.

``result.json`` records how the model was made and how well it does. ``predictions.h5`` has its
predictions for the test photos; all metrics are computed from these, and only here. The model
itself is in a file beside them.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    recall_score,
    top_k_accuracy_score,
)

from classify.arrays import Labels, Matrix
from extract.store import features_file, hdf5
from extract.system import atomic
from extract.system.console import InputError
from extract.vgg16.recipe import SIZE, SIZES, named, plain

SCHEMA = 1
BINS = 15
PHASES = ("features", "tune", "fit", "predict")
MODELS = ("head.skops", "model.keras")
"""The file that holds the model: a head's, and a network's."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for the test photos.

    Attributes
    ----------
    paths : list of str, length n
        Relative to the root of the data set.
    labels : ndarray of shape (n,), int64
        True classes, indices into the class names.
    probabilities : ndarray of shape (n, k), float32
        One row per photo; each sums to 1.
    """

    paths: list[str]
    labels: Labels
    probabilities: Matrix


@dataclass(frozen=True)
class Result:
    """How a model was made and how well it does.

    Attributes
    ----------
    model : str
        ``logistic``, ``svm``, ``mlp``, ``baseline`` or ``finetuned``.
    stage : str
        ``head`` (trained on cached features) or ``network`` (trained by Keras).
    data : str
        Name of the data set.
    data_digest : str
        Digest of the paths, photos, labels and splits. Two results may be compared only if these
        digests are equal.
    recipe_digest : str
        Digest of the recipes of the features, one recipe for each of `sizes`.
    class_names : list of str, length k
    hyperparameters : dict
        The chosen hyper-parameters and taps.
    tried : list of dict
        Every candidate with its score on held-out photos.
    seconds : dict of str to float
        By phase: ``features`` (the shared pass through VGG16; 0 if the model did not use it),
        ``activations`` (networks only), ``tune``, ``fit`` and ``predict``.
    epochs : int or None
        Epochs of training; None for a model that is not trained in epochs.
    parameters : int
        The number of parameters that were learned from these photos.
    seed : int
    metrics : dict of str to float
        See `metrics`.
    versions : dict of str to str
    created : str
        ISO 8601, UTC.
    machine : str
        The machine that the seconds were measured on; empty in older records.
    sizes : list of int
        Sides in pixels of the photos whose features `recipe_digest` describes, in the order of the
        features file. Older records do not have it, so it is inferred from the names of their taps.
    """

    model: str
    stage: str
    data: str
    data_digest: str
    recipe_digest: str
    class_names: list[str]
    hyperparameters: dict[str, Any]
    tried: list[dict[str, Any]]
    seconds: dict[str, float]
    epochs: int | None
    parameters: int
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    created: str
    machine: str = ""
    sizes: list[int] = field(default_factory=lambda: [SIZE])
    schema: int = SCHEMA


def metrics(predictions: Predictions) -> dict[str, float]:
    """Compute all metrics of a result from its predictions.

    Returns
    -------
    dict
        ``accuracy``, ``mean_class_recall`` (over the classes that occur in the test split),
        ``macro_f1``, ``log_loss`` (nats, probabilities clipped to at least 1e-7 and renormalised),
        ``calibration_error`` (see `calibration_error`) and, for more than five classes,
        ``top5_accuracy``.
    """
    y = predictions.labels
    k = predictions.probabilities.shape[1]
    probabilities = _clipped(predictions)
    predicted = predictions.probabilities.argmax(axis=1)
    classes = np.arange(k)
    values = {
        "accuracy": accuracy_score(y, predicted),
        "mean_class_recall": recall_score(y, predicted, labels=np.unique(y), average="macro"),
        "macro_f1": f1_score(y, predicted, labels=classes, average="macro", zero_division=0.0),
        "log_loss": losses(predictions).mean(),
        "calibration_error": calibration_error(probabilities.max(axis=1), predicted == y),
    }
    if k > 5:
        values["top5_accuracy"] = top_k_accuracy_score(y, probabilities, k=5, labels=classes)
    return {name: float(value) for name, value in values.items()}


def losses(predictions: Predictions) -> NDArray[np.float64]:
    """Return the log loss of each photo, in nats, shape (n,)."""
    of_labels = _clipped(predictions)[np.arange(len(predictions.labels)), predictions.labels]
    return -np.log(of_labels)


def _clipped(predictions: Predictions) -> NDArray[np.float64]:
    probabilities = np.clip(predictions.probabilities.astype(np.float64), 1e-7, None)
    clipped: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
    return clipped


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Sort photos into 15 bins of equal width by the probability of their predicted class.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of the predicted class.
    right : ndarray of shape (n,), bool
        Whether the prediction is right.

    Returns
    -------
    photos : ndarray of shape (15,), int64
        Number of photos in each bin.
    confidence : ndarray of shape (15,)
        Mean probability of the bin; NaN if it is empty.
    accuracy : ndarray of shape (15,)
        Share of right predictions in the bin; NaN if it is empty.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    photos = np.bincount(bins, minlength=BINS)
    divisor = np.where(photos, photos, np.nan)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right))
    mean, accuracy = (total / divisor for total in sums)
    return photos, mean, accuracy


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error: how far probabilities are from frequencies.

    It is the sum over the bins b of `reliability` of n_b / n * |accuracy of b - mean probability
    of b| (Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015, with the bins of Guo et al., "On calibration of modern neural networks",
    ICML 2017). It ranges from 0, perfectly calibrated, to 1.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of the predicted class.
    right : ndarray of shape (n,), bool
        Whether the prediction is right.
    """
    photos, mean, accuracy = reliability(confidence, right)
    return float(np.nansum(photos * np.abs(accuracy - mean)) / len(right))


def save(
    folder: Path,
    result: Result,
    predictions: Predictions,
    *,
    write_model: Callable[[Path], None],
) -> None:
    """Save a result as a whole: until all its files are written, the earlier result stays.

    Parameters
    ----------
    folder : Path
        It is created if it is missing.
    write_model : callable
        A function that writes the model's own files into the folder that it is given.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["path"] = np.array(predictions.paths, dtype=h5py.string_dtype())
        file["label"] = predictions.labels.astype(np.int64)
        file["probability"] = predictions.probabilities.astype(np.float32)
    record = json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n"
    with atomic.replacing_files(folder) as new:
        write_model(new)
        (new / "predictions.h5").write_bytes(image.getvalue())
        (new / "result.json").write_bytes(record.encode())


def consistent(
    read: Callable[Concatenate[Path, P], T],
) -> Callable[Concatenate[Path, P], T]:
    """Make a function that reads a result read again if the result is replaced meanwhile.

    Otherwise it could take the record of one result and the model of the next.
    """

    @wraps(read)
    def read_one_result(folder: Path, /, *args: P.args, **named: P.kwargs) -> T:
        before = _record(folder)
        while True:
            try:
                answer = read(folder, *args, **named)
            except Exception:
                if before == (after := _record(folder)):
                    raise
            else:
                if before == (after := _record(folder)):
                    return answer
            before = after

    return read_one_result


def _record(folder: Path) -> bytes | None:
    """Return the content of ``result.json``; None if there is no result."""
    try:
        atomic.finish(folder)
    except OSError as error:
        raise InputError(
            f"{folder / atomic.COMMITTED}: the files of a result that a killed run saved, and they "
            f"cannot be moved into {folder} ({error.strerror}); grant the permission"
        ) from error
    try:
        return (folder / "result.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def load(folder: Path) -> Result:
    """Read the record of a result.

    Raises
    ------
    InputError
        If ``result.json`` is missing or is not such a record.
    """
    path = folder / "result.json"
    content = _record(folder)
    if content is None:
        raise InputError(f"{path}: not there; train the model again")
    try:
        record = json.loads(content.decode())
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}, and this version reads {SCHEMA}")
        names = {field.name for field in fields(Result)}
        record = {name: value for name, value in record.items() if name in names}
        record.setdefault("sizes", _inferred_sizes(record))
        if not set(record["sizes"]) <= set(SIZES):
            raise ValueError(f"sizes {record['sizes']}")
        features_file.check_name(record["data"])
        return Result(**record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result record ({error}); train it again") from error


def _inferred_sizes(record: dict[str, Any]) -> list[int]:
    """Return the sizes of the photos whose taps an older record names."""
    candidates = [record.get("hyperparameters", {}), *record.get("tried", ())]
    taps = {tap for candidate in candidates for tap in candidate.get("taps", ())}
    further = [size for size in SIZES[1:] if any(tap == named(plain(tap), size) for tap in taps)]
    return [SIZE, *further]


def load_predictions(folder: Path) -> Predictions:
    """Read the predictions of a result.

    Raises
    ------
    InputError
        If ``predictions.h5`` is missing, damaged or something else.
    """
    path = folder / "predictions.h5"
    try:
        with hdf5.open_whole(path) as file:
            return Predictions(
                paths=file["path"].asstr()[:].tolist(),
                labels=file["label"][:],
                probabilities=file["probability"][:],
            )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a file of predictions ({error}); train it again") from error


def check_files(folder: Path) -> None:
    """Make sure that the predictions and the model of a result are there and not damaged.

    Raises
    ------
    InputError
        If they are not.
    """
    load_predictions(folder)
    path = _model_file(folder)
    if path is None:
        raise InputError(f"{folder}: the model is missing; train it again")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        damaged = str(error)
    if damaged is not None:
        raise InputError(f"{path}: damaged ({damaged}); train it again")


def model_bytes(folder: Path) -> int | None:
    """Return the size in bytes of the file that holds the model; None if it is missing."""
    path = _model_file(folder)
    return path.stat().st_size if path else None


def _model_file(folder: Path) -> Path | None:
    return next((folder / name for name in MODELS if (folder / name).is_file()), None)


def runs_of(data: str, out: Path) -> Path:
    """Return the folder below `out` that has the results of a data set, one folder per model."""
    return out / "runs" / data


def folders(runs: Path) -> list[Path]:
    """Return the folders below `runs` that have a complete result, sorted by name."""
    saved = {path.parent for path in runs.glob("*/result.json")}
    committed = {path.parents[1] for path in runs.glob(f"*/{atomic.COMMITTED}/result.json")}
    return sorted(saved | committed)
