"""The two conformal p-values of a score against `n` calibration scores; a higher score is stranger.

Source: Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World* (2nd ed. 2022), sections 2.2.3 and 2.2.5.
"""

from __future__ import annotations


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
    return (greater + u * (equal + 1)) / (n + 1)


def conservative(greater: int, equal: int, n: int) -> float:
    """``(greater + equal + 1) / (n + 1)``.

    Under exchangeability ``P(p <= alpha) <= alpha``, without randomness; never below ``1 / (n + 1)``, so a smaller
    alpha can never take over. Arguments and errors as in `smoothed`.
    """
    _check(greater, equal, n)
    return (greater + equal + 1) / (n + 1)


def _check(greater: int, equal: int, n: int) -> None:
    if greater < 0 or equal < 0 or greater + equal > n:
        raise ValueError(f"counts do not fit: greater={greater}, equal={equal}, n={n}")
