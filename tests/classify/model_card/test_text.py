"""The card of a model says what its record says, whatever names the classes have."""

from pathlib import Path

from tests.synthetic_results import fake_features, save


def test_the_card_has_the_figures_and_no_name_can_change_its_form(tmp_path: Path) -> None:
    names = ["cats", "````\n# Not a heading <b>"]
    folder = save(tmp_path, fake_features(names, test=20), "svm", [0, 1])
    card = (folder / "README.md").read_text()
    assert card.startswith("# svm, trained on ")
    # 18 of 20 photos are right; the interval is Wilson's.
    assert "| accuracy | 90.0% (95% interval 69.9% to 97.2%) |" in card
    assert "It learned from the photos of train and val." in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == card.splitlines()[:1]
    assert card.count("````") == 2
    assert "onepass predict svm PHOTO" in card
