"""What a gate did: realised rates with exact intervals, by turn and question, and selectivity."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from scipy.stats import beta

from a1_sgl.conformal.place import Category, Place, key


class Rate(NamedTuple):
    """A realised rate: take-overs among decisions."""

    hits: int
    n: int

    @property
    def realised(self) -> float | None:
        """The rate; None without a decision."""
        return self.hits / self.n if self.n else None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Its Clopper-Pearson interval, exact if decisions are independent; [0, 1] without a decision."""
        return exact_interval(self.hits, self.n, level) if self.n else (0.0, 1.0)


def exact_interval(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval for a rate; `hits` and `n` need not be whole, for an effective sample size.

    Raises:
        ValueError: counts that are not 0 <= hits <= n, n > 0.
    """
    if not 0 <= hits <= n or n <= 0:
        raise ValueError(f"not a rate: {hits} of {n}")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


class Decided(NamedTuple):
    """A chunk that was decided."""

    place: Place
    score: float
    take_over: bool


@dataclass(frozen=True)
class Audit:
    """Decisions under a nominal rate `alpha`, in the order they were made; each draw of a chunk is one."""

    alpha: float
    decisions: tuple[Decided, ...]

    @classmethod
    def of(cls, alpha: float, decisions: Iterable[Decided]) -> Audit:
        """From any iterable."""
        return cls(alpha, tuple(decisions))

    @cached_property
    def overall(self) -> Rate:
        """Over all decisions."""
        return Rate(sum(d.take_over for d in self.decisions), len(self.decisions))

    def by(self, category: Category) -> dict[Hashable, Rate]:
        """By category, in order of first appearance."""
        of = key(category)
        counts: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
        for decided in self.decisions:
            count = counts[of(decided.place)]
            count[0] += decided.take_over
            count[1] += 1
        return {value: Rate(*count) for value, count in counts.items()}

    def deviations(self, category: Category, minimum: int = 1) -> list[float]:
        """How far each category's realised rate is from alpha, where it has at least `minimum` decisions."""
        return [abs(rate.hits / rate.n - self.alpha) for rate in self.by(category).values() if rate.n >= minimum]

    def selectivity(self, minimum: int = 4) -> float | None:
        """Share of the chunks handed over that hindsight would have handed over; None if none was, in any cell.

        Hindsight knows all n scores of a (question, turn) cell and hands over the ``ceil(alpha * n)`` highest; equal
        scores count as equally high. Cells of fewer than `minimum` chunks are left out. A gate that hands over at
        random has a selectivity of about alpha, rounding up in small cells aside.
        """
        return self._against_hindsight(minimum)[0]

    def recall(self, minimum: int = 4) -> float | None:
        """Share of the chunks that hindsight would have handed over that were; see `selectivity`."""
        return self._against_hindsight(minimum)[1]

    def _against_hindsight(self, minimum: int) -> tuple[float | None, float | None]:
        cells: dict[Hashable, list[Decided]] = defaultdict(list)
        for decided in self.decisions:
            cells[decided.place.question, decided.place.turn].append(decided)
        both = handed = wanted = 0
        for cell in cells.values():
            if len(cell) < minimum:
                continue
            least = sorted((d.score for d in cell), reverse=True)[hindsight(self.alpha, len(cell)) - 1]
            both += sum(d.take_over and d.score >= least for d in cell)
            handed += sum(d.take_over for d in cell)
            wanted += sum(d.score >= least for d in cell)
        return (both / handed if handed else None), (both / wanted if wanted else None)


def hindsight(alpha: float, n: int) -> int:
    """How many of n chunks hindsight hands over, ``ceil(alpha * n)``."""
    return math.ceil(alpha * n - 1e-9)


def summary(rate: Rate) -> dict[str, Any]:
    """A rate with its count and exact interval, as JSON."""
    if not rate.n:
        return {"realised": None, "low": None, "high": None, "decisions": 0}
    low, high = rate.interval()
    return {"realised": rate.realised, "low": low, "high": high, "decisions": rate.n}
