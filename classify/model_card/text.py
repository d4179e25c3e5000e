"""The model card of a result, as Markdown (Mitchell et al., "Model cards", FAT* 2019)."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from extract.system.console import one_line

TEMPLATE = """\
# {model}, trained on {data}

{what} It gives a probability for each of {k} classes.
Onepass made it on {created} with seed {seed}.

## Data

It learned from the photos of {learned_from}. The classes:

````
{classes}
````

The digest of the photos, labels and splits is `{data_digest}`.

## How good it is

Measured on {n} test photos, which had no part in any choice:

| | |
|---|---|
| accuracy | {accuracy:.1%} (95% interval {low:.1%} to {high:.1%}) |
{metrics}

The interval is Wilson's. It covers the draw of the test photos, not that of the training photos.

## Limits

- It always names one of its classes. {novelty}
- It was measured on photos like those of {data}. On others it may be worse without saying so.
- It sees a photo squashed to a square{sizes}.
- The probabilities are those of photos that come in the proportions of the training photos.

## How to use it

In the folder that holds `runs/`:

```
onepass predict {model} PHOTO --data {data_word}
onepass serve {model} --data {data_word}
onepass export runs/{data_word}/{model} --to onnx
```

`result.json` has the hyper-parameters, every candidate that was tried, and the versions.
"""

WHAT = {
    "head": "A scikit-learn classifier on the features of a frozen VGG16 (ImageNet weights).",
    "network": "A Keras network that takes photos.",
}

SHOWN = {
    "mean_class_recall": "mean recall of the classes",
    "macro_f1": "macro F1",
    "log_loss": "log loss, nats",
    "calibration_error": "calibration error",
    "top5_accuracy": "top-5 accuracy",
}


class Tested(NamedTuple):
    """The accuracy on test photos.

    Attributes
    ----------
    photos : int
    low, high : float
        Ends of its 95% interval, 0..1.
    """

    photos: int
    low: float
    high: float


def text(record: Mapping[str, Any], tested: Tested) -> str:
    """Write the card of a result.

    Parameters
    ----------
    record : mapping
        The fields of `classify.results.Result`.
    tested : Tested
    """
    metrics = record["metrics"]
    rows = [f"| {name} | {metrics[key]:.3f} |" for key, name in SHOWN.items() if key in metrics]
    keep = record["novelty"].get("keep")
    novelty = (
        "`none of these` is said of photos that are like none of them; "
        f"{keep:.0%} of photos of the known classes are kept."
        if keep
        else "It does not notice photos of other things."
    )
    data = one_line(record["data"])
    return TEMPLATE.format(
        model=record["model"],
        data=_plain(data),
        data_word=data if data.replace("-", "").replace("_", "").isalnum() else json.dumps(data),
        what=WHAT[record["stage"]],
        k=len(record["class_names"]),
        created=record["created"],
        seed=record["seed"],
        learned_from=" and ".join(record["learned_from"]),
        classes="\n".join(one_line(name).replace("`", "\\x60") for name in record["class_names"]),
        data_digest=record["data_digest"],
        n=f"{tested.photos:,}",
        accuracy=metrics["accuracy"],
        low=tested.low,
        high=tested.high,
        metrics="\n".join(rows),
        novelty=novelty,
        sizes=_sizes(record),
    )


def _sizes(record: Mapping[str, Any]) -> str:
    if record["stage"] != "head":
        return ""
    return " of " + " and ".join(f"{size} x {size}" for size in record["sizes"]) + " pixels"


def _plain(name: str) -> str:
    """Keep a name from being read as Markdown or HTML."""
    return "".join(one if one.isalnum() or one in " -_." else f"&#{ord(one)};" for one in name)
