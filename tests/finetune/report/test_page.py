import base64
import hashlib
import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)

from classify import results
from extract.system.console import one_line
from finetune.compare.comparison import Comparison, compare
from finetune.compare.mistakes import SHOWN_PER_MODEL
from finetune.compare.number_formats import interval
from finetune.compare.significance import bootstrap_intervals
from finetune.compare.suspects import LabelCheck, Suspect
from finetune.findings.next_steps import next_steps
from finetune.photo_map import placement
from finetune.report import page
from tests import browser
from tests.conftest import HOSTILE, not_on_windows, picture
from tests.finetune.report.parsed_page import Page
from tests.synthetic_results import MODELS, comparison, fake_features, five, save


@pytest.fixture(scope="module", params=[2, 102])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    k = request.param
    folder = tmp_path_factory.mktemp("house")
    return five(folder, [f"class {i}" for i in range(k)], test=max(60, 2 * k))


@pytest.fixture(scope="module")
def text(found: Comparison) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return page.page(found)


@pytest.fixture(scope="module")
def shown(text: str) -> Page:
    return Page(text)


def test_every_figure_follows_from_the_predictions(found: Comparison, shown: Page) -> None:
    heading, *rows = shown.tables["models"]
    assert sorted(row[0] for row in rows) == sorted(MODELS)
    best = [float(row[1].split("%")[0]) for row in rows]
    assert best == sorted(best, reverse=True)
    names = found.features.class_names
    for place, (model, cells) in enumerate(zip(found.models, rows, strict=True)):
        y, p = model.predictions.labels, model.predictions.probabilities.astype(np.float64)
        p = np.clip(p, 1e-7, None) / np.clip(p, 1e-7, None).sum(axis=1, keepdims=True)
        predicted, every = p.argmax(axis=1), list(range(len(names)))
        correct = int((predicted == y).sum())
        wilson = binomtest(correct, len(y)).proportion_ci(method="wilson")
        bootstrap = bootstrap_intervals(model.predictions)
        recall = recall_score(y, predicted, average="macro", zero_division=0)
        f1 = f1_score(y, predicted, labels=every, average="macro", zero_division=0)
        loss = log_loss(y, p, labels=every)
        expected = {
            "Model": model.name,
            "Accuracy": f"{accuracy_score(y, predicted):.1%} {interval(wilson)}",
            "Learned from": " + ".join(model.result.learned_from),
            "From train alone": "—" if model.result.stage == "head" else f"{model.accuracy:.1%}",
            "Mean class recall": f"{recall:.1%} " + interval(bootstrap["mean_class_recall"]),
            "Macro F1": f"{f1:.3f} " + interval(bootstrap["macro_f1"], "{:.3f}".format),
            "Log loss": f"{loss:.3f} " + interval(bootstrap["log_loss"], "{:.3f}".format),
            "Calibration error": f"{results.metrics(model.predictions)['calibration_error']:.3f}",
        }
        if len(names) > 5:
            expected["Top-5 accuracy"] = f"{top_k_accuracy_score(y, p, k=5, labels=every):.1%}"
        assert dict(zip(heading, cells, strict=True)) == expected
        confusion = confusion_matrix(y, predicted, labels=every)
        if len(names) <= 20:
            matrix = shown.tables[f"matrix-{place}"]
            assert matrix[0][1:] == names
            assert [[int(n) for n in cells[1:]] for cells in matrix[1:]] == confusion.tolist()
        else:
            first = shown.tables[f"confused-{place}"][1]
            off = confusion * ~np.eye(len(names), dtype=bool)
            assert first[2].startswith(f"{off.max()} of ")
        by_class = {cells[0]: cells[2 + place] for cells in shown.tables["recalls"][1:]}
        assert by_class == {
            name: f"{confusion[i, i] / confusion[i].sum():.1%}" for i, name in enumerate(names)
        }
        mistaken = np.flatnonzero(predicted != y)
        surest = mistaken[np.argsort(-p.max(axis=1)[mistaken], kind="stable")]
        cards = shown.galleries[model.name]
        assert [lines[-3:] for _, lines in cards] == [
            [names[y[i]], f"{names[predicted[i]]} {p[i].max():.0%}", model.predictions.paths[i]]
            for i in surest[:SHOWN_PER_MODEL]
        ]
        bins = [cells for cells in shown.tables["bins"] if cells[0] == model.name]
        assert sum(int(cells[1]) for cells in bins) == len(y)


