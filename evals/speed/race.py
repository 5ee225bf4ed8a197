"""Runs a bench: every arm as often as every other, interleaved, each run in a folder of its own."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import scipy.stats
from pydantic import BaseModel

from a1_sgl.engine import Engine, Request, submit
from a1_sgl.errors import ConfigError
from a1_sgl.evals.environment import environment
from a1_sgl.evals.metrics import summarise
from a1_sgl.evals.runner import Progress, evaluate
from a1_sgl.evals.speed.arms import Arm, Bench
from a1_sgl.evals.speed.limits import Costs, chain_speed_up
from a1_sgl.evals.speed.waits import busy, gamma, waits
from a1_sgl.records import RunFolder
from a1_sgl.session import Backend
from a1_sgl.session.transcript import as_ids
from a1_sgl.types import Call, ChainEvent, Usage, VerdictEvent, calls_of

Shown = AbstractContextManager[Progress | None]


class Run(BaseModel):
    """What one run of an arm came to.

    Attributes:
        wall_s: from the first request to the end of the last chain.
        accuracy: as in a run's summary; its mean is None where nothing was graded.
        rate, decisions: realised take-over rate, and of how many chunks.
        decode, prefill: tokens by role. `verified` are those that were scored.
        cached_share: of prompt tokens, those that a prefix cache held.
        waits_s: as `waits` has it, over all chains.
        gamma: as `gamma` has it.
        busy: by role and kind of request, as `busy` has it.
        tail_s: seconds at the end in which fewer chains were in flight than might have been.
    """

    arm: str
    round: int
    wall_s: float
    chains: int
    accuracy: dict[str, Any]
    rate: float | None
    decisions: int
    decode: dict[str, int]
    prefill: dict[str, int]
    verified: int
    cached_share: float | None
    waits_s: dict[str, float]
    gamma: float | None
    busy: dict[str, dict[str, Any]]
    tail_s: float


class Ratio(BaseModel):
    """A ratio of times, paired by round: the geometric mean, and a 95% interval from Student's t on its logarithm;
    None where there is one round."""

    mean: float
    low: float | None
    high: float | None
    rounds: int

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """Of each number in `above` to the one in `below`."""
        logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
        mean, n = statistics.fmean(logs), len(logs)
        if n < 2:
            return cls(mean=math.exp(mean), low=None, high=None, rounds=n)
        half = float(scipy.stats.t.ppf(0.975, n - 1)) * statistics.stdev(logs) / math.sqrt(n)
        return cls(mean=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), rounds=n)


class Limit(BaseModel):
    """How fast an arm could have been, and how much of that it was.

    Attributes:
        seconds: the least that its tokens take, at the runtimes' own throughput (`Costs.bound`).
        efficiency: that over what it took.
        speed_up: over the target alone, if it took no longer than that.
        formula: `chain_speed_up` with the measured costs and rate; only where one chain runs at a time.
    """

    seconds: float
    efficiency: float
    speed_up: float
    formula: float | None = None


class Results(BaseModel):
    """What a bench found.

    Attributes:
        settings: what was compared, on which machine and runtimes.
        runs: every run.
        base: the arm that the others are measured against.
        speed_up: how many times as fast as it, by arm.
        costs: seconds a token by kind, each measured by itself at the same concurrency: `draft`, `target`, `verify`.
            None where they did not run alone.
        limits: by arm, for those that draft and verify.
    """

    settings: dict[str, Any]
    runs: list[Run]
    base: str
    speed_up: dict[str, Ratio]
    costs: dict[str, float] | None
    limits: dict[str, Limit]

    def of(self, arm: str) -> list[Run]:
        """An arm's runs, in order of rounds."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.round)

    def median(self, arm: str) -> Run:
        """The arm's run of median time; of an even number, the faster one in the middle."""
        runs = sorted(self.of(arm), key=lambda run: run.wall_s)
        return runs[(len(runs) - 1) // 2]


def race(bench: Bench, pair: Backend, out: Path, tell: Callable[[str], Shown] = lambda name: nullcontext()) -> Results:
    """Runs what is missing of `bench` in `out` and compares.

    Args:
        tell: given a run's name, whatever shows its progress for as long as it runs.

    Raises:
        ConfigError: the folder holds another bench, or the runtimes are not a draft and a target.
        Interrupted: as `evaluate`; the same bench goes on from there.
    """
    if pair.roles.successor is None:
        raise ConfigError("a bench needs a draft and a target")
    runs: list[Run] = []
    first = True
    for round_ in range(bench.repeats):
        for name in bench.order(round_):
            arm = bench.plan(name)
            folder = out / f"round-{round_ + 1}" / name
            backend = pair if arm.runtime is None else pair.alone(arm.runtime)
            if first and not (folder / "run.json").exists():
                _warm(bench, pair)
            first = False
            pair.flush_cache()
            with tell(f"round {round_ + 1} of {bench.repeats}, {name}") as shown:
                done, _ = evaluate(arm, backend, folder, shown)
            kept = folder / "bench.json"
            if not kept.exists():
                kept.write_text(measure(arm, done, round_, pair.admission.limit).model_dump_json())
            runs.append(Run.model_validate_json(kept.read_bytes()))
    verify = None
    if {"draft", "target"} < set(bench.arms):
        verify = verification(bench, pair, RunFolder.read(out / "round-1" / "target"))
    settings = _settings(bench, pair)
    results = compare(bench, runs, verify, pair.admission.limit, settings)
    (out / "results.json").write_text(results.model_dump_json(indent=1))
    return results


def measure(arm: Arm, folder: RunFolder, round_: int, in_flight: int) -> Run:
    """What `folder` says of a run.

    Raises:
        ConfigError: a chain of it was lost, so that its time says nothing; or it was interrupted.
    """
    events, chains = folder.events, folder.finished
    if len(chains) < len(arm.asked) * arm.chains:
        raise ConfigError(
            f"{folder.path}: {len(chains)} of {len(arm.asked) * arm.chains} chains; the same command goes on"
        )
    if len(folder.run["sessions"]) > 1:
        raise ConfigError(f"{folder.path} was interrupted, so its time says nothing; delete it and run the bench again")
    calls, usage = calls_of(events), Usage.of(events)
    began = min(call.started for call in calls)
    ends = sorted(chain.ended for chain in chains)
    verdicts = [event for event in events if isinstance(event, VerdictEvent)]
    spent = waits(events, gate_s=arm.clock.seconds, together=arm.together)
    wall = ends[-1] - began
    groups: dict[str, list[Call]] = {}
    for call in calls:
        for name in (call.role, f"{call.role} {call.kind}"):
            groups.setdefault(name, []).append(call)
    return Run(
        arm=arm.arm, round=round_, wall_s=wall, chains=len(chains), accuracy=summarise(folder)["accuracy"],
        rate=statistics.fmean(one.take_over for one in verdicts) if verdicts else None, decisions=len(verdicts),
        decode=dict(usage.decode), prefill=dict(usage.prefill), verified=sum(one.tokens for one in verdicts),
        cached_share=usage.cached_share, waits_s=spent, gamma=gamma(spent),
        busy={name: busy(of, wall) for name, of in sorted(groups.items())},
        tail_s=ends[-1] - ends[-min(in_flight, len(ends))],
    )  # fmt: skip


def compare(
    bench: Bench, runs: Sequence[Run], verify: float | None, in_flight: int, settings: Mapping[str, Any]
) -> Results:
    """Ratios and limits from the runs of all arms.

    Args:
        verify: seconds that verifying a token takes, by itself.
    """
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda one: one.round):
        by_arm.setdefault(run.arm, []).append(run)
    base = [run.wall_s for run in by_arm[bench.base]]
    speed_up = {arm: Ratio.of(base, [run.wall_s for run in of]) for arm, of in by_arm.items()}
    costs, limits = None, {}
    if verify is not None:
        alone = {role: _cost(by_arm[role], role) for role in ("draft", "target")}
        costs = Costs(alone["draft"], alone["target"], verify)
        for arm, of in by_arm.items():
            if arm not in ("draft", "target"):
                limits[arm] = _limit(bench, of, costs, in_flight, arm, statistics.median(base))
    return Results(
        settings=dict(settings), runs=list(runs), base=bench.base, speed_up=speed_up,
        costs=None if costs is None else {"draft": costs.draft, "target": costs.target, "verify": costs.verify},
        limits=limits,
    )  # fmt: skip


