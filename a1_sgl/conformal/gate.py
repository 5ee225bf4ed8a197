"""Gates: they turn a chunk's score into a p-value and decide who goes on."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from a1_sgl.conformal.bank import ScoreBank
from a1_sgl.conformal.pvalues import conservative, smoothed


@dataclass(frozen=True)
class Decision:
    """What a gate said about one chunk.

    Attributes:
        score: the chunk's nonconformity score, here its mean loss under the target in nats per token.
        p_value: its p-value against the bank.
        alpha: the level it was compared with; the target takes over when ``p_value <= alpha``. An adaptive gate's
            level may leave [0, 1] for a while.
        n: how many scores the bank held.
    """

    score: float
    p_value: float
    alpha: float
    n: int

    @property
    def take_over(self) -> bool:
        """Whether the target goes on."""
        return self.p_value <= self.alpha


class Gate(Protocol):
    """Anything that decides on a chunk's score. Implementations may be called from many threads at once."""

    alpha: float

    def __call__(self, score: float, *, question: Hashable, sample: int, turn: int) -> Decision:
        """Decides on one chunk, named by its question, chain (`sample`) and turn, all counted from 0."""
        ...

    def observe(self, score: float, take_over: bool) -> None:
        """Takes note of a chunk that was decided in an earlier session, which this one resumes."""
        ...


class MarginalGate:
    """One bank for all chunks: ``P(take over) = alpha`` if the chunk's score is exchangeable with the bank's.

    With ``online=True`` every score joins the bank after its own decision. Under exchangeability the smoothed
    p-values are then independent as well as uniform (Vovk et al. 2022, theorem 11.1), so the number of take-overs is
    Binomial(decisions, alpha) from the first chunk on, even from an empty bank. With ``online=False`` the bank is a
    fixed calibration split: each p-value is uniform, but all share the bank, so the realised rate varies with it.

    Nothing is promised for a subset of the chunks, such as one turn or one question.
    """

    def __init__(
        self,
        alpha: float,
        bank: ScoreBank | None = None,
        *,
        online: bool = True,
        p_value: str = "smoothed",
        seed: int = 0,
    ) -> None:
        """
        Args:
            alpha: nominal take-over rate, strictly between 0 and 1.
            bank: calibration scores; empty if none are given.
            online: whether a score joins the bank after its decision.
            p_value: ``smoothed`` (exact rate, randomised) or ``conservative`` (at most alpha, deterministic).
            seed: of the smoothing draws. A draw depends on the seed and the chunk's name alone, so the order in which
                chains happen to arrive does not change it.

        Raises:
            ValueError: alpha outside (0, 1), an unknown p-value, or a fixed bank so small that the conservative
                p-value could never reach alpha.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is the nominal take-over rate and must lie strictly between 0 and 1, not {alpha}")
        if p_value not in ("smoothed", "conservative"):
            raise ValueError(f"unknown p-value {p_value!r}; known: smoothed, conservative")
        self.alpha = alpha
        self.bank = ScoreBank() if bank is None else bank
        self.online = online
        self.p_value = p_value
        self.seed = seed
        if not online and p_value == "conservative" and 1 / (len(self.bank) + 1) > alpha:
            need = math.ceil(1 / alpha) - 1
            raise ValueError(f"alpha {alpha} needs at least {need} calibration scores; the bank holds {len(self.bank)}")

    def __call__(self, score: float, *, question: Hashable, sample: int, turn: int) -> Decision:
        """Raises ValueError for a score that is not finite."""
        greater, equal, n = self.bank.counts(score, add=self.online)
        if self.p_value == "conservative":
            p = conservative(greater, equal, n)
        else:
            p = smoothed(greater, equal, n, random.Random(f"{self.seed}/{question}/{sample}/{turn}").random())
        return Decision(score=score, p_value=p, alpha=self.alpha, n=n)

    def observe(self, score: float, take_over: bool) -> None:
        """The score joins the bank if the gate is online."""
        if self.online:
            self.bank.counts(score, add=True)


class AdaptiveGate(MarginalGate):
    """A marginal gate whose level follows the rate it realises: ``level += step * (alpha - took_over)``.

    Source: adaptive conformal inference (Gibbs and Candès 2021, equation 2). Whatever the scores do, exchangeable or
    not, after N decisions the realised rate differs from alpha by at most ``(max(alpha, 1 - alpha) + step) / (step *
    N)`` (their proposition 4.1). That holds for the whole sequence of decisions; nothing is promised for one turn or
    one question. A larger step follows a drift faster and makes the level itself noisier.
    """

    def __init__(
        self, alpha: float, bank: ScoreBank | None = None, *, online: bool = True, seed: int = 0, step: float = 0.005
    ) -> None:
        """
        Args:
            alpha, bank, online, seed: as in `MarginalGate`.
            step: how far one decision moves the level, positive.

        Raises:
            ValueError: as in `MarginalGate`, or a step that is not positive.
        """
        super().__init__(alpha, bank, online=online, seed=seed)
        if not step > 0:
            raise ValueError(f"step must be positive, not {step}")
        self.step = step
        self.level = alpha
        self._lock = threading.Lock()

    def __call__(self, score: float, *, question: Hashable, sample: int, turn: int) -> Decision:
        """Raises ValueError for a score that is not finite."""
        with self._lock:  # the level that decides is the one that this decision moves
            decision = replace(super().__call__(score, question=question, sample=sample, turn=turn), alpha=self.level)
            self._follow(decision.take_over)
        return decision

    def observe(self, score: float, take_over: bool) -> None:
        """The score joins the bank if the gate is online, and the level moves as it did then."""
        with self._lock:
            super().observe(score, take_over)
            self._follow(take_over)

    def _follow(self, took_over: bool) -> None:
        self.level += self.step * (self.alpha - took_over)


GATES: Mapping[str, Callable[..., MarginalGate]] = {"adaptive": AdaptiveGate, "marginal": MarginalGate}
