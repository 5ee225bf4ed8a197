"""Banks of scores: they rank a score among those that came before it.

One bank for everything (`ScoreBank`), or one for each category of chunks with a parent to fall back on while a category
is small: abruptly (`MondrianBank`) or by degrees (`ShrunkBank`). They nest, and all are safe to share between threads.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Hashable, Iterable
from math import inf, isfinite
from typing import Any, Protocol

from sortedcontainers import SortedList

from a1_sgl.conformal.checks import real, whole
from a1_sgl.conformal.place import Category, Passing, Place, from_json, key, to_json
from a1_sgl.conformal.pvalues import Rank, rank

KEPT = 100_000
"""Scores that a bank without end keeps, the last ones: what it holds is bounded, and a p-value is fine to 1e-5."""
_FEW = 1000
"""Scores up to which a plain list is as quick as a `SortedList`, or quicker: a question's bank seldom has more."""


class Bank(Protocol):
    """Anything that ranks scores. A score that is not finite raises ValueError and changes nothing."""

    def rank(self, score: float, place: Place, *, add: bool = False) -> Rank:
        """Where `score` stands among its like; with `add` it joins the bank afterwards, in one atomic step."""
        ...

    def add(self, score: float, place: Place) -> None:
        """Puts in a score that is not to be ranked, such as a calibration score."""
        ...

    def forget(self, question: Hashable) -> None:
        """Lets go of what it keeps for a question alone, of which nothing more will be ranked."""
        ...

    def clear(self) -> None:
        """Forgets every score."""
        ...

    def state(self) -> Any:
        """The scores as JSON."""
        ...

    def restore(self, state: Any) -> None:
        """Replaces the scores by those of `state`, from a bank that was made alike."""
        ...

    def __len__(self) -> int: ...


class ScoreBank:
    """A multiset of finite scores with O(log n) insertion and look-up.

    With a `window` only the last so many scores are kept: the p-values then follow a drift, and are exact only while
    the scores within the window are exchangeable.
    """

    def __init__(self, scores: Iterable[float] = (), *, window: int | None = None) -> None:
        """Raises ValueError for a score that is not finite, or a window below 1."""
        self.window = _window(window)
        self._lock = threading.Lock()
        self._fill(scores)

    def __len__(self) -> int:
        return len(self._scores)

    def counts(self, score: float, *, add: bool = False) -> tuple[int, int, int]:
        """How many scores are greater than `score`, how many equal it, and how many there are.

        With `add` it joins the bank afterwards, in one atomic step.

        Raises:
            ValueError: for a score that is not finite; the bank is left as it was.
        """
        finite(score)
        with self._lock:
            return self._counts(score, add)

    def rank(self, score: float, place: Place | None = None, *, add: bool = False) -> Rank:
        """As in `Bank`; the place does not matter here."""
        return rank(*self.counts(score, add=add))

    def add(self, score: float, place: Place | None = None) -> None:
        """As in `Bank`."""
        finite(score)
        with self._lock:
            self._insert(score)

    def forget(self, question: Hashable) -> None:
        """Nothing to let go of: it knows no questions."""

    def clear(self) -> None:
        """As in `Bank`."""
        with self._lock:
            self._fill(())

    def scores(self) -> list[float]:
        """A copy of the scores in ascending order."""
        with self._lock:
            return list(self._scores)

    def state(self) -> Any:
        """As in `Bank`: the scores, oldest first if there is a window."""
        with self._lock:
            return list(self._scores if self._order is None else self._order)

    def restore(self, state: Any) -> None:
        """As in `Bank`."""
        with self._lock:
            self._fill(state)

    def _fill(self, scores: Iterable[float]) -> None:
        kept = [finite(score) for score in scores]
        if self.window is not None:
            kept = kept[-self.window :]
        self._order = deque(kept) if self.window is not None else None
        self._scores: list[float] | SortedList = sorted(kept) if len(kept) <= _FEW else SortedList(kept)

    def _counts(self, score: float, add: bool) -> tuple[int, int, int]:
        scores = self._scores
        n = len(scores)
        if isinstance(scores, list):
            above = bisect_right(scores, score)
            equal = above - bisect_left(scores, score, 0, above)
        else:
            above = scores.bisect_right(score)
            # Membership costs half of a second position, and equal scores are rare.
            equal = above - scores.bisect_left(score) if score in scores else 0
        if add:
            self._insert(score)
        return n - above, equal, n

    def _insert(self, score: float) -> None:
        scores = self._scores
        if isinstance(scores, list):
            insort(scores, score)
        else:
            scores.add(score)
        if self._order is not None:
            self._order.append(score)
            if len(self._order) > (self.window or 0):
                oldest = self._order.popleft()
                if isinstance(scores, list):
                    del scores[bisect_left(scores, oldest)]
                else:
                    scores.remove(oldest)
        if isinstance(scores, list) and len(scores) > _FEW:
            self._scores = SortedList(scores)


