"""Engines give the same numbers in every batch size; in doubt, the reference is used."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from extract.compute.reading import BATCH_SIZE
from extract.engines import keras_engine, mnn_engine, selection, tuning
from extract.engines.base import TOLERANCE, Engine, Taps, Unusable, relative_difference
from extract.engines.selection import PACKAGES, WORTH_TUNING, Check, choose
from extract.engines.tuning import Setting
from extract.system import machine
from extract.system.console import InputError
from extract.vgg16 import keras_backend
from extract.vgg16.recipe import ALL_TAPS, MAPS, PAIRS, TAPS
from extract.vgg16.weights import Weights
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.long

SMALL = 96
"""Side of the photos where the size is not what is tested: they take a sixth of the time."""


@pytest.fixture(scope="module")
def keras(vgg16: Weights) -> Engine:
    return keras_engine.build(vgg16, size=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe")


@pytest.fixture(scope="module", params=["mnn", "ncnn"])
def fast(request: pytest.FixtureRequest, vgg16: Weights, folder: Path) -> Engine:
    """Build each engine but the reference."""
    return selection.build(request.param, vgg16, folder, size=SMALL)


@pytest.fixture(scope="module")
def reference(keras: Engine) -> Callable[[int], Taps]:
    """Return a function that computes the taps of some noise by Keras, once for each amount."""
    return cache(lambda n: keras.forward(noise(n)))


@pytest.fixture(scope="module")
def reference_of_size(vgg16: Weights) -> Callable[[int], Taps]:
    """Return a function that does so for two photos of a size, once for all engines."""
    return cache(lambda size: keras_engine.build(vgg16, size=size).forward(noise(2, size=size)))


@pytest.fixture(scope="module")
def taps_and_maps(vgg16: Weights) -> Taps:
    """Return all that Keras gives for two photos."""
    return keras_engine.build(vgg16, outputs=(*TAPS, *MAPS), size=SMALL).forward(noise(2))


def noise(n: int, *, size: int = SMALL) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def record(folder: Path, checks: dict[str, Check]) -> None:
    """Let it seem that engines were checked on this machine."""
    recorded = {selection._key(name, ""): check._asdict() for name, check in checks.items()}
    (folder / "engines.json").write_text(json.dumps(recorded))


def resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


@pytest.fixture
def only_mnn(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "PACKAGES", {"mnn": PACKAGES["mnn"]})


@pytest.fixture
def reference_here(keras: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the reference in this process, which has imported TensorFlow already."""
    monkeypatch.setattr(
        selection, "_run_reference", lambda weights, photos, outputs: keras.forward(photos)
    )


@pytest.mark.parametrize("n", [1, 2, 7, BATCH_SIZE])
def test_every_engine_gives_the_taps_of_keras_in_every_batch_size(
    n: int, reference: Callable[[int], Taps], fast: Engine
) -> None:
    found, expected = fast.forward(noise(n)), reference(n)
    assert relative_difference(found, expected) < TOLERANCE
    for tap, width in TAPS.items():
        assert found[tap].shape == (n, width)
        assert found[tap].dtype == np.float32
        # Photo by photo, so that exchanged rows are noticed.
        for row in range(n):
            norm = np.linalg.norm(expected[tap][row])
            assert np.linalg.norm(found[tap][row] - expected[tap][row]) < TOLERANCE * norm


@pytest.mark.parametrize("value", [0, 255])
def test_every_engine_agrees_on_black_and_white(value: int, keras: Engine, fast: Engine) -> None:
    photos = np.full((2, SMALL, SMALL, 3), value, np.uint8)
    assert relative_difference(fast.forward(photos), keras.forward(photos)) < TOLERANCE


@pytest.mark.parametrize("size", [224, 320])
@pytest.mark.parametrize("name", PACKAGES)
def test_every_engine_agrees_at_another_size(
    name: str,
    size: int,
    reference_of_size: Callable[[int], Taps],
    vgg16: Weights,
    tmp_path: Path,
) -> None:
    photos = noise(2, size=size)
    found = selection.build(name, vgg16, tmp_path, size=size).forward(photos)
    assert relative_difference(found, reference_of_size(size)) < TOLERANCE
    assert {tap: values.shape for tap, values in found.items()} == {
        tap: (2, width) for tap, width in TAPS.items()
    }


@pytest.mark.parametrize("layer", MAPS)
@pytest.mark.parametrize("name", PACKAGES)
def test_every_engine_gives_a_map_alone_and_with_the_taps(
    name: str, layer: str, taps_and_maps: Taps, vgg16: Weights, folder: Path
) -> None:
    both, expected = (*TAPS, layer), taps_and_maps
    for outputs in ((layer,), both):
        engine = selection.build(name, vgg16, folder, outputs=outputs, size=SMALL)
        found = engine.forward(noise(2))
        assert {key: values.shape for key, values in found.items()} == {
            key: expected[key].shape for key in outputs
        }
        assert relative_difference(found, {key: expected[key] for key in outputs}) < TOLERANCE


