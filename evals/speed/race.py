"""Runs a bench: every arm as often as every other, interleaved, each run in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import scipy.stats
from pydantic import BaseModel

from a1_sgl.engine import Engine, Request, Route, submit
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.environment import environment
from a1_sgl.evals.metrics import summarise
from a1_sgl.evals.runner import Progress, evaluate
from a1_sgl.evals.speed.arms import Arm, Bench
from a1_sgl.evals.speed.limits import Costs, chain_speed_up
from a1_sgl.evals.speed.waits import busy, gamma, waits
from a1_sgl.records import RunFolder, discard, files
from a1_sgl.session import Backend
from a1_sgl.session.transcript import as_ids
from a1_sgl.types import Call, DropEvent, Usage, VerdictEvent, calls_of

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
        rolled_back: tokens that were drafted ahead in vain.
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
    rolled_back: int
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
        formula: `chain_speed_up` with the measured costs, and alpha by tokens: what the target wrote over what it wrote
            alone (of the rest, with ``continue``); only where one chain runs at a time.
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


SETTINGS = "settings.json"


def race(
    bench: Bench, pair: Backend, out: Path, tell: Callable[[str], Shown] = lambda name: nullcontext(), *,
    overwrite: bool = False,
) -> Results:  # fmt: skip
    """Runs what is missing of `bench` in `out` and compares. A run that was interrupted begins anew.

    Args:
        pair: with as many places as `Bench.in_flight` says.
        tell: given a run's name, whatever shows its progress for as long as it runs.
        overwrite: whether an earlier bench in `out` is thrown away, once nothing speaks against this one.

    Raises:
        ConfigError: the folder holds another bench, or the runtimes are none that can be compared.
        RuntimeFault: a run lost chains, so that its time says nothing.
        Interrupted: as `evaluate`; the same bench goes on from there.
    """
    _check(bench, pair)
    if overwrite:
        for name in bench.arms:
            arm = bench.plan(name)
            arm.check_card(pair if arm.runtime is None else pair.alone(arm.runtime))
        discard(out, SETTINGS)
    _claim(bench, pair, out)
    runs: list[Run] = []
    warm = False
    for round_ in range(bench.repeats):
        for name in bench.order(round_):
            folder = out / f"round-{round_ + 1}" / name
            kept = folder / "bench.json"
            if not kept.exists():
                if not warm:
                    _warm(bench, pair)
                    warm = True
                shutil.rmtree(folder, ignore_errors=True)
                with tell(f"round {round_ + 1} of {bench.repeats}, {name}") as shown:
                    run = _run(bench.plan(name), pair, folder, round_, shown)
                kept.write_text(run.model_dump_json())
            runs.append(files.load(kept, Run))
    verify = None
    if {"draft", "target"} < set(bench.arms):
        verify = verification(bench, pair, RunFolder.read(out / "round-1" / "target"))
    results = compare(bench, runs, verify, _settings(bench, pair))
    (out / "results.json").write_text(results.model_dump_json(indent=1))
    return results


def _check(bench: Bench, pair: Backend) -> None:
    if pair.roles.successor is None:
        raise ConfigError("a bench needs a draft and a target")
    if pair.admission.limit != bench.in_flight:
        raise ConfigError(f"the bench is of {bench.in_flight} in flight, the backend has {pair.admission.limit} places")
    if "reference" in bench.arms:
        from a1_sgl.evals.speed.reference import check

        check(pair)


def _claim(bench: Bench, pair: Backend, out: Path) -> None:
    """Notes what the folder's bench is, or refuses another one; more rounds may follow."""
    mine, path = _settings(bench, pair), out / SETTINGS
    if path.exists():
        theirs = files.load(path, files.Mapped).root
        differ = [name for name in mine if name != "repeats" and mine[name] != theirs.get(name)]
        if differ:
            name = differ[0]
            raise ConfigError(
                f"{out} holds a bench with another {name}, {theirs.get(name)!r} and not {mine[name]!r}; "
                "name another --out"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something else than a bench; name another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mine, indent=1))


