"""What is searched for each head: sets of taps, with or without square roots, hyper-parameters.

Everything here follows from the size of the data and the taps that there are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classify import out_of_core
from classify.arrays import Labels
from classify.heads import HEADS, Values
from extract.vgg16.recipe import has_pairs, plain

GRIDS: dict[str, tuple[Values, ...]] = {
    "logistic": tuple((C,) for C in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)),
    "svm": tuple((alpha, 0.0) for alpha in (3.0, 1.0, 0.3, 0.1, 0.03)),
    "mlp": tuple((1.0, epochs) for epochs in (5, 10, 15, 20, 30, 40, 60, 80)),
}
"""Values of each head's hyper-parameters, from the most to the least regularised."""

GAUSSIAN: tuple[Values, ...] = tuple((alpha, 0.25) for alpha in (0.3, 0.1, 0.03))
"""Further values for the svm, with a Gaussian kernel, where all blocks count the same. On re-splits
of Caltech-101, 0.25 had the smallest loss on held-out photos; with twice as much it was larger, and
on `chess` much larger."""

TAP_SETS = (
    ("block5_avg",),
    ("block5_avg3x3",),
    ("block5_avg3x3", "block4_avg", "block4_max"),
    ("block5_avg3x3", "block4_avg", "block4_max", "block3_avg", "block3_max"),
)
"""Sets of taps that are tried: the mean of block 5, its nine parts, these with block 4, and these
with block 3 as well. The larger sets need neither the mean nor the maximum of block 5: the nine
parts contain the mean, and with both beside block 4 each head had a larger log loss on held-out
photos of chess. `tap_sets` adds sets of several photo sizes."""

PAIR_SETS = (("block5_avg3x3", "block4_avg", "block4_max", "block4_pairs"),)
"""Sets that are tried as well where the features have pairs of channels, always with roots."""

BY_BLOCK_SETS = (TAP_SETS[2], *PAIR_SETS)
"""Sets that are tried for the svm with blocks that count the same as well, always with roots."""

MLP_PHOTOS = 40_000
"""About how many photos the MLP is trained on at most, each counted once per epoch."""

MLP_EPOCHS = 20
"""Up to this many epochs are tried even if the MLP then sees more than `MLP_PHOTOS`."""

MAX_OPERATIONS = 3 * 10**9
"""Operations of one step of the logistic head from which on fewer sets of taps are tried."""


class FeatureSet(NamedTuple):
    """The features that a head is given.

    Attributes
    ----------
    taps : tuple of str
    root : bool
        Whether the square root of every value is taken.
    by_block : bool
        Whether each block counts the same and not each tap, see `classify.heads.block_norms`.
    """

    taps: tuple[str, ...]
    root: bool
    by_block: bool = False

    @property
    def is_even(self) -> bool:
        """Whether roots are taken and each block counts the same, as it also does with one tap."""
        return self.root and (self.by_block or len(self.taps) == 1)


class SearchSpace(NamedTuple):
    """The candidates for a head: every feature set with all of its hyper-parameters' values.

    Attributes
    ----------
    feature_sets : list of FeatureSet
        The smallest set of taps first.
    grid : tuple of Values
        The most regularised first.
    even_grid : tuple of Values
        Further values, for the feature sets that are even.
    """

    feature_sets: list[FeatureSet]
    grid: tuple[Values, ...]
    even_grid: tuple[Values, ...] = ()

    def values(self, features: FeatureSet) -> tuple[Values, ...]:
        """Return the values that are tried with a feature set."""
        return self.grid + (self.even_grid if features.is_even else ())


def tap_sets(
    taps: Collection[str], sets: Sequence[tuple[str, ...]] = (*TAP_SETS, *PAIR_SETS)
) -> list[tuple[str, ...]]:
    """Return the sets of taps that are tried if `taps` are available, the smallest first.

    With photos of several sizes, each set that contains block 4 is also tried with the taps of
    all sizes together.
    """
    plain_sets = [tap_set for tap_set in sets if {*taps}.issuperset(tap_set)]
    of_all_sizes = [
        tuple(tap for tap in taps if plain(tap) in tap_set)
        for tap_set in plain_sets
        if "block4_avg" in tap_set
    ]
    return list(dict.fromkeys([*plain_sets, *of_all_sizes]))


