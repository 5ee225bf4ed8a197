"""Gates: they turn a chunk's score into a p-value and decide who goes on.

A gate is a bank, which ranks the score, and a control, which sets the level. `GATES` has the combinations with a name.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from a1_sgl.conformal.bank import KEPT, Bank, ScoreBank, finite
from a1_sgl.conformal.control import Control, Fixed, check_alpha
from a1_sgl.conformal.place import Place, from_json, hashable, to_json
from a1_sgl.conformal.pvalues import scores_needed

P_VALUES = ("smoothed", "conservative")
UNSEEN = -sys.float_info.max
"""The score of a chunk that was not scored. Its p-value is 1, so that it is handed over only where any score would be,
and it joins no bank; what it counts for a control, it counts as any chunk does."""


class Decision(NamedTuple):
    """What a gate said about one chunk.

    Attributes:
        score: the chunk's nonconformity score; a higher one is stranger.
        p_value: its p-value against the bank.
        alpha: the level it was compared with; the target takes over when ``p_value <= alpha``. A control that adapts
            may leave [0, 1] for a while.
        n: how many scores it was ranked among.
        audit: whether the chunk, which is accepted, is to be audited and the gate told (`Decider.audited`).
    """

    score: float
    p_value: float
    alpha: float
    n: int
    audit: bool = False

    @property
    def take_over(self) -> bool:
        """Whether the target goes on."""
        return self.p_value <= self.alpha


class Decider(Protocol):
    """What programs need of a gate; `Gate` and `GuardedGate` have it. May be called from many threads at once."""

    @property
    def alpha(self) -> float:
        """Nominal take-over rate."""
        ...

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides on one chunk."""
        ...

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """Takes note of a chunk that was decided in an earlier session."""
        ...

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Puts in a calibration score."""
        ...

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Takes note of what the audit of a chunk found, after its decision and perhaps many others."""
        ...

    def finish(self, question: Hashable, sample: int) -> None:
        """Takes note that a chain has ended."""
        ...

    def begin(self, question: Hashable) -> None:
        """Takes note that somebody goes to work on a question; questions are submitted in the order of these calls."""
        ...

    def end(self, question: Hashable) -> None:
        """Takes note that whoever began has no more to ask of it; once for each `begin`."""
        ...


