"""A web page to try a model on: ``python -m classify serve runs/chess/svm``.

The user drops photos on the page; they never leave this machine. The page shows the probabilities
of the classes and the training photos whose features are most similar.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flask
from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from classify.heads import tap_columns
from classify.novelty.detector import KEEP, TAP
from classify.serving import HOST, PORT, addresses
from classify.serving.model import (
    Model,
    answer,
    compute_taps,
    from_taps,
    is_novel,
    unreadable,
)
from classify.serving.neighbours import SIMILARITY_TAP, TrainingPhotos
from extract.compute import pipeline
from extract.compute.cached_vgg16 import CachedVGG16
from extract.compute.pipeline import Squares
from extract.photos import decode, files
from extract.system.console import InputError, one_line
from extract.system.memory import OutOfMemory
from extract.vgg16.recipe import SIZE

MEGABYTES = 32
"""Size of the largest photo that is accepted."""

WAITING = 64
"""How many photos may be decoded or wait for the model, which takes one at a time."""

SHOWN = 5
"""How many classes, and how many similar training photos, are shown for each photo."""

THUMBNAIL = 192
"""Side in pixels."""

NO_MEMORY = "not enough memory for this photo at the moment"

PREVIEW = 448
"""Side in pixels of a photo of the user that the browser itself cannot show."""


def application(
    model: Model,
    vgg16: CachedVGG16,
    training: TrainingPhotos | None,
    *,
    unsure: float,
    keep: float | None = KEEP,
    host: str = HOST,
) -> Flask:
    """Make the web application.

    Parameters
    ----------
    model : Model
    vgg16 : CachedVGG16
        Gives the taps by which similar photos are found, at 224 pixels.
    training : TrainingPhotos or None
        None if there are none to compare with.
    unsure, keep
        As for `classify.serving.model.answers`.
    host : str
        The address that is listened on. Requests for other names than it and this machine's own
        are refused: otherwise a foreign web site could make its name point to this machine and
        read the page.
    """
    app = Flask("onepass", template_folder=str(Path(__file__).parent))
    app.config["MAX_CONTENT_LENGTH"] = MEGABYTES * 1_000_000
    doubts: dict[str, Any] = {"unsure": unsure, "keep": keep}
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
        with _sent(queue) as data:
            photo, known_to_vgg16 = _decoded(data, model, vgg16, training)
            # Only the network is held by one photo at a time; a slow one does not stop the others.
            with one_at_a_time:
                return _answer(photo, known_to_vgg16, model, vgg16, training, **doubts)

    @app.post("/preview")
    def preview() -> Response:
        with _sent(queue) as data:
            return _preview(data)

    @app.get("/training/<int:row>")
    def thumbnail(row: int) -> Response:
        return _thumbnail(training, row)

    app.before_request(partial(_refuse_other_sites, host))
    _answer_errors(app)
    app.after_request(_isolate)
    return app


def _answer_errors(app: Flask) -> None:
    app.register_error_handler(HTTPException, _refuse)
    app.register_error_handler(InputError, lambda error: ({"error": str(error)}, 500))
    for lack in (OutOfMemory, MemoryError):
        app.register_error_handler(lack, lambda error: ({"error": NO_MEMORY}, 503))


def server(app: Flask, *, host: str = HOST, port: int = PORT) -> BaseWSGIServer:
    """Listen for requests, and answer each in a thread of its own.

    Raises
    ------
    InputError
        If the host is not an address of this machine, or the port is in use or not allowed.
    """
    with addresses.listen(host, port) as listening:
        address = listening.getsockname()[0]
        fd = listening.fileno()
        return make_server(address, port, app, threaded=True, request_handler=_Handler, fd=fd)


class _Handler(WSGIRequestHandler):
    """Writes each request to the log as it came; Werkzeug would decode it, and colour the line."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.log("info", '"%s" %s %s', one_line(self.requestline), code, size)


def _refuse_other_sites(host: str) -> None:
    if not addresses.is_ours(flask.request.headers.get("Host", ""), host=host):
        flask.abort(400, "this page has another address; type the one that serve printed")
    if flask.request.method != "GET" and addresses.is_from_elsewhere(flask.request.headers):
        flask.abort(403, "the request comes from another site")


@contextmanager
def _sent(queue: threading.Semaphore) -> Iterator[bytes]:
    """Give the photo that the browser sent, unless too many wait."""
    photo = flask.request.files.get("photo")
    if photo is None:
        flask.abort(400, "no photo was sent")
    if not queue.acquire(blocking=False):
        flask.abort(503, "too many photos at once; try again in a moment")
    try:
        yield photo.read()
    finally:
        queue.release()


def _decoded(
    data: bytes, model: Model, vgg16: CachedVGG16, training: TrainingPhotos | None
) -> tuple[Squares, Squares]:
    """Return the photo as the model takes it, and as VGG16 takes it to find similar photos."""
    photo = pipeline.squares("", data, known=model.known)
    if square := unreadable(photo):
        flask.abort(422, square.reason)
    if model.head and SIZE in model.known:
        return photo, photo
    known_to_vgg16 = {SIZE: vgg16.known} if training else {}
    return photo, pipeline.squares("", data, known=known_to_vgg16)


def _answer(
    photo: Squares,
    known_to_vgg16: Squares,
    model: Model,
    vgg16: CachedVGG16,
    training: TrainingPhotos | None,
    *,
    unsure: float,
    keep: float | None,
) -> dict[str, Any]:
    """Return the classes of a photo and the most similar training photos, with names to show."""
    similarity = [SIMILARITY_TAP] if training else []
    novelty_taps = [TAP] if model.novelty else []
    novelty = None
    if model.head:
        # The taps serve both purposes, so that VGG16 sees each square only once.
        taps = compute_taps(
            {SIZE: vgg16, **model.vgg16},
            [{**known_to_vgg16, **photo}],
            dict.fromkeys([*tap_columns(model.head), *novelty_taps, *similarity]),
        )
        if model.novelty:
            (novelty,) = model.novelty.scores(taps[TAP])
        (probabilities,) = from_taps(model.head, taps)
    else:
        taps = compute_taps({SIZE: vgg16}, [known_to_vgg16], similarity)
        (probabilities,) = model.probabilities([photo])
    found = answer("", probabilities, model.result.class_names, unsure=unsure)
    return {
        "sure": found.sure,
        "none_of_these": is_novel(novelty, model.limit(keep)),
        "probabilities": [(one_line(name), p) for name, p in found.ranked[:SHOWN]],
        "similar": [
            {
                "photo": row,
                "path": one_line(training.paths[row]),
                "name": one_line(training.class_names[row]),
                "cosine": cosine,
            }
            for row, cosine in training.nearest(taps[SIMILARITY_TAP][0], SHOWN)
        ]
        if training
        else [],
    }


def _preview(data: bytes) -> Response:
    try:
        return Response(decode.thumbnail(data, size=PREVIEW), mimetype="image/webp")
    except decode.Unreadable:
        # The answer to the photo itself gives the reason.
        return Response(status=204)


def _thumbnail(training: TrainingPhotos | None, row: int) -> Response:
    if training is None or row >= len(training.paths):
        flask.abort(404, "no such photo")
    try:
        with files.content(training.root, training.paths[row]) as data:
            # A stranger's features file must not make this page show other files of this machine.
            if hashlib.sha256(data).hexdigest() != training.digests[row]:
                flask.abort(404, "the photo has changed")
            return Response(decode.thumbnail(data, size=THUMBNAIL), mimetype="image/webp")
    except (OSError, decode.Unreadable):
        flask.abort(404, "the photo is no longer there, or cannot be shown")


def _refuse(error: HTTPException) -> Any:
    reason = f"larger than {MEGABYTES} MB" if error.code == 413 else error.description
    return {"error": reason}, error.code


def _isolate(response: Response) -> Response:
    """Let the page load nothing from other sites, and no other site put it in a frame."""
    allowed = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
    response.headers["Content-Security-Policy"] = f"{allowed}; frame-ancestors 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response
