"""VGG16 as a step of scikit-learn: what goes in, what comes out, and the conventions it keeps."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

import extract
from extract import VGG16Features, transformer
from extract.compute import cached_vgg16
from extract.engines import selection
from extract.engines.base import Engine
from extract.photos import decode
from extract.store import shard_index, shards
from extract.vgg16.recipe import TAPS, recipe
from extract.vgg16.weights import Weights
from tests import stand_in
from tests.conftest import CHECKOUT, MakePhotos

WEIGHTS = Weights([], "f" * 64, "stand-in")


@pytest.fixture(autouse=True)
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace VGG16 by a quick network that records how many photos it saw."""
    seen: list[int] = []

    def forward(photos: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(len(photos))
        return {tap: abs(values) for tap, values in stand_in.values(photos).items()}

    engine = Engine("stand-in", forward)
    monkeypatch.setattr(cached_vgg16.weights, "load", lambda *a, **k: WEIGHTS)
    monkeypatch.setattr(selection, "choose", lambda *wanted, **how: engine)
    transformer._vgg16.cache_clear()
    return seen


@pytest.fixture
def paths(photos: MakePhotos) -> list[Path]:
    return sorted(photos({"cats": 10, "dogs": 10}).rglob("*.png"))


def expected(paths: list[Path], tap: str = "block5_avg") -> np.ndarray:
    pixels = np.stack([decode.decode_photo(path.read_bytes(), size=224) for path in paths])
    return abs(stand_in.values(pixels)[tap])


@pytest.mark.parametrize(
    "kind",
    [
        lambda paths: paths,
        lambda paths: [str(path) for path in paths],
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array(paths, dtype=object)[:, None],
        lambda paths: [np.asarray(Image.open(path)) for path in paths],
        lambda paths: np.stack([np.asarray(Image.open(path)) for path in paths]),
    ],
    ids=["Path", "str", "array of str", "column", "list of arrays", "array"],
)
def test_paths_and_arrays_of_all_kinds_give_the_same_taps(
    paths: list[Path], kind: Callable[[list[Path]], Any]
) -> None:
    found = VGG16Features().fit_transform(kind(paths))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected(paths))


def test_taps_come_side_by_side_in_the_order_asked_for(paths: list[Path]) -> None:
    features = VGG16Features(("block3_max", "block5_avg")).set_output(transform="default")
    found = features.transform(paths)
    wanted = [expected(paths, "block3_max"), expected(paths, "block5_avg")]
    np.testing.assert_array_equal(found, np.hstack(wanted))
    names = features.get_feature_names_out()
    assert len(names) == found.shape[1] == 256 + 512
    assert [names[0], names[255], names[256], names[-1]] == [
        "block3_max_0",
        "block3_max_255",
        "block5_avg_0",
        "block5_avg_511",
    ]
    assert len(set(VGG16Features(list(TAPS)).get_feature_names_out())) == sum(TAPS.values())


