"""Training texts for the pocket pair: solutions of `chain` problems, some steps wrong and then corrected.

A wrong line is followed by ``Wait, `` and the right line, so that a target can repair what a draft got wrong. The
wrong line itself carries no loss: the models learn to mend errors, not to make them. The target also learns to rate
a last step or a final answer when a judge prompt asks it to.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from a1_sgl.evals.chain import VALUES, Problem, answer_line


@dataclass(frozen=True)
class Line:
    """One line of a solution; `learn` is False for a wrong line, which carries no loss."""

    text: str
    learn: bool


def transcript(problem: Problem, rng: random.Random, error_rate: float) -> list[Line]:
    """The solution of `problem`; each line is, with probability `error_rate`, preceded by a wrong attempt.

    A correction may itself be wrong and corrected again, at the same rate.
    """
    lines: list[Line] = []
    for index, right in enumerate(problem.lines):
        mended = ""
        while rng.random() < error_rate:
            lines.append(Line(mended + _wrong(problem, index, rng), learn=False))
            mended = "Wait, "
        lines.append(Line(mended + right, learn=True))
    return lines


def judged_step(problem: Problem, rng: random.Random) -> tuple[str, bool]:
    """A solution up to some line, and whether that line is right; errors before it are mended."""
    count = rng.randrange(len(problem.lines))
    right = rng.random() < 0.5
    lines = []
    for index in range(count):
        mended = ""
        if rng.random() < 0.1:
            lines.append(_wrong(problem, index, rng))
            mended = "Wait, "
        lines.append(mended + problem.lines[index])
    mended = ""
    if rng.random() < 0.1:
        lines.append(_wrong(problem, count, rng))
        mended = "Wait, "
    lines.append(mended + (problem.lines[count] if right else _wrong(problem, count, rng)))
    return "\n\n".join(lines), right


def judged_answer(problem: Problem, rng: random.Random) -> tuple[str, bool]:
    """A whole solution, and whether its answer is right; an error in a wrong one is carried on to the end."""
    if rng.random() < 0.5:
        return "\n\n".join(line.text for line in transcript(problem, rng, 0.05)), True
    while True:
        at, slip = rng.randrange(len(problem.steps)), rng.choice(("result", "result", "operand", "skip", "end"))
        value, lines = problem.start, []
        for index, step in enumerate(problem.steps):
            if index == at and slip == "end" and index:
                break
            if index == at and slip == "skip":
                continue
            operand = _near(step.operand, rng) if index == at and slip == "operand" else step.operand
            result = {"+": value + operand, "-": value - operand, "*": value * operand}[step.op]
            if index == at and slip == "result":
                result = _near(result, rng)
            lines.append(f"{value} {step.op} {operand} = {result}")
            value = result
            if value not in VALUES:
                break
        if lines and value in VALUES and value != problem.answer:
            return "\n\n".join((*lines, answer_line(value))), False


def _wrong(problem: Problem, index: int, rng: random.Random) -> str:
    """A wrong version of line `index`: a slip in the result, an operand, the running value or the place."""
    right = problem.lines[index]
    values, steps = problem.values, problem.steps
    if index == len(steps):
        slips = [lambda: answer_line(_near(problem.answer, rng)), lambda: answer_line(rng.choice(values))]
    else:
        a, step = values[index], steps[index]

        def slip_result() -> str:
            return f"{a} {step.op} {step.operand} = {_near(step.apply(a), rng)}"

        def slip_operand() -> str:
            operand = _near(step.operand, rng)
            op = rng.choice(("+", "-", "*")) if rng.random() < 0.3 else step.op
            return _line(a, op, operand)

        def slip_value() -> str:
            return _line(_near(a, rng), step.op, step.operand)

        def slip_place() -> str:
            other = rng.choice(steps)
            return _line(a, other.op, other.operand)

        def slip_end() -> str:
            return answer_line(a)

        slips = [slip_result, slip_result, slip_result, slip_operand, slip_value, slip_place, slip_end]
    draw = partial(rng.choice, slips)
    while (wrong := draw()()) == right:
        pass
    return wrong


def _line(a: int, op: str, b: int) -> str:
    result = {"+": a + b, "-": a - b, "*": a * b}[op]
    return f"{a} {op} {b} = {abs(result) % 100}"


def _near(value: int, rng: random.Random) -> int:
    """A two-digit value unlike `value`: off by a little, by tens, one digit changed, or anything."""
    moves = (
        lambda: value + rng.choice((-2, -1, 1, 2)),
        lambda: value + rng.choice((-30, -20, -10, 10, 20, 30)),
        lambda: value // 10 * 10 + rng.randrange(10),
        lambda: rng.randrange(100),
    )
    while (near := rng.choice(moves)()) == value or near not in range(100):
        pass
    return near
