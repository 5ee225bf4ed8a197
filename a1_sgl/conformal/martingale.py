"""Conformal test martingales: wealth that grows when p-values stop being uniform.

Betting on smoothed p-values of an online bank, each is a nonnegative martingale with start 1 while scores are
exchangeable, so the probability that it *ever* reaches a threshold is at most ``1 / threshold`` (Ville's inequality).
Source: Vovk, Gammerman and Shafer 2022, chapters 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from a1_sgl.conformal.checks import real, whole


class Martingale(Protocol):
    """Anything that bets on p-values."""

    def update(self, p: float) -> float:
        """Bets on one p-value in [0, 1] and returns the logarithm of the wealth."""
        ...

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of the wealth, 0 at the start."""
        ...

    def restart(self) -> None:
        """Back to the start."""
        ...

    def state(self) -> Any:
        """What it remembers, as JSON."""
        ...

    def restore(self, state: Any) -> None:
        """Replaces what it remembers."""
        ...


class SimpleJumper:
    """Accounts that bet ``1 + e * (p - 1/2)``; after each bet a share `jump` of the wealth is spread evenly.

    It follows p-values that become small or large, and back. Source: Vovk et al. 2022, algorithm 8.1.
    """

    def __init__(self, jump: float = 0.01, bets: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0)) -> None:
        """Raises ValueError for a jump outside (0, 1), or a bet outside [-2, 2] that could lose more than all."""
        if not 0 < real(jump) < 1:
            raise ValueError(f"jump must lie strictly between 0 and 1, not {jump}")
        if not bets or not all(-2 <= real(bet) <= 2 for bet in bets):
            raise ValueError(f"bets must lie in [-2, 2], not {list(bets)}")
        self.jump, self.bets = jump, tuple(bets)
        self.restart()

    def restart(self) -> None:
        """As in `Martingale`."""
        self.log_wealth = 0.0
        self._shares = [1 / len(self.bets)] * len(self.bets)

    def update(self, p: float) -> float:
        """As in `Martingale`. Raises ValueError for a p-value outside [0, 1]."""
        _check(p)
        won = [share * (1 + bet * (p - 0.5)) for share, bet in zip(self._shares, self.bets, strict=True)]
        total = sum(won)
        self.log_wealth += math.log(total) if total > 0 else -math.inf
        spread = self.jump / len(won)
        # Shares of the wealth, not amounts, so that nothing overflows however long it runs.
        self._shares = [(1 - self.jump) * one / total + spread for one in won] if total > 0 else self._shares
        return self.log_wealth

    def state(self) -> Any:
        """As in `Martingale`."""
        return [self.log_wealth, self._shares]

    def restore(self, state: Any) -> None:
        """As in `Martingale`."""
        self.log_wealth, self._shares = state[0], list(state[1])


class SleeperStayer:
    """Wealth that sleeps and wakes at rate `wake` into accounts that stay with one bet each.

    An account of threshold a and share b bets ``b / a`` on ``p <= a`` and ``(1 - b) / (1 - a)`` on the rest, for all a
    and b of a grid. Made for one change after a long time of none, of which it then grows exponentially; slower than
    `SimpleJumper` where the change is early and slight. Source: Vovk et al. 2022, algorithm 9.4.
    """

    def __init__(self, wake: float = 0.001, grid: int = 10) -> None:
        """Raises ValueError for a rate outside (0, 1) or a grid outside 2 to 1,000."""
        if not 0 < real(wake) < 1:
            raise ValueError(f"wake must lie strictly between 0 and 1, not {wake}")
        if not 2 <= whole(grid) <= 1000:  # it has as many accounts as the square of that
            raise ValueError(f"grid must be a whole number from 2 to 1000, not {grid}")
        self.wake = wake
        points = np.arange(1, grid) / grid
        self._a, self._b = (axis.ravel() for axis in np.meshgrid(points, points, indexing="ij"))
        self.restart()

    def restart(self) -> None:
        """As in `Martingale`."""
        self.log_wealth = 0.0
        self._asleep = 1 - self.wake
        self._awake = np.full(len(self._a), self.wake / len(self._a))

    def update(self, p: float) -> float:
        """As in `Martingale`. Raises ValueError for a p-value outside [0, 1]."""
        _check(p)
        self._awake *= np.where(p <= self._a, self._b / self._a, (1 - self._b) / (1 - self._a))
        total = self._asleep + float(self._awake.sum())
        self.log_wealth += math.log(total)
        self._awake = (self._awake + self.wake * self._asleep / len(self._a)) / total
        self._asleep *= (1 - self.wake) / total
        return self.log_wealth

    def state(self) -> Any:
        """As in `Martingale`."""
        return [self.log_wealth, self._asleep, self._awake.tolist()]

    def restore(self, state: Any) -> None:
        """As in `Martingale`."""
        self.log_wealth, self._asleep, self._awake = state[0], state[1], np.array(state[2])


MARTINGALES = {"simple-jumper": SimpleJumper, "sleeper-stayer": SleeperStayer}


def _check(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"a p-value lies in [0, 1], not {p}")
