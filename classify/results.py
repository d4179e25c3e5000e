"""The result of a model, head or network: its files in ``runs/<data>/<model>/``.

``result.json`` records how the model was made and how well it does. ``predictions.h5`` has its
predictions for the test photos; all metrics are computed from these, and only here. The model
itself is in a file beside them.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from classify.arrays import Labels, Matrix
from classify.model_card import text as model_card
from extract.store import features_file, hdf5
from extract.system import atomic, bounded
from extract.system.console import InputError
from extract.vgg16.recipe import SIZE, SIZES, named, plain

SCHEMA = 1
BINS = 15
LEVEL = 0.05
"""A difference with a smaller p-value counts as significant; intervals cover 1 - LEVEL, 95%."""

Interval = tuple[float, float]

PHASES = ("features", "tune", "fit", "predict")
MODELS = ("head.skops", "model.keras")
"""The file that holds the model: a head's, and a network's."""

P = ParamSpec("P")
T = TypeVar("T")

COMMANDS = {"head": "make heads", "network": "make finetune"}
"""The command that makes a result of each stage."""

ON_TRAIN = "probability_on_train"
"""The data set of ``predictions.h5`` with `Predictions.on_train`."""

CARD = "onepass.json"
"""The member of a model's archive that says what its outputs mean."""

LARGEST_NUMBER = 1e300
"""No time, share or loss of a record is as large. JSON may have whole numbers beyond any float."""

LARGEST_RECORD = 8_000_000
"""The most bytes of a file of JSON that is read."""


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
    on_train : ndarray of shape (n, k), float32, or None
        What a model that learned from train and val predicts if it is fitted to train alone.
    """

    paths: list[str]
    labels: Labels
    probabilities: Matrix
    on_train: Matrix | None = None


@dataclass(frozen=True)
class Result:
    """How a model was made and how well it does.

    Attributes
    ----------
    model : str
        ``logistic``, ``svm``, ``mlp``, ``baseline``, ``finetuned`` or ``finetuned-all``.
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
    model_digest : str
        SHA-256 of the file that holds the model; empty in older records.
    novelty : dict of str to float
        How well a head tells strangers: ``keep``, the share of known photos that are kept, and,
        unless there are only two classes, the fields of `classify.novelty.left_out.LeftOut`. Empty
        for networks and in older records.
    asked : dict
        The options that a head was trained with; empty for networks, which keep theirs among their
        hyper-parameters, and in older records.
    learned_from : list of str
        The splits whose photos the model was fitted to. Older records do not have it, so it is
        inferred from their stage.
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
    model_digest: str = ""
    novelty: dict[str, float] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    learned_from: list[str] = field(default_factory=lambda: ["train", "val"])
    schema: int = SCHEMA

    @property
    def command(self) -> str:
        """The command that makes such a result."""
        return COMMANDS[self.stage]


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
    # Importing it takes a second, and most commands that read a result do without it.
    from sklearn.metrics import accuracy_score, f1_score, recall_score, top_k_accuracy_score

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


