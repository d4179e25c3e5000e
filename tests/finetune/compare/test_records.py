from pathlib import Path
from typing import Any

import pytest

from classify import results
from classify.results import wilson_interval
from extract.vgg16.recipe import joint_digest, recipe
from finetune.compare.comparison import compare
from finetune.compare.records import read_records
from tests.synthetic_results import edit, fake_features, save

TAMPERED: list[dict[str, Any]] = [
    {"metrics": {"accuracy": 1.0}},
    {"metrics": {"accuracy": 0.96, "mean_class_recall": 0.95, "macro_f1": 0.95, "log_loss": 0.2}},
    {"metrics": {}},
    {"metrics": None},
    {"metrics": {"accuracy": "high"}},
    {"class_names": ["b", "a"]},
    {"seconds": None},
    {"seconds": {"fit": "long"}},
]


def test_figures_follow_from_the_predictions(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    (model,), refused = read_records(features, [save(tmp_path, features, "svm", [0, 1, 2])])
    assert model.accuracy == 0.85
    assert model.accuracy_interval == wilson_interval(17, 20)
    assert model.total_seconds == 63.5
    assert model.confusion.tolist() == [[8, 2], [1, 9]]
    assert model.correct.sum() == 17
    assert refused == []


def test_models_are_ordered_by_accuracy_then_log_loss_then_name(tmp_path: Path) -> None:
    features = fake_features(["a", "b", "c"])
    folders = [
        save(tmp_path, features, "a", [0, 1]),
        save(tmp_path, features, "b", [3], sure=0.8),
        save(tmp_path, features, "c", [4]),
        save(tmp_path, features, "d", [5]),
    ]
    for order in (folders, folders[::-1]):
        found = compare(features, order)
        assert [model.name for model in found.models] == ["c", "d", "b", "a"]


@pytest.mark.parametrize(
    ("stage", "command"), [("head", "make heads"), ("network", "make finetune")]
)
def test_other_data_is_refused_by_name(tmp_path: Path, stage: str, command: str) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "svm", []),
        save(tmp_path, features, "old", [], stage=stage, data_digest="0" * 64),
    ]
    (model,), (sentence,) = read_records(features, folders)
    assert model.name == "svm"
    assert sentence.startswith("old: made from other photos")
    assert f"`{command}`" in sentence


def test_a_result_of_other_weights_is_refused_and_one_of_fewer_sizes_is_not(tmp_path: Path) -> None:
    recipes = {size: recipe("0" * 64, size=size) for size in (224, 320)}
    features = fake_features(["a", "b"], recipe_digest=joint_digest(recipes.values()))
    features.sizes, features.recipes = [224, 320], recipes
    at_224 = joint_digest([recipes[224]])
    folders = [
        save(tmp_path, features, "both", [], sizes=[224, 320]),
        save(tmp_path, features, "one", [], recipe_digest=at_224),
        save(tmp_path, features, "more", [], recipe_digest="1" * 64, sizes=[224, 96]),
        save(tmp_path, features, "other", [], recipe_digest="1" * 64),
    ]
    models, (sentence,) = read_records(features, folders)
    assert {model.name for model in models} == {"both", "one", "more"}
    assert sentence.startswith("other: made with other weights or pixels than these features")


@pytest.mark.parametrize("changes", TAMPERED)
def test_tampered_record_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    features = fake_features(["a", "b"])
    folders = [save(tmp_path, features, "good", []), save(tmp_path, features, "bad", [1])]
    edit(folders[1], **changes)
    (model,), (sentence,) = read_records(features, folders)
    assert model.name == "good"
    assert sentence.startswith("bad: ")
    assert ("damaged" in sentence and "`make heads`" in sentence) or "train it again" in sentence


@pytest.mark.parametrize("name", ["accuracy", "mean_class_recall", "macro_f1", "log_loss"])
def test_each_metric_is_checked(tmp_path: Path, name: str) -> None:
    features = fake_features(["a", "b"])
    good, bad = save(tmp_path, features, "good", []), save(tmp_path, features, "bad", [1])
    metrics = results.load(bad).metrics
    edit(bad, metrics=metrics | {name: metrics[name] + 0.001})
    _, (sentence,) = read_records(features, [good, bad])
    assert "metrics" in sentence


def test_predictions_for_other_photos_are_refused(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    good = save(tmp_path, features, "good", [])
    swapped = fake_features(["a", "b"])
    swapped.paths[1], swapped.paths[4] = swapped.paths[4], swapped.paths[1]
    relabelled = fake_features(["a", "b"])
    relabelled.labels[1] = 1
    fewer = fake_features(["a", "b"])
    fewer.splits[1] = "train"
    for other, reason in ((swapped, "photos"), (relabelled, "true classes"), (fewer, "photos")):
        (model,), (sentence,) = read_records(features, [good, save(tmp_path, other, "bad", [])])
        assert model.name == "good"
        assert sentence.startswith("bad: damaged")
        assert reason in sentence


def test_unreadable_results_are_refused_and_the_others_compared(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [save(tmp_path, features, name, []) for name in ("good", "cut", "gone")]
    record = folders[1] / "result.json"
    record.write_bytes(record.read_bytes()[:50])
    (folders[2] / "predictions.h5").unlink()
    (model,), refused = read_records(features, folders)
    assert model.name == "good"
    assert [sentence.split(":")[0] for sentence in refused] == ["cut", "gone"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"loss": 3}',
        '{"loss": [1.0, NaN], "phase": null}',
        '{"loss": ["x"], "phase": [[]]}',
        '{"loss": [1' + "0" * 400 + "]}",
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_any_history_can_be_read(tmp_path: Path, text: str) -> None:
    features = fake_features(["a", "b"])
    folder = save(tmp_path, features, "baseline", [], stage="network")
    (folder / "history.json").write_text(text)
    (model,), _ = read_records(features, [folder])
    assert all(isinstance(values, list) for values in model.history.values())


def test_speed_includes_vgg16_where_the_test_photos_came_from_its_cache(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    features.digests[3] = features.digests[0]
    seconds = {"features": 59.0, "fit": 9.0, "predict": 10.0}
    head = save(tmp_path, features, "svm", [], seconds=seconds)
    network = save(tmp_path, features, "finetuned", [1], stage="network", seconds=seconds)
    unknown = save(tmp_path, features, "mlp", [1, 2], seconds={"features": 59.0})
    layer = {"predicted_from": "block4_pool"}
    cached = save(
        *(tmp_path, features, "cached", [1]),
        stage="network",
        seconds=seconds,
        hyperparameters=layer,
    )
    models, _ = read_records(features, [head, network, unknown, cached])
    # VGG16 took a second for each of 59 distinct photos; predicting took half a second for each of
    # 20 test photos.
    assert [model.photos_per_second for model in models] == [1 / 1.5, 2.0, None, 1 / 1.5]


def test_size_is_that_of_the_model_file(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [save(tmp_path, features, name, []) for name in ("svm", "baseline", "gone")]
    (folders[0] / "head.skops").write_bytes(bytes(300))
    (folders[1] / "model.keras").write_bytes(bytes(5000))
    models, _ = read_records(features, folders)
    assert {model.name: model.model_bytes for model in models} == {
        "svm": 300,
        "baseline": 5000,
        "gone": None,
    }
