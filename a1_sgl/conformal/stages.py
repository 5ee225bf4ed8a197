"""Two stages: chunks that look good by the draft's own evidence are accepted unseen, the target scores the rest.

Sources: most steps can be decided by the small model's own evidence, be it the entropy of a step's first token
(GlimpRouter, arXiv 2601.05110) or its confidence in a verdict of its own, which leaves only doubtful steps to the large
one (ConfSpec, arXiv 2602.18447). There a threshold is tuned beforehand. Here it is learnt in use, and what it costs is
held by exploring: a share of the chunks that would be accepted is scored all the same, by a draw of their own, which
tells how many of the others the gate would have handed over.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import scipy

from a1_sgl.conformal.bank import KEPT, Bank, ScoreBank, finite
from a1_sgl.conformal.checks import real, whole
from a1_sgl.conformal.gate import UNSEEN, Decision, Gate
from a1_sgl.conformal.place import Place, from_json, to_json
from a1_sgl.conformal.scores import Score

BINS = 20
"""Thresholds of stage one are multiples of 1 / BINS."""
DELTA = 0.05
"""Chance with which more take-overs are missed than is promised."""
AIM = 0.5
"""Share of eta that the threshold aims at, which leaves room for what a bound adds to what was found."""
Outcome = Literal["accepted", "explored", "closed", "doubted"]


@dataclass(frozen=True)
class Screening:
    """What stage one made of a chunk.

    Attributes:
        score: of the draft's evidence; higher is stranger.
        p_value: its p-value among those of other chunks.
        outcome: ``accepted`` unseen; ``doubted``, since the evidence is not good enough; or it is good enough and the
            target is asked all the same: ``explored`` by the draw, or ``closed`` where the promise leaves no room.
        critical: of an explored chunk, the lowest target score with which the gate, as it stood, would hand it over;
            None if there is none.
    """

    score: float
    p_value: float
    outcome: Outcome
    critical: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the target need not be asked."""
        return self.outcome == "accepted"

    def finds(self, score: float) -> bool:
        """Whether an explored chunk with this target score would have been a missed one, had it been accepted."""
        return self.critical is not None and UNSEEN < self.critical <= score


@lru_cache(maxsize=65_536)
def missed_at_most(found: int, explore: int, delta: float) -> int:
    """How many take-overs were missed at most when so many were found, at every moment at once but for a chance delta.

    Of the chunks that ought to be handed over one in `explore` is found, by a draw of its own, and the others are
    missed. So what is missed before the (x + 1)-th is found is negative binomial, whatever else happens. It exceeds the
    bound with probability at most ``delta / ((x + 1) (x + 2))``, and these sum to delta over all x.

    Raises:
        ValueError: one in fewer than one, fewer than none found, or a delta outside (0, 1).
    """
    if not explore >= 1 or not found >= 0 or not 0 < delta < 1:
        raise ValueError(
            f"explore is at least 1, found at least 0 and delta within (0, 1), not {explore}, {found} and {delta}"
        )
    return int(scipy.stats.nbinom.isf(delta / ((found + 1) * (found + 2)), found + 1, 1 / explore))


