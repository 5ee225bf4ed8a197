"""A gate with a drift alarm."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from a1_sgl.conformal.bank import ScoreBank
from a1_sgl.conformal.gate import Decision, Gate
from a1_sgl.conformal.martingale import Martingale, SimpleJumper
from a1_sgl.conformal.place import Place, from_json, to_json

ACTIONS = ("warn", "recalibrate", "hand-over")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alarm:
    """An alarm: the chunk that set it off, the martingale's wealth then, and how many scores had been watched."""

    place: Place
    wealth: float
    watched: int


def first_chunks(place: Place) -> bool:
    """Whether the chunk is the first of its question's first chain, as it was drawn first."""
    return place.turn == place.sample == place.attempt == 0


def every_chunk(place: Place) -> bool:
    """Every chunk."""
    return True


class GuardedGate:
    """Wraps a gate; a martingale over the smoothed p-values of watched chunks tells when scores have drifted.

    It ranks watched scores in a bank of its own, so that its p-values are independent and uniform, whatever gate it
    guards, as long as the watched scores are exchangeable. By default it watches one chunk a question, the first of the
    first chain: these are exchangeable whenever the questions are. Where that chunk is drawn again, the later draws are
    not watched: there are some only where the first was strange. Watching every chunk notices more and sooner, but
    chunks of one question are alike and later turns differ from earlier ones, so it will also alarm with no drift.

    On an alarm, by `action`:

    - ``warn`` logs it and goes on; there is one alarm at most, with probability at most ``1 / threshold`` if
      all is well.
    - ``recalibrate`` empties the gate's bank and the guard's, and starts the martingale afresh; each start has that
      same probability of a false alarm.
    - ``hand-over`` gives every chunk to the target from then on, the one that set it off included.
    """

    def __init__(
        self,
        gate: Gate,
        martingale: Martingale | None = None,
        *,
        threshold: float = 100.0,
        action: str = "warn",
        watch: Callable[[Place], bool] = first_chunks,
        scores: Iterable[float] = (),
    ) -> None:
        """
        Args:
            gate: decides.
            martingale: bets; a `SimpleJumper` by default.
            threshold: of the wealth, above 1; at most one false alarm in so many runs.
            action: what an alarm does.
            watch: which chunks are watched.
            scores: of watched chunks in calibration; with none the alarm learns what is normal from the first ones.

        Raises:
            ValueError: a threshold of 1 or less, or an unknown action.
        """
        if not threshold > 1:
            raise ValueError(f"threshold must be above 1, not {threshold}")
        if action not in ACTIONS:
            raise ValueError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}")
        self.gate, self.threshold, self.action, self.watch = gate, threshold, action, watch
        self.martingale: Martingale = SimpleJumper() if martingale is None else martingale
        self.bank = ScoreBank(scores)
        self.alarms: list[Alarm] = []
        self.watched = 0
        self._lock = threading.Lock()

    @property
    def alpha(self) -> float:
        """The guarded gate's nominal rate."""
        return self.gate.alpha

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As `Gate`; after an alarm with ``hand-over`` the level is 1."""
        self._watch(score, Place(question, sample, turn, task, attempt))
        decision = self.gate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)
        return decision._replace(alpha=1.0, audit=False) if self.alarms and self.action == "hand-over" else decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """As `Gate.observe`."""
        self._watch(score, Place(question, sample, turn, task, attempt))
        self.gate.observe(score, take_over, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As `Gate.calibrate`; a watched chunk's score says what is normal."""
        if self.watch(place := Place(question, sample, turn, task, attempt)):
            self.bank.add(score, place)
        self.gate.calibrate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As `Gate.audited`."""
        self.gate.audited(wrong, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def finish(self, question: Hashable, sample: int) -> None:
        """As `Gate.finish`."""
        self.gate.finish(question, sample)

    def state(self) -> Any:
        """As `Gate.state`."""
        with self._lock:
            return {
                "gate": self.gate.state(),
                "bank": self.bank.state(),
                "martingale": self.martingale.state(),
                "watched": self.watched,
                "alarms": [[to_json(tuple(alarm.place)), alarm.wealth, alarm.watched] for alarm in self.alarms],
            }

    def restore(self, state: Any) -> None:
        """As `Gate.restore`."""
        with self._lock:
            self.gate.restore(state["gate"])
            self.bank.restore(state["bank"])
            self.martingale.restore(state["martingale"])
            self.watched = state["watched"]
            self.alarms = [Alarm(Place(*from_json(p)), w, n) for p, w, n in state["alarms"]]  # type: ignore[misc]

    def _watch(self, score: float, place: Place) -> None:
        if not self.watch(place):
            return
        with self._lock:
            p = self.bank.rank(score, place, add=True).smoothed(self.gate.draw(place))
            self.watched += 1
            wealth = self.martingale.update(p)
            if wealth < math.log(self.threshold) or (self.alarms and self.action != "recalibrate"):
                return
            self.alarms.append(Alarm(place, math.exp(min(wealth, 700.0)), self.watched))
            if self.action == "recalibrate":
                self.gate.bank.clear()
                self.bank.clear()
                self.martingale.restart()
        log.warning(
            "drift alarm at question %s: martingale %.3g passes %g after %d watched chunks; action: %s",
            place.question, self.alarms[-1].wealth, self.threshold, self.watched, self.action,
        )  # fmt: skip
