"""The web page: it answers photos, refuses other requests, and works in a real browser."""

import base64
import io
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from classify.results import Result
from classify.serving import addresses, heatmaps, neighbours, site, web
from classify.serving.model import Model
from classify.serving.server import Server
from extract.compute import reading
from extract.compute.reading import LoadedPhoto, Squares
from extract.photos import decode
from extract.store import features_file
from extract.system import memory
from extract.system.console import InputError, one_line
from tests import browser, synthetic
from tests.classify.serving.conftest import Red, made, png
from tests.conftest import HOSTILE, picture, png_header


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def send(client: FlaskClient, data: bytes, name: str = "a.png") -> tuple[int, Any]:
    answer = client.post("/predict", data={"photo": (io.BytesIO(data), name)})
    return answer.status_code, answer.get_json()


def test_a_photo_is_answered_with_its_nearest_training_photos(client: FlaskClient) -> None:
    code, found = send(client, png(204))
    assert code == 200
    assert found["sure"] is True
    assert found["probabilities"] == [["cats", pytest.approx(0.8)], ["dogs", pytest.approx(0.2)]]
    cosines = [one["cosine"] for one in found["similar"]]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == web.SHOWN
    assert send(client, png(140))[1]["sure"] is False


def test_a_training_photo_is_most_similar_to_itself(client: FlaskClient, tmp_path: Path) -> None:
    data = (tmp_path / "pets/dogs/001.png").read_bytes()
    first = send(client, data)[1]["similar"][0]
    assert (first["path"], first["name"]) == ("dogs/001.png", "dogs")
    assert first["cosine"] == pytest.approx(1, abs=1e-3)
    thumbnail = client.get(f"/training/{first['photo']}")
    assert thumbnail.mimetype == "image/webp"
    shown = np.asarray(Image.open(io.BytesIO(thumbnail.data)), np.float32)
    wanted = np.asarray(picture(10_001), np.float32)
    assert abs(shown.mean(axis=(0, 1)) - wanted.mean(axis=(0, 1))).max() < 5


def test_a_click_gives_the_photo_under_its_heatmap(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(model: Model, photos: list[Any], seeds: list[int]) -> list[heatmaps.Heatmap]:
        assert photos[0][224].shape == (224, 224, 3)
        return [heatmaps.Heatmap(0, np.eye(14), 0.8, 0.25, 0.75)]

    monkeypatch.setattr(heatmaps, "heatmaps", drawn)
    form = {"photo": (io.BytesIO(png(204)), "a.png")}
    found = client.post("/heatmap", data=form).get_json()
    uri = found.pop("picture")
    assert found == {
        **{"name": "cats", "probability": 0.8},
        **{"without_hottest": 0.25, "without_random": 0.75},
    }
    shown = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert shown.size == (30, 20)
    refused = client.post("/heatmap", data={"photo": (io.BytesIO(b"hello"), "a.png")})
    assert refused.status_code == 422
    assert "not an image file" in refused.get_json()["error"]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"", 422, "empty file"),
        (b"hello", 422, "not an image file"),
        (png(0)[:60], 422, "damaged image"),
        (png_header(30_000, 30_000), 422, "more pixels than is safe to decode"),
        (bytes(web.MEGABYTES * 1_000_000 + 1), 413, f"larger than {web.MEGABYTES} MB"),
    ],
    ids=["empty", "text", "cut short", "bomb", "too large"],
)
def test_what_is_not_a_photo_is_refused_with_the_reason(
    client: FlaskClient, data: bytes, code: int, said: str
) -> None:
    found = send(client, data)
    assert found[0] == code
    assert said in found[1]["error"]
    assert send(client, png(204))[0] == 200


