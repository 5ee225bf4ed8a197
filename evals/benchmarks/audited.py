"""What audits buy: gates that hold a rate of take-overs beside one that holds a rate of false accepts.

    python -m a1_sgl.evals.benchmarks.audited                       # a simulated stream
    python -m a1_sgl.evals.benchmarks.audited --pocket runs/audits  # the pocket pair of `stories`, on real runtimes

Both are easy for a while and then hard. In the simulation 4% of the chunks are wrong and then 45%, and at the end 20%
that scores hardly tell from right ones; an audit is answered after some other decisions, and costs what a take-over
costs. On the pocket pair easy questions have few carries and hard ones a carry in every step, which is what its draft
gets wrong.

Gates that hold a rate hand over at the rate that the audited gate spends in all, audits included: a hindsight that they
would not have. The frozen threshold is that of a card made of easy and hard chunks alike.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from a1_sgl.conformal import AUDIT_RATE, AUDITED, Audited, Decision, Gate, Place, ScoreBank, false_accepts, make
from a1_sgl.evals import exact
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.stories import work
from a1_sgl.evals.tasks import Task, find_task
from a1_sgl.launch.pocket import pocket_pair
from a1_sgl.records import RunFolder
from a1_sgl.session import Backend
from a1_sgl.types import AuditEvent, ChunkEvent, Question, VerdictEvent

_NORMAL = statistics.NormalDist()
POCKET = ("easy", "hard")
"""Phases of the pocket run."""
DELTA = 0.05
console = Console(width=110)


@dataclass
class Tally:
    """Of one phase: decisions, and of these take-overs, audits, and wrong chunks accepted."""

    decisions: int = 0
    handed: int = 0
    audits: int = 0
    passed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def share(self, what: str) -> float:
        """Per decision."""
        return float(getattr(self, what) / self.decisions) if self.decisions else math.nan

    @property
    def cost(self) -> float:
        """Chunks that the target wrote per decision, where an audit is one."""
        return self.share("handed") + self.share("audits")


# --- simulated ------------------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """A stretch of a stream: the share of wrong chunks, and how well scores tell them.

    `auc` is the probability that a wrong chunk's score is above a right one's.
    """

    name: str
    wrong: float
    auc: float

    def chunk(self, rng: random.Random) -> tuple[float, bool]:
        """A score, and whether the chunk is wrong: scores of right ones are Normal(0, 1), of wrong ones shifted."""
        wrong = rng.random() < self.wrong
        return rng.gauss(math.sqrt(2) * _NORMAL.inv_cdf(self.auc) if wrong else 0, 1), wrong


PHASES = (Phase("easy", 0.04, 0.97), Phase("hard", 0.45, 0.97), Phase("blind", 0.2, 0.7))


class Chunk(NamedTuple):
    """A simulated chunk: when it comes up for a decision, in turns of a chain."""

    at: float
    phase: int
    place: Place
    score: float
    wrong: bool


@dataclass(frozen=True)
class Stream:
    """Chains side by side without barriers, one phase after the other.

    Attributes:
        phases: in order.
        questions, chains, turns: questions a phase, chains a question, turns a chain.
        interleave: questions in flight.
    """

    phases: tuple[Phase, ...] = PHASES
    questions: int = 50
    chains: int = 8
    turns: int = 12
    interleave: int = 8

    def draw(self, seed: int) -> list[Chunk]:
        """All chunks, in order of arrival."""
        rng = random.Random(f"{seed}/stream")
        chunks = []
        for number in range(len(self.phases) * self.questions):
            phase = number // self.questions
            for sample in range(self.chains):
                at = number * self.turns / self.interleave
                for turn in range(self.turns):
                    at += rng.expovariate(1)
                    score, wrong = self.phases[phase].chunk(rng)
                    chunks.append(Chunk(at, phase, Place(f"q{number}", sample, turn), score, wrong))
        return sorted(chunks)

    def card(self, seed: int, count: int = 1000) -> list[float]:
        """Scores of other chunks, as many of the first phase as of the second."""
        rng = random.Random(f"{seed}/card")
        return [self.phases[i % 2].chunk(rng)[0] for i in range(count)]


@dataclass
class Run:
    """What a gate did on a stream: tallies by phase, most audits outstanding at once, and wrong chunks they found."""

    tallies: dict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))
    outstanding: int = 0
    found: int = 0

    @property
    def whole(self) -> Tally:
        """Over all phases."""
        return sum(self.tallies.values(), Tally())


def simulate(stream: Sequence[Chunk], decide: Callable[[Chunk], Decision], gate: Gate, late: float, seed: int) -> Run:
    """One pass. An audit is answered after a time that is exponential with mean `late`, in turns of a chain."""
    rng, run = random.Random(f"{seed}/late"), Run()
    due: list[tuple[float, Chunk]] = []

    def answer(until: float) -> None:
        while due and due[0][0] <= until:
            _, chunk = heapq.heappop(due)
            run.found += chunk.wrong
            gate.audited(chunk.wrong, **chunk.place._asdict())

    for chunk in stream:
        answer(chunk.at)
        decision, tally = decide(chunk), run.tallies[chunk.phase]
        tally.decisions += 1
        tally.handed += decision.take_over
        tally.passed += chunk.wrong and not decision.take_over
        if decision.audit:
            tally.audits += 1
            heapq.heappush(due, (chunk.at + rng.expovariate(1 / late), chunk))
            run.outstanding = max(run.outstanding, len(due))
    answer(math.inf)
    return run


def asked(gate: Gate) -> Callable[[Chunk], Decision]:
    """The gate's own decisions."""
    return lambda chunk: gate(chunk.score, **chunk.place._asdict())


