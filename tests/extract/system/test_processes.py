"""Helping processes: they do not outlive the one that they help, nor keep its output open."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import CHECKOUT

AT_WORK = """
import os, time
from joblib import delayed
from extract.system import console
from extract.system.processes import parallel

def work():
    os.write(1, b"at work\\n")  # print would write the end of the line by itself
    time.sleep(60)

console.run(lambda: parallel(2)(delayed(work)() for _ in range(2)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_output_of_a_killed_program_ends(number: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", AT_WORK],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert program.stdout
    lines = [program.stdout.readline() for _ in range(2)]
    assert lines == ["at work\n"] * 2
    if number == signal.SIGINT:
        # A terminal sends it to all processes.
        os.killpg(program.pid, number)
    else:
        program.send_signal(number)
    started = time.monotonic()
    # The pipe ends when the last process that could write to it has ended.
    rest = program.stdout.read()
    assert time.monotonic() - started < 30
    assert "Traceback" not in rest
    assert program.wait() == (-9 if number == signal.SIGKILL else 128 + number)