def test_photos_of_several_sizes_keep_their_order(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = [(30, 40, 3), (300, 200, 3), (1, 1, 3), (224, 224, 3)]
    arrays = [random.integers(0, 256, shape, np.uint8) for shape in shapes]
    together = VGG16Features().transform(arrays)
    alone = [VGG16Features().transform([array]) for array in arrays]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_a_cache_computes_a_photo_once_and_is_that_of_the_commands(
    paths: list[Path], tmp_path: Path, computed: list[int]
) -> None:
    features = VGG16Features(cache=tmp_path / "features/cache")
    first = features.transform(paths[:12])
    assert sum(computed) == 12
    copy = tmp_path / "renamed.png"
    copy.write_bytes(paths[3].read_bytes())
    again = clone(features).transform([copy, *paths])
    assert sum(computed) == 20
    np.testing.assert_array_equal(again, expected([copy, *paths]))
    np.testing.assert_array_equal(again[1:13], first)
    the_recipe = recipe(WEIGHTS.digest)
    places = shard_index.read(shards.folder_of(tmp_path, the_recipe), the_recipe)
    assert len(places) == 20
    # Without a cache, each call computes.
    VGG16Features().transform(paths)
    VGG16Features().transform(paths)
    assert sum(computed) == 60


def test_photos_before_an_unreadable_one_stay_in_the_cache(
    paths: list[Path], tmp_path: Path, computed: list[int]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    features = VGG16Features(cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"broken\.jpg: not an image file"):
        features.transform([*paths[:16], broken])
    features.transform(paths)
    assert sum(computed) == 20


def test_a_pipeline_is_searched_cloned_and_pickled(paths: list[Path], tmp_path: Path) -> None:
    names = [path.parent.name for path in paths]
    model = make_pipeline(VGG16Features(cache=tmp_path / "cache"), LogisticRegression())
    search = GridSearchCV(model, {"vgg16features__taps": [["block5_avg"], ["block3_max"]]}, cv=2)
    best = search.fit(paths, names).best_estimator_
    # The pickle was made here, as scikit-learn's users do it.
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict_proba(paths), best.predict_proba(paths))
    assert list(best[:-1].get_feature_names_out()) == list(
        VGG16Features(search.best_params_["vgg16features__taps"]).get_feature_names_out()
    )


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ("photo.png", "is one path"),
        ([], "no photo"),
        (np.zeros((2, 5)), "number 0 is a ndarray float64 of shape"),
        (np.zeros((2, 9, 9, 3)), "number 0 is a ndarray float64 of shape"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 4), np.uint8)], "number 1 is a ndarray"),
        (["photo.png", np.zeros((9, 9, 3), np.uint8)], "number 0 is a str"),
        ([None], "number 0 is a NoneType"),
        (np.zeros((1, 0, 9, 3), np.uint8), "number 0"),
        (3, "is a int"),
    ],
)
def test_anything_but_photos_is_refused_by_fit_and_transform(X: Any, said: str) -> None:
    for method in (VGG16Features().fit, VGG16Features().transform):
        with pytest.raises(ValueError, match=said):
            method(X)


@pytest.mark.parametrize("parameters", [{"taps": "block5_avg"}, {"taps": []}, {"engine": "x"}])
def test_parameters_are_checked_when_they_are_used(parameters: dict[str, Any]) -> None:
    features = VGG16Features(**parameters)
    with pytest.raises(ValueError, match="must be"):
        features.fit(["photo.png"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_has_the_names_of_the_columns(library: str, paths: list[Path]) -> None:
    frames = pytest.importorskip(library)
    features = VGG16Features().set_output(transform=library)
    column = frames.Series([str(path) for path in paths])
    found = features.fit_transform(column)
    assert isinstance(found, frames.DataFrame)
    assert list(found.columns) == list(features.get_feature_names_out())
    np.testing.assert_array_equal(found.to_numpy(), expected(paths))
    in_a_frame = frames.DataFrame({"photo": [str(path) for path in paths]})
    np.testing.assert_array_equal(features.transform(in_a_frame).to_numpy(), expected(paths))


class OfRows(VGG16Features):
    """Turns the rows of numbers that `check_estimator` makes into grey pictures."""

    def fit(self, X: Any, y: Any = None) -> Self:
        return super().fit(self._pictures(X, reset=True))

    def transform(self, X: Any) -> np.ndarray:
        return super().transform(self._pictures(X, reset=False))

    def _pictures(self, X: Any, *, reset: bool) -> list[np.ndarray]:
        rows = validate_data(self, X, reset=reset, dtype=np.float32)
        seen = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1, 1)
        return [np.repeat(row[None], 3, axis=2) for row in seen]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks_pass() -> None:
    # They need rows of numbers: of what takes photos they could only check that it refuses them.
    found = check_estimator(OfRows(), on_fail=None)
    failed = [check for check in found if check["status"] == "failed"]
    assert failed == []
    assert sum(check["status"] == "passed" for check in found) > 35


def test_the_package_itself_imports_neither_scikit_learn_nor_keras() -> None:
    program = "import sys, extract; print(*sorted({'sklearn', 'keras'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
    assert extract.VGG16Features is transformer.VGG16Features
    with pytest.raises(AttributeError):
        extract.nothing_of_this_name  # noqa: B018
