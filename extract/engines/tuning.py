"""What makes a GPU fast: the number format and the batch size, both found by measuring."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import TOLERANCE, Forward, Taps, relative_difference
from extract.system.console import warn
from extract.system.memory import OutOfMemory

REFERENCE = "float32"
"""The number format that the others are compared with."""

SMALLEST = 16
"""Smaller batches are filled up to so many photos, and larger ones to the chosen batch size."""

START = 64
"""The batch size at which number formats are compared. On an H200 it was fast in each of them."""

LARGEST = 512
"""A batch of 512 photos takes 77 MB, and its taps 15 MB. On a GPU its maps take 7 GB."""

GAIN = 1.05
"""A format with fewer digits must be so many times as fast as float32 to be worth it."""

LOSS = 0.95
"""A larger batch may have this share of the highest speed. Fewer batches leave more of Python's
lock to the readers: on 16 cores, 3,333 photos/s became 5,063 with 512 instead of 64 at once."""

ROUNDS = 3

SECONDS = 60.0
"""After this time nothing more is tried. Some backends compile the network for every batch size."""


class Setting(NamedTuple):
    """How a network runs on a GPU.

    Attributes
    ----------
    precision : str
        A number format, and how it is computed.
    batch_size : int
    speed : float
        Photos per second.
    difference : float
        The difference from float32, see `extract.engines.base.relative_difference`.
    """

    precision: str
    batch_size: int
    speed: float
    difference: float

    def describe(self) -> str:
        """Say which format and batch size were chosen."""
        within = "" if self.precision == REFERENCE else f" within {self.difference:.0e} of float32"
        return f"{self.precision}{within}, batches of {self.batch_size}"


UNTUNED = Setting(REFERENCE, START, float("nan"), 0.0)
"""What is used without measuring. If memory does not suffice, batches are halved."""


def choose(
    builders: Mapping[str, Callable[[], Forward]],
    photos: NDArray[np.uint8],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Setting, list[str]]:
    """Find the fastest number format whose taps agree with float32, and its batch size.

    Parameters
    ----------
    builders : mapping of str to callable
        Functions that build the network in each format; the first is `REFERENCE`.
    photos : ndarray of shape (n, size, size, 3), uint8
        The photos that the formats are compared on.
    clock : callable
        Returns the time in seconds.

    Returns
    -------
    setting : Setting
    refused : list of str
        The formats that were not chosen, each with the reason.
    """
    until = clock() + SECONDS
    (_, build), *others = builders.items()
    forward = build()
    expected = forward(photos)
    size, speed = _fitting(forward, photos, START, clock)
    best = Setting(REFERENCE, size, speed, 0.0)
    refused = []
    for precision, build in others:
        if clock() > until:
            refused.append(f"{precision} was not tried, for lack of time")
            continue
        try:
            candidate = build()
            difference = relative_difference(candidate(photos), expected)
            if not difference <= TOLERANCE:
                refused.append(f"{precision} differs from float32 by {difference:.1g}")
                continue
            speed = _speed(candidate, photos, size, clock)
        # A format that the GPU or the backend lacks raises exceptions of many types.
        except Exception as error:
            refused.append(f"{precision} cannot be used: {_first_line(error)}")
            continue
        if speed < GAIN * best.speed:
            refused.append(f"{precision} is not faster: {speed:,.0f} photos/s")
            continue
        if best.precision != REFERENCE:
            refused.append(f"{best.precision} is slower: {best.speed:,.0f} photos/s")
        best, forward = Setting(precision, size, speed, difference), candidate
    grown = grow(forward, photos, start=size, clock=clock, until=until)
    return Setting(best.precision, *grown, best.difference), refused


def grow(
    forward: Forward,
    photos: NDArray[np.uint8],
    *,
    start: int,
    clock: Callable[[], float] = time.perf_counter,
    until: float = float("inf"),
) -> tuple[int, float]:
    """Double the batch size while photos per second do not fall; return it and them.

    The size is halved from `start` if even that does not fit into memory.

    Raises
    ------
    Exception
        What `forward` raises for a batch of one photo.
    """
    size, speed = _fitting(forward, photos, start, clock)
    highest = speed
    while size >= start and 2 * size <= LARGEST and clock() < until:
        try:
            larger = _speed(forward, photos, 2 * size, clock)
        # A lack of memory has many faces: some backends find no way to compute the convolution.
        except Exception:
            break
        if larger < LOSS * highest:
            break
        size, speed, highest = 2 * size, larger, max(highest, larger)
    return size, speed


def _fitting(
    forward: Forward, photos: NDArray[np.uint8], size: int, clock: Callable[[], float]
) -> tuple[int, float]:
    """Halve a batch size until it fits into memory; return it and the photos per second."""
    while True:
        try:
            return size, _speed(forward, photos, size, clock)
        except Exception:
            if size == 1:
                raise
        size //= 2


def _speed(
    forward: Forward, photos: NDArray[np.uint8], size: int, clock: Callable[[], float]
) -> float:
    """Return the photos per second of the fastest of some batches."""
    batch = np.resize(photos, (size, *photos.shape[1:]))
    # The first run of a batch size also compiles, or finds the fastest way to compute it.
    forward(batch)
    seconds = []
    for _ in range(ROUNDS):
        started = clock()
        forward(batch)
        seconds.append(clock() - started)
    return size / min(seconds)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__


class Fitted:
    """A forward pass that gives the network few sizes of batches, and smaller ones if it must.

    Backends prepare for every new size, which takes seconds, so batches are filled up and have one
    of two sizes. Whenever memory runs out, batches are halved, and the run goes on. Threads may
    call it.

    Parameters
    ----------
    forward : callable
    batch_size : int
        The most photos at once. It falls when memory runs out.
    is_out_of_memory : callable
        Says whether an exception means that memory ran out.
    free : callable
        Gives back the memory that a backend keeps for later.
    """

    def __init__(
        self,
        forward: Forward,
        batch_size: int,
        *,
        is_out_of_memory: Callable[[Exception], bool],
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.forward = forward
        self.batch_size = batch_size
        self.is_out_of_memory = is_out_of_memory
        self.free = free
        self.lock = threading.Lock()

    def __call__(self, photos: NDArray[np.uint8]) -> Taps:
        """Return the taps of photos.

        Raises
        ------
        OutOfMemory
            If the memory does not suffice for one photo.
        """
        parts: list[Taps] = []
        done = 0
        while done < len(photos) or not parts:
            size = self.batch_size
            part = photos[done : done + size]
            taps = self._tried(part, size)
            if taps is not None:
                parts.append(taps)
                done += len(part)
        if len(parts) == 1:
            return parts[0]
        return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}

    def _tried(self, photos: NDArray[np.uint8], size: int) -> Taps | None:
        """Return the taps, or None if memory ran out and the next try is given fewer photos."""
        try:
            taps = self.forward(_filled(photos, size))
            return {tap: values[: len(photos)] for tap, values in taps.items()}
        except Exception as error:
            if not self.is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(
                    "not enough memory on the GPU for one photo; close other programs that use it, "
                    "and run the same command again; what was computed is kept"
                ) from error
        # Here, outside of the except block, nothing holds on to the tensors of the failed try.
        self.free()
        with self.lock:
            # Another thread may have halved it already.
            if self.batch_size == size:
                self.batch_size = size // 2
                warn(f"not enough memory on the GPU: batches have {size // 2} photos from now on")
        return None


def _filled(photos: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Repeat photos until their number is `SMALLEST` or `most`."""
    size = most if len(photos) > SMALLEST else min(SMALLEST, most)
    return photos if size == len(photos) else np.resize(photos, (size, *photos.shape[1:]))
