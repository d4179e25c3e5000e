"""The parts of `benchmarks.gpu`. Each yields its figures one by one, so that none is lost."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.extract import gflop_a_photo
from benchmarks.pipeline import write_numbered
from extract.compute import activations, pipeline, reader_processes, reading
from extract.compute.reading import LoadedPhoto
from extract.engines import keras_engine
from extract.engines.base import Engine, Forward, Taps, relative_difference
from extract.engines.tuning import REFERENCE
from extract.store.shards import Writer
from extract.system import threads
from extract.system.machine import cores
from extract.vgg16 import keras_backend
from extract.vgg16.architecture import weight_shapes
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import ALL_TAPS, MAPS, SIZE, TAPS, recipe
from extract.vgg16.weights import Weights, digest
from finetune.train import networks
from finetune.train.batches import one_hot
from finetune.train.hardware import Hardware
from finetune.train.loop import compile_network
from finetune.train.schedule import Schedule

PRECISIONS = ("float32", "tensorfloat32", "float16", "bfloat16")
LAYER = "block4_pool"
"""The activations that fine-tuning starts from by default."""

CLASSES = 10
JPEG_SIZE = (500, 375)
PICTURES = 100
PIPELINE_SECONDS = 12
"""About as long the pipeline runs; less if `Scale.photos` are done before."""

NETWORKS = ("baseline", "block5", "all")


class Row(NamedTuple):
    """A figure of the table.

    Attributes
    ----------
    what : str
    value : float
    unit : str
    note : str
        What it is a share of, or what else is to be said.
    """

    what: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are for a GPU.

    Attributes
    ----------
    matrix : int
        Side of the matrices whose product is timed.
    products : int
        How many products are timed together.
    batches : sequence of int
        The batch sizes of the forward pass, the most telling first.
    jpegs : int
        How many JPEGs are written. They show few pictures, but each has a digest of its own.
    decoded : int
        How many of them threads decode.
    photos : int
        The most photos that the whole pipeline is given.
    training_batch : int
    compared : int
        How many photos the devices are compared on.
    rounds : int
        How often a step or a batch is timed; the median counts.
    """

    matrix: int = 8192
    products: int = 20
    batches: Sequence[int] = (64, 256, 128, 512)
    jpegs: int = 40_000
    decoded: int = 2_000
    photos: int = 40_000
    training_batch: int = 32
    compared: int = 8
    rounds: int = 5


ON_CPU = Scale(
    matrix=4096,
    products=1,
    batches=(8,),
    jpegs=72,
    decoded=24,
    photos=72,
    training_batch=4,
    compared=2,
    rounds=2,
)


@dataclass
class Bench:
    """What the parts share.

    Attributes
    ----------
    folder : Path
        A temporary folder for photos and shards.
    scale : Scale
    weights : Weights
    peaks : dict of str to float
        The speed of matrix products in TFLOP/s, by number format.
    decoding : float
        The most photos/s that readers decoded.
    forward : float
        The photos/s of `engine`, with as many batches in flight as it allows.
    engine : Engine or None
        The engine of the pipeline.
    """

    folder: Path
    scale: Scale
    weights: Weights
    peaks: dict[str, float] = field(default_factory=dict)
    decoding: float = 0.0
    forward: float = 0.0
    engine: Engine | None = None


def he_weights(seed: int = 0) -> Weights:
    """Draw VGG16's weights at random, so that no map grows or vanishes (He et al., 2015)."""
    random = np.random.default_rng(seed)
    arrays = []
    for shape in weight_shapes():
        scale = np.sqrt(2 / np.prod(shape[:3])) if len(shape) == 4 else 0.01
        arrays.append((random.standard_normal(shape, np.float32) * scale).astype(np.float32))
    return Weights(arrays, digest(arrays), "random")


