"""The task `chain`: arithmetic word problems with exact answers, generated, never downloaded.

A problem is a start value and 3 to 10 operations whose running value stays within 0..99::

    Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?

Its solution writes one ``a op b = c`` a line, a blank line after each step, and ``The answer is \\boxed{c}.``.
Difficulty is the number of operations.

Splits are disjoint by construction (`a1_sgl.evals.generated`); the pocket pair is trained on `train` alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from a1_sgl.evals.generated import Split, distinct

OPERATIONS = range(3, 11)
"""Numbers of operations a problem may have."""
VALUES = range(100)
"""Every running value stays in here."""

_WORDS = {"+": "Add {}.", "-": "Subtract {}.", "*": "Multiply by {}."}
_OPERANDS = {"+": range(2, 30), "-": range(2, 30), "*": range(2, 10)}


@dataclass(frozen=True)
class Step:
    """One operation: ``op`` is ``+``, ``-`` or ``*``."""

    op: str
    operand: int

    def __post_init__(self) -> None:
        if self.op not in _OPERANDS or self.operand not in _OPERANDS[self.op]:
            raise ValueError(f"no such step: {self.op!r} {self.operand}")

    def apply(self, value: int) -> int:
        """The running value after this step."""
        return {"+": value + self.operand, "-": value - self.operand, "*": value * self.operand}[self.op]


@dataclass(frozen=True)
class Problem:
    """A start value and its steps; every running value lies in `VALUES` and no step occurs twice."""

    start: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if len(self.steps) not in OPERATIONS:
            raise ValueError(f"a problem has {OPERATIONS.start} to {OPERATIONS.stop - 1} steps, not {len(self.steps)}")
        if len(set(self.steps)) != len(self.steps):
            raise ValueError("a step occurs twice")
        if any(value not in VALUES for value in self.values):
            raise ValueError(f"a running value leaves {VALUES.start}..{VALUES.stop - 1}: {self.values}")

    @property
    def values(self) -> tuple[int, ...]:
        """Running values: the start value, then the value after each step."""
        values = [self.start]
        for step in self.steps:
            values.append(step.apply(values[-1]))
        return tuple(values)

    @property
    def answer(self) -> int:
        """The last value."""
        return self.values[-1]

    @property
    def text(self) -> str:
        """The question as a user would type it."""
        steps = " ".join(_WORDS[step.op].format(step.operand) for step in self.steps)
        return f"Start with {self.start}. {steps} What is the result?"

    @property
    def lines(self) -> tuple[str, ...]:
        """The correct solution, one line a step and the answer last."""
        values = self.values
        steps = (
            f"{a} {step.op} {step.operand} = {c}" for a, step, c in zip(values, self.steps, values[1:], strict=False)
        )
        return (*steps, answer_line(self.answer))

    @property
    def difficulty(self) -> int:
        """How many steps."""
        return len(self.steps)

    def follows(self, before: str, line: str) -> bool:
        """Whether `line` is right after the lines `before`: the next step of the value that they come to, the answer,
        or the correction of the last step. A step that builds faithfully on an error before it is right."""
        index, value = 0, self.start
        for said in _LINE.finditer(before):
            index, value = index + (not said[1]), int(said[2])
        ended, line = "boxed" in before, line.strip()
        if line.startswith("Wait, "):
            return line.removeprefix("Wait, ") in (self.lines[-1:] if ended else self.lines[:index][-1:])
        if ended or index > len(self.steps):
            return False
        if index == len(self.steps):
            return line == answer_line(value)
        step = self.steps[index]
        return line == f"{value} {step.op} {step.operand} = {step.apply(value)}"


_LINE = re.compile(r"^(Wait, )?.* = (\d+)$", re.M)


def answer_line(value: int) -> str:
    """The last line of a solution."""
    return f"The answer is \\boxed{{{value}}}."


def draw(rng: random.Random, operations: int) -> Problem:
    """One problem with `operations` steps, of whatever split."""
    while True:
        value = start = rng.randrange(2, 60)
        steps: list[Step] = []
        while len(steps) < operations:
            op = rng.choice("+-*")
            choices = [
                step
                for operand in _OPERANDS[op]
                if (step := Step(op, operand)) not in steps and step.apply(value) in VALUES and step.apply(value) > 0
            ]
            if not choices:
                if not any(step.apply(value) in VALUES for step in (Step("+", 2), Step("-", 2))):
                    break
                continue
            steps.append(rng.choice(choices))
            value = steps[-1].apply(value)
        else:
            return Problem(start, tuple(steps))


def problems(split: Split, seed: int | str, levels: range = OPERATIONS) -> Iterator[Problem]:
    """Distinct problems of `split`, without end; see `a1_sgl.evals.generated.distinct`."""
    return distinct("chain", draw, split, seed, levels)


def read(text: str) -> Problem:
    """The problem that `text` is the question of.

    Raises:
        ValueError: it is none.
    """
    start = re.match(r"Start with (\d+)\.", text)
    steps = tuple(
        Step(op, int(found[1]))
        for sentence in re.findall(r"[A-Z][^.]*\.", text)
        for op, words in _WORDS.items()
        if (found := re.fullmatch(words.format(r"(\d+)"), sentence))
    )
    if start is None or (problem := Problem(int(start[1]), steps)).text != text:
        raise ValueError(f"no problem of chain: {text!r}")
    return problem
