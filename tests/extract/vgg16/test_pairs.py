"""The taps of pairs of channels are filled as their rule says, in every engine and export."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.engines import keras_engine, mnn_engine, ncnn_engine
from extract.engines.base import TOLERANCE, relative_difference
from extract.vgg16 import pairs, weights
from extract.vgg16.recipe import (
    ALL_TAPS,
    PAIRS,
    TAPS,
    digest_without_pairs,
    pairs_left_out,
    recipe,
    recipe_digest,
)
from extract.vgg16.weights import Weights
from finetune.export import keras_format, onnx_format
from finetune.export.dense import DenseHead
from tests.conftest import Arrays

SMALL = 96


def products(seed: int) -> NDArray[np.float32]:
    """Return the averaged products of the channels of a map."""
    seen = np.random.default_rng(seed).gamma(0.3, 1, (49, pairs.CHANNELS)).astype(np.float32)
    return seen.T @ seen / len(seen)


def test_bins_are_filled_as_the_rule_says() -> None:
    given = products(0)
    drawn = hashlib.shake_256(b"pairs of channels").digest(8 * 131_328)
    numbers = [int.from_bytes(drawn[8 * i : 8 * i + 8], "little") for i in range(131_328)]
    every = [(i, j) for i in range(512) for j in range(i, 512)]
    expected = np.zeros(4096)
    for position, (number, (i, j)) in enumerate(sorted(zip(numbers, every, strict=True))):
        root = np.sqrt(given[i, j])
        expected[position % 4096] += root if number % 2 else -root
    found = pairs.in_bins(given.reshape(1, -1))
    np.testing.assert_allclose(found, [expected], atol=1e-4)


def test_scalar_products_are_nearly_those_of_the_roots() -> None:
    maps = [products(seed) for seed in range(6)]
    roots = np.array([np.sqrt(one[np.triu_indices(512)]) for one in maps])
    bins = pairs.in_bins(np.array([one.ravel() for one in maps]))
    # What all photos have in common is subtracted before a classifier sees it.
    roots, bins = roots - roots.mean(axis=0), bins - bins.mean(axis=0)
    wanted, found = roots @ roots.T, bins @ bins.T
    assert np.abs(found - wanted).max() < 0.1 * wanted.diagonal().mean()


def test_the_recipe_with_pairs_differs_by_them_alone() -> None:
    plain, richer = recipe("w"), recipe("w", with_pairs=True)
    assert plain["taps"] == TAPS
    assert richer["taps"] == ALL_TAPS
    assert pairs_left_out(richer) == plain == pairs_left_out(plain)
    assert recipe_digest(richer) != recipe_digest(plain) == digest_without_pairs(richer)


@pytest.mark.parametrize("engine", ["mnn", "ncnn", "torch"])
def test_every_engine_gives_the_pairs_of_keras(
    engine: str, vgg16_arrays: Arrays, tmp_path: Path
) -> None:
    vgg16 = Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")
    photos = np.random.default_rng(0).integers(0, 256, (3, SMALL, SMALL, 3), np.uint8)
    every = tuple(ALL_TAPS)
    if engine == "mnn":
        forward = mnn_engine.build(vgg16, tmp_path, outputs=every, size=SMALL).forward
    elif engine == "ncnn":
        forward = ncnn_engine.build(vgg16, outputs=every, size=SMALL).forward
    else:
        pytest.importorskip("torch")
        from extract.vgg16.torch_network import Network

        forward = Network(vgg16_arrays, every)
    found = forward(photos)
    expected = keras_engine.build(vgg16, outputs=every, size=SMALL).forward(photos)
    for tap in PAIRS:
        assert found[tap].shape == (3, 4096)
        for row in range(3):
            one, other = {tap: found[tap][row]}, {tap: expected[tap][row]}
            assert relative_difference(one, other) < TOLERANCE
        assert found[tap].min() < 0 < found[tap].max()


def test_exports_of_a_head_on_pairs_give_its_probabilities(vgg16_arrays: Arrays) -> None:
    vgg16 = Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")
    photos = np.random.default_rng(1).integers(0, 256, (2, SMALL, SMALL, 3), np.uint8)
    taps = keras_engine.build(vgg16, outputs=tuple(ALL_TAPS), size=SMALL).forward(photos)
    kernel = np.random.default_rng(2).normal(size=(512 + 4096, 3)).astype(np.float32)
    bias = np.zeros(3, np.float32)
    head = DenseHead([f"block5_avg_{SMALL}", f"block4_pairs_{SMALL}"], True, [(kernel, bias)])
    parts = [np.sqrt(taps["block5_avg"]), taps["block4_pairs"]]
    x = np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])
    expected = np.exp(x @ kernel)
    expected /= expected.sum(axis=1, keepdims=True)
    model = onnx_format.build(head, vgg16_arrays).SerializeToString()
    np.testing.assert_allclose(onnx_format.load(model)(photos), expected, atol=1e-4)
    network = keras_format.build(
        lambda squares: keras_format.vgg16_and_head(squares, head, vgg16_arrays),
        [SMALL],
        dtype="float64",
    )
    np.testing.assert_allclose(network(photos, training=False), expected, atol=1e-4)
