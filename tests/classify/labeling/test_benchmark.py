"""The benchmark that counts labels, on made features."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import label
from tests.synthetic import publish


def test_labels_are_counted_until_the_accuracy_of_random_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = publish(tmp_path, per_class=(30, 10, 10), signal=3.0)
    monkeypatch.setattr(label, "RANDOM_LABELS", 40)
    arguments = [str(path), "--seeds", "1", "--labels", "12", "--json", str(tmp_path / "figures")]
    monkeypatch.setattr(sys, "argv", ["label", *arguments])
    label.main()
    (measured,) = json.loads((tmp_path / "figures").read_text())
    assert len(measured["curve"]) == 10
    assert (measured["photos"], measured["classes"], measured["wrong"]) == (150, 3, 6)
    assert measured["met"] >= 3
    assert path.stem in capsys.readouterr().out


def test_a_chance_peak_reaches_nothing() -> None:
    assert label.reached([0.1, 0.1, 0.9, 0.1, 0.1, 0.1], 0.8, first=3) is None
    assert label.reached([0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9], 0.8, first=3) == 7
