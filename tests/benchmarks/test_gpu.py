"""The benchmark of a GPU keeps the figures it has, whatever fails, and its parts run anywhere."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_parts import ON_CPU, Bench, Row
from extract.engines.base import Engine
from extract.system.machine import cores
from extract.vgg16.recipe import ALL_TAPS
from extract.vgg16.weights import Weights

TINY = replace(ON_CPU, matrix=16, jpegs=3, photos=6, training_batch=2, compared=1, rounds=1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, TINY, Weights([], "f" * 64, "none"))


def failing(bench: Bench) -> Iterator[Row]:
    yield Row("first", 1.0, "photos/s")
    raise RuntimeError("no such kernel\nand more")


def endless(bench: Bench) -> Iterator[Row]:
    while True:
        time.sleep(0.01)
        yield Row("again", 2.0, "s")


def test_a_part_that_fails_or_takes_long_leaves_its_figures_and_the_other_parts(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = {"bad": (failing, 0.5), "long": (endless, 0.1), "matrix": (gpu_parts.matrix, 999.0)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    path = tmp_path / "figures.json"
    figures = gpu.about()
    gpu.measure(bench, figures, list(parts), seconds=1.0, path=path)
    told = capsys.readouterr().out
    assert "bad         failed: RuntimeError no such kernel (0 s)" in told
    assert "long        stopped, its time is over" in told
    written = json.loads(path.read_text())["parts"]
    assert [row["what"] for row in written["bad"]["rows"]] == ["first"]
    assert written["bad"]["ended"] == "failed: RuntimeError no such kernel"
    assert written["matrix"]["ended"] == ""
    assert all(row["value"] > 0 for row in written["matrix"]["rows"])
    rows, ended = gpu.run_part("late", endless(bench), until=0.0)
    assert (rows, ended) == ([], "left out, no time was left")


def test_made_pictures_have_the_size_of_photos(tmp_path: Path) -> None:
    for name in gpu_parts.write_jpegs(tmp_path, 3):
        assert 30_000 < (tmp_path / name).stat().st_size < 100_000


def test_random_weights_let_no_map_vanish_and_are_always_the_same() -> None:
    first, second = gpu_parts.he_weights(), gpu_parts.he_weights()
    assert first.digest == second.digest
    kernel = first.arrays[4]
    assert kernel.std() == pytest.approx((2 / (9 * kernel.shape[2])) ** 0.5, rel=0.02)


def test_decoding_and_the_pipeline_are_measured(bench: Bench) -> None:
    decoded = list(gpu_parts.decoding(bench))
    assert decoded[0].unit == "kB"
    assert (decoded[1].what, decoded[-1].what) == ("1 threads", f"{cores()} processes")
    assert bench.decoding == max(row.value for row in decoded[1:])

    def forward(photos: np.ndarray) -> dict[str, np.ndarray]:
        return {tap: np.ones((len(photos), width), np.float32) for tap, width in ALL_TAPS.items()}

    bench.engine = Engine("stand-in", forward)
    bench.forward = 10 * bench.decoding
    steady, whole = gpu_parts.end_to_end(bench)
    assert (steady.what, whole.what.split()[1:]) == (
        "photos into shards, once started",
        ["photos", "into", "shards"],
    )
    for row in (steady, whole):
        assert row.note == f"{row.value / bench.decoding:.0%} of decoding"
