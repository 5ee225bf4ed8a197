"""Risk control: the cheapest alpha whose accuracy loss is small, with a stated probability of being wrong.

Source: Angelopoulos, Bates, Candès, Jordan and Lei 2021, *Learn then Test* (arXiv 2110.01052), with the exact binomial
p-values of their section 3.2 and fixed-sequence testing (section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from a1_sgl.conformal.rates import exact_interval


@dataclass(frozen=True)
class Tested:
    """One alpha's test: how many of `n` questions lost, and the p-value of "the risk is above epsilon".

    `p_value` is None where testing had stopped before it came to this alpha.
    """

    alpha: float
    losses: int
    n: int
    p_value: float | None
    certified: bool


@dataclass(frozen=True)
class Certificate:
    """The outcome: with probability at least ``1 - delta`` every certified alpha has a risk of at most epsilon.

    Attributes:
        alpha: the cheapest certified one, or None: nothing can be said at this epsilon and delta.
        tests: in the order they were made, from the largest alpha, which is the safest, to the smallest.
    """

    epsilon: float
    delta: float
    alpha: float | None
    tests: tuple[Tested, ...]


def binomial_p_value(losses: int, n: int, epsilon: float) -> float:
    """``P(Binomial(n, epsilon) <= losses)``: super-uniform if the risk is above epsilon, for losses of 0 or 1.

    Raises:
        ValueError: counts that do not fit, or epsilon outside (0, 1).
    """
    if not 0 <= losses <= n or n < 1:
        raise ValueError(f"counts do not fit: {losses} losses of {n}")
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must lie strictly between 0 and 1, not {epsilon}")
    return float(binom.cdf(losses, n, epsilon))


def questions_needed(epsilon: float, delta: float) -> int:
    """Fewest questions with which an alpha that loses none of them can be certified: ``(1 - epsilon)^n <= delta``."""
    n = max(1, math.floor(math.log(delta) / math.log1p(-epsilon)))
    while binomial_p_value(0, n, epsilon) > delta:
        n += 1
    return n


def regressions(policy: Sequence[bool], reference: Sequence[bool]) -> list[bool]:
    """Question by question, whether the policy is wrong where the reference is right.

    The mean of this is at least the accuracy that is lost, since questions that only the policy gets right are not
    offset against it; and it is 0 or 1, as exact binomial p-values need.

    Raises:
        ValueError: not one answer each to the same questions.
    """
    return [right and not mine for mine, right in zip(policy, reference, strict=True)]


def certify(losses: Mapping[float, Sequence[bool]], epsilon: float, delta: float) -> Certificate:
    """Learn then Test: from the largest alpha down, certify while the p-value is at most delta, and stop for good.

    The order is fixed before the data are seen (more take-overs, less risk), so no correction for testing several
    alphas is needed; where risk does not fall with alpha the guarantee holds all the same and less is certified.

    Args:
        losses: for each alpha, whether each calibration question lost; the same questions for every alpha, drawn
            independently from what will be asked.
        epsilon: risk to be allowed.
        delta: probability of certifying anything it should not.

    Raises:
        ValueError: no alpha, different numbers of questions, a loss that is neither 0 nor 1, epsilon or delta outside
            (0, 1), or so few questions that nothing could be certified; the number needed is named.
    """
    if not 0 < delta < 1 or not 0 < epsilon < 1:
        raise ValueError(f"epsilon and delta must lie strictly between 0 and 1, not {epsilon} and {delta}")
    sizes = {len(column) for column in losses.values()}
    if len(sizes) != 1:
        raise ValueError(f"every alpha needs the same questions, at least one alpha; got {sorted(sizes)} questions")
    (n,) = sizes
    if n < (need := questions_needed(epsilon, delta)):
        raise ValueError(
            f"{n} questions cannot certify epsilon {epsilon:g} at delta {delta:g}, even with no loss at all; "
            f"at least {need} are needed"
        )
    if not all(lost in (False, True) for column in losses.values() for lost in column):
        raise ValueError("a loss is True or False, or 1 or 0; exact binomial p-values hold for no other")
    tests: list[Tested] = []
    going = True
    for alpha in sorted(losses, reverse=True):
        lost = int(np.sum(losses[alpha]))
        p = binomial_p_value(lost, n, epsilon) if going else None
        going = p is not None and p <= delta
        tests.append(Tested(alpha, lost, n, p, going))
    certified = [test.alpha for test in tests if test.certified]
    return Certificate(epsilon, delta, min(certified, default=None), tuple(tests))


def risk_interval(test: Tested, level: float = 0.95) -> tuple[float, float]:
    """Exact interval for the risk at one alpha, for display; not part of the certificate."""
    return exact_interval(test.losses, test.n, level)
