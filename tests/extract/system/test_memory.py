import subprocess
import sys
import threading
import time

import pytest

from extract.system import memory
from extract.system.memory import Budget, OutOfMemory
from tests.conftest import CHECKOUT


def holding(budget: Budget, n: int) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """Start a thread that takes n bytes; return it, when it has them, and what makes it go on."""
    has, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with budget.taken(n):
            has.set()
            go_on.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread, has, go_on


def test_who_needs_more_than_is_free_waits_and_is_not_overtaken() -> None:
    budget = Budget(100)
    first, first_has, first_ends = holding(budget, 60)
    assert first_has.wait(5)
    small, small_has, small_ends = holding(budget, 40)
    assert small_has.wait(5), "both fit"
    large, large_has, large_ends = holding(budget, 1000)
    while not budget.waiting:
        time.sleep(0.001)
    late, late_has, late_ends = holding(budget, 1)
    small_ends.set()
    assert not large_has.wait(0.05)
    assert not late_has.wait(0.05), "otherwise small photos would keep a large one waiting"
    first_ends.set()
    assert large_has.wait(5), "more than all is all"
    large_ends.set()
    assert late_has.wait(5)
    late_ends.set()
    for thread in (first, small, large, late):
        thread.join(5)
    assert budget.free == 100
    assert not budget.waiting


def test_an_error_gives_back_what_was_taken() -> None:
    budget = Budget(10)
    with pytest.raises(KeyError), budget.taken(10):
        raise KeyError
    assert budget.free == 10


def test_an_error_for_want_of_memory_is_told_apart_from_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OSError, match="broken data stream"), memory.reserved(1):
        raise OSError("broken data stream")
    monkeypatch.setattr(memory, "is_there", lambda n: False)
    for error in (OSError("broken data stream"), MemoryError()):
        with (
            pytest.raises(OutOfMemory, match="not enough memory; decoding it takes up to 7 MB"),
            memory.reserved(7_000_000),
        ):
            raise error


PROGRAM = """
import io, resource, sys
from PIL import Image
from extract.photos import decode
from extract.system.memory import OutOfMemory
decode.formats()
file = io.BytesIO()
Image.new("RGB", (6000, 6000)).save(file, sys.argv[1], compress_level=1)
data = file.getvalue()
broken = data[: len(data) // 2]
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, 2 * [pages * resource.getpagesize() + int(sys.argv[2])])
for content in (data, broken):
    try:
        print(decode.decode_photo(content, size=8).shape)
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of memory")
@pytest.mark.parametrize(
    ("kind", "room", "expected"),
    [
        ("PNG", 50_000_000, ["OutOfMemory", "OutOfMemory"]),
        ("JPEG2000", 50_000_000, ["OutOfMemory", "OutOfMemory"]),
        ("PNG", 900_000_000, ["(8, 8, 3)", "Unreadable"]),
    ],
)
def test_what_is_said_of_a_photo_does_not_depend_on_free_memory(
    kind: str, room: int, expected: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(room)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == expected
