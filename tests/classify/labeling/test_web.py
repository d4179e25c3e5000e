"""The labelling page: questions, answers, undo, and what is refused, through its requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from classify.labeling import session as sessions
from classify.labeling import web
from classify.labeling.album import Album
from classify.labeling.session import Session
from classify.serving.server import Server
from extract.photos import manifest
from tests import browser
from tests.classify.labeling.conftest import running


def client_of(session: Session) -> FlaskClient:
    return web.application(session, command="make DATA=x.csv", done=lambda: None).test_client()


@contextmanager
def opened(album: Album, file: Path) -> Iterator[FlaskClient]:
    with running(album, file) as session:
        yield client_of(session)


def answered(client: FlaskClient, answer: str, **more: Any) -> Any:
    photo = client.get("/facts").get_json()["question"]["photo"]
    reply = client.post("/answer", json={"photo": photo, "answer": answer, **more})
    assert reply.status_code == 200, reply.text
    return reply.get_json()


def effective(file: Path) -> dict[str, tuple[str, str, str]]:
    """Return answer, label and split of each photo, by its folder and name."""
    rows = manifest.read(file).counts().items()
    return {"/".join(Path(p).parts[-2:]): (r.answer, r.label, r.split) for p, r in rows}


def test_the_wrong_label_is_asked_for_with_the_reason_and_corrected(
    album: Album, file: Path
) -> None:
    with opened(album, file) as client:
        facts = client.get("/facts").get_json()
        question = facts["question"]
        assert question["path"].endswith("red/0.png")
        assert question["reason"] == "The head sees red; the label says blue."
        assert question["head"][0][0] == "red"
        assert len(question["similar"]) == 6
        assert {one["label"] for one in question["similar"][:3]} == {"red"}
        assert question["photo"] not in {one["photo"] for one in question["similar"]}
        assert facts["progress"]["curve"][0]["accuracy"] == 1
        assert facts["progress"]["held_out"] == 4
        facts = answered(client, "label", **{"class": 1})
        assert facts["progress"]["changed"] == 1
        assert facts["question"]["photo"] != question["photo"]
    assert effective(file)["red/0.png"] == ("label", "red", "train")


def test_a_photo_of_the_pool_gets_a_label_with_its_copies_and_only_if_answered(
    album: Album, file: Path
) -> None:
    with opened(album, file) as client:
        while client.get("/facts").get_json()["question"]["label"] is not None:
            answered(client, "skip")
        path = client.get("/facts").get_json()["question"]["path"]
        facts = answered(client, "label", name=" Green\u202e ")
        assert facts["classes"] == ["blue", "red", "Green\\u202e"]
        assert facts["progress"]["labelled"] == 1
    found = {name: row for name, row in effective(file).items() if "pool" in name}
    red = {"pool/red.png", "pool/copy.png"}
    assert {*found} == (red if "red" in path else {"pool/blue.png"})
    assert {*found.values()} == {("label", "Green\u202e", "train")}


def test_answers_and_undo_go_on_after_a_restart(album: Album, file: Path) -> None:
    with opened(album, file) as client:
        first = client.get("/facts").get_json()["question"]["photo"]
        answered(client, "label", **{"class": 1})
        answered(client, "none")
        second = client.get("/facts").get_json()["question"]["photo"]
    with opened(album, file) as client:
        facts = client.get("/facts").get_json()
        assert facts["progress"]["answers"] == 2
        assert facts["question"]["photo"] not in (first, None)
        client.post("/undo", json={})
        facts = client.post("/undo", json={}).get_json()
        assert facts["question"]["photo"] == first
        assert facts["question"]["label"] == "blue"
        assert facts["question"]["reason"] == "You took back your answer to this photo."
        assert (facts["progress"]["answers"], facts["progress"]["changed"]) == (0, 0)
        assert client.post("/undo", json={}).status_code == 409
        assert second
    assert effective(file)["red/0.png"] == ("label", "blue", "train")


def test_everything_is_asked_once_and_the_test_split_never(album: Album, file: Path) -> None:
    kept = album.splits != "test"
    rows = [row for row in range(len(kept)) if kept[row]]
    without = Album(
        [album.places[row] for row in rows],
        [album.digests[row] for row in rows],
        album.labels[rows],
        album.splits[rows],
        album.class_names,
        album.lines,
        album.X[rows],
        album.vectors[rows],
        [(0, 1)],
    )
    with opened(without, file) as client:
        seen = []
        while question := client.get("/facts").get_json()["question"]:
            seen.append(question["photo"])
            answered(client, "label", **{"class": int("red" in question["path"])})
        assert len(seen) == len({*seen}) >= 3
        assert "Test photos are not asked for" in client.get("/").text
        assert client.post("/answer", json={"photo": seen[0], "answer": "skip"}).status_code == 409
        end = client.post("/done", json={}).get_json()
        assert end["command"] == "make DATA=x.csv"
        assert end["summary"].endswith("1 label of DATA changed, 2 photos of the pool labelled")
    with opened(album, file) as client:
        assert "Test photos are asked for too" in client.get("/").text


def test_a_full_disk_is_told_and_the_photo_stays(
    album: Album, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(album, file) as client:
        before = client.get("/facts").get_json()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            photo = before["question"]["photo"]
            reply = client.post("/answer", json={"photo": photo, "answer": "none"})
        assert (reply.status_code, reply.get_json()["error"]) == (507, web.FULL)
        assert client.get("/facts").get_json() == before
        assert answered(client, "none")["progress"]["answers"] == 1


def test_an_answer_never_waits_for_the_head_and_a_failed_fit_is_told(
    album: Album, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(album, file) as client:
        let, fitting = threading.Event(), threading.Event()

        def slow(*_: object) -> None:
            fitting.set()
            let.wait(60)
            raise ValueError("no head")

        monkeypatch.setattr(sessions.learner, "fit", slow)
        following = client.get("/facts").get_json()["next"][0]
        facts = answered(client, "none")
        assert facts["question"]["photo"] == following
        assert fitting.wait(60)
        facts = answered(client, "none")
        assert facts["progress"]["answers"] == 2
        assert facts["progress"]["behind"]
        let.set()
        while facts["progress"]["behind"]:
            facts = client.get("/facts").get_json()
        assert facts["progress"]["problem"] == "no head"


@pytest.mark.parametrize(
    "sent",
    [
        {"photo": "0" * 64, "answer": "skip"},
        {"answer": "undo"},
        {"answer": "label", "class": 7},
        {"answer": "label", "class": "1"},
        {"answer": "label"},
        {"answer": "label", "name": "  "},
        {"answer": "label", "name": "a\nb"},
        {"answer": "label", "name": "\ud800"},
        {"answer": "label", "name": "x" * 256},
        [],
    ],
)
def test_what_is_no_answer_is_refused(album: Album, file: Path, sent: Any) -> None:
    with opened(album, file) as client:
        before = file.read_bytes()
        photo = client.get("/facts").get_json()["question"]["photo"]
        body = {"photo": photo, **sent} if isinstance(sent, dict) else sent
        assert client.post("/answer", json=body).status_code == 400
        assert file.read_bytes() == before


def test_only_photos_of_the_session_are_shown_and_other_sites_are_refused(
    album: Album, file: Path
) -> None:
    with opened(album, file) as client:
        shown = client.get(f"/photo/{album.digests[0]}/large")
        assert (shown.status_code, shown.mimetype) == (200, "image/webp")
        assert client.get(f"/photo/{album.digests[0]}/huge").status_code == 404
        assert client.get(f"/photo/{'0' * 64}/small").status_code == 404
        Path(album.places[1][0]).write_bytes(Path(album.places[2][0]).read_bytes())
        changed = client.get(f"/photo/{album.digests[1]}/small")
        assert changed.get_json() == {"error": "the photo has changed"}
        assert client.get("/facts", headers={"Host": "elsewhere.example"}).status_code == 400
        elsewhere = {"Origin": "http://elsewhere.example"}
        assert client.post("/undo", json={}, headers=elsewhere).status_code == 403
        assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]


@browser.needed
def test_a_session_by_keyboard_in_a_browser(album: Album, file: Path) -> None:
    with running(album, file) as session, browser.running() as chromium:
        app = web.application(session, command="make DATA=x.csv", done=lambda: None)
        server = Server(app, port=0)
        url = f"http://127.0.0.1:{server.port}"
        seen = browser.visit(chromium, url, width=390, dark=True)
        page = seen.page

        def press(key: str, answers: int) -> None:
            page.keyboard.press(key)
            page.wait_for_function(f"() => !busy && now && now.progress.answers === {answers}")

        page.wait_for_function("() => now && now.question")
        assert page.locator("#reason").inner_text() == "The head sees red; the label says blue."
        assert page.locator("button.given").inner_text() == "1blue"
        press("2", 1)
        press("Backspace", 0)
        assert page.locator("#reason").inner_text().startswith("You took back")
        press("2", 1)
        page.keyboard.press("+")
        page.keyboard.type("<b>q")
        press("Enter", 2)
        assert "<b>q" in page.locator("#classes").inner_text()
        press(" ", 3)
        # The page must not be wider than a phone.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.wait_for_function("() => !now.question || document.getElementById('large').complete")
        page.keyboard.press("q")
        assert page.locator("pre").inner_text() == "make DATA=x.csv"
        assert seen.complaints == []
        assert all(address.startswith(url) for address in seen.requests)
        server.close()
    assert effective(file)["red/0.png"] == ("label", "red", "train")
    # Copies of a photo are answered together.
    names = [row.label for row in manifest.read(file).answers()]
    assert [*dict.fromkeys(names)] == ["red", "<b>q", ""]
