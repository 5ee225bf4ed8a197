"""The drift alarm as it is used: many chains in flight on one gate, chunks that arrive when they are written.

Questions have levels of their own, later turns higher scores, and a chunk after a take-over lower ones. The longer a
chunk takes to write the higher is its score, as far as `correlation` says. With redraws a rejected chunk is drawn
again, up to twice, in place of a take-over.

    python -m a1_sgl.evals.benchmarks.drift                   # false alarms: lanes, correlation, card, redraws
    python -m a1_sgl.evals.benchmarks.drift --detection       # one shift at a time, and how late it is found
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.conformal import DEFAULT, Alarm, Card, GuardedGate, Place, exact_interval, make

Shift = Callable[[int, int], float]
"""By how much the scores of a chain's turn are higher, in standard deviations."""


@dataclass(frozen=True)
class World:
    """A run of `questions` questions of `chains` chains and `turns` turns each, `lanes` chains in flight."""

    questions: int = 300
    chains: int = 4
    turns: int = 3
    lanes: int = 16
    correlation: float = 0.5
    redraws: int = 0
    alike: float = 0.5
    gate: str = DEFAULT
    alpha: float = 0.25

    def alarms(
        self, seed: int, *, card: int = 0, shift: Shift | None = None, at: int = 0, threshold: float = 100.0
    ) -> list[Alarm]:
        """The alarms of one run.

        Args:
            card: questions of a calibration run before it, under a gate of the same kind.
            shift: of scores, from question `at` on.
            threshold: of the alarm.
        """
        return self._guarded(seed, card, shift, at, threshold)[0].alarms

    def peak(self, seed: int, *, card: int = 0) -> float:
        """The highest wealth of one run without a shift."""
        return math.exp(min(self._guarded(seed, card, None, 0, math.inf)[1], 700.0))

    def _guarded(
        self, seed: int, card: int, shift: Shift | None, at: int, threshold: float
    ) -> tuple[GuardedGate, float]:  # fmt: skip
        guard = GuardedGate(make(self.gate, self.alpha, chains=self.chains, seed=seed), threshold=threshold)
        if card:
            self._card(f"card {seed}", card).fill(guard)
        rng, peaks = random.Random(f"run {seed}"), [0.0]
        self._run(rng, guard, self.questions, shift, at, lambda: peaks.append(guard.log_wealth))
        return guard, max(peaks)

    def _card(self, seed: str, questions: int) -> Card:
        gate = GuardedGate(make(self.gate, self.alpha, chains=self.chains), threshold=math.inf)
        seen = self._run(random.Random(seed), gate, questions, None, 0)
        names = sorted({place.question for _, place in seen}, key=str)
        index = {name: i for i, name in enumerate(names)}
        return Card(
            "mean_loss", tuple(score for score, _ in seen),
            tuple((index[place.question], place.sample, place.turn) for _, place in seen),
            tuple(f"c{name}" for name in names), "", self.alpha, {},
        )  # fmt: skip

    def _run(
        self, rng: random.Random, gate: GuardedGate, questions: int, shift: Shift | None, at: int,
        over: Callable[[], object] = lambda: None,
    ) -> list[tuple[float, Place]]:  # fmt: skip
        """Chunks in order of arrival. A question is begun when its first chain is."""
        waiting = iter([(question, sample) for question in range(questions) for sample in range(self.chains)])
        flight: list[tuple[float, int, int, int, int, int, float, float]] = []
        levels: dict[int, float] = {}
        left = dict.fromkeys(range(questions), self.chains)
        number = itertools.count()
        seen: list[tuple[float, Place]] = []

        def write(now: float, question: int, sample: int, turn: int, attempt: int, after: float) -> None:
            noise = rng.gauss(0, 1)
            score = self.alike**0.5 * levels[question] + (1 - self.alike) ** 0.5 * noise + 0.3 * turn + after
            if shift is not None and question >= at:
                score += shift(sample, turn)
            length = self.correlation * (score - 0.3 * turn) + (1 - self.correlation**2) ** 0.5 * rng.gauss(0, 1)
            heapq.heappush(
                flight, (now + math.exp(length), next(number), question, sample, turn, attempt, score, after)
            )

        def start(now: float) -> None:
            for question, sample in itertools.islice(waiting, 1):
                if sample == 0:
                    levels[question] = rng.gauss(0, 1)
                    gate.begin(question)
                write(now, question, sample, 0, 0, 0.0)

        for _ in range(self.lanes):
            start(0.0)
        while flight:
            now, _, question, sample, turn, attempt, score, after = heapq.heappop(flight)
            handed = gate(score, question=question, sample=sample, turn=turn, attempt=attempt).take_over
            seen.append((score, Place(question, sample, turn, "", attempt)))
            if handed and attempt < self.redraws:
                write(now, question, sample, turn, attempt + 1, after)
            elif turn + 1 < self.turns:
                write(now, question, sample, turn + 1, 0, after - 0.5 * (handed and not self.redraws))
            else:
                left[question] -= 1
                if not left[question]:
                    gate.end(question)
                    over()
                start(now)
        return seen