def _run(arm: Arm, pair: Backend, folder: Path, round_: int, shown: Progress | None) -> Run:
    pair.flush_cache()
    done, summary = evaluate(arm, pair if arm.runtime is None else pair.alone(arm.runtime), folder, shown)
    if summary["chains_lost"]:
        why = next(iter(summary["errors"]), "")
        raise RuntimeFault(
            f"{folder} lost {summary['chains_lost']} chains, so its time says nothing ({why}); the same command runs "
            "it again"
        )
    return measure(arm, done, round_)


def measure(arm: Arm, folder: RunFolder, round_: int) -> Run:
    """What `folder`, a whole run of `arm`, says."""
    events, chains = folder.events, folder.finished
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
        decode=dict(usage.decode), prefill=dict(usage.prefill), 
        verified=sum(one.tokens for one in verdicts if one.call is not None),
        cached_share=usage.cached_share, waits_s=spent, gamma=gamma(spent),
        busy={name: busy(of, wall) for name, of in sorted(groups.items())},
        tail_s=ends[-1] - ends[-min(arm.at_once, len(ends))],
        rolled_back=sum(one.tokens for one in events if isinstance(one, DropEvent) and one.reason == "rolled back"),
    )  # fmt: skip


def compare(bench: Bench, runs: Sequence[Run], verify: float | None, settings: Mapping[str, Any]) -> Results:
    """Ratios and limits from the runs of all arms.

    Args:
        verify: seconds that verifying a token takes, by itself.
    """
    by_arm: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda one: one.round):
        by_arm.setdefault(run.arm, []).append(run)
    base = [run.wall_s for run in by_arm[bench.base]]
    speed_up = {arm: Ratio.of(base, [run.wall_s for run in of]) for arm, of in by_arm.items()}
    found, limits = None, {}
    if verify is not None:
        costs = Costs(_cost(by_arm["draft"], "draft"), _cost(by_arm["target"], "target"), verify)
        found, apart = asdict(costs), "verifier" in settings["models"]
        for arm in by_arm:
            if arm in ("a1", "a1_lookahead", "a1_sync"):  # the reference has a concurrency of its own
                limits[arm] = _limit(bench, arm, by_arm, costs, apart)
    return Results(
        settings=dict(settings), runs=list(runs), base=bench.base, speed_up=speed_up, costs=found, limits=limits
    )  # fmt: skip


def _cost(runs: Sequence[Run], role: str) -> float:
    return statistics.median(run.wall_s / run.decode[role] for run in runs)


def _limit(bench: Bench, arm: str, by_arm: Mapping[str, Sequence[Run]], costs: Costs, apart: bool) -> Limit:
    runs, ahead, one_by_one = by_arm[arm], arm == "a1_lookahead", bench.in_flight == 1

    def least_of(run: Run) -> float:
        drafted, decoded = run.decode.get("draft", 0), run.decode.get("target", 0)
        if one_by_one:
            return costs.serial(drafted - run.rolled_back, decoded, run.verified, lookahead=ahead)
        return costs.bound(drafted, decoded, run.verified, apart=apart)

    least = statistics.median(map(least_of, runs))
    base, took = (statistics.median(run.wall_s for run in by_arm[name]) for name in ("target", arm))
    formula = None
    if one_by_one:
        share = statistics.median(run.decode.get("target", 0) for run in runs) / statistics.median(
            run.decode["target"] for run in by_arm["target"]
        )
        plan = bench.plan(arm)
        take_over = str(plan.arguments.get("take_over", plan.strategy.default("take_over")))
        alpha = share / (1 - share) if take_over == "continue" and share < 0.5 else share  # there both chunks stay
        formula = chain_speed_up(costs.draft / costs.target, costs.rho, min(alpha, 1.0), take_over, ahead)
    return Limit(seconds=least, efficiency=least / took, speed_up=base / least, formula=formula)


