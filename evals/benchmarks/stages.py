"""What a first stage saves, and what it misses.

    python -m a1_sgl.evals.benchmarks.stages                        # simulated scores and evidence
    python -m a1_sgl.evals.benchmarks.stages --trace runs/watched   # recorded ones (--first-stage, --eta 0)
    python -m a1_sgl.evals.benchmarks.stages --pocket runs/stages   # the pocket pair of task stories, at mixed levels

A first stage is shown beside two bounds: one that goes by the target's score itself, which no first stage can know, and
one that accepts as many chunks by a coin.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from a1_sgl.conformal import SCORES, UNSEEN, Decided, Decider, Gate, Place, Rates, Score, TwoStage, make
from a1_sgl.errors import ConfigError
from a1_sgl.evals import replay
from a1_sgl.evals.runner import Eval, calibrate, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.runtimes import serve
from a1_sgl.session import Backend

EVIDENCE = tuple(name for name, one in SCORES.items() if one.by_draft)
VERIFY = 0.1
"""How long a verification takes, in the time that a chunk's draft takes on average."""
console = Console(width=140)


@dataclass(frozen=True)
class Seen:
    """A chunk as it comes up: its turn, the target's score of it, and the draft's evidence."""

    turn: int
    score: float
    evidence: float


Chains = dict[tuple[str, int], list[Seen]]


class Unguarded(TwoStage):
    """A first stage that accepts a set share of chunks, learns nothing and promises nothing."""

    def __init__(self, gate: Gate, first: Score, share: float, explore: int) -> None:
        super().__init__(gate, first, explore=explore)
        self.share = share

    @property
    def threshold(self) -> float:
        """What leaves so many candidates that the share is accepted where some are explored."""
        return 1 - self.share / (1 - 1 / self.explore)

    @property
    def missed(self) -> int:
        """It does not ask."""
        return 0


@dataclass(frozen=True)
class Found:
    """What one pass came to: shares of all chunks, but for `missed`, which is one of the candidates.

    Attributes:
        unseen: accepted without the target: verifications saved.
        spared: of all chunks, those that stand behind their chain's last verification or take-over, so that the target
            never computes them.
        broken: whether there was a moment at which more take-overs were missed than is promised.
    """

    rate: float
    unseen: float
    spared: float
    missed: float
    closed: float
    broken: bool
    selectivity: float


def drive(gate: Gate | TwoStage, chains: Chains, *, lanes: int = 64, seed: int = 0) -> Found:
    """`chains` under `gate`, so many at a time, none of which waits for another."""
    rng, waiting = random.Random(seed), list(chains)
    waiting.reverse()
    events: list[tuple[float, int, tuple[str, int], int, bool]] = []
    number, decided, spared = 0, list[Decided](), 0
    counts = dict.fromkeys(("accepted", "explored", "closed", "doubted"), 0)
    missed, broken = 0, False
    unread = dict.fromkeys(chains, 0)

    def put(at: float, chain: tuple[str, int], index: int, verified: bool) -> None:
        nonlocal number
        heapq.heappush(events, (at, number, chain, index, verified))
        number += 1

    def begin(at: float) -> None:
        if waiting:
            put(at + rng.uniform(0.5, 1.5), waiting.pop(), 0, False)

    for _ in range(lanes):
        begin(0.0)
    while events:
        now, _, chain, index, verified = heapq.heappop(events)
        chunk, place = chains[chain][index], Place(*chain, chains[chain][index].turn)
        score = chunk.score
        if not verified:
            accepted = False
            if isinstance(gate, TwoStage):
                screening = gate.screen(chunk.evidence, **place._asdict())
                counts[screening.outcome] += 1
                if accepted := screening.accepted:
                    critical = gate.gate.critical(place)
                    missed += critical is not None and UNSEEN < critical <= score
                    broken |= missed > gate.eta * gate.candidates + gate.slack
                    score = UNSEEN
            if not accepted:
                put(now + VERIFY, chain, index, True)
                continue
        taken = gate(score, **place._asdict()).take_over
        decided.append(Decided(place, chunk.score, taken))
        unread[chain] = 0 if verified or taken else unread[chain] + 1
        if index + 1 < len(chains[chain]):
            put(now + rng.uniform(0.5, 1.5), chain, index + 1, False)
        else:
            gate.finish(*chain)
            spared += unread[chain]
            begin(now)
    rates, n = Rates.of(gate.alpha, decided), len(decided)
    candidates = n - counts["doubted"] if isinstance(gate, TwoStage) else 0
    return Found(
        rates.overall.hits / n, counts["accepted"] / n, spared / n, missed / candidates if candidates else 0.0,
        counts["closed"] / n, broken, rates.selectivity() or 0.0,
    )  # fmt: skip