class TwoStage:
    """A gate with a first stage, which is shown the draft's evidence and says whether the target is asked at all.

    A program calls `screen` for each chunk and then, with the target's score or with `UNSEEN`, the gate itself
    (`Chain.judge` does). The gate's control counts an accepted chunk as one that was decided, and not handed over. So
    whatever a control promises for any scores (`Offsets`, budgets, caps) it promises over all chunks, accepted ones
    included: what is handed over of the others rises until the rate is alpha. With a fixed level the rate falls short
    of alpha by the share that is missed. Accepted chunks have no score to join the bank, and explored ones, which are
    a sample of them, join it once for each that they stand for.

    *Missed take-overs.* An accepted chunk is missed if the gate as it stood would have handed it over with the target's
    score. With probability at least 1 - delta over the gate's own draws, and at every moment, at
    most ``eta * candidates + slack`` chunks have been missed, candidates being the chunks whose evidence was good
    enough. Nothing is assumed of scores, evidence, threshold or order of arrival: where `missed_at_most` leaves no
    room, stage one is closed, and every candidate goes to the target until there is room again. Explored chunks that
    the target has not answered yet count as found. The slack lets one be found before the first candidates have made
    room for it.

    *The threshold* is the lowest p-value such that, of all chunks seen so far that lie above it, at most half of eta
    were handed over (`AIM`); an explored chunk stands for `explore` of them. It proves nothing and need not: what is
    promised holds for any rule that does not know the draws. While nothing speaks for any, every chunk is doubted.
    """

    def __init__(
        self,
        gate: Gate,
        first: Score,
        bank: Bank | None = None,
        *,
        eta: float = 0.05,
        explore: int = 5,
        delta: float = DELTA,
    ) -> None:
        """
        Args:
            gate: decides, with the target's score where there is one.
            first: what the first stage goes by; it must not need the target.
            bank: ranks its values, best among the same like as the gate's bank ranks scores; a `ScoreBank` by default.
            eta: share of candidates that may be missed, in [0, alpha); with 0 stage one only watches.
            explore: one candidate in so many, 2 or more, is scored by the target all the same.
            delta: chance that more are missed than is promised.

        Raises:
            ValueError: a score that needs more than the draft's own evidence, or a number that is out of range.
        """
        if not isinstance(gate, Gate):
            raise ValueError(f"a first stage stands before a gate itself, not before a {type(gate).__name__}")
        if not first.by_draft:
            raise ValueError(f"a first stage goes by the draft's own evidence; score {first.name} needs more than that")
        if not 0 <= real(eta) < gate.alpha:
            raise ValueError(f"eta must lie in [0, alpha = {gate.alpha:g}), not {eta}: else all could be accepted")
        if not whole(explore) >= 2:
            raise ValueError(
                f"explore is one candidate in so many and must be a whole number of 2 or more, not {explore}"
            )
        if not 0 < real(delta) < 1:
            raise ValueError(f"delta must lie strictly between 0 and 1, not {delta}")
        self.gate, self.first = gate, first
        self.bank: Bank = ScoreBank(window=KEPT) if bank is None else bank
        self.eta, self.explore, self.delta = eta, explore, delta
        self.candidates = self.accepted = self.found = 0
        self._waiting: dict[Place, Screening] = {}
        self._exploring = 0  # of those that wait
        # By bin of the p-value: chunks the target saw and how many of these were handed over, then the explored ones.
        self._bins = [[0, 0, 0, 0] for _ in range(BINS)]
        self._known: list[tuple[float, float, Place]] | None = []  # calibration, until the first chunk
        self._lock = threading.Lock()

    @property
    def alpha(self) -> float:
        """The gate's nominal rate."""
        return self.gate.alpha

    @property
    def slack(self) -> int:
        """Missed take-overs that are allowed beyond eta's share."""
        return missed_at_most(1, self.explore, self.delta)

    @property
    def missed(self) -> int:
        """Upper bound on the missed take-overs so far."""
        return missed_at_most(self.found + self._exploring, self.explore, self.delta)

    @property
    def threshold(self) -> float:
        """The p-value from which on a chunk is a candidate; 1 while none is."""
        if not self.eta:
            return 1.0
        seen = handed = 0
        lowest = BINS
        for at in reversed(range(BINS)):
            plain, taken, explored, found = self._bins[at]
            seen += plain + self.explore * explored
            handed += taken + self.explore * found
            if handed + 1 <= AIM * self.eta * seen:
                lowest = at
        return lowest / BINS

    def screen(
        self, value: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Screening:  # fmt: skip
        """Stage one: what the draft's evidence says of a chunk. Each is to be decided afterwards.

        Raises:
            ValueError: for a value that is not finite; nothing is changed.
        """
        place = Place(question, sample, turn, task, attempt)
        finite(value)
        with self._lock:
            self._begin()
            p = self.bank.rank(value, place, add=True).smoothed(self.gate.draw(place, "first"))
            outcome: Outcome = "doubted"
            critical = None
            if p >= self.threshold:
                self.candidates += 1
                if self.missed > self.eta * self.candidates + self.slack:
                    outcome = "closed"
                elif self.gate.draw(place, "explore") * self.explore >= 1:
                    outcome = "accepted"
                    self.accepted += 1
                else:
                    outcome, critical = "explored", self.gate.critical(place)
                    self._exploring += 1
            screening = self._waiting[place] = Screening(value, p, outcome, critical)
            return screening

    def recall(
        self, screening: Screening, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Takes note of a chunk that was screened in an earlier session; `observe` is to follow."""
        place = Place(question, sample, turn, task, attempt)
        with self._lock:
            self._begin()
            self.bank.add(screening.score, place)
            self.candidates += screening.outcome != "doubted"
            self.accepted += screening.accepted
            self._exploring += screening.outcome == "explored"
            self._waiting[place] = screening

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As `Gate`: with the target's score, or `UNSEEN` where stage one accepted."""
        place = Place(question, sample, turn, task, attempt)
        with self._lock:
            decision = self.gate(score, **place._asdict())
            self._learn(score, decision.take_over, place)
        return decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """As `Gate.observe`."""
        place = Place(question, sample, turn, task, attempt)
        with self._lock:
            self.gate.observe(score, take_over, **place._asdict())
            self._learn(score, take_over, place)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "",
        attempt: int = 0, first: float | None = None,
    ) -> None:  # fmt: skip
        """As `Gate.calibrate`, with the value of the draft's evidence where it is known.

        Before the first chunk such pairs also tell where the threshold may lie: a calibration chunk counts as handed
        over if its p-value among all of them is at most alpha.
        """
        place = Place(question, sample, turn, task, attempt)
        with self._lock:
            self.gate.calibrate(score, **place._asdict())
            if first is not None:
                self.bank.add(first, place)
                if self._known is not None:
                    self._known.append((first, score, place))

    def finish(self, question: Hashable, sample: int) -> None:
        """As `Gate.finish`. A chunk of the chain that was explored and never decided counts as found."""
        with self._lock:
            for place in [one for one in self._waiting if (one.question, one.sample) == (question, sample)]:
                lost = self._waiting.pop(place).outcome == "explored"
                self._exploring -= lost
                self.found += lost
            self.gate.finish(question, sample)

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As `Gate.audited`."""
        self.gate.audited(wrong, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def begin(self, question: Hashable) -> None:
        """As `Gate.begin`."""
        self.gate.begin(question)

    def end(self, question: Hashable) -> None:
        """As `Gate.end`; the bank of evidence lets go of the question where the gate does."""
        with self._lock:
            held = self.gate.holds(question)
            self.gate.end(question)
            if held == 1:
                self.bank.forget(question)

    def state(self) -> Any:
        """As `Gate.state`."""
        with self._lock:
            self._begin()
            return {
                "gate": self.gate.state(),
                "bank": self.bank.state(),
                "counts": [self.candidates, self.accepted, self.found],
                "bins": [list(one) for one in self._bins],
                "waiting": [
                    [to_json(tuple(place)), s.score, s.p_value, s.outcome, s.critical]
                    for place, s in self._waiting.items()
                ],
            }

    def restore(self, state: Any) -> None:
        """As `Gate.restore`."""
        with self._lock:
            self._known = None
            self.gate.restore(state["gate"])
            self.bank.restore(state["bank"])
            self.candidates, self.accepted, self.found = state["counts"]
            self._bins = [list(one) for one in state["bins"]]
            self._waiting = {Place(*from_json(p)): Screening(*rest) for p, *rest in state["waiting"]}  # type: ignore[misc]
            self._exploring = sum(one.outcome == "explored" for one in self._waiting.values())

    # --- inside -----------------------------------------------------------------------------------------------

    def _learn(self, score: float, take_over: bool, place: Place) -> None:
        """What a decided chunk tells of stage one; of one that was accepted, or never screened, nothing."""
        screening = self._waiting.pop(place, None)
        if screening is None or screening.accepted:
            return
        explored = screening.outcome == "explored"
        if explored and self.gate.online:
            for _ in range(self.explore - 1):
                self.gate.calibrate(score, **place._asdict())
        bin_ = self._bins[_bin(screening.p_value)]
        bin_[2 * explored] += 1
        bin_[2 * explored + 1] += take_over
        if explored:
            self._exploring -= 1
            self.found += screening.finds(score)

    def _begin(self) -> None:
        known, self._known = self._known, None
        for value, score, place in known or ():
            u = self.gate.draw(place)
            bin_ = self._bins[_bin(self.bank.rank(value, place).smoothed(self.gate.draw(place, "first")))]
            bin_[0] += 1
            bin_[1] += self.gate.bank.rank(score, place).smoothed(u) <= self.alpha


def _bin(p_value: float) -> int:
    return min(int(p_value * BINS), BINS - 1)