def test_what_a_browser_cannot_show_is_shown_by_the_server(client: FlaskClient) -> None:
    file = io.BytesIO()
    Image.new("CMYK", (900, 300), (0, 255, 255, 0)).save(file, "TIFF")
    answer = client.post("/preview", data={"photo": (io.BytesIO(file.getvalue()), "a.tif")})
    assert (answer.status_code, answer.mimetype) == (200, "image/webp")
    with Image.open(io.BytesIO(answer.data)) as shown:
        assert shown.size == (web.PREVIEW, web.PREVIEW // 3)
    answer = client.post("/preview", data={"photo": (io.BytesIO(b"hello"), "a.txt")})
    assert (answer.status_code, answer.data) == (204, b"")
    assert client.post("/preview").status_code == 400


def test_other_requests_are_refused(client: FlaskClient, tmp_path: Path) -> None:
    assert client.post("/predict").status_code == 400
    assert client.get("/predict").status_code == 405
    assert client.get("/training/6").status_code == 404
    assert client.get("/training/..%2f..%2fetc").status_code == 404
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    (tmp_path / "pets/cats/000.png").unlink()
    gone = {"error": "the photo is no longer there, or cannot be shown"}
    assert client.get("/training/0").get_json() == gone


def test_names_are_shown_as_text_and_nothing_comes_from_other_sites(client: FlaskClient) -> None:
    answer = client.get("/")
    assert answer.text.count("svm, trained on &lt;pets&gt;\\u202e<") == 2
    assert "http" not in answer.text
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("127.0.0.1", "stay on this machine"),
        ("[::1]", "stay on this machine"),
        ("0.0.0.0", "go only to the machine that this page comes from"),
        ("192.168.1.7", "go only to the machine that this page comes from"),
    ],
)
def test_the_page_says_where_photos_go(tmp_path: Path, host: str, where: str) -> None:
    page = made(tmp_path, "cats", "dogs", host=host).test_client().get("/")
    assert f"Your photos {where}." in page.text


def test_names_in_an_answer_can_be_shown(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "/" not in name and not name.isprintable()][:2]
    found = send(made(tmp_path, *names).test_client(), png(204))[1]
    assert {name for name, _ in found["probabilities"]} == {one_line(name) for name in names}
    assert {one["name"] for one in found["similar"]} == {one_line(name) for name in names}
    assert all(one["path"].startswith(f"{one['name']}/") for one in found["similar"])


def test_twenty_at_once_are_all_answered_and_far_more_are_told_to_wait(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda red: send(app.test_client(), png(red)), range(0, 200, 10)))
    assert [code for code, _ in found] == [200] * 20
    assert all(dict(a["probabilities"])["cats"] == pytest.approx(i * 10 / 255, abs=1e-4)
               for i, (_, a) in enumerate(found))  # fmt: skip
    held = threading.Event()
    answer = web._answer
    monkeypatch.setattr(web, "_answer", lambda *a, **k: (held.wait(30), answer(*a, **k))[1])
    with ThreadPoolExecutor(web.WAITING + 1) as pool:
        runs = [pool.submit(send, app.test_client(), png(9)) for _ in range(web.WAITING + 1)]
        while not (refused := [run for run in runs if run.done()]):
            pass
        held.set()
    assert refused[0].result() == (503, {"error": "too many photos at once; try again in a moment"})
    assert sorted(run.result()[0] for run in runs) == [200] * web.WAITING + [503]


def test_it_listens_on_this_machine_only(app: Flask) -> None:
    server = Server(app, port=0)
    assert server.address == "127.0.0.1"
    with pytest.raises(InputError, match=f"{server.port}: .*choose another with --port"):
        Server(app, port=server.port)
    server.close()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_the_log_shows_a_request_as_it_came(url: str, caplog: pytest.LogCaptureFixture) -> None:
    address, path = urlsplit(url), "/%1b[31m%e2%80%ae"
    with caplog.at_level("INFO", "onepass"):
        with socket.create_connection((address.hostname, address.port)) as sent:
            sent.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            assert b"404" in sent.recv(1000)
        while not caplog.messages:
            pass
    assert caplog.messages == [f'127.0.0.1 "GET {path}" 404']


