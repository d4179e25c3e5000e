"""Connecting to a cluster; tests/test_ray_coordinator.py tests the work on it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from extract.compute import ray_cluster
from extract.compute.ray_cluster import connected
from extract.system.console import InputError
from tests.conftest import CHECKOUT


@pytest.mark.parametrize("on", ["dask", "ray://", "ray://host", "ray:/host:1", "rays", "ray://h:x"])
def test_an_address_of_no_cluster_is_refused(on: str) -> None:
    with (
        pytest.raises(InputError, match=f"--on {on}: neither ray nor ray://HOST:PORT"),
        connected(on),
    ):
        pass


def test_a_cluster_that_does_not_answer_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    for address in (f"127.0.0.1:{port}", "127.0.0.1:70000", "no.such.host.invalid:10001"):
        with (
            pytest.raises(InputError, match=f"ray://{address}: nobody answers"),
            connected(f"ray://{address}"),
        ):
            pass
    assert time.monotonic() - started < 5
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0", "Ray would report what it runs"


def test_without_ray_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with (
        pytest.raises(InputError, match="--on ray: Ray is not installed; pip install"),
        connected("ray"),
    ):
        pass


def test_a_cluster_is_sent_the_code_and_ray_on_this_machine_alone_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    given: list[tuple[str | None, dict[str, Any]]] = []
    monkeypatch.setattr(ray, "init", lambda address, **options: given.append((address, options)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(CHECKOUT)
    with connected("ray"):
        pass
    monkeypatch.chdir(tmp_path)
    with connected("ray"):
        pass
    monkeypatch.chdir(CHECKOUT)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").touch()
    with connected("ray"):
        pass
    assert [address for address, _ in given] == ["local", "local", None]
    assert ["runtime_env" in options for _, options in given] == [False, True, True]
    assert ["include_dashboard" in options for _, options in given] == [True, True, False]
