"""The comparison as JSON; ``docs/compare-schema.md`` describes every key."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from classify import results
from finetune.compare.comparison import Comparison
from finetune.compare.mistakes import Mistake, class_recalls, shared_mistakes, surest_mistakes
from finetune.compare.records import ModelRecord
from finetune.findings.next_steps import next_steps
from finetune.report import tables
from finetune.report.commands import commands, quoted

SCHEMA = 3

RESULT_FIELDS = (
    *("stage", "metrics", "seconds", "epochs", "parameters", "seed", "hyperparameters", "novelty"),
    *("created", "versions", "machine", "learned_from"),
)
"""The fields that are copied from each `Result`."""


def json_record(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``compare.json``."""
    features, models = comparison.features, comparison.models
    provenance = tables.rows(tables.provenance(comparison))
    recalls = class_recalls(models).T.tolist()
    return {
        "schema": SCHEMA,
        "data": features.data,
        "data_digest": features.data_digest,
        "recipe_digest": features.recipe_digest,
        "provenance": {name.text: value.text for name, value in provenance},
        "commands": commands(comparison),
        "class_names": features.class_names,
        "test_photos": len(models[0].correct),
        "features_seconds": features.seconds,
        "verdict": comparison.verdict,
        "next_steps": [asdict(step) for step in next_steps(comparison, data=quoted(features.data))],
        "models": [
            _model(model, comparison) | {"class_recall": [_finite(value) for value in recall]}
            for model, recall in zip(models, recalls, strict=True)
        ],
        "pairs": _pairs(comparison),
        "refused": comparison.refused,
        "agreed": _mistakes(shared_mistakes(models, features), comparison),
        "suspects": _suspects(comparison),
        "learning_curve": comparison.repeated_splits.learning_curve,
        "protocols": comparison.repeated_splits.protocols,
        "skipped": [{"path": path, "reason": reason} for path, reason in features.skipped],
        "groups": len({group for group in features.groups if group}),
        "grouped_photos": sum(map(bool, features.groups)),
        "same_pictures": len({digest for pair in features.same for digest in pair[:2]}),
        "leakage": _leakage(comparison),
        "near_pairs": features.near_found,
        "near_photos": features.near_photos,
        "near": [
            {"paths": [features.paths[first], features.paths[second]], "cosine": cosine}
            for first, second, cosine in features.near
        ],
    }


def _model(model: ModelRecord, comparison: Comparison) -> dict[str, Any]:
    mistakes = surest_mistakes(model, comparison.features)
    bins = zip(*results.reliability(model.confidence, model.correct), strict=True)
    return (
        {"model": model.name}
        | {name: getattr(model.result, name) for name in RESULT_FIELDS}
        | {
            "intervals": {name: list(bounds) for name, bounds in model.intervals.items()},
            "compared_from": list(model.compared_from),
            "compared_accuracy": model.compared_accuracy,
            "total_seconds": model.total_seconds,
            "photos_per_second": model.photos_per_second,
            "model_bytes": model.model_bytes,
            "confusion": model.confusion.tolist(),
            "reliability": [
                {
                    "photos": int(photos),
                    "confidence": _finite(confidence),
                    "accuracy": _finite(accuracy),
                }
                for photos, confidence, accuracy in bins
            ],
            "mistakes": _mistakes(mistakes, comparison),
        }
    )


def _pairs(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "one": test.first,
            "other": test.second,
            "one_only": test.only_first_correct,
            "other_only": test.only_second_correct,
            "p": test.p,
            "p_holm": test.p_holm,
            "same_photos": test.same_photos,
        }
        for test in comparison.paired_tests
    ]


def _mistakes(mistakes: Sequence[Mistake], comparison: Comparison) -> list[dict[str, Any]]:
    features = comparison.features
    return [
        {
            "path": features.paths[mistake.row],
            "label": features.class_names[mistake.label],
            "said": features.class_names[mistake.predicted],
            "probability": mistake.probability,
        }
        for mistake in mistakes
    ]


def _leakage(comparison: Comparison) -> dict[str, Any] | None:
    leakage = comparison.leakage
    if leakage is None:
        return None
    return leakage._asdict() | {"others": _finite(leakage.others)}


def _suspects(comparison: Comparison) -> dict[str, Any] | None:
    check, features = comparison.label_check, comparison.features
    if check is None:
        return None
    return {
        "head": check.head,
        "photos": check.photos,
        "found": [
            {
                "path": features.paths[suspect.row],
                "label": features.class_names[suspect.label],
                "said": features.class_names[suspect.predicted],
                "label_probability": suspect.label_probability,
                "said_probability": suspect.probability,
            }
            for suspect in check.suspects
        ],
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
