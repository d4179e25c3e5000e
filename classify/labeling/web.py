"""The labelling page: ``python -m classify label chess --pool new-photos``.

Everything that it shows is made by `classify.labeling.facts`; every answer goes to the session.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
from flask import Flask, Response

from classify.labeling.answers import NotSaved
from classify.labeling.facts import facts, summary
from classify.labeling.session import LABEL, NONE, SKIP, Session, Stale
from classify.serving import HOST, site
from extract.photos import manifest
from extract.system.console import one_line

MEGABYTES = 0.1
"""Size of the largest request."""

SIDES = {"large": 1024, "small": 192}
"""Sides in pixels of the photos that are shown."""

KEPT = "private, max-age=86400, immutable"
"""How long a browser may keep a photo. Its address has the digest, so it is never another one."""

FULL = "the disk is full, so this answer was not saved; make room and answer again"


def application(
    session: Session, *, command: str, done: Callable[[], None], host: str = HOST
) -> Flask:
    """Make the web application.

    Parameters
    ----------
    session : Session
    command : str
        The command that makes everything anew from the answers.
    done : callable
        Called when the user has ended the session and was sent the last reply.
    host : str
        The address that is listened on, see `classify.serving.site.application`.
    """
    app = site.application(Path(__file__).parent, host=host, megabytes=MEGABYTES)

    @app.get("/")
    def page() -> str:
        file = one_line(session.answers.file)
        with_test = "test" in session.album.splits
        return flask.render_template("label.html", file=file, with_test=with_test)

    @app.get("/facts")
    def everything() -> dict[str, Any]:
        return facts(session)

    @app.post("/answer")
    def answer() -> Any:
        row, kind, name = _answer(session)
        return _taken(session, lambda: session.give(row, kind, name))

    @app.post("/undo")
    def undo() -> Any:
        return _taken(session, session.undo)

    @app.post("/done")
    def end() -> Response:
        reply = flask.jsonify(summary=summary(session), command=command)
        reply.call_on_close(done)
        return reply

    @app.get("/photo/<digest>/<side>")
    def photo(digest: str, side: str) -> Response:
        return _photo(session, digest, side)

    return app


def _taken(session: Session, change: Callable[[], None]) -> Any:
    """Change the session, and return what the page shows then; say why if it could not."""
    try:
        change()
    except Stale:
        why = "this was answered already, perhaps in another window"
        return {"error": why, **facts(session)}, 409
    except NotSaved as error:
        why = FULL if error.is_full else f"this answer was not saved ({error}); answer again"
        return {"error": why}, 507
    return facts(session)


def _answer(session: Session) -> tuple[int, str, str]:
    """Return the row, the answer and the class that the browser sent, or refuse them."""
    sent = flask.request.get_json()
    if not isinstance(sent, dict):
        flask.abort(400, "the answer is no object")
    row = session.album.row_of.get(str(sent.get("photo")))
    kind = sent.get("answer")
    if row is None or kind not in (LABEL, NONE, SKIP):
        flask.abort(400, "no such photo or answer")
    if kind != LABEL:
        return row, kind, ""
    if "name" in sent:
        return row, kind, _new_name(session, sent["name"])
    number = sent.get("class")
    if not isinstance(number, int) or not 0 <= number < len(session.class_names):
        flask.abort(400, "no such class")
    return row, kind, session.class_names[number]


def _new_name(session: Session, sent: Any) -> str:
    """Return the name of a class that a person typed; one that is there already may be meant."""
    try:
        name = manifest.checked_label(str(sent).strip())
    except ValueError as error:
        flask.abort(400, str(error))
    same = [known for known in session.class_names if known.casefold() == name.casefold()]
    return next(iter(same), name)


def _photo(session: Session, digest: str, side: str) -> Response:
    row = session.album.row_of.get(digest)
    if row is None or side not in SIDES:
        flask.abort(404, "no such photo")
    folder, name = os.path.split(session.album.places[row][0])
    response = site.thumbnail(Path(folder), name, digest=digest, size=SIDES[side])
    response.headers["Cache-Control"] = KEPT
    return response