def tried(taps: Mapping[str, int]) -> dict[str, int]:
    """Return, in their order, those of the available taps that any search would try."""
    return _in_any(taps, tap_sets(taps))


def taps_of(spaces: Mapping[str, SearchSpace], taps: Mapping[str, int]) -> dict[str, int]:
    """Return, in their order, those of the available taps that these search spaces need."""
    return _in_any(taps, [one.taps for space in spaces.values() for one in space.feature_sets])


def _in_any(taps: Mapping[str, int], sets: Iterable[tuple[str, ...]]) -> dict[str, int]:
    wanted = {tap for tap_set in sets for tap in tap_set}
    return {tap: width for tap, width in taps.items() if tap in wanted}


def search_spaces(
    names: Sequence[str], labels: Labels, taps: Mapping[str, int]
) -> dict[str, SearchSpace]:
    """Return what is searched for each head, given the labels of its photos and their taps."""
    rows, classes = len(labels), len(np.unique(labels))
    return {name: search_space(name, rows=rows, classes=classes, taps=taps) for name in names}


def search_space(name: str, *, rows: int, classes: int, taps: Mapping[str, int]) -> SearchSpace:
    """Decide what is searched for a head from the size of the data and the taps alone.

    For small data everything is searched: every set of taps, with and without square roots, and
    every value. The svm also tries `BY_BLOCK_SETS`, and kernels on sets that are even. Larger data
    restrict the search:

    - Sets of taps whose matrix would not fit into memory (see `classify.out_of_core`) are left
      out, except the smallest set.
    - One step of the logistic head costs searched rows x classes x columns operations. If this is
      more than 3 x 10^9 with the largest set, only these remain: the nine parts of block 5 alone,
      with block 4, and with the pairs of block 4; those with block 4 also with all photo sizes.
    - The MLP's epochs are limited so that about 40,000 photos pass, or 20 epochs if that is more.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    rows : int
        Number of photos in train and val.
    classes : int
    taps : mapping of str to int
        Name and width of the available taps, see `extract.store.features_file.Features`.
    """
    widths = {tap_set: sum(taps[tap] for tap in tap_set) for tap_set in tap_sets(taps)}
    smallest, *larger = widths
    in_memory = [one for one in larger if rows * widths[one] <= out_of_core.IN_MEMORY]
    sets = [smallest, *in_memory]
    searched = min(rows, out_of_core.SEARCH_ROWS)
    if searched * classes * min(searched, widths[sets[-1]]) > MAX_OPERATIONS:
        few = tap_sets(taps, (*TAP_SETS[1:3], *PAIR_SETS))
        sets = [one for one in sets if one in few] or sets
    grid = GRIDS[name]
    if name == "mlp":
        most_epochs = max(MLP_EPOCHS, MLP_PHOTOS / rows)
        grid = tuple((alpha, epochs) for alpha, epochs in grid if epochs <= most_epochs)
    feature_sets = [
        FeatureSet(one, root)
        for one in sets
        for root in ((True,) if any(map(has_pairs, one)) else (True, False))
    ]
    if name != "svm":
        return SearchSpace(feature_sets, grid)
    by_block = tap_sets(taps, BY_BLOCK_SETS)
    feature_sets += [FeatureSet(one, True, by_block=True) for one in sets if one in by_block]
    return SearchSpace(feature_sets, grid, GAUSSIAN)


def hyperparameters(name: str, features: FeatureSet, values: Values) -> dict[str, Any]:
    """Return all that defines a candidate, as results record it."""
    named = dict(zip(HEADS[name].hyperparameters, values, strict=True))
    by_block = {"by_block": True} if features.by_block else {}
    return {"taps": list(features.taps), "root": features.root, **by_block, **named}


def default(name: str) -> dict[str, Any]:
    """Return the hyper-parameters of a head if there are no photos to choose by."""
    grid = GRIDS[name]
    return hyperparameters(name, FeatureSet(TAP_SETS[-1], True), grid[len(grid) // 2])
