"""What listeners tell of a run is what the run's record says."""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from a1_sgl.cli import telemetry
from a1_sgl.conformal import make
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.runner import Eval, evaluate
from a1_sgl.evals.tasks import find_task
from a1_sgl.programs import find_program
from a1_sgl.session import Backend, Roles
from a1_sgl.telemetry import Metrics, Spans, each
from a1_sgl.testing import FakeEngine
from a1_sgl.types import (
    Call,
    ChainEvent,
    ChunkEvent,
    DropEvent,
    LostEvent,
    PromptEvent,
    Usage,
    VerdictEvent,
    calls_of,
)

PAGE = Path(__file__).parents[2] / "docs/telemetry.md"


def plan(**changes):
    settings = {
        "task": find_task("chain"), "split": "test", "program": "a1", "runtime": None, "questions": 8, "chains": 3,
        "seed": 5, "sampling": {"temperature": 0.6}, "alpha": 0.3,
    }  # fmt: skip
    return Eval(**settings | changes)


def at_random(call):
    """Every ninth request fails."""
    return RuntimeFault("it broke") if call.number % 9 == 8 and call.kind != "prefill" else None


@pytest.fixture
def exported():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def ns(seconds):
    return int(seconds * 1e9)


# --- spans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [None, at_random])
def test_spans_are_the_events(scripted, exported, tmp_path, faults):
    provider, exporter = exported
    events = []
    spans = Spans(provider, models={"draft": "d"})
    evaluate(plan(), scripted(faults=faults), tmp_path / "run", listen=lambda gate: each(events.append, spans))
    found = exporter.get_finished_spans()
    chains = {(s.attributes["a1.question"], s.attributes["a1.chain"]): s for s in found if s.name == "chain"}
    ends = {(e.question, e.sample): e for e in events if isinstance(e, ChainEvent)}
    lost = {(e.question, e.sample): e for e in events if isinstance(e, LostEvent)}
    assert bool(lost) == (faults is not None)
    assert ends.keys() <= chains.keys() <= ends.keys() | lost.keys()
    for name, end in ends.items():
        span = chains[name]
        assert (span.start_time, span.end_time) == (ns(end.started), ns(end.ended))
        assert span.parent is None
        assert span.attributes["a1.take_overs"] == end.take_overs
    assert all(chains[name].status.status_code is StatusCode.ERROR for name in lost.keys() & chains.keys())
    requests = [span for span in found if span.name != "chain"]
    told = [(call.runtime, ns(call.started), ns(call.ended), call.prompt_tokens) for call in calls_of(events)]
    said = [(s.attributes["a1.runtime"], s.start_time, s.end_time, s.attributes["gen_ai.usage.input_tokens"])
            for s in requests]  # fmt: skip
    assert sorted(said) == sorted(told)
    for span in requests:
        assert span.kind is SpanKind.CLIENT
        assert (span.attributes.get("gen_ai.request.model") == "d") == (span.attributes["a1.runtime"] == "draft")
        assert (span.parent is None) == (span.name == "prompt") == ("a1.question" in span.attributes)
    parents = {span.context.span_id: name for name, span in chains.items()}
    within = Counter(parents[span.parent.span_id] for span in requests if span.parent is not None)
    made = Counter((e.question, e.sample) for e in events if hasattr(e, "sample") for _ in calls_of([e]))
    assert within == made
    names = Counter(span.name for span in requests)
    assert names["take-over"] == sum(isinstance(e, ChunkEvent) and e.author == "target" for e in events)
    assert names["draft"] == sum(isinstance(e, ChunkEvent) and e.author == "draft" for e in events)
    verdicts = {(e.question, e.sample, e.turn): e for e in events if isinstance(e, VerdictEvent)}
    for span in (span for span in requests if span.name == "verify"):
        verdict = verdicts[*parents[span.parent.span_id], span.attributes["a1.turn"]]
        assert span.attributes["a1.p_value"] == verdict.p_value
        assert span.attributes["a1.taken_over"] == verdict.take_over
    assert spans._open == {}


