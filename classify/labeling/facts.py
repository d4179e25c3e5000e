"""What the labelling page shows: the question, what the head thinks, and the progress."""

from typing import Any

from classify.labeling.queue import Question
from classify.labeling.session import NONE, UNDO, Session
from extract.system.console import count, one_line

TOP = 5
"""How many classes are shown."""

SIMILAR = 6
"""How many similar photos are shown."""


def facts(session: Session) -> dict[str, Any]:
    """Return everything that the page shows at the moment, ready for JSON."""
    with session.lock:
        current, following = session.current, session.following
        return {
            "question": _question(session, current) if current else None,
            "next": _photos_of(session, following) if following else [],
            "classes": [one_line(name) for name in session.class_names],
            "can_undo": bool(session.given),
            "progress": _progress(session),
        }


def summary(session: Session) -> str:
    """Say in a sentence how much was answered and changed."""
    with session.lock:
        answers = count(len(session.given), "answer")
        changed = count(session.relabelled(), "label")
        new = count(session.labelled(), "photo")
    return f"{answers}: {changed} of DATA changed, {new} of the pool labelled"


def _progress(session: Session) -> dict[str, Any]:
    head = session.head
    return {
        "answers": len(session.given),
        "changed": session.relabelled(),
        "labelled": session.labelled(),
        "held_out": head.held_out,
        "held_out_changed": session.relabelled("val"),
        "curve": [point._asdict() for point in head.curve],
        "behind": session.is_behind,
        "seconds": head.seconds,
        "problem": one_line(head.problem),
    }


def _question(session: Session, question: Question) -> dict[str, Any]:
    row = question.row
    probabilities = _probabilities(session, row)
    return {
        **_photo(session, row),
        "split": str(session.album.splits[row]),
        "reason": _reason(session, question, probabilities),
        "head": [[one_line(name), p] for name, p in probabilities[:TOP]],
        "twin": _photo(session, question.other) if question.other >= 0 else None,
        "similar": [
            {**_photo(session, other), "cosine": cosine}
            for other, cosine in session.neighbours(row, SIMILAR)
        ],
    }


def _photos_of(session: Session, question: Question) -> list[str]:
    """Return the digests of the photos that the page of a question shows, its own first."""
    others = [other for other, _ in session.neighbours(question.row, SIMILAR)]
    rows = [question.row, *others, *([question.other] if question.other >= 0 else [])]
    return [session.album.digests[row] for row in rows]


def _photo(session: Session, row: int) -> dict[str, Any]:
    label = int(session.labels[row])
    return {
        "photo": session.album.digests[row],
        "path": one_line(session.album.places[row][0]),
        "label": one_line(session.class_names[label]) if label >= 0 else None,
    }


def _probabilities(session: Session, row: int) -> list[tuple[str, float]]:
    """Return the classes that the head knows, the most probable first."""
    known = session.head.probabilities[row]
    found = zip(session.class_names, map(float, known), strict=False)
    return sorted(found, key=lambda one: -one[1])


def _reason(session: Session, question: Question, probabilities: list[tuple[str, float]]) -> str:
    label = int(session.labels[question.row])
    name = one_line(session.class_names[label]) if label >= 0 else ""
    if question.reason == UNDO:
        return "You took back your answer to this photo."
    if question.reason == "twin":
        other = _photo(session, question.other)
        return (
            f"Almost the same photo has another label: {other['label'] or NONE}. "
            f"The label of this one is {name}."
        )
    if question.reason == "label" and probabilities:
        seen = one_line(probabilities[0][0])
        if seen != name:
            return f"The head sees {seen}; the label says {name}."
        return f"The head doubts the label {name}."
    return "This photo has no label yet, and its label would teach the head most."