def test_no_result_of_an_earlier_batch_changes(fast: Engine) -> None:
    first = fast.forward(noise(3))
    copy = {tap: values.copy() for tap, values in first.items()}
    fast.forward(noise(5))
    for tap in TAPS:
        np.testing.assert_array_equal(first[tap], copy[tap])


@pytest.mark.parametrize("name", ["keras", *PACKAGES])
def test_memory_does_not_grow_with_the_batches(name: str, vgg16: Weights, folder: Path) -> None:
    build = {"keras": partial(keras_engine.build, vgg16)}
    engine = build.get(name, partial(selection.build, name, vgg16, folder))(size=SMALL)
    photos = noise(1)
    for _ in range(5):
        engine.forward(photos)
    before = resident()
    for _ in range(30):
        engine.forward(photos)
    # The largest activation of one photo takes 2.4 MB, the smallest a thirtieth.
    assert resident() - before < SMALL * SMALL * 64 * 4


def test_colour_channels_are_not_exchanged(fast: Engine) -> None:
    photos = noise(2)
    red, blue = fast.forward(photos), fast.forward(photos[..., ::-1])
    assert relative_difference(red, blue) > TOLERANCE


def test_auto_checks_every_engine_once_and_takes_the_fastest(
    vgg16: Weights,
    folder: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "engines.json").unlink(missing_ok=True)
    # This process has imported Keras, so it would not start another one.
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "keras")
        engine = choose("auto", vgg16, noise(9), folder=folder)
    checks = {
        name.split()[0]: Check(**check)
        for name, check in json.loads((folder / "engines.json").read_text()).items()
    }
    assert set(checks) == {"MNN", "ncnn"}
    assert all(0 < check.difference < TOLERANCE for check in checks.values())
    fastest = max(checks, key=lambda name: checks[name].speed)
    assert engine.name.startswith(f"{fastest} ")
    assert engine.name.endswith(f"within {checks[fastest].difference:.0e} of keras")
    told = capsys.readouterr().out
    assert engine.name in told
    for name, check in checks.items():
        assert f"{name} {check.speed:.1f}" in told

    def compared_again(*arguments: object) -> Taps:
        raise AssertionError("compared again")

    monkeypatch.setattr(selection, "_run_reference", compared_again)
    assert choose("auto", vgg16, noise(9), folder=folder).name == engine.name
    monkeypatch.setattr(machine, "processor", lambda: "another machine")
    with pytest.raises(AssertionError, match="compared again"):
        choose("auto", vgg16, noise(9), folder=folder)


def test_the_faster_of_two_is_taken_even_if_it_is_listed_second(
    vgg16: Weights, folder: Path, no_gpu: None
) -> None:
    record(folder, {"mnn": Check(1e-5, 10.0), "ncnn": Check(1e-6, 20.0)})
    assert choose("auto", vgg16, noise(1), folder=folder).name.startswith("ncnn ")
    record(folder, {"mnn": Check(1e-5, 30.0), "ncnn": Check(1e-6, 20.0)})
    assert choose("auto", vgg16, noise(1), folder=folder).name.startswith("MNN ")


def test_the_next_engine_is_used_if_the_fastest_cannot_be_built(
    vgg16: Weights,
    folder: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*arguments: object, **options: object) -> Engine:
        raise Unusable("MNN cannot be used: no such library")

    record(folder, {"mnn": Check(1e-5, 20.0), "ncnn": Check(1e-6, 10.0)})
    monkeypatch.setattr(mnn_engine, "build", broken)
    assert choose("auto", vgg16, noise(1), folder=folder).name.startswith("ncnn ")
    assert "not used: MNN cannot be used: no such library" in capsys.readouterr().out


