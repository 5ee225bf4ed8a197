"""What a drift alarm looks at: a few numbers for each question, the same function of every question.

Questions are exchangeable where they are drawn alike; their chunks are not. Chunks of one question are alike, later
turns differ from earlier ones, and what a gate decides about a chunk changes those after it. So chunks are not watched
by themselves: a question is, when all its chains are over, by numbers that the gate's decisions have no part in.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

GROUPS = ("turn 0", "turn 1", "turns 2-3", "turns 4-7", "turns 8-15", "turns 16 on")
STATISTICS = ("all turns", *GROUPS, "one chain")
"""The mean over everything that is watched; over turn 0; over a later group of turns, each chunk less its own chain's
mean before it; and how far the chain lies that is farthest from the question's mean."""
FEWEST = 5


class Drawn(NamedTuple):
    """A chunk as it was drawn first in its turn: the turn, its score, and whether it was handed over."""

    turn: int
    score: float
    handed_over: bool = False


Chains = Mapping[int, Sequence[Drawn]]
"""A question's chains by number; chunks in order of turns."""


@dataclass(frozen=True)
class Usual:
    """What scores are like by turn, as far as some questions tell.

    Attributes:
        turns: mean, standard deviation and limit of the scores of each turn; later turns are like the last one here.
            A chain is watched up to the first chunk whose score is above the limit.
    """

    turns: tuple[tuple[float, float, float], ...]

    def __post_init__(self) -> None:
        if not self.turns or not all(math.isfinite(m + limit) and 0 < sd < math.inf for m, sd, limit in self.turns):
            raise ValueError("what is usual needs a mean, a positive deviation and a limit for one turn at least")

    @classmethod
    def of(cls, questions: Iterable[Chains], level: float) -> Usual:
        """As `questions` tell, with limits that a share of `level` of the scores is above.

        Raises:
            ValueError: they hold no score.
        """
        by_turn: dict[int, list[float]] = defaultdict(list)
        for chains in questions:
            for chain in chains.values():
                for turn, score, _ in chain:
                    by_turn[turn].append(score)
        turns: list[tuple[float, float, float]] = []
        while len(now := by_turn.pop(len(turns), [])) >= FEWEST:
            turns.append(_of(now, level))
        rest = [*now, *(score for scores in by_turn.values() for score in scores)]
        if len(rest) >= FEWEST or (rest and not turns):
            turns.append(_of(rest, level))
        return cls(tuple(turns))

    def statistics(self, chains: Chains, *, whole: bool = False) -> dict[str, float]:
        """The question's numbers, those of `STATISTICS` that it has; in standard deviations of a chunk's score.

        A chain is watched from its first turn to the first chunk that is handed over, or would be if everything above
        the limit were. Where the gate hands over nothing below the limit, what is watched is what would have been
        watched under any other gate: the limit is fixed, and a chunk before it has nothing but the draft's chunks
        before itself. So neither what a gate has learnt, nor redraws, nor what the target wrote move these numbers.

        Args:
            whole: every chunk is watched: for a gate that treats all questions alike.
        """
        everything: list[float] = []
        groups: dict[str, list[float]] = defaultdict(list)
        by_chain: list[list[float]] = []
        for chain in chains.values():
            mine: list[float] = []
            for turn, score, handed_over in chain:
                mean, deviation, limit = self.turns[min(turn, len(self.turns) - 1)]
                away = (score - mean) / deviation
                # What a question or a chain is like as a whole says nothing of one of its turns.
                groups[_group(turn)].append(away - (statistics.fmean(mine) if mine else 0.0))
                mine.append(away)
                if not whole and (handed_over or score > limit):
                    break
            everything += mine
            by_chain += [mine] if mine else []
        if not everything:
            return {}
        centre = statistics.fmean(everything)
        found = {"all turns": centre} | {name: statistics.fmean(values) for name, values in groups.items()}
        if len(by_chain) > 1:
            found["one chain"] = max(math.sqrt(len(c)) * abs(statistics.fmean(c) - centre) for c in by_chain)
        return found


def _of(scores: Sequence[float], level: float) -> tuple[float, float, float]:
    ordered = sorted(scores)
    deviation = statistics.pstdev(ordered)
    limit = ordered[min(len(ordered) - 1, max(0, math.ceil((1 - level) * len(ordered)) - 1))]
    return statistics.fmean(ordered), deviation if deviation > 0 else 1.0, limit


def _group(turn: int) -> str:
    return GROUPS[min(turn.bit_length(), len(GROUPS) - 1)]
