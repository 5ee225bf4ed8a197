"""The audit `exact`: a step of a generated task is right if it is the one that comes next."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from a1_sgl.evals import chain as chains
from a1_sgl.evals import stories
from a1_sgl.session import audit
from a1_sgl.types import Chunk, Question

if TYPE_CHECKING:
    from a1_sgl.session import Chain

NAME = "exact"


class Worked(Protocol):
    """A problem with one right solution."""

    def follows(self, before: str, line: str) -> bool:
        """Whether `line` is right after the lines `before`."""
        ...


def problem(question: Question) -> Worked:
    """The problem that a question asks.

    Raises:
        ValueError: it is of no generated task.
    """
    text = str(question.messages[-1]["content"])
    for read in (chains.read, stories.read):
        with suppress(ValueError):
            return read(text)
    raise ValueError(f"audit {NAME} knows steps of generated tasks alone, not of question {question.id}")


def right(worked: Worked, before: str, step: str) -> bool:
    """Whether every line of `step` is right after `before`; one that says nothing is where the answer is stated."""
    if not step.strip():
        return "boxed" in before
    for line in filter(str.strip, step.splitlines()):
        if not worked.follows(before, line):
            return False
        before = f"{before}\n{line}"
    return True


@audit(NAME, "the step is the right next one of a generated task; costs nothing")
def exact(chain: Chain, chunk: Chunk) -> bool:
    """Of whole lines. A step that builds faithfully on an error before it is right."""
    return not right(problem(chain.question), chain.text.removesuffix(chunk.text), chunk.text)