def test_page_holds_every_part(found: Comparison, shown: Page) -> None:
    n, k = len(found.models[0].correct), len(found.features.class_names)
    assert found.verdict in shown.words
    assert f"{n} test photos, {k} classes" in shown.words
    test = found.paired_tests[0]
    assert shown.tables["pairs"][1][:4] == [
        test.first,
        test.second,
        str(test.only_first_correct),
        str(test.only_second_correct),
    ]
    assert len(shown.tables["pairs"]) == 1 + 10
    cost = {row[0]: row[1:] for row in shown.tables["cost"]}
    assert cost["Model"][:3] == ["Total", "VGG16 pass", "Tuning"]
    # 60 seconds for 3 n photos and half a second for n.
    speed = f"{1 / (60 / (3 * n) + 0.5 / n):,.1f}"
    assert cost["svm"] == (
        ["16 min 0 s", "1 min 0 s", "—", "15 min 0 s", "0.50 s", speed, "1.2 MB", "1,234"]
    )
    assert cost["baseline"][:3] == ["15 min 0 s", "—", "—"]
    assert cost["baseline"][5] == f"{n / 0.5:,.1f}"
    assert "at all requested sizes, took 1 min 1 s." in shown.words.replace("\n", " ")
    assert sum(int(row[-1]) for row in shown.tables["photos"][1:]) == 3 * n
    assert shown.tables["skipped"][1:] == [["b.fcgi", "not an image"], ["a.jpg", "truncated"]]
    assert shown.tables["near"][1:] == [["00001 ü.jpg (test)", "00003 ü.jpg (train)", "0.988"]]
    third_epoch = ["3", "<b>block5", "0.250", "nan", "1.000", "0.750", "3.000"]
    assert shown.tables["curve-0"][3] == third_epoch
    assert shown.tables["needed-photos"][1:] == [["1", "50.0% ± 12.5"], ["1,000", "50.0% ± 12.5"]]
    spread = "50.0% ± 25.0"
    assert shown.tables["protocol-0"][1:] == [["svm", spread, spread, "0.500", "0.500"]]
    assert ["seed", "3"] in shown.tables["provenance"]
    assert ["weights", "VGG16 <ImageNet>"] in shown.tables["provenance"]
    assert [row[3] for row in shown.tables["made"][1:]] == ["a <machine>"] * 5
    assert "python -m classify train chess --heads svm --seed 0" in shown.words
    assert "old: made from other photos" in shown.words
    root = found.features.attributes["root"]
    assert root not in shown.words


def test_pictures_are_of_the_photos_named(found: Comparison, shown: Page) -> None:
    cards = [card for cards in shown.galleries.values() for card in cards]
    assert len(cards) > 20
    for address, lines in cards:
        row = int(re.findall(r"(\d{5}) ü", " ".join(lines))[0])
        if row % 2 == 0:
            assert address == ""
            assert lines[0] == "no longer there"
            continue
        with Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))) as thumbnail:
            assert thumbnail.size == picture(row).size
            mean = np.asarray(thumbnail, float).mean(axis=(0, 1))
        assert np.abs(mean - np.asarray(picture(row), float).mean(axis=(0, 1))).max() < 6
    suspects = shown.galleries["Labels to check"][-2:]
    assert [lines[-3:] for _, lines in suspects] == [
        ["class 1", "class 0 99%", "00003 ü.jpg"],
        ["class 0", "class 1 70%", "00000 ü.jpg"],
    ]


def test_page_needs_no_network_and_no_second_file(text: str, shown: Page) -> None:
    assert not {"link", "iframe", "object", "image", "base", "form"} & set(shown.tags)
    assert shown.tags.count("script") == 1
    for _, name, value in shown.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith(("#", "data:image/webp;base64,"))
        assert not name.startswith("on")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert set(re.findall(r"https?://[^\"'< ]*", text)) == {"http://www.w3.org/2000/svg"}
    (policy,) = [v for tag, name, v in shown.attributes if (tag, name) == ("meta", "content")][:1]
    script = re.findall(r"(?s)<script>(.*?)</script>", text)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_ids_are_unique_and_references_lead_somewhere(text: str, shown: Page) -> None:
    ids = [value for _, name, value in shown.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for _, name, value in shown.attributes if name == "href"}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used
    assert used <= set(ids)


