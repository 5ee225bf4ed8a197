"""What a gate did: realised rates with intervals and bounds, by turn, question or any category, and selectivity."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import scipy

from a1_sgl.conformal.control import Bound, Control, check_alpha
from a1_sgl.conformal.place import Category, Place, key

LEVEL = 0.95
"""Of every interval that is shown."""


class Rate(NamedTuple):
    """A realised rate: take-overs among decisions.

    Attributes:
        hits: take-overs.
        n: decisions.
        effective: how many independent decisions say as much; None where the decisions are independent.
        bound: how far the rate can be from alpha at this n whatever the scores do, as the gate's control promises; None
            where it promises nothing, or nothing that is not true of every rate.
    """

    hits: int
    n: int
    effective: float | None = None
    bound: float | None = None

    @property
    def realised(self) -> float | None:
        """The rate; None without a decision."""
        return self.hits / self.n if self.n else None

    def interval(self) -> tuple[float, float]:
        """Its 95% interval, see `effective_size`; [0, 1] without a decision."""
        if not self.n:
            return 0.0, 1.0
        if self.effective is None:
            return exact_interval(self.hits, self.n)
        return exact_interval(self.hits / self.n * self.effective, self.effective)  # in this order never too many


def exact_interval(hits: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson interval for a rate; `hits` and `n` need not be whole, for an effective sample size.

    Raises:
        ValueError: counts that are not 0 <= hits <= n, n > 0, or a level outside (0, 1).
    """
    if not 0 <= hits <= n or n <= 0:
        raise ValueError(f"not a rate: {hits} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies strictly between 0 and 1, such as 0.95, and is not {level}")
    tail = (1 - level) / 2
    low = float(scipy.stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(scipy.stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def effective_size(hits: Sequence[float], sizes: Sequence[float], most: float | None = None) -> float:
    """How many independent decisions say as much about a rate as these, which are dependent within a cluster.

    `exact_interval` at this size is the interval of Korn and Graubard 1998 for the ratio ``sum(hits) / sum(sizes)``:
    ``p (1 - p)`` over the variance of the ratio, linearised over clusters, no more than there are decisions, and times
    the squared ratio of the normal quantile to Student's. Three things are less than certain where there are few
    clusters, or few with a hit, and each is settled for the wider interval:

    - Student's degrees of freedom are as many as the clusters that have a hit, or those that have a miss, whichever are
      fewer, and at most one less than all clusters, which is what they take: a cluster without a hit says nothing of
      how much those with hits differ.
    - Where all are hits or all are misses, nothing says how dependent decisions are. They are then taken to be as
      dependent as can be.
    - As dependent as can be is Kish's size, ``sum(sizes) ** 2 / sum of sizes ** 2``: the number of clusters, if they
      are of one size. It is never less.

    Args:
        hits: of each cluster; a share of `sizes`.
        sizes: of each cluster, not all 0.
        most: decisions there are, where `sizes` weigh clusters otherwise; their sum by default.
    """
    total = math.fsum(sizes)
    least = total**2 / math.fsum(size**2 for size in sizes)
    p = math.fsum(hits) / total
    telling = min(sum(hit > 0 for hit in hits), sum(hit < size for hit, size in zip(hits, sizes, strict=True)))
    if not telling or len(sizes) < 2:
        return least
    spread = math.fsum((hit - p * size) ** 2 for hit, size in zip(hits, sizes, strict=True))
    variance = len(sizes) / (len(sizes) - 1) * spread / total**2
    most = total if most is None else most
    size = min(most, p * (1 - p) / variance) if variance else most
    return max(least, size * _shrink(min(telling, len(sizes) - 1)))


@cache
def _shrink(df: int) -> float:
    """The squared ratio of the normal quantile to Student's."""
    tail = 1 - (1 - LEVEL) / 2
    return float(scipy.special.stdtrit(math.inf, tail) / scipy.special.stdtrit(df, tail)) ** 2


class Decided(NamedTuple):
    """A chunk that was decided."""

    place: Place
    score: float
    take_over: bool


@dataclass(frozen=True)
class Rates:
    """Decisions under a nominal rate `alpha`, in the order they were made; each draw of a chunk is one.

    Decisions of one question depend on each other: its chunks are alike. So intervals are clustered by question, and
    those of a rate within one question by chain. They are intervals for the rate over questions like these (chains like
    these), decided as these were, and say nothing of what a gate shares between questions.

    Attributes:
        alpha: nominal take-over rate.
        decisions: every decision, whichever rates are asked for.
        control: what made them under `alpha`, all of them and no others; None where that is not so, and nothing is
            bounded.
    """

    alpha: float
    decisions: tuple[Decided, ...]
    control: Control | None = None

    @classmethod
    def of(cls, alpha: float, decisions: Iterable[Decided], control: Control | None = None) -> Rates:
        """From any iterable.

        Raises:
            ValueError: alpha outside (0, 1).
        """
        check_alpha(alpha)
        return cls(alpha, tuple(decisions), control)

    @cached_property
    def overall(self) -> Rate:
        """Over all decisions."""
        return self.by(_all).get((), Rate(0, 0))

    def by(self, category: Category) -> dict[Hashable, Rate]:
        """By category, in order of first appearance."""
        of = key(category)
        found: dict[Hashable, dict[Hashable, dict[Hashable, list[int]]]] = {}
        for decided in self.decisions:
            place = decided.place
            chains = found.setdefault(of(place), {}).setdefault(place.question, {})
            count = chains.setdefault(place.sample, [0, 0])
            count[0] += decided.take_over
            count[1] += 1
        bounds = self._bounds(of)
        return {value: _rate(questions, bounds.get(value)) for value, questions in found.items()}

    @cached_property
    def _promised(self) -> Sequence[Bound]:
        return self.control.bound([decided.place for decided in self.decisions]) if self.control is not None else ()

    def _bounds(self, of: Callable[[Place], Hashable]) -> Mapping[Hashable, float]:
        """How far each rate can be from alpha: the least that follows from any of the control's bounds.

        A bound on the counts of its categories bounds the count of what is a union of some, by their sum.
        """
        least: dict[Hashable, float] = {}
        for categories, excess in self._promised:
            within: dict[Hashable, Hashable] = {}
            sizes: Counter[Hashable] = Counter()
            across = set()
            for decided, category in zip(self.decisions, categories, strict=True):
                value = of(decided.place)
                sizes[value] += 1
                if within.setdefault(category, value) != value:
                    across |= {value, within[category]}
            sums: dict[Hashable, float] = defaultdict(float)
            for category, value in within.items():
                sums[value] += excess[category]
            for value, total in sums.items():
                if value not in across and total / sizes[value] < max(self.alpha, 1 - self.alpha):
                    least[value] = min(least.get(value, 1.0), total / sizes[value])
        return least

    def deviations(self, category: Category, minimum: int = 1) -> list[float]:
        """How far each category's realised rate is from alpha, where it has at least `minimum` decisions."""
        return [abs(rate.hits / rate.n - self.alpha) for rate in self.by(category).values() if rate.n >= minimum]

    def selectivity(self, minimum: int = 4) -> float | None:
        """Share of the chunks handed over that hindsight would have handed over; None if none was, in any cell.

        Hindsight knows all n scores of a (question, turn) cell and hands over the ``ceil(alpha * n)`` highest. Where it
        has to choose among equal scores, each counts by the share of them that it takes: a cell whose scores are all
        equal shows no gate to be selective. Cells of fewer than `minimum` chunks are left out. A gate that hands over
        at random has a selectivity of about alpha, rounding up in small cells aside.
        """
        return self._against_hindsight(minimum)[0]

    def recall(self, minimum: int = 4) -> float | None:
        """Share of the chunks that hindsight would have handed over that were; see `selectivity`."""
        return self._against_hindsight(minimum)[1]

    def _against_hindsight(self, minimum: int) -> tuple[float | None, float | None]:
        cells: dict[Hashable, list[Decided]] = defaultdict(list)
        for decided in self.decisions:
            cells[decided.place.question, decided.place.turn].append(decided)
        both, handed, wanted = 0.0, 0, 0
        for cell in cells.values():
            if len(cell) < minimum:
                continue
            count = hindsight(self.alpha, len(cell))
            least = sorted((d.score for d in cell), reverse=True)[count - 1]
            above = sum(d.score > least for d in cell)
            share = (count - above) / sum(d.score == least for d in cell)
            both += sum((d.score > least) + share * (d.score == least) for d in cell if d.take_over)
            handed += sum(d.take_over for d in cell)
            wanted += count
        return (both / handed if handed else None), (both / wanted if wanted else None)


def _all(place: Place) -> Hashable:
    return ()


def _rate(questions: Mapping[Hashable, Mapping[Hashable, Sequence[int]]], bound: float | None) -> Rate:
    """From the take-overs and decisions of each question's chains."""
    clusters: list[Sequence[int]]
    if len(questions) > 1:
        clusters = [[sum(column) for column in zip(*chains.values(), strict=True)] for chains in questions.values()]
    else:
        clusters = [chain for chains in questions.values() for chain in chains.values()]
    hits, sizes = zip(*clusters, strict=True)
    return Rate(sum(hits), sum(sizes), effective_size(hits, sizes), bound)


def hindsight(alpha: float, n: int) -> int:
    """How many of n chunks hindsight hands over, ``ceil(alpha * n)``."""
    return math.ceil(alpha * n - 1e-9)


def summary(rate: Rate) -> dict[str, Any]:
    """A rate with its count, interval and bound, as JSON."""
    if not rate.n:
        return {"realised": None, "low": None, "high": None, "decisions": 0, "bound": None}
    low, high = rate.interval()
    return {"realised": rate.realised, "low": low, "high": high, "decisions": rate.n, "bound": rate.bound}
