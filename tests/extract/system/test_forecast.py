import pytest

from extract.system.forecast import Forecast, rough


def lines(forecast: Forecast, *, seconds: list[float], n: int = 1) -> list[str]:
    """Return what is said when `n` items are done at each of these times."""
    return [line for now in seconds if (line := forecast.advance(n, now))]


def test_the_time_left_is_told_once_after_fifteen_seconds() -> None:
    forecast = Forecast("VGG16", 7_000, unit="photos")
    # The first item takes 30 s, because something is done once; then 20 photos take 2 s.
    seconds = [30.0 + 2 * step for step in range(100)]
    said = lines(forecast, seconds=seconds[:8], n=20)
    assert said == []
    said = lines(forecast, seconds=seconds[8:], n=20)
    assert said == ["VGG16: about 11 min left for 6,820 photos, at 10 photos/s"]


def test_slow_items_are_told_with_the_second() -> None:
    forecast = Forecast("finetuned", 100, unit="batches", at_most=True)
    assert lines(forecast, seconds=[90.0, 120.0, 150.0]) == [
        "finetuned: at most about 49 min left for 98 batches, at 0.033 batches/s"
    ]


def test_slow_first_items_do_not_count() -> None:
    forecast = Forecast("baseline", 1_000, unit="batches", at_most=True)
    cold, warm = [0.0, 1.0, 2.0, 3.0], [3.5 + step / 2 for step in range(40)]
    assert lines(forecast, seconds=cold + warm) == [
        "baseline: at most about 8.1 min left for 972 batches, at 2 batches/s"
    ]


def test_items_of_an_earlier_run_are_not_left_and_not_fast() -> None:
    forecast = Forecast("digests", 200, unit="photos", done=100)
    assert lines(forecast, seconds=[10.0 * step for step in range(9)]) == [
        "digests: about 16 min left for 97 photos, at 0.1 photos/s"
    ]


@pytest.mark.parametrize(("total", "is_said"), [(75, False), (76, True)])
def test_less_than_a_minute_is_not_told(total: int, is_said: bool) -> None:
    forecast = Forecast("heads", total, unit="steps")
    said = lines(forecast, seconds=[float(second) for second in range(total)])
    assert bool(said) == is_said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (71, "71 s"),
        (119, "120 s"),
        (348, "5.8 min"),
        (3_000, "50 min"),
        (7_190, "120 min"),
        (8_300, "2.3 h"),
        (268_000, "3.1 days"),
    ],
)
def test_a_time_has_two_digits(seconds: float, text: str) -> None:
    assert rough(seconds) == text
