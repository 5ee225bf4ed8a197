"""Strategies, one file each. Every one is an ``@sgl.function`` with the same contract.

In: a question, which chains to run, a listener for events, and the strategy's own parameters; sampling parameters,
stop strings and the backend go to ``run`` as SGLang has it. Out: a `Result` as the state's ``ret_value``.
"""

from a1_sgl.programs.a1 import a1
from a1_sgl.programs.direct import direct

PROGRAMS = {"a1": a1, "direct": direct}


def parameters(program: str) -> list[str]:
    """A program's own parameters, without those that all of them share."""
    return [name for name in PROGRAMS[program].arg_names if name not in ("question", "samples", "listener", "gate")]


__all__ = ["PROGRAMS", "a1", "direct", "parameters"]
