"""The audited control: it holds the rate of false accepts, which are wrong chunks that the gate lets pass.

Of the chunks that are accepted a known share, drawn at random, is audited: somebody finds out whether the chunk is
wrong, later and beside its chain. The level follows what the audits find, so that take-overs are spent where chunks are
wrong and not at a fixed rate. The update is that of adaptive conformal inference (Gibbs and Candès 2021, equation 2)
with an unbiased estimate of the loss in the place of the loss; the bound on what is not audited is Ville's inequality.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, cast

import scipy

from a1_sgl.conformal.bank import Bank
from a1_sgl.conformal.checks import real, whole
from a1_sgl.conformal.control import Bound, check_alpha
from a1_sgl.conformal.gate import Decision, Gate
from a1_sgl.conformal.place import Place, from_json, to_json

RISE = 0.1
"""How far one wrong audit raises the level, unless told otherwise."""


class Audited:
    """The level rises with every accepted chunk that an audit finds wrong, and sinks a little with every decision.

    With g = 1 / rate for an accepted chunk that was audited and found wrong, and else 0, each decision moves the level
    to ``max(0, level + step * (g - epsilon))``. Audits are answered late: the part with epsilon is taken at the
    decision, the part with g when the answer comes.

    *Promise*, whatever scores, chunks, answers and delays are: after N decisions of which at most D were drawn and not
    yet answered at any one time, the mean of g is at most ``epsilon + (1 + D * step / rate) / (step * N)``; where every
    audit is answered before the next decision, D is 1. Proof: (1) the floor at 0 only adds, so the level is at
    least ``step * (sum of g - N * epsilon)``; (2) from level 1 on everything is handed over and nothing drawn, so above
    1 it is only lifted by the D at most that were outstanding when it came there, by ``step / rate`` each.

    An answer that never comes has g = 0 in this, so whoever knows that none will come must answer "wrong".
    """

    def __init__(self, start: float, epsilon: float, rate: float, *, rise: float = RISE) -> None:
        """
        Args:
            start: the level before the first decision, strictly between 0 and 1.
            epsilon: false accepts per decision that are allowed, strictly between 0 and 1.
            rate: share of the accepted chunks that is audited, in (0, 1].
            rise: ``step / rate``, how far one wrong audit raises the level; positive.

        Raises:
            ValueError: a value outside these.
        """
        if not 0 < real(epsilon) < 1:
            raise ValueError(f"epsilon, false accepts per decision, must lie strictly between 0 and 1, not {epsilon}")
        if not 0 < real(rate) <= 1:
            raise ValueError(f"the audit rate, a share of the accepted chunks, must lie in (0, 1], not {rate}")
        if not 0 < real(rise) < math.inf:
            raise ValueError(f"rise must be positive and finite, not {rise}")
        self.epsilon, self.rate, self.rise, self.step = epsilon, rate, rise, rise * rate
        self._level = check_alpha(start)

    def level(self, place: Place) -> float:
        """As in `Control`; the same for every place."""
        return self._level

    def update(self, place: Place, took_over: bool) -> None:
        """As in `Control`."""
        self._level = max(0.0, self._level - self.step * self.epsilon)

    def audited(self, wrong: bool) -> None:
        """Takes note of an audit's answer."""
        self._level += self.rise * wrong

    def most(self, decisions: int, outstanding: int = 1) -> float:
        """What is promised of the mean of g after so many decisions, `outstanding` audits at most at one time."""
        return self.epsilon + (1 + outstanding * self.rise) / (self.step * decisions)

    def finish(self, question: Hashable, sample: int) -> None:
        """Nothing to note: an audit goes on when its chain has ended."""

    def forget(self, question: Hashable) -> None:
        """Nothing to let go of."""

    def bound(self, places: Sequence[Place]) -> list[Bound]:
        """None: it holds no rate of take-overs. What it promises instead is `most`."""
        return []

    def state(self) -> Any:
        """As in `Control`."""
        return self._level

    def restore(self, state: Any) -> None:
        """As in `Control`."""
        self._level = float(state)