def verification(bench: Bench, pair: Backend, of: RunFolder) -> float:
    """Seconds that verifying a token takes, when the verifier does nothing else: the chains of a run of the target
    alone are scored chunk by chunk, as many at once as run in the bench. Where lengths are fixed, it is any tokens."""
    verifier, drawn = pair.roles.verifier.engine, random.Random(bench.seed)
    pair.flush_cache()
    questions, work = of.questions(), []
    for chain in of.finished:
        prompt = verifier.codec.encode(verifier.codec.render(questions[chain.question].messages), first=True)
        if bench.fixed is not None:  # what a model without weights has written is not encoded as it was written
            size = verifier.codec.size
            chunks: list[Sequence[int]] = [
                [drawn.randrange(size) for _ in range(bench.fixed.tokens)] for _ in range(bench.fixed.turns)
            ]
        else:
            chunks = _chunks(bench, verifier, chain.text)
        if chunks:
            work.append((Route(chain.question, f"{chain.question}/{chain.sample}"), prompt, chunks))
    tokens = sum(len(chunk) for _, _, chunks in work for chunk in chunks)
    return submit(_score_all(verifier, work, bench.in_flight)).result() / tokens


Work = tuple[Route, Sequence[int], Sequence[Sequence[int]]]
"""A chain: where it belongs, its prompt, and its chunks as token ids."""


async def _score_all(verifier: Engine, work: Sequence[Work], at_once: int) -> float:
    for route, prompt in {(route, tuple(prompt)) for route, prompt, _ in work}:
        await verifier.prefill(Request(as_ids(prompt), route=route))
    places = asyncio.Semaphore(at_once)

    async def one(route: Route, prompt: Sequence[int], chunks: Sequence[Sequence[int]]) -> None:
        async with places:
            ids = list(prompt)
            for chunk in chunks:
                start = len(ids)
                ids.extend(chunk)
                await verifier.score(Request(as_ids(ids), route=route), start)

    began = time.perf_counter()
    await asyncio.gather(*(one(*chain) for chain in work))
    return time.perf_counter() - began


def _chunks(bench: Bench, engine: Engine, text: str) -> list[Sequence[int]]:
    """The text in chunks as the draft would write them."""
    plan = bench.plan("a1")
    longest = int(plan.arguments.get("draft_tokens", plan.strategy.default("draft_tokens")))
    parts = [text]
    if plan.stop:
        *whole, last = text.split(plan.stop[0])
        parts = [part + plan.stop[0] for part in whole] + [last]
    ids = [engine.codec.encode(part, plain=True) for part in parts if part]
    return [part[at : at + longest] for part in ids for at in range(0, len(part), longest)]


def _warm(bench: Bench, pair: Backend) -> None:
    """One question, so that nothing is done for the first time in the first run."""
    arm = bench.plan("a1")
    arm.run(arm.asked[0], [0], pair, arm.gate(), lambda event: None)


def _settings(bench: Bench, pair: Backend) -> dict[str, Any]:
    plan = bench.plan("a1")
    given = {"take_over": plan.strategy.default("take_over")} | plan.arguments
    return {
        "task": bench.task.name, "split": bench.split, "questions": bench.questions, "chains": bench.chains,
        "arms": list(bench.arms), "alpha": bench.alpha, "fixed": str(bench.fixed) if bench.fixed else None,
        "paced": bench.paced, "take_over": given["take_over"], "chunks": plan.stop, "gate": bench.gate_kind,
        "card": bench.card.sha256 if bench.card is not None else None, "seed": bench.seed,
        "temperature": plan.sampling["temperature"], "in_flight": bench.in_flight, "repeats": bench.repeats,
        "models": {role.name: role.engine.identity.model.rpartition("/")[2] for role in pair.roles.all},
        **environment(pair),
    }  # fmt: skip
