"""Where photos lie on the map: PCA of their taps, then t-SNE."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from classify import heads
from classify.serving.neighbours import SIMILARITY_TAP
from extract.store.features_file import Features
from finetune.compare.records import ModelRecord

MOST_PHOTOS = 1000
"""t-SNE places this many in about 3 s of one core of an Intel Xeon with AVX-512."""
FEWEST_PHOTOS = 5
COMPONENTS = 50
"""Dimensions that PCA leaves for t-SNE: van der Maaten and Hinton (2008), Journal of Machine
Learning Research 9, 2579-2605, section 4.2 has 30; scikit-learn's manual advises 50."""
PERPLEXITY = 30
STEPS = 500


@dataclass(frozen=True, eq=False)
class Placement:
    """Photos on a plane.

    Attributes
    ----------
    rows : ndarray of shape (m,), ascending
        The photos, by their rows among the features.
    x, y : ndarray of shape (m,)
        From 0 to 1.
    taps : list of str
        What similar photos have in common.
    head : str
        The head that chose the taps; empty if no head did.
    perplexity : float
        About how many neighbours of a photo t-SNE keeps close to it.
    """

    rows: NDArray[np.intp]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    taps: list[str]
    head: str
    perplexity: float


def place(
    features: Features, models: Sequence[ModelRecord], *, first: Collection[int]
) -> Placement | None:
    """Place the photos, or a sample of them, so that those with similar taps lie together.

    Parameters
    ----------
    features : Features
    models : sequence of ModelRecord
        Best first. The taps are those that the best head chose, prepared as it chose.
    first : collection of int
        Rows that belong in a sample, as far as half of it has room for them.

    Returns
    -------
    Placement or None
        None if the features lack the taps, or there are fewer than five photos. The same photos
        have the same places in every run, because one thread computes them.
    """
    head, taps, how = _chosen(features, models)
    rows = sample(len(features.paths), first=first)
    if not taps or len(rows) < FEWEST_PHOTOS:
        return None
    widths = {tap: features.taps[tap] for tap in taps}
    X = heads.normalised(features.read_rows(taps, rows), taps, among=widths, **how)
    perplexity = min(PERPLEXITY, (len(rows) - 1) // 3)
    # Several threads wait for one another so often that they are slow on a busy machine.
    with threadpool_limits(1):
        reduced = _reduced(X)
        plane = TSNE(
            init=_start(reduced),
            perplexity=perplexity,
            max_iter=STEPS,
            random_state=0,
        ).fit_transform(reduced)
        # The direction of the plane means nothing, and pages are wider than high.
        turned = PCA(2, svd_solver="full").fit_transform(plane.astype(np.float64))
    low, high = turned.min(axis=0), turned.max(axis=0)
    x, y = ((turned - low) / np.where(high > low, high - low, 1)).T
    return Placement(rows, x, y, taps, head, perplexity)


def sample(photos: int, *, first: Collection[int]) -> NDArray[np.intp]:
    """Choose the photos of the map: all of them, or `MOST_PHOTOS`.

    Those of `first` come first, at random, and fill at most half of the sample. The others are
    drawn at random.
    """
    if photos <= MOST_PHOTOS:
        return np.arange(photos)
    random = np.random.default_rng(0)
    wanted = random.permutation(np.unique(np.fromiter(first, np.intp)))[: MOST_PHOTOS // 2]
    drawn = random.choice(photos, MOST_PHOTOS, replace=False)
    others = drawn[~np.isin(drawn, wanted)][: MOST_PHOTOS - len(wanted)]
    return np.sort(np.concatenate([wanted, others]))


def _chosen(
    features: Features, models: Sequence[ModelRecord]
) -> tuple[str, list[str], dict[str, bool]]:
    """Return the best head with its taps, and how `heads.normalised` prepares them for it."""
    for model in models:
        chosen = model.result.hyperparameters
        taps = chosen.get("taps", [])
        if model.result.stage == "head" and taps and set(taps) <= features.taps.keys():
            return model.name, list(taps), heads.preparation_options(chosen)
    return "", [SIMILARITY_TAP] if SIMILARITY_TAP in features.taps else [], {"root": True}


def _reduced(X: NDArray[np.float32]) -> NDArray[np.float32]:
    components = min(COMPONENTS, *X.shape)
    # Photos that are all the same have no variance to take a share of.
    with np.errstate(invalid="ignore"):
        reduced: NDArray[np.float32] = PCA(components, random_state=0).fit_transform(X)
    return reduced


def _start(reduced: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where t-SNE begins: the first two components, as small as it wants them.

    Its own start would divide by zero if all photos were the same.
    """
    spread = float(reduced[:, 0].std())
    start: NDArray[np.float32] = (reduced[:, :2] / (spread or 1.0) * 1e-4).astype(np.float32)
    return start