def test_the_training_photos_of_a_features_file_are_read(tmp_path: Path) -> None:
    path = synthetic.publish(tmp_path, per_class=(4, 2, 2))
    with features_file.open(path) as features:
        digest, names = features.data_digest, features.class_names
    result: Any = SimpleNamespace(data_digest=digest, class_names=names, model="svm", command="-")
    found = neighbours.training_photos(path, result, weights_digest="0" * 64)
    assert len(found.paths) == 12
    assert all("/train" in path for path in found.paths)
    assert found.class_names == [path.split("/")[0] for path in found.paths]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    assert found.nearest(found.vectors[7] * 9, 1) == [(7, pytest.approx(1))]
    with pytest.raises(InputError, match="other weights or pixels"):
        neighbours.training_photos(path, result, weights_digest="1" * 64)
    for change in ({"data_digest": "1" * 64}, {"class_names": names[::-1]}):
        other: Any = SimpleNamespace(**{**vars(result), **change})
        with pytest.raises(InputError, match="of other photos, classes or splits than the model"):
            neighbours.training_photos(path, other, weights_digest="0" * 64)


def test_a_model_answers_without_training_photos(app: Flask, tmp_path: Path) -> None:
    def probabilities(items: list[Squares]) -> np.ndarray:
        return np.full((len(items), 2), 0.5, np.float32)

    result: Any = SimpleNamespace(class_names=["a", "b"])
    model = Model(result, {32: ()}, probabilities)
    client = web.application(model, Red(), None, unsure=0.6).test_client()  # type: ignore[arg-type]
    assert send(client, png(9)) == (
        200,
        {
            "sure": False,
            "none_of_these": None,
            "probabilities": [["a", 0.5], ["b", 0.5]],
            "similar": [],
        },
    )
    assert client.get("/training/0").status_code == 404


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "127.0.0.1:8765", "Origin": "http://127.0.0.1:8765"}, 200),
        ({"Host": "[::1]:8765", "Origin": "http://[::1]:8765"}, 200),
        ({"Host": "192.168.1.7:8765"}, 200),
        ({"Host": socket.gethostname()}, 200),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
        ({"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 400),
        ({"Host": "127.0.0.1.elsewhere.example"}, 400),
        ({"Host": "[::1"}, 400),
        ({"Host": ""}, 400),
    ],
    ids=str,
)
def test_photos_from_other_sites_are_refused(
    client: FlaskClient, headers: dict[str, str], code: int
) -> None:
    photo = {"photo": (io.BytesIO(png(204)), "a.png")}
    assert client.post("/predict", data=photo, headers=headers).status_code == code


