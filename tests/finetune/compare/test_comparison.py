from pathlib import Path

import pytest

from extract.system.console import InputError
from finetune.compare.comparison import compare
from finetune.compare.significance import mcnemar
from tests.synthetic_results import features, save


def test_a_paired_test_counts_the_photos_that_only_one_model_gets_right(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [0]), save(tmp_path, of, "y", [1, 2, 3, 4, 5, 6, 7])]
    (test,) = compare(of, folders).paired_tests
    assert (test.first, test.second) == ("x", "y")
    assert (test.only_first_correct, test.only_second_correct) == (7, 1)
    assert test.p == test.p_holm == mcnemar(7, 1)


def test_every_two_models_are_tested_and_all_p_values_corrected(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, name, range(n)) for name, n in (("x", 0), ("y", 6), ("z", 7))]
    tests = compare(of, folders).paired_tests
    assert [(test.first, test.second) for test in tests] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [test.p for test in tests] == [mcnemar(6, 0), mcnemar(7, 0), mcnemar(1, 0)]
    assert tests[1].p_holm == 3 * tests[1].p


def test_equal_predictions_are_a_tie(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, name, [2]) for name in ("y", "x")])
    assert [model.name for model in found.models] == ["x", "y"]
    assert found.paired_tests[0].p == 1
    assert "No model is clearly the best" in found.verdict


def test_nothing_left_to_compare(tmp_path: Path) -> None:
    of = features(["a", "b"])
    with pytest.raises(InputError, match=r"`make heads`$"):
        compare(of, [])
    with pytest.raises(InputError, match="`make heads`; old: made from other photos"):
        compare(of, [save(tmp_path, of, "old", [], data_digest="0" * 64)])
