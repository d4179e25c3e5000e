import numpy as np
import pytest
from scipy.stats import binomtest

from finetune.findings.power import expected_loss, photos_needed


def test_the_formula_gives_published_figures() -> None:
    # The example of powerandsamplesize.com's calculator, which cites the same page of Connor.
    assert photos_needed(0.05, 0.45) == photos_needed(0.45, 0.05) == 23
    assert photos_needed(0.06, 0.04) > photos_needed(0.08, 0.02) > photos_needed(0.10, 0.0)


def test_that_many_photos_find_the_difference_in_about_four_of_five_cases() -> None:
    n = photos_needed(0.12, 0.04)
    random = np.random.default_rng(0)
    draws = random.multinomial(n, [0.12, 0.04, 0.84], size=400)
    found = [binomtest(int(one), int(one + other)).pvalue < 0.05 for one, other, _ in draws]
    assert 0.7 < np.mean(found) < 0.88


def test_the_loss_is_the_mean_of_what_a_wrong_choice_costs() -> None:
    mean, spread = 3 / 110, np.sqrt((15 / 110 - (3 / 110) ** 2) / 110)
    drawn = np.random.default_rng(0).normal(mean, spread, 400_000)
    assert expected_loss(9, 6, 110) == pytest.approx(np.maximum(-drawn, 0).mean(), rel=0.02)


def test_the_loss_falls_with_the_difference_and_with_the_photos() -> None:
    assert expected_loss(5, 5, 100) > expected_loss(8, 2, 100) > expected_loss(10, 0, 100)
    assert expected_loss(5, 5, 100) > expected_loss(50, 50, 1000)
    assert expected_loss(0, 0, 100) == 0
