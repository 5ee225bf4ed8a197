"""A pair without models for task `stories`: the draft forgets carries, the target never does, and scores tell."""

import hashlib
import re

from a1_sgl.evals import exact, stories
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import Question


def unit(*names):
    """A number in [0, 1) that belongs to these names."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:7], "big") / 2**56


def read(prompt):
    """The problem of a prompt, and the lines of its solution so far."""
    asked, _, said = prompt.partition("user: ")[2].partition("\nassistant: ")
    return stories.read(asked), [line for line in said.split("\n\n") if line]


def line(problem, said, carrying=True):
    """The next one."""
    last = re.search(r"Step (\d+): .* has (\d+) ", said[-1]) if said else None
    index, count = (int(last[1]), int(last[2])) if last else (0, problem.start)
    if index == len(problem.steps):
        return problem.ending(count)
    step = problem.steps[index]
    try:
        columns, result = stories.work(count, step.op, step.operand, carrying=carrying)
    except ValueError:
        return problem.ending(count)
    return problem.sentence(index, step.event, f"{count} {step.op} {step.operand}", columns, result)


def writes(forget):
    """What an engine writes that forgets such a share of carries."""

    def text(call):
        problem, said = read(call.prompt)
        careful = unit(problem.text, len(said), call.request.route.chain) >= forget
        return f"{line(problem, said, careful)}\n\n"

    return text


def scores(before, chunk):
    """Log-probability of each of the chunk's bytes under the target."""
    problem, said = read(before)
    right = exact.right(problem, "\n\n".join(said), chunk)
    return -0.5 - (not right) - unit(before, chunk)


def pair(forget=0.6, **rest):
    """The backend, with whatever `rest` says of its target."""
    draft = FakeEngine(writes(forget), name="draft", model="draft")
    return Backend(
        Roles.pair(draft, FakeEngine(writes(0.0), name="target", model="target", **({"scores": scores} | rest)))
    )


def question(problem):
    """As task `stories` would ask it."""
    return Question(id="q", messages=({"role": "user", "content": problem.text},), answer=str(problem.answer))