def test_every_picture_and_chart_has_words(text: str, shown: Page) -> None:
    assert shown.tags.count("img") == len(re.findall(r"<img [^>]* alt=\"[^\"]+\"", text))
    assert shown.tags.count("svg") == len(re.findall(r"<svg [^>]*aria-label=\"[^\"]+\"", text))


def test_one_perfect_model_has_no_paired_tests_and_no_mistakes(tmp_path: Path) -> None:
    shown = Page(page.page(comparison(tmp_path, fake_features(["a", "b"]), svm=[])))
    assert "pairs" not in shown.tables
    assert shown.galleries == {}
    assert "The only model is svm" in shown.words
    assert "The labels of train and val were not checked" in shown.words


def test_models_that_tie(tmp_path: Path) -> None:
    shown = Page(page.page(comparison(tmp_path, fake_features(["a", "b"]), x=[0], y=[0])))
    assert "No model is clearly the best" in shown.words
    assert [row[0] for row in shown.tables["models"][1:]] == ["x", "y"]
    assert shown.tables["pairs"][1] == ["x", "y", "0", "0", "1.000", "1.000"]


@not_on_windows
def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    features = fake_features(
        HOSTILE, skipped=[("<img src=x onerror=alert(1)>\u202e.jpg", "`|\n# no")]
    )
    features.data = '"><script>'
    features.paths = [f"{HOSTILE[0]}/{path}" for path in features.paths]
    runs = {"<b>$\\frac$|日本": [0], "_svm_": [0, 1, 2]}
    found = comparison(tmp_path, features, **runs)
    found = replace(found, label_check=LabelCheck("svm", 9, [Suspect(0, 0, 4, 0.1, 0.9)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page.page(found)
    shown = Page(text)
    assert not {"img", "b"} & set(shown.tags)
    assert shown.tags.count("script") == 1
    assert "alert(1)" not in re.findall(r"(?s)<script>(.*?)</script>", text)[-1]
    assert "onerror" not in [name for _, name, _ in shown.attributes]
    names = [one_line(name) for name in HOSTILE]
    assert shown.tables["matrix-0"][0][1:] == names
    assert [row[0] for row in shown.tables["photos"][1:]] == names
    assert shown.tables["skipped"][1][0] == "<img src=x onerror=alert(1)>\\u202e.jpg"
    assert [row[0] for row in shown.tables["models"][1:]] == list(runs)
    assert shown.galleries["_svm_"][0][1][1:3] == [names[0], f"{names[1]} 90%"]


def page_with(tmp_path: Path, history: dict[str, Any]) -> Page:
    features = fake_features(["a", "b"])
    folder = save(tmp_path, features, "baseline", [0], stage="network")
    (folder / "history.json").write_text(json.dumps(history))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Page(page.page(compare(features, [folder])))


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [1.0]},
        {"val_accuracy": [0.5, None, 0.7], "phase": ["a", "a", "b"]},
        {"phase": ["a", "b"]},
    ],
)
def test_any_history_is_drawn(tmp_path: Path, history: dict[str, Any]) -> None:
    (epochs,) = {len(values) for values in history.values()}
    assert len(page_with(tmp_path, history).tables["curve-0"]) == epochs + 1


@pytest.mark.parametrize(
    "history",
    [
        {"val_accuracy": [0.5, "x"], "phase": ["a", "a"]},
        {"phase": ["a", "b"], "seconds": [1.0]},
        {"loss": 1.0},
    ],
)
def test_a_damaged_history_is_told_and_the_rest_is_shown(
    tmp_path: Path, history: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "curve-0" not in page_with(tmp_path, history).tables
    assert "so the report has no learning curves of baseline" in capsys.readouterr().err


def test_no_time_and_perfect_accuracy_are_drawn(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "svm", [], seconds={}),
        save(tmp_path, features, "mlp", [], seconds={"features": 5.0, "fit": 0.0}),
    ]
    assert "100.0%" in page.page(compare(features, folders))


