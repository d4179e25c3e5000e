"""Every reader of this project refuses HDF5 files whose content lies in other files."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from classify import results
from extract.store import features_file, hdf5, shard_index, shards
from extract.system.console import InputError
from tests import synthetic

SECRET = np.arange(12, dtype=np.float32).reshape(4, 3)
Elsewhere = Callable[[h5py.File, str, Path], None]


def external_link(file: h5py.File, name: str, folder: Path) -> None:
    file[name] = h5py.ExternalLink(str(folder / "secret.h5"), "secret")


def soft_link_to_one(file: h5py.File, name: str, folder: Path) -> None:
    file["hidden"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")
    file[name] = h5py.SoftLink("/hidden/secret")


def external_storage(file: h5py.File, name: str, folder: Path) -> None:
    secret = [(str(folder / "secret.bin"), 0, SECRET.nbytes)]
    file.create_dataset(name, SECRET.shape, "f4", external=secret)


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout(SECRET.shape, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret", SECRET.shape)
    file.create_virtual_dataset(name, layout)


@pytest.fixture(params=[external_link, soft_link_to_one, external_storage, virtual])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Elsewhere:
    """What makes a dataset of a file lie in another, without a word to those who read it."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = SECRET
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    how: Elsewhere = request.param
    with h5py.File(tmp_path / "proof.h5", "w") as file:
        how(file, "data", tmp_path)
    with h5py.File(tmp_path / "proof.h5") as file:
        np.testing.assert_array_equal(file["data"][:], SECRET)
    return how


def replace(path: Path, name: str, how: Elsewhere, folder: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        how(file, name, folder)


def test_a_self_contained_file_is_opened(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["group/data"] = SECRET
        # A second name for the same group, which leads round in a circle.
        file["group/again"] = file["group"]
    with hdf5.open_whole(tmp_path / "whole.h5") as file:
        np.testing.assert_array_equal(file["group/data"][:], SECRET)


def test_content_of_another_file_is_refused(elsewhere: Elsewhere, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies in another file"):
        hdf5.open_whole(tmp_path / "proof.h5")


def test_a_features_file_that_leads_elsewhere_is_refused_in_a_line(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    path = synthetic.publish(tmp_path)
    replace(path, "taps/block4_avg", elsewhere, tmp_path)
    with pytest.raises(InputError, match=r"synthetic\.h5: not a features file .* another file"):
        features_file.open(path)


def test_a_shard_that_leads_elsewhere_is_damaged(elsewhere: Elsewhere, tmp_path: Path) -> None:
    path = synthetic.shard(tmp_path / "shards", ["a", "b"])
    replace(path, "taps/block3_max", elsewhere, tmp_path)
    for read in (
        shards.read,
        shards.digests_of,
        lambda path: shards.rows(path, [0], ["block5_avg"]),
    ):
        with pytest.raises(shards.Damaged, match="another file"):
            read(path)
    damaged: list[shards.Damaged] = []
    assert shard_index.read(path.parent, synthetic.RECIPE, on_damage=damaged.append) == {}
    assert [item.shard for item in damaged] == [path]


def test_predictions_that_lead_elsewhere_are_refused(elsewhere: Elsewhere, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "predictions.h5", "w") as file:
        file["path"] = np.array(["a.png"] * 4, dtype=h5py.string_dtype())
        file["label"] = np.zeros(4, np.int64)
        elsewhere(file, "probability", tmp_path)
    with pytest.raises(InputError, match=r"predictions\.h5: not a file of predictions .*another"):
        results.load_predictions(tmp_path)


def test_a_head_is_read_without_the_rest(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "whole.h5", "w", libver=("v110", "v110")) as file:
        file.attrs["name"] = "whole"
        file["first"] = np.arange(10)
        file["second"] = np.arange(100_000)
    content = (tmp_path / "whole.h5").read_bytes()
    with hdf5.open_prefix(content[:65536], len(content), "first") as file:
        assert file.attrs["name"] == "whole"
        assert file["first"][:].tolist() == list(range(10))


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_a_head_that_leads_elsewhere_is_refused(kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["digest"] = np.arange(10)
    with h5py.File(tmp_path / "proof.h5", "w") as file:
        if kind == "link":
            file["digest"] = h5py.ExternalLink(str(secret), "digest")
        elif kind == "external":
            file.create_dataset("digest", (10,), "u1", external=[(str(secret), 0, 10)])
        else:
            layout = h5py.VirtualLayout((10,), "i8")
            layout[:] = h5py.VirtualSource(str(secret), "digest", (10,))
            file.create_virtual_dataset("digest", layout)
    content = (tmp_path / "proof.h5").read_bytes()
    with pytest.raises(ValueError, match="digest lies in another file"):
        hdf5.open_prefix(content, len(content), "digest")