def simulated(questions: int, chains: int, turns: int, correlation: float, seed: int) -> Chains:
    """Scores of Normal noise around a level of their question, and evidence that is correlated with them."""
    rng, found, spread = random.Random(seed), Chains(), 0.7
    deviation = (1 + spread**2) ** 0.5
    for q in range(questions):
        level = rng.gauss(0, spread)
        for sample in range(chains):
            seen = found[f"q{q}", sample] = []
            for turn in range(turns):
                score = level + rng.gauss(0, 1)
                own = rng.gauss(0, 1)
                evidence = correlation * score / deviation + (1 - correlation**2) ** 0.5 * own
                seen.append(Seen(turn, score, evidence))
    return found


def recorded(path: Path) -> Chains:
    """Chains of a run whose first stage only watched.

    Raises:
        ConfigError: some chunk has no evidence, or was accepted unseen, so that its score is not known.
    """
    found = Chains()
    for chain in replay.read([path]).chains:
        firsts = [chunk for chunk in chain.chunks if chunk.attempt == 0]
        if any(chunk.evidence is None or chunk.score == UNSEEN for chunk in firsts):
            raise ConfigError(
                f"{path} does not have the draft's evidence and the target's score of every chunk; run a1 eval with "
                "--first-stage SCORE --eta 0"
            )
        found[chain.question, chain.sample] = [Seen(c.turn, c.score, c.evidence or 0.0) for c in firsts]
    return found


def with_evidence(chains: Chains, evidence: Callable[[Seen], float]) -> Chains:
    """The same chunks with other evidence."""
    return {name: [replace(one, evidence=evidence(one)) for one in chunks] for name, chunks in chains.items()}