def test_a_slow_photo_does_not_stop_the_others(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    held, decoded = threading.Event(), reading.decoded

    def slow(path: str, data: bytes, **how: Any) -> LoadedPhoto:
        if data == png(9):
            assert held.wait(30)
        return decoded(path, data, **how)

    monkeypatch.setattr(reading, "decoded", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, app.test_client(), png(9))
        assert send(app.test_client(), png(204))[0] == 200
        assert not first.done()
        held.set()
        assert first.result()[0] == 200


def test_a_photo_that_takes_too_much_memory_is_refused_and_has_no_thumbnail(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 1)
    code, found = send(client, png(9))
    assert code == 422
    assert "and at most 0 MB are allowed" in found["error"]
    assert client.get("/training/0").status_code == 404


def test_a_lack_of_memory_is_told_and_the_next_photo_answered(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise memory.OutOfMemory("not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_photo", fail)
        assert send(client, png(9)) == (503, {"error": site.NO_MEMORY})
    assert send(client, png(9))[0] == 200


@pytest.mark.parametrize(
    ("host", "address", "shown"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "", "http://localhost:"),
        ("0.0.0.0", "0.0.0.0", "http://127.0.0.1:"),
        ("::1", "::1", "http://[::1]:"),
        ("[::1]", "::1", "http://[::1]:"),
        ("::", "::", "http://[::1]:"),
    ],
)
def test_it_listens_on_any_address_of_this_machine(
    app: Flask, host: str, address: str, shown: str
) -> None:
    try:
        server = Server(app, host=host, port=0)
    except InputError:
        assert ":" in host
        pytest.skip("this machine has no IPv6")
    url = addresses.url(host, server.port)
    assert url.startswith(shown)
    assert server.address == (address or server.address)
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    server.close()


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.9", "", "http://localhost", "::9"])
def test_an_address_of_another_machine_is_refused_with_what_to_type(host: str) -> None:
    with pytest.raises(InputError, match=r"not an address of this machine; give --host 127\.0"):
        addresses.listen(host, 0)


def test_programs_send_one_photo_as_the_body_or_several_as_files(client: FlaskClient) -> None:
    # curl calls every body a form.
    form = "application/x-www-form-urlencoded"
    one = client.post("/api/predict", data=png(204), content_type=form).get_json()
    assert one["photos"] == [
        {
            "path": "",
            "sure": True,
            "none_of_these": None,
            "probabilities": {"cats": pytest.approx(0.8), "dogs": pytest.approx(0.2)},
        }
    ]
    files = [(io.BytesIO(data), name) for data, name in ((png(204), "a.png"), (b"text", "b.png"))]
    several = client.post("/api/predict", data={"photo": files}).get_json()
    assert [photo["path"] for photo in several["photos"]] == ["a.png"]
    assert [skipped["path"] for skipped in several["skipped"]] == ["b.png"]
    nothing = client.post("/api/predict")
    assert nothing.status_code == 400
    assert "no photo was sent" in nothing.get_json()["error"]


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """Serve the page."""
    server = Server(app, port=0)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


DROP = """files => {
    const dropped = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
        dropped.items.add(new File([bytes], name));
    }
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped}));
}"""


@browser.needed
def test_a_browser_shows_an_answer_to_every_photo_dropped(url: str) -> None:
    files = [(f"{red}.png", png(red)) for red in range(0, 200, 10)] + [("notes.txt", b"hello")]
    with Image.open(io.BytesIO(png(204))) as image:
        image.save(converted := io.BytesIO(), "TIFF")
    tiff = converted.getvalue()
    with browser.running() as chromium:
        seen = browser.visit(chromium, url, width=1280)
        assert seen.complaints == []
        encoded = [(name, base64.b64encode(data).decode()) for name, data in files]
        seen.page.evaluate(DROP, encoded)
        seen.page.locator("[data-done]").nth(20).wait_for()
        assert seen.page.locator("[data-done=answered]").count() == 20
        refused = seen.page.locator("[data-done=refused]").inner_text()
        assert "notes.txt" in refused
        assert "not an image file that Pillow can read" in refused
        assert seen.page.locator(".similar").count() == 20
        assert "heic" in str(seen.page.locator("#choose").get_attribute("accept"))
        # Chromium itself shows no TIFF.
        seen.page.evaluate(DROP, [("a.tif", base64.b64encode(tiff).decode())])
        seen.page.wait_for_function(
            "() => { const first = document.querySelector('article > img');"
            " return !first.hidden && first.naturalWidth === 30; }"
        )
        assert seen.page.get_by_text("No class reaches 60%.").count() > 0
        assert all(address.startswith((url, f"blob:{url}")) for address in seen.requests)


def test_the_record_that_the_page_shows_has_what_it_asks_for() -> None:
    wanted = {"model", "data", "class_names", "metrics"}
    assert wanted <= {field.name for field in fields(Result)}


def test_a_file_that_is_not_the_training_photo_is_not_shown(app: Flask, tmp_path: Path) -> None:
    first, *_, other = sorted(tmp_path.rglob("*.png"))
    first.write_bytes(other.read_bytes())
    assert app.test_client().get("/training/0").status_code == 404
