from pathlib import Path

from finetune.compare.comparison import compare
from tests.synthetic_results import features, save


def test_verdict_with_a_winner(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", []), save(tmp_path, of, "y", range(9))]
    assert compare(of, folders).verdict == (
        "Use x. It is the most accurate model, and it differs significantly from every other model "
        "(McNemar's exact test with Holm's correction, largest p = 0.0039). It has an accuracy of "
        "100.0% (95% interval 83.9% to 100.0%) and took 1 min 4 s."
    )


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
    assert compare(of, folders).verdict == (
        "No model is clearly the best. Use y: it has an accuracy of 95.0% and took 18 s. The "
        "top-ranked model, x, has an accuracy of 100.0% (95% interval 83.9% to 100.0%) and took "
        "25 s. On 20 test photos, the two do not differ significantly (McNemar's exact test with "
        "Holm's correction, p = 1)."
    )


def test_verdict_without_a_winner_takes_the_best_where_none_is_much_cheaper(
    tmp_path: Path,
) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", [], seconds={"fit": 20.0}),
        save(tmp_path, of, "y", [1], seconds={"fit": 10.0}),
        save(tmp_path, of, "z", [1, 2], seconds={"fit": 30.0}),
        save(tmp_path, of, "worse", range(15), seconds={"fit": 0.1}),
    ]
    assert compare(of, folders).verdict == (
        "No model is clearly the best. Use x, which ranks first: it has an accuracy of 100.0% (95% "
        "interval 83.9% to 100.0%) and took 20 s. On 20 test photos, it does not differ "
        "significantly from y or z (McNemar's exact test with Holm's correction, smallest p = 1), "
        "but no such model takes less than half as long."
    )


def test_no_model_is_recommended_that_guessing_may_equal(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, name, range(6)) for name in ("x", "y")])
    assert found.verdict == (
        "No model can be recommended yet. The best is x, with an accuracy of 70.0% (95% interval "
        "48.1% to 85.5%). On 20 test photos, that cannot be told apart from the 50.0% of always "
        "predicting the most frequent class."
    )


def test_one_win_in_many_comparisons_is_not_called_significant(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [])]
    folders += [save(tmp_path, of, f"y{i}", range(6)) for i in range(4)]
    found = compare(of, folders)
    assert all(test.p < 0.05 < test.p_holm for test in found.paired_tests if test.first == "x")
    assert found.verdict.startswith("No model is clearly the best")


def test_a_single_model_is_not_tested(tmp_path: Path) -> None:
    of = features(["a", "b"])
    assert compare(of, [save(tmp_path, of, "svm", [0, 1, 2])]).verdict == (
        "The only model is svm. It has an accuracy of 85.0% (95% interval 64.0% to 94.8%) and took "
        "1 min 4 s."
    )
