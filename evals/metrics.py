"""Accuracy, votes and rates, each with its interval."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from a1_sgl.conformal import BUDGETS, GATES, Control, Decided, Rate, Rates, false_accepts, make, missed_at_most
from a1_sgl.conformal.rates import summary as rate
from a1_sgl.conformal.stages import DELTA
from a1_sgl.errors import ConfigError
from a1_sgl.evals.accounting import call_times, flops, latency, perplexity, spared, throughput, tokens
from a1_sgl.evals.environment import packages
from a1_sgl.evals.estimators import Interval, clustered, maj_at, pass_at, sizes
from a1_sgl.records import ChainRecord, RunFolder
from a1_sgl.types import AuditEvent, Event, LostEvent, Usage, VerdictEvent, calls_of, unanswered
from a1_sgl.voting import counted, decide, wording


def accuracy(by_question: Sequence[Sequence[bool]]) -> Interval:
    """Mean over questions of the share of right chains (avg@k), as `clustered` has it."""
    return clustered([statistics.fmean(chains) for chains in by_question], sum(map(len, by_question)))


def at_k(by_question: Sequence[Sequence[ChainRecord]], chains: int) -> dict[str, dict[str, Interval]]:
    """pass@k and maj@k for every k in `sizes`; a question that lost chains counts with as many as it has.

    Majorities are of what votes count, an answer's key; such an answer is right if what most of its chains wrote is.
    """
    found: dict[str, dict[str, Interval]] = {"pass_at": {}, "maj_at": {}}
    for k in sizes(chains):
        passes, majorities = [], []
        for group in by_question:
            most = min(k, len(group))
            passes.append(pass_at(most, len(group), sum(chain.correct for chain in group)))
            answers: defaultdict[str, list[ChainRecord]] = defaultdict(list)
            for chain in group:
                if chain.answer is not None:
                    answers[counted(chain)].append(chain)
            right, wrong = ([len(a) for a in answers.values() if _right(a) is so] for so in (True, False))
            majorities.append(maj_at(most, right, wrong, len(group) - sum(right) - sum(wrong)))
        # A subset's vote is one answer a question, so there are no more than that.
        found["pass_at"][str(k)] = clustered(passes, len(passes))
        found["maj_at"][str(k)] = clustered(majorities, len(majorities))
    return found


def _right(chains: Sequence[ChainRecord]) -> bool:
    """Whether what most of some chains of one key wrote is right."""
    said = wording(chains)
    return any(chain.correct for chain in chains if chain.answer == said)


def voted(vote: str, chains: Sequence[ChainRecord]) -> bool:
    """Whether the answer that the program's own vote makes of its chains' is right."""
    try:
        answer = decide(vote, chains)
    except ValueError as error:
        raise ConfigError(f"{error}; import the file that registers it, and read the run from there") from error
    return any(chain.correct for chain in chains if chain.answer == answer)


def chains_by_question(folder: RunFolder) -> dict[str, list[ChainRecord]]:
    """The graded chains that had a chance to answer, by question, in order of their numbers.

    One that was stopped had none, since its question was decided, and its vote would have changed nothing.
    """
    found: dict[str, list[ChainRecord]] = defaultdict(list)
    for chain in sorted(folder.chains, key=lambda one: one.sample):
        if chain.ending != "stopped":
            found[chain.question].append(chain)
    return found


def promising(folder: RunFolder) -> Control | None:
    """The control of a run's gate, where what it promises holds of the recorded decisions; else None.

    It promises of all decisions that it made. A chain that was lost or interrupted made some that are not recorded, and
    after an alarm that hands everything over the gate's decisions are not the control's. A gate of another version may
    promise something else.
    """
    configuration, environment = folder.run["configuration"], folder.run["environment"]
    gate = configuration["gate"]
    if gate is None or gate.get("kind") not in (*GATES, *BUDGETS):
        return None
    begun = {bisect_right(folder.run["sessions"], chain.started) for chain in folder.finished}
    whole = len(begun) == 1 and not any(isinstance(event, LostEvent) for event in folder.events)
    same = environment.get("packages", {}).get("a1-sgl") == packages()["a1-sgl"]
    if not whole or not same or (gate["alarm"] or {}).get("action") == "hand-over":
        return None
    return make(gate["kind"], gate["alpha"], chains=configuration["chains"]).control


def take_over(
    verdicts: Sequence[VerdictEvent], nominal: float | None, control: Control | None = None
) -> dict[str, Any]:
    """Nominal against realised take-over rate, overall, by turn and by question, and the gate's selectivity.

    Args:
        control: what made these decisions and no others; None where nothing is promised of them.
    """
    rates = Rates.of(
        nominal or 0.5, [Decided(verdict.place, verdict.score, verdict.take_over) for verdict in verdicts], control
    )
    deviations = rates.deviations("question")
    return {
        "nominal": nominal,
        **rate(rates.overall),
        "by_turn": [{"turn": turn, **rate(one)} for turn, one in sorted(rates.by("turn").items())],
        "mean_question_deviation": statistics.fmean(deviations) if deviations and nominal else None,
        "selectivity": rates.selectivity() if nominal else None,
        "verified": statistics.fmean(verdict.call is not None for verdict in verdicts) if verdicts else None,
    }


def first_stage(verdicts: Sequence[VerdictEvent], setting: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the first of two stages did: chunks by outcome, and how many take-overs it missed at most.

    Of the chunks that were explored, `found` are those that the gate, as it stood, would have handed over.
    """
    screened = [verdict for verdict in verdicts if verdict.screening is not None]
    if setting is None or not screened:
        return None
    outcomes = Counter(verdict.screening.outcome for verdict in screened if verdict.screening)
    found = sum(verdict.screening.finds(verdict.score) for verdict in screened if verdict.screening)
    return {
        **setting,
        **{outcome: outcomes[outcome] for outcome in ("accepted", "explored", "closed", "doubted")},
        "found": found,
        "missed_at_most": missed_at_most(found, setting["explore"], DELTA) if setting["eta"] else 0,
    }


