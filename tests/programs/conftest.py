"""Running any program of the library on one question."""

import pytest

from a1_sgl.conformal import Gate, ScoreBank, marginal
from a1_sgl.evals.tasks import find_task
from a1_sgl.programs import PROGRAMS
from a1_sgl.session import Backend, Roles

# Every program with what it needs to show its ways in a short run: some are slow to reach a take-over on their own.
SETTINGS = {
    "budget_forcing": {"max_tokens": 120, "extensions": 1},
    "speculative_thinking": {"probe_tokens": 6, "reflection": ("=",)},
}


class Constant(Gate):
    """A gate with a constant verdict."""

    def __init__(self, take_over):
        super().__init__(0.5, ScoreBank([1e9] * 99 if not take_over else [-1e9] * 99), online=False)


@pytest.fixture
def solve(pair):
    """`solve(name, question, **arguments)`: result and events of a program, four chains unless told."""

    def run(name, question, backend=pair, **arguments):
        program, events = PROGRAMS[name], []
        given = {k: v for k, v in find_task("chain").defaults.items() if k in program.own} | SETTINGS.get(name, {})
        if program.gate == "required":
            given["gate"] = marginal(0.3)
        given |= {"samples": 4, "stop": ["\n\n"], "temperature": 0.6} | arguments
        return program.run(question=question, backend=backend, listener=events.append, **given).ret_value, events

    return run


@pytest.fixture
def writer(draft):
    """The backend of one runtime, the pocket draft."""
    return Backend(Roles.alone(draft, "draft"))
