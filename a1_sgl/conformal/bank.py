"""A bank of calibration scores."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import NamedTuple

from sortedcontainers import SortedList


class Counts(NamedTuple):
    """How a score stands against a bank: the bank's scores greater than it, equal to it, and in all."""

    greater: int
    equal: int
    n: int


class ScoreBank:
    """A multiset of finite scores with O(log n) insertion and look-up; safe to share between threads."""

    def __init__(self, scores: Iterable[float] = ()) -> None:
        """Raises ValueError for a score that is not finite."""
        self._scores: SortedList = SortedList(_finite(score) for score in scores)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scores)

    def counts(self, score: float, *, add: bool = False) -> Counts:
        """Where `score` stands; with `add` it joins the bank afterwards, in one atomic step.

        Raises:
            ValueError: for a score that is not finite; the bank is left as it was.
        """
        _finite(score)
        with self._lock:
            n = len(self._scores)
            above = self._scores.bisect_right(score)
            counts = Counts(n - above, above - self._scores.bisect_left(score), n)
            if add:
                self._scores.add(score)
        return counts

    def scores(self) -> list[float]:
        """A copy of the scores in ascending order."""
        with self._lock:
            return list(self._scores)


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a score must be a finite number, not {score}; a missing score is an error, not a rank")
    return score
