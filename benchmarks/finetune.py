"""How fast fine-tuning is from cached activations and end to end.

``python -m benchmarks.finetune cats_vs_dogs``, after ``make DATA=cats_vs_dogs features``. Measures
steps of one and the other in turn, on the same photos, reading included.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from extract.store import features_file, shards
from extract.system import console, machine
from extract.vgg16 import weights
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from finetune.train import logistic_top, loop, networks
from finetune.train.batches import ActivationBatches, Batches, augmentation


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("data", help="a data set that has features")
    console.add_out(parser, "features/")
    parser.add_argument("--unfreeze", choices=tuple(networks.ENTERED_BY), default="block5")
    parser.add_argument("--variants", type=int, default=2, help="of each photo")
    parser.add_argument("--batches", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    vgg16 = weights.load(None, cache=shards.cache_of(options.out))
    layer = networks.ENTERED_BY[options.unfreeze]
    with features_file.open(features_file.file_of(options.data, options.out)) as features:
        cached = loop.cached(features, vgg16, layer, variants=options.variants, out=options.out)
        network = networks.vgg16_with(logistic_top.fit(features)[0], vgg16.arrays)
        networks.unfreeze(network, options.unfreeze)
        photos = len(features.rows("train"))
        how = loop.schedule(options.unfreeze, photos)
        steps = {
            "from the cache": _step(
                networks.tail(network, options.unfreeze),
                ActivationBatches(features, "train", cached, seed=0),
                how,
            ),
            "end to end": _step(
                keras.Sequential([keras.Input((SIZE, SIZE, 3)), augmentation(0), network]),
                Batches(features, "train", size=SIZE, seed=0),
                how,
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(options.batches + 1):
            for name, step in steps.items():
                taken = step(number)
                # The first step also compiles.
                if number:
                    seconds[name].append(taken)
    caching = sum(variant.seconds for variant in cached)
    figures = {
        "data": options.data,
        "machine": machine.processor(),
        "photos": photos,
        "batch": how.batch_size,
        "epochs": how.epochs,
        "seconds_caching": caching,
        "seconds_a_step": seconds,
    }
    _print(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _step(network: keras.Model, batches: Any, how: loop.Schedule) -> Callable[[int], float]:
    loop._compile(network, how, len(batches))

    def seconds(number: int) -> float:
        started = time.perf_counter()
        network.train_on_batch(*batches[number])
        return time.perf_counter() - started

    return seconds


def _print(figures: dict[str, Any]) -> None:
    photos, batch, epochs = (figures[name] for name in ("photos", "batch", "epochs"))
    steps = np.ceil(photos / batch)
    medians = {name: statistics.median(s) for name, s in figures["seconds_a_step"].items()}
    caching = figures["seconds_caching"]
    print(
        f"{figures['data']}, {figures['machine']}, {photos:,} photos to train, batches of {batch}"
    )
    print(f"{'':15}  photos/s  fastest  slowest  s an epoch  s for {epochs} epochs, with caching")
    for name, median in medians.items():
        values = figures["seconds_a_step"][name]
        first = caching if name == "from the cache" else 0
        total = first + epochs * steps * median
        speeds = f"{batch / median:10.1f}{batch / min(values):9.1f}{batch / max(values):9.1f}"
        print(f"{name:15}{speeds}{steps * median:12.0f}{total:10.0f}")
    ratio = medians["end to end"] / medians["from the cache"]
    print(f"An epoch from the cache is {ratio:.1f} times as fast; caching took {caching:.0f} s.")


if __name__ == "__main__":
    main()
