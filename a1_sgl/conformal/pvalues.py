"""The two conformal p-values of a score against `n` calibration scores; a higher score is stranger.

Source: Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World* (2nd ed. 2022), sections 2.2.3 and 2.2.5.
"""

from __future__ import annotations

from typing import NamedTuple

from a1_sgl.conformal.checks import real


class Rank(NamedTuple):
    """Where a score stands among others, as the interval of p-values that ties leave open.

    Attributes:
        low: the p-value if every tie went against the score, ``greater / (n + 1)`` for a plain bank.
        high: the p-value if every tie went for it, ``(greater + equal + 1) / (n + 1)``.
        n: how many scores it was ranked among.
    """

    low: float
    high: float
    n: int

    def smoothed(self, u: float) -> float:
        """The p-value with ties broken by `u`, a draw from Uniform(0, 1)."""
        return self.low + u * (self.high - self.low)

    @property
    def conservative(self) -> float:
        """The p-value without randomness."""
        return self.high


def rank(greater: int, equal: int, n: int) -> Rank:
    """The rank of a score that `greater` of `n` scores exceed and `equal` of them equal."""
    return Rank(greater / (n + 1), (greater + equal + 1) / (n + 1), n)


def smoothed(greater: int, equal: int, n: int, u: float) -> float:
    """``(greater + u * (equal + 1)) / (n + 1)``.

    Uniform on [0, 1] at every ``n >= 0``, ties included, if the score and the calibration scores are exchangeable and
    ``u`` is an independent draw from Uniform(0, 1). So the rule "take over when p <= alpha" takes over at rate alpha.

    Args:
        greater: how many calibration scores are greater than the score.
        equal: how many equal it.
        n: how many there are.
        u: the random draw, in [0, 1].

    Raises:
        ValueError: for counts that do not fit ``n``, or ``u`` outside [0, 1].
    """
    _check(greater, equal, n)
    if not 0 <= u <= 1:
        raise ValueError(f"u must lie in [0, 1], not {u}")
    return rank(greater, equal, n).smoothed(u)


def conservative(greater: int, equal: int, n: int) -> float:
    """``(greater + equal + 1) / (n + 1)``.

    Under exchangeability ``P(p <= alpha) <= alpha``, without randomness; never below ``1 / (n + 1)``, so a smaller
    alpha can never take over. Arguments and errors as in `smoothed`.
    """
    _check(greater, equal, n)
    return rank(greater, equal, n).conservative


def scores_needed(alpha: float) -> int:
    """Fewest calibration scores with which a conservative p-value can be as small as `alpha`.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0 < real(alpha) < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, not {alpha}")
    n = max(0, int(1 / alpha) - 2)
    while 1 / (n + 1) > alpha:
        n += 1
    return n


def _check(greater: int, equal: int, n: int) -> None:
    if greater < 0 or equal < 0 or greater + equal > n:
        raise ValueError(f"counts do not fit: greater={greater}, equal={equal}, n={n}")
