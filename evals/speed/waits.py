"""Where a run's time went: what its chains waited for, and how busy its runtimes were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from a1_sgl.types import Call, ChainEvent, Event, PromptEvent, calls_of

CAUSES = ("queue", "prefill", "decode", "network", "gate", "client", "barrier")
"""In a runtime's queue; its prompt being computed, which is what a verification is; its tokens being decoded; between
client and runtime; in the gate; in the client otherwise; and for other chains, where a program makes them wait."""


def waits(events: Sequence[Event], *, gate_s: float = 0.0, together: bool = False) -> dict[str, float]:
    """Seconds that chains spent on each of `CAUSES`, over all chains.

    Where a runtime does not say how long a request lay in its queue, that time counts as prefill or decode. Of requests
    that a chain had under way at once each has its part of the time.

    Args:
        gate_s: what the gate took, over all decisions.
        together: whether chains wait for each other. Then what is between their requests is the barrier, and so is the
            time from a chain's end to that of its question's last.
    """
    found = dict.fromkeys(CAUSES, 0.0)
    calls: defaultdict[tuple[str, int], list[Call]] = defaultdict(list)
    ends: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if isinstance(event, ChainEvent):
            ends[event.question] = max(ends[event.question], event.ended)
        elif not isinstance(event, PromptEvent) and hasattr(event, "sample"):
            calls[event.question, event.sample].extend(calls_of([event]))
    between = 0.0
    for event in events:
        if not isinstance(event, ChainEvent):
            continue
        own = calls[event.question, event.sample]
        busy = 0.0
        for call, seconds in zip(own, _parts(own), strict=True):
            busy += seconds
            for cause, share in shares(call).items():
                found[cause] += share * seconds
        between += max(0.0, event.ended - event.started - busy)
        if together:
            found["barrier"] += ends[event.question] - event.ended
    found["gate"] = min(gate_s, between)
    found["barrier" if together else "client"] += between - found["gate"]
    return found


def gamma(waits: dict[str, float]) -> float | None:
    """Arithmetic intensity with synchronisation: ``T_c / (T_m + T_s)`` (arXiv 2509.15148).

    `T_c` is time in prefill, which computing bounds, `T_m` in decode, which memory bounds, and `T_s` that in which a
    chain is ready and waits: in a queue or for others.
    """
    slow = waits["decode"] + waits["queue"] + waits["barrier"]
    return waits["prefill"] / slow if slow > 0 else None


def busy(calls: Iterable[Call], wall: float) -> dict[str, Any]:
    """Share of `wall` in which at least one of `calls` was under way, and how many there were then on average."""
    edges = sorted([(call.started, 1) for call in calls] + [(call.ended, -1) for call in calls])
    open_, seconds, area, last = 0, 0.0, 0.0, 0.0
    for at, step in edges:
        if open_:
            seconds += at - last
            area += open_ * (at - last)
        open_, last = open_ + step, at
    return {"share": seconds / wall if wall > 0 else None, "calls": area / seconds if seconds else 0.0}


def shares(call: Call) -> dict[str, float]:
    """What a request's time went to; shares that add up to one."""
    whole = call.ended - call.started
    if whole <= 0:
        return {"network": 1.0}
    served = min(whole if call.served_s is None else call.served_s, whole)
    queue = min(call.queue_s or 0.0, served)
    prefill = min(call.prefill_s or 0.0, served - queue) if call.kind == "decode" else served - queue
    seconds = {"queue": queue, "prefill": prefill, "decode": served - queue - prefill, "network": whole - served}
    return {cause: one / whole for cause, one in seconds.items()}


def _parts(calls: Sequence[Call]) -> list[float]:
    """Seconds of each call, where those that overlap share the time."""
    timed = [(i, one) for i, one in enumerate(calls) if one.ended > one.started]
    edges = sorted([(one.started, 1, i) for i, one in timed] + [(one.ended, 0, i) for i, one in timed])
    found, open_, last = [0.0] * len(calls), set[int](), 0.0  # a clock that was set back makes no time
    for at, begins, i in edges:
        for one in open_:
            found[one] += (at - last) / len(open_)
        (open_.add if begins else open_.discard)(i)
        last = at
    return found
