"""On a GPU the number format and the batch size are measured, and a lack of memory is survived."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from extract.engines import tuning
from extract.engines.base import Forward, Taps
from extract.engines.tuning import Fitted, Setting, choose, grow
from extract.system.memory import OutOfMemory

PHOTOS = np.arange(8 * 2 * 2 * 3, dtype=np.uint8).reshape(8, 2, 2, 3)


class Full(Exception):
    pass


class Gpu:
    """A stand-in with a clock of its own, on which batches take as long as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sizes: list[int] = []

    def clock(self) -> float:
        return self.now

    def network(
        self,
        speed: Callable[[int], float] = lambda size: 100.0,
        *,
        fits: int = 10_000,
        error: float = 0.0,
    ) -> Forward:
        """Return a network that takes `size / speed(size)` seconds for a batch."""

        def forward(photos: np.ndarray) -> Taps:
            self.sizes.append(len(photos))
            if len(photos) > fits:
                raise Full("no memory")
            self.now += len(photos) / speed(len(photos))
            return {"tap": rows(photos) * np.float32(1 + error)}

        return forward


def rows(photos: np.ndarray) -> np.ndarray:
    return photos.reshape(len(photos), -1).astype(np.float32)


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


def test_the_batch_grows_until_photos_per_second_fall(gpu: Gpu) -> None:
    even = gpu.network(lambda size: min(size, 64) if size < 512 else 50)
    assert grow(even, PHOTOS, start=16, clock=gpu.clock) == (256, 64)
    falling = gpu.network(lambda size: 100 * 0.97 ** np.log2(size))
    assert grow(falling, PHOTOS, start=16, clock=gpu.clock)[0] == 32


def test_the_last_batch_that_fits_is_taken(gpu: Gpu) -> None:
    assert grow(gpu.network(float, fits=100), PHOTOS, start=16, clock=gpu.clock) == (64, 64)
    assert grow(gpu.network(float, fits=5), PHOTOS, start=16, clock=gpu.clock) == (4, 4)
    with pytest.raises(Full):
        grow(gpu.network(fits=0), PHOTOS, start=16, clock=gpu.clock)


def test_the_batch_and_the_time_are_bounded(gpu: Gpu) -> None:
    assert grow(gpu.network(float), PHOTOS, start=16, clock=gpu.clock)[0] == tuning.LARGEST
    assert max(gpu.sizes) == tuning.LARGEST
    assert grow(gpu.network(float), PHOTOS, start=16, clock=gpu.clock, until=gpu.now)[0] == 16


def test_the_fastest_format_that_agrees_is_chosen_and_the_others_have_a_reason(gpu: Gpu) -> None:
    def missing() -> Forward:
        raise TypeError("no such format\nin this backend")

    builders = {
        "float32": gpu.network,
        "tensorfloat32": lambda: gpu.network(lambda size: 20.0 * size, error=4e-4),
        "float16": lambda: gpu.network(lambda size: 200.0, error=1e-4),
        "bfloat16": lambda: gpu.network(lambda size: 900.0, error=5e-3),
        "float8": missing,
        "float4": lambda: gpu.network(error=np.nan),
    }
    setting, refused = choose(builders, PHOTOS, clock=gpu.clock)
    # The faster format keeps the GPU busy only with larger batches.
    assert (setting.precision, setting.batch_size) == ("tensorfloat32", tuning.LARGEST)
    assert setting.difference == pytest.approx(4e-4, rel=0.01)
    assert refused == [
        "float16 is not faster: 200 photos/s",
        "bfloat16 differs from float32 by 0.005",
        "float8 cannot be used: no such format",
        "float4 differs from float32 by nan",
    ]
    assert setting.describe() == "tensorfloat32 within 4e-04 of float32, batches of 512"


def test_float32_stays_if_no_format_agrees_or_is_faster(gpu: Gpu) -> None:
    builders = {
        "float32": gpu.network,
        "tensorfloat32": lambda: gpu.network(lambda size: 102.0),
        "bfloat16": lambda: gpu.network(lambda size: 900.0, error=2e-3),
    }
    setting, _ = choose(builders, PHOTOS, clock=gpu.clock)
    assert setting == Setting("float32", tuning.LARGEST, pytest.approx(100), 0.0)
    assert setting.describe() == "float32, batches of 512"


def test_no_format_is_tried_after_the_time_is_over(gpu: Gpu) -> None:
    slow = partial(gpu.network, lambda size: 0.1)
    setting, refused = choose({"float32": slow, "float16": slow}, PHOTOS, clock=gpu.clock)
    assert setting.precision == "float32"
    assert refused == ["float16 was not tried, for lack of time"]


def fitted(forward: Forward, batch_size: int) -> Fitted:
    return Fitted(forward, batch_size, is_out_of_memory=lambda error: isinstance(error, Full))


def test_out_of_memory_halves_the_batch_and_the_run_goes_on(
    gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = fitted(gpu.network(fits=3), 8)
    np.testing.assert_array_equal(forward(PHOTOS)["tap"], rows(PHOTOS))
    assert gpu.sizes == [8, 4, 2, 2, 2, 2]
    assert "not enough memory on the GPU: batches have 2 photos" in capsys.readouterr().err
    np.testing.assert_array_equal(forward(PHOTOS[:3])["tap"], rows(PHOTOS[:3]))
    # It remembers, and the last batch is filled up.
    assert gpu.sizes[6:] == [2, 2]


def test_two_threads_halve_a_batch_once() -> None:
    def forward(photos: np.ndarray) -> Taps:
        if len(photos) > 4:
            raise Full
        return {"tap": rows(photos)}

    engine = fitted(forward, 8)
    with ThreadPoolExecutor(2) as pool:
        for taps in pool.map(engine, [PHOTOS] * 20):
            np.testing.assert_array_equal(taps["tap"], rows(PHOTOS))
    assert engine.batch_size == 4


def test_other_errors_and_a_photo_too_large_for_the_memory_end_the_run(gpu: Gpu) -> None:
    def broken(photos: np.ndarray) -> Taps:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fitted(broken, 8)(PHOTOS)
    with pytest.raises(OutOfMemory, match="on the GPU for one photo; close other programs"):
        fitted(gpu.network(fits=0), 8)(PHOTOS)


def test_batches_come_in_two_sizes(gpu: Gpu) -> None:
    forward = fitted(gpu.network(), 64)
    for n in (1, 16, 17, 40, 64, 100):
        photos = np.resize(PHOTOS, (n, 2, 2, 3))
        np.testing.assert_array_equal(forward(photos)["tap"], rows(photos))
    assert gpu.sizes == [16, 16, 64, 64, 64, 64, 64]
