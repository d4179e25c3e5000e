"""The result: the one record that every model, head or network, leaves behind.

``runs/<data>/<model>/`` holds ``result.json`` (this record), ``predictions.h5`` (what the model
said of each test photo, from which every metric is computed, here and nowhere else) and the model.
"""

import io
import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    recall_score,
    top_k_accuracy_score,
)

from extract.store import hdf5
from extract.system import atomic
from extract.system.console import InputError

SCHEMA = 1
BINS = 15
PHASES = ("features", "tune", "fit", "predict")
MODELS = ("head.skops", "model.keras")
"""The file that holds the model, of a head and of a network."""


@dataclass(frozen=True)
class Predictions:
    """What a model said of the test photos.

    Attributes
    ----------
    paths : list of str, length n
        Relative to the data set's root.
    labels : ndarray of shape (n,), int64
        True classes, indices into the class names.
    probabilities : ndarray of shape (n, k), float32
        One row a photo, each summing to 1.
    """

    paths: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """How a model was made and how well it did.

    Attributes
    ----------
    model : str
        ``logistic``, ``svm``, ``mlp``, ``baseline`` or ``finetuned``.
    stage : str
        ``head`` (trained on cached features) or ``network`` (trained by Keras).
    data : str
        Name of the data set.
    data_digest : str
        Of the features file's paths, photos, labels and splits. Two results may be compared only
        when theirs are equal.
    recipe_digest : str
        Of the features.
    class_names : list of str, length k
    hyperparameters : dict
        What was chosen.
    tried : list of dict
        Every candidate with its score on the validation split.
    seconds : dict of str to float
        By phase: ``features`` (the shared VGG16 pass; 0 where it was not used), ``tune``, ``fit``,
        ``predict``.
    epochs : int or None
        Of training, where there are epochs.
    parameters : int
        Numbers that were learned from these photos.
    seed : int
    metrics : dict of str to float
        See `metrics`.
    versions : dict of str to str
    created : str
        ISO 8601, UTC.
    machine : str
        What the seconds depend on; empty in records of before it was kept.
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
    schema: int = SCHEMA


def metrics(predictions: Predictions) -> dict[str, float]:
    """Compute every figure of a result from what the model said.

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
    every = np.arange(k)
    figures = {
        "accuracy": accuracy_score(y, predicted),
        "mean_class_recall": recall_score(y, predicted, labels=np.unique(y), average="macro"),
        "macro_f1": f1_score(y, predicted, labels=every, average="macro", zero_division=0.0),
        "log_loss": losses(predictions).mean(),
        "calibration_error": calibration_error(probabilities.max(axis=1), predicted == y),
    }
    if k > 5:
        figures["top5_accuracy"] = top_k_accuracy_score(y, probabilities, k=5, labels=every)
    return {name: float(value) for name, value in figures.items()}


def losses(predictions: Predictions) -> NDArray[np.float64]:
    """Return what each photo, of n, adds to the log loss, in nats."""
    own = _clipped(predictions)[np.arange(len(predictions.labels)), predictions.labels]
    return -np.log(own)


def _clipped(predictions: Predictions) -> NDArray[np.float64]:
    probabilities = np.clip(predictions.probabilities.astype(np.float64), 1e-7, None)
    clipped: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
    return clipped


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Put photos into 15 bins of equal width by the probability of the class predicted.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of the class predicted.
    right : ndarray of shape (n,), bool
        Whether it was the true one.

    Returns
    -------
    photos : ndarray of shape (15,), int64
    confidence : ndarray of shape (15,)
        Mean probability, NaN in a bin without photos.
    accuracy : ndarray of shape (15,)
        Share that was named rightly, NaN in a bin without photos.
    """
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    photos = np.bincount(place, minlength=BINS)
    among = np.where(photos, photos, np.nan)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (confidence, right))
    mean, accuracy = (total / among for total in sums)
    return photos, mean, accuracy


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error: how far probabilities are from frequencies.

    It is the sum over the bins b of `reliability` of n_b / n * |accuracy of b - mean probability
    of b| (Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015, with the bins of Guo et al., "On calibration of modern neural networks",
    ICML 2017): from 0, as sure as it is right, to 1.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of the class predicted.
    right : ndarray of shape (n,), bool
        Whether it was the true one.
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
    """Leave a model and its record in `folder`; ``result.json`` comes last and makes it whole.

    Parameters
    ----------
    write_model : callable
        Given `folder`, writes the model's own files into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "result.json"
    record.unlink(missing_ok=True)
    write_model(folder)
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["path"] = np.array(predictions.paths, dtype=h5py.string_dtype())
        file["label"] = predictions.labels.astype(np.int64)
        file["probability"] = predictions.probabilities.astype(np.float32)
    atomic.write_bytes(folder / "predictions.h5", image.getvalue())
    atomic.write_text(record, json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")


def load(folder: Path) -> Result:
    """Read the record of one model.

    Raises
    ------
    InputError
        If ``result.json`` is not there or is not such a record.
    """
    path = folder / "result.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}, and this version reads {SCHEMA}")
        # What was not yet kept when the record was made has a default.
        given = {f.name for f in fields(Result) if f.name in record or f.default is MISSING}
        return Result(**{name: record[name] for name in given})
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; train the model again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result record ({error}); train it again") from error


def load_predictions(folder: Path) -> Predictions:
    """Read what a model said of the test photos.

    Raises
    ------
    InputError
        If ``predictions.h5`` is not there, damaged or of another kind.
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


def model_bytes(folder: Path) -> int | None:
    """Return the size of the file that holds the model; None where it is not there."""
    sizes = [(folder / name).stat().st_size for name in MODELS if (folder / name).is_file()]
    return sizes[0] if sizes else None


def runs_of(data: str, out: Path) -> Path:
    """Return where the results of a data set are below `out`, one folder a model."""
    return out / "runs" / data


def folders(runs: Path) -> list[Path]:
    """Return the folders below `runs` that hold a whole result, sorted by name."""
    return sorted(path.parent for path in runs.glob("*/result.json"))
