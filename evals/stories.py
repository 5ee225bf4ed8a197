"""The task `stories`: arithmetic word problems with exact answers and worked solutions, generated, never downloaded.

A problem tells how somebody's hoard grows and shrinks, in 3 to 8 events whose running count stays within 1..999::

    Mia has 238 marbles. Then she finds 47. Then she trades each for 3. Then she loses 196. How many marbles does she
    have now?

Its solution works one event a step, digit by digit with carries and borrows, a blank line after each::

    Step 1: she finds 47, so 238 + 47: ones 8 + 7 = 15, carry 1; tens 3 + 4 + 1 = 8; hundreds 2; so Mia has 285 marbles.

and ends with ``The answer is \\boxed{659}.``. Difficulty is the number of steps.

Splits are disjoint by construction (`a1_sgl.evals.generated`); the pocket pair is trained on `train` alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from a1_sgl.evals.generated import Split, distinct

STEPS = range(3, 9)
"""Numbers of steps a problem may have."""
COUNTS = range(1, 1000)
"""Every running count stays in here."""
OPERANDS = {"+": range(3, 500), "-": range(3, 500), "*": range(2, 10)}
VERBS = {
    "+": ("finds {}", "buys {}", "wins {}", "receives {}"),
    "-": ("loses {}", "sells {}", "gives away {}", "breaks {}"),
    "*": ("trades each for {}", "swaps each for {}"),
}
PEOPLE = {
    "Mia": "she", "Ada": "she", "Zoe": "she", "Ruth": "she", "Nora": "she", "Ines": "she",
    "Tom": "he", "Max": "he", "Omar": "he", "Jan": "he", "Luis": "he", "Paul": "he",
}  # fmt: skip
THINGS = ("marbles", "stamps", "coins", "beads", "cards", "shells", "buttons", "pearls", "pins", "cups")


@dataclass(frozen=True)
class Step:
    """One event: ``op`` is ``+``, ``-`` or ``*``, `verb` an index of ``VERBS[op]``."""

    op: str
    operand: int
    verb: int = 0

    def __post_init__(self) -> None:
        if self.op not in OPERANDS or self.operand not in OPERANDS[self.op]:
            raise ValueError(f"no such step: {self.op!r} {self.operand}")
        if self.verb not in range(len(VERBS[self.op])):
            raise ValueError(f"step {self.op!r} has no verb {self.verb}")

    def apply(self, count: int) -> int:
        """The count after this step."""
        return {"+": count + self.operand, "-": count - self.operand, "*": count * self.operand}[self.op]

    @property
    def event(self) -> str:
        """What happens: ``finds 47``."""
        return VERBS[self.op][self.verb].format(self.operand)


@dataclass(frozen=True)
class Problem:
    """Who has how many of what, and what happens; every running count lies in `COUNTS`, no two events are the same."""

    person: str
    things: str
    start: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if self.person not in PEOPLE or self.things not in THINGS:
            raise ValueError(f"nobody called {self.person!r} has {self.things!r}")
        if len(self.steps) not in STEPS:
            raise ValueError(f"a problem has {STEPS.start} to {STEPS.stop - 1} steps, not {len(self.steps)}")
        if len({(step.op, step.operand) for step in self.steps}) != len(self.steps):
            raise ValueError("a step occurs twice")
        if any(count not in COUNTS for count in self.counts):
            raise ValueError(f"a running count leaves {COUNTS.start}..{COUNTS.stop - 1}: {self.counts}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Running counts: the start, then the count after each step."""
        counts = [self.start]
        for step in self.steps:
            counts.append(step.apply(counts[-1]))
        return tuple(counts)

    @property
    def answer(self) -> int:
        """The last count."""
        return self.counts[-1]

    @property
    def text(self) -> str:
        """The question as a user would type it."""
        pronoun = PEOPLE[self.person]
        events = " ".join(f"Then {pronoun} {step.event}." for step in self.steps)
        return f"{self.person} has {self.start} {self.things}. {events} How many {self.things} does {pronoun} have now?"

    @property
    def lines(self) -> tuple[str, ...]:
        """The correct solution, one sentence a step and the answer last."""
        return tuple(map(self.line_at, range(len(self.steps) + 1)))

    def line_at(self, index: int) -> str:
        """Line `index` (from 0) of the correct solution."""
        if index == len(self.steps):
            return self.ending()
        return self.line(index, self.counts[index], self.steps[index])

    def line(self, index: int, count: int, step: Step) -> str:
        """Step `index` (from 0) worked out: what `step` makes of `count`."""
        columns, result = work(count, step.op, step.operand)
        return self.sentence(index, step.event, f"{count} {step.op} {step.operand}", columns, result)

    def sentence(self, index: int, event: str, sum_: str, columns: list[str], result: int) -> str:
        """A step as it is written, right or wrong."""
        who = PEOPLE[self.person]
        worked = "; ".join(f"{place} {column}" for place, column in zip(PLACES, columns, strict=False))
        return f"Step {index + 1}: {who} {event}, so {sum_}: {worked}; so {self.person} has {result} {self.things}."

    def ending(self, count: int | None = None) -> str:
        """The last line of a solution: of the right one, unless another count is given."""
        return f"The answer is \\boxed{{{self.answer if count is None else count}}}."

    @property
    def difficulty(self) -> int:
        """How many steps."""
        return len(self.steps)

    def follows(self, before: str, line: str) -> bool:
        """Whether `line` is right after the lines `before`: the next step of the count that they come to, the answer,
        or the correction of a step. A step that builds faithfully on an error before it is right."""
        line = line.strip()
        if corrected := _CORRECTION.fullmatch(line):
            # Where an answer came too soon, a step stands in its place.
            return corrected[2] in (self.lines if not corrected[1] else self.lines[int(corrected[1]) - 1 :][:1])
        last = _STATED.search(before.strip().rpartition("\n")[2])
        index, count = (int(last[1]), int(last[2])) if last else (0, self.start)
        if "boxed" in before.strip().rpartition("\n")[2] or index > len(self.steps):
            return False  # there is nothing left to say
        if index == len(self.steps):
            return line == self.ending(count)
        try:
            return line == self.line(index, count, self.steps[index])
        except ValueError:  # a wrong count, from which nobody can go on
            return False


