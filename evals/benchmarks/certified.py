"""How often a policy is certified that should not be, and how often one that should: `a1 certify`, simulated.

python -m a1_sgl.evals.benchmarks.certified
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import binom, norm

from a1_sgl.conformal import FROZEN, Card, Gate, Trial, exact_interval, log_wealth, make, questions_needed

ALPHA = 0.4
ALPHAS = (0.5, 0.4, 0.3, 0.2, 0.1)
DELTAS = (0.1, 0.05, 0.01)
SIZES = (100, 300)
LANES = 64
"""Questions in flight."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """Questions of one chain, drawn independently: easy ones, and hard ones whose chunks are all wrong.

    The target alone answers all of them. A hard question is lost where one of its chunks is not handed over. Scores are
    Normal(0, 1) where a chunk is right and Normal(gap, 1) where it is wrong.

    Attributes:
        turns: chunks of a question.
        hard: share of questions that are hard.
        gap: between the scores of chunks that are wrong and those that are right.
    """

    turns: int = 1
    hard: float = 0.45
    gap: float = 3.0

    def draw(self, questions: int, rng: np.random.Generator) -> tuple[Bools, Floats]:
        """Which questions are hard, shape ``(questions,)``, and all scores, ``(questions, turns)``."""
        hard = rng.random(questions) < self.hard
        return hard, self.gap * hard[:, None] + rng.standard_normal((questions, self.turns))

    def card(self, questions: int, rng: np.random.Generator) -> Card:
        """A card of so many questions: split A."""
        scores = self.draw(questions, rng)[1]
        return Card(
            score="mean_loss", scores=tuple(scores.ravel().tolist()),
            places=tuple((q, 0, t) for q in range(questions) for t in range(self.turns)),
            questions=tuple(f"a{q}" for q in range(questions)), task="simulated", alpha=ALPHA, protocol={},
        )  # fmt: skip

    def risk(self, card: Card, alpha: float) -> float:
        """The exact probability that the frozen gate with this card's bank loses a question, given the card."""
        bank = np.sort(card.scores)[::-1]
        whole = math.floor(alpha * (len(bank) + 1))
        rest = alpha * (len(bank) + 1) - whole
        # Handed over where fewer than `whole` scores are greater, and in a share `rest` of draws where `whole` are.
        over = [norm.sf(bank[k] - self.gap) if k >= 0 else 0.0 for k in (whole - 1, whole)]
        return float(self.hard * (1 - ((1 - rest) * over[0] + rest * over[1]) ** self.turns))


def taken(scores: Floats, u: Floats, bank: Floats, alpha: float) -> Bools:
    """What a frozen gate decides: arrays of one shape, and the bank in ascending order."""
    greater = len(bank) - np.searchsorted(bank, scores, side="right")
    equal = len(bank) - greater - np.searchsorted(bank, scores, side="left")
    decided: Bools = (greater + u * (equal + 1)) / (len(bank) + 1) <= alpha
    return decided


def paths(world: World, runs: int, questions: int, calibrated: int, seed: int) -> tuple[Bools, Floats]:
    """Which questions each run's frozen policy loses, shape ``(runs, questions)``, and its true risk, ``(runs, 1)``.

    Every run has a card of its own.
    """
    rng = np.random.default_rng(seed)
    lost, risks = np.empty((runs, questions), dtype=bool), np.empty((runs, 1))
    for run in range(runs):
        card = world.card(calibrated, rng)
        hard, scores = world.draw(questions, rng)
        over = taken(scores, rng.random(scores.shape), np.sort(card.scores), ALPHA)
        lost[run], risks[run] = hard & ~over.all(-1), world.risk(card, ALPHA)
    return lost, risks


def passes(lost: Bools, epsilon: npt.ArrayLike) -> Floats:
    """The largest log wealth after each question; what has passed stays passed."""
    wealth = log_wealth(np.cumsum(lost, axis=-1), np.arange(1, lost.shape[-1] + 1), epsilon)
    most: Floats = np.maximum.accumulate(wealth, axis=-1)
    return most


def in_lanes(world: World, gate: Gate, hard: Bools, scores: Floats, seed: int) -> list[bool]:
    """Which questions a gate loses that meets them as a run does: many in flight, their chunks in random arrival."""
    rng = random.Random(seed)
    waiting = list(range(len(hard)))[::-1]
    turns: dict[int, int] = {}
    lost = [False] * len(hard)
    while waiting or turns:
        while waiting and len(turns) < LANES:
            turns[waiting.pop()] = 0
        question = rng.choice(list(turns))
        turn = turns[question]
        over = gate(float(scores[question, turn]), question=f"b{question}", sample=0, turn=turn).take_over
        lost[question] |= bool(hard[question]) and not over
        turns[question] += 1
        if turns[question] == world.turns:
            del turns[question]
            gate.finish(f"b{question}", 0)
    return lost


