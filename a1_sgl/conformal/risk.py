"""Risk control: which levels of a frozen gate lose few answers, with a stated probability of being wrong.

Levels are tested in a fixed sequence, from the largest down: Angelopoulos, Bates, Candès, Jordan and Lei 2021, *Learn
then Test* (arXiv 2110.01052), section 3.3. Each test is a bet, so that questions may be added until it passes:
Waudby-Smith and Ramdas 2024, *Estimating means of bounded random variables by betting* (arXiv 2010.09686).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from a1_sgl.conformal.checks import real, whole

JEFFREYS = 0.5


def log_wealth(lost: npt.ArrayLike, n: npt.ArrayLike, epsilon: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Natural logarithm of a bet's wealth after `n` questions of which `lost` were lost; it starts at 0.

    It is the likelihood of a risk below epsilon, averaged over these by a prior, against that of a risk of epsilon.
    While each question is lost with probability epsilon or more, whatever came before, it is a nonnegative
    supermartingale, so the probability that it *ever* reaches ``1 / delta`` is at most delta (Ville's inequality),
    however many questions there will have been and however often it is looked at. The prior is Jeffreys', Beta(1/2,
    1/2), cut off at epsilon: there is nothing to tune, and whatever share is lost, the wealth stays within a factor of
    the order of ``sqrt(n)`` of the bet that is best in hindsight.

    Args:
        lost, n: counts, ``0 <= lost <= n``.
        epsilon: the risk bet against, in (0, 1). Arrays are broadcast together.
    """
    s, m, e = (np.asarray(one, dtype=float) for one in (lost, n, epsilon))
    a, b = s + JEFFREYS, m - s + JEFFREYS
    with np.errstate(divide="ignore"):
        # Where far more is lost than epsilon the integral may underflow; a wealth of 0 is less, so it promises no more.
        average = scipy.special.betaln(a, b) + np.log(scipy.special.betainc(a, b, e))
    prior = scipy.special.betaln(JEFFREYS, JEFFREYS) + np.log(scipy.special.betainc(JEFFREYS, JEFFREYS, e))
    found: npt.NDArray[np.float64] = average - prior - s * np.log(e) - (m - s) * np.log1p(-e)
    return found


def questions_needed(epsilon: float, delta: float) -> int:
    """Fewest questions with which a level that loses none of them is certified.

    Raises:
        ValueError: epsilon or delta outside (0, 1).
    """
    _check(epsilon, delta)
    n = 1
    while log_wealth(0, n, epsilon) < -math.log(delta):
        n *= 2
    enough, few = n, n // 2
    while enough - few > 1:
        middle = (enough + few) // 2
        if log_wealth(0, middle, epsilon) < -math.log(delta):
            few = middle
        else:
            enough = middle
    return enough


def regressions(policy: Sequence[bool], reference: Sequence[bool]) -> list[bool]:
    """Question by question, whether it is lost: the policy is wrong where the reference is right.

    Args:
        policy, reference: whether the answer to each question is right.

    Raises:
        ValueError: not one answer each to the same questions.
    """
    return [right and not mine for mine, right in zip(policy, reference, strict=True)]


@dataclass(frozen=True)
class Trial:
    """One level's test.

    Attributes:
        alpha: the level.
        lost: how many of the questions were lost.
        n: how many there were.
        e_value: the largest wealth of its bet after any of them; 1 / delta certifies.
        after: after how many it was certified; None: it is not.

    Raises:
        ValueError: counts that do not fit, or an alpha outside (0, 1).
    """

    alpha: float
    lost: int
    n: int
    e_value: float
    after: int | None

    def __post_init__(self) -> None:
        if not 0 < real(self.alpha) < 1:
            raise ValueError(f"alpha must lie strictly between 0 and 1, not {self.alpha}")
        if not 0 <= whole(self.lost) <= whole(self.n) or not real(self.e_value) >= 0:
            raise ValueError(f"counts do not fit: {self.lost} lost of {self.n}, e-value {self.e_value}")
        if self.after is not None and not 1 <= whole(self.after) <= self.n:
            raise ValueError(f"certified after {self.after} of {self.n} questions")

    @classmethod
    def of(cls, alpha: float, losses: Sequence[bool], epsilon: float, delta: float) -> Trial:
        """Tests one level.

        Args:
            losses: whether each question was lost, in the order in which they were drawn. That order must not depend on
                them; how many there are may.

        Raises:
            ValueError: as the class, no question, a loss that is neither 0 nor 1, epsilon or delta outside (0, 1).
        """
        _check(epsilon, delta)
        if not len(losses) or not all(lost in (False, True) for lost in losses):
            raise ValueError("a test needs questions, each lost or not: True or False")
        lost = np.cumsum(losses)
        wealth = log_wealth(lost, np.arange(1, len(lost) + 1), epsilon)
        passed = np.flatnonzero(wealth >= -math.log(delta))
        most = math.exp(min(float(wealth.max()), 700.0))
        return cls(alpha, int(lost[-1]), len(lost), most, int(passed[0]) + 1 if len(passed) else None)

    @property
    def certified(self) -> bool:
        """Whether its bet has ever reached 1 / delta."""
        return self.after is not None


def _check(epsilon: float, delta: float) -> None:
    if not 0 < real(delta) < 1 or not 0 < real(epsilon) < 1:
        raise ValueError(f"epsilon and delta must lie strictly between 0 and 1, not {epsilon} and {delta}")
