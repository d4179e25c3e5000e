"""A cluster of machines that share the work, by Ray."""

import argparse
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from extract.system.console import InputError

PACKAGES = ("extract", "classify")
"""Of ours, that are sent to the other machines."""

CONNECT_SECONDS = 5.0


def add_on(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command the option that names a cluster."""
    parser.add_argument(
        "--on",
        metavar="CLUSTER",
        help=f"{what}: ray, the cluster this machine is in, or ray://HOST:PORT",
    )


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Give the block Ray, connected to a cluster or started on this machine.

    Parameters
    ----------
    on : str
        ``ray`` is the cluster that RAY_ADDRESS names, or the one this machine is in, or else this
        machine alone; ``ray://HOST:PORT`` is the cluster behind that address.

    Raises
    ------
    InputError
        If Ray is not installed or the cluster does not answer.
    """
    address = re.fullmatch(r"ray(?:://(.+):(\d+))?", on)
    if not address:
        raise InputError(f"--on {on}: neither ray nor ray://HOST:PORT")
    if find_spec("ray") is None:
        raise InputError(f"--on {on}: Ray is not installed; pip install 'ray[client]'")
    # Of a lost machine Ray prints pages, whatever is asked of its logs; what matters, we say.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    warnings.filterwarnings("ignore", module="ray")
    import ray

    if address[1]:
        _knock(on, address[1], int(address[2]))
    packages = [str(Path(__file__).parent.parent / name) for name in PACKAGES]
    try:
        ray.init(
            None if on == "ray" else on,
            runtime_env={"py_modules": packages},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError) as error:
        advice = "ray start begins one; where it asks for a token, RAY_AUTH_MODE=token sends it"
        raise InputError(f"--on {on}: no Ray there ({error}); {advice}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(on: str, host: str, port: int) -> None:
    """Make sure that somebody listens there: Ray itself waits half a minute."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--on {on}: nobody answers ({error}); start it with ray start") from error