def wilson_interval(correct: int, n: int) -> Interval:
    """Return the 95% Wilson score interval of an accuracy, within 0..1.

    Wilson's interval keeps its coverage for few photos and for accuracies near 0 and 1. The usual
    plus or minus two standard errors does not, and a bootstrap gives a model without a mistake an
    interval of no width: Wilson (1927), JASA 22, 209-212; recommended by Brown, Cai and DasGupta
    (2001), Statistical Science 16, 101-133.
    """
    # This takes half a second.
    from scipy.stats import binomtest

    bounds = binomtest(correct, n).proportion_ci(confidence_level=1 - LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


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
        if predictions.on_train is not None:
            file[ON_TRAIN] = predictions.on_train.astype(np.float32)
    with atomic.replacing_files(folder) as new:
        write_model(new)
        fields = asdict(_tie(new, result))
        record = json.dumps(fields, indent=1, ensure_ascii=False) + "\n"
        (new / "README.md").write_text(_model_card(fields, predictions), encoding="utf-8")
        (new / "predictions.h5").write_bytes(image.getvalue())
        (new / "result.json").write_bytes(record.encode())


def _model_card(fields: dict[str, Any], predictions: Predictions) -> str:
    right = predictions.probabilities.argmax(axis=1) == predictions.labels
    interval = wilson_interval(int(right.sum()), len(right))
    return model_card.text(fields, model_card.Tested(len(right), *interval))


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
    """Return the content of ``result.json``, cut if it is far too long; None if there is none."""
    try:
        atomic.finish(folder)
    except OSError as error:
        raise InputError(
            f"{folder / atomic.COMMITTED}: the files of a result that a killed run saved, and they "
            f"cannot be moved into {folder} ({error.strerror}); grant the permission"
        ) from error
    try:
        with open(folder / "result.json", "rb") as file:
            return file.read(LARGEST_RECORD + 1)
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
        if len(content) > LARGEST_RECORD:
            raise ValueError(f"it has more than {bounded.megabytes(LARGEST_RECORD)}")
        record = bounded.from_json(content)
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        if record.get("schema") != SCHEMA:
            raise ValueError(f"schema {record.get('schema')}, and this version reads {SCHEMA}")
        needed = [field.name for field in fields(Result) if _has_no_default(field)]
        if missing := [name for name in needed if name not in record]:
            raise ValueError(f"it has no {missing[0]}")
        names = {field.name for field in fields(Result)}
        record = {name: value for name, value in record.items() if name in names}
        record.setdefault("sizes", _inferred_sizes(record))
        splits = ["train", "val"] if record["stage"] == "head" else ["train"]
        record.setdefault("learned_from", splits)
        features_file.check_name(record["data"])
        result = Result(**record)
        _check_fields(result)
        return result
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result record ({error}); train it again") from error


def _has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def read_json(path: Path) -> Any:
    """Read a file of JSON, of at most `LARGEST_RECORD` bytes.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, is larger, or is not JSON.
    """
    return bounded.from_json(bounded.content(path, largest=LARGEST_RECORD))


def _check_fields(result: Result) -> None:
    """Raise ValueError unless every field of a record that was read has a value that it may have.

    `Result` has the types; here they are checked, together with what they leave open.
    """
    texts = ("model", "data", "data_digest", "recipe_digest", "created", "machine", "model_digest")
    wrong = [name for name in texts if not isinstance(getattr(result, name), str)]
    numbers = ("seconds", "metrics", "novelty")
    wrong += [name for name in numbers if not _are_finite(getattr(result, name))]
    wrong += [name for name in ("parameters", "seed") if not _is_whole(getattr(result, name))]
    if not (result.epochs is None or _is_whole(result.epochs)):
        wrong.append("epochs")
    for name, kind in (
        ("hyperparameters", dict),
        ("tried", list),
        ("versions", dict),
        ("asked", dict),
    ):
        if not isinstance(getattr(result, name), kind):
            wrong.append(name)
    if result.stage not in COMMANDS:
        wrong.append("stage")
    classes = result.class_names
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        wrong.append("class_names")
    elif not classes or len(set(classes)) < len(classes):
        raise ValueError("a class is named twice, or there is none")
    sizes = result.sizes
    if not isinstance(sizes, list) or not sizes or not set(sizes) <= set(SIZES):
        raise ValueError(f"sizes {sizes}")
    if result.learned_from not in (["train"], ["val"], ["train", "val"]):
        wrong.append("learned_from")
    if wrong:
        raise ValueError(f"{wrong[0]} is not what it should be")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < LARGEST_NUMBER and not isinstance(value, bool)


def _are_finite(values: Any) -> bool:
    """Say whether this is a dictionary of finite numbers."""
    return isinstance(values, dict) and all(
        isinstance(value, int | float) and abs(value) < LARGEST_NUMBER for value in values.values()
    )


def _card(result: Result) -> dict[str, Any]:
    """Return the fields of a record without which the outputs of its model mean nothing."""
    names = ("stage", "data_digest", "recipe_digest", "sizes", "class_names")
    card = {name: getattr(result, name) for name in names}
    return {**card, "taps": result.hyperparameters.get("taps")}


def _tie(folder: Path, result: Result) -> Result:
    """Put the card into the model's file, and return the record with the digest of the file.

    So neither of the two can be used with one of another run, or be changed alone.
    """
    path = model_path(folder, result)
    if not path.is_file():
        return result
    archive = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(CARD, json.dumps(_card(result), indent=1, ensure_ascii=False) + "\n")
    atomic.write_bytes(path, archive.getvalue())
    return replace(result, model_digest=hashlib.sha256(archive.getvalue()).hexdigest())


def read_model(folder: Path, result: Result, *, largest: int) -> dict[str, bytes]:
    """Read the members of a model's file, and make sure that it belongs to the record.

    A file of an earlier version has no card, and its record no digest. It is used if nothing
    contradicts it.

    Parameters
    ----------
    folder : Path
    result : Result
        Its record.
    largest : int
        The most bytes that such a model takes.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, or belongs to another record.
    """
    path = model_path(folder, result)
    try:
        archive = bounded.content(path, largest=largest)
        if result.model_digest not in ("", hashlib.sha256(archive).hexdigest()):
            raise ValueError("it is not the file that result.json describes")
        members = bounded.members(archive, largest=largest)
        card = bounded.from_json(members[CARD]) if CARD in members else {}
        if not isinstance(card, dict):
            raise ValueError(f"its {CARD} is not an object")
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; train the model again") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a model that can be used ({error}); run {result.command}"
        ) from error
    wrong = [name for name, value in _card(result).items() if card and card.get(name) != value]
    if not card and result.class_names != sorted(result.class_names):
        wrong = ["class_names"]
    if wrong:
        raise InputError(
            f"{folder}: {path.name} and result.json do not belong together, they differ in "
            f"{wrong[0]}; run {result.command}"
        )
    return members


