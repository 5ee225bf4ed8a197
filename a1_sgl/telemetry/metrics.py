"""Metrics for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from a1_sgl.types import (
    PROGRAM,
    AnswerEvent,
    AuditEvent,
    CalibrationEvent,
    Call,
    ChainEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    VerdictEvent,
    calls_of,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""Upper ends of the histograms' buckets: from a short prefill to a long generation."""


@dataclass
class _Times:
    """A histogram: how many there were up to the end of each bucket and no shorter one, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


@dataclass
class _Requests:
    """Of one runtime, role and kind."""

    calls: int = 0
    prompt: int = 0
    cached: int = 0
    decoded: int = 0
    queue: _Times = field(default_factory=_Times)
    prefill: _Times = field(default_factory=_Times)
    decode: _Times = field(default_factory=_Times)

    def add(self, call: Call) -> None:
        self.calls += 1
        self.prompt += call.prompt_tokens
        self.cached += call.cached_tokens
        self.decoded += call.completion_tokens
        if call.queue_s is not None:
            self.queue.add(call.queue_s)
        if call.prefill_s is not None:
            self.prefill.add(call.prefill_s)
        if call.kind == "decode" and call.served_s is not None:
            self.decode.add(max(0.0, call.served_s - (call.queue_s or 0.0) - (call.prefill_s or 0.0)))


class Metrics(Collector):
    """A listener that counts what happens, for a Prometheus server to ask for.

    docs/telemetry.md has the names. ``a1_*_total`` count: chains by how they ended, questions, requests and their
    tokens by runtime, role and kind, decisions and take-overs by gate. Histograms ``a1_*_seconds`` are of what the
    runtimes tell of their queue, prefill and decode. Two gauges are chains in flight and drift alarms.

    The take-over rate is the quotient of two counters, over whatever time is asked about. An event costs a few
    additions here; the metrics are made of them when they are asked for, on whatever thread that is.

    Attributes:
        registry: where they are; `prometheus_client.start_http_server` takes it.
    """

    def __init__(
        self, gate: str = "none", *, alarms: Callable[[], int] | None = None, registry: CollectorRegistry | None = None
    ) -> None:  # fmt: skip
        """
        Args:
            gate: name of the gate that decides.
            alarms: how many drift alarms there were, where somebody watches for them.
            registry: None makes one of its own, in which there is nothing else.
        """
        self._gate, self._alarms = gate, alarms
        self._requests: defaultdict[tuple[str, str, str], _Requests] = defaultdict(_Requests)
        self._chains: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._questions = self._decisions = self._take_overs = 0
        self._open: set[tuple[str, int]] = set()
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        vain = isinstance(event, AuditEvent | LostEvent)
        for call in calls_of([event]):
            self._requests[call.runtime, call.role, call.kind].add(call)
            if vain:
                self._dropped[call.role] += call.completion_tokens
        if isinstance(event, VerdictEvent):
            self._decisions += 1
            self._take_overs += event.take_over
        elif isinstance(event, DropEvent) and event.author != PROGRAM:
            self._dropped[event.author] += event.tokens
        if isinstance(event, AnswerEvent):
            self._questions += 1
        elif isinstance(event, ChainEvent | LostEvent):
            self._open.discard((event.question, event.sample))
            self._chains[event.ending if isinstance(event, ChainEvent) else "lost"] += 1
        elif not isinstance(event, PromptEvent | CalibrationEvent | DropEvent | AuditEvent):  # may come after the end
            self._open.add((event.question, event.sample))

    def over(self, question: str) -> None:
        """Nothing more is heard of a question: chains of it that did not end were stopped from outside."""
        self._open -= {name for name in self._open if name[0] == question}

    @property
    def chains_in_flight(self) -> int:
        """Chains that were heard of and are not over."""
        return len(self._open)

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for them."""
        requests = list(self._requests.items())  # another thread may add to them meanwhile
        yield _counter("a1_chains", "Chains that are over", ["ending"], _keyed(self._chains))
        yield GaugeMetricFamily("a1_chains_in_flight", "Chains that are not over", len(self._open))
        yield CounterMetricFamily("a1_questions", "Questions with a vote", self._questions)
        labels = ["runtime", "role", "kind"]
        yield _counter("a1_calls", "Requests", labels, {key: one.calls for key, one in requests})
        yield _counter("a1_prompt_tokens", "Tokens sent", labels, {key: one.prompt for key, one in requests})
        yield _counter(
            "a1_cached_tokens", "Tokens found in the prefix cache", labels, {key: one.cached for key, one in requests}
        )
        yield _counter("a1_decoded_tokens", "Tokens generated", labels, {key: one.decoded for key, one in requests})
        yield _counter("a1_dropped_tokens", "Tokens generated, in no chain", ["role"], _keyed(self._dropped))
        yield _counter("a1_decisions", "Chunks that were judged", ["gate"], {(self._gate,): self._decisions})
        yield _counter("a1_take_overs", "Chunks that were handed over", ["gate"], {(self._gate,): self._take_overs})
        for name, about in (
            ("queue", "Time in the runtime's queue"),
            ("prefill", "Time until the prompt was computed, after the queue"),
            ("decode", "Time in the runtime after queue and prefill"),
        ):
            yield _histogram(f"a1_{name}_seconds", about, {key: getattr(one, name) for key, one in requests})
        if self._alarms is not None:
            sounded = GaugeMetricFamily("a1_alarms", "Drift alarms so far", labels=["gate"])
            sounded.add_metric([self._gate], self._alarms())
            yield sounded


def _keyed(counts: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(key,): count for key, count in list(counts.items())}


def _counter(name: str, about: str, labels: list[str], values: Mapping[tuple[str, ...], int]) -> Metric:
    found = CounterMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        found.add_metric(key, value)
    return found


def _histogram(name: str, about: str, values: Mapping[tuple[str, ...], _Times]) -> Metric:
    found = HistogramMetricFamily(name, about, labels=["runtime", "role", "kind"])
    for key, times in values.items():
        counts, total = list(times.counts), 0
        if not any(counts):
            continue
        buckets = []
        for end, count in zip((*map(str, map(float, SECONDS)), "+Inf"), counts, strict=True):
            total += count
            buckets.append((end, total))
        found.add_metric(key, buckets, times.total)
    return found
