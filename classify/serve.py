"""A page to try a model on: ``python -m classify serve runs/chess/svm``.

Photos that are dropped on it never leave this machine. Beside the probabilities it shows the
training photos whose features are the most alike.
"""

import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

import flask
import numpy as np
from flask import Flask, Response
from numpy.typing import NDArray
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server

from classify import predict
from classify.predict import Model
from extract import images, pipeline, remote, store
from extract.console import InputError
from extract.lookup import Lookup
from extract.remote import Location

HOST = "127.0.0.1"
PORT = 8765
MEGABYTES = 32
"""A photo may be this large."""

WAITING = 64
"""Requests that may wait for the model; it looks at one photo at a time."""

SHOWN = 5
"""Classes of each photo, and training photos beside it."""

THUMBNAIL = 192
ALIKE = "block5_avg"
"""Tap by whose cosine photos are alike."""


class Neighbours(NamedTuple):
    """The training photos, to find those that are most like another.

    Attributes
    ----------
    root : Path or UPath
    paths, names : list of str, length n
        Relative to the root, and the classes.
    vectors : ndarray of shape (n, d), float32
        Of norm 1.
    """

    root: Location
    paths: list[str]
    names: list[str]
    vectors: NDArray[np.float32]

    def nearest(self, values: NDArray[np.float32], n: int) -> list[tuple[int, float]]:
        """Return the n most similar photos and their cosines, the most similar first."""
        cosines = self.vectors @ _unit(values[None])[0]
        order = np.argsort(-cosines, kind="stable")[:n]
        return [(int(row), float(cosines[row])) for row in order]


def neighbours(path: Path) -> Neighbours:
    """Read the training photos of a features file."""
    with store.open(path) as features:
        rows = features.rows("train")
        return Neighbours(
            remote.location(str(features.attributes["root"])),
            [features.paths[row] for row in rows],
            [features.class_names[features.labels[row]] for row in rows],
            _unit(features.read([ALIKE], "train")),
        )


def application(
    model: Model, lookup: Lookup, training: Neighbours, *, unsure: float, host: str = HOST
) -> Flask:
    """Build the page.

    Parameters
    ----------
    model : Model
    lookup : Lookup
        For the photos that are alike; that of the model where it has one.
    training : Neighbours
    unsure : float
        Probability below which a photo is called unsure.
    host : str
        By which the page may be asked for, beside this machine's own names. Another name is
        refused: a site elsewhere could give itself the address of this machine to read the page.
    """
    app = Flask("onepass", template_folder=str(Path(__file__).parent))
    app.config["MAX_CONTENT_LENGTH"] = MEGABYTES * 1_000_000
    app.config["TRUSTED_HOSTS"] = sorted({HOST, "localhost", host})
    places = threading.BoundedSemaphore(WAITING)
    one_at_a_time = threading.Lock()

    @app.get("/")
    def page() -> str:
        result = model.result
        return flask.render_template(
            "serve.html", result=result, megabytes=MEGABYTES, unsure=unsure
        )

    @app.post("/predict")
    def answer() -> Any:
        photo = flask.request.files.get("photo")
        if photo is None:
            flask.abort(400, "no photo was sent")
        if not places.acquire(blocking=False):
            flask.abort(503, "too many photos at once; try again in a moment")
        try:
            data = photo.read()
            # A decoded photo may take half a gigabyte: one at a time.
            with one_at_a_time:
                return _answer(model, lookup, training, data, unsure)
        finally:
            places.release()

    @app.get("/training/<int:row>")
    def thumbnail(row: int) -> Response:
        if row >= len(training.paths):
            flask.abort(404, "no such photo")
        try:
            data = remote.read_bytes(training.root, training.paths[row])
            return Response(images.thumbnail(data, size=THUMBNAIL), mimetype="image/webp")
        except (OSError, InputError, images.Unreadable):
            flask.abort(404, "the photo is no longer there")

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        too_large = error.code == 413
        reason = f"larger than {MEGABYTES} MB" if too_large else error.description
        return {"error": reason}, error.code

    @app.after_request
    def alone(response: Response) -> Response:
        # Nothing from elsewhere is loaded, and nobody elsewhere can frame the page.
        allowed = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
        response.headers["Content-Security-Policy"] = f"{allowed}; frame-ancestors 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app


def server(app: Flask, *, host: str = HOST, port: int = PORT) -> BaseWSGIServer:
    """Listen for browsers, each request in a thread of its own.

    Raises
    ------
    InputError
        If the port is in use or may not be used.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: {reason}; choose another with --port") from error
    with listening:
        return make_server(host, port, app, threaded=True, fd=listening.fileno())


def _answer(model: Model, lookup: Lookup, training: Neighbours, data: bytes, unsure: float) -> Any:
    item = pipeline.decoded("", data, size=model.size, known=model.known)
    seen = item if model.head else pipeline.decoded("", data, known=lookup.known)
    if item.reason:
        flask.abort(422, item.reason)
    taps = lookup.taps([seen])
    if model.head:
        # The network has looked at it already.
        of_taps = predict.of_taps(model.head, taps)
        model = model._replace(probabilities=lambda items: of_taps)
    (found,) = predict.answers(model, [item], unsure=unsure)
    assert isinstance(found, predict.Answer)
    return {
        "sure": found.sure,
        "probabilities": found.ranked[:SHOWN],
        "alike": [
            {"photo": row, "path": training.paths[row], "name": training.names[row], "cosine": c}
            for row, c in training.nearest(taps[ALIKE][0], SHOWN)
        ],
    }


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit
