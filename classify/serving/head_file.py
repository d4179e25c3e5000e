"""Read a head from its file. A stranger may have made it, so only what heads consist of is read."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from numpy.lib import format as npy
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    LabelBinarizer,
    Normalizer,
    StandardScaler,
)

from classify import results
from classify.heads import (
    LANDMARKS,
    TRUSTED,
    GaussianSVC,
    LeastSquaresSVC,
    block_norms,
    is_calibrated,
    parameters,
    preparation_options,
    tap_columns,
)
from classify.novelty.detector import MEMBERS, NoveltyDetector
from classify.results import Result
from extract.system import bounded
from extract.system.console import InputError, warn
from extract.vgg16.recipe import ALL_TAPS, plain

CLASSIFIERS = {"svm": LeastSquaresSVC, "logistic": LogisticRegression, "mlp": MLPClassifier}

ALLOWED = {
    *TRUSTED,
    *("builtins.dict", "builtins.list", "builtins.slice", "builtins.str", "builtins.tuple"),
    *("numpy.float64", "numpy.ndarray", "numpy.random.mtrand.RandomState", "numpy.sqrt"),
    *(
        f"{kind.__module__}.{kind.__name__}"
        for kind in (
            *CLASSIFIERS.values(),
            ColumnTransformer,
            FunctionTransformer,
            LabelBinarizer,
            Normalizer,
            Pipeline,
            StandardScaler,
        )
    ),
}
"""Everything that a saved head consists of. A file that names anything else is not read."""

LOADERS = {
    "DictNode",
    "FunctionNode",
    "JsonNode",
    "ListNode",
    "NdArrayNode",
    "ObjectNode",
    "RandomStateNode",
    "SliceNode",
    "TupleNode",
    "TypeNode",
}
"""How skops restores these. Its other ways, such as compressed matrices, are not needed."""

SLACK = 16_000_000
"""Bytes that a head may have besides its coefficients."""

SCHEMA_BYTES, SCHEMA_BYTES_PER_COLUMN = 8_000_000, 1_000
"""The most bytes of the description of a head. It lists every column, in about 250 bytes."""


def load_head(run: Path, result: Result) -> Pipeline:
    """Load the head of a result, see `load`."""
    return load(run, result)[0]


def load(run: Path, result: Result) -> tuple[Pipeline, NoveltyDetector | None]:
    """Load the head of a result and its novelty detector, if it has one.

    No code that its file may contain is run. A warning is printed if another version of
    scikit-learn saved it.

    Raises
    ------
    InputError
        If the file is missing, damaged, larger than such a head, or belongs to another record; if
        it names anything that heads do not consist of, or is no head with finite coefficients.
    """
    path = results.model_path(run, result)
    members = results.read_model(run, result, largest=largest(result))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            head = decode(members, columns=_width(result))
            _check_fits(head, result)
            novelty = _novelty(members, classes=len(result.class_names))
    # skops and scikit-learn raise errors of many types for a damaged or foreign file.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: not a head that can be used ({reason}); run {result.command}"
        ) from error
    _warn_of_version(path, [warning.message for warning in caught])
    return head, novelty


def largest(result: Result) -> int:
    """Return the most bytes that a head with the taps and classes of a record may take."""
    width, classes = _width(result), len(result.class_names)
    # An MLP keeps two moments of each coefficient besides the coefficient itself.
    units = 3 * 8 * max(classes, 128)
    if result.hyperparameters.get("gamma"):
        # A sample of two rows of each class may be larger than the number of landmarks.
        units += 4 * (LANDMARKS + 2 * classes)
    return SLACK + units * (width + classes)


def _width(result: Result) -> int:
    """Return how many columns the taps of a record have together."""
    taps = result.hyperparameters.get("taps")
    names = {tap for tap in taps if isinstance(tap, str)} if isinstance(taps, list) else ()
    return sum(ALL_TAPS.get(plain(tap), 0) for tap in names)


def decode(members: Mapping[str, bytes], *, columns: int) -> Pipeline:
    """Return the head that the members of its file describe.

    Parameters
    ----------
    members : mapping of str to bytes
    columns : int
        How many columns such a head has at most.

    Raises
    ------
    ValueError
        If they describe anything else.
    """
    schema = members.get("schema.json", b"")
    largest = SCHEMA_BYTES + SCHEMA_BYTES_PER_COLUMN * columns
    if len(schema) > largest:
        raise ValueError(f"its schema.json has more than {bounded.megabytes(largest)}")
    _check_schema(bounded.from_json(schema))
    for name, content in members.items():
        if name.endswith(".npy"):
            _check_array(name, content)
        elif name not in ("schema.json", results.CARD):
            raise ValueError(f"it holds {name}, and heads do not")
    own = {name: content for name, content in members.items() if not name.startswith(MEMBERS)}
    head = skops.io.loads(bounded.archive(own), trusted=list(TRUSTED))
    if not isinstance(head, Pipeline):
        raise ValueError(f"it holds a {type(head).__name__}, not a head")
    _check_steps(head)
    return head


def _check_schema(schema: Any) -> None:
    """Raise ValueError if a head's description names anything that heads do not consist of."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "__loader__" in item:
                name = f"{item.get('__module__')}.{item.get('__class__')}"
                if name not in ALLOWED or item["__loader__"] not in LOADERS:
                    raise ValueError(f"it names '{name}', which heads do not consist of")
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _check_array(name: str, content: bytes) -> None:
    """Raise ValueError unless an array in NumPy's format is as large as its header claims."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{name} claims more than it holds")


def _novelty(members: Mapping[str, bytes], *, classes: int) -> NoveltyDetector | None:
    """Return the novelty detector of a head, None if an earlier version saved the head.

    Raises
    ------
    ValueError
        If its arrays, which `decode` has looked at, are not those of a detector.
    """
    arrays = {
        name.removeprefix(MEMBERS).removesuffix(".npy"): npy.read_array(
            io.BytesIO(content), allow_pickle=False
        )
        for name, content in members.items()
        if name.startswith(MEMBERS)
    }
    return NoveltyDetector.from_arrays(arrays, classes=classes) if arrays else None


def _check_steps(head: Pipeline) -> None:
    """Raise ValueError unless the head has the steps of heads and finite coefficients."""
    steps = [step for _, step in head.steps]
    kinds = (ColumnTransformer, StandardScaler, tuple(CLASSIFIERS.values()))
    if len(steps) != len(kinds) or not all(map(isinstance, steps, kinds)):
        raise ValueError("its steps are not those of a head")
    start = 0
    for tap, columns in tap_columns(head).items():
        if not isinstance(columns, slice) or columns.start != start:
            raise ValueError(f"the columns of {tap} do not follow those of the tap before")
        start = columns.stop
    if head.n_features_in_ != start:
        raise ValueError(f"it takes {head.n_features_in_} values, and its taps have {start}")
    for array in _coefficients(head):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError("its coefficients are not finite numbers")
    if is_calibrated(classifier := steps[-1]):
        numbers = classifier.temperature_, classifier.floor_
        if not all(isinstance(number, float) and number > 0 for number in numbers):
            raise ValueError("its temperature and its floor are not numbers above 0")


def _coefficients(head: Pipeline) -> Iterator[NDArray[Any]]:
    _, centre, classifier = (step for _, step in head.steps)
    yield np.asarray(centre.mean_)
    if isinstance(classifier, MLPClassifier):
        yield from map(np.asarray, [*classifier.coefs_, *classifier.intercepts_])
    else:
        yield from map(np.asarray, [classifier.coef_, classifier.intercept_])
    if isinstance(classifier, GaussianSVC):
        yield from map(np.asarray, [classifier.landmarks_, float(classifier.gamma_)])


def _check_fits(head: Pipeline, result: Result) -> None:
    """Raise ValueError unless the head is of the kind that its record describes.

    It must also give a probability to each class of the record.
    """
    classifier = head[-1]
    if not isinstance(classifier, CLASSIFIERS.get(result.model, object)):
        raise ValueError(f"it is not the {result.model} of result.json")
    for name, value in result.hyperparameters.items():
        if name in ("C", "alpha") and getattr(classifier, name, value) != value:
            raise ValueError(f"its {name} is not that of result.json")
    if getattr(classifier, "gamma", 0.0) != result.hyperparameters.get("gamma", 0.0):
        raise ValueError("its gamma is not that of result.json")
    if parameters(head) != result.parameters:
        raise ValueError("it has not as many coefficients as result.json says")
    classes = np.asarray(head[-1].classes_)
    if not np.array_equal(classes, np.arange(len(result.class_names))):
        raise ValueError(
            f"it knows {len(classes)} classes, and result.json names {len(result.class_names)}"
        )
    taps = list(tap_columns(head))
    if taps != result.hyperparameters.get("taps"):
        raise ValueError("its taps are not those of result.json")
    by_block = preparation_options(result.hyperparameters)["by_block"]
    norms = block_norms(taps) if by_block else None
    if head[0].transformer_weights != norms:
        raise ValueError("the norms of its taps are not those of result.json")
    for tap, columns in tap_columns(head).items():
        if columns.stop - columns.start != ALL_TAPS.get(plain(tap)):
            raise ValueError(f"there is no tap {tap} with {columns.stop - columns.start} values")
    found = head.predict_proba(np.ones((1, head.n_features_in_), np.float32))
    if found.shape != (1, len(classes)) or not np.isclose(found.sum(), 1, atol=1e-3):
        raise ValueError("it does not give probabilities")


def _warn_of_version(path: Path, messages: list[Warning | str]) -> None:
    """Warn once if another version of scikit-learn saved the head."""
    for message in messages:
        if isinstance(message, InconsistentVersionWarning):
            warn(
                f"{path}: saved by scikit-learn {message.original_sklearn_version}, and this is "
                f"{message.current_sklearn_version}; make heads trains it again"
            )
            return
