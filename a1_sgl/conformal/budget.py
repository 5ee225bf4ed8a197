"""Budgets: at most B of a question's m chains with the target, and the synchronous rule that they are judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from a1_sgl.conformal.checks import whole
from a1_sgl.conformal.control import Bound
from a1_sgl.conformal.place import Place, from_json, to_json


class TurnBudget:
    """At most `budget` of a question's `chains` chains are handed over in each turn; the nominal rate is their ratio.

    The level of a question's next chain in a turn is what is left of the budget over what is left of the chains:
    ``(budget - handed over) / (chains - decided)``. So the budget is never exceeded, whatever the scores do; it is used
    up to the last one where all chains reach the turn; and with p-values that are uniform given the past, k chains have
    ``k * budget / chains`` hand-overs on average for every k. No chain waits for another, which is what the synchronous
    rule (`worst`) pays for knowing all scores before it decides.

    It counts chains, not draws. A chain that draws again within a turn, because it was handed over, holds its place in
    the budget and takes no other: its later draws have the nominal rate for a level, so that every draw is rejected at
    that rate on average. (Its first draw's level would not do: chains draw again most where it is high, and a level of
    1 rejects every draw.) A chain that was kept is kept if it draws again all the same, as it may in a replay.
    """

    def __init__(self, budget: int, chains: int) -> None:
        """Raises ValueError unless ``0 < budget < chains``."""
        self.budget, self.chains = _check(budget, chains)
        # By question and turn: the chains that were decided, and whether each was handed over.
        self._cells: dict[Hashable, dict[int, dict[int, bool]]] = {}

    def level(self, place: Place) -> float:
        """As in `Control`.

        Raises:
            ValueError: the question has more chains than it was made for; nothing is changed.
        """
        decided = self._cells.get(place.question, {}).get(place.turn, {})
        if place.sample in decided:
            return self.budget / self.chains if decided[place.sample] else -1.0
        left, chains = self.budget - sum(decided.values()), self.chains - len(decided)
        if chains <= 0:
            raise ValueError(
                f"a budget of {self.budget} for {self.chains} chains a question, and chain {place.sample} is one more "
                f"in turn {place.turn} of {place.question!r}; make the gate for as many chains as there are"
            )
        return left / chains if left > 0 else -1.0

    def update(self, place: Place, took_over: bool) -> None:
        """As in `Control`."""
        decided = self._cells.setdefault(place.question, {}).setdefault(place.turn, {})
        decided[place.sample] = took_over or decided.get(place.sample, False)

    def finish(self, question: Hashable, sample: int) -> None:
        """Nothing to note: a chain that has ended uses none of a later turn's budget."""

    def forget(self, question: Hashable) -> None:
        """As in `Control`."""
        self._cells.pop(question, None)

    def state(self) -> Any:
        """As in `Control`."""
        return [
            [to_json(question), [[turn, [list(one) for one in decided.items()]] for turn, decided in turns.items()]]
            for question, turns in self._cells.items()
        ]

    def restore(self, state: Any) -> None:
        """As in `Control`."""
        self._cells = {
            from_json(question): {turn: dict(decided) for turn, decided in turns} for question, turns in state
        }

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """By question and turn, for k chains: from what is left to the chains that did not come, to the budget.

        Both are exactly the budget where all chains came. Nothing is promised where one drew again: draws are not
        counted.
        """
        alpha, excess = self.budget / self.chains, dict[Hashable, float]()
        categories = [(place.question, place.turn) for place in places]
        came = Counter(cell for cell, _ in {((place.question, place.turn), place.sample) for place in places})
        for cell, n in Counter(categories).items():
            k = came[cell]
            least, most = max(0, self.budget - max(0, self.chains - k)), min(k, self.budget)
            excess[cell] = max(most - alpha * k, alpha * k - least) if k == n else n * max(alpha, 1 - alpha)
        return [Bound(categories, excess)]


class OpenBudget:
    """At most `budget` of a question's `chains` chains are with the target at the same time.

    The level is ``budget / chains`` while a place is free and refuses otherwise. A chain gives its place back when its
    next chunk is decided or when it ends; a chunk that is drawn again is the next one, so its chain finds its own place
    free and never has two. The realised rate, of draws, is at most the nominal one on average where p-values are
    uniform given the past; how far below depends on how long take-overs last.
    """

    def __init__(self, budget: int, chains: int) -> None:
        """Raises ValueError unless ``0 < budget < chains``."""
        self.budget, self.chains = _check(budget, chains)
        self._busy: dict[Hashable, set[int]] = {}

    def busy(self, question: Hashable) -> int:
        """How many of the question's chains are with the target."""
        return len(self._busy.get(question, ()))

    def level(self, place: Place) -> float:
        """As in `Control`."""
        others = self._busy.get(place.question, set()) - {place.sample}
        return self.budget / self.chains if len(others) < self.budget else -1.0

    def update(self, place: Place, took_over: bool) -> None:
        """As in `Control`."""
        self.finish(place.question, place.sample)  # the chain has come back
        if took_over:
            self._busy.setdefault(place.question, set()).add(place.sample)

    def finish(self, question: Hashable, sample: int) -> None:
        """The chain is with the target no more."""
        if busy := self._busy.get(question):
            busy.discard(sample)
            if not busy:
                del self._busy[question]

    def forget(self, question: Hashable) -> None:
        """As in `Control`."""
        self._busy.pop(question, None)

    def state(self) -> Any:
        """As in `Control`."""
        return [[to_json(question), sorted(samples)] for question, samples in self._busy.items()]

    def restore(self, state: Any) -> None:
        """As in `Control`."""
        self._busy = {from_json(question): set(samples) for question, samples in state}

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """None: it bounds how many chains are with the target at once, and not how often they are."""
        return []


def worst(scores: Sequence[float], budget: int) -> list[bool]:
    """The synchronous rule: of all chains' scores in a turn, which are the `budget` highest; ties go to the earlier.

    It needs every chain's score before it can decide any, so all chains wait for the slowest. With no more scores than
    the budget all are handed over.

    Raises:
        ValueError: a negative budget.
    """
    if budget < 0:
        raise ValueError(f"budget must not be negative, not {budget}")
    chosen = set(sorted(range(len(scores)), key=lambda i: -scores[i])[:budget])
    return [i in chosen for i in range(len(scores))]


def _check(budget: int, chains: int) -> tuple[int, int]:
    if not 0 < whole(budget) < whole(chains):
        raise ValueError(
            f"a budget is a whole number between 1 and one less than the number of chains, {chains}, not {budget}"
        )
    return budget, chains