def _cost(runs: Sequence[Run], role: str) -> float:
    return statistics.median(run.wall_s / run.decode[role] for run in runs)


def _limit(bench: Bench, runs: Sequence[Run], costs: Costs, in_flight: int, arm: str, base: float) -> Limit:
    least = statistics.median(
        costs.bound(run.decode.get("draft", 0), run.decode.get("target", 0), run.verified, in_flight) for run in runs
    )
    took = statistics.median(run.wall_s for run in runs)
    formula, rate = None, runs[0].rate
    if in_flight == 1 and rate is not None:
        take_over = bench.plan(arm).arguments.get("take_over", "replace")
        formula = chain_speed_up(costs.draft / costs.target, costs.rho, rate, take_over, arm == "a1_lookahead")
        if arm == "a1_lookahead":  # two requests of one chain are under way at once
            least = base / formula
    return Limit(seconds=least, efficiency=least / took, speed_up=base / least, formula=formula)


def verification(bench: Bench, pair: Backend, of: RunFolder) -> float:
    """Seconds that the target takes to verify a token, when it does nothing else: the chains of a run of the target
    alone are scored chunk by chunk, as many at once as run in the bench."""
    target = pair.roles.verifier.engine
    pair.flush_cache()
    chains = [event for event in of.events if isinstance(event, ChainEvent)]
    questions = of.questions()
    work = []
    for chain in chains:
        prompt = target.codec.encode(target.codec.render(questions[chain.question].messages))
        work.append((prompt, [target.codec.encode(chunk) for chunk in _chunks(bench, target, chain.text)]))
    tokens = sum(len(chunk) for _, chunks in work for chunk in chunks)
    return submit(_score_all(target, work, pair.admission.limit)).result() / tokens


