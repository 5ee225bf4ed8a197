"""What a run cost: tokens, FLOPs, time and energy."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from a1_sgl.records import ChainRecord
from a1_sgl.types import Call, Event, RatingEvent, Usage


def flops(usage: Usage, parameters: Mapping[str, int | None]) -> dict[str, float | None]:
    """Floating-point operations by runtime, and in all: two for each parameter and each token computed.

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


def latency(chains: Sequence[ChainRecord]) -> dict[str, float] | None:
    """Seconds that a question took, from its first chain's begin to its last one's end: median and 95th percentile."""
    spans: defaultdict[str, list[ChainRecord]] = defaultdict(list)
    for chain in chains:
        spans[chain.question].append(chain)
    if not spans:
        return None
    took = sorted(max(c.ended for c in group) - min(c.started for c in group) for group in spans.values())
    if len(took) == 1:
        return {"median": took[0], "p95": took[0]}
    return {"median": statistics.median(took), "p95": statistics.quantiles(took, n=20, method="inclusive")[-1]}


def throughput(usage: Usage, questions: int, wall: float) -> dict[str, float] | None:
    """Questions, and tokens decoded by each runtime, a second of wall-clock."""
    if wall <= 0:
        return None
    rates = {f"{name}_decode": count / wall for name, count in usage.decode.items()}
    return {"questions": questions / wall, **rates}


def perplexity(events: Sequence[Event]) -> dict[str, Any] | None:
    """Chains' perplexity under the target, where the run rated them by it: median, quartiles and how many."""
    values = sorted(1 / e.rating for e in events if isinstance(e, RatingEvent) and e.by == "target" and e.rating > 0)
    if len(values) < 2:
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high], "chains": len(values)}


def call_times(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Where the time went: requests by runtime and kind, with the seconds a chain waited for one on average."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        groups[call.runtime, call.kind].append(call.ended - call.started)
    return [
        {"runtime": runtime, "kind": kind, "count": len(waits), "mean_s": statistics.fmean(waits)}
        for (runtime, kind), waits in sorted(groups.items())
    ]


def joules() -> float | None:
    """Energy that this machine's NVIDIA devices have used since their driver was loaded; None where none says."""
    with suppress(Exception):  # no library, no device, or one too old to count
        import pynvml

        pynvml.nvmlInit()
        try:
            devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in devices) / 1000
        finally:
            pynvml.nvmlShutdown()
    return None