def test_ten_thousand_photos_make_less_than_five_megabytes(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(102)]
    features = fake_features(names, test=10_000)
    features.skipped = [
        (f"{i}.txt", "not an image file that Pillow can read") for i in range(10_000)
    ]
    features.near = [(i, i + 1, 0.99) for i in range(9_000)]
    features.attributes["root"] = str(tmp_path)
    # Noise, which compresses worst.
    picture(0, size=(400, 300)).save(tmp_path / "noise.jpg", quality=95)
    features.digests = [hashlib.sha256((tmp_path / "noise.jpg").read_bytes()).hexdigest()] * 30_000
    features.paths = [f"a{'/' * i}/../noise.jpg" for i in range(2)] * 15_000
    (tmp_path / "a").mkdir()
    found = comparison(tmp_path, features, **{f"m{i}": range(i, 5000) for i in range(5)})
    suspects = [Suspect(i, 0, 1, 0.1, 0.9) for i in range(5_000)]
    text = page.page(replace(found, label_check=LabelCheck("svm", 20_000, suspects)))
    assert text.count("<img") == 5 * SHOWN_PER_MODEL + 4 * page.MAX_PICTURES
    assert len(text.encode()) < 5e6
    assert "These are the first 200" in text


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """Compare five models of 19 classes, some with hostile names, and write the page."""
    folder = tmp_path_factory.mktemp("written")
    names = [*HOSTILE, *(f"class {i}" for i in range(8))]
    found = five(folder, names, test=130, taps={"block5_avg": 19})
    path = folder / "index.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "MOST_PHOTOS", 60)
        path.write_text(page.page(found), encoding="utf-8")
    return found, path


def test_the_map_and_its_list_show_the_same_photos(written: tuple[Comparison, Path]) -> None:
    found, path = written
    text = path.read_text(encoding="utf-8")
    shown = Page(text)
    heading, *rows = shown.tables["map-list"]
    assert heading == ["Photo", "Label", "Split", "Probabilities", "Marks"]
    assert len(rows) == len(re.findall('<span class="spot [^"]*" data-class', text)) == 60
    assert "These are 60 of 390 photos" in shown.words.replace("\n", " ")
    features, best = found.features, found.models[0]
    test = np.flatnonzero(features.splits == "test").tolist()
    wrong = {
        features.paths[row] for row, right in zip(test, best.correct, strict=True) if not right
    }
    for photo, label, split, answers, marks in rows:
        row = features.paths.index(photo)
        assert label == one_line(features.class_names[features.labels[row]]).strip()
        assert split == features.splits[row]
        assert (answers == "—") == (split != "test")
        assert (f"mistake of {best.name}" in marks) == (photo in wrong)
    assert "Johnson, “How to Use t-SNE Effectively”" in shown.words


def test_what_next_stands_at_the_end_with_commands(found: Comparison, shown: Page) -> None:
    steps = next_steps(found, data="chess")
    assert steps
    end = " ".join(shown.words.split("What next")[-1].split())
    places = [end.index(f"{100 * step.gain:.1f} points. {step.reason}") for step in steps]
    assert places == sorted(places)
    for step in steps:
        assert step.command in end