def test_a_users_own_span_is_around_the_chains(exported):
    provider, exporter = exported
    backend = Backend(Roles.pair(FakeEngine("one.\ntwo.\n", name="draft"), FakeEngine(name="target")))
    with trace.get_tracer("mine", tracer_provider=provider).start_as_current_span("request"):
        listener = Spans(provider)
        find_program("a1").run(
            question="Which?", gate=make("marginal", 0.5), samples=2, backend=backend, listener=listener
        )
    *inner, own = exporter.get_finished_spans()
    assert own.name == "request"
    assert {span.parent.span_id for span in inner if span.name in ("chain", "prompt")} == {own.context.span_id}
    assert {span.context.trace_id for span in inner} == {own.context.trace_id}
    assert (listener._open, listener._over) == ({}, {})


def test_what_comes_after_a_chains_end_is_within_it(exported):
    provider, exporter = exported
    name = {"question": "q", "sample": 0}
    call = Call(
        runtime="draft", role="draft", kind="decode", prompt_tokens=1, cached_tokens=0, completion_tokens=1,
        started=5.0, ended=6.0, queue_s=0.25,
    )  # fmt: skip
    spans = Spans(provider)
    spans(ChainEvent(
        **name, text="x", answer=None, ending="turns", turns=1, take_overs=0, started=1.0, ended=5.0
    ))  # fmt: skip
    spans(DropEvent(**name, turn=1, author="draft", tokens=1, reason="rolled back", calls=(call,)))
    chain, dropped = exporter.get_finished_spans()
    assert dropped.parent.span_id == chain.context.span_id
    assert (dropped.name, dropped.attributes["a1.dropped"]) == ("dropped", "rolled back")
    assert dropped.attributes["a1.queue_s"] == 0.25


def test_a_chain_that_is_not_sampled_makes_nothing(scripted, tmp_path):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    evaluate(plan(questions=2), scripted(), tmp_path / "run", listen=lambda gate: Spans(provider))
    assert exporter.get_finished_spans() == ()


# --- metrics ------------------------------------------------------------------------------------------------------


def samples(registry):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def total(registry, name, **labels):
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize("faults", [None, at_random])
def test_the_counters_are_the_summary(scripted, tmp_path, faults):
    made = []

    def listen(gate):
        made.append(Metrics("balanced"))
        return made[0]

    folder, summary = evaluate(plan(), scripted(faults=faults), tmp_path / "run", listen=listen)
    registry, usage = made[0].registry, Usage.of(folder.events)
    lost = total(registry, "a1_chains_total", ending="lost")
    assert lost == summary["chains_lost"]
    assert bool(lost) == (faults is not None)
    assert total(registry, "a1_chains_total") - lost == summary["chains_completed"]
    assert total(registry, "a1_chains_in_flight") == 0
    for role in ("draft", "target"):
        of = {kind: total(registry, f"a1_{kind}_tokens_total", role=role) for kind in ("prompt", "cached", "decoded")}
        assert of["decoded"] == summary["tokens"][f"{role}_decode"] == usage.decode[role]
        assert of["prompt"] - of["cached"] == summary["tokens"][f"{role}_prefill"]
        for kind in ("decode", "verify", "prefill"):
            calls = [call for call in calls_of(folder.events) if (call.role, call.kind) == (role, kind)]
            assert total(registry, "a1_calls_total", role=role, kind=kind) == len(calls)
    if faults is None:  # decisions of lost chains are no part of the record
        over = summary["take_over"]
        assert total(registry, "a1_decisions_total", gate="balanced") == over["decisions"]
        taken = total(registry, "a1_take_overs_total", gate="balanced")
        assert taken / over["decisions"] == pytest.approx(over["realised"])
        assert total(registry, "a1_questions_total") == summary["questions"]
        assert total(registry, "a1_dropped_tokens_total") == sum(usage.dropped.values())


def test_histograms_are_of_what_the_runtimes_tell():
    metrics = Metrics()
    call = Call(
        runtime="t", role="target", kind="decode", prompt_tokens=9, cached_tokens=5, completion_tokens=3, started=0.0,
        ended=9.0, served_s=8.0, queue_s=1.0, prefill_s=2.0,
    )  # fmt: skip
    silent = call.model_copy(update={"served_s": None, "queue_s": None, "prefill_s": None})
    verified = call.model_copy(update={"kind": "verify"})
    for one in (call, silent, verified):
        metrics(PromptEvent(question="q", call=one))
    for name, seconds, count in (("queue", 2.0, 2), ("prefill", 4.0, 2), ("decode", 5.0, 1)):
        assert total(metrics.registry, f"a1_{name}_seconds_sum") == seconds
        assert total(metrics.registry, f"a1_{name}_seconds_count") == count


