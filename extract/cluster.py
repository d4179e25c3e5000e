"""A cluster of machines that share the work, by Ray."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from extract.console import InputError

PACKAGES = ("extract", "classify")
"""Of ours, that are sent to the other machines."""


def add_on(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command the option that names a cluster."""
    parser.add_argument(
        "--on",
        metavar="CLUSTER",
        help=f"{what}: ray (the cluster of RAY_ADDRESS, or this machine) or ray://HOST:PORT",
    )


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Give the block Ray, connected to a cluster or started on this machine.

    Parameters
    ----------
    on : str
        ``ray`` is the cluster that RAY_ADDRESS names or else this machine, ``ray://HOST:PORT`` the
        cluster behind that address.

    Raises
    ------
    InputError
        If Ray is not installed or the cluster does not answer.
    """
    if on != "ray" and not on.startswith("ray://"):
        raise InputError(f"--on {on}: neither ray nor ray://HOST:PORT")
    if find_spec("ray") is None:
        raise InputError(f"--on {on}: Ray is not installed; pip install 'ray[client]'")
    import ray

    packages = [str(Path(__file__).parent.parent / name) for name in PACKAGES]
    try:
        ray.init(
            None if on == "ray" else on,
            runtime_env={"py_modules": packages},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise InputError(f"--on {on}: no Ray there ({error})") from error
    try:
        yield ray
    finally:
        ray.shutdown()
