"""Fixtures that the tests share: generated photos, VGG16 with random weights, a local web site."""

import gc
import os
import re
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.vgg16 import weights
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.weights import Weights

if TYPE_CHECKING:
    from tests.object_store import ObjectStore

CHECKOUT = Path(__file__).resolve().parent.parent

NOBODY = 65534
"""The number of the user who owns nothing."""

HOSTILE = [
    "<script>alert(1)</script>",
    'a "quoted" | piped',
    "line\nbreak",
    "Köpfe $x$",
    "</svg>&amp;{{ 1 }}",
    "=1+1;-2",
    "[red]x[/] :smile:",
    "\x1b[2J\x9b31m\x07",
    "\u202egnp.\u200bexe",
    "- `日本😀`",
    "a\\n\t'b",
]
"""Names of classes, files, models or data sets that some output could take for more than text."""

NEEDS_UNIX = re.compile(
    r"\b(fcntl|resource|fork|killpg|mkfifo|symlink(_to)?|chmod|geteuid|unprivileged|stand_in"
    r"|failing_writes|start_new_session|SIG(KILL|STOP|PIPE)|send_signal)\b|/dev/"
    r"|\"(make|sh|bash)\""
)
"""What is in a file of tests that Windows cannot run."""

NEEDS_LINUX = "/proc/"

not_on_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="it needs names that Windows lacks"
)

Arrays = list[NDArray[np.float32]]
MakePhotos = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Give Keras an empty home before anything imports it, so that no test depends on a user's."""
    home = tempfile.TemporaryDirectory(prefix="keras-home-")
    config.add_cleanup(home.cleanup)
    os.environ["KERAS_HOME"] = home.name


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what the system cannot run."""
    if sys.platform == "linux" or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text("utf-8")
    unix = sys.platform == "win32" and NEEDS_UNIX.search(text)
    return True if unix or NEEDS_LINUX in text else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, or one process would be left with one when the other is done."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection, which then is quick and comes often.

    Else networks of Keras, which are few objects in cycles, and large, would pile up.
    """
    gc.freeze()
    gc.collect()


@pytest.fixture
def keras_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a Keras home of its own, to put files in."""
    home = tmp_path_factory.mktemp("keras-home")
    monkeypatch.setenv("KERAS_HOME", str(home))
    return home


def picture(seed: int, *, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return a picture of its own: coloured noise over a colour, RGB, `size` wide and high."""
    random = np.random.default_rng(seed)
    width, height = size
    noise = random.integers(-60, 60, (height, width, 3)) + random.integers(60, 196, 3)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims a size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def write_photos(root: Path, classes: Mapping[str, int], *, seed: int = 0) -> Path:
    """Write `classes[name]` photos into the folder of each class, no two of them alike.

    A name may be a path, ``train/cats`` for one.
    """
    for position, (name, n) in enumerate(classes.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(seed * 10_000_000 + position * 10_000 + i).save(folder / f"{i:03d}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> MakePhotos:
    """Return a function that writes a folder of class folders, 6 photos in each of 2 by default."""

    def make(
        classes: Mapping[str, int] | None = None, *, name: str = "pets", seed: int = 0
    ) -> Path:
        return write_photos(tmp_path / name, classes or {"cats": 6, "dogs": 6}, seed=seed)

    return make


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """Return a folder and run the test as a user whom permissions bind, as they do not bind root.

    Afterwards everything below the folder may be removed again.
    """
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            for folder, names, _ in os.walk(name):
                for inside in (folder, *(os.path.join(folder, one) for one in names)):
                    os.chmod(inside, 0o700)
            if os.getuid() == 0:
                os.seteuid(0)


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Return a cluster of Ray with two machines of one processor, both of them this one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Otherwise they would wait for other programs on this machine.
        patch.setenv("RAY_worker_niceness", "0")
        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1)
        yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def vgg16_arrays() -> Arrays:
    """VGG16's 26 arrays with random values, small enough that activations stay moderate."""
    random = np.random.default_rng(16)
    arrays: Arrays = []
    for _, inputs, filters in CONVOLUTIONS.values():
        kernel = random.standard_normal((3, 3, inputs, filters), np.float32)
        arrays.append(kernel * np.float32((2 / (9 * inputs)) ** 0.5))
        arrays.append(random.standard_normal(filters, np.float32) / 10)
    return arrays


@pytest.fixture(scope="session")
def vgg16(vgg16_arrays: Arrays) -> Weights:
    """VGG16 with these random values."""
    return Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")


@pytest.fixture(scope="session")
def vgg16_weights(vgg16_arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file for ``--weights``: random arrays in Keras's published layout."""
    path = tmp_path_factory.mktemp("weights") / "random_vgg16.h5"
    write_keras_file(path, vgg16_arrays)
    return path


def write_keras_file(
    path: Path,
    arrays: Arrays,
    *,
    kernel: str = "{layer}/{layer}/kernel:0",
    bias: str = "{layer}/{layer}/bias:0",
) -> None:
    """Write the 26 arrays under the given names, one group a layer."""
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(CONVOLUTIONS):
            file[kernel.format(layer=layer)] = arrays[2 * index]
            file[bias.format(layer=layer)] = arrays[2 * index + 1]


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Path:
    """Return a folder with features of 13 photos, by random weights, and all heads trained on them.

    The photos are of cats and dogs, in ``pets/``. Of each head, fewer candidates were tried.
    """
    from classify import cross_validation, search_space
    from classify.heads import HEADS
    from classify.train import train_heads
    from extract import build
    from extract.store import features_file

    out = tmp_path_factory.mktemp("house")
    root = write_photos(out / "pets", {"cats": 6, "dogs": 6})
    picture(9, size=(300, 700)).save(root / "cats/tall.png")
    options = build.Options(out=out, weights=vgg16_weights, engine="keras")
    build.build(str(root), options)
    with (
        pytest.MonkeyPatch.context() as patch,
        features_file.open(out / "features/pets.h5") as opened,
    ):
        short = {name: grid[:3] for name, grid in search_space.GRIDS.items()}
        patch.setattr(search_space, "GRIDS", short)
        patch.setattr(cross_validation, "PROCESSES", 1)
        train_heads(opened, list(HEADS), out=out, seed=0, balanced=False)
    return out


class Site(ThreadingHTTPServer):
    """A web site on 127.0.0.1.

    Attributes
    ----------
    files : dict of path to bytes
        The files that it serves; each path begins with ``/``.
    broken : set of path
        Paths of which only the first half is sent before the connection closes.
    asked : list of path
        Every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        broken = self.path in self.server.broken
        self.wfile.write(content[: len(content) // 2] if broken else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serve what a test puts in `files`, on this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with Site() as server:
        return server.server_port


@pytest.fixture(scope="session")
def s3_server() -> Iterator["ObjectStore"]:
    """Serve S3 on this machine: see `tests.object_store`."""
    from tests import object_store

    with object_store.served() as store:
        yield store


@pytest.fixture
def s3(s3_server: "ObjectStore", monkeypatch: pytest.MonkeyPatch) -> "ObjectStore":
    """Return an empty bucket on this machine, which this process finds as ``s3://bucket``."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.refused = lambda request: ""
    s3_server.delete(*s3_server.keys())
    s3_server.asked.clear()
    return s3_server