def model_path(folder: Path, result: Result) -> Path:
    """Return the file that holds the model."""
    return folder / MODELS[result.stage == "network"]


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
            bounded.check_stored(file)
            predictions = Predictions(
                paths=file["path"].asstr()[:].tolist(),
                labels=file["label"][:],
                probabilities=file["probability"][:],
                on_train=file[ON_TRAIN][:] if ON_TRAIN in file else None,
            )
            _check_predictions(predictions)
            return predictions
    # HDF5 raises exceptions of many types on a damaged or foreign file.
    except Exception as error:
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


def _check_predictions(predictions: Predictions) -> None:
    """Raise ValueError unless there is a row of probabilities for every path, and a label."""
    labels, probabilities = predictions.labels, predictions.probabilities
    rows = len(predictions.paths)
    if probabilities.ndim != 2 or not rows or labels.shape != (rows,) or len(probabilities) != rows:
        raise ValueError("it does not have a row for each photo")
    if labels.dtype.kind != "i" or not np.all((labels >= 0) & (labels < probabilities.shape[1])):
        raise ValueError("its labels are not numbers of classes")
    for found in (probabilities, predictions.on_train):
        if found is None:
            continue
        if found.dtype.kind != "f" or found.shape != probabilities.shape:
            raise ValueError("its probabilities are not a row of numbers for each photo")
        if not ((found >= 0) & (found <= 1 + 1e-3)).all():
            raise ValueError("its probabilities are not between 0 and 1")


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


def find(model: Path, out: Path, data: str = "") -> Path:
    """Return the folder of the result that a user names.

    Parameters
    ----------
    model : Path
        The folder of a result, a file in it or, with `data`, the name of a model.
    out : Path
        The folder that has ``runs/``.
    data : str
        The name of a data set, if the user gives one.

    Raises
    ------
    InputError
        If there is no such result. It says which there are.
    """
    runs = runs_of(data, out)
    folder = model.parent if model.name in (*MODELS, "result.json") else model
    candidates = [runs / folder, folder] if data else [folder]
    for candidate in candidates:
        if any((candidate / place / "result.json").exists() for place in ("", atomic.COMMITTED)):
            return candidate
    if data:
        known = [found.name for found in folders(runs)]
    else:
        places = [model, model.parent] if model.parent != Path() else [model]
        known = [str(found) for place in places for found in folders(place)]
    known = known or [str(found) for place in (out / "runs").glob("*") for found in folders(place)]
    one_of = f"give one of {', '.join(sorted(known))}" if known else "make heads trains some"
    raise InputError(f"{candidates[0]}: no result there; {one_of}")


def out_of(folder: Path) -> Path | None:
    """Return the folder that has ``runs/`` with a result; None if the result lies elsewhere."""
    parents = (folder if len(folder.parents) > 2 else folder.absolute()).parents
    return parents[2] if len(parents) > 2 and parents[1].name == "runs" else None
