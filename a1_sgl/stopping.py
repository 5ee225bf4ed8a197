"""When a majority vote is decided before all of its chains have finished.

Chains that finish early are the short ones, and short chains' answers are not like all chains' answers: a rule that
counts whatever has finished would favour what short chains say. Both rules here are free of that: `decided` holds
whatever the others will say, and `Certain` reads the chains in order of their numbers, as far as they have finished
without a gap, which is an independent sample whatever their lengths.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from scipy.special import betaln
from scipy.stats import beta

from a1_sgl.voting import Answered, counted


class Finished(Answered, Protocol):
    """A finished chain, as a rule sees it."""

    @property
    def sample(self) -> int:
        """Its number."""
        ...


Stop = Callable[[Sequence[Finished]], bool]


@dataclass(frozen=True)
class Decided:
    """The leader of `chains` votes can no longer be caught: the vote over all of them is the same.

    Ties are lost, not won: the earliest chain decides them, and it may not have finished.
    """

    chains: int

    def __call__(self, finished: Sequence[Finished]) -> bool:
        """Whether it is so, given the chains that have finished."""
        (_, first), (_, second) = (*Counter(_votes(finished)).most_common(2), ("", 0), ("", 0))[:2]
        return first > second + self.chains - len(finished)


@dataclass(frozen=True)
class Certain:
    """Some answer has more than half of all the answers that the model would ever give.

    If none has, the rule ever says that one has with probability at most `error`, however often it is asked. For the
    j-th distinct answer to appear, the votes after its first appearance bet against "its share is at most one half":
    with x of n votes for it the wealth is the mixture over shares q, uniform on (1/2, 1), of ``2^n q^x (1-q)^(n-x)``,
    a supermartingale under that hypothesis that starts at 1. The answer is certain when the wealth reaches ``2^j /
    error`` (Ville's inequality, and a union bound with weights ``2^-j``).

    The chains' answers must be independent and alike, which chains of one question from one model are.
    """

    error: float

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise ValueError(f"error is a probability strictly between 0 and 1, not {self.error}")

    def __call__(self, finished: Sequence[Finished]) -> bool:
        """Whether it is so, given the chains that have finished, in order of their numbers from 0."""
        answers: list[str | None] = []
        for number, chain in enumerate(finished):
            if chain.sample != number:  # one before it is still under way
                break
            answers.append(None if chain.answer is None else counted(chain))
        distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
        for j, answer in enumerate(distinct, start=1):
            after = answers[answers.index(answer) + 1 :]  # chains without an answer count against every answer
            hits = sum(one == answer for one in after)
            if _log_wealth(hits, len(after)) >= j * math.log(2) - math.log(self.error):
                return True
        return False


def _log_wealth(hits: int, votes: int) -> float:
    a, b = hits + 1, votes - hits + 1
    return float((votes + 1) * math.log(2) + betaln(a, b) + beta.logsf(0.5, a, b))


def _votes(finished: Sequence[Finished]) -> list[str]:
    return [counted(chain) for chain in finished if chain.answer is not None]


STOPS = ("never", "decided", "certain")


def find_stop(name: str, chains: int, error: float) -> Stop | None:
    """The rule of that name for a vote of `chains` chains; None for ``never``.

    Raises:
        ValueError: there is none, or `error` is no probability.
    """
    if name not in STOPS:
        raise ValueError(f"unknown stopping rule {name!r}; known: {', '.join(STOPS)}")
    decided = Decided(chains)
    if name == "decided":
        return decided
    if name == "certain":
        certain = Certain(error)
        return lambda finished: decided(finished) or certain(finished)
    return None
