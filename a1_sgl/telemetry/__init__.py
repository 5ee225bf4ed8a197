"""Listeners that tell others of a run while it goes on: OpenTelemetry of spans, Prometheus of metrics.

Both take every event of a program, as its `listener`, or among several by `each`. Neither is imported before it is
asked for, and neither changes anything of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from a1_sgl.lazy import lazy
from a1_sgl.types import Event, Listener

if TYPE_CHECKING:
    from a1_sgl.telemetry.metrics import Metrics
    from a1_sgl.telemetry.spans import Spans

lazy(__name__, {"Metrics": "metrics", "Spans": "spans"})  # they need prometheus_client and opentelemetry

__all__ = ["Metrics", "Spans", "each"]


def each(*listeners: Listener) -> Listener:
    """One listener that tells all of `listeners`, in their order."""
    if len(listeners) == 1:
        return listeners[0]

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
