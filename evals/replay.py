"""Replay: gates run over recorded chains, in seconds and without a model.

A record says what every chunk's score was. A gate is shown these scores in some order of arrival, and what it decides
is counted. A chunk that was drawn again in its turn is a chunk for each draw, and a gate decides on all of them. What a
replay cannot know is in `UNKNOWN`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from a1_sgl.arguments import StrPath
from a1_sgl.arguments import path as as_path
from a1_sgl.conformal import (
    AUDITED,
    BUDGETS,
    FROZEN,
    GATES,
    RECOMMENDED,
    Control,
    Decided,
    Gate,
    GuardedGate,
    Place,
    Rates,
    make,
    worst,
)
from a1_sgl.conformal.rates import hindsight
from a1_sgl.errors import ConfigError, why

UNKNOWN = (
    "A replay cannot know how a chain would have gone on after a decision other than the recorded one; it keeps the "
    "recorded chunks, all draws of a turn included. So it tells rates, deviations and selectivity on this record, and "
    "nothing of accuracy, tokens or time. The order of arrival is simulated, not recorded. Banks begin empty, also "
    "where a run's began with a card."
)
AUTHORS = "authors"
SYNCHRONOUS = "synchronous"
ORACLE = "oracle"
RULES = {
    AUTHORS: "the authors' rule: take over where the rank among a fixed array of scores is 1 - alpha or more; the "
    "array is that of --calibration, else the percentiles that are recorded, else the turn-0 scores of this record",
    SYNCHRONOUS: "all chains of a question wait after every turn; the worst alpha * m, by first draws, are handed over",
    ORACLE: "hindsight: of each question and turn the ceil(alpha * n) highest scores, so its rate is above alpha where "
    "alpha * n is not whole; what selectivity compares with",
}
ORDERS = ("random", "turns")


@dataclass(frozen=True)
class Chunk:
    """A recorded chunk: its turn, its score, and its percentile in the array it was gated with, if recorded.

    `attempt` says which of the turn's draws it is, from 0, and `evidence` what a first stage saw of it, if there was
    one. One that was accepted unseen has the lowest score there is.
    """

    turn: int
    score: float
    percentile: float | None = None
    attempt: int = 0
    evidence: float | None = None


@dataclass(frozen=True)
class RecordedChain:
    """A chain's scored chunks, in order; where a turn has several draws, each is one."""

    question: str
    sample: int
    task: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Trace:
    """Recorded chains, and how many of their turns had no score and so no decision."""

    chains: tuple[RecordedChain, ...]
    unscored: int

    @property
    def chunks(self) -> int:
        """How many decisions there are."""
        return sum(len(chain.chunks) for chain in self.chains)

    @property
    def chains_per_question(self) -> int:
        """The most that a question has."""
        counts: dict[str, int] = defaultdict(int)
        for chain in self.chains:
            counts[chain.question] += 1
        return max(counts.values())


def read(paths: StrPath | Sequence[StrPath]) -> Trace:
    """Reads run folders, their ``events.jsonl``, or files of one recorded chain a line; gzip by the name.

    Raises:
        ConfigError: a file is missing, has another format, tells twice of one draw, or holds no scored chunk; the line
            is named.
    """
    chains: list[RecordedChain] = []
    unscored = 0
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    for number, path in enumerate(as_path(one, "a trace") for one in several):
        file = path / "events.jsonl" if path.is_dir() else path
        prefix = f"{number}/" if len(several) > 1 else ""
        found, missing = _read(file, prefix)
        if not any(chain.chunks for chain in found):
            raise ConfigError(f"{file} holds no scored chunk; was it a run of a program with a gate?")
        chains += found
        unscored += missing
    return Trace(tuple(chain for chain in chains if chain.chunks), unscored)


TURNS = 1_000_000
"""A record that names a turn beyond is broken; rates by turn have a place for each up to the last."""


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)


class _Turn(_Row):
    ppl: FiniteFloat = 0.0
    percentile: FiniteFloat | None = None


class _Chain(_Row):
    problem: int | str
    sample: NonNegativeInt
    turns: list[_Turn]


class _Screening(_Row):
    score: FiniteFloat


