"""The connection to a Ray cluster, for ``--on ray`` and ``--on ray://HOST:PORT``."""

import logging
import os
import re
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from extract.system.console import InputError

PACKAGES = ("extract", "classify")
"""Packages of this project; Ray sends them to the other machines."""

CONNECT_SECONDS = 5.0


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Connect this process to a cluster for the duration of the block.

    Parameters
    ----------
    on : str
        ``ray`` is the cluster that RAY_ADDRESS names. Without that variable it is the cluster that
        this machine belongs to. If there is no such cluster, Ray starts on this machine alone.
        ``ray://HOST:PORT`` is the cluster at that address.

    Yields
    ------
    ray : module
        The package ``ray``, ready for use.

    Raises
    ------
    InputError
        If `on` has another form, Ray is not installed, or the cluster does not answer.
    """
    address = re.fullmatch(r"ray(?:://(.+):(\d+))?", on)
    if not address:
        raise InputError(f"--on {on}: neither ray nor ray://HOST:PORT")
    if find_spec("ray") is None:
        raise InputError(f"--on {on}: Ray is not installed; pip install 'ray[client]'")
    # Ray prints pages about each lost machine, whatever log level it is given. The coordinator
    # says in one line what matters.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    warnings.filterwarnings("ignore", module="ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if address[1]:
        _check_port(on, address[1], int(address[2]))
    cluster = None if on == "ray" else on
    options: dict[str, Any] = {"runtime_env": {"py_modules": [str(files(n)) for n in PACKAGES]}}
    if on == "ray" and _starts_here():
        cluster, options["include_dashboard"] = "local", False
        if {Path(str(files(name))).parent for name in PACKAGES} == {Path.cwd()}:
            # Ray's processes import from here anyway, and those that wait can be used at once.
            del options["runtime_env"]
    try:
        ray.init(cluster, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"--on {on}: no Ray cluster answers ({error}); start one with ray start; if it asks "
            "for a token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _starts_here() -> bool:
    """Say whether Ray will start on this machine alone, by the rules in the docs of `ray.init`."""
    address = os.environ.get("RAY_ADDRESS")
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return address == "local" or not (address or Path(folder, "ray/ray_current_cluster").exists())


def _check_port(on: str, host: str, port: int) -> None:
    """Refuse an address that nothing listens on; Ray itself would wait for half a minute."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--on {on}: nobody answers ({error}); start it with ray start") from error
