"""Spans for OpenTelemetry: one a chain, within it one a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from a1_sgl.types import (
    AnswerEvent,
    AuditEvent,
    CalibrationEvent,
    Call,
    ChainEvent,
    ChunkEvent,
    DropEvent,
    Event,
    LostEvent,
    PromptEvent,
    VerdictEvent,
    calls_of,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context

OPERATIONS = {"decode": "text_completion", "verify": "verify", "prefill": "prefill"}
"""``gen_ai.operation.name`` of each kind of request; the convention has no name for the last two."""
Name = tuple[str, int]
Attributes = dict[str, Any]


class Spans:
    """A listener that makes a span of every chain, and within it one of every request: ``draft``, ``verify``,
    ``take-over``, ``audit``, ``rating``, ``dropped``.

    Times are those of the events. A chain's spans are made when it is over, since only then is its begin told; prompts'
    and calibrations' are made at once, and what comes after a chain's end is within it still. What surrounds this
    object where it is made (a span of the user's own, say) is what chains are within.

    Attributes are the GenAI semantic conventions' (``gen_ai.*``) where these have a name, and ``a1.*``: question and
    chain, of a request turn, p-value, level, whether the chunk was taken over, and the runtime's own times in seconds.
    Of a chain that a sampler leaves out (``OTEL_TRACES_SAMPLER``) nothing is made.

    Args:
        provider: of tracers; None takes the process's own (`opentelemetry.trace.get_tracer_provider`).
        models: what each role's runtime serves, for ``gen_ai.request.model``.
    """

    def __init__(
        self, provider: trace.TracerProvider | None = None, *, models: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        self._tracer = trace.get_tracer("a1_sgl", tracer_provider=provider)
        self._models, self._around = dict(models or {}), context.get_current()
        self._open: dict[Name, list[Event]] = {}
        self._over: dict[Name, Context] = {}

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, PromptEvent | CalibrationEvent):
            self._requests(event, self._around)
        elif isinstance(event, AnswerEvent):  # nothing of the question comes after it
            for name in [name for name in self._over if name[0] == event.question]:
                del self._over[name]
        elif isinstance(event, ChainEvent | LostEvent):
            name = (event.question, event.sample)
            self._chain(name, self._open.pop(name, []), event)
        elif (within := self._over.get((event.question, event.sample))) is not None:
            self._requests(event, within)
        else:
            self._open.setdefault((event.question, event.sample), []).append(event)

    def _chain(self, name: Name, events: list[Event], end: ChainEvent | LostEvent) -> None:
        about: Attributes = {"a1.question": name[0], "a1.chain": name[1]}
        if isinstance(end, ChainEvent):
            started, ended = end.started, end.ended
            about |= {"a1.ending": end.ending, "a1.turns": end.turns, "a1.take_overs": end.take_overs}
            if end.rating is not None:
                about["a1.rating"] = end.rating
        else:
            calls = calls_of([*events, end])
            if not calls:
                return  # it never began
            started, ended = min(call.started for call in calls), max(call.ended for call in calls)
        span = self._tracer.start_span("chain", self._around, attributes=about, start_time=_ns(started))
        within = trace.set_span_in_context(span, self._around)
        self._over[name] = within
        if not span.is_recording():
            return
        for event in (*events, end):
            self._requests(event, within)
        if isinstance(end, LostEvent):
            span.set_status(Status(StatusCode.ERROR, end.error))
        span.end(_ns(ended))

    def _requests(self, event: Event, within: Context) -> None:
        calls = calls_of([event])
        if not calls:
            return
        about = _about(event)
        if within is self._around:
            about["a1.question"] = event.question
        for call in calls:
            name = _name(event, call)
            span = self._tracer.start_span(
                name, within, SpanKind.CLIENT, {**about, **self._told(call)}, start_time=_ns(call.started)
            )
            span.end(_ns(call.ended))

    def _told(self, call: Call) -> Attributes:
        told: Attributes = {
            "gen_ai.operation.name": OPERATIONS[call.kind], "gen_ai.provider.name": "sglang",
            "gen_ai.usage.input_tokens": call.prompt_tokens, "gen_ai.usage.output_tokens": call.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": call.cached_tokens, "a1.runtime": call.runtime,
        }  # fmt: skip
        if (model := self._models.get(call.role)) is not None:
            told["gen_ai.request.model"] = model
        if call.served_s is not None:
            told["a1.served_s"] = call.served_s
        if call.queue_s is not None:
            told["a1.queue_s"] = call.queue_s
        if call.prefill_s is not None:
            told["a1.prefill_s"] = call.prefill_s
        return told


def _name(event: Event, call: Call) -> str:
    if isinstance(event, ChunkEvent):
        return "take-over" if event.author == "target" else "draft"
    if isinstance(event, VerdictEvent):
        return "verify"
    if isinstance(event, DropEvent | LostEvent):
        return "dropped"
    return event.event


def _about(event: Event) -> Attributes:
    about: Attributes = {}
    if isinstance(event, ChunkEvent | VerdictEvent | DropEvent | AuditEvent):
        about["a1.turn"] = event.turn
    if isinstance(event, DropEvent):
        about["a1.dropped"] = event.reason
    elif isinstance(event, VerdictEvent):
        about |= {"a1.score": event.score, "a1.taken_over": event.take_over}
        if event.p_value is not None and event.alpha is not None:
            about |= {"a1.p_value": event.p_value, "a1.alpha": event.alpha}
    return about


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
