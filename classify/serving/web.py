"""A web page to try a model on: ``python -m classify serve runs/chess/svm``.

The user drops photos on the page; they never leave this machine. The page shows the probabilities
of the classes and the training photos whose features are most similar.
"""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flask
import numpy as np
from flask import Flask, Response
from numpy.typing import NDArray
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from classify.arrays import Matrix
from classify.serving import HOST, PORT
from classify.serving.model import Model, answer, from_taps
from extract.compute import pipeline
from extract.compute.cached_vgg16 import CachedVGG16
from extract.photos import decode
from extract.store import features_file
from extract.system import locations
from extract.system.console import InputError, one_line
from extract.system.locations import Location

MEGABYTES = 32
"""Size of the largest photo that is accepted."""

WAITING = 64
"""How many requests may wait for the model, which takes one photo at a time."""

SHOWN = 5
"""How many classes, and how many similar training photos, are shown for each photo."""

THUMBNAIL = 192
"""Side in pixels."""

PREVIEW = 448
"""Side in pixels of a photo of the user that the browser itself cannot show."""

SIMILARITY_TAP = "block5_avg"
"""Similar photos are those with a large cosine between the values of this tap."""


class TrainingPhotos(NamedTuple):
    """The training photos, among which those similar to another photo are found.

    Attributes
    ----------
    root : Path or UPath
    paths : list of str, length n
        Relative to the root.
    digests : list of str, length n
        Only a file whose SHA-256 is its digest is shown.
    class_names : list of str, length n
        The class of each photo.
    vectors : ndarray of shape (n, d), float32
        Values of the tap by which photos are compared, each row of norm 1.
    """

    root: Location
    paths: list[str]
    digests: list[str]
    class_names: list[str]
    vectors: Matrix

    def nearest(self, values: NDArray[np.float32], n: int) -> list[tuple[int, float]]:
        """Return the rows of the n most similar photos and their cosines, most similar first."""
        cosines = self.vectors @ _unit(values[None])[0]
        order = np.argsort(-cosines, kind="stable")[:n]
        return [(int(row), float(cosines[row])) for row in order]


def training_photos(path: Path) -> TrainingPhotos:
    """Read the training photos from a features file."""
    with features_file.open(path) as features:
        rows = features.rows("train")
        return TrainingPhotos(
            locations.location(str(features.attributes["root"])),
            [features.paths[row] for row in rows],
            [features.digests[row] for row in rows],
            [features.class_names[features.labels[row]] for row in rows],
            _unit(features.read([SIMILARITY_TAP], "train")),
        )


def application(
    model: Model, vgg16: CachedVGG16, training: TrainingPhotos, *, unsure: float, host: str = HOST
) -> Flask:
    """Make the web application.

    Parameters
    ----------
    model : Model
    vgg16 : CachedVGG16
        Gives the taps by which similar photos are found.
    training : TrainingPhotos
    unsure : float
        Probability below which the most probable class is not sure.
    host : str
        A host name under which the page may be requested, besides this machine's own names. All
        other names are refused: otherwise a foreign web site could make its name point to this
        machine and read the page.
    """
    app = Flask("onepass", template_folder=str(Path(__file__).parent))
    app.config["MAX_CONTENT_LENGTH"] = MEGABYTES * 1_000_000
    app.config["TRUSTED_HOSTS"] = sorted({HOST, "localhost", host})
    queue = threading.BoundedSemaphore(WAITING)
    one_at_a_time = threading.Lock()

    @app.get("/")
    def page() -> str:
        result = model.result
        title = one_line(f"{result.model}, trained on {result.data}")
        return flask.render_template(
            "serve.html", title=title, result=result, megabytes=MEGABYTES, unsure=unsure
        )

    @app.post("/predict")
    def predict() -> Any:
        with _sent(queue, one_at_a_time) as data:
            return _answer(data, model, vgg16, training, unsure=unsure)

    @app.post("/preview")
    def preview() -> Response:
        with _sent(queue, one_at_a_time) as data:
            return _preview(data)

    @app.get("/training/<int:row>")
    def thumbnail(row: int) -> Response:
        return _thumbnail(training, row)

    app.register_error_handler(HTTPException, _refuse)
    app.after_request(_isolate)
    return app


