from finetune.compare.number_formats import (
    alternatives,
    decimal,
    duration,
    file_size,
    interval,
    p_value,
)


def test_durations() -> None:
    texts = [duration(s) for s in (0.0, 0.123, 0.996, 9.94, 9.96, 59.6, 100, 3599.6, 7500, 4e6)]
    assert texts == [
        "0.00 s",
        "0.12 s",
        "1.0 s",
        "9.9 s",
        "10 s",
        "1 min 0 s",
        "1 min 40 s",
        "1 h 0 min",
        "2 h 5 min",
        "1,111 h 7 min",
    ]


def test_alternatives() -> None:
    assert [alternatives(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a or b",
        "a, b or c",
    ]


def test_file_sizes() -> None:
    assert [file_size(n) for n in (1, 99_949, 3_279_893, 59_331_189, 2_500_000_000)] == [
        "0.0 kB",
        "99.9 kB",
        "3.3 MB",
        "59.3 MB",
        "2,500.0 MB",
    ]


def test_p_values() -> None:
    assert [p_value(p) for p in (1.0, 0.0495, 0.001, 0.0009)] == [
        "1.000",
        "0.050",
        "0.001",
        "< 0.001",
    ]


def test_intervals() -> None:
    assert interval((0.766, 0.901)) == "76.6% to 90.1%"
    assert interval((0.4, 0.5), decimal) == "0.400 to 0.500"
