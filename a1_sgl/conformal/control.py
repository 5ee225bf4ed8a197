"""Controls: they set the level that a p-value is compared with, from what was decided before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from a1_sgl.conformal.checks import real
from a1_sgl.conformal.place import Category, Passing, Place, from_json, key, to_json


class Bound(NamedTuple):
    """What a control promises of the decisions it has made, whatever the scores were.

    Attributes:
        categories: of each decision.
        excess: by category, the most that its take-overs can differ from alpha times its decisions.
    """

    categories: Sequence[Hashable]
    excess: Mapping[Hashable, float]


class Control(Protocol):
    """Anything that sets levels. A gate calls it under its own lock, `level` and then `update` for each decision.

    A chunk that is drawn again is decided again. `Fixed` and `Offsets` take each draw for a decision like any other, so
    the rate that they hold is that of rejected draws; budgets count chains.
    """

    def level(self, place: Place) -> float:
        """Take over when ``p <= level``; below 0 never, from 1 on always."""
        ...

    def update(self, place: Place, took_over: bool) -> None:
        """Takes note of a decision."""
        ...

    def finish(self, question: Hashable, sample: int) -> None:
        """Takes note that a chain has ended."""
        ...

    def forget(self, question: Hashable) -> None:
        """Lets go of what it remembers of a question of which nothing more will be decided."""
        ...

    def state(self) -> Any:
        """What it remembers, as JSON."""
        ...

    def restore(self, state: Any) -> None:
        """Replaces what it remembers; a state that it cannot take leaves it as it was."""
        ...

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """Each bound that it promises where `places` are of all decisions it ever made; in any order."""
        ...


class Fixed:
    """The level is alpha. All that is promised comes from the p-values."""

    def __init__(self, alpha: float) -> None:
        self.alpha = check_alpha(alpha)

    def level(self, place: Place) -> float:
        """As in `Control`."""
        return self.alpha

    def update(self, place: Place, took_over: bool) -> None:
        """Nothing to note."""

    def finish(self, question: Hashable, sample: int) -> None:
        """Nothing to note."""

    def forget(self, question: Hashable) -> None:
        """Nothing to let go of."""

    def state(self) -> Any:
        """As in `Control`."""
        return None

    def restore(self, state: Any) -> None:
        """As in `Control`."""

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """None: scores that only ever rise are all taken over, or none that fall."""
        return []


class Offsets:
    """Adaptive conformal inference in one or several families of categories at once; their offsets add up.

    ``level = alpha + sum over families of offset[category of the chunk]``, and after each decision
    ``offset += step * (alpha - took_over)`` for the categories the chunk is in.

    *One family.* With the family of all chunks this is adaptive conformal inference (Gibbs and Candès 2021, equation
    2), with ``"turn"`` it is one such process a turn. After N decisions of a category its realised rate differs from
    alpha by at most ``(max(alpha, 1 - alpha) + step) / (step * N)``, whatever the scores do (their proposition 4.1).
    With ``decay`` the k-th step is ``step * k ** -decay`` (Angelopoulos, Barber and Bates 2024): where scores are
    stationary the level settles instead of trembling for ever, and the bound becomes ``(1 + step) / (step * N **
    (1 - decay))`` (their theorem 1).

    *Several families*, such as question and turn. Every family pulls its own rate back to alpha, but a chunk's level is
    shared, so no family's rate alone is bounded as tightly. With S the sum of ``took_over - alpha`` in a category, and
    neither caps nor decay, the sum of ``step * S ** 2`` over all categories grows by at most ``(2 + sum of steps) *
    max(alpha, 1 - alpha) ** 2`` a decision, whatever the scores do; so a category with a constant share of N decisions
    has a rate within O(N ** -1/2) of alpha. A ``cap`` makes one family exact: where ``abs(S)`` of a category reaches
    it, the decision is forced. The number of take-overs in each of its categories then never differs from alpha times
    its chunks by more than ``cap + max(alpha, 1 - alpha)``, whatever the scores do; the other families' bound is lost
    as far as decisions are forced.
    """

    def __init__(
        self,
        alpha: float,
        steps: Mapping[Category, float],
        *,
        decay: float = 0.0,
        caps: Mapping[Category, float] | None = None,
    ) -> None:
        """
        Args:
            alpha: nominal take-over rate, strictly between 0 and 1.
            steps: for each family, how far one decision moves its offset; positive. ``()`` is the family of all chunks.
            decay: power with which steps shrink, in [0, 1); above 1/2 for the level to settle.
            caps: for families of `steps`, how many chunks a category may be off; the first family has precedence.

        Raises:
            ValueError: no family, a step or cap that is not positive, a decay outside [0, 1), or a cap for no family.
        """
        self.alpha = check_alpha(alpha)
        if not steps:
            raise ValueError("a control needs at least one family of categories")
        if not all(0 < real(step) < math.inf for step in steps.values()):
            raise ValueError(f"steps must be positive, not {list(steps.values())}")
        if not 0 <= real(decay) < 1:
            raise ValueError(f"decay must lie in [0, 1), not {decay}")
        caps = caps or {}
        if not all(family in steps and 0 < real(cap) < math.inf for family, cap in caps.items()):
            raise ValueError(f"caps must be positive and name families among {list(steps)}, not {dict(caps)}")
        self.decay = decay
        # The place last asked about and its categories: a decision asks for its level and updates, with one look-up.
        self._asked: tuple[Place | None, list[tuple[_Family, Hashable, _Category]]] = (None, [])
        self._families = [_Family(family, step, caps.get(family)) for family, step in steps.items()]

    def level(self, place: Place) -> float:
        """As in `Control`."""
        level, forced, found = self.alpha, None, []
        for family in self._families:
            at = family.key(place)
            mine = family.of.get(at) or _Category()
            found.append((family, at, mine))
            if family.cap is not None and forced is None and abs(mine.excess) >= family.cap:
                forced = -1.0 if mine.excess > 0 else 2.0
            level += mine.offset
        self._asked = place, found
        return level if forced is None else forced

    def update(self, place: Place, took_over: bool) -> None:
        """As in `Control`."""
        error = took_over - self.alpha
        if self._asked[0] is not place:
            self.level(place)
        for family, at, mine in self._asked[1]:
            if not mine.n:
                family.begin(at, mine)  # with its first decision, and not because it was asked about
            mine.n += 1
            mine.excess += error
            mine.offset -= error * (family.step * mine.n**-self.decay if self.decay else family.step)

    def finish(self, question: Hashable, sample: int) -> None:
        """Nothing to note."""

    def forget(self, question: Hashable) -> None:
        """As in `Control`: categories by question go; what is promised of them holds for what was decided."""
        self._asked = (None, [])
        for family in self._families:
            family.forget(question)

    def state(self) -> Any:
        """As in `Control`."""
        return [
            [[to_json(category), c.n, c.excess, c.offset] for category, c in family.of.items()]
            for family in self._families
        ]

    def restore(self, state: Any) -> None:
        """As in `Control`."""
        restored = [
            {from_json(category): _Category(*values) for category, *values in categories}
            for _, categories in zip(self._families, state, strict=True)
        ]
        self._asked = (None, [])
        for family, of in zip(self._families, restored, strict=True):
            family.restore(of)

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """Those of the class, each where it holds: of the first capped family, of one alone, or of several uncapped."""
        most, n = max(self.alpha, 1 - self.alpha), len(places)
        capped = next((family for family in self._families if family.cap is not None), None)
        steps = sum(family.step for family in self._families)
        found = []
        for family in self._families if capped is None else [capped]:
            categories = [family.key(place) for place in places]
            if family.cap is not None:
                excess = {category: family.cap + most for category in categories}
            elif len(self._families) == 1 and self.decay:
                excess = {c: (1 + family.step) / family.step * k**self.decay for c, k in Counter(categories).items()}
            elif len(self._families) == 1:
                excess = {category: (most + family.step) / family.step for category in categories}
            elif not self.decay:
                excess = {category: most * math.sqrt(n * (2 + steps) / family.step) for category in categories}
            else:
                continue
            found.append(Bound(categories, excess))
        return found


class _Category:
    """What is remembered of a category: decisions, take-overs beyond alpha's share, offset of the level."""

    __slots__ = ("excess", "n", "offset")

    def __init__(self, n: int = 0, excess: float = 0.0, offset: float = 0.0) -> None:
        self.n, self.excess, self.offset = n, excess, offset


class _Family:
    """The categories of one kind."""

    def __init__(self, category: Category, step: float, cap: float | None) -> None:
        self.category, self.key = category, _everything if category == () else key(category)
        self.step, self.cap, self.of = step, cap, dict[Hashable, _Category]()
        self._passing = Passing(category)

    def begin(self, name: Hashable, first: _Category) -> None:
        self.of[name] = first
        self._passing.note(name)

    def forget(self, question: Hashable) -> None:
        for name in self._passing.forget(question):
            self.of.pop(name, None)

    def restore(self, of: dict[Hashable, _Category]) -> None:
        self.of, self._passing = of, Passing(self.category)
        for name in of:
            self._passing.note(name)


def _everything(place: Place) -> Hashable:
    return ()


def check_alpha(alpha: float) -> float:
    """Raises ValueError for an alpha outside (0, 1)."""
    if not 0 < real(alpha) < 1:
        raise ValueError(f"alpha is the nominal take-over rate and must lie strictly between 0 and 1, not {alpha}")
    return alpha