class AuditedGate(Gate):
    """A gate that draws accepted chunks for an audit, and hears of the answers."""

    def __init__(
        self, alpha: float, epsilon: float, rate: float, bank: Bank | None = None, *, rise: float = RISE,
        online: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        """
        Args:
            alpha: the level to start from.
            epsilon, rate, rise: as in `Audited`.
            bank, online, seed: as in `Gate`.

        Raises:
            ValueError: as in `Audited`.
        """
        self.audits = Audited(alpha, epsilon, rate, rise=rise)
        self._due: set[Place] = set()  # drawn and not yet answered
        super().__init__(alpha, bank, self.audits, online=online, seed=seed)

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As `Gate`; `Decision.audit` says whether the chunk is drawn. The draw is apart from the smoothing draw."""
        place = Place(question, sample, turn, task, attempt)
        decision = super().__call__(score, **place._asdict())
        return decision._replace(audit=self._drawn(place, decision.take_over))

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """As `Gate.observe`; a chunk that was drawn then is drawn now, and its answer is to follow."""
        place = Place(question, sample, turn, task, attempt)
        super().observe(score, take_over, **place._asdict())
        self._drawn(place, take_over)

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As in `Decider`.

        Raises:
            ValueError: the chunk was not drawn, or was answered before: chunks that somebody picks are not the sample
                that rates and bounds are made of. Nothing is changed.
        """
        place = Place(question, sample, turn, task, attempt)
        with self._lock:
            if place not in self._due:
                raise ValueError(f"no audit of {place} is due: it was not drawn (Decision.audit), or is answered")
            self._due.remove(place)
            self.audits.audited(wrong)

    def end(self, question: Hashable) -> None:
        """As `Gate.end`; no answer is due any more."""
        last = self.holds(question) == 1
        super().end(question)
        if last:
            with self._lock:
                self._due = {place for place in self._due if place.question != question}

    def _drawn(self, place: Place, take_over: bool) -> bool:
        if take_over or not self.draw(place, "audit") < self.audits.rate:
            return False
        with self._lock:
            self._due.add(place)
        return True

    def _state(self) -> Any:
        return {**super()._state(), "due": [to_json(tuple(place)) for place in sorted(self._due, key=repr)]}

    def _restore(self, state: Any) -> None:
        due = {Place(*cast(tuple[Any, ...], from_json(place))) for place in state["due"]}
        super()._restore(state)
        self._due = due


def false_accepts(wrong: int, rate: float, delta: float = 0.05) -> int:
    """Most false accepts there are, audited or not, where audits at `rate` found `wrong` of them.

    With probability at least ``1 - delta`` this holds after every decision of a run at once, so also where a run ends
    for whatever reason, and however the gate goes by its audits: the k-th false accept is drawn with probability
    `rate`, independently of all before it. If there are more, a bet on "fewer than that are drawn", spread evenly over
    all lower rates, has won more than ``1 / delta``; being a nonnegative martingale of start 1, it ever does so with
    probability at most delta (Ville's inequality).

    An audit that is not answered counts as wrong.

    Raises:
        ValueError: a count below 0, a rate outside (0, 1] or a delta outside (0, 1).
    """
    if not 0 <= whole(wrong) < math.inf or not 0 < real(rate) <= 1 or not 0 < real(delta) < 1:
        raise ValueError(f"not a count, an audit rate and a delta: {wrong}, {rate}, {delta}")
    if rate == 1:
        return wrong
    low, high = wrong, 2 * wrong + 16
    while _log_wealth(wrong, high, rate) < -math.log(delta):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _log_wealth(wrong, middle, rate) < -math.log(delta) else (low, middle)
    return low


def _log_wealth(wrong: int, accepts: int, rate: float) -> float:
    """Of the bet: the mean over q in (0, rate) of the likelihood ratio of q to `rate`, for `wrong` of `accepts`."""
    a, b = wrong + 1, accepts - wrong + 1
    below = float(scipy.special.betainc(a, b, rate))
    if not below > 0:  # far more were drawn than expected
        return -math.inf
    return (
        math.log(below) + float(scipy.special.betaln(a, b)) - math.log(rate)
        - wrong * math.log(rate) - (accepts - wrong) * math.log1p(-rate)
    )  # fmt: skip