def server(app: Flask, *, host: str = HOST, port: int = PORT) -> BaseWSGIServer:
    """Listen for requests, and answer each in a thread of its own.

    Raises
    ------
    InputError
        If the port is in use or not allowed.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: {reason}; choose another with --port") from error
    with listening:
        fd = listening.fileno()
        return make_server(host, port, app, threaded=True, request_handler=_Handler, fd=fd)


class _Handler(WSGIRequestHandler):
    """Writes each request to the log as it came; Werkzeug would decode it, and colour the line."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.log("info", '"%s" %s %s', one_line(self.requestline), code, size)


@contextmanager
def _sent(queue: threading.Semaphore, one_at_a_time: threading.Lock) -> Iterator[bytes]:
    """Give the photo that the browser sent, when it is this photo's turn."""
    photo = flask.request.files.get("photo")
    if photo is None:
        flask.abort(400, "no photo was sent")
    if not queue.acquire(blocking=False):
        flask.abort(503, "too many photos at once; try again in a moment")
    try:
        data = photo.read()
        # A decoded photo may take half a gigabyte of memory.
        with one_at_a_time:
            yield data
    finally:
        queue.release()


def _answer(
    data: bytes, model: Model, vgg16: CachedVGG16, training: TrainingPhotos, *, unsure: float
) -> dict[str, Any]:
    """Return the classes of a photo and the most similar training photos, with names to show."""
    photo = pipeline.decoded("", data, size=model.size, known=model.known)
    if photo.reason:
        flask.abort(422, photo.reason)
    if model.head:
        taps = vgg16.taps([photo])
        # The taps serve both purposes, so that VGG16 sees the photo only once.
        (probabilities,) = from_taps(model.head, taps)
    else:
        taps = vgg16.taps([pipeline.decoded("", data, known=vgg16.known)])
        (probabilities,) = model.probabilities([photo])
    found = answer("", probabilities, model.result.class_names, unsure=unsure)
    return {
        "sure": found.sure,
        "probabilities": [(one_line(name), p) for name, p in found.ranked[:SHOWN]],
        "similar": [
            {
                "photo": row,
                "path": one_line(training.paths[row]),
                "name": one_line(training.class_names[row]),
                "cosine": cosine,
            }
            for row, cosine in training.nearest(taps[SIMILARITY_TAP][0], SHOWN)
        ],
    }


def _preview(data: bytes) -> Response:
    try:
        return Response(decode.thumbnail(data, size=PREVIEW), mimetype="image/webp")
    except decode.Unreadable:
        # The answer to the photo itself gives the reason.
        return Response(status=204)


def _thumbnail(training: TrainingPhotos, row: int) -> Response:
    if row >= len(training.paths):
        flask.abort(404, "no such photo")
    try:
        data = locations.read_bytes(training.root, training.paths[row])
        # A stranger's features file must not make this page show other files of this machine.
        if hashlib.sha256(data).hexdigest() != training.digests[row]:
            flask.abort(404, "the photo has changed")
        return Response(decode.thumbnail(data, size=THUMBNAIL), mimetype="image/webp")
    except (OSError, InputError, decode.Unreadable):
        flask.abort(404, "the photo is no longer there")


def _refuse(error: HTTPException) -> Any:
    reason = f"larger than {MEGABYTES} MB" if error.code == 413 else error.description
    return {"error": reason}, error.code


def _isolate(response: Response) -> Response:
    """Let the page load nothing from other sites, and no other site put it in a frame."""
    allowed = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
    response.headers["Content-Security-Policy"] = f"{allowed}; frame-ancestors 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit
