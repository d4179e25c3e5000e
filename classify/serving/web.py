"""A web page to try a model on: ``python -m classify serve runs/chess/svm``.

The user drops photos on the page; they never leave this machine. The page shows the probabilities
of the classes, the training photos whose features are most similar and, at a click, where in the
photo the model found its class.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flask
from flask import Flask, Response

from classify.heads import tap_columns
from classify.heatmaps import picture
from classify.novelty import KEEP
from classify.novelty.detector import TAP
from classify.serving import HOST, addresses, heatmaps, site
from classify.serving.answer_formats import Predicted, as_json
from classify.serving.model import (
    Answer,
    Model,
    answer,
    answers,
    compute_taps,
    from_taps,
    is_novel,
    unreadable,
)
from classify.serving.neighbours import SIMILARITY_TAP, TrainingPhotos
from extract.compute import reading
from extract.compute.cached_vgg16 import CachedVGG16
from extract.compute.reading import Squares
from extract.photos import decode
from extract.system.console import one_line
from extract.vgg16.recipe import SIZE

MEGABYTES = 32
"""Size of the largest photo that is accepted."""

WAITING = 64
"""How many photos may be decoded or wait for the model, which takes one at a time."""

SHOWN = 5
"""How many classes, and how many similar training photos, are shown for each photo."""

THUMBNAIL = 192
"""Side in pixels."""

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
        The address that is listened on, see `classify.serving.site.application`.
    """
    app = site.application(Path(__file__).parent, host=host, megabytes=MEGABYTES)
    doubts: dict[str, Any] = {"unsure": unsure, "keep": keep}
    queue = threading.BoundedSemaphore(WAITING)
    one_at_a_time = threading.Lock()

    @app.get("/")
    def page() -> str:
        title = one_line(f"{model.result.model}, trained on {model.result.data}")
        told = {"result": model.result, "megabytes": MEGABYTES, "unsure": unsure}
        local = addresses.is_loopback(host)
        return flask.render_template("serve.html", title=title, local=local, **told)

    @app.post("/predict")
    def predict() -> Any:
        with _sent(queue) as data:
            photo, known_to_vgg16 = _decoded(data, model, vgg16, training)
            # Only the network is held by one photo at a time; a slow one does not stop the others.
            with one_at_a_time:
                return _answer(photo, known_to_vgg16, model, vgg16, training, **doubts)

    @app.post("/heatmap")
    def heatmap() -> Any:
        with _sent(queue) as data:
            return _heatmap(data, model, one_at_a_time)

    @app.post("/preview")
    def preview() -> Response:
        with _sent(queue) as data:
            return _preview(data)

    @app.get("/training/<int:row>")
    def thumbnail(row: int) -> Response:
        return _thumbnail(training, row)

    for_programs = partial(_for_programs, model, queue, one_at_a_time, **doubts)
    app.add_url_rule("/api/predict", "api", for_programs, methods=["POST"])
    return app


def _for_programs(
    model: Model, queue: threading.Semaphore, one_at_a_time: threading.Lock, **doubts: Any
) -> Any:
    """Return the classes of all photos in a request as ``predict --json`` prints them.

    The photos are the files of a form, whatever their fields are called, or the body itself.
    """
    request = flask.request
    # Other forms would be parsed as text: curl calls every body one.
    if request.mimetype == "multipart/form-data":
        files = request.files.items(multi=True)
        sent = [(file.filename or "", file.read()) for _, file in files]
    else:
        sent = [("", body)] if (body := request.get_data()) else []
    if not sent:
        flask.abort(400, "no photo was sent; send it as the body, or several as a form's files")
    if not queue.acquire(blocking=False):
        flask.abort(503, "too many photos at once; try again in a moment")
    try:
        photos = [reading.squares(name, data, known=model.known) for name, data in sent]
        with one_at_a_time:
            found = list(answers(model, photos, **doubts))
    finally:
        queue.release()
    predicted = Predicted(model.result, [], [])
    for one in found:
        if isinstance(one, Answer):
            predicted.answers.append(one)
        else:
            predicted.skipped.append((one.path, one.reason))
    classes = len(model.result.class_names)
    return Response(as_json(predicted, top=classes), mimetype="application/json")


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
    photo = reading.squares("", data, known=model.known)
    if square := unreadable(photo):
        flask.abort(422, square.reason)
    if model.head and SIZE in model.known:
        return photo, photo
    known_to_vgg16 = {SIZE: vgg16.known} if training else {}
    return photo, reading.squares("", data, known=known_to_vgg16)


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


def _heatmap(data: bytes, model: Model, one_at_a_time: threading.Lock) -> dict[str, Any]:
    """Return a photo under its heatmap, and the probabilities when parts of it are hidden."""
    try:
        squares = heatmaps.squares(model, data)
        upright = decode.upright(data, size=PREVIEW)
    except decode.Unreadable as error:
        flask.abort(422, str(error))
    with one_at_a_time:
        (found,) = heatmaps.heatmaps(model, [squares], [heatmaps.seed_of(data)])
    upright.thumbnail((PREVIEW, PREVIEW))
    return {
        "name": one_line(model.result.class_names[found.label]),
        "picture": picture.as_uri(picture.overlaid(upright, found.heat)),
        "probability": found.probability,
        "without_hottest": found.without_hottest,
        "without_random": found.without_random,
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
    digest = training.digests[row]
    return site.thumbnail(training.root, training.paths[row], digest=digest, size=THUMBNAIL)
