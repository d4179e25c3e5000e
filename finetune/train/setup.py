"""Set up a training before its loop starts: the network, the data and the schedule."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from extract.compute import activations
from extract.compute.activations import Activations
from extract.store.features_file import SPLITS, Features
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from extract.vgg16.weights import Weights
from finetune.train import logistic_top, networks, schedule
from finetune.train.batches import (
    ActivationBatches,
    Batching,
    PhotoBatches,
    TrainingData,
)
from finetune.train.hardware import Hardware
from finetune.train.loop import History
from finetune.train.request import (
    BaselineOptions,
    FinetunedAllOptions,
    FinetunedOptions,
    identity,
)
from finetune.train.schedule import BATCH_SIZE, Phase
from finetune.train.start import Start

Batches = Callable[..., Any]
"""Makes the batches of a split: `ActivationBatches` or `PhotoBatches`."""


@dataclass(frozen=True)
class Setup:
    """A network that is ready for its last phase of training.

    Attributes
    ----------
    network : keras.Model
        Photos to probabilities.
    trained_part : keras.Model
        The model for the training loop: `network`, or its last layers if `data` has the
        activations before them. The layers are shared.
    data : TrainingData
    phase : Phase
    build : callable
        Builds a network of the same layers for `Hardware.portable`.
    history : dict of str to list
        Learning curves of the earlier phases, one entry per epoch; empty if there are none.
    hyperparameters : dict
        Hyperparameters of the earlier phases, by phase; ``started_from`` if they were those of
        another network; ``predicted_from``, the layer whose activations `test` has, if it has any.
    seconds : dict of str to float
        ``features`` and ``activations``, if the training uses them. Both are cached; this is the
        time it took to compute them, in this run or an earlier one.
    test : batches
        The test split, in path order. It has what `data` has: photos or activations.
    starts_at : str
        The key of `networks.FROZEN_OUTPUT` whose activations `data` has; empty if it has photos.
    """

    network: keras.Model
    trained_part: keras.Model
    data: TrainingData
    phase: Phase
    build: Callable[[], keras.Model]
    history: History = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    test: Any = None
    starts_at: str = ""


def baseline(
    features: Features, options: BaselineOptions, *, seed: int, hardware: Hardware
) -> Setup:
    """Set up the small network, which is trained from scratch on photos.

    Parameters
    ----------
    features : Features
        Its photos and labels are used, not its taps.
    options : BaselineOptions
    seed : int
    hardware : Hardware
    """
    keras.utils.set_random_seed(seed)
    phase = schedule.choose_phase("scratch", len(features.rows("train")), options)
    build = partial(networks.baseline, len(features.class_names), batch_norm=options.batch_norm)
    with hardware.scope():
        network = build(precision=hardware.precision)
    batching = Batching(phase.schedule.batch_size, balanced=options.balanced)
    photos = partial(PhotoBatches, features, size=networks.BASELINE_SIZE)
    train, val = _splits(photos, batching, seed=seed, hardware=hardware)
    return Setup(
        network,
        trained_part=network,
        data=TrainingData(train, val),
        phase=phase,
        build=build,
        test=photos(split="test"),
    )


def finetuned(
    features: Features,
    vgg16: Weights,
    options: FinetunedOptions,
    *,
    out: Path,
    seed: int,
    hardware: Hardware,
) -> Setup:
    """Give VGG16 a new top, fitted on the cached features, and unfreeze its last layers.

    The trained layers get cached activations if there are frozen layers before them and `options`
    asks for variants. Otherwise the network gets photos, which are augmented in each epoch.

    Parameters
    ----------
    features : Features
    vgg16 : Weights
        The weights that the features were made with.
    options : FinetunedOptions
    out : Path
        Folder that holds ``features/``.
    seed : int
    hardware : Hardware
    """
    keras.utils.set_random_seed(seed)
    phase = schedule.choose_phase(options.unfreeze, len(features.rows("train")), options)
    smoothing = phase.schedule.label_smoothing
    with hardware.scope():
        top, history, chosen = logistic_top.fit(
            features, balanced=options.balanced, label_smoothing=smoothing
        )
        network = networks.vgg16_with(top, vgg16.arrays, precision=hardware.precision)
    networks.unfreeze(network, options.unfreeze)
    is_cached = options.unfreeze in networks.FROZEN_OUTPUT and options.variants
    starts_at = options.unfreeze if is_cached else ""
    hyperparameters: dict[str, Any] = {"top": chosen}
    seconds = {"features": features.seconds_of(SIZE)}
    batches: Batches = partial(PhotoBatches, features, size=SIZE)
    if starts_at:
        layer = hyperparameters["predicted_from"] = networks.FROZEN_OUTPUT[starts_at]
        variants = cached_variants(features, vgg16, layer, variants=options.variants, out=out)
        seconds["activations"] = sum(variant.seconds for variant in variants)
        batches = partial(ActivationBatches, features, variants=variants)
    with hardware.scope():
        trained_part = part_of(network, starts_at)
    batching = Batching(phase.schedule.batch_size, balanced=options.balanced)
    train, val = _splits(batches, batching, seed=seed, hardware=hardware)
    return Setup(
        network,
        trained_part=trained_part,
        data=TrainingData(train, val),
        phase=phase,
        build=lambda: networks.vgg16_with(keras.models.clone_model(top), vgg16.arrays),
        history=history,
        hyperparameters=hyperparameters,
        seconds=seconds,
        test=batches(split="test"),
        starts_at=starts_at,
    )


def finetuned_all(
    features: Features, start: Start, options: FinetunedAllOptions, *, seed: int, hardware: Hardware
) -> Setup:
    """Set up the training of every layer, from a network whose last block was trained.

    Parameters
    ----------
    features : Features
        Its photos and labels are used, not its taps.
    start : Start
    options : FinetunedAllOptions
    seed : int
    hardware : Hardware
    """
    keras.utils.set_random_seed(seed)
    phase = schedule.choose_phase("all", len(features.rows("train")), options)
    top, arrays = networks.parts_of(start.network)

    def build(precision: str = "float32") -> keras.Model:
        own_top = keras.models.clone_model(top)
        own_top.set_weights(top.get_weights())
        return networks.vgg16_with(own_top, arrays, precision=precision, name=options.model)

    with hardware.scope():
        network = build(hardware.precision)
    networks.unfreeze(network, "all")
    batching = Batching(phase.schedule.batch_size, balanced=options.balanced)
    photos = partial(PhotoBatches, features, size=SIZE)
    train, val = _splits(photos, batching, seed=seed, hardware=hardware)
    before, seconds = start.result.hyperparameters, start.result.seconds
    phases = dict.fromkeys(start.history.get("phase", ()))
    return Setup(
        network,
        trained_part=network,
        data=TrainingData(train, val),
        phase=phase,
        build=build,
        history=start.history,
        hyperparameters={
            "started_from": identity(start.result),
            **{name: before[name] for name in phases if name in before},
        },
        seconds={name: seconds[name] for name in ("features", "activations") if name in seconds},
        test=photos(split="test"),
    )


def part_of(network: keras.Model, starts_at: str) -> keras.Model:
    """Return the layers of a network that take what the data has; see `Setup.starts_at`."""
    return networks.tail(network, starts_at) if starts_at else network


def _splits(
    batches: Batches, batching: Batching, *, seed: int, hardware: Hardware
) -> tuple[Any, Any]:
    """Return the batches of the train split, shuffled, and of the val split, in path order."""
    train = batches(split="train", seed=seed, batching=replace(batching, part=hardware.train_part))
    val = batches(
        split="val",
        batching=replace(batching, batch_size=BATCH_SIZE, part=hardware.val_part),
    )
    return train, val


def cached_variants(
    features: Features, vgg16: Weights, layer: str, *, variants: int, out: Path
) -> list[Activations]:
    """Return the activations of a layer, and compute those that are not in the cache.

    The train split has every variant. The others have only the first, the unchanged photo.

    Parameters
    ----------
    features : Features
    vgg16 : Weights
    layer : str
        Key of `extract.vgg16.recipe.MAPS`.
    variants : int
    out : Path
        Folder that holds ``features/``.
    """
    return [
        activations.make(
            features,
            ("train",) if variant else SPLITS,
            vgg16,
            layer=layer,
            variant=variant,
            out=out,
        )
        for variant in range(variants)
    ]
