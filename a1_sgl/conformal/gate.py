"""Gates: they turn a chunk's score into a p-value and decide who goes on.

A gate is a bank, which ranks the score, and a control, which sets the level. `GATES` has the combinations with a name.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from a1_sgl.conformal.bank import Bank, ScoreBank, finite
from a1_sgl.conformal.control import Control, Fixed, check_alpha
from a1_sgl.conformal.place import Place
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
    """

    score: float
    p_value: float
    alpha: float
    n: int

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

    def finish(self, question: Hashable, sample: int) -> None:
        """Takes note that a chain has ended."""
        ...


class Gate:
    """A bank and a control; safe to call from many threads at once, each decision one atomic step.

    With ``online=True`` a score joins the bank after its own decision; otherwise the bank stays the calibration split
    it is. The draw that breaks ties depends on the seed and the chunk's name alone, so the order in which chains happen
    to arrive does not change it.
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
            bank: ranks scores; an empty `ScoreBank` by default.
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
        self.bank: Bank = ScoreBank() if bank is None else bank
        self.control: Control = Fixed(alpha) if control is None else control
        self.online, self.p_value, self.seed = online, p_value, seed
        if p_value == "conservative" and len(self.bank) < (need := scores_needed(alpha)):
            raise ValueError(f"alpha {alpha} needs at least {need} calibration scores; the bank holds {len(self.bank)}")
        self._lock = threading.Lock()

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides on one chunk, named by its question, chain (`sample`) and turn, both counted from 0, and task.

        A chunk that is drawn again in its turn is a chunk of its own, named by its `attempt`: 0 for the first draw.

        Raises:
            ValueError: for a score that is not finite; nothing is changed.
        """
        place = Place(question, sample, turn, task, attempt)
        u = self.draw(place)
        with self._lock:
            if score == UNSEEN:
                p, n = 1.0, 0
            else:
                low, high, n = self.bank.rank(score, place, add=self.online)
                p = low + u * (high - low) if self.p_value == "smoothed" else high
            decision = Decision(score, p, self.control.level(place), n)
            self.control.update(place, decision.take_over)
        return decision

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """Takes note of a chunk that was decided in an earlier session, which this one resumes.

        Raises:
            ValueError: for a score that is not finite; nothing is changed.
        """
        place = Place(question, sample, turn, task, attempt)
        finite(score)
        with self._lock:
            if self.online and score != UNSEEN:
                self.bank.add(score, place)
            self.control.level(place)  # some controls note that a chain has come back
            self.control.update(place, take_over)

    def calibrate(
        self, score: float, *, question: Hashable, sample: int = 0, turn: int = 0, task: Hashable = "", attempt: int = 0
    ) -> None:  # fmt: skip
        """Puts in a calibration score, about which there is nothing to decide."""
        with self._lock:
            self.bank.add(score, Place(question, sample, turn, task, attempt))

    def finish(self, question: Hashable, sample: int) -> None:
        """Takes note that a chain has ended, however it did."""
        with self._lock:
            self.control.finish(question, sample)

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
        """The chunk's draw from Uniform(0, 1), a fresh one for each attempt and for each use of it."""
        question, sample, turn, task, attempt = place
        name = f"{self.seed}\0{question}\0{sample}\0{turn}\0{task}"
        if attempt:  # a first attempt has the draw that it has where nothing is drawn again
            name += f"\0{attempt}"
        if use:
            name += f"\0{use}"
        return (int.from_bytes(blake2b(name.encode(), digest_size=7).digest()) >> 3) * 2.0**-53

    def state(self) -> Any:
        """What the gate remembers, as JSON."""
        with self._lock:
            return {"bank": self.bank.state(), "control": self.control.state()}

    def restore(self, state: Any) -> None:
        """Goes on from the `state` of a gate made alike; later decisions are as that gate's would have been."""
        with self._lock:
            self.bank.restore(state["bank"])
            self.control.restore(state["control"])


class Coin(Gate):
    """A gate that does not look: its p-value is the chunk's draw from Uniform(0, 1)."""

    def __call__(
        self, score: float, *, question: Hashable, sample: int, turn: int, task: Hashable = "", attempt: int = 0
    ) -> Decision:  # fmt: skip
        """Decides at random, reproducibly for each chunk.

        Raises:
            ValueError: for a score that is not finite.
        """
        finite(score)
        return Decision(score, self.draw(Place(question, sample, turn, task, attempt)), self.alpha, 0)

    def observe(
        self, score: float, take_over: bool, *, question: Hashable, sample: int, turn: int, task: Hashable = "",
        attempt: int = 0,
    ) -> None:  # fmt: skip
        """Nothing is remembered; a score that is not finite is refused all the same."""
        finite(score)

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