class _Verdict(_Row):
    question: str
    sample: NonNegativeInt
    turn: Annotated[int, Field(ge=0, lt=TURNS)]
    attempt: NonNegativeInt = 0
    score: FiniteFloat
    task: str = ""
    screening: _Screening | None = None


def _read(file: Path, prefix: str) -> tuple[list[RecordedChain], int]:
    chains: dict[tuple[str, int], dict[tuple[int, int], Chunk]] = {}
    tasks: dict[str, str] = {}
    unscored, number = 0, 0
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007
                row = json.loads(line)
                if isinstance(row, dict) and "event" in row:
                    if row["event"] != "verdict":
                        continue
                    verdict = _Verdict.model_validate(row)
                    question = prefix + verdict.question
                    tasks[question] = verdict.task
                    chunks = chains.setdefault((question, verdict.sample), {})
                    turn, attempt = verdict.turn, verdict.attempt
                    if (turn, attempt) in chunks:
                        raise ValueError(f"turn {turn} of chain {verdict.sample} was decided before, attempt {attempt}")
                    evidence = verdict.screening.score if verdict.screening is not None else None
                    chunks[turn, attempt] = Chunk(turn, verdict.score, attempt=attempt, evidence=evidence)
                    continue
                chain = _Chain.model_validate(row)
                name = (f"{prefix}{chain.problem}", chain.sample)
                if name in chains:
                    raise ValueError(f"chain {chain.sample} of problem {chain.problem} was read before")
                scored = {turn: one for turn, one in enumerate(chain.turns) if "ppl" in one.model_fields_set}
                unscored += len(chain.turns) - len(scored)
                chains[name] = {(turn, 0): Chunk(turn, one.ppl, one.percentile) for turn, one in scored.items()}
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; name a run folder, an events.jsonl or a file of chains") from None
    except ValidationError as error:
        raise ConfigError(f"{file}, line {number}: not a recorded chain or event: {why(error)}") from error
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{file}, line {number}: not a recorded chain or event: {error}") from error
    return [
        RecordedChain(question, sample, tasks.get(question, ""), tuple(chunks[draw] for draw in sorted(chunks)))
        for (question, sample), chunks in chains.items()
    ], unscored


Step = tuple[RecordedChain, int]


def arrivals(trace: Trace, seed: int, interleave: int, order: str = "random") -> Iterator[Step]:
    """The order in which chunks come up for a decision: pairs of a chain and an index into its chunks.

    Questions start in random order, `interleave` of them in flight; the next one starts when one is finished. With
    ``random`` any unfinished chain in flight may be next, as where no chain waits for another. With ``turns`` a
    question takes its turns one after the other over all chains, as where they wait.

    Raises:
        ConfigError: an unknown order or an interleave below 1.
    """
    if order not in ORDERS:
        raise ConfigError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    if interleave < 1:
        raise ConfigError(f"--interleave must be at least 1 question, not {interleave}")
    rng = random.Random(seed)
    by_question: dict[str, list[RecordedChain]] = defaultdict(list)
    for chain in trace.chains:
        by_question[chain.question].append(chain)
    waiting = list(by_question)
    rng.shuffle(waiting)
    waiting.reverse()
    open_: list[list[Step]] = []  # a question each
    while waiting or open_:
        while waiting and len(open_) < interleave:
            open_.append([(chain, 0) for chain in by_question[waiting.pop()]])
        if order == "random":
            at = rng.randrange(sum(map(len, open_)))
            for question in open_:
                if at < len(question):
                    break
                at -= len(question)
        else:
            question = open_[rng.randrange(len(open_))]
            first = min(chain.chunks[index].turn for chain, index in question)
            at = rng.choice([i for i, (chain, index) in enumerate(question) if chain.chunks[index].turn == first])
        chain, index = question[at]
        yield chain, index
        if index + 1 < len(chain.chunks):
            question[at] = (chain, index + 1)
        else:
            question[at] = question[-1]
            question.pop()
            if not question:
                open_.remove(question)