def compare(
    title: str, streams: Mapping[str, Sequence[Chains]], kind: str, alpha: float, eta: float, explore: int, lanes: int
) -> None:
    """Prints a table: no first stage, one by each kind of evidence, and the two bounds; means over the streams."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("first stage", "rate", "calls saved", "tokens spared", "missed", "closed", "broken", "selectivity"):
        table.add_column(name, justify="left" if name == "first stage" else "right", no_wrap=True)

    def row(name: str, many: Sequence[Chains], gate: Callable[[int], Gate | TwoStage]) -> float:
        found = [drive(gate(seed), chains, lanes=lanes, seed=seed) for seed, chains in enumerate(many)]

        def mean(of: str) -> float:
            return statistics.fmean(getattr(one, of) for one in found)

        table.add_row(
            name, *(f"{mean(of):.1%}" for of in ("rate", "unseen", "spared", "missed", "closed")),
            f"{sum(one.broken for one in found)} of {len(found)}", f"{mean('selectivity'):.1%}",
        )  # fmt: skip
        return mean("unseen")

    def two(seed: int) -> TwoStage:
        bank = make(kind, alpha).bank
        return TwoStage(make(kind, alpha, seed=seed), SCORES["own_loss"], bank, eta=eta, explore=explore)

    first = next(iter(streams.values()))
    row("none", first, lambda seed: make(kind, alpha, seed=seed))
    unseen = 0.0
    for name, many in streams.items():
        unseen = max(unseen, row(name, many, two))
    draws = random.Random("coin")
    coins = [with_evidence(chains, lambda _: draws.random()) for chains in first]
    row("a coin, learnt", coins, two)
    row(
        "a coin, as many", coins,
        lambda seed: Unguarded(make(kind, alpha, seed=seed), SCORES["own_loss"], unseen, explore),
    )  # fmt: skip
    row("the target's score", [with_evidence(chains, lambda one: one.score) for chains in first], two)
    console.print(title, highlight=False, soft_wrap=True)
    console.print(table)


# --- real runtimes --------------------------------------------------------------------------------------------

AT_RANDOM = Score(
    "at_random", "a coin", lambda evidence: random.Random(repr(evidence.own)).random(), needs=("own",)
)  # fmt: skip


@dataclass(frozen=True)
class AtRandom(Eval):
    """A run whose first stage accepts a share of the chunks by a coin."""

    share: float = 0.0

    def gate(self) -> Decider | None:
        """As `Eval.gate`."""
        assert self.alpha is not None
        made = make(self.gate_kind, self.alpha, chains=self.chains, seed=self.seed)
        gate = Unguarded(made, AT_RANDOM, self.share, self.explore)
        if self.card is not None:
            self.card.fill(gate)
        return gate

    def configuration(self, backend: Backend) -> dict[str, Any]:
        """As `Eval.configuration`."""
        return super().configuration(backend) | {"share": self.share}


def pocket(
    out: Path, alpha: float, eta: float, explore: int, kind: str, questions: int, known: int, chains: int, seed: int
) -> None:
    """Prints accuracy, rate and cost of each first stage on the same questions; goes on with what is in the folder."""
    task = find_task("stories")
    plan = Eval(
        task=task, split="test", program="a1", runtime=None, questions=questions, chains=chains, seed=seed, alpha=alpha,
        gate_kind=kind, explore=explore,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "first stage", "correlation", "accuracy", "rate", "verified", "target prefill", "saved", "target decode",
        "missed at most", "wall s",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "first stage" else "right", no_wrap=True)
    base = 0

    def row(name: str, summary: dict[str, Any], correlation: float | None = None) -> None:
        nonlocal base
        accuracy, over, tokens, first = (summary[one] for one in ("accuracy", "take_over", "tokens", "first_stage"))
        prefill = tokens["target_prefill"]
        base = base or prefill
        at_most = "-"
        if first is not None and first["eta"]:
            candidates = first["accepted"] + first["explored"] + first["closed"]
            at_most = f"{first['missed_at_most']} of {candidates:,}"
        table.add_row(
            name, "-" if correlation is None else f"{correlation:.2f}",
            f"{100 * accuracy['mean']:.1f}% [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]",
            f"{over['realised']:.1%}", f"{over['verified']:.1%}", f"{prefill:,}", f"{1 - prefill / base:.1%}",
            f"{tokens['target_decode']:,}", at_most, f"{summary['wall_s']:.0f}",
        )  # fmt: skip

    with (
        serve(pocket_specs("stories"), out / "logs") as (draft, target),
        Backend.connect(draft.url, target.url) as pair,
    ):
        before = replace(plan, split="calibration", questions=known)
        cards = {
            name: calibrate(replace(before, first=name, eta=0.0), pair, out / f"calibration-{name}")[0]
            for name in EVIDENCE
        }
        related = {
            name: float(spearmanr(card.scores, card.evidence[name]).statistic) for name, card in cards.items()
        }  # fmt: skip
        watched = replace(plan, first=EVIDENCE[0], eta=0.0, card=cards[EVIDENCE[0]])
        row("none", evaluate(watched, pair, out / "none")[1])
        unseen = 0.0
        for name in EVIDENCE:
            _, summary = evaluate(replace(plan, first=name, eta=eta, card=cards[name]), pair, out / name)
            row(name, summary, related[name])
            unseen = max(unseen, 1 - summary["take_over"]["verified"])
        fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__} | {"card": cards[EVIDENCE[0]]}
        coin = AtRandom(**fields, share=round(unseen, 3))
        row("a coin, as many", evaluate(coin, pair, out / f"coin-{coin.share:g}")[1])
        alone = {"score": "own_loss"}
        card, _ = calibrate(replace(before, parameters=alone), pair, out / "calibration-alone")
        row("own_loss alone", evaluate(replace(plan, parameters=alone, card=card), pair, out / "alone")[1])
    console.print(
        f"task stories, all levels, {questions} questions x {chains} chains, gate {kind}, alpha {alpha:g}, "
        f"eta {eta:g}, explore one in {explore}; cards from {known} other questions",
        highlight=False,
    )
    console.print(table)
    console.print()
    compare(
        f"the run without a first stage, replayed (evidence: {EVIDENCE[0]}, no card)",
        {EVIDENCE[0]: [recorded(out / "none")]}, kind, alpha, eta, explore, 64,
    )  # fmt: skip


def main(
    alpha: Annotated[float, typer.Option(help="Nominal rate.")] = 0.25,
    eta: Annotated[float, typer.Option(help="Share of a first stage's candidates that may be missed.")] = 0.05,
    explore: Annotated[int, typer.Option(help="One in so many of them is scored all the same.")] = 5,
    gate: Annotated[str, typer.Option(help="The gate within.")] = "adaptive-turn",
    questions: Annotated[int, typer.Option(help="Questions.")] = 100,
    chains: Annotated[int, typer.Option(help="Chains of a question.")] = 4,
    turns: Annotated[int, typer.Option(help="Simulated turns of a chain.")] = 8,
    lanes: Annotated[int, typer.Option(help="Simulated chains at once.")] = 64,
    runs: Annotated[int, typer.Option(help="Simulated runs that a row is the mean of.")] = 5,
    known: Annotated[int, typer.Option(help="With --pocket: calibration questions.")] = 60,
    seed: Annotated[int, typer.Option(help="Of questions and gates.")] = 0,
    trace: Annotated[Path | None, typer.Option(help="A run whose first stage watched.")] = None,
    pocket_out: Annotated[Path | None, typer.Option("--pocket", help="Folder for runs on the pocket pair.")] = None,
) -> None:
    """Verifications and target prefill saved, beside the rate, the take-overs missed and, on real runs, accuracy."""
    if pocket_out is not None:
        pocket(pocket_out, alpha, eta, explore, gate, questions, known, chains, seed)
        return
    if trace is not None:
        compare(str(trace), {"recorded evidence": [recorded(trace)] * runs}, gate, alpha, eta, explore, lanes)
        return
    streams = {
        f"correlation {correlation:g}": [
            simulated(questions, chains, turns, correlation, seed * runs + run) for run in range(runs)
        ]
        for correlation in (0.3, 0.6, 0.8, 0.9, 0.95)
    }
    compare(
        f"{questions} questions x {chains} chains x {turns} turns, gate {gate}, alpha {alpha:g}, eta {eta:g}, explore "
        f"one in {explore}; means of {runs} runs",
        streams, gate, alpha, eta, explore, lanes,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