SHIFTS: dict[str, Shift] = {
    "every turn": lambda sample, turn: 1.0,
    "turn 0": lambda sample, turn: float(turn == 0),
    "turn 2": lambda sample, turn: float(turn == 2),
    "turn 4": lambda sample, turn: float(turn == 4),
    "turns 1 on": lambda sample, turn: float(turn >= 1),
    "chain 2": lambda sample, turn: float(sample == 2),
    "chains 1 on": lambda sample, turn: float(sample >= 1),
}


def _times(shift: Shift, size: float) -> Shift:
    return lambda sample, turn: size * shift(sample, turn)


def main(
    detection: Annotated[bool, typer.Option("--detection", help="Shifts that are to be found.")] = False,
    runs: Annotated[int, typer.Option(help="Simulated runs of a cell.")] = 300,
    questions: Annotated[
        int | None, typer.Option(help="Questions of a run. [default: 120; 300, half of them shifted]")
    ] = None,
    gate: Annotated[str, typer.Option(help="The gate that is guarded.")] = DEFAULT,
    threshold: Annotated[float, typer.Option(help="Of the wealth, with --detection.")] = 100.0,
) -> None:
    """Prints false alarms with exact intervals, or shifts found and their delay in questions."""
    logging.getLogger("a1_sgl.conformal.alarm").setLevel(logging.ERROR)
    console, questions = Console(), questions or (300 if detection else 120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    if detection:
        at = questions // 2
        console.print(
            f"gate {gate}; {runs} runs of {questions} questions, 4 chains, 5 turns; 16 lanes, a card of 100 questions; "
            f"the shift begins at question {at}",
            highlight=False,
        )
        for name in ("shift", "by, sd", "found", "before it", "median delay", "90% within", "mostly by"):
            table.add_column(name, justify="left" if name in ("shift", "mostly by") else "right")
        world = World(questions, turns=5, gate=gate)
        for name, shift in SHIFTS.items():
            for size in (1.0, 2.0, 3.0):
                by_size = _times(shift, size)
                found = [
                    world.alarms(seed, card=100, at=at, threshold=threshold, shift=by_size) for seed in range(runs)
                ]
                first = [alarms[0] for alarms in found if alarms]
                late = sorted(int(str(one.question)) - at for one in first if int(str(one.question)) >= at)
                by = [one.statistic for one in first if int(str(one.question)) >= at]
                early = len(first) - len(late)
                table.add_row(
                    name, f"{size:g}", f"{len(late)}/{runs - early}", str(early),
                    f"{statistics.median(late):.0f}" if late else "-",
                    f"{late[math.ceil(0.9 * (runs - early)) - 1]}" if len(late) >= 0.9 * (runs - early) else "-",
                    max(set(by), key=by.count) if by else "-",
                )  # fmt: skip
    else:
        console.print(
            f"gate {gate}; {runs} runs of {questions} questions, 3 chains, 2 turns; a card of 40 questions; the wealth "
            "ever reaches 20 in at most 5.0% of runs, 100 in at most 1.0%",
            highlight=False,
        )
        for name in ("lanes", "length and score", "card", "redraws", "reaches 20", "reaches 100"):
            table.add_column(name, justify="right")
        for lanes, correlation, card, redraws in itertools.product((1, 16, 64, 400), (0.0, 0.5, 0.9), (0, 40), (0, 2)):
            world = World(questions, 3, 2, lanes, correlation, redraws, gate=gate)
            peaks = [world.peak(seed, card=card) for seed in range(runs)]
            cells = []
            for threshold in (20, 100):
                false = sum(peak >= threshold for peak in peaks)
                low, high = exact_interval(false, runs)
                cells.append(f"{false}/{runs} [{low:.1%}, {high:.1%}]")
            table.add_row(
                str(lanes), f"{correlation:g}", "yes" if card else "no", "yes" if redraws else "no", *cells
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
