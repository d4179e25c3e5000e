"""Many shards are read in any order with few of them open; errors of the moment move none."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from extract.store import maintenance, open_shards, shard_index, shards
from extract.store.open_shards import OpenShards
from extract.system.availability import Unavailable
from tests.synthetic import RECIPE, digests, shard, taps


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Let this process open only a few more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A limit counts numbers, of which some above the lowest free one may be taken.
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(more + 1)]
    for number in free:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_rows_of_more_shards_than_may_be_open(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(12)]
    paths = [shard(tmp_path / "shards", [name]) for name in names]
    expected = taps(digests(*names))["block5_avg"]
    reader = OpenShards(3)
    with few_files(4):
        for row in [*range(12), *range(11, -1, -2)]:
            np.testing.assert_array_equal(reader.read(paths[row], "block5_avg", 0), expected[row])
    assert len(reader.files) == 3


def test_a_quarter_of_the_files_may_be_shards() -> None:
    with few_files(60):
        assert open_shards.limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def test_without_a_free_descriptor_no_shard_is_set_aside(tmp_path: Path) -> None:
    cache = tmp_path / "features" / "cache"
    folder = cache / "recipe"
    cache.mkdir(parents=True)
    path = shard(folder, ["a", "b"])
    with few_files(0), pytest.raises(Unavailable, match=r"Too many open files\); raise the limit"):
        shard_index.read(folder, RECIPE)
    assert os.listdir(folder) == [path.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_shard_that_another_user_may_not_read_stays(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("shared") / "recipe"
    path = shard(folder, ["a", "b"])
    for place in (folder, *folder.parents[:3]):
        place.chmod(0o777)
    path.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(Unavailable, match=r"Permission denied\); grant the permission"):
            shard_index.read(folder, RECIPE)
    finally:
        os.seteuid(0)
    assert os.listdir(folder) == [path.name]


def test_gc_and_verify_need_few_descriptors(tmp_path: Path) -> None:
    cache = tmp_path / "features" / "cache"
    cache.mkdir(parents=True)
    for i in range(30):
        shard(cache / "recipe", [i])
    with few_files(8):
        maintenance.verify(tmp_path)
        maintenance.collect(tmp_path)
    assert shards.files(cache / "recipe") == []
