"""What a run cost: tokens, FLOPs, time and energy."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from a1_sgl.records import Finished
from a1_sgl.types import Call, ChainEvent, ChunkEvent, Event, RatingEvent, Usage, VerdictEvent


def flops(usage: Usage, parameters: Mapping[str, int | None]) -> dict[str, float | None]:
    """Floating-point operations by role, and in all: two for each parameter and each token computed.

    An estimate for dense models: attention over the context is left out, and of a mixture of experts every expert is
    counted. None where a model's size is not known.
    """
    found: dict[str, float | None] = {}
    for name in sorted(usage.decode.keys() | usage.prefill.keys()):
        size = parameters.get(name)
        tokens = usage.decode.get(name, 0) + usage.prefill.get(name, 0)
        found[name] = 2.0 * size * tokens if size else None
    known = [value for value in found.values() if value is not None]
    return {**found, "all": sum(known) if len(known) == len(found) else None}


def question_seconds(chains: Sequence[Finished], sessions: Sequence[float] = ()) -> list[float]:
    """Seconds that each question took, from its first chain's begin to its last one's end, in order of questions.

    Args:
        sessions: when the run's sessions began; of a question that had chains in several, each one's span is counted,
            and the time between them is not.
    """
    spans: defaultdict[str, defaultdict[int, list[Finished]]] = defaultdict(lambda: defaultdict(list))
    for chain in chains:
        spans[chain.question][bisect_right(sessions, chain.started)].append(chain)
    return [
        sum(max(c.ended for c in group) - min(c.started for c in group) for group in of_question.values())
        for of_question in spans.values()
    ]


def latency(chains: Sequence[Finished], sessions: Sequence[float] = ()) -> dict[str, float] | None:
    """Median and 95th percentile of `question_seconds`."""
    took = sorted(question_seconds(chains, sessions))
    if not took:
        return None
    if len(took) == 1:
        return {"median": took[0], "p95": took[0]}
    return {"median": statistics.median(took), "p95": statistics.quantiles(took, n=20, method="inclusive")[-1]}


def tokens(usage: Usage) -> dict[str, Any]:
    """Tokens by role and kind: draft's and target's, whether they occur or not, and any other's that occurs."""
    kinds = {"decode": usage.decode, "dropped": usage.dropped, "prefill": usage.prefill}
    roles = {"draft": None, "target": None} | dict.fromkeys(sorted({role for of in kinds.values() for role in of}))
    return {f"{role}_{kind}": of.get(role, 0) for kind, of in kinds.items() for role in roles}


def spared(events: Sequence[Event]) -> int:
    """Tokens of chunks that were accepted unseen and that the target never computed afterwards either.

    Whatever the target reads or writes next in a chain, it computes all that it has not seen of it first. So what it is
    spared is what stands after its last call; of the rest it is spared the calls and not the tokens.
    """
    unread: defaultdict[tuple[str, int], int] = defaultdict(int)
    for event in events:
        if isinstance(event, VerdictEvent) and event.unseen:
            unread[event.question, event.sample] += event.tokens
        elif (
            isinstance(event, VerdictEvent | RatingEvent) and event.call is not None and event.call.role != "draft"
        ) or (isinstance(event, ChunkEvent) and event.author == "target"):
            unread[event.question, event.sample] = 0
    return sum(unread.values())


def throughput(usage: Usage, questions: int, wall: float) -> dict[str, float] | None:
    """Questions, and tokens decoded by each role, a second of wall-clock."""
    if wall <= 0:
        return None
    rates = {f"{name}_decode": count / wall for name, count in usage.decode.items()}
    return {"questions": questions / wall, **rates}


def perplexity(events: Sequence[Event]) -> dict[str, Any] | None:
    """Finished chains' perplexity under the target, where the run rated them by it: median, quartiles and how many.

    A search over steps rates each step; a chain has its last rating, and where it became a copy of another one, that
    one's. Where the draft is alone it rates itself, whoever was asked for, and that does not count.
    """
    last: dict[tuple[str, int], float] = {}
    ratings: defaultdict[str, set[float]] = defaultdict(set)
    chains: list[ChainEvent] = []
    for event in events:
        if isinstance(event, RatingEvent) and event.by == "target" and event.call.role != "draft":
            last[event.question, event.sample] = event.rating
            ratings[event.question].add(event.rating)
        elif isinstance(event, ChainEvent):
            chains.append(event)
    found = [
        chain.rating if chain.rating in ratings[chain.question] else last.get((chain.question, chain.sample))
        for chain in chains
    ]
    values = sorted(1 / rating for rating in found if rating is not None and rating > 0)
    if len(values) < 2:
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high], "chains": len(values)}


def call_times(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Where the time went: requests by role and kind, with the seconds a chain waited for one on average."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        groups[call.role, call.kind].append(call.ended - call.started)
    return [
        {"role": role, "kind": kind, "count": len(waits), "mean_s": statistics.fmean(waits)}
        for (role, kind), waits in sorted(groups.items())
    ]


def joules() -> float | None:
    """Energy that this machine's NVIDIA devices have used since their driver was loaded; None where none says."""
    with suppress(Exception):  # no library, no device, or one too old to count
        import pynvml

        pynvml.nvmlInit()
        try:
            devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            used: float = sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in devices) / 1000
            return used
        finally:
            pynvml.nvmlShutdown()
    return None