def sequence(world: World, runs: int, questions: int, calibrated: int, below: int, seed: int) -> list[list[Trial]]:
    """Whole certifications with gates and cards as they are: `ALPHAS` from the largest down, until one fails.

    Epsilon is 1% below the risk at ``ALPHAS[below]``, so that one and all that are smaller must not be certified. All
    levels answer the same questions. The last test of a run for each delta of `DELTAS` comes back, run by run.
    """
    rng, found = np.random.default_rng(seed), []
    for run in range(runs):
        card = world.card(calibrated, rng)
        epsilon = 0.99 * world.risk(card, ALPHAS[below])
        hard, scores = world.draw(questions, rng)
        losses = []
        for alpha in ALPHAS[: below + 1]:
            gate = make(FROZEN, alpha, seed=run)
            card.fill(gate)
            losses.append(in_lanes(world, gate, hard, scores, run))
        row = []
        for delta in DELTAS:
            for alpha, lost in zip(ALPHAS, losses, strict=False):
                test = Trial.of(alpha, lost, epsilon, delta)
                if not test.certified:
                    break
            row.append(test)
        found.append(row)
    return found


def learning(world: World, kind: str, runs: int, questions: int, seed: int) -> npt.NDArray[np.int64]:
    """How many questions are lost by a gate that starts empty and learns from them, run by run."""
    rng, counts = np.random.default_rng(seed), []
    for run in range(runs):
        hard, scores = world.draw(questions, rng)
        counts.append(sum(in_lanes(world, make(kind, ALPHA, seed=run), hard, scores, run)))
    return np.array(counts)


def main(
    runs: Annotated[int, typer.Option(help="Repeats where decisions are vectorised.")] = 4000,
    whole: Annotated[int, typer.Option(help="Repeats with gates and cards as they are.")] = 400,
    calibrated: Annotated[int, typer.Option(help="Questions of the card.")] = 60,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """False certificates of a frozen policy, whose true risk is known, and how many questions certifying takes."""
    console = Console()
    size = max(SIZES)

    def share(hits: int, n: int) -> str:
        low, high = exact_interval(hits, n)
        return f"{hits / n:.1%} [{100 * low:.1f}, {100 * high:.1f}]"

    table = _table("falsely certified", "turns", "questions", *(f"delta {delta:g}" for delta in DELTAS))
    for turns in (1, 3):
        world = World(turns)
        lost, risks = paths(world, runs, size, calibrated, seed)
        for name, factor in (("epsilon is the risk", 1.0), ("1% below it", 0.99)):
            most = passes(lost, factor * risks)
            for n in SIZES:
                hits = [int((most[:, n - 1] >= -math.log(delta)).sum()) for delta in DELTAS]
                table.add_row(name, str(turns), f"up to {n}", *(share(one, runs) for one in hits))
    world = World(3)
    rows = sequence(world, whole, size, calibrated, 2, seed)
    hits = [sum(row[i].alpha == ALPHAS[2] and row[i].certified for row in rows) for i in range(len(DELTAS))]
    table.add_row("gates, 3 levels", "3", f"up to {size}", *(share(one, whole) for one in hits))
    for kind in ("adaptive-turn", "marginal"):
        world = World(1)
        counts = learning(world, kind, whole, size, seed)
        p_values = binom.cdf(counts, size, 0.99 * counts.mean() / size)  # its risk is the mean over all runs
        hits = [int((p_values <= delta).sum()) for delta in DELTAS]
        table.add_row(f"{kind}, binomial", "1", str(size), *(share(one, whole) for one in hits))
    console.print(table)
    console.print(
        f"\n{runs} runs, {whole} in the last three rows; a card of {calibrated} questions each. [...]: exact, 95%\n",
        highlight=False,
    )

    table = _table("questions needed", "epsilon", "delta", "none lost", "by a fixed number")
    for epsilon, delta in ((0.03, 0.1), (0.03, 0.05), (0.05, 0.1), (0.05, 0.05)):
        fixed = math.ceil(math.log(delta) / math.log1p(-epsilon) - 1e-9)
        table.add_row("", f"{epsilon:g}", f"{delta:g}", str(questions_needed(epsilon, delta)), str(fixed))
    console.print(table)
    console.print()

    sizes, (epsilon, delta) = (100, 200, 300, 500, 1000), (0.03, 0.1)
    table = _table(f"certified, epsilon {epsilon:g}, delta {delta:g}", "", *(f"n = {n}" for n in sizes))
    rng = np.random.default_rng(seed)
    for part in (0.0, 0.1, 0.25, 0.5, 0.75):
        lost = rng.random((runs, sizes[-1])) < part * epsilon
        most, counts = passes(lost, epsilon), np.cumsum(lost, axis=-1)
        grown = [(most[:, n - 1] >= -math.log(delta)).mean() for n in sizes]
        fixed_n = [(binom.cdf(counts[:, n - 1], n, epsilon) <= delta).mean() for n in sizes]
        table.add_row(f"risk {part:g} epsilon", "may grow", *(f"{one:.1%}" for one in grown))
        table.add_row("", "fixed", *(f"{one:.1%}" for one in fixed_n))
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


if __name__ == "__main__":
    typer.run(main)
