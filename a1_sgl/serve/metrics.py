"""What the server tells Prometheus beside the runs' own metrics: requests, first tokens, and the gate."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from a1_sgl.serve.gate import TURNS, Gates
from a1_sgl.telemetry import Metrics
from a1_sgl.telemetry.metrics import SECONDS

FIRST = 1000
"""Streams whose time to the first token is kept as it was, beside the histogram: the last ones."""


class ServerMetrics(Collector):
    """Counts what the server does. docs/serve.md has the names."""

    def __init__(self, gates: Gates, running: Callable[[], int], certified: bool | None) -> None:
        """
        Args:
            running: how many requests are under way.
            certified: whether the card's certificate speaks of requests that say nothing of their own; None where it
                has none.
        """
        self._gates, self._running, self._certified = gates, running, certified
        self._requests: Counter[tuple[str, str]] = Counter()
        self._first = [0] * (len(SECONDS) + 1)
        self._first_sum = 0.0
        self.first_tokens: deque[float] = deque(maxlen=FIRST)
        self.registry = CollectorRegistry()
        self.runs = Metrics(
            gates.kind.name, alarms=lambda: sum(one.alarms for one in gates.levels), registry=self.registry
        )
        self.registry.register(self)

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests[route, str(status)] += 1

    @property
    def requests(self) -> dict[tuple[str, str], int]:
        """How many were answered, by route and status."""
        return dict(self._requests)

    def first(self, seconds: float) -> None:
        """A stream's first token was shown so long after its request came."""
        self._first[bisect_left(SECONDS, seconds)] += 1
        self._first_sum += seconds
        self.first_tokens.append(seconds)

    def text(self) -> bytes:
        """As Prometheus asks for it."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for them."""
        requests = CounterMetricFamily("a1_requests", "Requests answered", labels=["route", "status"])
        for key, count in list(self._requests.items()):
            requests.add_metric(key, count)
        yield requests
        yield GaugeMetricFamily("a1_requests_running", "Completions under way", self._running())
        with suppress(RuntimeError):  # asked for on the loop, as the route does
            yield GaugeMetricFamily("a1_tasks", "asyncio tasks of the server's process", len(asyncio.all_tasks()))
        buckets, total = [], 0
        for end, count in zip((*map(str, map(float, SECONDS)), "+Inf"), self._first, strict=True):
            total += count
            buckets.append((end, total))
        first = HistogramMetricFamily("a1_first_token_seconds", "From a request to the first token shown")
        first.add_metric([], buckets, self._first_sum)
        yield first
        yield from self._gate()

    def _gate(self) -> Iterator[Metric]:
        labels = ["score", "alpha"]
        shown = {
            name: GaugeMetricFamily(f"a1_gate_{name}", about, labels=labels)
            for name, about in (
                ("rate", "Take-over rate of the last questions"),
                ("rate_low", "Lower end of its 95% interval, clustered by question"),
                ("rate_high", "Upper end of its 95% interval"),
                ("scores", "Scores in the bank"),
                ("alarms", "Drift alarms"),
            )
        }
        decisions = CounterMetricFamily("a1_gate_decisions", "Chunks decided since the state began", labels=labels)
        take_overs = CounterMetricFamily("a1_gate_take_overs", "Of these, handed over", labels=labels)
        turns = GaugeMetricFamily("a1_gate_turn_rate", "Take-over rate by turn", labels=[*labels, "turn"])
        for level in self._gates.levels:
            key = [level.score, str(level.alpha)]
            decisions.add_metric(key, level.counts.decisions)
            take_overs.add_metric(key, level.counts.take_overs)
            shown["scores"].add_metric(key, level.scores)
            shown["alarms"].add_metric(key, level.alarms)
            if (realised := (rate := level.counts.rate).realised) is not None:
                low, high = rate.interval()
                for name, value in (("rate", realised), ("rate_low", low), ("rate_high", high)):
                    shown[name].add_metric(key, value)
            for turn, (hits, n) in sorted(level.counts.turns.items()):
                turns.add_metric([*key, str(turn) if turn < TURNS else f"{TURNS}+"], hits / n)
        yield from (decisions, take_overs, *shown.values(), turns)
        if self._certified is not None:
            yield GaugeMetricFamily(
                "a1_gate_certified", "Whether the card's certificate speaks of the default policy", int(self._certified)
            )