def test_an_engine_that_differs_is_refused_with_its_figure(
    vgg16: Weights,
    keras: Engine,
    tmp_path: Path,
    only_mnn: None,
    reference_here: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wrong(photos: np.ndarray) -> Taps:
        return {tap: values * np.float32(1.01) for tap, values in keras.forward(photos).items()}

    monkeypatch.setattr(mnn_engine, "build", lambda *_, **options: Engine("MNN x", wrong))
    engine = choose("auto", vgg16, noise(2), folder=tmp_path)
    assert engine.name.startswith("keras")
    assert "differs from keras by 0.01" in capsys.readouterr().out


@pytest.mark.parametrize("tap", list(TAPS))
def test_a_nan_in_any_tap_makes_the_difference_nan(tap: str) -> None:
    reference = {name: np.ones((2, width), np.float32) for name, width in TAPS.items()}
    wrong = reference | {tap: np.full_like(reference[tap], np.nan)}
    assert relative_difference(reference, reference) == 0
    assert np.isnan(relative_difference(wrong, reference))


def test_pairs_are_compared_even_if_the_other_taps_were(
    vgg16: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {tap: np.ones((4, width), np.float32) for tap, width in ALL_TAPS.items()}
    wrong = expected | {pair: 2 * expected[pair] for pair in PAIRS}
    monkeypatch.setattr(selection, "build", lambda *_, **__: Engine("ncnn x", lambda photos: wrong))
    monkeypatch.setattr(selection, "_run_reference", lambda *_: expected)
    record = {selection._key("ncnn", ""): Check(1e-6, 9.0)._asdict()}
    (tmp_path / selection.RECORD).write_text(json.dumps(record))
    trial = selection.Trial(vgg16, noise(4), tmp_path, tuple(ALL_TAPS))
    trial.check(["ncnn"])
    assert trial.reasons["ncnn"].endswith("differs from keras by 1")


def test_an_engine_that_gives_nan_is_refused(
    vgg16: Weights,
    keras: Engine,
    tmp_path: Path,
    only_mnn: None,
    reference_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(photos: np.ndarray) -> Taps:
        return {tap: values * np.float32(np.nan) for tap, values in keras.forward(photos).items()}

    monkeypatch.setattr(mnn_engine, "build", lambda *_, **options: Engine("MNN x", wrong))
    assert choose("mnn", vgg16, noise(2), folder=tmp_path).name.startswith("keras")


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        ("import sys; sys.exit(3)", "converter failed with exit code 3"),
        ("pass", "converter failed with exit code 0"),
        (
            "import sys; open(sys.argv[sys.argv.index('--MNNModel') + 1], 'w').write('no')",
            "MNN cannot be used",
        ),
    ],
)
def test_a_converter_that_fails_falls_back_with_the_reason(
    convert: str,
    reason: str,
    vgg16: Weights,
    tmp_path: Path,
    only_mnn: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mnn_engine, "CONVERT", convert)
    assert choose("auto", vgg16, noise(1), folder=tmp_path).name.startswith("keras")
    assert reason in capsys.readouterr().out
    assert not list(tmp_path.glob("*.mnn"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda m: m.setattr(selection, "find_spec", lambda name: name not in PACKAGES.values()),
            "neither MNN nor ncnn",
        ),
        (
            lambda m: m.setattr(machine, "has_gpu", lambda: True),
            "there is a GPU, and this backend does not use it",
        ),
    ],
)
def test_auto_falls_back_to_keras_and_says_why(
    change: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    vgg16: Weights,
    tmp_path: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(monkeypatch)
    assert choose("auto", vgg16, noise(1), folder=tmp_path).name.startswith("keras")
    assert reason in capsys.readouterr().out


def test_a_gpu_is_measured_once_and_the_engine_says_what_was_chosen(
    vgg16: Weights,
    reference: Callable[[int], Taps],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting = Setting("tensorfloat32", 32, 7000.0, 4e-4)
    measured = iter([(setting, ["bfloat16 differs from float32 by 0.005"])])
    monkeypatch.setattr(keras_engine, "tune", lambda weights, photos, outputs: next(measured))
    monkeypatch.setattr(keras_backend, "gpus", lambda: ["gpu:0"])
    monkeypatch.setattr(machine, "gpu", lambda: "NVIDIA X")
    # A few photos are computed before anything could be measured.
    engine = choose("auto", vgg16, noise(2), folder=tmp_path, expected=500)
    assert engine.name.endswith(", float32, batches of 64")
    assert "too few photos to measure what is fastest" in capsys.readouterr().out
    for many in (WORTH_TUNING, 0):
        engine = choose("auto", vgg16, noise(2), folder=tmp_path, expected=many)
        assert engine.name.endswith(", tensorfloat32 within 4e-04 of float32, batches of 32")
        assert (engine.batch_size, engine.in_flight) == (32, 2)
    told = capsys.readouterr().out
    assert told.count("not used: bfloat16 differs from float32 by 0.005") == 1
    assert told.count(f"engine: {engine.name} (there is a GPU; 7,000 photos/s)") == 2
    # Another GPU is measured anew.
    monkeypatch.setattr(machine, "gpu", lambda: "NVIDIA Y")
    with pytest.raises(StopIteration):
        choose("auto", vgg16, noise(2), folder=tmp_path, expected=WORTH_TUNING)
    # On a processor the format is float32 all the same. Two threads get their own photos' taps.
    with ThreadPoolExecutor(engine.in_flight) as pool:
        for n, taps in zip((1, 2, 3), pool.map(engine.forward, map(noise, (1, 2, 3))), strict=True):
            assert relative_difference(taps, reference(n)) < 1e-5


def test_a_gpu_without_memory_is_an_input_error(
    vgg16: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(builders: object, photos: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(tuning, "choose", full)
    with pytest.raises(InputError, match="not enough memory on the GPU for VGG16; close other"):
        keras_engine.tune(vgg16, noise(2, size=64))


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_requested_engine_that_is_not_installed_is_an_input_error(
    name: str, package: str, vgg16: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"--engine {name}: {package} is not installed"):
        choose(name, vgg16, noise(1), folder=tmp_path)


BUILDS = """
import sys
from pathlib import Path
from extract.engines import selection
from extract.vgg16 import weights
selection.build("mnn", weights.load(Path(sys.argv[1]), cache=Path(sys.argv[2])), Path(sys.argv[2]))
"""


def test_mnn_prints_nothing_not_even_when_the_process_ends(
    vgg16_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("MNN")
    command = [sys.executable, "-c", BUILDS, str(vgg16_weights), str(tmp_path)]
    # With this variable the C library would not buffer its output either.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
