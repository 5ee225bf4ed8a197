"""Training texts for the pocket pair: worked solutions of `stories`, some steps wrong and then corrected.

After a wrong step, or some steps later, stands ``Wait, step 2 is wrong:`` and the step worked out again, so that a
target can repair what a draft got wrong. Wrong steps and what was built on them carry no loss: the models learn to
mend errors, not to make them. The target also learns to rate a last step or a final answer when a judge prompt asks it
to.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from a1_sgl.evals.stories import COUNTS, OPERANDS, VERBS, Problem, Step, work

Kind = Literal["right", "forgot", "wrong", "mended"]


@dataclass(frozen=True)
class Line:
    """One line of a solution: right, wrong (itself or by what came before it), or the correction of a wrong one.

    Where a carry or borrow was forgotten it is wrong in the way that a draft learns to be.

    Attributes:
        count: what it says there is.
        ends: whether it states the answer.
        ought: what should stand there instead; empty for a line that only builds on an error before it.
    """

    text: str
    kind: Kind
    count: int
    ends: bool = False
    ought: str = ""


def transcript(
    problem: Problem,
    rng: random.Random,
    error_rate: float,
    notice: float = 0.6,
    forget: float = 0.0,
    own: Mapping[int, Line] | None = None,
) -> list[Line]:
    """The solution of `problem`; each line is, with probability `error_rate`, wrong and later corrected.

    A correction may itself be wrong and corrected again, at the same rate.

    Args:
        notice: probability that an error is seen at the next line rather than built upon.
        forget: probability that a carry or borrow that matters is forgotten.
        own: what somebody did get wrong, by step; it stands there, and no other error before it.
    """
    lines: list[Line] = []
    left = dict(own or {})
    # The next step, the count before it, and the first step that is wrong; -1 is none.
    index, count, wrong = 0, problem.start, -1
    kind: Kind
    while True:
        ought = ""
        step = problem.steps[index] if index < len(problem.steps) else None
        if wrong >= 0 and (lines[-1].ends or not _fits(step, count) or rng.random() < notice):
            text, kind, lead = problem.line_at(wrong), "mended", notices(problem, wrong, lines[-1])
            index, count = wrong, problem.counts[min(wrong + 1, len(problem.steps))]
            if rng.random() < error_rate:
                line, ought = slip_of(problem, index, rng), lead + text
                text, count, kind = line.text, line.count, "wrong"
            else:
                wrong = -1
        elif wrong < 0 and index in left:
            (line, lead, wrong), kind = (left.pop(index), "", index), "wrong"
            text, count, ought = line.text, line.count, line.ought
        elif wrong < 0 and not left and rng.random() < error_rate:
            line, lead, wrong = slip_of(problem, index, rng), "", index
            text, count, kind, ought = line.text, line.count, "wrong", problem.line_at(index)
        elif (
            wrong < 0
            and not left
            and forget
            and step is not None
            and rng.random() < forget
            and (weak := forgot(problem, index))
        ):
            lead, wrong, text, count, kind, ought = "", index, weak.text, weak.count, "forgot", problem.line_at(index)
        else:
            lead, kind = "", "wrong" if wrong >= 0 else "right"
            if step is None:
                text = problem.ending(count)
            else:
                text, count = problem.line(index, count, step), step.apply(count)
        lines.append(Line(lead + text, kind, count, ends="boxed" in text, ought=ought))
        if lines[-1].ends and wrong < 0:
            return lines
        index = min(index + 1, len(problem.steps))


def notices(problem: Problem, wrong: int, last: Line) -> str:
    """How the correction of line `wrong` begins, after line `last`."""
    # An answer that is wrong by itself, and not by a step before it.
    over = last.ends and (wrong == len(problem.steps) or last.count == problem.counts[wrong])
    return f"Wait, {'the answer' if over else f'step {wrong + 1}'} is wrong: "


def judged_step(problem: Problem, rng: random.Random) -> tuple[str, bool]:
    """A solution up to some line, and whether that line is right."""
    right = rng.random() < 0.5
    while True:
        lines = transcript(problem, rng, 0.2)
        if found := [i for i, line in enumerate(lines) if (line.kind != "wrong") == right]:
            return "\n\n".join(line.text for line in lines[: rng.choice(found) + 1]), right


def judged_answer(problem: Problem, rng: random.Random) -> tuple[str, bool]:
    """A whole solution, and whether its answer is right; an error in a wrong one is carried on to the end."""
    if rng.random() < 0.5:
        return "\n\n".join(line.text for line in transcript(problem, rng, 0.05)), True
    while True:
        lines = transcript(problem, rng, 0.3, notice=0.0)
        end = next(i for i, line in enumerate(lines) if line.ends)
        if lines[end].count != problem.answer:
            return "\n\n".join(line.text for line in lines[: end + 1]), False


def _fits(step: Step | None, count: int) -> bool:
    """Whether a solution can go on from a wrong count."""
    return count in COUNTS and (step is None or step.apply(count) in COUNTS)


def forgot(problem: Problem, index: int) -> Line | None:
    """Step `index` without its carries and borrows; None where there are none that matter."""
    count, step = problem.counts[index], problem.steps[index]
    columns, result = work(count, step.op, step.operand, carrying=False)
    if result == problem.counts[index + 1]:
        return None
    text = problem.sentence(index, step.event, f"{count} {step.op} {step.operand}", columns, result)
    return Line(text, "forgot", result)


def slip_of(problem: Problem, index: int, rng: random.Random) -> Line:
    """A wrong version of line `index`."""
    right = problem.line_at(index)
    while True:
        line = _ending(problem, rng) if index == len(problem.steps) else _step(problem, index, rng)
        if line is not None and line.text != right:
            return line


def _ending(problem: Problem, rng: random.Random) -> Line | None:
    """A wrong answer, or a step where there is none left."""
    if rng.random() < 0.5:
        return _step(problem, len(problem.steps), rng)
    count = near(problem.answer, rng) if rng.random() < 0.7 else rng.choice(problem.counts)
    return Line(problem.ending(count), "wrong", count, ends=True)


def _step(problem: Problem, index: int, rng: random.Random) -> Line | None:
    """A wrong step: what is misread is worked out faithfully, a wrong column is carried on, a wrong digit is not.

    After the last step any step is wrong, even one that is like one before it.
    """
    step = problem.steps[index] if index < len(problem.steps) else rng.choice(problem.steps)
    a, op, b, event, slip, carrying = problem.counts[index], step.op, step.operand, step.event, None, True
    what = rng.choices(
        ("column", "carry", "misread", "digit", "result", "operand", "count", "place", "operation", "verb", "end"),
        (6, 2, 3, 3, 2, 4, 3, 2, 3, 1.5, 0.5),
    )[0]
    if what == "end":
        return Line(problem.ending(a), "wrong", a, ends=True)
    if what == "column":
        slip = (rng.randrange(3), rng.choice((-1, 1)) * rng.randrange(1, 11))
    elif what == "carry":
        carrying = False
    elif what == "operand":
        b = near(b, rng)
        event = VERBS[op][step.verb].format(b) if rng.random() < 0.7 else event
    elif what == "count":
        a = near(a, rng) if rng.random() < 0.6 else rng.choice(problem.counts[: index + 1])
    elif what == "place":
        other = rng.choice(problem.steps)
        op, b, event = other.op, other.operand, other.event
    elif what == "operation":
        op = rng.choice(tuple(OPERANDS))
        event = rng.choice(VERBS[op]).format(b) if rng.random() < 0.7 else event
    elif what == "verb":
        event = rng.choice(VERBS[op]).format(b)
    written = f"{a} {op} {b}"
    if what == "misread":  # the sum that is worked out is not the one that is written
        a, b = (near(a, rng), b) if rng.random() < 0.3 else (a, near(b, rng))
    try:
        columns, result = work(a, op, b, slip, carrying)
    except ValueError:
        return None
    if result > 9999:
        return None
    if what == "result":
        result = near(result, rng)
    text = problem.sentence(index, event, written, columns, result)
    if what == "digit":  # one or two digits anywhere after the step's own number are something else
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.choice([i for i, letter in enumerate(text) if letter.isdigit() and i > text.index(":")])
            text = text[:at] + rng.choice("0123456789") + text[at + 1 :]
        result = int(text.rpartition(" has ")[2].split()[0])
    return Line(text, "wrong", result)


def near(count: int, rng: random.Random) -> int:
    """A count unlike `count`: off by a little, by tens or hundreds, a digit changed, left out or put in, two swapped,
    or anything."""
    digits = list(str(count))
    while True:
        match rng.randrange(7):
            case 0:
                found = count + rng.choice((-2, -1, 1, 2))
            case 1:
                found = count + rng.choice((-100, -20, -10, 10, 20, 100))
            case 2:
                at = rng.randrange(len(digits))
                found = int("".join([*digits[:at], rng.choice("0123456789"), *digits[at + 1 :]]))
            case 3:
                i, j = rng.randrange(len(digits)), rng.randrange(len(digits))
                swapped = digits.copy()
                swapped[i], swapped[j] = digits[j], digits[i]
                found = int("".join(swapped))
            case 4:
                at = rng.randrange(len(digits))
                found = int("".join([*digits[:at], *digits[at + 1 :]]) or "0")
            case 5:
                at = rng.randrange(len(digits) + 1)
                found = int("".join([*digits[:at], rng.choice("0123456789"), *digits[at:]]))
            case _:
                found = rng.choice(COUNTS)
        if found != count and found in COUNTS:
            return found
