"""VGG16 as a step of a scikit-learn pipeline, from photos to taps.

::

    from extract import VGG16Features

    model = make_pipeline(VGG16Features(), LogisticRegression())
    model.fit(paths, names).predict(["new.jpg"])
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pooch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from extract.compute.cached_vgg16 import CachedVGG16
from extract.engines.base import ENGINES
from extract.photos import decode
from extract.vgg16.recipe import ALL_TAPS, SIZE, has_pairs

USER_CACHE = "onepass"
"""The folder in the user's cache where weights are kept if no other cache is given."""


class VGG16Features(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pooled activations of a frozen VGG16, with the rules and engines of ``make features``.

    The transformer learns nothing: `fit` only checks its input. With a `cache`, a pipeline that is
    fitted many times, as in a grid search, computes each photo once.

    The estimator's tags say that it takes no rows of numbers, so `check_estimator` runs no checks.
    A test of this project turns rows of numbers into pictures, and all the checks pass.

    Parameters
    ----------
    taps : sequence of str
        Names in `extract.vgg16.recipe.ALL_TAPS`; their values are side by side in this order.
    cache : str, Path or None
        The folder that keeps the taps of every file. With ``features/cache``, the commands use the
        same taps. With None, they are computed each time. The taps of arrays are never kept.
    weights : str, Path or None
        A file with VGG16's weights. None takes the published ones.
    engine : str
        What runs VGG16, see `extract.engines.selection.choose`.

    Examples
    --------
    >>> VGG16Features().get_feature_names_out()[[0, -1]]
    array(['block5_avg_0', 'block5_avg_511'], dtype=object)
    """

    def __init__(
        self,
        taps: Sequence[str] = ("block5_avg",),
        *,
        cache: str | Path | None = None,
        weights: str | Path | None = None,
        engine: str = "auto",
    ) -> None:
        self.taps = taps
        self.cache = cache
        self.weights = weights
        self.engine = engine

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and that X holds photos, see `transform`; learn nothing."""
        self._check()
        _photos(X)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the taps of photos.

        Parameters
        ----------
        X : sequence of n paths, or of n arrays of shape (height, width, 3), uint8 RGB
            The paths of files in any format that Pillow reads. A column of them works too.

        Returns
        -------
        ndarray of shape (n, values), float32
            The values are not normalised, and not negative but for pairs of channels.

        Raises
        ------
        ValueError
            If X holds anything else, or a file gives no picture.
        InputError
            If VGG16's weights cannot be found or downloaded.
        """
        self._check()
        photos = _photos(X)
        cache = Path(self.cache or pooch.os_cache(USER_CACHE))
        weights = Path(self.weights) if self.weights else None
        # Messages about engines do not belong in the standard output of a pipeline.
        with redirect_stdout(sys.stderr):
            vgg16 = _vgg16(cache, weights, self.engine, any(map(has_pairs, self.taps)))
            if isinstance(photos[0], str):
                taps = vgg16.of_files(photos, self.taps, keep=self.cache is not None)
            else:
                squares = [decode.square(Image.fromarray(photo), size=SIZE) for photo in photos]
                taps = vgg16.compute(np.stack(squares))
        return np.hstack([taps[tap] for tap in self.taps])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the name of every column: its tap and its position in the tap."""
        self._check()
        names = [f"{tap}_{position}" for tap in self.taps for position in range(ALL_TAPS[tap])]
        return np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check(self) -> None:
        unknown = [tap for tap in self.taps if tap not in ALL_TAPS]
        if isinstance(self.taps, str) or unknown or not len(self.taps):
            raise ValueError(f"taps must be some of {', '.join(ALL_TAPS)}, and is {self.taps!r}")
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, and is {self.engine!r}")


@lru_cache(maxsize=1)
def _vgg16(cache: Path, weights_file: Path | None, engine: str, with_pairs: bool) -> CachedVGG16:
    """Keep the network of the last call, because a pipeline calls `transform` many times."""
    return CachedVGG16(cache, weights_file=weights_file, engine=engine, with_pairs=with_pairs)


def _photos(X: Any) -> list[str] | list[NDArray[np.uint8]]:
    """Return paths or arrays from any kind of sequence.

    Raises
    ------
    ValueError
        If X holds anything else, mixes the two, or is empty.
    """
    if isinstance(X, str | Path):
        raise ValueError(f"X must be a sequence of photos, and is one path: {X}")
    if not isinstance(X, Sequence):
        # Arrays and the columns of pandas and polars are not instances of Sequence.
        X = np.asarray(X)
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim == 0:
            raise ValueError(f"X must be a sequence of photos, and is a {type(X.item()).__name__}")
    if not len(X):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required: no photo")
    if all(isinstance(photo, str | Path) for photo in X):
        return [str(photo) for photo in X]
    for number, photo in enumerate(X):
        is_array = isinstance(photo, np.ndarray) and photo.dtype == np.uint8
        if not is_array or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            kind = f"{photo.dtype} of shape {photo.shape}" if hasattr(photo, "dtype") else ""
            raise ValueError(
                "X must hold paths, or uint8 RGB arrays of shape (height, width, 3); number "
                f"{number} is a {type(photo).__name__} {kind}".strip()
            )
    return list(X)
