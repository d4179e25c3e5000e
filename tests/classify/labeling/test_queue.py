"""What a labelling session asks next."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.labeling import learner, queue
from classify.labeling.learner import Photos
from classify.labeling.queue import Question
from tests.classify.labeling.test_learner import made, without


def asked(photos: Photos, labels: NDArray[np.int64], n: int = 10, **given: Any) -> list[Question]:
    fitted = learner.fit(photos, labels, 3)
    given = {"answered": np.zeros(len(labels), bool), "twins": [], **given}
    return queue.questions(photos, fitted, labels, n=n, **given)


def test_wrong_labels_are_asked_for_first_and_only_once() -> None:
    photos, labels = made(90)
    wrong = labels.copy()
    wrong[[5, 40]] = (labels[[5, 40]] + 1) % 3
    first = asked(photos, wrong)
    assert {question.row for question in first[:2]} == {5, 40}
    assert {question.reason for question in first} == {"label"}
    answered = np.zeros(90, bool)
    answered[5] = True
    assert 5 not in {question.row for question in asked(photos, wrong, answered=answered)}


def test_the_only_label_of_a_class_is_not_doubted() -> None:
    photos, labels = made(60)
    given = without(labels, *np.flatnonzero(labels == 2)[1:])
    rows = {question.row for question in asked(photos, given, 60) if question.reason == "label"}
    assert np.flatnonzero(labels == 2)[0] not in rows


def test_of_near_duplicates_with_different_labels_the_less_plausible_is_asked_for() -> None:
    photos, labels = made(60)
    photos.X[31] = photos.X[1]
    given = labels.copy()
    given[31] = (labels[1] + 1) % 3
    pairs = [(1, 31), (2, 32), (3, 33)]
    assert asked(photos, given, twins=pairs)[0] == Question(31, "twin", 1)
    answered = np.zeros(60, bool)
    answered[31] = True
    assert asked(photos, given, twins=pairs, answered=answered)[0] == Question(1, "twin", 31)
    answered[1] = True
    reasons = [question.reason for question in asked(photos, given, twins=pairs, answered=answered)]
    assert "twin" not in reasons
    # A near-duplicate without a label contradicts nothing.
    unlabelled = asked(photos, without(given, 1), twins=pairs)
    assert "twin" not in [question.reason for question in unlabelled]


def test_labels_to_check_and_photos_of_the_pool_take_turns() -> None:
    photos, labels = made(90)
    given = without(labels, *range(60, 90))
    given[[5, 40]] = (labels[[5, 40]] + 1) % 3
    found = asked(photos, given, 4)
    assert [question.reason for question in found] == ["label", "pool", "label", "pool"]
    assert all(given[question.row] < 0 for question in found[1::2])


def test_ambiguous_photos_that_are_unlike_each_other_are_asked_for() -> None:
    # Four copies of one ambiguous photo, one more that is a little less ambiguous, and sure ones.
    X = np.zeros((13, 4), np.float32)
    X[:4, 0], X[4:8, 1] = 1, 1
    X[8:12, [0, 1]], X[8:12, 2] = 0.5, 1
    X[12, :2], X[12, 3] = (0.55, 0.45), 1
    labels = np.array([0, 0, 0, -1, 1, 1, 1, -1, -1, -1, -1, -1, -1])
    photos = Photos(X, np.zeros(13, bool))
    rows = [question.row for question in asked(photos, labels, 2) if question.reason == "pool"]
    assert rows[0] in range(8, 12)
    assert rows[1] == 12


def test_held_out_photos_are_not_asked_for() -> None:
    photos, labels = made(60)
    photos = Photos(photos.X, np.arange(60) % 2 == 0)
    given = without(labels, *range(40, 60))
    given[:40] = (labels[:40] + (np.arange(40) % 7 == 0)) % 3
    found = asked(photos, given, 60, twins=[(0, 2), (0, 1)])
    assert found
    assert not [question for question in found if photos.held_out[question.row]]


def test_every_photo_of_the_pool_is_asked_for_in_the_end() -> None:
    photos, labels = made(30)
    given = without(labels, *range(10, 30))
    found = asked(photos, given, 100)
    assert sorted(q.row for q in found if q.reason == "pool") == list(range(10, 30))
