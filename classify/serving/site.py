"""What every page on this machine has in common: who may ask for it, and what it may load."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import flask
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from classify.serving import addresses
from extract.photos import decode, files
from extract.system.console import InputError, one_line
from extract.system.locations import Location
from extract.system.memory import OutOfMemory

NO_MEMORY = "not enough memory for this photo at the moment"


def application(templates: Path, *, host: str, megabytes: float) -> Flask:
    """Make an application that answers this machine only, with errors as JSON.

    Parameters
    ----------
    templates : Path
        The folder of the page's template.
    host : str
        The address that is listened on. Requests for other names than it and this machine's own
        are refused: otherwise a foreign web site could make its name point to this machine and
        read the page.
    megabytes : float
        Size of the largest request.
    """
    app = Flask("onepass", template_folder=str(templates))
    app.config["MAX_CONTENT_LENGTH"] = int(megabytes * 1_000_000)
    app.before_request(partial(_refuse_other_sites, host))
    app.register_error_handler(HTTPException, partial(_refuse, megabytes))
    app.register_error_handler(InputError, lambda error: ({"error": str(error)}, 500))
    for lack in (OutOfMemory, MemoryError):
        app.register_error_handler(lack, lambda error: ({"error": NO_MEMORY}, 503))
    app.after_request(_isolate)
    app.logger.setLevel(logging.INFO)
    app.after_request(partial(_log, app.logger))
    return app


def _refuse_other_sites(host: str) -> None:
    if not addresses.is_ours(flask.request.headers.get("Host", ""), host=host):
        flask.abort(400, "this page has another address; type the one that the command printed")
    if flask.request.method != "GET" and addresses.is_from_elsewhere(flask.request.headers):
        flask.abort(403, "the request comes from another site")


def thumbnail(root: Location, path: str, *, digest: str, size: int) -> Response:
    """Return a photo as a small WebP; refuse a file that is not the one with the digest."""
    try:
        with files.content(root, path) as data:
            # A stranger's features file must not make a page show other files of this machine.
            if hashlib.sha256(data).hexdigest() != digest:
                flask.abort(404, "the photo has changed")
            return Response(decode.thumbnail(data, size=size), mimetype="image/webp")
    except (OSError, decode.Unreadable):
        flask.abort(404, "the photo is no longer there, or cannot be shown")


def _refuse(megabytes: float, error: HTTPException) -> Any:
    reason = f"larger than {megabytes:g} MB" if error.code == 413 else error.description
    return {"error": reason}, error.code


def _isolate(response: Response) -> Response:
    """Let the page load nothing from other sites, and no other site put it in a frame."""
    allowed = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
    response.headers["Content-Security-Policy"] = f"{allowed}; frame-ancestors 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def _log(log: logging.Logger, response: Response) -> Response:
    """Write a request to the log as it came, without what would control a terminal."""
    asked = flask.request.environ
    line = f"{asked['REQUEST_METHOD']} {asked.get('REQUEST_URI', flask.request.path)}"
    log.info(one_line(f'{asked.get("REMOTE_ADDR")} "{line}" {response.status_code}'))
    return response
