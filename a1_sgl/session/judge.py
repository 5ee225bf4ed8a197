"""Judge prompts: a model is asked to rate what stands above, and answers with one digit.

The rating is read from the distribution of the next token over the ten digits: one prefill, nothing decoded, and the
chain before the question is in the prefix cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from a1_sgl.errors import RuntimeFault
from a1_sgl.types import Call

STEP = "Rate the last step above, from 0 (certainly wrong) to 9 (certainly right). Answer with one digit."
"""Asks about the last chunk."""
ANSWER = "Rate the final answer above, from 0 (certainly wrong) to 9 (certainly right). Answer with one digit."
"""Asks about a finished chain."""
LEAD = "Rating: "
"""How the answer begins; the digit is the next token."""
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Rating:
    """A judge's answer.

    Attributes:
        mean: expected digit, 0 to 9.
        digits: probability of each digit, given that the answer is one.
        mass: probability that the answer is a digit at all; small where the model does not understand the question.
        call: what it cost.
    """

    mean: float
    digits: tuple[float, ...]
    mass: float
    call: Call

    @classmethod
    def doubted(cls, chance: float, call: Call) -> Rating:
        """From the chance that the judge would correct what stands above: then 0, else 9."""
        chance = min(max(chance, 0.0), 1.0)
        return cls(9 * (1 - chance), (chance, *(0.0,) * 8, 1 - chance), 1.0, call)

    @classmethod
    def of(cls, logprobs: Sequence[float], call: Call) -> Rating:
        """From the log-probabilities of the ten digits as the next token."""
        chances = [math.exp(value) for value in logprobs]
        mass = math.fsum(chances)
        if not mass > 0:
            raise RuntimeFault(f"{call.runtime} runtime: no digit has a probability after a judge prompt")
        digits = tuple(chance / mass for chance in chances)
        return cls(math.fsum(i * p for i, p in enumerate(digits)), digits, min(mass, 1.0), call)