async def _score_all(
    target: Engine, work: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], at_once: int
) -> float:
    for prompt in {tuple(prompt) for prompt, _ in work}:
        await target.prefill(Request(as_ids(prompt)))
    places = asyncio.Semaphore(at_once)

    async def one(prompt: Sequence[int], chunks: Sequence[Sequence[int]]) -> None:
        async with places:
            ids = list(prompt)
            for chunk in chunks:
                start = len(ids)
                ids.extend(chunk)
                await target.score(Request(as_ids(ids)), start)

    began = time.perf_counter()
    await asyncio.gather(*(one(prompt, chunks) for prompt, chunks in work))
    return time.perf_counter() - began


def _chunks(bench: Bench, engine: Engine, text: str) -> list[str]:
    """The text in chunks as the draft would write them."""
    if bench.fixed is None:
        stop = bench.plan("a1").stop
        parts = text.split(stop[0]) if stop else [text]
        whole = [part + stop[0] for part in parts[:-1]] + parts[-1:] if stop else parts
        return [part for part in whole if part]
    ids, size = engine.codec.encode(text), bench.fixed.tokens
    return [engine.codec.decode(ids[at : at + size]) for at in range(0, len(ids), size)]


def _warm(bench: Bench, pair: Backend) -> None:
    """One question, so that nothing is done for the first time in the first run."""
    arm = bench.plan("a1")
    arm.run(arm.asked[0], [0], pair, arm.gate(), lambda event: None)


def _settings(bench: Bench, pair: Backend) -> dict[str, Any]:
    return {
        "task": bench.task.name, "questions": bench.questions, "chains": bench.chains, "alpha": bench.alpha,
        "take_over": bench.plan("a1").arguments.get("take_over"), "fixed": str(bench.fixed) if bench.fixed else None,
        "paced": bench.paced, "gate": bench.gate_kind, "seed": bench.seed, "repeats": bench.repeats,
        "in_flight": pair.admission.limit, "calibrated": bench.card is not None,
        "models": {role.name: role.engine.identity.model.rpartition("/")[2] for role in pair.roles.all},
        **environment(pair),
    }  # fmt: skip
