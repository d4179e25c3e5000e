"""Tell a file that cannot be read at this moment from one whose content is wrong.

Only content that was read and found wrong is damage. A missing permission, a lock, a limit, a disk
that fails or a lack of memory says nothing about the content.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from extract.system.console import InputError

# A path that leads to no file, and offsets that no file has, do not pass with time.
LASTING = {
    errno.ENOENT,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENXIO,
    errno.EINVAL,
    errno.EOVERFLOW,
}
ADVICE = {
    errno.EACCES: "grant the permission to read it",
    errno.EPERM: "grant the permission to read it",
    errno.EAGAIN: "another program has opened it to write; close that program",
    errno.EMFILE: "raise the limit on open files with ulimit -n",
    errno.ENFILE: "close other programs, which have too many files open",
    errno.ENOMEM: "free some memory",
}
# HDF5 tells what the system answered in the text of exceptions of many types.
ANSWER_OF_THE_SYSTEM = re.compile(r"\berrno = (\d+)")
NO_MEMORY = "memory allocation failed"


class Unavailable(InputError):
    """A file cannot be read at this moment. Nothing is known about its content."""


@contextmanager
def expected(path: object) -> Iterator[None]:
    """Raise `Unavailable` if the block, which reads `path`, fails for a reason of the moment.

    Every other exception passes, and then the content is wrong or missing.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        raise unavailable(path, number) from error


def unavailable(path: object, number: int) -> Unavailable:
    """Return the error that tells the user about the system's error of this number."""
    open_elsewhere = sys.platform == "win32" and number == errno.EACCES
    advice = "close the program that has it open, or " * open_elsewhere + ADVICE.get(
        number, "check the disk or the network, or move the file away if it alone cannot be read"
    )
    problem = f"it cannot be read now ({os.strerror(number)})"
    return Unavailable(f"{path}: {problem}; {advice}, then run the same command again")


def is_of_the_moment(error: Exception) -> bool:
    """Say whether an exception tells nothing about the content of the file that was read."""
    return isinstance(error, Unavailable) or _number(error) is not None


def _number(error: Exception) -> int | None:
    """Return the number of the system's error that was behind an exception, if it may pass."""
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return errno.ENOMEM
    number = error.errno if isinstance(error, OSError) else None
    answer = ANSWER_OF_THE_SYSTEM.search(str(error))
    if number is None and answer:
        number = int(answer.group(1))
    return None if number in LASTING else number