def noise(n: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw photos without any content."""
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def picture(seed: int) -> Image.Image:
    """Draw a picture whose JPEG is about as large as that of a photo: soft shapes and texture."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((*JPEG_SIZE[::-1], 3), np.float32)
    for cells, contrast in ((5, 60), (25, 30), (120, 14)):
        rough = random.normal(0, contrast, (cells * 3 // 4, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(rough[..., channel])
            pixels[..., channel] += np.asarray(layer.resize(JPEG_SIZE, Image.Resampling.BICUBIC))
    pixels += 128 + random.normal(0, 5, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_jpegs(folder: Path, n: int) -> list[str]:
    """Write n JPEGs that differ, if only in a comment, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)

    def encoded(number: int) -> bytes:
        file = io.BytesIO()
        picture(number).save(file, "JPEG", quality=88)
        return file.getvalue()

    with ThreadPoolExecutor(cores()) as pool:
        return write_numbered(folder, list(pool.map(encoded, range(min(n, PICTURES)))), n)


# The parts


def matrix(bench: Bench) -> Iterator[Row]:
    """Time products of square matrices in each number format."""
    n, products = bench.scale.matrix, bench.scale.products
    values = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
    for precision in PRECISIONS:
        if precision == "tensorfloat32" and not keras_backend.gpus():
            continue
        dtype = "float32" if precision == "tensorfloat32" else precision
        keras_backend.allow_tensor_float_32(precision == "tensorfloat32")
        with _jax_precision(precision):
            left, right = (keras.ops.cast(keras.ops.array(value), dtype) for value in values)

            def multiply(left: Any = left, right: Any = right) -> None:
                for _ in range(products):
                    product = keras.ops.matmul(left, right)
                keras.ops.convert_to_numpy(product[:1, :1])

            multiply()
            seconds = statistics.median(_seconds(multiply) for _ in range(bench.scale.rounds))
        bench.peaks[precision] = 2 * n**3 * products / seconds / 1e12
        yield Row(f"{precision}, {n} x {n}", bench.peaks[precision], "TFLOP/s")


def forward(bench: Bench) -> Iterator[Row]:
    """Time the forward pass by batch size and number format, one batch at a time."""
    keras_backend.find_fastest()
    built: dict[str, Forward] = {}
    for size in bench.scale.batches:
        for precision, build in keras_engine.builders(bench.weights, TAPS, SIZE).items():
            if precision.endswith("16") and not keras_backend.gpus():
                continue
            what = f"{precision}, batches of {size}"
            try:
                run = built[precision] if precision in built else build()
                built[precision] = run
                speed = _photos_a_second(run, size, bench.scale.rounds)
            # A format or size that cannot be used must not hide the others.
            except Exception as error:
                yield Row(what, float("nan"), "photos/s", f"failed: {first_line(error)}")
                continue
            yield Row(what, speed, "photos/s", _of_peak(bench, precision, speed))


def choice(bench: Bench) -> Iterator[Row]:
    """Let the engine choose its number format and batch size, as it does for many photos.

    It computes all taps, those of pairs of channels too.
    """
    photos = noise(bench.scale.compared)
    started = time.perf_counter()
    if keras_backend.gpus():
        setting, refused = keras_engine.tune(bench.weights, photos, tuple(ALL_TAPS))
        engine = keras_engine.build_for_gpu(bench.weights, setting, outputs=ALL_TAPS)
        precision, words = setting.precision, [setting.describe(), *refused]
    else:
        engine = keras_engine.build(bench.weights, outputs=ALL_TAPS)
        precision, words = REFERENCE, [REFERENCE]
    seconds = time.perf_counter() - started
    bench.engine, bench.forward = engine, _in_flight(engine, bench.scale.rounds)
    what = f"chosen, {engine.in_flight} in flight"
    yield Row(what, bench.forward, "photos/s", _of_peak(bench, precision, bench.forward))
    yield Row("time to choose", seconds, "s", "; ".join(words))


def decoding(bench: Bench) -> Iterator[Row]:
    """Make JPEGs, and read and decode them with more and more threads and nothing else."""
    root = bench.folder / "photos"
    paths = write_jpegs(root, bench.scale.jpegs)
    kilobytes = statistics.mean((root / path).stat().st_size for path in paths) / 1000
    yield Row("JPEG of 500 x 375, mean size", kilobytes, "kB")
    sample = paths[: bench.scale.decoded]
    read = partial(reading.read, root)
    readers = 1
    while readers <= cores():
        given = sample if readers > 1 else sample[: len(sample) // 4]
        with closing(threads.ahead(read, given, workers=readers, limit=64)) as photos:
            speed = _decoded_a_second(photos)
        yield Row(f"{readers} threads", speed, "photos/s")
        bench.decoding = max(bench.decoding, speed)
        readers *= 2
    items = reader_processes.read_ahead(
        root, paths, size=SIZE, batch_size=lambda: 256, many=lambda: True
    )
    with closing(items) as photos:
        # The processes start first.
        for _ in islice(photos, len(paths) // 4):
            pass
        speed = _decoded_a_second(photos)
    bench.decoding = max(bench.decoding, speed)
    yield Row(f"{cores()} processes", speed, "photos/s")


def _decoded_a_second(photos: Iterator[LoadedPhoto]) -> float:
    started = time.perf_counter()
    n = sum(photo.photo is not None for photo in photos)
    return n / (time.perf_counter() - started)


def end_to_end(bench: Bench) -> Iterator[Row]:
    """Take photos through the pipeline into shards."""
    if bench.engine is None:
        next(choice(bench))
    engine = bench.engine
    assert engine is not None
    run = _pipeline(bench, engine, recipe(bench.weights.digest, with_pairs=True))
    stages = {"forward": bench.forward, "decoding": bench.decoding}
    measured = {name: value for name, value in stages.items() if value}
    slower = min(measured, key=lambda name: measured[name])
    for what, speed in (
        ("photos into shards, once started", run.steady()),
        (f"{run.n:,} photos into shards", run.whole()),
    ):
        yield Row(what, speed, "photos/s", f"{speed / measured[slower]:.0%} of {slower}")


def cached_activations(bench: Bench) -> Iterator[Row]:
    """Take photos through the pipeline into shards of activations."""
    photos = noise(bench.scale.compared)
    if keras_backend.gpus():
        setting, _ = keras_engine.tune(bench.weights, photos, (LAYER,))
        engine = keras_engine.build_for_gpu(bench.weights, setting, outputs=[LAYER])
        note = setting.describe()
    else:
        engine, note = keras_engine.build(bench.weights, outputs=[LAYER]), ""

    def run(photos: NDArray[np.uint8]) -> Taps:
        varied = np.stack([activations.vary(photo, 1) for photo in photos])
        values = engine.forward(varied)[LAYER]
        return {LAYER: np.minimum(values, activations.LARGEST).astype(activations.DTYPE)}

    the_recipe = activations.variant_recipe(bench.weights.digest, LAYER, 1)
    speed = _pipeline(bench, engine._replace(forward=run), the_recipe, share=0.25).whole()
    yield Row(f"{LAYER} into shards", speed, "photos/s", note)


def training(bench: Bench) -> Iterator[Row]:
    """Time training steps of each network in float32 and in mixed precision."""
    for name in NETWORKS:
        for precision in ("float32", "mixed_float16"):
            if precision != "float32" and not keras_backend.gpus():
                continue
            network, inputs, labels = trained_network(bench, name, precision)
            compile_network(network, Schedule(1e-5, 2, 2), 10, hardware=Hardware(precision))

            def step(network: Any = network, inputs: Any = inputs, labels: Any = labels) -> None:
                network.train_on_batch(inputs, labels)

            step()
            seconds = statistics.median(_seconds(step) for _ in range(bench.scale.rounds))
            what = f"{name}, {precision}, batches of {len(inputs)}"
            yield Row(what, len(inputs) / seconds, "photos/s")


def trained_network(
    bench: Bench, name: str, precision: str
) -> tuple[keras.Model, NDArray[Any], NDArray[np.float32]]:
    """Return a network as it is trained, a batch of inputs, and one-hot labels."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    n = bench.scale.training_batch
    labels = one_hot(random.integers(0, CLASSES, n), CLASSES)
    if name == "baseline":
        network = networks.baseline(CLASSES, precision=precision)
        size = networks.BASELINE_SIZE
    else:
        size = SIZE
        taps = random.standard_normal((32, TAPS[networks.TOP_TAP]), np.float32) ** 2
        top = networks.top(taps, CLASSES, logarithm=True)
        network = networks.vgg16_with(top, bench.weights.arrays, precision=precision)
        networks.unfreeze(network, name)
    if name in networks.FROZEN_OUTPUT:
        inputs = random.standard_normal((n, *MAPS[LAYER]), np.float32) ** 2
        return networks.tail(network, name), inputs, labels
    photos = noise(n, size)
    return network, photos, labels


def values(bench: Bench, precision: str = "float32") -> dict[str, NDArray[np.float32]]:
    """Return what devices are compared by: taps, and how one step changes the weights.

    A step of plain gradient descent, because that of AdamW hardly depends on the gradient's size.
    Nothing is drawn at random, because devices draw other numbers.
    """
    keras_backend.allow_tensor_float_32(False)
    found: dict[str, NDArray[np.float32]] = {}
    if precision == "float32":
        taps = keras_engine.build(bench.weights).forward(noise(bench.scale.compared))
        found |= {f"tap {tap}": tap_values for tap, tap_values in taps.items()}
    for name in NETWORKS:
        network, inputs, labels = trained_network(bench, name, precision)
        for layer in network._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        _draw_weights(network, every=name == "baseline")
        before = [weight.numpy() for weight in _trained(network)]
        network.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", jit_compile=False)
        with _jax_precision("float32"):
            network.train_on_batch(inputs, labels)
        after = [weight.numpy() for weight in _trained(network)]
        changes = [(b - a).ravel() for a, b in zip(before, after, strict=True)]
        found[f"step {name}"] = np.concatenate(changes).astype(np.float32)
    return found


def _draw_weights(network: keras.Model, *, every: bool) -> None:
    """Draw the weights of the top, or of every layer, alike on all devices.

    Backends draw other numbers, and a top of zeros would give no gradient to the layers below it.
    """
    random = np.random.default_rng(1)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D) and (
            every or isinstance(layer, keras.layers.Dense)
        ):
            kernel, *bias = layer.get_weights()
            scale = np.sqrt(2 / np.prod(kernel.shape[:-1])) if every else 0.01
            layer.set_weights([scale * random.standard_normal(kernel.shape, np.float32), *bias])


def differences(
    bench: Bench, reference: dict[str, NDArray[np.float32]], precision: str
) -> Iterator[Row]:
    """Compare what this device computes with the CPU's values."""
    note = f"{precision}, relative L2"
    for name, found in values(bench, precision).items():
        yield Row(name, relative_difference({name: found}, {name: reference[name]}), "", note)


def _trained(network: keras.Model) -> list[Any]:
    return [
        variable
        for layer in network._flatten_layers(include_self=False, recursive=False)
        for variable in layer.trainable_variables
    ]


class _Progress:
    """The speed of a run as a whole, and after the first quarter, when the processes have started.

    Parameters
    ----------
    n : int
        The number of photos.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.done = self.skipped = 0
        self.started = self.quarter = self.ended = time.perf_counter()

    def advance(self, n: int) -> None:
        self.done += n
        if not self.skipped and self.done >= self.n // 4:
            self.skipped, self.quarter = self.done, time.perf_counter()

    def whole(self) -> float:
        return self.n / (self.ended - self.started)

    def steady(self) -> float:
        # A run of one batch has no other rate than that of the whole.
        later = self.done - self.skipped
        return later / (self.ended - self.quarter) if later else self.whole()


def _pipeline(
    bench: Bench, engine: Engine, the_recipe: dict[str, Any], *, share: float = 1.0
) -> _Progress:
    """Take photos through the pipeline into shards."""
    root = bench.folder / "photos"
    paths = sorted(path.name for path in root.glob("*.jpg")) or write_jpegs(root, bench.scale.jpegs)
    speeds = [speed for speed in (bench.forward, bench.decoding) if speed]
    n = max(1, int(share * min([bench.scale.photos, *(PIPELINE_SECONDS * one for one in speeds)])))
    given = paths[:n]
    progress = _Progress(len(given))
    with tempfile.TemporaryDirectory(dir=bench.folder) as out:
        with Writer(Path(out), the_recipe) as writer:
            pipeline.compute(
                root,
                given,
                build_engine=lambda photos: engine,
                writer=writer,
                advance=progress.advance,
            )
        # The last shard is written at the end.
        progress.ended = time.perf_counter()
    return progress


def _in_flight(engine: Engine, rounds: int) -> float:
    """Return the photos/s of an engine that has as many batches at once as it takes."""
    batch = np.resize(noise(8), (engine.batch_size, SIZE, SIZE, 3))
    engine.forward(batch)
    with ThreadPoolExecutor(engine.in_flight) as pool:
        # Each thread may prepare something of its own.
        list(pool.map(engine.forward, [batch] * engine.in_flight))
        n = rounds * engine.in_flight
        started = time.perf_counter()
        list(pool.map(engine.forward, [batch] * n))
        return n * len(batch) / (time.perf_counter() - started)


def _photos_a_second(run: Forward, size: int, rounds: int) -> float:
    batch = np.resize(noise(8), (size, SIZE, SIZE, 3))
    run(batch)
    return size / statistics.median(_seconds(partial(run, batch)) for _ in range(rounds))


def _of_peak(bench: Bench, precision: str, speed: float) -> str:
    name = precision.split()[-1]
    peak = bench.peaks.get(name)
    if not peak:
        return "matrix peak not measured"
    share = speed * gflop_a_photo() / 1000 / peak
    return f"{share:.0%} of the {name} matrix peak"


def _jax_precision(precision: str) -> Any:
    """Return the context in which JAX computes in a format; other backends are told before."""
    if keras.backend.backend() != "jax" or precision.endswith("16"):
        return nullcontext()
    import jax

    return jax.default_matmul_precision(precision)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def first_line(error: BaseException) -> str:
    """Return an error in one line."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__} {line}"[:160]
