from pathlib import Path

from finetune.compare.comparison import compare
from tests.synthetic_results import features, save


def test_verdict_with_a_winner(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", []), save(tmp_path, of, "y", range(9))]
    text = compare(of, folders).verdict
    assert text.startswith(
        "Use x. It is the most accurate model, and it differs significantly from"
    )
    assert "largest p = 0.0039" in text
    assert "accuracy is 100.0% (95% interval 83.9% to 100.0%), and it took 1 min 4 s" in text


def test_verdict_without_a_winner_takes_the_first_of_those_at_no_more_than_twice_the_least(
    tmp_path: Path,
) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", [], seconds={"fit": 25.0}),
        save(tmp_path, of, "y", [1], seconds={"features": 10.0, "fit": 8.0}),
        save(tmp_path, of, "z", [1, 2], seconds={"fit": 12.0}),
        save(tmp_path, of, "worse", range(15), seconds={"fit": 0.1}),
    ]
    text = compare(of, folders).verdict
    assert text.startswith(
        "No model is clearly the best. Use y: its accuracy is 95.0%, and it took 18 s. x ranks"
    )
    assert "but it took 25 s, and on 20 test photos the two do not differ significantly" in text
    assert text.endswith("p = 1).")


def test_verdict_without_a_winner_takes_the_best_where_none_is_much_cheaper(
    tmp_path: Path,
) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", [], seconds={"fit": 20.0}),
        save(tmp_path, of, "y", [1], seconds={"fit": 10.0}),
        save(tmp_path, of, "worse", range(15), seconds={"fit": 0.1}),
    ]
    text = compare(of, folders).verdict
    assert text.startswith(
        "No model is clearly the best. Use x: it ranks first, its accuracy is 100.0%"
    )
    assert "On 20 test photos it does not differ significantly from y (" in text
    assert text.endswith("none of them takes less than half as long.")


def test_no_model_is_recommended_that_guessing_may_equal(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, name, range(6)) for name in ("x", "y")])
    assert found.verdict.startswith("Do not use any of these models yet. x ranks first")
    assert "its accuracy is 70.0% (95% interval 48.1% to 85.5%)" in found.verdict
    assert "On 20 test photos that cannot be told apart from always predicting" in found.verdict
    assert found.verdict.endswith("which is correct for 50.0%.")


def test_one_win_in_many_comparisons_is_not_called_significant(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [])]
    folders += [save(tmp_path, of, f"y{i}", range(6)) for i in range(4)]
    found = compare(of, folders)
    assert all(test.p < 0.05 < test.p_holm for test in found.paired_tests if test.first == "x")
    assert found.verdict.startswith("No model is clearly the best")


def test_a_single_model_is_not_tested(tmp_path: Path) -> None:
    of = features(["a", "b"])
    text = compare(of, [save(tmp_path, of, "svm", [0, 1, 2])]).verdict
    assert text.startswith("svm is the only model. Its accuracy is 85.0%")
    assert text.endswith("and it took 1 min 4 s.")
