"""Measure fine-tuning from cached activations and from photos.

Run ``make DATA=cats_vs_dogs features``, then ``python -m benchmarks.finetune cats_vs_dogs``. Steps
of both kinds alternate, on the same photos. The figures include reading the inputs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from extract import options
from extract.store import features_file, shards
from extract.store.features_file import Features
from extract.system import console, machine
from extract.vgg16 import weights
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from finetune.train import logistic_top, networks, setup
from finetune.train.batches import ActivationBatches, PhotoBatches
from finetune.train.loop import compile_network
from finetune.train.request import FinetunedOptions
from finetune.train.schedule import Schedule, by_rule

CACHED = "from the cache"
END_TO_END = "end to end"


def main() -> None:
    """Measure, print, and write JSON if ``--json`` is given."""
    parser = options.Parser(prog="python -m benchmarks.finetune", description=__doc__)
    options.add_data(parser, "a data set that has features")
    options.add_out(parser, "features/")
    parser.add_argument("--unfreeze", choices=tuple(networks.FROZEN_OUTPUT), default="block5")
    parser.add_argument(
        "--variants",
        type=options.at_least(1),
        default=FinetunedOptions.variants,
        help="how many variants of each photo have their activations cached (default %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=options.at_least(1),
        default=5,
        help="how many batches each kind of step is measured on (default %(default)s)",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=options.path, help="where to write the figures"
    )
    chosen = parser.parse_args()
    with features_file.open(features_file.file_of(chosen.data, chosen.out)) as features:
        figures = {"data": chosen.data, "machine": machine.processor(), **measure(features, chosen)}
    _print(figures)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(features: Features, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure steps from the cache and from photos, alternating."""
    vgg16 = weights.load(None, cache=shards.cache_of(chosen.out))
    layer = networks.FROZEN_OUTPUT[chosen.unfreeze]
    variants = setup.cached_variants(
        *(features, vgg16, layer), variants=chosen.variants, out=chosen.out
    )
    network = networks.vgg16_with(logistic_top.fit(features)[0], vgg16.arrays)
    networks.unfreeze(network, chosen.unfreeze)
    photos = len(features.rows("train"))
    schedule = by_rule(chosen.unfreeze, photos)
    steps = {
        CACHED: _step(
            networks.tail(network, chosen.unfreeze),
            ActivationBatches(features, "train", variants, seed=0),
            schedule,
        ),
        END_TO_END: _step(
            network,
            PhotoBatches(features, "train", size=SIZE, seed=0),
            schedule,
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(chosen.batches + 1):
        for name, step in steps.items():
            taken = step(number)
            # The first step also compiles.
            if number:
                seconds[name].append(taken)
    return {
        "photos": photos,
        "batch": schedule.batch_size,
        "epochs": schedule.epochs,
        "seconds_caching": sum(variant.seconds for variant in variants),
        "seconds_a_step": seconds,
    }


def _step(network: keras.Model, batches: Any, schedule: Schedule) -> Callable[[int], float]:
    """Return a function that trains on one batch and returns the seconds it took."""
    compile_network(network, schedule, len(batches))

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
    console.say(
        f"{figures['data']}, {figures['machine']}, {photos:,} photos to train, batches of {batch}"
    )
    print(f"{'':15}  photos/s  fastest  slowest  s an epoch  s for {epochs} epochs, with caching")
    for name, median in medians.items():
        values = figures["seconds_a_step"][name]
        first = caching if name == CACHED else 0
        total = first + epochs * steps * median
        speeds = f"{batch / median:10.1f}{batch / min(values):9.1f}{batch / max(values):9.1f}"
        print(f"{name:15}{speeds}{steps * median:12.0f}{total:10.0f}")
    ratio = medians[END_TO_END] / medians[CACHED]
    print(f"An epoch from the cache is {ratio:.1f} times as fast; caching took {caching:.0f} s.")


if __name__ == "__main__":
    console.run(main)
