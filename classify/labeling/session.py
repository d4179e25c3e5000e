"""A labelling session: which photo is asked for, what was answered, and what the head thinks.

The head is fitted in a thread of its own. The photo that is asked for and the one after it are
chosen one answer ahead, so that neither waits for the head nor changes under the user's hand.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from classify.arrays import Labels, Matrix
from classify.labeling import learner, queue
from classify.labeling.album import Album
from classify.labeling.answers import Answers, Line
from classify.labeling.queue import Question
from classify.results import wilson_interval

QUESTIONS = 32
"""How many questions are chosen after each fit."""

PATIENCE = 10.0
"""Seconds to wait for a fit when there is no question left."""

NONE = "none"
SKIP = "skip"
LABEL = "label"
UNDO = "undo"


class Stale(Exception):
    """The answer is for another photo than the one that is asked for."""


class Accuracy(NamedTuple):
    """The accuracy on held-out photos after some answers, with its 95% interval."""

    answers: int
    accuracy: float
    low: float
    high: float


class Given(NamedTuple):
    """An answer that counts."""

    row: int
    answer: str


@dataclass
class Head:
    """What the last fit found.

    Attributes
    ----------
    probabilities : ndarray of shape (n, k), float32
    questions : list of Question
        The most useful first.
    curve : list of Accuracy
        The accuracy after each number of answers.
    held_out : int
        How many photos measure the accuracy.
    seconds : float
        How long the fit took.
    version : int
        Which changes of the labels it knows.
    problem : str
        Why a later fit failed.
    """

    probabilities: Matrix
    questions: list[Question]
    curve: list[Accuracy]
    held_out: int
    seconds: float
    version: int
    problem: str = ""


class Session:
    """The state of a session; every method may be called from any thread.

    Parameters
    ----------
    album : Album
    answers : Answers
        Its earlier answers count, and are not asked for again.

    Attributes
    ----------
    class_names : list of str
        Those of the album, and then new ones in the order in which they came.
    labels : ndarray of shape (n,), int64
        -1 for a photo without a label.
    """

    def __init__(self, album: Album, answers: Answers) -> None:
        self.album, self.answers = album, answers
        self.class_names = list(album.class_names)
        self.labels: Labels = album.labels.copy()
        self.photos = learner.Photos(album.X, album.splits != "train")
        self.given: list[Given] = []
        self.current: Question | None = None
        self.following: Question | None = None
        self.lock = threading.Condition()
        self._lines = dict(album.lines)
        self._history: dict[int, list[tuple[str, str]]] = {}
        self._version = 0
        self._closing = False
        self._recall()
        self.head = self._fitted([])
        self._advance()
        self._thread = threading.Thread(target=self._keep_fitted, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread that fits the head."""
        with self.lock:
            self._closing = True
            self.lock.notify_all()
        self._thread.join()

    @property
    def is_behind(self) -> bool:
        """Whether there are answers that the head does not know yet."""
        return self.head.version != self._version

    def relabelled(self, *splits: str) -> int:
        """Return how many photos of the data set have another label than before, or none.

        Only those of the given splits count, if any is given.
        """
        had = self.album.labels >= 0
        if splits:
            had &= np.isin(self.album.splits, splits)
        return int((self.labels != self.album.labels)[had].sum())

    def labelled(self) -> int:
        """Return how many photos of the pool have a label now."""
        return int((self.labels[self.album.labels < 0] >= 0).sum())

    def neighbours(self, row: int, n: int) -> list[tuple[int, float]]:
        """Return the most similar other photos that have a label, and their cosines."""
        cosines = self.album.vectors @ self.album.vectors[row]
        cosines[(self.labels < 0)] = -2
        cosines[row] = -2
        order = np.argsort(-cosines, kind="stable")[:n]
        return [(int(one), float(cosines[one])) for one in order if cosines[one] > -2]

    def give(self, row: int, answer: str, name: str = "") -> None:
        """Take an answer, and go on to the next photo when the answer is on the disk.

        Parameters
        ----------
        row : int
            The photo that was answered.
        answer : str
            ``label``, ``none`` or ``skip``.
        name : str
            The class of the label, which may be a new one.

        Raises
        ------
        Stale
            If another photo is asked for.
        NotSaved
            If the answer could not be written. Nothing has changed then.
        """
        with self.lock:
            if self.current is None or self.current.row != row:
                raise Stale
            self.answers.add([self._line(place, answer, name) for place in self.album.places[row]])
            self.given.append(Given(row, answer))
            self._history.setdefault(row, []).append((answer, name))
            self._apply(row)
            self._refit_soon()
            self._advance()

    def undo(self) -> None:
        """Take back the last answer, and ask for its photo again.

        Raises
        ------
        Stale
            If there is no answer to take back.
        NotSaved
            If this could not be written. Nothing has changed then.
        """
        with self.lock:
            if not self.given:
                raise Stale
            row = self.given[-1].row
            self.answers.add([Line(place, answer=UNDO) for place in self.album.places[row]])
            self.given.pop()
            self._history[row].pop()
            self._apply(row)
            self.current, self.following = Question(row, UNDO), self.current
            self._refit_soon()

    def _line(self, place: str, answer: str, name: str) -> Line:
        # What the manifest says of split and group stays as it is.
        line = self._lines.get(place) or Line(place, split=self._split_of_new)
        return line._replace(label=name if answer == LABEL else "", answer=answer)

    def _recall(self) -> None:
        """Apply what the manifest says, with the answers of earlier sessions."""
        reading = self.answers.reading
        row_of = {place: row for row, places in enumerate(self.album.places) for place in places}
        for place, line in reading.counts().items():
            self._lines[place] = Line(place, line.label, line.split, line.group)
        some_split = any(line.split for line in self._lines.values())
        self._split_of_new = "train" if some_split else ""
        for place, lines in reading.rows.items():
            if (row := row_of.get(place)) is not None:
                self._history[row] = [(line.answer, line.label) for line in lines]
                self._apply(row)
        for line in reading.answers():
            if (row := row_of.get(line.place)) is not None:
                given = Given(row, line.answer)
                # The copies of a photo are answered together.
                self.given += [given] if given not in self.given[-1:] else []

    def _apply(self, row: int) -> None:
        """Give a photo the label that its answers say."""
        decided = [said for said in self._history.get(row, ()) if said[0] != SKIP]
        if not decided:
            self.labels[row] = self.album.labels[row]
            return
        answer, name = decided[-1]
        if answer == LABEL and name not in self.class_names:
            self.class_names.append(name)
        self.labels[row] = self.class_names.index(name) if answer == LABEL else -1

    def _advance(self) -> None:
        """Go on to the next question, and choose the one after it."""
        self.current, self.following = self.following, None
        if self.current is None:
            self.current = self._next()
        if self.current is None and self.is_behind:
            # Only now the user waits for the head.
            self.lock.wait_for(lambda: not self.is_behind, PATIENCE)
            self.current = self._next()
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self.current is None:
            self.current = self._next()
        if self.current is not None and self.following is None:
            self.following = self._next(self.current.row)

    def _next(self, taken: int = -1) -> Question | None:
        """Return the best question that is still open."""
        closed = {given.row for given in self.given} | {taken}
        return next((q for q in self.head.questions if q.row not in closed), None)

    def _refit_soon(self) -> None:
        self._version += 1
        self.lock.notify_all()

    def _keep_fitted(self) -> None:
        while True:
            with self.lock:
                self.lock.wait_for(lambda: self._closing or self.is_behind)
                if self._closing:
                    return
            head = self._fitted(self.head.curve)
            with self.lock:
                self.head = head
                self._look_ahead()
                self.lock.notify_all()

    def _fitted(self, curve: Sequence[Accuracy]) -> Head:
        """Fit the head to the answers so far, and choose what to ask."""
        with self.lock:
            labels, classes, version = self.labels.copy(), len(self.class_names), self._version
            answered = np.zeros(len(labels), bool)
            answered[[given.row for given in self.given]] = True
            answers = len(self.given)
        try:
            fitted = learner.fit(self.photos, labels, classes)
            # Labels of held-out photos are checked too, though the head never learns from them.
            asked = replace(self.photos, held_out=np.zeros(len(labels), bool))
            questions = queue.questions(
                asked, fitted, labels, answered=answered, twins=self.album.twins, n=QUESTIONS
            )
        except Exception as error:
            # The earlier head still serves, and an answer is never lost by it.
            return replace(self.head, version=version, problem=str(error) or repr(error))
        held_out = (self.album.splits == "val") & (labels >= 0)
        right = int((fitted.probabilities.argmax(axis=1) == labels)[held_out].sum())
        n = int(held_out.sum())
        points = [point for point in curve if point.answers < answers]
        if n:
            points.append(Accuracy(answers, right / n, *wilson_interval(right, n)))
        return Head(fitted.probabilities, questions, points, n, fitted.seconds, version)