_CORRECTION = re.compile(r"Wait, (?:the answer|step (\d+)) is wrong: (.*)")
_STATED = re.compile(r"Step (\d+): .* has (\d+) \w+\.$")
PLACES = ("ones", "tens", "hundreds")


def work(a: int, op: str, b: int, slip: tuple[int, int] | None = None, carrying: bool = True) -> tuple[list[str], int]:
    """The columns of ``a op b`` from the ones up, and its result.

    Args:
        slip: a column and by how much what is written there is off; the error is carried on.
        carrying: False forgets every carry and borrow in the column that would use it.

    Raises:
        ValueError: the result is negative.
    """
    if op == "-" and b > a:
        raise ValueError(f"{a} - {b} is negative")
    width = len(str(a)) if op == "*" else max(len(str(a)), len(str(b)))
    columns, digits, carry = [], [], 0
    for place in range(width):
        last = place == width - 1
        x = str(a)[::-1][place : place + 1]
        y = str(b) if op == "*" else str(b)[::-1][place : place + 1]
        terms = [term for term in (x, y) if term]
        value = int(x or 0) * int(y) if op == "*" else int(x or 0) + (1 if op == "+" else -1) * int(y or 0)
        text = f" {op} ".join(terms)
        used = carry if carrying else 0
        if used:
            text += f" - {used}" if op == "-" else f" + {used}"
            value += -used if op == "-" else used
        if op == "-" and value < 0:
            text, value, borrowed = f"{x or 0} + 10" + text[len(x) :], value + 10, True
        else:
            borrowed = False
        if slip and slip[0] == place:
            value = max(0, value + slip[1])
        column = text if text.isdigit() else f"{text} = {value}"
        carry = 0
        if op == "-" and borrowed:
            column, carry = f"{column}, borrow 1", 1
        elif op != "-" and value > 9 and not last:
            column, carry = f"{column}, carry {value // 10}", value // 10
        columns.append(column)
        digits.append(str(value) if last else str(value % 10))
    return columns, int("".join(reversed(digits)))


def draw(rng: random.Random, steps: int) -> Problem:
    """One problem with so many steps, of whatever split."""
    person, things = rng.choice(tuple(PEOPLE)), rng.choice(THINGS)
    while True:
        count = start = rng.randrange(20, 600)
        found: list[Step] = []
        while len(found) < steps:
            op = rng.choice(("+", "-", "*") if count * 2 in COUNTS else ("+", "-"))
            fits = [n for n in OPERANDS[op] if Step(op, n).apply(count) in COUNTS] if op == "*" else _fitting(op, count)
            operand = rng.choice(fits) if fits else 0
            if not operand or any((one.op, one.operand) == (op, operand) for one in found):
                continue
            found.append(Step(op, operand, rng.randrange(len(VERBS[op]))))
            count = found[-1].apply(count)
        return Problem(person, things, start, tuple(found))


def _fitting(op: str, count: int) -> range:
    room = COUNTS.stop - 1 - count if op == "+" else count - COUNTS.start
    return range(OPERANDS[op].start, min(OPERANDS[op].stop, room + 1))


def problems(split: Split, seed: int | str, levels: range = STEPS) -> Iterator[Problem]:
    """Distinct problems of `split`, without end; see `a1_sgl.evals.generated.distinct`."""
    return distinct("stories", draw, split, seed, levels)


def read(text: str) -> Problem:
    """The problem that `text` is the question of.

    Raises:
        ValueError: it is none.
    """
    start = re.match(r"(\w+) has (\d+) (\w+)\.", text)
    steps = tuple(
        Step(op, int(found[1]), verb)
        for event in re.findall(r"Then s?he ([^.]*)\.", text)
        for op, verbs in VERBS.items()
        for verb, words in enumerate(verbs)
        if (found := re.fullmatch(words.format(r"(\d+)"), event))
    )
    if start is None or (problem := Problem(start[1], start[3], int(start[2]), steps)).text != text:
        raise ValueError(f"no problem of stories: {text!r}")
    return problem