@dataclass(frozen=True)
class Replay:
    """How to replay.

    Attributes:
        trace: what was recorded.
        interleave: questions in flight.
        order: of arrival, one of `ORDERS`.
        calibration: fixed scores, for rules that need them; ascending.
        minimum: turns with fewer chunks are left out of the deviations by turn.
    """

    trace: Trace
    interleave: int = 8
    order: str = "random"
    calibration: tuple[float, ...] | None = None
    minimum: int = 75

    def run(self, name: str, alpha: float, seed: int) -> Rates:
        """One pass over the record with gate or rule `name`.

        Raises:
            ConfigError: an unknown name, or what it needs is missing.
        """
        if name == SYNCHRONOUS:
            return self._synchronous(alpha)
        if name == ORACLE:
            return self._oracle(alpha)
        try:
            decide, skip, control = self._decider(name, alpha, seed)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        decisions = []
        for chain, index in arrivals(self.trace, seed, self.interleave, self.order):
            chunk = chain.chunks[index]
            if skip(chain, index):
                continue
            place = _place(chain, chunk)
            decisions.append(Decided(place, chunk.score, decide(chunk, place, index + 1 == len(chain.chunks))))
        return Rates.of(alpha, decisions, control)

    def _decider(
        self, name: str, alpha: float, seed: int
    ) -> tuple[Callable[[Chunk, Place, bool], bool], Callable[[RecordedChain, int], bool], Control | None]:
        if name == AUTHORS:
            return self._authors(alpha), lambda chain, index: False, None
        if name in (*GATES, *BUDGETS):
            gate = make(name, alpha, chains=self.trace.chains_per_question, seed=seed)
        elif name == AUDITED:
            raise ConfigError(f"gate {name} cannot be replayed: no record says what other audits would have found")
        else:
            raise ConfigError(f"unknown gate {name!r}; known: {', '.join([*GATES, *BUDGETS, *RULES])}")

        def skip(chain: RecordedChain, index: int) -> bool:
            return False

        if name == FROZEN:
            if self.calibration is None:
                raise ConfigError(f"gate {FROZEN} needs its scores: --calibration FILE.npy")
            for score in self.calibration:
                gate.calibrate(score, question="")
        if name == "presampled":  # every second chain's first chunk stands in for a chunk drafted beforehand
            for chain in self.trace.chains:
                if chain.sample % 2:
                    gate.calibrate(chain.chunks[0].score, question=chain.question, task=chain.task)

            def skip(chain: RecordedChain, index: int) -> bool:
                return bool(chain.sample % 2) and index == 0

        def decide(chunk: Chunk, place: Place, last: bool) -> bool:
            taken = gate(chunk.score, **place._asdict()).take_over
            if last:
                gate.finish(place.question, place.sample)
            return taken

        return decide, skip, gate.control

    def _authors(self, alpha: float) -> Callable[[Chunk, Place, bool], bool]:
        """Every draw is ranked in the array, which holds one score a chain: of its first chunk's first draw."""
        fixed = self.calibration
        if fixed is None:
            firsts = [chain.chunks[0] for chain in self.trace.chains]
            if all(chunk.percentile is not None for chain in self.trace.chains for chunk in chain.chunks):
                return lambda chunk, place, last: bool((chunk.percentile or 0.0) >= 1 - alpha)
            fixed = tuple(sorted(chunk.score for chunk in firsts))
        array, n = fixed, len(fixed)
        return lambda chunk, place, last: bisect_right(array, chunk.score) / n >= 1 - alpha

    def _synchronous(self, alpha: float) -> Rates:
        """A chain counts once in a turn, by its first draw.

        Later draws are left out: the budget is one of chains, and the rule does not say how a chain that
        was handed over goes on.
        """
        budget = round(alpha * self.trace.chains_per_question)
        cells: dict[tuple[str, int], list[tuple[RecordedChain, Chunk]]] = defaultdict(list)
        for chain in self.trace.chains:
            for turn, draws in groupby(chain.chunks, attrgetter("turn")):
                cells[chain.question, turn].append((chain, next(draws)))
        decisions = []
        for cell in cells.values():
            for (chain, chunk), taken in zip(cell, worst([chunk.score for _, chunk in cell], budget), strict=True):
                decisions.append(Decided(_place(chain, chunk), chunk.score, taken))
        return Rates.of(alpha, decisions)

    def _oracle(self, alpha: float) -> Rates:
        """Knows all scores of a question's turn, all draws included, before it decides any."""
        cells: dict[tuple[str, int], list[tuple[RecordedChain, Chunk]]] = defaultdict(list)
        for chain in self.trace.chains:
            for chunk in chain.chunks:
                cells[chain.question, chunk.turn].append((chain, chunk))
        decisions = []
        for cell in cells.values():
            taken = worst([chunk.score for _, chunk in cell], hindsight(alpha, len(cell)))
            decisions += [Decided(_place(a, b), b.score, over) for (a, b), over in zip(cell, taken, strict=True)]
        return Rates.of(alpha, decisions)

    def measure(self, rates: Rates) -> dict[str, Any]:
        """What one pass came to; rates and deviations as shares of 1."""
        off = rates.deviations("turn", self.minimum)
        questions = rates.deviations("question")
        by_turn = rates.by("turn")
        turns = range(max((int(str(turn)) for turn in by_turn), default=-1) + 1)
        return {
            "overall": rates.overall.realised,
            "bound": rates.overall.bound,
            "per_turn": [by_turn[turn].realised if turn in by_turn else None for turn in turns],
            "per_turn_bound": [by_turn[turn].bound if turn in by_turn else None for turn in turns],
            "mean_turn_deviation": statistics.fmean(off) if off else None,
            "max_turn_deviation": max(off, default=None),
            "mean_question_deviation": statistics.fmean(questions),
            "max_question_deviation": max(questions),
            "selectivity": rates.selectivity(),
            "recall": rates.recall(),
        }

    def average(self, name: str, alpha: float, seeds: int) -> tuple[dict[str, Any], Rates]:
        """The mean of `measure` over seeds 0, 1, ..., and the rates of seed 0.

        A deviation is that of one pass, averaged; not that of averaged rates, which would hide it.
        """
        passes = [self.run(name, alpha, seed) for seed in range(seeds)]
        return _mean([self.measure(rates) for rates in passes]), passes[0]

    def martingale(self, seed: int) -> list[float]:
        """Natural logarithm of a drift alarm's wealth after each question that it watched, in random order.

        Whole chains are watched, as if they had been recorded under a gate that treats all questions alike.
        """
        guard, wealth = GuardedGate(Gate(0.5, online=False, seed=seed)), []
        by_question: dict[str, list[RecordedChain]] = defaultdict(list)
        for chain in self.trace.chains:
            by_question[chain.question].append(chain)
        order = list(by_question)
        random.Random(seed).shuffle(order)
        for question in order:
            guard.begin(question)
            for chain in by_question[question]:
                for chunk in chain.chunks:
                    guard.observe(chunk.score, False, **_place(chain, chunk)._asdict())
            watched = guard.watched
            guard.end(question)
            if guard.watched > watched:
                wealth.append(guard.log_wealth)
        return wealth


def _place(chain: RecordedChain, chunk: Chunk) -> Place:
    return Place(chain.question, chain.sample, chunk.turn, chain.task, chunk.attempt)


def _mean(measures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            length = max(map(len, values))
            return [mean([row[i] if i < len(row) else None for row in values]) for i in range(length)]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return {name: mean([measure[name] for measure in measures]) for name in measures[0]}


def calibration(path: Path) -> tuple[float, ...]:
    """Fixed scores from a ``.npy`` file, ascending.

    Raises:
        ConfigError: the file is missing or no array of finite numbers.
    """
    try:
        values = np.asarray(np.load(path, allow_pickle=False), dtype=float).ravel()
    except FileNotFoundError:
        raise ConfigError(f"calibration scores {path} do not exist; --calibration takes a .npy file") from None
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"calibration scores {path} cannot be read as a .npy array: {error}") from error
    if not values.size or not np.isfinite(values).all():
        raise ConfigError(f"calibration scores {path}: it must hold finite numbers, one at least")
    return tuple(np.sort(values).tolist())


DEFAULTS = (RECOMMENDED, AUTHORS, "random", ORACLE)
