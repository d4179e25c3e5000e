import json
import re
from typing import Any

import numpy as np
import pytest

from classify import results
from finetune.compare.comparison import Comparison
from finetune.report.json_record import SCHEMA, json_record
from tests.conftest import CHECKOUT
from tests.synthetic_results import MODELS, five


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return five(tmp_path_factory.mktemp("house"), [f"class {i}" for i in range(6)], test=60)


def keys(value: Any, *, at: str = "") -> set[str]:
    """Return where every key of a record is: ``models[].seconds``."""
    if isinstance(value, list):
        return set().union(*(keys(one, at=f"{at}[]") for one in value[:1]))
    if not isinstance(value, dict):
        return set()
    found = {f"{at}.{key}".lstrip(".") for key in value}
    return found.union(*(keys(of, at=f"{at}.{key}".lstrip(".")) for key, of in value.items()))


def test_json_has_the_keys_that_are_documented(found: Comparison) -> None:
    schema = (CHECKOUT / "docs/compare-schema.md").read_text()
    (rows,) = re.findall(r"(?s)## One data set\n(.*?)\n## ", schema)
    documented = dict(re.findall(r"(?m)^\| `([^`]+)` \| ([^|]+) \|", rows))
    open_ended = [key for key, kind in documented.items() if "by" in kind]
    written = {
        key
        for key in keys(json_record(found))
        if not any(key.startswith(f"{place}.") for place in open_ended)
    }
    assert written == set(documented)
    assert f"schema {SCHEMA}" in schema


def test_json_holds_the_figures(found: Comparison) -> None:
    record = json.loads(json.dumps(json_record(found), allow_nan=False))
    assert record["test_photos"] == 60
    assert {model["model"] for model in record["models"]} == set(MODELS)
    for model, expected in zip(record["models"], found.models, strict=True):
        assert model["metrics"] == results.metrics(expected.predictions)
        assert model["intervals"]["accuracy"] == list(expected.accuracy_interval)
        assert model["intervals"].keys() == expected.intervals.keys()
        assert model["total_seconds"] == sum(model["seconds"].values())
        confusion = np.array(model["confusion"])
        assert confusion.sum() == 60
        assert model["class_recall"] == (confusion.diagonal() / confusion.sum(axis=1)).tolist()
        assert sum(one["photos"] for one in model["reliability"]) == 60
        right = sum(one["photos"] * (one["accuracy"] or 0) for one in model["reliability"])
        assert right == pytest.approx(confusion.trace())
        assert (model["model_bytes"], model["machine"]) == (1_234_567, "a <machine>")
    assert len(record["pairs"]) == 10
    assert record["skipped"][0] == {"path": "b.fcgi", "reason": "not an image"}
    assert record["near"] == [{"paths": ["00001 ü.jpg", "00003 ü.jpg"], "cosine": 0.98765}]
    assert record["suspects"]["found"][0]["path"] == "00003 ü.jpg"
    assert list(record["learning_curve"]) == ["1", "1000"]