def rivals(stream: Sequence[Chunk], card: Sequence[float], cost: float, seed: int) -> Iterator[tuple[str, Run]]:
    """Gates that hand over `cost` of all chunks, and two that know more than a gate can."""
    gates = {
        "adaptive-turn": make("adaptive-turn", cost, seed=seed),
        "marginal": make("marginal", cost, seed=seed),
        "frozen threshold": Gate(cost, ScoreBank(card), online=False, seed=seed),
        "random": make("random", cost, seed=seed),
    }
    for name, gate in gates.items():
        yield name, simulate(stream, asked(gate), gate, 1, seed)
    certain = {True: 0.0, False: 1.0}  # p-values of those who know
    least = sorted((chunk.score for chunk in stream), reverse=True)[round(cost * len(stream))]
    coin = gates["random"]  # hears of nothing
    knows = {
        "highest scores": lambda chunk: Decision(chunk.score, certain[chunk.score > least], 0.5, 0),
        "oracle": lambda chunk: Decision(chunk.score, certain[chunk.wrong], 0.5, 0),
    }
    for name, decide in knows.items():
        yield name, simulate(stream, decide, coin, 1, seed)


def simulated(epsilons: Sequence[float], rate: float, late: float, runs: int, seed: int, stream: Stream) -> None:
    """The tables, means over `runs` streams."""
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for one in range(seed, seed + runs):
        chunks = stream.draw(one)
        for epsilon in epsilons:
            gate = make(AUDITED, 0.25, seed=one, epsilon=epsilon, audit_rate=rate)
            found[f"audited {epsilon:g}"].append(simulate(chunks, asked(gate), gate, late, one))
        for name, run in rivals(chunks, stream.card(one), found[f"audited {epsilons[0]:g}"][-1].whole.cost, one):
            found[name].append(run)
    shares = ", ".join(f"{one.name} {one.wrong:.0%} (AUC {one.auc:g})" for one in stream.phases)
    console.print(
        f"{runs} streams of {len(chunks):,} chunks; wrong: {shares}\naudit rate {rate:g}, answered {late:g} turns "
        "later on average; wrong: accepted per decision; cost: take-overs and audits per decision",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = _table([phase.name for phase in stream.phases])
    for name, these in found.items():
        tallies = [sum((run.tallies[phase] for run in these), Tally()) for phase in range(len(stream.phases))]
        table.add_row(name, *_cells(tallies))
    console.print(table)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("epsilon", "outstanding", "mean of g", "promised", "false accepts", f"{1 - DELTA:.0%} bound", "holds"):
        table.add_column(name, justify="right")
    for epsilon in epsilons:
        these = found[f"audited {epsilon:g}"]
        rows = [promise(run, epsilon, rate) for run in these]
        means = [f"{statistics.fmean(column):.2%}" for column in zip(*rows, strict=True)]
        holds = f"{sum(true <= most for _, _, true, most in rows)} of {len(rows)}"
        table.add_row(f"{epsilon:g}", str(max(run.outstanding for run in these)), *means, holds)
    console.print()
    console.print(table)


def promise(run: Run, epsilon: float, rate: float) -> tuple[float, float, float, float]:
    """Mean of g and what is promised of it; the rate of false accepts and its bound."""
    n = run.whole.decisions
    most = Audited(0.5, epsilon, rate).most(n, max(1, run.outstanding))
    return run.found / (rate * n), most, run.whole.share("passed"), false_accepts(run.found, rate, DELTA) / n


# --- on the pocket pair ---------------------------------------------------------------------------------------


def carries(question: Question) -> float:
    """Share of a question's steps that come out wrong where carries and borrows are forgotten."""
    problem: Any = exact.problem(question)
    steps = list(zip(problem.counts, problem.steps, strict=False))
    return statistics.fmean(
        work(count, step.op, step.operand, carrying=False)[1] != step.apply(count) for count, step in steps
    )


def phased(task: Task) -> Task:
    """`stories`, of which the first half of the questions is easy and the second hard, as ``meta["phase"]`` says.

    Raises:
        ValueError: when questions are asked for, and there are too few of a kind.
    """

    @cache
    def draw(split: str, count: int | None, *rest: Any) -> list[Question]:
        wanted = (count or 100) // 2
        pool = task.draw(split, 20 * wanted + 40, *rest)
        easy = [question for question in pool if carries(question) <= 1 / 3]
        hard = [question for question in pool if carries(question) == 1]
        if min(len(easy), len(hard)) < wanted:
            raise ValueError(f"{len(easy)} easy and {len(hard)} hard questions among {len(pool)}, not {wanted} of each")
        return [
            question.model_copy(update={"meta": {**question.meta, "phase": phase}})
            for phase, questions in zip(POCKET, (easy, hard), strict=True)
            for question in questions[:wanted]
        ]

    return replace(task, draw=draw)


def judged(folder: RunFolder, questions: Sequence[Question]) -> Iterator[tuple[VerdictEvent, bool]]:
    """Every decision of a run of `a1` with ``replace``, and whether its chunk was wrong by the audit `exact`."""
    worked = {question.id: exact.problem(question) for question in questions}
    texts: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for event in folder.events:
        if isinstance(event, ChunkEvent):
            texts[event.question, event.sample].append(event.text)
        elif isinstance(event, VerdictEvent):
            *before, text = texts[event.question, event.sample]
            yield event, not exact.right(worked[event.question], "".join(before), text)
            if event.replaced:
                texts[event.question, event.sample].pop()


def tally(folder: RunFolder, questions: Sequence[Question]) -> list[Tally]:
    """By phase."""
    phases = {question.id: POCKET.index(question.meta["phase"]) for question in questions}
    found = [Tally() for _ in POCKET]
    for verdict, wrong in judged(folder, questions):
        found[phases[verdict.question]] += Tally(
            1, verdict.take_over, verdict.audit, wrong and not verdict.take_over
        )  # fmt: skip
    return found


def agreement(folder: RunFolder, questions: Sequence[Question]) -> str:
    """How often the run's audits find what the audit `exact` finds."""
    said = {event.place: event.wrong for event in folder.events if isinstance(event, AuditEvent)}
    pairs = [(said[verdict.place], wrong) for verdict, wrong in judged(folder, questions) if verdict.place in said]
    passes = [not audit for audit, wrong in pairs if not wrong]
    finds = [audit for audit, wrong in pairs if wrong]
    return f"{sum(passes)} of {len(passes)} right chunks pass, {sum(finds)} of {len(finds)} wrong ones are found"


def measured(
    pair: Backend, out: Path, epsilons: Sequence[float], rate: float, audit: str, questions: int, chains: int,
    seed: int, task: Task,
) -> dict[str, Tally]:  # fmt: skip
    """Runs the gates on a pair, each from the same card, and prints the tables. Goes on with what is in `out`.

    Args:
        task: `phased`.

    Returns:
        What each gate decided in all.
    """
    plan = Eval(
        task=task, split="test", program="a1", runtime=None, questions=questions, chains=chains, seed=seed, alpha=0.25,
        gate_kind="marginal",
    )  # fmt: skip
    card, _ = calibrate(replace(plan, split="calibration", questions=max(2, questions // 2)), pair, out / "calibration")
    table, notes = _table(POCKET, "accuracy", "target\ndecode", "of it\naudits"), []
    wholes: dict[str, Tally] = {}

    def row(name: str, changes: Mapping[str, Any]) -> tuple[RunFolder, dict[str, Any]]:
        folder, summary = evaluate(replace(plan, card=card, **changes), pair, out / name.replace(" ", "-"))
        tallies = tally(folder, plan.asked)
        audits = summary["audits"]["tokens"]["target_decode"] if summary["audits"] else 0
        table.add_row(name, *_cells(tallies), *_ends(summary, audits))
        wholes[name] = sum(tallies, Tally())
        return folder, summary

    for epsilon in epsilons:
        name = f"audited {epsilon:g}"
        changes = {"gate_kind": AUDITED, "epsilon": epsilon, "audit_rate": rate, "audit": audit}
        folder, summary = row(name, changes)
        found = summary["audits"]["false_accepts"]
        notes.append(
            f"{name}: false accepts {wholes[name].share('passed'):.2%}, by its audits {found['estimate']:.2%} and at "
            f"most {found['most']:.2%}; {agreement(folder, plan.asked)}"
        )
    cost = round(next(iter(wholes.values())).cost, 2)
    others: dict[str, dict[str, Any]] = {
        "adaptive-turn": {"gate_kind": "adaptive-turn"}, "marginal": {},
        "frozen threshold": {"online": False}, "random": {"gate_kind": "random"},
    }  # fmt: skip
    for name, changes in others.items():
        row(name, {"alpha": cost, **changes})
    for role in ("draft", "target"):
        alone = replace(plan, program="direct", runtime=role, alpha=None)
        _, summary = evaluate(alone, pair.alone(role), out / f"{role}-alone")
        table.add_row(f"{role} alone", *["-"] * (len(table.columns) - 4), *_ends(summary, 0))
    console.print(
        f"pocket pair of stories, {questions} questions x {chains} chains, the first half of them with few carries; "
        f"audits by {audit} at rate {rate:g}; alpha of the others {cost:g}\n"
        "wrong: accepted per decision, by the audit `exact`; cost: take-overs and audits per decision", highlight=False,
    )  # fmt: skip
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    return wholes


# --- tables ---------------------------------------------------------------------------------------------------


def _table(phases: Sequence[str], *more: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [f"{phase}\n{what}" for phase in phases for what in ("over", "audits", "wrong")]
    for name in ("gate", *columns, "all\ncost", "all\nwrong", *more):
        table.add_column(name, justify="left" if name == "gate" else "right")
    return table


def _cells(tallies: Sequence[Tally]) -> list[str]:
    whole = sum(tallies, Tally())
    by_phase = [f"{one.share(what):.1%}" for one in tallies for what in ("handed", "audits", "passed")]
    return [*by_phase, f"{whole.cost:.1%}", f"{whole.share('passed'):.1%}"]


def _ends(summary: Mapping[str, Any], audits: int) -> tuple[str, str, str]:
    return f"{summary['accuracy']['mean']:.1%}", f"{summary['tokens']['target_decode']:,}", f"{audits:,}"


def main(
    epsilon: Annotated[list[float] | None, typer.Option(help="Repeatable. [default: 0.03, 0.02 and 0.05]")] = None,
    rate: Annotated[float, typer.Option(help="Share of accepted chunks that is audited.")] = AUDIT_RATE,
    seed: Annotated[int, typer.Option(help="Of questions, streams and gates.")] = 0,
    runs: Annotated[int, typer.Option(help="Simulated streams.")] = 5,
    late: Annotated[float, typer.Option(help="Simulated: mean time until an audit is answered, in turns.")] = 2.0,
    length: Annotated[int, typer.Option(help="Simulated: questions a phase, of 8 chains of 12 turns.")] = 50,
    pocket: Annotated[Path | None, typer.Option(help="Serve the pocket pair; the runs are in this folder.")] = None,
    questions: Annotated[int, typer.Option(help="Pocket: questions, half of them easy.")] = 120,
    chains: Annotated[int, typer.Option(help="Pocket: chains of a question.")] = 4,
    audit: Annotated[str, typer.Option(help="Pocket: how accepted chunks are audited.")] = "rewrite",
) -> None:
    """Take-overs, audits and wrong chunks accepted, by phase, and what is promised of them."""
    epsilons = tuple(dict.fromkeys(epsilon or (0.03, 0.02, 0.05)))
    if pocket is None:
        simulated(epsilons, rate, late, runs, seed, Stream(questions=length))
    else:
        with pocket_pair("stories", pocket / "logs") as pair:
            measured(pair, pocket, epsilons, rate, audit, questions, chains, seed, phased(find_task("stories")))


if __name__ == "__main__":
    typer.run(main)