def shown_bound(bound: float | None) -> str:
    """``±1.9%``, rounded up; a dash where there is none."""
    return "-" if bound is None else f"±{math.ceil(bound * 1000 - 1e-9) / 10:.1f}%"


CONFIDENCE = 0.95
"""Of the upper bound for false accepts."""


def audits(events: Sequence[Event], asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a run's audits found, and the rate of false accepts that follows: wrong chunks that were accepted, audited
    or not, among all decisions. None for a run without audits.

    Args:
        asked: how the run was to be audited: ``epsilon``, ``rate`` and ``by``.
    """
    if asked is None:
        return None
    answers = [event for event in events if isinstance(event, AuditEvent)]
    verdicts = [event for event in events if isinstance(event, VerdictEvent)]
    open_ = len(unanswered(events))
    wrong, n = sum(answer.wrong for answer in answers) + open_, len(answers) + open_
    accepted, decisions = sum(not verdict.take_over for verdict in verdicts), len(verdicts)
    most = min(false_accepts(wrong, asked["rate"], 1 - CONFIDENCE), accepted - (n - wrong))
    return {
        **asked,
        "wrong": rate(Rate(wrong, n)),
        "failed": sum(answer.error is not None for answer in answers) + open_,
        "false_accepts": {
            "estimate": wrong / (asked["rate"] * decisions) if decisions else None,
            "most": most / decisions if decisions else None,
            "confidence": CONFIDENCE,
        },
        "tokens": tokens(Usage.of(answers)),
    }


def missing(summary: Mapping[str, Any]) -> int:
    """Chains of a run that are neither finished nor lost: it was stopped before its end, or goes on."""
    short: int = summary["questions"] * summary["chains_per_question"]
    short -= summary["chains_completed"] + summary["chains_lost"]
    return max(0, short)


def summarise(folder: RunFolder, lost: int | None = None, errors: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Accuracy is that of the chains that are graded; counts, time and cost are those of all that are finished, and tokens
    and calls also those of chains that were lost.

    Args:
        lost: how many chains were lost, and `errors` to what, where that is not to be taken from the record.
    """
    configuration = folder.run["configuration"]
    groups = list(chains_by_question(folder).values())
    usage = Usage.of(folder.events)
    verdicts = [event for event in folder.events if isinstance(event, VerdictEvent)]
    seconds = [chain.ended - chain.started for chain in folder.finished]
    gone = folder.lost()
    gate = configuration["gate"] or {}
    audited = audits(folder.events, gate.get("audits"))
    return {
        "schema": folder.run["schema"],
        "task": configuration["task"],
        "split": configuration["split"],
        "program": configuration["program"],
        "runtime": configuration["runtime"],
        "questions": configuration["questions"],
        "chains_per_question": configuration["chains"],
        "accuracy": accuracy([[chain.correct for chain in group] for group in groups]),
        "vote": configuration["vote"],
        "certificate": folder.run.get("certificate"),
        "answer_accuracy": accuracy([[voted(configuration["vote"], group)] for group in groups]),
        **at_k(groups, configuration["chains"]),
        # A gate that is audited holds no rate of take-overs.
        "take_over": take_over(verdicts, None if audited else gate.get("alpha"), promising(folder)),
        "audits": audited,
        "first_stage": first_stage(verdicts, gate.get("first")),
        "tokens": {
            **tokens(usage),
            "target_spared": spared(folder.events),
            "prompt": usage.prompt,
            "cached_share": usage.cached_share,
        },
        "perplexity": perplexity(folder.events),
        "flops": flops(usage, folder.run["environment"].get("parameters", {})),
        "energy_j": folder.run.get("energy_j"),
        "wall_s": (wall := folder.wall()),
        "question_s": latency(folder.finished, folder.run["sessions"]),
        "per_second": throughput(usage, len({chain.question for chain in folder.finished}), wall),
        "chain_s": {"median": statistics.median(seconds), "longest": max(seconds)} if seconds else None,
        "calls": call_times(calls_of(folder.events)),
        "chains_completed": len(folder.finished),
        "chains_ungraded": len(folder.ungraded()),
        "chains_stopped": sum(chain.ending == "stopped" for chain in folder.finished),
        "chains_lost": len(gone) if lost is None else lost,
        "not_compared": dict(Counter(chain.note for chain in folder.chains if chain.note)),
        "errors": dict(Counter(gone.values()) if errors is None else errors),
    }
