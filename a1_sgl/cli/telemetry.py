"""Who hears of a run while it goes on: a Prometheus server with ``--metrics``, an OpenTelemetry one by its environment.

Neither library is imported unless one of them is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from a1_sgl.cli import errors
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from a1_sgl.conformal import Decider
    from a1_sgl.evals.runner import Eval, Listen
    from a1_sgl.session import Backend
    from a1_sgl.types import Listener

MetricsAt = Annotated[
    str | None,
    typer.Option("--metrics", metavar="[HOST:]PORT", help="Serve Prometheus metrics of this session at /metrics."),
]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
QUEUE = 1 << 16
"""Spans that wait to be sent; those of a chain all come when it is over, and the usual 2,048 are few chains'."""


@contextmanager
def listening(plan: Eval, backend: Backend, metrics: str | None) -> Iterator[Listen | None]:
    """What `evaluate` is to make a listener by, for the length of a ``with`` block; None if nobody listens.

    Raises:
        ConfigError: nothing can be served at `metrics`.
    """
    with ExitStack() as stack:
        registry = None if metrics is None else stack.enter_context(_served(metrics))
        spans = _spans(stack, backend)
        if registry is None and spans is None:
            yield None
            return

        def listen(gate: Decider | None) -> Listener:
            from a1_sgl.telemetry import each

            heard = [] if spans is None else [spans]
            if registry is not None:
                heard.append(_metrics(plan, gate, registry))
            return each(*heard)

        yield listen


# --- Prometheus -----------------------------------------------------------------------------------------------------


@contextmanager
def _served(at: str) -> Iterator[CollectorRegistry]:
    host, _, port = at.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--metrics is a port, or a host and a port, such as 9100 or 0.0.0.0:9100, not {at!r}")
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except OSError as error:
        raise ConfigError(f"--metrics {at} cannot be served: {error.strerror or error}; name another port") from error
    errors.print(
        f"metrics: http://{host or '127.0.0.1'}:{server.server_port}/metrics", highlight=False, markup=False
    )  # fmt: skip
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _metrics(plan: Eval, gate: Decider | None, registry: CollectorRegistry) -> Listener:
    from a1_sgl.conformal import GuardedGate
    from a1_sgl.telemetry import Metrics

    alarms = (lambda: len(gate.alarms)) if isinstance(gate, GuardedGate) else None
    return Metrics("none" if gate is None else plan.gate_kind, alarms=alarms, registry=registry)


# --- OpenTelemetry --------------------------------------------------------------------------------------------------


def _spans(stack: ExitStack, backend: Backend) -> Listener | None:
    """Where the process has a tracer provider, or the environment says where one is to send to."""
    provider: TracerProvider | None = None
    if not _installed():
        if not any(map(os.environ.get, ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        if (provider := _provider()) is None:
            return None
        stack.callback(provider.shutdown)  # sends what is left
    from a1_sgl.telemetry import Spans

    return Spans(provider, models={role.name: Path(role.engine.identity.model).name for role in backend.roles.all})


def _installed() -> bool:
    """Whether somebody has set the process's tracer provider (``opentelemetry-instrument``, say)."""
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if sdk is None:
        return False
    from opentelemetry.trace import get_tracer_provider

    return isinstance(get_tracer_provider(), sdk.TracerProvider)


def _provider() -> TracerProvider | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        errors.print(
            "no spans are sent although the environment names an OTLP endpoint: pip install 'a1-sgl[telemetry]'",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        return None
    named: Mapping[str, Any] = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "a1-sgl"}
    provider = TracerProvider(resource=Resource.create(dict(named)), shutdown_on_exit=False)
    queue = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=queue))
    return provider
