"""The server of the pages, asked as other programs ask it: over the network."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
import requests
from flask import Flask

from classify.serving import HOST, server, web
from classify.serving.server import Server
from tests import commands
from tests.classify.serving.conftest import png


class Held:
    """An application of which ``/held`` is answered only after `let` is set."""

    def __init__(self) -> None:
        self.app = Flask("onepass")
        self.app.config["MAX_CONTENT_LENGTH"] = 1000
        self.entered, self.let = threading.Event(), threading.Event()
        self.app.add_url_rule("/held", "held", self.answer)

    def answer(self) -> str:
        self.entered.set()
        assert self.let.wait(30)
        return "done"


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.let.set()


def test_programs_send_raw_bytes_and_several_photos_at_once(app: Flask) -> None:
    listening = Server(app, port=0)
    url = f"http://{HOST}:{listening.port}/api/predict"

    def best(red: int) -> str:
        (photo,) = requests.post(url, data=png(red)).json()["photos"]
        return max(photo["probabilities"], key=photo["probabilities"].get)

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(best, [0, 200] * 8)] == ["dogs", "cats"] * 8
    several = [("photo", (f"{red}.png", png(red))) for red in (0, 200)]
    answer = requests.post(url, files=[*several, ("photo", ("notes.txt", b"hello"))])
    assert answer.headers["Content-Type"] == "application/json"
    assert [photo["path"] for photo in answer.json()["photos"]] == ["0.png", "200.png"]
    assert [skipped["path"] for skipped in answer.json()["skipped"]] == ["notes.txt"]
    # A program may not know the size before it has sent everything.
    assert requests.post(url, data=iter([png(0)[:50], png(0)[50:]])).json()["photos"]
    listening.close()


def test_what_is_too_large_is_refused_and_the_connection_goes_on(app: Flask) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 1_000_000
    listening = Server(app, port=0)
    url = f"http://{HOST}:{listening.port}/api/predict"
    with requests.Session() as session:
        refused = session.post(url, data=bytes(1_500_000))
        assert (refused.status_code, list(refused.json())) == (413, ["error"])
        assert session.post(url, data=png(0)).status_code == 200
    # More is not even received.
    with socket.create_connection((HOST, listening.port)) as sent:
        sent.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        sent.settimeout(30)
        assert sent.recv(100).startswith(b"HTTP/1.1 413 ")
    listening.close()


def test_the_page_opens_while_as_many_photos_wait_as_may(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    let, waiting = threading.Event(), threading.Semaphore(0)

    def answer(*_: Any, **__: Any) -> dict[str, Any]:
        waiting.release()
        assert let.wait(30)
        return {}

    monkeypatch.setattr(web, "_preview", answer)
    listening = Server(app, port=0)
    url = f"http://{HOST}:{listening.port}"

    def send(_: int) -> int:
        return requests.post(f"{url}/preview", files={"photo": b"-"}).status_code

    with ThreadPoolExecutor(web.WAITING) as pool:
        sent = [pool.submit(send, number) for number in range(web.WAITING)]
        for _ in sent:
            assert waiting.acquire(timeout=30)
        try:
            assert requests.get(url, timeout=30).status_code == 200
            assert send(0) == 503
        finally:
            let.set()
        assert {one.result() for one in sent} == {200}
    listening.close()


def test_only_a_connection_that_stalls_is_closed_and_not_a_long_answer(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE", 1)
    listening = Server(held.app, port=0)
    with (
        socket.create_connection((HOST, listening.port)) as stalled,
        ThreadPoolExecutor(1) as pool,
    ):
        url = f"http://{HOST}:{listening.port}/held"
        long = pool.submit(requests.get, url, timeout=30)
        assert held.entered.wait(30)
        stalled.sendall(b"POST /held HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n-")
        stalled.settimeout(30)
        assert stalled.recv(100) == b""
        held.let.set()
        assert long.result().text == "done"
    listening.close()


def test_a_signal_ends_the_server_while_it_answers(held: Held) -> None:
    listening = Server(held.app, port=0)

    def interrupt() -> None:
        with socket.create_connection((HOST, listening.port)) as asking:
            asking.sendall(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.entered.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
            held.let.wait(30)

    other = threading.Thread(target=interrupt)
    other.start()
    begun = time.monotonic()
    done = commands.run(lambda: server.serve(listening, HOST, "see {url}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"see http://{HOST}:{listening.port}\n"
    assert time.monotonic() - begun < 10
    assert not held.let.is_set()
    held.let.set()
    other.join()
    listening.close()


def test_a_signal_ends_the_server_as_soon_as_its_address_is_told(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.console, "say", lambda _: os.kill(os.getpid(), signal.SIGINT))
    listening = Server(held.app, port=0)
    done = commands.run(lambda: server.serve(listening, HOST, "see {url}"))
    assert (done.returncode, done.stderr) == (0, "")
    listening.close()


def test_an_answer_may_end_the_server_and_is_sent_before() -> None:
    app = Flask("onepass")
    app.config["MAX_CONTENT_LENGTH"] = 1000

    @app.post("/done")
    def done() -> Any:
        reply = flask.jsonify(text="x" * 200_000)
        reply.call_on_close(lambda: listening.shutdown())
        return reply

    listening = Server(app, port=0)
    url = f"http://{HOST}:{listening.port}/done"
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(requests.post, url)
        listening.wait()
        listening.close()
        assert len(json.loads(reply.result().content)["text"]) == 200_000


def test_a_server_that_was_woken_by_an_answer_is_closed_without_an_error(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Server(app, port=0)
    pull = served._waitress.trigger._physical_pull

    def pull_late() -> None:
        # An answer wakes the thread of the sockets meanwhile.
        pull()
        time.sleep(0.3)
        pull()

    monkeypatch.setattr(served._waitress.trigger, "_physical_pull", pull_late)
    served.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{HOST}:{served.port}", timeout=5)
