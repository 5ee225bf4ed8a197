"""A gate with a drift alarm."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from a1_sgl.conformal.bank import KEPT, ScoreBank
from a1_sgl.conformal.checks import real, whole
from a1_sgl.conformal.gate import Decision, Gate, uniform
from a1_sgl.conformal.martingale import Martingale, SimpleJumper
from a1_sgl.conformal.place import Place, from_json, to_json
from a1_sgl.conformal.watch import STATISTICS, Chains, Drawn, Usual

ACTIONS = ("warn", "recalibrate", "hand-over")
LEARN = 20
"""Questions that tell what is usual before any is watched, and whose scores a new bank is made of."""
BETS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Twice those of the algorithm's source: they find a shift in about two thirds of the questions."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alarm:
    """An alarm.

    Attributes:
        question: the one that set it off, in order of submission.
        statistic: which of its numbers did, one of `STATISTICS`.
        wealth: of the martingales together, then.
        watched: how many questions had been watched.
    """

    question: Hashable
    statistic: str
    wealth: float
    watched: int


@dataclass
class _Open:
    """A question between its submission and its place in the order: who holds it, and what was decided."""

    question: Hashable
    holds: int = 1
    chains: dict[int, list[Drawn]] = field(default_factory=dict)
    decided: list[tuple[float, Place]] = field(default_factory=list)


@dataclass
class _Bet:
    """On one statistic: the values of the questions before, and the wealth."""

    martingale: Martingale
    bank: ScoreBank = field(default_factory=lambda: ScoreBank(window=KEPT))


class GuardedGate:
    """Wraps a gate; martingales over a few numbers for each question tell when scores have drifted.

    **One event a question, in order of submission.** A question is looked at when all its chains are over and so are
    all questions begun before it. The order in which chunks arrive has no part in it: short chunks arrive first and
    have other scores than long ones. So an alarm is late by the questions that were in flight.

    **What is watched** of a question are the `STATISTICS` of `Usual.statistics`: a shift in every turn, in some turns
    or in one chain moves at least one of them. The first `LEARN` questions say what is usual, which is fixed from then
    on; the numbers of those after them are ranked among each other. Questions of a calibration card come first and
    are ranked without a bet, so a run that differs from its calibration from the start is noticed too.

    **The promise.** Where questions are exchangeable, and with the gate's decisions having no part in the numbers
    (`Usual.statistics` says when), each number's p-values are independent and uniform. Every statistic's martingale
    starts with 1 and sounds at ``len(STATISTICS) * threshold``, so by Ville's inequality and the sum over statistics
    an alarm is false with probability at most ``1 / threshold``, however long it runs.

    On an alarm, by `action`:

    - ``warn`` logs it and goes on; there is one alarm at most.
    - ``recalibrate`` puts the scores of the last `LEARN` questions into the gate's bank in place of what it holds, also
      where the bank does not learn, and again those of the next `LEARN`, which say what is usual now; then it watches
      anew. Each new start has that same probability of a false alarm. Where scores are too few for the gate's p-value
      to reach alpha, every chunk is handed over until there are enough.
    - ``hand-over`` gives every chunk to the target from then on.
    """

    def __init__(
        self,
        gate: Gate,
        martingale: Callable[[], Martingale] = lambda: SimpleJumper(bets=BETS),
        *,
        threshold: float = 100.0,
        action: str = "warn",
        chains: int | None = None,
    ) -> None:
        """
        Args:
            gate: decides.
            martingale: makes what bets; one for each statistic.
            threshold: of the wealth, above 1; at most one false alarm in so many runs. Infinite, it only watches.
            action: what an alarm does.
            chains: how many chains of a question are watched, the first; all questions need as many, those of a card
                too. None is all that a question has.

        Raises:
            ValueError: a threshold of 1 or less, an unknown action, or no chain.
        """
        if not real(threshold) > 1:
            raise ValueError(f"threshold must be above 1, not {threshold}")
        if action not in ACTIONS:
            raise ValueError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}")
        if chains is not None and not whole(chains) >= 1:
            raise ValueError(f"chains must be at least 1, not {chains}")
        self.gate, self.threshold, self.action, self.chains = gate, threshold, action, chains
        self.alarms: list[Alarm] = []
        self.watched = 0
        self.handing_over = False
        self._bets = {name: _Bet(martingale()) for name in STATISTICS}
        self._usual: Usual | None = None
        self._first: list[Chains] = []  # questions that will say what is usual
        self._card: dict[Hashable, dict[int, list[Drawn]]] | None = {}  # None once a question has begun
        self._open: dict[Hashable, _Open] = {}
        self._order: deque[_Open] = deque()
        self._recent: deque[list[tuple[float, Place]]] = deque(maxlen=LEARN)
        self._lock = threading.Lock()

    @property
    def alpha(self) -> float:
        """The guarded gate's nominal rate."""
        return self.gate.alpha

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of what the martingales have come to together; an alarm sounds at the threshold's."""
        return max(bet.martingale.log_wealth for bet in self._bets.values()) - math.log(len(STATISTICS))

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As `Gate`; where everything is handed over the level is 1."""
        place = Place(question, sample, turn, task, attempt)
        decision = self.gate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        if self.handing_over:
            decision = decision._replace(alpha=1.0, audit=False)
        self._note(score, place, decision.take_over)
        return decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """As `Gate.observe`."""
        self.gate.observe(score, take_over, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        self._note(score, Place(question, sample, turn, task, attempt), take_over)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As `Gate.calibrate`; before any question is begun, it tells of a question that comes before the run."""
        self.gate.calibrate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        with self._lock:
            if self._card is not None and attempt == 0 and self._watches(sample):
                self._card.setdefault(question, {}).setdefault(sample, []).append(Drawn(turn, score))

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As `Gate.audited`."""
        self.gate.audited(wrong, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def finish(self, question: Hashable, sample: int) -> None:
        """As `Gate.finish`."""
        self.gate.finish(question, sample)

    def begin(self, question: Hashable) -> None:
        """As `Gate.begin`. A question that nobody begins is not watched."""
        self.gate.begin(question)
        with self._lock:
            self._settle()
            if (found := self._open.get(question)) is not None:
                found.holds += 1
                return
            self._open[question] = found = _Open(question)
            self._order.append(found)

    def end(self, question: Hashable) -> None:
        """As `Gate.end`; the question is looked at when it is its turn."""
        self.gate.end(question)
        with self._lock:
            if (found := self._open.get(question)) is None:
                return
            found.holds -= 1
            if found.holds == 0:
                del self._open[question]
            while self._order and self._order[0].holds == 0:
                self._look(self._order.popleft())

    def state(self) -> Any:
        """As `Gate.state`."""
        with self._lock:
            return {"gate": self.gate.state(), **self._state()}

    def restore(self, state: Any) -> None:
        """As `Gate.restore`."""
        with self._lock:
            before = self._state()
            try:
                self._restore(state)
                self.gate.restore(state["gate"])
            except Exception:
                self._restore(before)
                raise

    # --- inside, under the lock -------------------------------------------------------------------------------

    def _state(self) -> Any:
        return {
            "bets": {name: [bet.bank.state(), bet.martingale.state()] for name, bet in self._bets.items()},
            "usual": self._usual and [list(turn) for turn in self._usual.turns],
            "first": [_said(chains) for chains in self._first],
            "card": None if self._card is None else [[to_json(q), _said(c)] for q, c in self._card.items()],
            "order": [[to_json(one.question), one.holds, _said(one.chains), _told(one.decided)] for one in self._order],
            "recent": [_told(one) for one in self._recent],
            "watched": self.watched,
            "handing_over": self.handing_over,
            "alarms": [[to_json(a.question), a.statistic, a.wealth, a.watched] for a in self.alarms],
        }

    def _restore(self, state: Any) -> None:
        for name, bet in self._bets.items():
            values, wealth = state["bets"][name]
            bet.bank.restore(values)
            bet.martingale.restore(wealth)
        self._usual = state["usual"] and Usual(tuple((mean, sd, limit) for mean, sd, limit in state["usual"]))
        self._first = [_heard(chains) for chains in state["first"]]
        self._card = None if state["card"] is None else {from_json(q): _heard(c) for q, c in state["card"]}
        self._order = deque(
            _Open(from_json(question), holds, _heard(chains), _read(decided))
            for question, holds, chains, decided in state["order"]
        )
        self._open = {one.question: one for one in self._order if one.holds}
        self._recent = deque((_read(one) for one in state["recent"]), maxlen=LEARN)
        self.watched, self.handing_over = state["watched"], state["handing_over"]
        self.alarms = [Alarm(from_json(q), name, wealth, n) for q, name, wealth, n in state["alarms"]]

    def _watches(self, sample: int) -> bool:
        return self.chains is None or sample < self.chains

    def _note(self, score: float, place: Place, handed_over: bool) -> None:
        with self._lock:
            if (found := self._open.get(place.question)) is None:
                return
            found.decided.append((score, place))
            if place.attempt == 0 and self._watches(place.sample):
                found.chains.setdefault(place.sample, []).append(Drawn(place.turn, score, handed_over))

    def _settle(self) -> None:
        """The card's questions come before the run's, in an order that says nothing of when they were finished."""
        if self._card is None:
            return
        card, self._card = self._card, None
        for question in sorted(card, key=lambda name: uniform(f"order\0{name}")):
            self._rank(question, {sample: sorted(chain) for sample, chain in card[question].items()}, bet=False)

    def _look(self, over: _Open) -> None:
        self._recent.append(over.decided)
        if self.handing_over and self.action == "recalibrate":
            self._renew()
        statistic = self._rank(over.question, over.chains)
        if statistic is None or (self.alarms and self.action != "recalibrate"):
            return
        if (wealth := self.log_wealth) < math.log(self.threshold):
            return
        self.alarms.append(Alarm(over.question, statistic, math.exp(min(wealth, 700.0)), self.watched))
        log.warning(
            "drift alarm at question %s, %s: martingale %.3g passes %g after %d watched questions; action: %s",
            over.question, statistic, self.alarms[-1].wealth, self.threshold, self.watched, self.action,
        )  # fmt: skip
        if self.action == "hand-over":
            self.handing_over = True
        elif self.action == "recalibrate":
            self._usual = None
            for bet in self._bets.values():
                bet.bank.clear()
                bet.martingale.restart()
            self._renew()

    def _rank(self, question: Hashable, chains: Chains, *, bet: bool = True) -> str | None:
        """Ranks a question's numbers and, but for a card's, bets on them; the statistic of the largest wealth."""
        if not chains:
            return None
        if self._usual is None:
            self._first.append(chains)
            if len(self._first) == LEARN:
                # Above the gate's own level, so that it hands over next to nothing below the limit.
                self._usual = Usual.of(self._first, min(1.5 * self.alpha, (1 + self.alpha) / 2))
                self._first = []
                if self.alarms and self.action == "recalibrate":
                    self._renew()  # the scores at the alarm were partly those from before the drift
            return None
        self.watched += bet
        for name, value in self._usual.statistics(chains, whole=self.gate.frozen).items():
            mine = self._bets[name]
            ranked = mine.bank.rank(value, add=True)
            if bet:
                name = f"alarm\0{self.gate.seed}\0{name}\0{question}\0{self.watched}"
                mine.martingale.update(ranked.smoothed(uniform(name)))
        return max(self._bets, key=lambda name: self._bets[name].martingale.log_wealth) if bet else None

    def _renew(self) -> None:
        """Gives the gate the scores of the last questions for a bank; hands over while they are too few."""
        try:
            self.gate.replace([one for decided in self._recent for one in decided])
        except ValueError as few:
            if not self.handing_over:
                log.warning("%s; every chunk is handed over until there are as many", few)
            self.handing_over = True
        else:
            self.handing_over = False


def _said(chains: Chains) -> Any:
    return [[sample, [list(chunk) for chunk in chain]] for sample, chain in chains.items()]


def _heard(said: Any) -> dict[int, list[Drawn]]:
    return {sample: [Drawn(*chunk) for chunk in chain] for sample, chain in said}


def _told(decided: list[tuple[float, Place]]) -> Any:
    return [[score, to_json(tuple(place))] for score, place in decided]


def _read(told: Any) -> list[tuple[float, Place]]:
    return [(score, Place(*from_json(place))) for score, place in told]  # type: ignore[misc]
