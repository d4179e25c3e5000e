"""Provenance: the time when a file was made, and the versions of the libraries."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("h5py", "keras", "mnn", "numpy", "pillow", "scikit-learn", "skops", "tensorflow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries behind a result; import none of them."""
    result = {"python": platform.python_version()}
    for package in PACKAGES:
        # TensorFlow without GPU support has another name.
        for name in (package, f"{package}-cpu"):
            try:
                result[package] = version(name)
                break
            except PackageNotFoundError:
                continue
    return result


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