@browser.needed
def test_a_browser_shows_the_map(written: tuple[Comparison, Path]) -> None:
    _, path = written
    with browser.running() as chromium:
        seen = browser.visit(chromium, path.as_uri(), width=1200)
        frames = "[...document.querySelectorAll('.scroll')]"
        wide = f"{frames}.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerHTML)"
        assert seen.page.evaluate(wide) == []
        spots, card = seen.page.locator(".plane .spot"), seen.page.locator(".card")
        pictured = spots.filter(has=seen.page.locator(".picture:not(.bare)"))
        square = pictured.first.bounding_box() or {}
        assert 10 < square["width"] < 120
        row = seen.page.locator("#map-list tbody tr").nth(7)
        words = [" ".join(cell.split()) for cell in row.locator("th, td").all_text_contents()]
        assert not card.is_visible()
        spots.nth(7).dispatch_event("click")
        for shown in (words[0], words[1], words[2]):
            assert shown in (card.text_content() or "")
        seen.page.locator(".pan").focus()
        texts = {card.text_content()}
        for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
            seen.page.keyboard.press(key)
            texts.add(card.text_content())
        assert len(texts) > 1

        def visible(split: str) -> int:
            return seen.page.locator(f".plane .spot.{split}:visible").count()

        assert visible("train") > 0
        seen.page.locator("#map-train").uncheck()
        assert (visible("train"), visible("test") > 0) == (0, True)
        marks = seen.page.locator(".plane b.mistake:visible")
        assert marks.count() > 0
        seen.page.locator("#map-mistake").uncheck()
        assert marks.count() == 0
        width = "document.querySelector('.plane').clientWidth"
        narrow = seen.page.evaluate(width)
        seen.page.get_by_role("button", name="Closer").click()
        assert seen.page.evaluate(width) == pytest.approx(1.5 * narrow, abs=2)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1200
        seen.page.locator(".tools select").select_option("3")
        assert seen.page.locator(".spot.faded").count() > 40
        assert seen.requests == [path.as_uri()]
        assert seen.complaints == []


@browser.needed
def test_a_browser_shows_it_without_a_request(written: tuple[Comparison, Path]) -> None:
    _, path = written
    with browser.running() as chromium:
        for width in (1280, 390):
            grounds = set()
            for dark in (False, True):
                seen = browser.visit(chromium, path.as_uri(), width=width, dark=dark)
                root = "document.documentElement"
                grounds.add(seen.page.evaluate(f"getComputedStyle({root}).backgroundColor"))
                assert seen.page.evaluate(f"{root}.scrollWidth") <= width
                with Image.open(io.BytesIO(seen.page.screenshot(full_page=True))) as shot:
                    assert shot.width <= width
                    assert shot.height > 3000
                    assert len(shot.convert("L").getcolors() or []) > 100
                assert seen.requests == [path.as_uri()]
                assert seen.complaints == []
                broken = "[...document.images].filter(image => !image.naturalWidth).length"
                assert seen.page.evaluate(broken) == 0
            assert len(grounds) == 2
        seen = browser.visit(chromium, path.as_uri(), width=1280, scripts=False)
        assert seen.requests == [path.as_uri()]
        assert seen.complaints == []
        assert seen.page.locator("#recalls tbody tr").count() == 19


@browser.needed
def test_a_browser_sorts_and_filters_the_tables(written: tuple[Comparison, Path]) -> None:
    found, path = written
    with browser.running() as chromium:
        seen = browser.visit(chromium, path.as_uri(), width=1280)

        def column(table: str, place: int) -> list[str]:
            cells = seen.page.locator(f"#{table} tbody tr:not([hidden])")
            return cells.locator(f":nth-child({place + 1} of td, th)").all_text_contents()

        def press(table: str, place: int) -> None:
            seen.page.locator(f"#{table} th button").nth(place).press("Enter")

        total = {model.name: model.total_seconds for model in found.models}
        press("cost", 1)
        dearest = column("cost", 0)
        assert [total[model] for model in dearest] == sorted(total.values(), reverse=True)
        press("cost", 1)
        assert [total[model] for model in column("cost", 0)] == sorted(total.values())
        assert seen.page.locator("#cost th").nth(1).get_attribute("aria-sort") == "ascending"
        # A dash comes after the numbers in both orders.
        for _ in range(2):
            press("cost", 2)
            assert column("cost", 2)[-2:] == ["—", "—"]
        press("cost", 0)
        assert column("cost", 0) == sorted(total)
        assert len(column("recalls", 0)) == 19
        seen.page.get_by_role("searchbox").first.fill("CLASS 7")
        assert column("recalls", 0) == ["class 7"]
        assert seen.requests == [path.as_uri()]
        assert seen.complaints == []


@browser.needed
def test_the_browser_of_these_tests_sees_requests_and_complaints(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<img src=gone.png><script>console.error(1); throw Error('x')</script>")
    with browser.running() as chromium:
        seen = browser.visit(chromium, path.as_uri(), width=800)
        assert seen.requests == [path.as_uri(), (tmp_path / "gone.png").as_uri()]
        assert {"error: 1", "x"} <= set(seen.complaints)