class Gate:
    """A bank and a control; safe to call from many threads at once, each decision one atomic step.

    With ``online=True`` a score joins the bank after its own decision; otherwise the bank stays the calibration split
    it is. The draw that breaks ties depends on the seed and the chunk's name alone, so the order in which chains happen
    to arrive does not change it.

    What it remembers of a question by itself it lets go of when everybody who began the question (`begin`) has ended it
    (`end`), so what it holds grows with the questions that are open and not with those that ever were; programs begin
    and end their questions themselves. Of a question that nobody begins everything is kept.
    """

    def __init__(
        self,
        alpha: float,
        bank: Bank | None = None,
        control: Control | None = None,
        *,
        online: bool = True,
        p_value: str = "smoothed",
        seed: int = 0,
    ) -> None:
        """
        Args:
            alpha: nominal take-over rate, strictly between 0 and 1.
            bank: ranks scores; by default an empty `ScoreBank` of the last `KEPT` scores.
            control: sets levels; by default the level is alpha.
            online: whether a score joins the bank after its decision.
            p_value: ``smoothed`` (exact rate, randomised) or ``conservative`` (at most alpha, deterministic).
            seed: of the draws.

        Raises:
            ValueError: alpha outside (0, 1), an unknown p-value, or a bank so small that the conservative p-value
                could not reach alpha, which would accept everything in silence.
        """
        self.alpha = check_alpha(alpha)
        if p_value not in P_VALUES:
            raise ValueError(f"unknown p-value {p_value!r}; known: {', '.join(P_VALUES)}")
        self.bank: Bank = ScoreBank(window=KEPT) if bank is None else bank
        self.control: Control = Fixed(alpha) if control is None else control
        self.online, self.p_value, self.seed = online, p_value, seed
        self._open: dict[Hashable, int] = {}
        self._lock = threading.Lock()
        self._check(len(self.bank))

    @property
    def frozen(self) -> bool:
        """Whether it treats every question alike, whatever was decided before: a fixed bank at a fixed level."""
        return not self.online and isinstance(self.control, Fixed)

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides on one chunk, named by its question, chain (`sample`) and turn, both counted from 0, and task.

        A chunk that is drawn again in its turn is a chunk of its own, named by its `attempt`: 0 for the first draw.

        Raises:
            ValueError: for a score that is not finite, or a name that is not hashable; nothing is changed.
        """
        place = hashable(Place(question, sample, turn, task, attempt))
        score = finite(score)
        u = self.draw(place)
        with self._lock:
            level = self.control.level(place)  # changes nothing, so the bank may still refuse
            if score == UNSEEN:
                p, n = 1.0, 0
            else:
                low, high, n = self.bank.rank(score, place, add=self.online)
                p = low + u * (high - low) if self.p_value == "smoothed" else high
            decision = Decision(score, p, level, n)
            self.control.update(place, decision.take_over)
        return decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """Takes note of a chunk that was decided in an earlier session, which this one resumes.

        Raises:
            ValueError: for a score that is not finite, or a name that is not hashable; nothing is changed.
        """
        place = hashable(Place(question, sample, turn, task, attempt))
        score = finite(score)
        with self._lock:
            self.control.level(place)  # changes nothing, so the bank may still refuse
            if self.online and score != UNSEEN:
                self.bank.add(score, place)
            self.control.update(place, take_over)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Puts in a calibration score, about which there is nothing to decide. Errors as of a decision."""
        with self._lock:
            self.bank.add(score, hashable(Place(question, sample, turn, task, attempt)))

    def audited(
        self, wrong: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Nothing to note: this gate asks for no audits."""

    def finish(self, question: Hashable, sample: int) -> None:
        """Takes note that a chain has ended, however it did."""
        with self._lock:
            self.control.finish(question, sample)

    def begin(self, question: Hashable) -> None:
        """As in `Decider`."""
        with self._lock:
            self._open[question] = self._open.get(question, 0) + 1

    def holds(self, question: Hashable) -> int:
        """How many have begun the question and not ended it."""
        return self._open.get(question, 0)

    def end(self, question: Hashable) -> None:
        """As in `Decider`. Of a question that nobody has begun, nothing ends."""
        with self._lock:
            left = self._open.pop(question, 0) - 1
            if left > 0:
                self._open[question] = left
            elif left == 0:
                self.control.forget(question)
                self.bank.forget(question)

    def replace(self, scores: Sequence[tuple[float, Place]]) -> None:
        """Puts `scores` into the bank in place of what it holds.

        Of questions that are not open it keeps what they share with others and nothing else.

        Raises:
            ValueError: too few for the conservative p-value to reach alpha, or one that is not finite; nothing is
                changed.
        """
        self._check(len(scores))
        for score, _ in scores:
            finite(score)
        with self._lock:
            self.bank.clear()
            for score, place in scores:
                self.bank.add(score, place)
            for question in {place.question for _, place in scores} - self._open.keys():
                self.bank.forget(question)

    def critical(self, place: Place) -> float | None:
        """The lowest score with which the chunk would be handed over now; None if there is none. Nothing is changed.

        It is found by bisection, since no p-value rises with its score.
        """
        u = self.draw(place)

        def handed_over(score: float) -> bool:
            low, high, _ = self.bank.rank(score, place)
            return (low + u * (high - low) if self.p_value == "smoothed" else high) <= level

        with self._lock:
            level = self.control.level(place)
            return lowest(handed_over)

    def draw(self, place: Place, use: str = "") -> float:
        """The chunk's draw from Uniform(0, 1), a fresh one for each attempt and for each use that has a name."""
        question, sample, turn, task, attempt = place
        name = f"{use}{self.seed}\0{question}\0{sample}\0{turn}\0{task}"
        # A first attempt has the draw that it has where nothing is drawn again.
        return uniform(f"{name}\0{attempt}" if attempt else name)

    def state(self) -> Any:
        """What the gate remembers, as JSON."""
        with self._lock:
            return self._state()

    def restore(self, state: Any) -> None:
        """Goes on from the `state` of a gate made alike; later decisions are as that gate's would have been.

        A state that it cannot take leaves it as it was.

        Raises:
            ValueError: its bank is too small for the conservative p-value to reach alpha.
        """
        with self._lock:
            before = self._state()
            try:
                self._restore(state)
                self._check(len(self.bank))
            except Exception:
                self._restore(before)
                raise

    def _state(self) -> Any:
        held = [[to_json(question), holds] for question, holds in self._open.items()]
        return {"bank": self.bank.state(), "control": self.control.state(), "open": held}

    def _restore(self, state: Any) -> None:
        self._open = {from_json(question): holds for question, holds in state["open"]}
        self.bank.restore(state["bank"])
        self.control.restore(state["control"])

    def _check(self, n: int) -> None:
        """A bank too small for the conservative p-value to reach alpha would accept everything in silence."""
        if self.p_value == "conservative" and n < (need := scores_needed(self.alpha)):
            raise ValueError(f"alpha {self.alpha} needs at least {need} calibration scores; there are {n}")


def uniform(name: str) -> float:
    """A draw from Uniform(0, 1) that depends on its name alone."""
    return (int.from_bytes(blake2b(name.encode(), digest_size=7).digest()) >> 3) * 2.0**-53


class Frozen(Gate):
    """A gate that decides on every chunk alike: its bank is filled before the first decision, and the level is alpha.

    Nothing that it decides, and nothing that it is shown, changes what it decides later. So questions that are drawn
    independently fare independently, given the bank: what can be said of such a policy from some of them holds for
    others. That is not so of a gate that learns or adapts.
    """

    def __init__(self, alpha: float, *, seed: int = 0) -> None:
        """Arguments and errors as in `Gate`; `calibrate` fills the bank, and `close` or a decision ends that."""
        super().__init__(alpha, online=False, seed=seed)
        self._closed = False

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """As in `Gate`.

        Raises:
            ValueError: the bank is empty, or the score not finite.
        """
        if not len(self.bank):
            raise ValueError("a frozen gate never learns, and its bank is empty; fill it from a card before it decides")
        self.close()
        return super().__call__(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """As in `Gate`, until it is closed.

        Raises:
            ValueError: it is closed; else as in `Gate`.
        """
        finite(score)
        hashable(Place(question, sample, turn, task, attempt))
        if self._closed:
            raise ValueError("a frozen gate takes no more scores: it is what it was when it was closed")
        super().calibrate(score, question=question, sample=sample, turn=turn, task=task, attempt=attempt)

    def replace(self, scores: Sequence[tuple[float, Place]]) -> None:
        """As in `Gate`, until it is closed.

        Raises:
            ValueError: it is closed; else as in `Gate`.
        """
        if self._closed:
            raise ValueError("a frozen gate takes no other scores: it is what it was when it was closed")
        super().replace(scores)

    def close(self) -> None:
        """No score joins the bank any more."""
        self._closed = True


class Coin(Gate):
    """A gate that does not look: its p-value is the chunk's draw from Uniform(0, 1)."""

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides at random, reproducibly for each chunk.

        Raises:
            ValueError: for a score that is not finite, or a name that is not hashable.
        """
        finite(score)
        return Decision(score, self.draw(hashable(Place(question, sample, turn, task, attempt))), self.alpha, 0)

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """Nothing is remembered; what cannot have been decided is refused all the same."""
        finite(score)
        hashable(Place(question, sample, turn, task, attempt))

    def critical(self, place: Place) -> float | None:
        """Any score is as good as another."""
        return lowest(lambda score: self.draw(place) <= self.alpha)


def lowest(accepts: Callable[[float], bool]) -> float | None:
    """The lowest finite number that `accepts`, which takes every number above one that it takes; None if none."""
    low, high = _ordinal(UNSEEN), _ordinal(sys.float_info.max)
    if not accepts(sys.float_info.max):
        return None
    while low < high:
        middle = (low + high) // 2
        if accepts(_number(middle)):
            high = middle
        else:
            low = middle + 1
    return _number(high)


def _ordinal(number: float) -> int:
    """Of a float among all floats, 0.0 being the 0th."""
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(number)))
    return int(bits) if number >= 0 else -int(bits)


def _number(ordinal: int) -> float:
    number: float = struct.unpack("<d", struct.pack("<q", abs(ordinal)))[0]
    return number if ordinal >= 0 else -number
