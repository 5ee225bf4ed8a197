"""Graders: whether a chain's answer equals the reference answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from a1_sgl.answers.choice import option
from a1_sgl.answers.compare import Comparison
from a1_sgl.answers.nodes import describe
from a1_sgl.answers.normalise import STEPS, normalise
from a1_sgl.answers.parse import NeedsAlgebra, Value, plain
from a1_sgl.answers.split import split
from a1_sgl.types import Grade, Question


def exact(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """The same text, but for white space at its ends."""
    return Grade(answer.strip() == gold.strip(), answer.strip())


def choice(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """The same option, as `option` reads it."""
    letter = option(answer)
    return Grade(letter is not None and letter == gold.strip().upper(), letter or answer.strip())


def math(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """Equal as mathematics; within ``meta["tolerance"]`` where the question gives one.

    An answer that cannot be compared is wrong, unless the texts are the same, and the grade says why.
    """
    tolerance = meta.get("tolerance")
    return _compared(answer, gold, None if tolerance is None else str(tolerance))


GRADERS: dict[str, Callable[[str, str, Mapping[str, Any]], Grade]] = {
    "exact": exact, "number": math, "math": math, "choice": choice,
}  # fmt: skip


def grade(name: str, answer: str | None, question: Question) -> Grade:
    """The grade of a chain's answer; no answer, or no reference to hold it against, is wrong."""
    if answer is None or question.answer is None:
        return Grade(False)
    return find_grader(name)(answer, question.answer, question.meta)


def key(name: str, answer: str) -> str:
    """What a vote counts instead of the answer: equal answers have one, however they are written."""
    return find_grader(name)(answer, "", {}).key or answer


def find_grader(name: str) -> Callable[[str, str, Mapping[str, Any]], Grade]:
    """The grader of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in GRADERS:
        raise ValueError(f"unknown grader {name!r}; known: {', '.join(GRADERS)}")
    return GRADERS[name]


@lru_cache(maxsize=65536)
def _compared(answer: str, gold: str, tolerance: str | None) -> Grade:
    same = answer == gold
    if len(answer) > 10 * len(gold) + 500:  # an essay is no answer, and reading one takes for ever
        return Grade(same, answer, f"could not be compared: an answer of {len(answer)} characters")
    try:
        return compared(plain, answer, gold, tolerance)
    except NeedsAlgebra:
        pass
    from a1_sgl.answers.worker import WORKER, Failed

    try:
        return WORKER.compare(answer, gold, tolerance)
    except Failed as error:
        return Grade(same, normalise(answer), f"could not be compared: {error}")


def compared(read: Callable[[str], Value], answer: str, gold: str, tolerance: str | None) -> Grade:
    """Whether they are equal, and the answer's key, with `read` for expressions. Raises what that does."""
    comparison = Comparison(read, None if tolerance is None else Fraction(tolerance))
    text = normalise(answer)
    return Grade(comparison.equal(text, normalise(gold)), comparison.key(split(text)))


def explain(name: str, answer: str, gold: str, tolerance: float | None = None) -> list[tuple[str, str, str]]:
    """What each stage makes of an answer and of its reference: rows of a stage's name and both results.

    Steps of `normalise` that change neither are left out.
    """
    grader, both = find_grader(name), (answer, gold)
    rows = [("as written", *both)]
    if name in ("math", "number"):
        for step, function in STEPS.items():
            before, both = both, (function(both[0]), function(both[1]))
            if both != before:
                rows.append((f"normalised: {step}", *both))
        rows.append(("split", describe(split(both[0])), describe(split(both[1]))))
    mine, theirs = (grader(one, gold, {"tolerance": tolerance}) for one in (answer, gold))
    rows.append(("key", mine.key or "", theirs.key or ""))
    verdict = "right" if mine.correct else "wrong"
    rows.append(("verdict", f"{verdict}; {mine.note}" if mine.note else verdict, ""))
    return rows