class _Categories:
    """A bank for each category beside a parent that holds every score.

    A category's bank is touched under this bank's lock alone, with scores that are known to be finite.
    """

    def __init__(self, category: Category, parent: Bank | None, window: int | None) -> None:
        self.category = category
        self.parent: Bank = ScoreBank(window=KEPT) if parent is None else parent
        self.window = _window(window)
        self._key = key(category)
        self._banks: dict[Hashable, ScoreBank] = {}
        self._passing = Passing(category)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.parent)

    def sizes(self) -> dict[Hashable, int]:
        """How many scores each category has."""
        with self._lock:
            return {category: len(bank) for category, bank in self._banks.items()}

    def add(self, score: float, place: Place) -> None:
        """As in `Bank`."""
        finite(score)
        with self._lock:
            self._bank(place)  # a category that cannot be is refused while nothing is changed
            self.parent.add(score, place)
            self._insert(score, place)

    def forget(self, question: Hashable) -> None:
        """As in `Bank`: categories by question go; the parent keeps their scores."""
        with self._lock:
            for category in self._passing.forget(question):
                self._banks.pop(category, None)
            self.parent.forget(question)

    def clear(self) -> None:
        """As in `Bank`."""
        with self._lock:
            self.parent.clear()
            self._hold({})

    def state(self) -> Any:
        """As in `Bank`."""
        with self._lock:
            own = [[to_json(category), bank.state()] for category, bank in self._banks.items()]
            return {"parent": self.parent.state(), "categories": own}

    def restore(self, state: Any) -> None:
        """As in `Bank`."""
        with self._lock:
            banks = {from_json(c): ScoreBank(scores, window=self.window) for c, scores in state["categories"]}
            self.parent.restore(state["parent"])
            self._hold(banks)

    def _bank(self, place: Place) -> ScoreBank | None:
        return self._banks.get(self._key(place))

    def _insert(self, score: float, place: Place) -> None:
        """A category begins with its first score, and no sooner."""
        category = self._key(place)
        bank = self._banks.get(category)
        if bank is None:
            bank = self._banks[category] = ScoreBank(window=self.window)
            self._passing.note(category)
        bank._insert(score)

    def _hold(self, banks: dict[Hashable, ScoreBank]) -> None:
        self._banks, self._passing = banks, Passing(self.category)
        for category in banks:
            self._passing.note(category)


class MondrianBank(_Categories):
    """A score is ranked within its category, or by the parent while the category holds fewer than `minimum` scores.

    Which of the two it is depends on how many scores came before and never on the score. So the smoothed p-values are
    uniform within a category once it holds its `minimum` of scores if the category's scores are exchangeable, and
    before that if they are exchangeable with the parent's. A score is never accepted for want of scores: with none at
    all its smoothed p-value is the uniform draw itself.

    Source: Vovk et al. 2022, section 4.6 (Mondrian conformal predictors).
    """

    def __init__(
        self, category: Category, parent: Bank | None = None, *, minimum: int = 20, window: int | None = None
    ) -> None:
        """
        Args:
            category: which scores belong together, such as ``"turn"`` or ``("task", "turn")``.
            parent: ranks while a category is small, and gets every score; by default a `ScoreBank` of the last `KEPT`.
            minimum: scores that a category needs to rank by itself, at least 1.
            window: as in `ScoreBank`, for each category.
        """
        super().__init__(category, parent, window)
        if not whole(minimum) >= 1 or (window is not None and window < minimum):
            raise ValueError(f"minimum must be a whole number between 1 and the window, not {minimum}")
        self.minimum = minimum

    def rank(self, score: float, place: Place, *, add: bool = False) -> Rank:
        """As in `Bank`."""
        finite(score)
        with self._lock:
            bank = self._bank(place)
            if bank is None or len(bank) < self.minimum:
                ranked = self.parent.rank(score, place, add=add)
                if add:
                    self._insert(score, place)
            else:
                if add:  # the parent first: it may refuse the place
                    self.parent.add(score, place)
                ranked = rank(*bank._counts(score, add))
            return ranked


class ShrunkBank(_Categories):
    """A score is ranked within its category and by the parent at once; the parent counts as `weight` scores.

    ``p = (greater + u * equal + weight * p_parent) / (n + weight)``. With a parent whose p-value is the draw `u` and
    weight 1 this is the smoothed p-value. In general it is an *estimate* of one, and not uniform: where a category's
    scores are distributed as the parent's, it is too often small and too often large, most where the category holds
    about `weight` scores (``P(p <= 0.1) = 0.135`` for 4 scores and weight 4). Use it for its ranking, under a control
    that does not rely on p-values (see `Offsets`).
    """

    def __init__(
        self, category: Category, parent: Bank | None = None, *, weight: float = 4.0, window: int | None = None
    ) -> None:
        """Arguments as in `MondrianBank`, and `weight`: positive."""
        super().__init__(category, parent, window)
        if not 0 < real(weight) < inf:
            raise ValueError(f"weight must be positive and finite, not {weight}")
        self.weight = weight

    def rank(self, score: float, place: Place, *, add: bool = False) -> Rank:
        """As in `Bank`; `Rank.n` is that of the category."""
        finite(score)
        with self._lock:
            bank = self._bank(place)
            low, high, _ = self.parent.rank(score, place, add=add)
            if bank is None:
                if add:
                    self._insert(score, place)
                return Rank(low, high, 0)
            greater, equal, n = bank._counts(score, add)
            k = self.weight
            return Rank((greater + k * low) / (n + k), (greater + equal + k * high) / (n + k), n)


def _window(window: int | None) -> int | None:
    if window is not None and not whole(window) >= 1:
        raise ValueError(f"window must be at least 1 score, not {window}")
    return window


def finite(score: float) -> float:
    """The score as a float, or ValueError if it is not finite, or an integer that no float can hold."""
    try:
        if isfinite(score):
            return float(score)
    except OverflowError:
        pass
    shown = f"an integer of {score.bit_length()} bits" if isinstance(score, int) else score
    raise ValueError(f"a score must be a finite number, not {shown}; a missing score is an error, not a rank")


def is_finite(score: float) -> bool:
    """Whether a float can hold it; JSON has integers that none can."""
    try:
        return isfinite(score)
    except OverflowError:
        return False