def test_chains_in_flight_and_alarms():
    sounded = []
    metrics = Metrics("balanced", alarms=lambda: len(sounded))
    name = {"question": "q", "sample": 0}
    metrics(ChunkEvent(**name, turn=0, author="draft", text="x", tokens=1, ended=False, calls=()))
    assert total(metrics.registry, "a1_chains_in_flight") == 1
    metrics(LostEvent(**name, error="broke"))
    metrics(DropEvent(**name, turn=0, author="draft", tokens=1, reason="lost"))
    assert total(metrics.registry, "a1_chains_in_flight") == 0
    sounded.append("drift")
    assert samples(metrics.registry)["a1_alarms", "balanced"] == 1


def test_the_page_has_every_name():
    page = PAGE.read_text()
    names = {metric.name for metric in Metrics(alarms=lambda: 0).registry.collect()}
    said = {name.removesuffix("_total") for name in re.findall(r"^\| `(a1_\w+)` \|", page, re.MULTILINE)}
    assert said == names


# --- the command line ---------------------------------------------------------------------------------------------


def test_metrics_are_served_while_a_run_goes_on(scripted, tmp_path, capsys):
    read = []
    backend = scripted()
    with telemetry.listening(plan(alarm="warn"), backend, "0") as listen:
        url = capsys.readouterr().err.removeprefix("metrics: ").strip()

        def progress(recorder, planned):
            with urllib.request.urlopen(url) as answer:
                read.append(answer.read().decode())

        evaluate(plan(alarm="warn"), backend, tmp_path / "run", progress, listen=listen)
        progress(None, None)
    assert re.search(rf'a1_decisions_total\{{gate="{plan().gate_kind}"\}} (\d+)', read[-1])[1] != "0"
    assert f'a1_alarms{{gate="{plan().gate_kind}"}} 0.0' in read[-1]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


@pytest.mark.parametrize("at", ["many", "1:2:x", "70000", ""])
def test_where_nothing_can_be_served(scripted, at):
    with pytest.raises(ConfigError, match="--metrics"), telemetry.listening(plan(), scripted(), at):
        pass


def test_a_port_that_is_taken(scripted):
    backend = scripted()
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        port = str(other.server_port)
        with pytest.raises(ConfigError, match=f"--metrics {port}.*another port"), telemetry.listening(
            plan(), backend, port
        ):  # fmt: skip
            pass


@pytest.fixture
def collector():
    """Takes what is sent as OTLP over HTTP, and keeps it."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    taken = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()


def test_spans_are_sent_where_the_environment_says(scripted, tmp_path, collector, monkeypatch):
    url, taken = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    backend = scripted()
    with telemetry.listening(plan(), backend, None) as listen:
        folder, _ = evaluate(plan(), backend, tmp_path / "run", listen=listen)
    sent = [(resource, span) for request in taken for resource in request.resource_spans
            for scope in resource.scope_spans for span in scope.spans]  # fmt: skip
    assert Counter(span.name == "chain" for _, span in sent) == {
        True: len(folder.finished), False: len(calls_of(folder.events)),
    }  # fmt: skip
    about = {one.key: one.value.string_value for one in sent[0][0].resource.attributes}
    assert about["service.name"] == "a1-sgl"
    models = {
        one.value.string_value for _, span in sent for one in span.attributes if one.key == "gen_ai.request.model"
    }
    assert models == {"d", "t"}


@pytest.mark.parametrize("environment", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_nobody_listens_unless_asked(scripted, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with telemetry.listening(plan(), scripted(), None) as listen:
        assert listen is None


def test_what_is_not_asked_for_is_not_imported():
    code = (
        "import json, sys\n"
        "import a1_sgl.telemetry, a1_sgl.cli.telemetry, a1_sgl.cli.eval\n"
        "with a1_sgl.cli.telemetry.listening(None, None, None) as listen: assert listen is None\n"
        "print(json.dumps([one for one in sys.modules if one.split('.')[0] in ('opentelemetry', 'prometheus_client')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout) == [], done.stderr


def test_a_registry_of_ones_own():
    registry = CollectorRegistry()
    assert Metrics(registry=registry).registry is registry
