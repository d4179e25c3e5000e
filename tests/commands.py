"""The commands in the process of the tests: starting one that imports TensorFlow takes seconds."""

import io
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest

from extract.system import console


def run(main: Callable[[], None], *arguments: object) -> CompletedProcess[str]:
    """Run a command line as ``python -m`` does, and put back everything that this changes."""
    out, err = io.StringIO(), io.StringIO()
    words = [*map(str, arguments)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    level = logging.getLogger().level
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["onepass", *words])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setenv("PYTHONWARNINGS", "")
        try:
            with redirect_stdout(out), redirect_stderr(err):
                console.run(main)
        except SystemExit as end:
            return CompletedProcess(words, int(end.code or 0), out.getvalue(), err.getvalue())
        finally:
            logging.getLogger().setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)
