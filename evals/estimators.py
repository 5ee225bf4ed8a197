"""Accuracy from repeated chains: pass@k, maj@k and means that are clustered by question."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from a1_sgl.conformal.rates import effective_size, exact_interval

Interval = dict[str, Any]
"""``mean``, its standard error ``se``, and a 95% interval from ``low`` to ``high``; all None where there is nothing."""


def clustered(shares: Sequence[float], chains: int) -> Interval:
    """Mean over questions of `shares` in [0, 1], with its standard error and a 95% interval, clustered by question.

    The interval is exact-binomial at the effective sample size (`effective_size`; Korn and Graubard 1998), never less
    than there are questions.

    Args:
        chains: of all questions together: the sample is never taken for larger.
    """
    if not shares:
        return {"mean": None, "se": None, "low": None, "high": None}
    p, questions = statistics.fmean(shares), len(shares)
    se = statistics.stdev(shares) / math.sqrt(questions) if questions > 1 else None
    effective = effective_size(shares, [1.0] * questions, chains)
    low, high = exact_interval(p * effective, effective)
    return {"mean": p, "se": se, "low": low, "high": high}


def pass_at(k: int, chains: int, right: int) -> float:
    """Chance that at least one of `k` chains is right, drawn from `chains` of which `right` are.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, section 2.1).

    Raises:
        ValueError: not 1 <= k <= chains, or not 0 <= right <= chains.
    """
    if not (1 <= k <= chains and 0 <= right <= chains):
        raise ValueError(f"pass@{k} of {chains} chains, {right} of them right")
    return 1 - math.comb(chains - right, k) / math.comb(chains, k)


def maj_at(k: int, right: Sequence[int], wrong: Sequence[int], silent: int = 0) -> float:
    """Chance that a majority vote of `k` chains is right, drawn from those there are; ties are broken at random.

    The mean over all subsets of size k, exactly: subsets are counted, not drawn.

    Args:
        right: for each right answer, the chains that give it; most questions have but one.
        wrong: for each wrong answer, the chains that give it.
        silent: chains without an answer; they have no vote.

    Raises:
        ValueError: not 1 <= k <= the number of chains.
    """
    chains = sum(right) + sum(wrong) + silent
    if not 1 <= k <= chains:
        raise ValueError(f"maj@{k} of {chains} chains")
    won = sum(
        (_wins(k, mine, [*right[:i], *right[i + 1 :], *wrong], silent) for i, mine in enumerate(right)), Fraction(0)
    )
    return float(won / math.comb(chains, k))


def _wins(k: int, mine: int, others: Sequence[int], silent: int) -> Fraction:
    """In how many subsets of size k the answer of `mine` chains wins; where it ties, its share."""
    won = Fraction(0)
    for votes in range(1, min(mine, k) + 1):
        # Ways to fill the subset with other answers, none of which has more votes: by how many, and how many tie.
        ways = {(0, 0): 1}
        for count in others:
            more: defaultdict[tuple[int, int], int] = defaultdict(int)
            for (chosen, ties), ways_so_far in ways.items():
                for taken in range(min(count, votes, k - votes - chosen) + 1):
                    more[chosen + taken, ties + (taken == votes)] += ways_so_far * math.comb(count, taken)
            ways = dict(more)
        for (chosen, ties), ways_so_far in ways.items():
            rest = k - votes - chosen
            won += Fraction(math.comb(mine, votes) * ways_so_far * math.comb(silent, rest), 1 + ties)
    return won


def sizes(chains: int) -> list[int]:
    """Every k that is reported for so many chains: the powers of two, and all of them."""
    return sorted({2**i for i in range(chains.bit_length())} | {chains})
