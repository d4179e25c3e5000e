"""Schedules: the rule, and the options that replace it."""

import pytest

from finetune.train.request import BaselineOptions
from finetune.train.schedule import by_rule, choose_phase


@pytest.mark.parametrize("phase", ["scratch", "block5", "block4", "all"])
def test_schedules_grow_shorter_with_more_photos_and_stay_sensible(phase: str) -> None:
    sizes = [1, 10, 100, 300, 1_000, 3_000, 10_000, 1_000_000]
    epochs = [by_rule(phase, photos).epochs for photos in sizes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] >= 1
    for photos in sizes:
        schedule = by_rule(phase, photos)
        assert schedule.patience < schedule.epochs
        assert 0 < schedule.learning_rate <= 3e-3


def test_options_of_the_user_replace_those_of_the_rule() -> None:
    rule = by_rule("scratch", 300)
    assert choose_phase("scratch", 300, BaselineOptions()) == ("scratch", rule)
    options = BaselineOptions(epochs=3, label_smoothing=0.1, batch_size=8)
    _, schedule = choose_phase("scratch", 300, options)
    assert (schedule.epochs, schedule.label_smoothing, schedule.batch_size) == (3, 0.1, 8)
    assert (schedule.learning_rate, schedule.patience) == (rule.learning_rate, rule.patience)
