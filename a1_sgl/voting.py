"""Votes: how a question's answer is made of its chains' answers.

A vote is a function from the finished chains to a weight for each; the answer with the largest sum wins. To add one::

    @vote("longest")
    def longest(chains: Sequence[Voter]) -> list[float]:
        return [len(chain.text) for chain in chains]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from a1_sgl.registry import Registry


class Answered(Protocol):
    """What has an answer."""

    @property
    def answer(self) -> str | None:
        """Its answer, if it has one."""
        ...

    @property
    def key(self) -> str | None:
        """The same for all equal answers, however they are written; None where its answer is as good."""
        ...


class Voter(Answered, Protocol):
    """What a vote sees of a chain; a `ChainEvent` and its record are voters."""

    @property
    def rating(self) -> float | None:
        """How good the program holds it to be, higher better, if it rates its chains."""
        ...

    @property
    def take_overs(self) -> int:
        """How many of its chunks were handed over."""
        ...

    @property
    def text(self) -> str:
        """What it says."""
        ...


Weights = Callable[[Sequence[Voter]], list[float]]
VOTES: Registry[Weights] = Registry("vote")
RATED = ("weighted", "best")
"""Votes that look at ratings; a program rates its chains for them where it has not done so itself."""


def vote(name: str) -> Callable[[Weights], Weights]:
    """Registers the function below it as a vote.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Weights) -> Weights:
        VOTES.add(name, function)
        return function

    return register


def find_vote(name: str) -> Weights:
    """The vote of that name.

    Raises:
        ValueError: there is none.
    """
    return VOTES.find(name)


@vote("majority")
def majority(chains: Sequence[Voter]) -> list[float]:
    """Every chain counts alike: self-consistency (Wang et al. 2022, arXiv 2203.11171)."""
    return [1.0] * len(chains)


@vote("weighted")
def weighted(chains: Sequence[Voter]) -> list[float]:
    """Every chain counts by its rating, as in confidence-weighted self-consistency (CISC, arXiv 2502.06233)."""
    return [_rating(chain) for chain in chains]


@vote("best")
def best(chains: Sequence[Voter]) -> list[float]:
    """The best-rated chain decides alone: best-of-N (Cobbe et al. 2021, arXiv 2110.14168)."""
    top = max(map(_rating, chains), default=0.0)
    first = next((i for i, chain in enumerate(chains) if _rating(chain) == top), None)
    return [float(i == first) for i in range(len(chains))]


def support(name: str, chains: Sequence[Voter]) -> dict[str, float]:
    """Each answer's share of the vote, the largest first and, of equals, the earliest; chains without one have no vote.

    Chains of one key are of one answer, which goes by what most of them wrote (`wording`).

    Raises:
        ValueError: an unknown vote, one that needs ratings over chains without, or one whose weights are not one for
            each chain, finite, and at least 0.
    """
    voters = [chain for chain in chains if chain.answer is not None]
    weights = find_vote(name)(voters)
    if len(weights) != len(voters):
        raise ValueError(f"vote {name!r} gave {len(weights)} weights for {len(voters)} chains with an answer")
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"vote {name!r} gave a chain the weight {weight}; weights are finite and at least 0")
    groups: dict[str, list[Voter]] = {}
    by_key: dict[str, float] = {}
    for chain, weight in zip(voters, weights, strict=True):
        groups.setdefault(counted(chain), []).append(chain)
        by_key[counted(chain)] = by_key.get(counted(chain), 0.0) + weight
    sums: dict[str, float] = {}
    for key, group in groups.items():  # an answer may be written alike with and without a key
        sums[wording(group)] = sums.get(wording(group), 0.0) + by_key[key]
    total = sum(sums.values())
    # Where no chain has any weight they are equals.
    shares = [(answer, weight / total if total else 1 / len(sums)) for answer, weight in sums.items()]
    return dict(sorted(shares, key=lambda one: -one[1]))


def counted(chain: Answered) -> str:
    """What its answer counts as: its key, or the answer itself where that has none."""
    assert chain.answer is not None
    return chain.key or chain.answer


def wording(chains: Sequence[Answered]) -> str:
    """What most of some chains of one key wrote, the earliest among equals.

    A key leaves out what an answer may do without, such as a unit; so ``5 m`` and twice ``5 cm`` are one answer of
    three votes, and that is ``5 cm``.
    """
    said = Counter(chain.answer for chain in chains if chain.answer is not None)
    return max(said, key=said.__getitem__)


def decide(name: str, chains: Sequence[Voter]) -> str | None:
    """The answer with the largest share, the earliest among equals; None if there is none. Errors as in `support`."""
    return next(iter(support(name, chains)), None)


def _rating(chain: Voter) -> float:
    if chain.rating is None:
        raise ValueError("the vote needs ratings, and a chain has none; run the program with a rate")
    return chain.rating
